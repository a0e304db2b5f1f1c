"""The interface that every segmenter has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch


@dataclass(frozen=True)
class Segments:
    """Instance masks of one image.

    Attributes:
        labels: (H, W) int32 at source resolution: 0 where no segment is, n for segment n - 1.
        scores: (N,) float32, confidence of each segment, 0 to 1.
        names: N names, '' where the segmenter knows none.
    """

    labels: npt.NDArray[np.int32]
    scores: npt.NDArray[np.float32]
    names: tuple[str, ...]


class Segmenter(ABC):
    """Image and its patch embeddings in, instance masks out.

    Attributes:
        name: as in the parameter `segmenter`.
        max_segments: the most segments that one image may have.
    """

    name: str
    max_segments: int

    @abstractmethod
    def segment(self, image: npt.NDArray[np.uint8], patches: torch.Tensor) -> Segments:
        """Segments of an image.

        Args:
            image: (H, W, 3) uint8 RGB.
            patches: (rows, columns, D) float32 patch embeddings of length 1.
        """
