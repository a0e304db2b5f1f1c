"""The one way from a source image to what an encoder sees, and back."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from semanom_ros.errors import ImageError


@dataclass(frozen=True)
class PatchGrid:
    """Where the patches of an encoder lie in a source image.

    The whole source image is stretched to the encoder's input, so a patch covers
    the same share of either.

    Attributes:
        rows, columns: patches.
        height, width: source image, pixels.
    """

    rows: int
    columns: int
    height: int
    width: int

    def box(self, row: int, column: int) -> tuple[int, int, int, int]:
        """(x, y, width, height) of a patch in source pixels; neighbours share no pixel."""
        left, right = self.width * column // self.columns, self.width * (column + 1) // self.columns
        top, bottom = self.height * row // self.rows, self.height * (row + 1) // self.rows
        return left, top, right - left, bottom - top

    def centres(self) -> npt.NDArray[np.float32]:
        """(rows * columns, 2) patch centres (x, y), each in (0, 1) of the image, row by row."""
        x = (np.arange(self.columns, dtype=np.float32) + 0.5) / self.columns
        y = (np.arange(self.rows, dtype=np.float32) + 0.5) / self.rows
        return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2).astype(np.float32, copy=False)


@dataclass(frozen=True)
class Preprocessor:
    """Source images to encoder input, on the device that computes.

    The uint8 picture is uploaded as it is and resized there (bilinear with
    antialiasing, as torchvision and Pillow do). The encoder applies its own mean and
    standard deviation.

    Attributes:
        input_size: (height, width) that the encoder sees, pixels.
        device: where to compute.
    """

    input_size: tuple[int, int]
    device: torch.device

    @property
    def sha256(self) -> str:
        """Identifies the preprocessing; stored in the database and compared on load."""
        settings = {'resize': 'bilinear-antialias-stretch', 'input_size': list(self.input_size), 'colour': 'RGB 0..1'}
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()

    def __call__(self, images: list[npt.NDArray[np.uint8]]) -> torch.Tensor:
        """(B, 3, h, w) float32 in 0..1 from (H, W, 3) uint8 RGB pictures of any sizes.

        Raises:
            ImageError: not (H, W, 3) uint8, or without pixels.
        """
        return torch.cat([self._one(image) for image in images])

    def _one(self, image: npt.NDArray[np.uint8]) -> torch.Tensor:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise ImageError(f'image: found shape {image.shape} of {image.dtype}, expected (height, width, 3) of uint8')
        pixels = torch.from_numpy(np.ascontiguousarray(image))
        if self.device.type == 'cuda':
            pixels = pixels.pin_memory()
        tensor = pixels.to(self.device, non_blocking=True).permute(2, 0, 1)[None].float()
        if tensor.shape[2:] != self.input_size:
            tensor = F.interpolate(tensor, self.input_size, mode='bilinear', antialias=True, align_corners=False)
        return tensor.div_(255).clamp_(0, 1)
