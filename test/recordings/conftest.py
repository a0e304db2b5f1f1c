"""A tiny real encoder, and drives that it can tell frames of apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from semanom_ros.core.embedding.embedder import Embedder
from semanom_ros.recordings.bags import BagWriter
from semanom_ros.settings import Settings

SECOND = 10**9


def picture(number: int, camera: int = 0) -> np.ndarray:
    """(48, 64, 3) uint8 RGB, smooth, another for every frame and camera."""
    coarse = np.random.default_rng(1000 * camera + number).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return cv2.resize(coarse, (64, 48), interpolation=cv2.INTER_CUBIC)  # type: ignore[return-value]


class Drives:
    """Writes recordings of /camera0/image_raw, /camera1/image_raw, ... at 1 Hz."""

    picture = staticmethod(picture)

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, name: str, frames: int = 40, storage: str = 'mcap', cameras: int = 1, first: int = 0,
                 compress: bool = False) -> Path:
        with BagWriter(self.folder / name, storage) as writer:
            for number in range(first, first + frames):
                for camera in range(cameras):
                    topic = f'/camera{camera}/image_raw' + ('/compressed' if compress else '')
                    image, stamp = picture(number, camera), (number + 1) * SECOND
                    writer.write_image(topic, image, 'bgr8', stamp, 'optical', compress)
        return self.folder / name


@pytest.fixture
def drives(tmp_path: Path) -> Drives:
    return Drives(tmp_path)


@pytest.fixture(scope='session')
def encoder_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TorchScript network with 16-d features on patches of 16 pixels."""
    torch.manual_seed(3)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 16, 16), torch.nn.Tanh(), torch.nn.Conv2d(16, 16, 1)).eval()
    path = tmp_path_factory.mktemp('encoder') / 'tiny.ts'
    torch.jit.trace(network, torch.zeros(1, 3, 48, 64)).save(str(path))
    return path


@pytest.fixture
def given(encoder_file: Path) -> dict[str, Any]:
    """Parameters that choose the tiny encoder."""
    return {'encoder': f'torchscript:{encoder_file}', 'input_size': [48, 64], 'device': 'cpu', 'precision': 'fp32'}


@pytest.fixture
def settings(given: dict[str, Any]) -> Settings:
    return Settings.of(given)


@pytest.fixture
def embedder(settings: Settings) -> Embedder:
    return Embedder.load(settings.method)
