"""Draws the pictures of `docs/simulation.md`: each anomaly beside its twin, and the weathers.

python -m tools.contact_sheet docs/images
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np

from semanom_ros.simulation.catalogue import CATALOGUE
from semanom_ros.simulation.drive import RATE, Drive, SimulatedFrame
from semanom_ros.simulation.painter import Picture
from semanom_ros.simulation.town import BLOCK
from semanom_ros.simulation.weather import WEATHERS

SEED = 7
SIZE = (320, 180)
DISTANCE = 21.0  # metres before the scenario


def _frame(drive: Drive, block: float, distance: float) -> SimulatedFrame:
    time = drive.time_at((block + 0.5) * BLOCK - distance)
    return drive.frame(int(time * RATE))


def _tile(frame: SimulatedFrame, title: str) -> Picture:
    image = frame.image.copy()
    outlines, _ = cv2.findContours(
        (frame.anomaly_mask == 255).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )
    cv2.drawContours(image, outlines, -1, (255, 40, 40), 2)
    small = cv2.resize(image, SIZE, interpolation=cv2.INTER_AREA)
    cv2.rectangle(small, (0, 0), (SIZE[0], 15), (20, 20, 20), -1)
    cv2.putText(small, title, (4, 11), cv2.FONT_HERSHEY_SIMPLEX, 0.36, (240, 240, 240), 1, cv2.LINE_AA)
    return small


def _grid(tiles: list[Picture], columns: int) -> Picture:
    return np.vstack([np.hstack(tiles[k : k + columns]) for k in range(0, len(tiles), columns)])


def main(folder: Path) -> None:
    """Writes simulation_catalogue.jpg and simulation_weather.jpg."""
    tiles = []
    for number, scenario in enumerate(CATALOGUE):
        drive = Drive(SEED + number % 5, True, 'sun', (scenario,))
        for block, title in ((2, scenario.name), (3, 'twin')):  # the first two blocks with something in them
            tiles.append(_tile(_frame(drive, block, DISTANCE), title))
    weathers = [_tile(_frame(Drive(SEED, False, name), 3, 20), name) for name in WEATHERS]
    for name, picture in (('catalogue', _grid(tiles, 4)), ('weather', _grid(weathers, 4))):
        path = folder / f'simulation_{name}.jpg'
        cv2.imwrite(str(path), picture[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, 82))
        print(path)


if __name__ == '__main__':
    main(Path(sys.argv[1]))
