"""Where in an image something is, and how large."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def places(positions: npt.NDArray[np.float32], boxes: npt.NDArray[np.int32],
           image_size: tuple[npt.ArrayLike, npt.ArrayLike]) -> npt.NDArray[np.float32]:
    """(N, 3) float32: centre x and y, 0 to 1 of the image, and size: log2 of the root of the image's share.

    Twice as wide and high makes the size 1 larger.

    Args:
        positions: (N, 2) centres, 0 to 1.
        boxes: (N, 4) x, y, width, height in pixels.
        image_size: (height, width) in pixels, numbers or (N,).
    """
    height, width = (np.asarray(side, np.float64) for side in image_size)
    share = np.maximum(boxes[:, 2] / width * (boxes[:, 3] / height), 1e-12)
    return np.column_stack([positions, 0.5 * np.log2(share)]).astype(np.float32)
