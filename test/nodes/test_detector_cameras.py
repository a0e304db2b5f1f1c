"""Several cameras of one detector over DDS: their frames in one batch, each with a verdict of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from diagnostic_msgs.msg import DiagnosticStatus
from sensor_msgs.msg import Image

from semanom_ros.core.embedding.embedder import Embedder
from semanom_ros.core.embedding.encoders.network import NetworkEncoder
from semanom_ros.core.pipeline import Judge
from semanom_ros.core.results import Reason, Verdict
from semanom_ros.msg import AnomalyArray
from semanom_ros.ros import diagnostics
from semanom_ros.ros.messages import header

CAMERAS = ['front', 'left', 'right', 'rear', 'roof', 'tow']


@pytest.fixture(params=[False, True], ids=['in turn', 'ahead'])
def ahead(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether frames are prepared in a thread of their own. A stand-in: on the CPU, where they otherwise are not."""
    monkeypatch.setattr(Embedder, 'prepares_ahead', request.param)
    return request.param


@contextmanager
def held_up(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[threading.Event, list[list[str]]]]:
    """A judge that stands still within the block: whether it has begun, and the cameras of each batch that it gets."""
    gate, begun, real = threading.Event(), threading.Event(), Judge.process_batch
    batches: list[list[str]] = []

    def process(self: Judge, frames: Any, *arguments: Any) -> Any:
        batches.append([frame.camera for frame in frames])
        begun.set()
        assert gate.wait(60)
        return real(self, frames, *arguments)

    monkeypatch.setattr(Judge, 'process_batch', process)
    try:
        yield begun, batches
    finally:
        gate.set()


def watching(active: Callable[..., Any], cameras: list[str], **parameters: Any) -> tuple[Any, dict[str, list[Any]]]:
    """A detector of these cameras that takes them all in one batch, as on a GPU; and what each camera hears."""
    one = active(camera_names=cameras, filter_temporal=False, **parameters)  # verdicts on single frames
    one.detector._judge.embedder.largest_batch = len(cameras)
    return one, {camera: one.listen(AnomalyArray, f'{camera}/anomalies') for camera in cameras}


def test_six_cameras_that_wait_are_judged_together_and_each_gets_its_own(
        active: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, ahead: bool, trial: Any) -> None:
    """Two sizes, three encodings; one sends what is no picture, one has stalled, one is too fast."""
    one, heard = watching(active, CAMERAS, image_timeout=0.5)
    second, street = one.second, one.street(2)
    with trial('Nodes', 'a camera beside five others that stalls or sends no pictures', times=2):
        with held_up(monkeypatch) as (begun, batches):
            one.send(one.street(1), second, 'front')
            one.spin_until(begun.is_set)
            for stamp in (2, 3):
                one.send(one.street(stamp), stamp * second, 'front', 'front_optical')
                one.spin_until(lambda count=stamp: one.monitor('front').count('received') == count)
            one.send(one.street(5).repeat(2, axis=0).repeat(2, axis=1), 2 * second, 'left')
            one.send(street, 4 * second, 'right', encoding='bgr8')
            red = np.dstack([one.street_with_box(2), np.full(street.shape[:2], 255, np.uint8)])
            one.send_raw('rear', header=header(5 * second, 'rear_optical'), height=96, width=128, encoding='rgba8',
                         step=512, data=red.tobytes())
            one.send_raw('roof', header=header(6 * second, ''), height=8, width=8, encoding='infrared', step=24,
                         data=bytes(192))
            one.spin_until(lambda: sum(one.monitor(camera).count('received') for camera in CAMERAS) == 7)
            if ahead:
                one.spin_until(lambda: len(one.detector._prepared.waiting()) == 5, what='they are decoded meanwhile')
        one.spin_until(lambda: len(heard['front']) == 2 and all(heard[camera] for camera in CAMERAS[:-1]))
        assert batches[0] == ['front']
        assert sorted(batches[1]) == ['front', 'left', 'rear', 'right']
        assert len(batches) == 2
        said = {camera: [(array.header.stamp.sec, Verdict(array.verdict), Reason(array.reason)) for array in arrays]
                for camera, arrays in heard.items()}
        nominal, none = Verdict.NOMINAL, Reason.NONE
        assert said == {
            'front': [(1, nominal, none), (3, nominal, none)], 'left': [(2, nominal, none)],
            'right': [(4, nominal, none)], 'rear': [(5, Verdict.ANOMALOUS, none)],
            'roof': [(6, Verdict.UNKNOWN, Reason.INVALID_IMAGE)], 'tow': []}
        assert [heard[camera][-1].image_width for camera in CAMERAS[:-1]] == [128, 256, 128, 128, 0]
        assert [heard[camera][-1].header.frame_id for camera in ('front', 'rear')] == ['front_optical', 'rear_optical']
        assert [one.monitor(camera).count(diagnostics.SUPERSEDED) for camera in CAMERAS] == [1, 0, 0, 0, 0, 0]
        stalled = one.status('tow', lambda s: s.level == DiagnosticStatus.ERROR)
        assert 'no image on /semanom_detector/input/tow/image' in stalled.message
    assert one.deactivate()


