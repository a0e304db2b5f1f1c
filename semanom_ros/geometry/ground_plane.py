"""Where things stand or hang: their lower edge, seen by a calibrated camera, above the plane z = 0 of a frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from semanom_ros.geometry.anomaly_place import DistanceSource, Place
from semanom_ros.geometry.camera_model import CameraModel
from semanom_ros.geometry.transform_tree import RigidTransform

UNCERTAIN = 0.25
"""Where one row more changes the distance by more than this share of it, it is not told."""

SPACING_M = 0.1
MOST_POINTS = 64
_BORDER = 1  # pixels; feet that near the lower edge may go on below it


@dataclass(frozen=True)
class GroundPlane:
    """A flat ground below a camera.

    Attributes:
        frame: whose plane z = 0 is the ground, z pointing up.
        camera: from the image's frame to that one.
    """

    frame: str
    camera: RigidTransform

    def footing(self, model: CameraModel, box: tuple[int, int, int, int], image_size: tuple[int, int]
                ) -> Place | None:
        """Where a thing stands that fills a box of the image.

        It is taken to stand on the ground: what hangs or flies is nearer, and what the box reaches below its feet
        makes it nearer than it is.

        Args:
            model: of the camera.
            box: (x, y, width, height), pixels.
            image_size: (height, width) of the image.

        Returns:
            None where nothing can be told: the box reaches the lower edge of the image, so that the feet may lie below
            it; it ends at or above the horizon, or so near it that one row more is a change of more than UNCERTAIN.

        Raises:
            CameraError: the camera is not that of the image.
        """
        x, y, width, height = box
        bottom = y + height - 0.5
        if y + height >= image_size[0] - _BORDER:
            return None
        left, middle, right = x - 0.5, x + (width - 1) / 2, x + width - 0.5
        pixels = [(middle, bottom), (middle, bottom - 1), (left, bottom), (right, bottom)]
        hits = self._hits(model, pixels, image_size)
        origin = self._origin(model)
        distance, above = (float(np.linalg.norm(hit - origin)) for hit in hits[:2])
        if not np.isfinite(hits[[0, 2, 3]]).all() or not above <= distance * (1 + UNCERTAIN):
            return None
        return Place(distance, DistanceSource.GROUND, hits[0], _line(hits[2], hits[3]))

    def measured(self, model: CameraModel, box: tuple[int, int, int, int], image_size: tuple[int, int],
                 distance: float, source: DistanceSource) -> Place:
        """Where a thing is that fills a box of the image, and whose distance was measured: it may hang or fly.

        Args:
            model: of the camera.
            box: (x, y, width, height), pixels.
            image_size: (height, width) of the image.
            distance: metres from the centre of projection.
            source: of that.

        Returns:
            Its lower edge at that distance, or on the ground where that would be below; without a position where the
            picture has no bearings.

        Raises:
            CameraError: the camera is not that of the image.
        """
        x, y, width, height = box
        bottom = y + height - 0.5
        pixels = [(x + (width - 1) / 2, bottom), (x - 0.5, bottom), (x + width - 0.5, bottom)]
        there = self._origin(model) + distance * model.bearings(pixels, image_size) @ self.camera.rotation.T
        if not np.isfinite(there).all():
            return Place(distance, source)
        there[:, 2] = np.maximum(there[:, 2], 0.0)
        return Place(distance, source, there[0], _line(there[1], there[2]))

    def _origin(self, model: CameraModel) -> npt.NDArray[np.float64]:
        """(3,) the centre of projection."""
        return self.camera.rotation @ np.array(model.origin) + self.camera.translation

    def _hits(self, model: CameraModel, pixels: npt.ArrayLike, image_size: tuple[int, int]
              ) -> npt.NDArray[np.float64]:
        """(N, 3) where the rays of pixels meet the ground; NaN where they do not."""
        rays = model.bearings(pixels, image_size) @ self.camera.rotation.T
        origin = self._origin(model)
        with np.errstate(all='ignore'):
            scale = -origin[2] / rays[:, 2]
            hits = origin + scale[:, None] * rays
        hits[~(np.isfinite(scale) & (scale > 0))] = np.nan
        return np.asarray(hits, np.float64)


def _line(first: npt.NDArray[np.float64], last: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(N, 3) points from one to the other, at most SPACING_M apart up to MOST_POINTS."""
    count = int(np.clip(np.ceil(np.linalg.norm(last - first) / SPACING_M) + 1, 2, MOST_POINTS))
    return np.linspace(first, last, count)
