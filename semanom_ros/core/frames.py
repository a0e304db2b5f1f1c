"""What goes into the pipeline: pictures, and masks that came with them."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Segments:
    """Instance masks of one image.

    Attributes:
        labels: (h, w) int32 over the whole image, at the resolution that they were found at: 0 where no segment is,
            n for segment n - 1.
        scores: (N,) float32, confidence of each segment, 0 to 1.
        names: N names, '' where the segmenter knows none.
    """

    labels: npt.NDArray[np.int32]
    scores: npt.NDArray[np.float32]
    names: tuple[str, ...]

    def at(self, size: tuple[int, int]) -> npt.NDArray[np.int32]:
        """(H, W) int32 labels of an image of this (height, width)."""
        if self.labels.shape == size:
            return self.labels
        return np.asarray(cv2.resize(self.labels, size[::-1], interpolation=cv2.INTER_NEAREST), np.int32)


@dataclass(frozen=True)
class Frame:
    """One camera picture.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        stamp_ns: time of exposure in nanoseconds, as stamped by the camera driver.
        camera: name of the stream that the frame belongs to; temporal state (tracks
            and their evidence) is kept apart for each.
        source: where the frame came from, for provenance: the bag's path or
            `live:<topic>`.
        topic: the image topic.
        segments: instance masks that came with it, for the segmenter `topic`; None: none did.
        still: it has nothing to do with the frames before and after it, however close they are stamped.
        received_ns: when it came, in nanoseconds of a clock that never goes back, for cameras whose stamps say
            nothing; 0: unknown.
    """

    image: npt.NDArray[np.uint8]
    stamp_ns: int
    camera: str = 'camera'
    source: str = ''
    topic: str = ''
    segments: Segments | None = None
    still: bool = False
    received_ns: int = 0

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image, pixels."""
        return self.image.shape[0], self.image.shape[1]
