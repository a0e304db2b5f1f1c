"""What happens to a camera on its vehicle: it is turned, or its lens becomes dirty."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from semanom_ros.errors import ParameterError
from semanom_ros.simulation.painter import Picture

LARGEST_TURN = 45.0  # degrees
LARGEST_DIRT = 0.9  # share of the picture
_SPREAD = 0.22  # standard deviation of the spots of a splash round its middle, as a share of the picture
_TINT = np.array([44.0, 38.0, 30.0])  # what mud adds of its own, RGB
_BLUR = 41  # pixels: what is seen through it is out of focus


@dataclass(frozen=True)
class CameraFault:
    """What is wrong with the camera, from a moment on.

    Attributes:
        turn: degrees that it is turned to the right (negative: to the left).
        dirt: share of the picture that is seen through a splash of mud.
        start: seconds from the beginning of the drive.
    """

    turn: float = 0.0
    dirt: float = 0.0
    start: float = 0.0

    def __post_init__(self) -> None:
        """Raises ParameterError when a value is out of its bounds."""
        if not abs(self.turn) <= LARGEST_TURN:
            raise ParameterError(f'camera turn: found {self.turn:g} degrees, expected {-LARGEST_TURN:g} to '
                                 f'{LARGEST_TURN:g}; turn it less')
        if not 0 <= self.dirt <= LARGEST_DIRT:
            raise ParameterError(f'lens dirt: found {self.dirt:g}, expected a share of the picture from 0 to '
                                 f'{LARGEST_DIRT:g}')
        if not 0 <= self.start < math.inf:
            raise ParameterError(f'from: found {self.start:g} s, expected 0 or more seconds')


def splash(rng: np.random.Generator, height: int, width: int, share: float) -> npt.NDArray[np.float32]:
    """(height, width) how opaque mud on the lens is, 0 to 0.9: soft spots round one place, until a share is covered."""
    opacity = np.zeros((height, width), np.float32)
    middle = rng.uniform((0.15 * width, 0.15 * height), (0.85 * width, 0.85 * height))
    while (opacity > 0.3).mean() < share:
        x, y = rng.normal(middle, (_SPREAD * width * math.sqrt(share), _SPREAD * height * math.sqrt(share)))
        radius = height * rng.uniform(0.03, 0.10)
        spot = np.zeros_like(opacity)
        cv2.ellipse(spot, (round(x), round(y)), (round(radius), round(radius * rng.uniform(0.7, 1.3))),
                    rng.uniform(0, 180), 0, 360, float(rng.uniform(0.6, 0.9)), -1, cv2.LINE_AA)
        opacity = np.maximum(opacity, cv2.GaussianBlur(spot, (0, 0), radius / 5))
    return opacity


def through_mud(image: Picture, opacity: npt.NDArray[np.float32]) -> Picture:
    """(H, W, 3) uint8 picture through a lens that is so opaque (H, W): blurred, darkened and tinted there."""
    small = cv2.resize(image, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    blurred = cv2.resize(cv2.blur(small, (_BLUR // 4, _BLUR // 4)), image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    alpha = opacity[..., None]
    return np.clip(image * (1 - alpha) + (0.4 * blurred + _TINT) * alpha, 0, 255).astype(np.uint8)
