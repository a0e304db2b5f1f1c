"""How far things are, measured: by a depth image that is registered to the camera, or by a point cloud."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from semanom_ros.geometry.anomaly_place import DistanceSource
from semanom_ros.geometry.camera_model import CameraModel

NEARER = 0.25
"""Share of the measured values that is nearer than what is told: the outline of an anomaly ends at patches, and what it
holds of the surroundings lies behind the thing for the most part. A single wrong value is no distance either."""

FEWEST = 3
"""Values; of fewer nothing is told."""

PLAUSIBLE_M = 0.01, 10_000.0
"""What sensors on vehicles measure lies between, in metres; bytes in the wrong order, or rubbish, seldom do."""

_MOST = 2000  # values of a depth image that are looked at; more tell nothing new

Mask = npt.NDArray[np.bool_]
Box = tuple[int, int, int, int]


class Measurement(Protocol):
    """What a sensor has measured in the picture of a camera."""

    @property
    def source(self) -> DistanceSource:
        """Of the distances."""

    def distance(self, box: Box, mask: Mask) -> float | None:
        """How far a part of the picture is.

        Args:
            box: (x, y, width, height), pixels, inside of the picture.
            mask: (height, width) bool inside the box.

        Returns:
            Metres from the camera's centre of projection; None where too little was measured.
        """


@dataclass(frozen=True)
class DepthPicture:
    """A depth image, pixel by pixel that of the camera.

    Attributes:
        depths: (H, W), along the optical axis; zero, negative, NaN or infinite where there is none.
        unit: metres.
        model: of the camera.
    """

    depths: npt.NDArray[Any]
    unit: float
    model: CameraModel
    source: DistanceSource = DistanceSource.DEPTH

    def distance(self, box: Box, mask: Mask) -> float | None:
        """See Measurement."""
        x, y, width, height = box
        with np.errstate(invalid='ignore'):
            depths = self.depths[y:y + height, x:x + width].astype(np.float64) * self.unit
            rows, columns = np.nonzero(mask & np.isfinite(depths) & (depths > 0))
        every = max(1, len(rows) // _MOST)
        rows, columns = rows[::every], columns[::every]
        size = (self.depths.shape[0], self.depths.shape[1])
        forward = self.model.bearings(np.column_stack([columns + x, rows + y]), size)[:, 2]
        with np.errstate(all='ignore'):
            return _told(depths[rows, columns] / forward)


@dataclass(frozen=True)
class PointsInView:
    """A point cloud before a camera.

    Attributes:
        points: (N, 3) metres, in the frame of the image; NaN where there is none.
        model: of the camera.
        image_size: (height, width) of the picture.
    """

    points: npt.NDArray[np.float64]
    model: CameraModel
    image_size: tuple[int, int]
    source: DistanceSource = DistanceSource.POINTS

    def distance(self, box: Box, mask: Mask) -> float | None:
        """See Measurement."""
        x, y, width, height = box
        columns, rows, distances = self._seen
        inside = (columns >= x) & (columns < x + width) & (rows >= y) & (rows < y + height)
        inside[inside] = mask[rows[inside] - y, columns[inside] - x]
        return _told(distances[inside])

    @cached_property
    def _seen(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Columns, rows and distances of the points in the picture."""
        pixels = self.model.project(self.points, self.image_size)
        seen = np.isfinite(pixels).all(axis=1)
        columns, rows = np.rint(pixels[seen]).astype(np.int64).T
        return columns, rows, np.linalg.norm(self.points[seen] - self.model.origin, axis=1)


def _told(distances: npt.NDArray[np.float64]) -> float | None:
    """Of values of which some may be none."""
    with np.errstate(invalid='ignore'):
        known = distances[(distances >= PLAUSIBLE_M[0]) & (distances <= PLAUSIBLE_M[1])]
    return float(np.quantile(known, NEARER)) if len(known) >= FEWEST else None
