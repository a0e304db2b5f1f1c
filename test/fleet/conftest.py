"""A tiny real encoder that fails on white pictures, short recordings, and workers of every kind."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from semanom_ros.core.database.nominal_database import NominalDatabase
from semanom_ros.core.progress import SILENT
from semanom_ros.fleet.scheduling import Answer, Loss
from semanom_ros.fleet.worker import Worker
from semanom_ros.recordings.bags import BagWriter
from semanom_ros.recordings.nominal_recording import record_bags
from semanom_ros.settings import Settings

SECOND = 10**9


class Network(torch.nn.Module):
    """16-d features on patches of 16 pixels; white pictures are an error."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 16, 16), torch.nn.Tanh(), torch.nn.Conv2d(16, 16, 1))

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        if bool(pictures.min() > 0.99):
            raise RuntimeError('a white picture')
        return self.layers(pictures)


def save_encoder(path: Path, seed: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.jit.script(Network().eval()).save(str(path))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    save_encoder(tmp_path / 'tiny.ts', 3)
    return Settings.of({'encoder': f'torchscript:{tmp_path / "tiny.ts"}', 'input_size': [48, 64], 'device': 'cpu',
                        'precision': 'fp32'})


@pytest.fixture
def drive(tmp_path: Path) -> Callable[..., Path]:
    """Writes a recording of two cameras at 1 Hz; every frame is another one, or white."""

    def write(name: str, frames: int = 30, first: int = 0, white: bool = False, storage: str = 'mcap') -> Path:
        with BagWriter(tmp_path / name, storage) as writer:
            for number in range(first, first + frames):
                for camera in range(2):
                    coarse = np.random.default_rng(1000 * camera + number).integers(0, 256, (3, 4, 3), np.uint8)
                    image = cv2.resize(coarse, (64, 48), interpolation=cv2.INTER_CUBIC)
                    image = np.full_like(image, 255) if white else image
                    writer.write_image(f'/camera{camera}/image_raw', image, 'bgr8', (number + 1) * SECOND + camera, 'o')
        return tmp_path / name

    return write


TOPICS = ['/camera0/image_raw', '/camera1/image_raw']


class Watched:
    """Progress that calls back: (stage, units done in it)."""

    def __init__(self, watch: Callable[[str, int], None]) -> None:
        self._watch, self._stage, self._done = watch, '', 0

    def begin(self, what: str, total: int, unit: str) -> None:
        self._stage, self._done = what, 0
        self._watch(what, 0)

    def advance(self, amount: int) -> None:
        self._done += amount
        self._watch(self._stage, self._done)

    def end(self) -> None: ...


class WorkersHere:
    """Workers of this process, one after the other; they share what `memory://` holds."""

    def __init__(self, wanted: int = 2, on_start: Callable[[int], None] = lambda number: None) -> None:
        self.wanted, self._on_start = wanted, on_start
        self._workers: dict[int, Worker] = {}
        self._events: deque[Answer | Loss] = deque()
        self.asked: list[str] = []

    def open(self, kind: str, storage: str) -> None:
        self._made = kind, storage

    def start(self, number: int) -> None:
        self._on_start(number)
        self._workers[number] = Worker(*self._made, 1)

    def give(self, number: int, name: str, method: str, arguments: dict[str, Any]) -> None:
        self.asked.append(name)
        self._events.append(Answer(number, self._workers[number].call(method, arguments)))

    def stop(self, number: int) -> None:
        del self._workers[number]

    def next_event(self, timeout_s: float) -> Answer | Loss | None:
        return self._events.popleft()

    def close(self) -> None:
        self._workers.clear()


def one_process(bags: list[Path], database: Path, settings: Settings) -> Path:
    """The database that one process makes."""
    record_bags(bags, database, settings, SILENT)
    return database


def assert_same(found: Path, expected: Path) -> None:
    """The same embeddings, provenance and pictures in the same order, and so the same calibration."""
    ours, theirs = NominalDatabase.open(found), NominalDatabase.open(expected)
    assert ours.manifest.sources == theirs.manifest.sources
    for mine, other in ((ours.frames(), theirs.frames()), (ours.held_out(), theirs.held_out())):
        assert len(mine) == len(other)
        for one, two in zip(mine, other, strict=True):
            assert one.record == two.record
            np.testing.assert_array_equal(one.vectors, two.vectors)
            np.testing.assert_array_equal(one.boxes, two.boxes)
            np.testing.assert_array_equal(one.positions, two.positions)
    for mine, other in zip(ours.parts(), theirs.parts(), strict=True):
        assert [mine[0].thumbnail(n) for n in range(len(mine[0].frames))] == \
            [other[0].thumbnail(n) for n in range(len(other[0].frames))]
    assert ours.calibration.keys() == theirs.calibration.keys() != set()
    for name, array in ours.calibration.items():
        np.testing.assert_array_equal(array, theirs.calibration[name])
