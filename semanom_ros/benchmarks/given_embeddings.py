"""The pipeline on embeddings that are there already: everything but the encoder, as it is."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

import numpy as np
import torch

from semanom_ros.core.embedding.embedder import Embedder
from semanom_ros.core.embedding.encoders.encoder import Encoder
from semanom_ros.core.frames import Frame

FRAME_PERIOD_NS = 100_000_000


class GivenEmbeddings(Encoder):
    """Stands where the encoder is, and gives the embeddings of a drive one frame after the other, without end."""

    def __init__(self, encoder: Encoder, drive: Sequence[torch.Tensor]) -> None:
        """
        Args:
            encoder: whose embeddings they could be.
            drive: (rows, columns, D) for each frame.
        """
        self.name, self.weights, self.weights_sha256 = encoder.name, encoder.weights, encoder.weights_sha256
        self.settings, self.input_size, self.grid_size = encoder.settings, encoder.input_size, encoder.grid_size
        self.dimension, self.device, self.dtype = encoder.dimension, encoder.device, encoder.dtype
        self.wants_standardizing = encoder.wants_standardizing
        self.wants_calibration_by_place = encoder.wants_calibration_by_place
        self._drive = cycle(drive)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """The next frames' embeddings."""
        return torch.stack([next(self._drive) for _ in images])


def embedder_of(embedder: Embedder, drive: Sequence[torch.Tensor]) -> Embedder:
    """An embedder whose pictures have the embeddings of a drive."""
    return Embedder(GivenEmbeddings(embedder.encoder, drive), parameters=embedder.description.parameters)


def frames_of(embedder: Embedder, count: int, first: int = 1) -> list[Frame]:
    """Empty pictures of the encoder's input size, a tenth of a second apart."""
    picture = np.zeros((*embedder.encoder.input_size, 3), np.uint8)
    return [Frame(picture, number * FRAME_PERIOD_NS) for number in range(first, first + count)]
