"""Where a thing is, as far as that is known, and what told."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt


class DistanceSource(IntEnum):
    """What told how far a thing is; 0 is left for what is not known."""

    GROUND = 1
    """Its lower edge, taken to stand on the ground."""
    DEPTH = 2
    """A depth image."""
    POINTS = 3
    """A point cloud."""


@dataclass(frozen=True)
class Place:
    """Where one thing is.

    Attributes:
        distance: metres from the camera's centre of projection.
        source: of the distance.
        position: (3,) metres in the frame of the ground, the middle of its lower edge; None: the ground is not known.
        edge: (N, 3) metres in that frame, points along its lower edge; None likewise.
    """

    distance: float
    source: DistanceSource
    position: npt.NDArray[np.float64] | None = None
    edge: npt.NDArray[np.float64] | None = None
