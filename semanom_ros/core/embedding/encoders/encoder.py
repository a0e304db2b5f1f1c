"""The interface that every encoder has."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch


class Encoder(ABC):
    """A frozen vision foundation model: image batch in, patch embeddings out.

    Attributes:
        name: as in the parameter `encoder`, e.g. `open_clip:ViT-B-16`; a file without its folder.
        weights: what the weights are, for people: tag, file name or `random:0`.
        weights_sha256: SHA-256 of the weights file; of all tensors for random weights.
        settings: what else changes the embeddings (`features`, `layer`, `mean`, `std`, `activation`);
            the database refuses an encoder whose name, weights_sha256 or settings differ. The
            precision is not among them: its rounding is far below the distances that matter.
        input_size: (height, width) that it sees, pixels.
        grid_size: (rows, columns) of its patches at that input size.
        dimension: length D of an embedding.
        device, dtype: where and in what arithmetic it computes.
        wants_standardizing: whether its distances want each dimension standardized; False where training has shaped
            them.
        wants_calibration_by_place: whether its nominal distances differ from place to place in the image, so that
            they want to be divided by what is usual there; False where training has made them alike.
        largest_batch: pictures that it takes at once; None: any number.
    """

    name: str
    weights: str
    weights_sha256: str
    settings: dict[str, str]
    input_size: tuple[int, int]
    grid_size: tuple[int, int]
    dimension: int
    device: torch.device
    dtype: torch.dtype
    wants_standardizing: bool = True
    wants_calibration_by_place: bool = True
    largest_batch: int | None = None

    @abstractmethod
    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Patch embeddings.

        Args:
            images: (B, 3, H, W) float32, RGB, 0..1, of `input_size`, on `device`.

        Returns:
            (B, rows, columns, D) float32, each embedding of length 1, on `device`; with NaN in it where the network
            gave NaN or infinity, as half precision does that overflows.

        Raises:
            EncoderError: the images do not fit.
        """

    def warm_up(self) -> None:
        """One pass over an empty picture, so that the first real frame is not the slow one."""
        self.encode(torch.zeros(1, 3, *self.input_size, device=self.device))


class TextAlignedEncoder(Encoder):
    """An encoder whose patch embeddings can be compared with texts (CLIP)."""

    @abstractmethod
    def encode_text(self, texts: list[str]) -> torch.Tensor:
        """(N, T) float32 text embeddings of length 1, on `device`."""

    @abstractmethod
    def project_to_text(self, embeddings: torch.Tensor) -> torch.Tensor:
        """(N, T) float32 of length 1: patch embeddings (N, D) brought into the texts' space."""


class PictureEncoder(TextAlignedEncoder):
    """An encoder that embeds whole pictures in the space of its patch embeddings (CLIP with MaskCLIP's patches).

    Attributes:
        picture_size: (height, width) of the pictures, pixels.
    """

    picture_size: tuple[int, int]

    @abstractmethod
    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        """(B, D) float32 of length 1, from images (B, 3, height, width) float32, RGB, 0..1, on `device`."""
