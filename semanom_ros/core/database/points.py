"""Embeddings that are gone through in blocks, wherever they lie."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from semanom_ros.core.database.index import as_tensor


class Points(Protocol):
    """Embeddings in the space that they are searched in, which are read in blocks.

    Attributes:
        shape: (N, d).
    """

    @property
    def shape(self) -> tuple[int, int]: ...

    def blocks(self) -> Iterator[tuple[int, torch.Tensor]]:
        """All of them from the first on: number of the first one of a block, and (n, d) float32."""


@dataclass(frozen=True)
class ArrayPoints:
    """Points that are in memory.

    Attributes:
        array: (N, d) float32.
    """

    array: npt.NDArray[np.float32]

    @property
    def shape(self) -> tuple[int, int]:
        return self.array.shape[0], self.array.shape[1]

    def blocks(self) -> Iterator[tuple[int, torch.Tensor]]:
        """In one block."""
        yield 0, as_tensor(self.array)


def gathered(points: Points, rows: npt.NDArray[np.int64]) -> torch.Tensor:
    """(len(rows), d) some points, by ascending rows."""
    found, filled = torch.empty((len(rows), points.shape[1])), 0
    for start, block in points.blocks():
        last = int(np.searchsorted(rows, start + len(block)))
        if last > filled:
            found[filled:last] = block[torch.from_numpy(rows[filled:last] - start)]
        filled = last
        if filled == len(rows):
            break
    return found
