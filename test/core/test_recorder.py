"""Which frames are recorded, which are kept aside, and that memory stays bounded."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from semanom_ros.core.curation.recorder import HeldOut, NominalRecorder, Thinning
from semanom_ros.core.curation.writer import DatabaseWriter
from semanom_ros.core.database.nominal_database import NominalDatabase
from semanom_ros.core.database.storage import thumbnail
from semanom_ros.core.embedding.embedder import Embedder
from semanom_ros.core.frames import Frame
from semanom_ros.errors import BagError
from semanom_ros.settings import MethodSettings

SECOND = 10**9


def stamps(count: int, hertz: float, jitter: float = 0.0) -> list[int]:
    rng = np.random.default_rng(0)
    return [round((n + jitter * rng.uniform(-1, 1)) / hertz * SECOND) + 1700 * SECOND for n in range(count)]


def taken(thinning: Thinning, times: list[int], camera: str = 'front') -> list[int]:
    return [number for number, time in enumerate(times) if thinning(camera, time)]


def test_every_nth_frame_of_each_camera() -> None:
    thinning = Thinning(every_n=3)
    chosen = [(camera, n) for n in range(9) for camera in ('front', 'rear') if thinning(camera, n)]
    assert chosen == [(camera, n) for n in (0, 3, 6) for camera in ('front', 'rear')]


@pytest.mark.parametrize(('hertz', 'rate', 'expected'), [
    (30, 10, 10), (30, 30, 30), (10, 30, 10), (12, 10, 10), (15, 2, 2), (10, 0, 10)])
@pytest.mark.parametrize('jitter', [0.0, 0.05])
def test_rate_by_stamps(hertz: float, rate: float, expected: float, jitter: float) -> None:
    count = round(60 * hertz)
    assert len(taken(Thinning(rate=rate), stamps(count, hertz, jitter))) == pytest.approx(60 * expected, rel=0.03)


def test_rate_takes_no_burst_after_a_gap_and_goes_on_when_the_clock_goes_back() -> None:
    times = stamps(20, 10)
    late = [time + 60 * SECOND for time in times]
    thinning = Thinning(rate=2)
    assert len(taken(thinning, times)) == 4
    assert len(taken(thinning, late)) == 4
    assert len(taken(thinning, times)) == 4


def test_thinning_is_the_same_every_time() -> None:
    times = stamps(500, 17, 0.3)
    assert taken(Thinning(2, 3.0), times) == taken(Thinning(2, 3.0), times)


@pytest.mark.parametrize('minutes', [0.2, 0.5, 3, 90])
@pytest.mark.parametrize('share', [0.1, 0.2, 0.5])
def test_held_out_stretches(minutes: float, share: float) -> None:
    times = stamps(round(minutes * 600) + 1, 10)
    held_out = HeldOut.of_drive(times[0], times[-1] - times[0], share)
    aside = np.array([time in held_out for time in times])
    assert aside.mean() == pytest.approx(share, abs=0.02)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], aside, [0]])))
    begins, ends = edges[::2], edges[1::2]
    assert len(begins) <= 10
    lengths = (ends - begins) / 10  # seconds
    assert lengths.min() >= min(4.9, share * minutes * 60 - 0.2)
    assert not aside[0]
    assert not aside[-1]


def test_a_live_drive_keeps_stretches_of_five_seconds_aside() -> None:
    times = stamps(1000, 10)
    held_out = HeldOut.of_live(times[0], 0.2)
    aside = [time in held_out for time in times]
    assert np.mean(aside) == pytest.approx(0.2, abs=0.01)
    assert np.flatnonzero(np.diff(aside)).size == 8


def test_nothing_is_held_out_without_a_share_or_a_duration() -> None:
    times = stamps(100, 10)
    for held_out in (HeldOut.of_drive(times[0], times[-1] - times[0], 0.0), HeldOut.of_live(times[0], 0.0),
                     HeldOut.of_drive(times[0], 0, 0.2)):
        assert not any(time in held_out for time in times)


def test_thumbnail() -> None:
    image = np.full((90, 160, 3), 7, np.uint8)
    assert thumbnail(image, 0) == b''
    for size, shape in ((40, (22, 40, 3)), (500, (90, 160, 3)), (1, (1, 1, 3))):
        small = decoded(thumbnail(image, size))
        assert small.shape == shape
        assert (small == 7).all()
    assert decoded(thumbnail(np.ascontiguousarray(image.transpose(1, 0, 2)), 40)).shape == (40, 22, 3)
    red = decoded(thumbnail(np.full((9, 16, 3), (200, 10, 20), np.uint8), 16))
    assert np.abs(red.astype(int) - (200, 10, 20)).max() < 5


def decoded(jpeg: bytes) -> np.ndarray:
    """(h, w, 3) uint8 RGB."""
    return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB)


@pytest.fixture
def embedder(tmp_path: Path) -> Embedder:
    """A TorchScript network of random weights with 16-d features on patches of 16 pixels."""
    torch.manual_seed(3)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 16, 16), torch.nn.Tanh(), torch.nn.Conv2d(16, 16, 1)).eval()
    torch.jit.trace(network, torch.zeros(1, 3, 48, 64)).save(str(tmp_path / 'tiny.ts'))
    return Embedder.load(settings(tmp_path))


def settings(folder: Path, **given: object) -> MethodSettings:
    return MethodSettings.of({'encoder': f'torchscript:{folder / "tiny.ts"}', 'input_size': [48, 64], 'device': 'cpu',
                              **given})


def frames(count: int) -> Iterator[Frame]:
    for number in range(count):
        image = np.random.default_rng(number).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        yield Frame(image, number + 1, source='drive', topic='/image')


def test_frames_are_read_ahead_but_few_at_a_time(tmp_path: Path, embedder: Embedder) -> None:
    read = 0

    def counted() -> Iterator[Frame]:
        nonlocal read
        for frame in frames(50):
            read += 1
            yield frame

    threads = set(threading.enumerate())
    with DatabaseWriter.begin(tmp_path / 'database', embedder.description) as writer:
        recorder = NominalRecorder(embedder, writer)
        recorded = 0
        for added in recorder.record(counted(), 'hash', lambda stamp: False):
            recorded += added
            assert read - recorded <= 3
        assert recorder.summary.frames == recorded == 50
    assert set(threading.enumerate()) <= threads


def test_an_abandoned_recording_leaves_no_thread(tmp_path: Path, embedder: Embedder) -> None:
    threads = set(threading.enumerate())
    with DatabaseWriter.begin(tmp_path / 'database', embedder.description) as writer:
        steps = NominalRecorder(embedder, writer).record(frames(50), 'hash', lambda stamp: False)
        assert isinstance(steps, Iterator)
        next(steps)
        del steps
    assert set(threading.enumerate()) <= threads


@pytest.mark.parametrize('batch', [1, 4])
def test_what_came_before_an_error_is_recorded(tmp_path: Path, embedder: Embedder, batch: int) -> None:
    def breaking() -> Iterator[Frame]:
        yield from frames(6)
        raise BagError('breaks off')

    with DatabaseWriter.begin(tmp_path / 'database', embedder.description) as writer:
        recorder = NominalRecorder(embedder, writer)
        recorder._batch = batch  # as on a GPU
        with pytest.raises(BagError, match='breaks off'):
            list(recorder.record(breaking(), 'hash', lambda stamp: False))
        assert [writer.has('hash', '/image', number) for number in (1, 6, 7)] == [True, True, False]
        assert (recorder.summary.frames, recorder.summary.vectors) == (6, 6 * 12)


def test_batches_give_the_embeddings_of_single_frames(tmp_path: Path, embedder: Embedder) -> None:
    databases = []
    for batch in (1, 4):
        with DatabaseWriter.begin(tmp_path / f'{batch}', embedder.description) as writer:
            recorder = NominalRecorder(embedder, writer)
            recorder._batch = batch
            list(recorder.record(frames(6), 'hash', lambda stamp: False))
            writer.commit(None)
            databases.append(NominalDatabase.open(tmp_path / f'{batch}'))
    for one, other in zip(*(database.frames() for database in databases), strict=True):
        assert one.record == other.record
        np.testing.assert_allclose(one.vectors, other.vectors, atol=1e-6)


def test_masks_do_not_move_from_one_still_to_the_next(tmp_path: Path, embedder: Embedder) -> None:
    """In a drive the masks of the first frame serve the ones after it; stills are as if each were recorded alone."""
    embedder = Embedder.load(settings(tmp_path, variant='instance', segmenter_every_n=10))
    shown = list(frames(4))
    alone = [embedder.queries(embedder.embed([frame])[0]).vectors for frame in shown]
    same = {}
    for still in (False, True):
        with DatabaseWriter.begin(tmp_path / f'{still}', embedder.description) as writer:
            recorder = NominalRecorder(embedder, writer)
            list(recorder.record([replace(frame, still=still) for frame in shown], 'hash', lambda stamp: False))
            writer.commit(None)
        recorded = NominalDatabase.open(tmp_path / f'{still}').frames()
        same[still] = [len(one.vectors) == len(other) and np.allclose(one.vectors, other, atol=1e-5)
                       for one, other in zip(recorded, alone, strict=True)]
    assert same[True] == [True] * 4
    assert not all(same[False])