def test_a_gpu_without_memory_for_all_cameras_judges_them_in_smaller_batches(
        active: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, trial: Any) -> None:
    """A stand-in for a GPU: its exception, raised by the encoder on the CPU; then it has no memory for one picture."""
    with trial('Nodes', 'a GPU that runs out of memory', times=2):
        one, heard = watching(active, CAMERAS[:4])
        sizes: list[int] = []
        most, real = [1], NetworkEncoder.encode

        def encode(self: NetworkEncoder, images: torch.Tensor) -> torch.Tensor:
            sizes.append(len(images))
            if len(images) > most[0]:
                raise torch.cuda.OutOfMemoryError('CUDA out of memory.')
            return real(self, images)

        monkeypatch.setattr(NetworkEncoder, 'encode', encode)

        def look(second: int) -> list[Verdict]:
            with held_up(monkeypatch) as (begun, _):
                one.send(one.street(0), second * one.second, 'front')
                one.spin_until(begun.is_set)
                for camera in CAMERAS[:4]:
                    one.send(one.street(3), (second + 1) * one.second, camera)
                one.spin_until(lambda: len(one.detector._frames.waiting()) == 4)
            one.spin_until(lambda: all(arrays and arrays[-1].header.stamp.sec == second + 1
                                       for arrays in heard.values()))
            return [Verdict(arrays[-1].verdict) for arrays in heard.values()]

        assert look(1) == [Verdict.NOMINAL] * 4
        assert sizes == [1, 4, 2, 1, 1, 1, 1]
        assert one.detector._judge.embedder.largest_batch == 1, 'it is not tried again'
        most[0] = 0
        assert look(11) == [Verdict.UNKNOWN] * 4
        assert {array.reason for arrays in heard.values() for array in arrays[-1:]} == {Reason.FAILED}
        one.send(one.street(0), 20 * one.second, 'rear')
        status = one.status('rear', lambda s: s.level == DiagnosticStatus.ERROR and 'no memory' in s.message)
        assert 'for one picture (CUDA out of memory.), expected enough; choose a smaller input_size' in status.message


def test_an_encoder_that_hangs_makes_all_cameras_of_the_batch_late(
        active: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, ahead: bool) -> None:
    cameras = CAMERAS[:3]
    one, heard = watching(active, cameras, latency_limit=0.4)
    with held_up(monkeypatch) as (begun, batches):
        one.send(one.street(0), one.second, 'front')
        one.spin_until(begun.is_set)
        for camera in cameras[1:]:
            one.send(one.street(1), 2 * one.second, camera)
        one.spin_until(lambda: all(heard.values()))
        assert [[Reason(array.reason) for array in arrays] for arrays in heard.values()] == [[Reason.LATE]] * 3
    one.spin_until(lambda: all(len(arrays) == 2 for arrays in heard.values()))
    assert batches == [['front'], ['left', 'right']]
    assert [Verdict(arrays[1].verdict) for arrays in heard.values()] == [Verdict.NOMINAL] * 3
    assert [arrays[1].header.stamp.sec for arrays in heard.values()] == [1, 2, 2]
    assert one.node.count_subscribers('/semanom_detector/input/front/image')
    publisher = one.publisher(Image, 'front/image')
    assert one.deactivate()
    assert not publisher.get_subscription_count()
