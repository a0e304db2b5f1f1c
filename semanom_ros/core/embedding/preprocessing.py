"""The one way from a source image to what an encoder sees, and back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
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
class Prepared:
    """A picture as the encoder sees it, on its way to the device or there.

    Attributes:
        pixels: (1, 3, h, w) float32, RGB, 0..1.
        ready: what computes with the pixels waits for it; None: they are there.
    """

    pixels: torch.Tensor
    ready: torch.cuda.Event | None = None

    def wait(self) -> torch.Tensor:
        """The pixels, for the present stream of their device, which waits; the caller does not."""
        if self.ready is not None:
            stream = torch.cuda.current_stream(self.pixels.device)
            stream.wait_event(self.ready)
            self.pixels.record_stream(stream)  # the stream that they were made in may have their memory after it
        return self.pixels


class Preprocessor:
    """Source images to encoder input, on the device that computes.

    The uint8 picture is uploaded as it is and resized there (bilinear with
    antialiasing, as torchvision and Pillow do). The encoder applies its own mean and
    standard deviation. For several threads.

    Attributes:
        input_size: (height, width) that the encoder sees, pixels.
        device: where to compute.
    """

    def __init__(self, input_size: tuple[int, int], device: torch.device) -> None:
        self.input_size, self.device = input_size, device
        # of its own, so that a picture is uploaded while the encoder is at the one before
        self._stream = torch.cuda.Stream(device) if device.type == 'cuda' else None

    @property
    def sha256(self) -> str:
        """Identifies the preprocessing; stored in the database and compared on load."""
        settings = {'resize': 'bilinear-antialias-stretch', 'input_size': list(self.input_size), 'colour': 'RGB 0..1'}
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()

    def __call__(self, images: Sequence[npt.NDArray[np.uint8]]) -> torch.Tensor:
        """(B, 3, h, w) float32 in 0..1 from (H, W, 3) uint8 RGB pictures of any sizes.

        Raises:
            ImageError: not (H, W, 3) uint8, or without pixels.
        """
        return torch.cat([self.prepare(image).wait() for image in images])

    def prepare(self, image: npt.NDArray[np.uint8]) -> Prepared:
        """Begins the way of one picture; on a GPU it goes on when this returns.

        Raises:
            ImageError: not (H, W, 3) uint8, or without pixels.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise ImageError(f'image: found shape {image.shape} of {image.dtype}, expected (height, width, 3) of uint8')
        image = np.ascontiguousarray(image)
        if self._stream is None:
            return Prepared(_resized(torch.from_numpy(image), self.input_size))
        with torch.cuda.stream(self._stream):
            pixels = torch.from_numpy(image).pin_memory().to(self.device, non_blocking=True)
            prepared = _resized(pixels, self.input_size)
            return Prepared(prepared, self._stream.record_event())


def _resized(pixels: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(1, 3, h, w) float32 in 0..1 from (H, W, 3) of 0..255."""
    tensor = pixels.permute(2, 0, 1).contiguous().float()[None]  # bytes are rearranged in less time than floats
    if tensor.shape[2:] != size:
        tensor = F.interpolate(tensor, size, mode='bilinear', antialias=True, align_corners=False)
    return tensor.div_(255).clamp_(0, 1)
