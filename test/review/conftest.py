"""A drive with a red square in it that a database of plain streets flags, and the result bag that says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from semanom_ros.core.pipeline import CameraState, Judge
from semanom_ros.core.progress import SILENT
from semanom_ros.evaluation.result_bag import ResultBag
from semanom_ros.recordings.bags import BagReader, BagWriter
from semanom_ros.recordings.nominal_recording import record_bags
from semanom_ros.settings import Settings

SECOND = 10**9
START = 1_700_000_000 * SECOND
HEIGHT, WIDTH, PATCH = 96, 128, 16
FLAGGED = range(8, 14)
"""Frames of the drive that show the square."""


def street(seed: int, noise: int) -> np.ndarray:
    """(H, W, 3) uint8: grey of two kinds under noise of so many levels."""
    image = np.full((HEIGHT, WIDTH, 3), 110, np.uint8)
    image[:HEIGHT // 2] = 150
    levels = np.random.default_rng(seed).integers(-noise, noise + 1, (HEIGHT, WIDTH, 1))
    return np.clip(image.astype(int) + levels, 0, 255).astype(np.uint8)


def write_drive(path: Path, frames: int, seed: int, noise: int, flagged: range = range(0)) -> Path:
    """A recording at 2 Hz."""
    with BagWriter(path) as bag:
        for number in range(frames):
            image = street(1000 * seed + number, noise)
            if number in flagged:
                image[64:64 + 2 * PATCH, 48:48 + 2 * PATCH] = (250, 10, 10)
            bag.write_image('/camera/image_raw', image, 'rgb8', START + number * SECOND // 2, 'camera')
    return path


class Drive:
    """Attributes: `drive`, `database`, `results` (paths) and `settings`."""

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(0)
        network = torch.nn.Sequential(torch.nn.AvgPool2d(8), torch.nn.Conv2d(3, 16, 2, 2)).eval()
        torch.jit.trace(network, torch.zeros(1, 3, HEIGHT, WIDTH)).save(str(folder / 'patches.ts'))
        given: dict[str, Any] = {'encoder': f'torchscript:{folder / "patches.ts"}', 'input_size': [HEIGHT, WIDTH],
                                 'device': 'cpu', 'precision': 'fp32'}
        self.settings = Settings.of(given)
        self.drive = write_drive(folder / 'drive', 20, 3, 2, FLAGGED)
        self.database = folder / 'nominal'
        # it knows more than the drive shows
        record_bags([write_drive(folder / 'plain', 60, 2, 6)], self.database, self.settings, SILENT)
        self.results = folder / 'results'
        judge, state = Judge.load(self.settings.method, self.database), CameraState()
        with BagReader(self.drive) as reader, ResultBag(self.results, 'camera', recording=self.drive) as bag:
            for frame in reader.images():
                bag.add(frame, judge.process(frame, state))


@pytest.fixture(scope='session')
def drive(tmp_path_factory: pytest.TempPathFactory) -> Drive:
    return Drive(tmp_path_factory.mktemp('reviewed'))
