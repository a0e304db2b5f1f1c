"""Where things stand: their lower edge, seen by a calibrated camera, on the plane z = 0 of a frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from semanom_ros.geometry.camera_model import CameraModel
from semanom_ros.geometry.transform_tree import RigidTransform

UNCERTAIN = 0.25
"""Where one row more changes the distance by more than this share of it, it is not told."""

SPACING_M = 0.1
MOST_POINTS = 64
_BORDER = 1  # pixels; feet that near the lower edge may go on below it


@dataclass(frozen=True)
class Footing:
    """Where one thing stands, in the frame of the ground.

    Attributes:
        position: (3,) metres, the middle of its lower edge.
        distance: metres from the camera's centre of projection to there.
        edge: (N, 3) metres, points along its lower edge, at most SPACING_M apart up to MOST_POINTS.
    """

    position: npt.NDArray[np.float64]
    distance: float
    edge: npt.NDArray[np.float64]


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
                ) -> Footing | None:
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
        origin = self.camera.rotation @ np.array(model.origin) + self.camera.translation
        distance, above = (float(np.linalg.norm(hit - origin)) for hit in hits[:2])
        if not np.isfinite(hits[[0, 2, 3]]).all() or not above <= distance * (1 + UNCERTAIN):
            return None
        count = int(np.clip(np.ceil(np.linalg.norm(hits[3] - hits[2]) / SPACING_M) + 1, 2, MOST_POINTS))
        return Footing(hits[0], distance, np.linspace(hits[2], hits[3], count))

    def _hits(self, model: CameraModel, pixels: npt.ArrayLike, image_size: tuple[int, int]
              ) -> npt.NDArray[np.float64]:
        """(N, 3) where the rays of pixels meet the ground; NaN where they do not."""
        rays = model.bearings(pixels, image_size) @ self.camera.rotation.T
        origin = self.camera.rotation @ np.array(model.origin) + self.camera.translation
        with np.errstate(all='ignore'):
            scale = -origin[2] / rays[:, 2]
            hits = origin + scale[:, None] * rays
        hits[~(np.isfinite(scale) & (scale > 0))] = np.nan
        return np.asarray(hits, np.float64)
