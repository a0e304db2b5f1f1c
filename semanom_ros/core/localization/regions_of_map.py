"""Connected parts of an anomaly map."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

COARSE_WIDTH = 320  # pixels; of a map on which regions are only followed
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Region:
    """A connected part of an image above the pixel threshold.

    Attributes:
        box: (x, y, width, height), pixels.
        mask: (height, width) bool inside the box.
        area: pixels.
        peak: (x, y) of its highest value.
    """

    box: Box
    mask: npt.NDArray[np.bool_]
    area: int
    peak: tuple[int, int]

    def contour(self) -> npt.NDArray[np.int32]:
        """(N, 2) int32 outline (x, y) in pixels of the image."""
        outlines, _ = cv2.findContours(self.mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE,
                                       offset=self.box[:2])
        return np.concatenate([o[:, 0] for o in sorted(outlines, key=cv2.contourArea, reverse=True)]).astype(np.int32)


def regions(anomaly_map: npt.NDArray[np.float32], alarm: float, reach: float) -> list[Region]:
    """8-connected regions of a map (H, W) above `reach` that hold a pixel above `alarm`.

    Hysteresis thresholding (J. Canny, TPAMI 1986): what raises the alarm is the core of a thing, which reaches farther.
    """
    cores = anomaly_map > alarm
    if not cores.any():
        return []
    above = (anomaly_map > min(alarm, reach)).astype(np.uint8)
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(above, connectivity=8)
    found = []
    for number in np.unique(labels[cores]):
        x, y, w, h, area = (int(v) for v in statistics[number])
        mask = labels[y:y + h, x:x + w] == number
        peak = int(np.where(mask, anomaly_map[y:y + h, x:x + w], -np.inf).argmax())
        found.append(Region((x, y, w, h), mask, area, (x + peak % w, y + peak // w)))
    return found


def coarse_regions(map_at: Callable[[tuple[int, int]], npt.NDArray[np.float32]], size: tuple[int, int], reach: float
                   ) -> list[tuple[Box, float]]:
    """Boxes of regions above `reach` and their highest values, from a map that is small where the image is large.

    Good enough to follow what is not to be reported, and costs the same for every camera.

    Args:
        map_at: the map for an image of some (height, width).
        size: (height, width) of the image, in whose pixels the boxes are.
        reach: what a region exceeds.
    """
    height, width = size
    scale = min(1.0, COARSE_WIDTH / width)
    small = max(1, round(height * scale)), max(1, round(width * scale))
    down, right = height / small[0], width / small[1]
    anomaly_map, found = map_at(small), []
    for region in regions(anomaly_map, reach, reach):
        x, y, w, h = region.box
        box = round(x * right), round(y * down), round(w * right), round(h * down)
        found.append((box, float(anomaly_map[region.peak[::-1]])))
    return found
