"""Two short recordings of a street, one with a thing in it, embedded by a small encoder that knows colours as words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from semanom_ros.core.progress import SILENT
from semanom_ros.finding.embedded_recordings import index_recordings
from semanom_ros.recordings.bags import BagWriter
from semanom_ros.recordings.nominal_recording import record_bags
from semanom_ros.settings import Settings

SECOND = 10**9
START = 1_700_000_000 * SECOND
LATE = 5 * SECOND  # by which bag time is behind the stamps
HEIGHT, WIDTH, PATCH = 96, 128, 16
COLOURS = {'red': (250, 10, 10), 'green': (10, 250, 10), 'blue': (10, 10, 250)}


def street(seed: int, noise: int) -> np.ndarray:
    """(H, W, 3) uint8: grey of two kinds under noise of so many levels."""
    image = np.full((HEIGHT, WIDTH, 3), 110, np.uint8)
    image[:HEIGHT // 2] = 150
    levels = np.random.default_rng(seed).integers(-noise, noise + 1, (HEIGHT, WIDTH, 1))
    return np.clip(image.astype(int) + levels, 0, 255).astype(np.uint8)


def with_thing(image: np.ndarray, colour: str, x: int = 48, y: int = 64) -> np.ndarray:
    """A square of two by two patches."""
    image = image.copy()
    image[y:y + 2 * PATCH, x:x + 2 * PATCH] = COLOURS[colour]
    return image


def write_drive(path: Path, things: dict[int, str], frames: int = 20, seed: int = 0, noise: int = 2) -> Path:
    """A recording at 2 Hz with a latched topic at its beginning; `things` are the frames that show one."""
    with BagWriter(path) as bag:
        types = bag.typestore.types
        bag.declare('/robot_description', 'std_msgs/msg/String', latched=True)
        bag.write('/robot_description', types['std_msgs/msg/String']('a robot'), START + LATE)
        for number in range(frames):
            image, stamp = street(1000 * seed + number, noise), START + number * SECOND // 2
            if number in things:
                image = with_thing(image, things[number])
            header = types['std_msgs/msg/Header'](types['builtin_interfaces/msg/Time'](*divmod(stamp, SECOND)), 'cam')
            bag.write('/camera/image_raw', types['sensor_msgs/msg/Image'](
                header, HEIGHT, WIDTH, 'rgb8', 0, 3 * WIDTH, image.ravel()), stamp + LATE)
            bag.write('/speed', types['std_msgs/msg/Float64'](float(number)), stamp + LATE)
    return path


class Fleet:
    """The recordings, an index of them, a nominal database of another drive, and what made both."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        torch.manual_seed(0)
        network = torch.nn.Sequential(torch.nn.AvgPool2d(8), torch.nn.Conv2d(3, 16, 2, 2)).eval()
        torch.jit.trace(network, torch.zeros(1, 3, HEIGHT, WIDTH)).save(str(folder / 'patches.ts'))
        self.given: dict[str, Any] = {'encoder': f'torchscript:{folder / "patches.ts"}', 'input_size': [HEIGHT, WIDTH],
                                      'device': 'cpu', 'precision': 'fp32'}
        self.settings = Settings.of(self.given)
        self.one = write_drive(folder / 'one', {6: 'red', 7: 'red', 8: 'red', 15: 'blue'}, seed=3)
        self.two = write_drive(folder / 'two', {10: 'red', 11: 'red'}, seed=1)
        self.nominal = write_drive(folder / 'nominal', {}, frames=60, seed=2, noise=6)  # it knows more than they show
        self.index = folder / 'index'
        index_recordings([self.one, self.two], self.index, self.settings, SILENT)
        self.database = folder / 'database'
        record_bags([self.nominal], self.database, self.settings, SILENT)

    @property
    def options(self) -> list[str]:
        """What chooses the encoder on the command line."""
        return [word for name in ('encoder', 'device', 'precision') for word in
                ('--set', f'{name}={self.given[name]}')] + ['--set', f'input_size=[{HEIGHT}, {WIDTH}]']


@pytest.fixture(scope='session')
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    return Fleet(tmp_path_factory.mktemp('fleet'))
