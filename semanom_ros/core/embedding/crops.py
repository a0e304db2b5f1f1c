"""Segments as pictures of their own, for encoders that embed whole pictures."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

CONTEXT = 1.5  # side of a crop, of the longer side of the segment's box
SMALLEST = 16  # side of a crop, in pixels of the source image
BLUR = 0.1  # width of the blur round the segment, of the crop's side


def masked_crops(image: npt.NDArray[np.uint8], labels: npt.NDArray[np.int32], boxes: npt.NDArray[np.int32],
                 size: tuple[int, int]) -> list[npt.NDArray[np.uint8]]:
    """A crop round each segment, with its context blurred.

    What is round the segment stays to be seen but does not draw attention (Blur Reverse Mask of L. Yang et al.,
    "Fine-Grained Visual Prompting", NeurIPS 2023). A crop keeps the aspect; beyond the image its edge goes on.

    Args:
        image: (H, W, 3) uint8.
        labels: (H, W) int32, n for segment n - 1.
        boxes: (N, 4) x, y, width, height of the segments, in pixels.
        size: (height, width) of the crops.

    Returns:
        N crops (height, width, 3) uint8.
    """
    height, width = image.shape[:2]
    crops = []
    for number, (x, y, w, h) in enumerate(boxes.tolist(), 1):
        tall = max(CONTEXT * h, CONTEXT * w * size[0] / size[1], SMALLEST)
        wide = tall * size[1] / size[0]
        left, top = int(x + w / 2 - wide / 2), int(y + h / 2 - tall / 2)
        right, bottom = int(np.ceil(left + wide)), int(np.ceil(top + tall))
        inside = slice(max(0, top), min(height, bottom)), slice(max(0, left), min(width, right))
        beyond = max(0, -top), max(0, bottom - height), max(0, -left), max(0, right - width)
        seen = cv2.copyMakeBorder(image[inside], *beyond, cv2.BORDER_REPLICATE)
        mask = cv2.copyMakeBorder((labels[inside] == number).astype(np.uint8), *beyond, cv2.BORDER_CONSTANT)
        sharp = cv2.resize(seen, size[::-1], interpolation=cv2.INTER_AREA)
        soft = cv2.resize(mask.astype(np.float32), size[::-1], interpolation=cv2.INTER_LINEAR)[..., None]
        window = 2 * round(BLUR * size[0] / 2) + 1
        blurred = cv2.blur(cv2.blur(sharp, (window, window)), (window, window))
        crops.append(np.rint(sharp * soft + blurred * (1 - soft)).astype(np.uint8))
    return crops
