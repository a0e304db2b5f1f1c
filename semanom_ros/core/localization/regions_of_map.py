"""Connected parts of an anomaly map."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Region:
    """A connected part of an image above the pixel threshold that reaches the alarm level.

    Attributes:
        box: (x, y, width, height), pixels.
        mask: (height, width) bool inside the box.
        area: pixels.
        peak: (x, y) of its highest value.
    """

    box: tuple[int, int, int, int]
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
