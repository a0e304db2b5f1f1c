"""Frames of several cameras judged together: the same as alone, and what fails with one costs that one."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from semanom_ros.core.embedding.embedder import LARGEST_BATCH
from semanom_ros.core.frames import Frame
from semanom_ros.core.overlapping import Behind, ahead
from semanom_ros.core.pipeline import CameraState, Judge
from semanom_ros.core.results import FrameResult, Reason, Verdict
from semanom_ros.errors import EncoderError
from semanom_ros.evaluation.detectors import Detectors

CAMERAS = ('front', 'left', 'rear')
NOT_A_PICTURE = np.zeros((4, 4), np.uint8)


@pytest.fixture(scope='module')
def judge(tmp_path_factory: pytest.TempPathFactory, make_world: Any) -> Judge:
    return make_world(tmp_path_factory.mktemp('batches')).judge()


def shown(world: Any) -> list[Frame]:
    """A frame of each camera, of three sizes; the second holds a thing that no street has."""
    street = world.street(1)
    pictures = [street, world.with_thing(street, 96, 40), street.repeat(2, axis=0).repeat(3, axis=1)]
    return [Frame(image, 10**9, camera) for image, camera in zip(pictures, CAMERAS, strict=True)]


def states() -> list[CameraState]:
    return [CameraState() for _ in CAMERAS]


def said(results: list[FrameResult]) -> list[tuple[str, Verdict, Reason]]:
    return [(result.camera, result.verdict, result.reason) for result in results]


def counted(judge: Judge, monkeypatch: pytest.MonkeyPatch, most: int = 100) -> list[int]:
    """The sizes of the batches that the encoder is given; it has no memory for more than `most` at once.

    A stand-in for a GPU: the real exception of one, raised by the encoder of the test on the CPU.
    """
    sizes: list[int] = []
    real = judge.embedder.encoder.encode

    def encode(images: torch.Tensor) -> torch.Tensor:
        sizes.append(len(images))
        if len(images) > most:
            raise torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB.\nand more lines')
        return real(images)

    monkeypatch.setattr(judge.embedder.encoder, 'encode', encode)
    monkeypatch.setattr(judge.embedder, 'largest_batch', 8)
    return sizes


def test_frames_of_several_cameras_are_judged_in_one_pass_as_each_would_be_alone(
        judge: Judge, world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = shown(world)
    alone = [judge.process(frame, CameraState()) for frame in frames]
    sizes = counted(judge, monkeypatch)
    together = judge.process_batch(frames, states())
    assert sizes == [3]
    assert said(together) == said(alone)
    assert [result.verdict for result in together] == [Verdict.NOMINAL, Verdict.ANOMALOUS, Verdict.NOMINAL]
    for one, other in zip(together, alone, strict=True):
        assert (one.stamp_ns, one.image_size) == (other.stamp_ns, other.image_size)
        assert one.raw_score == pytest.approx(other.raw_score, abs=1e-5)
        assert one.score == pytest.approx(other.score, rel=1e-4)
        assert [anomaly.box for anomaly in one.anomalies] == [anomaly.box for anomaly in other.anomalies]
        assert one.timings_ms.keys() == other.timings_ms.keys()
    assert together[0].timings_ms['encode'] == together[2].timings_ms['encode']


def test_cameras_are_tracked_apart(judge: Judge, world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    counted(judge, monkeypatch)
    own = states()
    for number in range(3):
        frames = [Frame(one.image, one.stamp_ns + number * 10**8, one.camera) for one in shown(world)]
        results = judge.process_batch(frames, own)
    assert [len(result.anomalies) for result in results] == [0, 1, 0]
    assert results[1].anomalies[0].age_ns == 2 * 10**8


@pytest.mark.parametrize('fault', ['picture', 'not finite', 'encoder', 'segment', 'scores', 'filter'])
def test_what_fails_with_one_frame_costs_that_one_alone(
        judge: Judge, world: Any, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """The middle one; the step that fails is the real one for the others."""
    frames, own = shown(world), states()
    counted(judge, monkeypatch)
    expected = Reason.FAILED
    strange = judge.embedder.prepare(frames[1]).pixels

    def broken(real: Any, is_it: Any) -> Any:
        def work(*arguments: Any, **named: Any) -> Any:
            if is_it(*arguments):
                raise ZeroDivisionError('provoked')
            return real(*arguments, **named)
        return work

    embedder, encode = judge.embedder, judge.embedder.encoder.encode
    if fault == 'picture':
        frames[1], expected = Frame(NOT_A_PICTURE, 10**9, 'left'), Reason.INVALID_IMAGE
    elif fault == 'not finite':
        monkeypatch.setattr(embedder.encoder, 'encode', lambda images: encode(images) / (
            images != strange).flatten(1).any(dim=1)[:, None, None, None])
        expected = Reason.NOT_FINITE
    elif fault == 'encoder':
        monkeypatch.setattr(embedder.encoder, 'encode', broken(
            encode, lambda images: any(torch.equal(one, strange[0]) for one in images)))
    elif fault == 'segment':
        monkeypatch.setattr(embedder, 'segment', broken(
            embedder.segment, lambda embedding, memory: embedding.frame is frames[1]))
    elif fault == 'scores':
        monkeypatch.setattr(judge._scorer, 'score_batch', broken(
            judge._scorer.score_batch, lambda embeddings, *_: any(one.frame is frames[1] for one in embeddings)))
    else:
        monkeypatch.setattr(own[1].filter, 'update', lambda *_: 1 / 0)
    results = judge.process_batch(frames, own)
    assert said(results) == [('front', Verdict.NOMINAL, Reason.NONE), ('left', Verdict.UNKNOWN, expected),
                             ('rear', Verdict.NOMINAL, Reason.NONE)]
    assert np.isnan(results[1].score)
    if expected is Reason.FAILED:
        assert 'ZeroDivisionError' in results[1].explanation


def test_a_batch_that_memory_does_not_last_for_is_made_smaller_for_good(
        judge: Judge, world: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    sizes, tried = counted(judge, monkeypatch, most=2), [3, 1, 1, 1]
    assert said(judge.process_batch(shown(world), states()))[1] == ('left', Verdict.ANOMALOUS, Reason.NONE)
    assert (sizes, judge.embedder.largest_batch) == (tried, 1)
    assert [record.message for record in caplog.records] == [
        'encoder random-patches: cpu has no memory for 3 pictures at once (CUDA out of memory. Tried to allocate 2.00 '
        'GiB.); from now on 1']
    judge.process_batch(shown(world), states())
    assert sizes == [*tried, 1, 1, 1], 'not tried again'


def test_batches_are_halved(judge: Judge, world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = counted(judge, monkeypatch, most=2)
    assert len(judge.embedder.embed([Frame(world.street(1), 0)] * 7)) == 7
    assert sizes == [7, 3, 1, 1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(('own', 'sizes'), [(None, [5]), (2, [2, 2, 1]), (20, [5])])
def test_batches_are_no_larger_than_the_encoder_takes(
        world: Any, monkeypatch: pytest.MonkeyPatch, own: int | None, sizes: list[int]) -> None:
    monkeypatch.setitem(LARGEST_BATCH, 'cpu', 8)
    world.encoder.largest_batch = own
    given, real = [], world.encoder.encode
    monkeypatch.setattr(world.encoder, 'encode', lambda images: given.append(len(images)) or real(images))
    assert len(world.embedder(world.settings()).embed([Frame(world.street(1), 0)] * 5)) == 5
    assert given == sizes


def test_without_memory_for_one_picture_all_are_unknown(
        judge: Judge, world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    counted(judge, monkeypatch, most=0)
    results = judge.process_batch(shown(world), states())
    assert said(results) == [(camera, Verdict.UNKNOWN, Reason.FAILED) for camera in CAMERAS]
    assert results[0].explanation.startswith('encoder random-patches: found no memory on cpu for one picture (CUDA')
    with pytest.raises(EncoderError, match='choose a smaller input_size'):
        judge.embedder.embed(shown(world)[:1])


def test_an_evaluation_embeds_the_next_frames_together(
        judge: Judge, world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    detectors = Detectors(judge.settings, [judge.database.path], (), (False, True), judge.embedder)
    frames = [replace(frame, stamp_ns=number * 10**9) for number, frame in enumerate(shown(world), 1)]
    alone = [verdict.score for frame in frames for verdict in detectors.process(frame)]
    detectors.reset()
    sizes = counted(judge, monkeypatch)
    detectors.look_ahead(frames)
    together = [verdict.score for frame in frames for verdict in detectors.process(frame)]
    assert sizes == [3]
    assert together == pytest.approx(alone, rel=1e-4)
    detectors.process(frames[0])
    assert sizes == [3, 1], 'one that was not foreseen'


def test_items_are_computed_ahead_and_what_fails_there_is_raised_in_its_place() -> None:
    begun = [threading.Event() for _ in range(4)]

    def items() -> Any:
        for number, event in enumerate(begun):
            event.set()
            yield number
        raise ValueError('at the end')

    taken = ahead(items(), 2)
    assert next(taken) == 0
    assert begun[2].wait(30), 'two more, before they are asked for'
    assert [next(taken), next(taken), next(taken)] == [1, 2, 3]
    with pytest.raises(ValueError, match='at the end'):
        next(taken)


def test_what_comes_behind_is_done_in_order_and_its_failure_is_raised() -> None:
    done: list[int] = []
    gate = threading.Event()

    def work(number: int) -> None:
        assert gate.wait(30)
        done.append(number)
        if number == 2:
            raise ValueError(number)

    with Behind() as behind:
        behind(work, 0)
        assert done == [], 'the caller goes on'
        gate.set()
        behind(work, 1)
        behind(work, 2)
        with pytest.raises(ValueError, match='2'):
            behind(work, 3)
    assert done == [0, 1, 2]
    with pytest.raises(ValueError, match='2'), Behind() as behind:
        behind(work, 2)
