"""Dense optical flow between a camera's pictures, on small grey ones."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

WIDTH = 160  # pixels; of the picture that motion is estimated on
Grey = npt.NDArray[np.uint8]


def small_grey(image: npt.NDArray[np.uint8]) -> Grey:
    """(h, w) uint8 of a picture (H, W, 3) uint8 RGB, at most WIDTH wide."""
    height, width = image.shape[:2]
    scale = min(1.0, WIDTH / width)
    size = (max(16, round(width * scale)), max(16, round(height * scale)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), np.uint8)


class Flow:
    """DIS optical flow (T. Kroeger et al., ECCV 2016)."""

    def __init__(self) -> None:
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)

    def __call__(self, first: Grey, second: Grey) -> npt.NDArray[np.float32]:
        """(h, w, 2) by how many pixels (x, y) what is in the first picture lies elsewhere in the second."""
        return np.asarray(self._flow.calc(first, second, np.zeros((*first.shape, 2), np.float32)), np.float32)
