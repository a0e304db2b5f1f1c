"""Small drives, a small encoder, and nominal databases made of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from semanom_ros.commands.progress_bars import Bars
from semanom_ros.recordings.bags import BagWriter
from semanom_ros.recordings.nominal_recording import record_bags
from semanom_ros.ros.messages import image_to_compressed, image_to_message, write_message
from semanom_ros.settings import Settings

HEIGHT, WIDTH = 72, 96
START_NS = 1_700_000_000_000_000_000
PERIOD_NS = 100_000_000


class ColourPatches(torch.nn.Module):
    """An encoder of nothing but mean colours: 8 pixels a patch, 4 dimensions."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        patches = torch.nn.functional.avg_pool2d(images, 8)
        return torch.cat([patches - 0.5, torch.full_like(patches[:, :1], 0.1)], 1)


def road(number: int, seed: int) -> np.ndarray:
    """A grey road under a blue sky, with a green verge that moves."""
    random = np.random.default_rng([seed, number])
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[:30], image[30:] = (110, 150, 220), (96, 96, 100)
    cv2.fillPoly(image, [np.array([[0, 30], [30, 30], [5 + number % 7, 71], [0, 71]])], (60, 130, 60))
    return np.clip(image + random.normal(0, 4, image.shape), 0, 255).astype(np.uint8)


def write_drive(path: Path, frames: int, *, seed: int = 0, anomalies: tuple[tuple[int, int], ...] = (),
                white: tuple[int, ...] = (), truth: bool = True, compressed: bool = False, storage: str = 'mcap'
                ) -> Path:
    """A drive at 10 Hz; in the given (first, last) frames a red thing lies on the road, in others is a white patch."""
    topic = '/camera/image_raw' + ('/compressed' if compressed else '')
    with BagWriter(path, storage) as writer:
        for number in range(frames):
            stamp = START_NS + number * PERIOD_NS
            image, mask = road(number, seed), np.zeros((HEIGHT, WIDTH), np.uint8)
            if any(first <= number <= last for first, last in anomalies):
                cv2.rectangle(image, (48, 40), (71, 60), (220, 30, 30), -1)
                mask[40:61, 48:72] = 255
                mask[38:40, 48:72] = 128
            if number in white:
                image[56:64, 8:16] = 255
            picture = image_to_compressed(image, stamp, 'camera_optical', 'png') if compressed else \
                image_to_message(image, 'bgr8', stamp, 'camera_optical')
            write_message(writer, topic, picture, stamp)
            if truth:
                write_message(writer, '/ground_truth/anomaly_mask', image_to_message(mask, 'mono8', stamp, ''), stamp)
    return path


@dataclass(frozen=True)
class Town:
    """Everything that an evaluation needs.

    Attributes:
        config: parameter file.
        databases: folder of the database of each variant.
        drive: 70 frames with anomalies in frames 20 to 34 and 58 to 65.
    """

    config: Path
    databases: dict[str, Path]
    drive: Path

    def arguments(self, *variants: str) -> list[str]:
        """Command-line arguments that name encoder and databases."""
        databases = [word for variant in variants for word in ('--database', str(self.databases[variant]))]
        return ['--config', str(self.config), *databases]


@pytest.fixture(scope='session')
def town(tmp_path_factory: pytest.TempPathFactory) -> Town:
    """Recorded once for all tests."""
    folder = tmp_path_factory.mktemp('town')
    encoder = folder / 'colour.ts'
    torch.jit.save(torch.jit.script(ColourPatches()), str(encoder))
    settings = {'encoder': f'torchscript:{encoder}', 'input_size': [HEIGHT, WIDTH], 'device': 'cpu',
                'held_out_share': 0.5, 'false_alarm_rate': 0.05}
    config = folder / 'config.yaml'
    config.write_text('/**:\n  ros__parameters:\n' + ''.join(f'    {k}: {v}\n' for k, v in settings.items()))
    nominal = write_drive(folder / 'nominal', 100, seed=1, truth=False)
    databases = {}
    for variant in ('grid', 'instance'):
        databases[variant] = folder / variant
        record_bags([nominal], databases[variant], Settings.of({**settings, 'variant': variant}), Bars())
    return Town(config, databases, write_drive(folder / 'drive', 70, seed=2, anomalies=((20, 34), (58, 65))))
