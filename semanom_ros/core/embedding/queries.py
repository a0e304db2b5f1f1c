"""What of a picture is compared with the nominal database."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy import ndimage

from semanom_ros.core.embedding.places import places
from semanom_ros.core.embedding.preprocessing import PatchGrid
from semanom_ros.core.frames import Segments

MIN_COVER = 0.5  # share of a patch that segments must cover for the patch to need no query of its own


@dataclass(frozen=True)
class Queries:
    """The embeddings of one frame that are compared with the nominal database.

    Attributes:
        vectors: (N, D) float32, unit length, on the encoder's device.
        boxes: (N, 4) int32, (x, y, width, height) in source pixels.
        positions: (N, 2) float32 centres (x, y), 0 to 1 of the image.
        image_size: (height, width) of the source image in pixels.
        owners: (rows, columns) int64, the query that speaks for each patch.
        segments: the first so many queries are segments, in the order of their labels; the rest are patches.
    """

    vectors: torch.Tensor
    boxes: npt.NDArray[np.int32]
    positions: npt.NDArray[np.float32]
    image_size: tuple[int, int]
    owners: npt.NDArray[np.int64]
    segments: int = 0

    @property
    def places(self) -> npt.NDArray[np.float32]:
        """(N, 3) float32, see `places`."""
        return places(self.positions, self.boxes, self.image_size)


def patch_queries(patches: torch.Tensor, grid: PatchGrid) -> Queries:
    """Every patch (grid), from embeddings (rows, columns, D)."""
    owners = np.arange(grid.rows * grid.columns, dtype=np.int64).reshape(grid.rows, grid.columns)
    return Queries(patches.flatten(0, 1), patch_boxes(grid), grid.centres(), (grid.height, grid.width), owners)


def segment_queries(patches: torch.Tensor, grid: PatchGrid, segments: Segments, vectors: torch.Tensor | None
                    ) -> Queries:
    """Every segment, and the patches that none covers (instance).

    Args:
        patches: (rows, columns, D) embeddings.
        grid: where they lie.
        segments: at least one.
        vectors: (S, D) embeddings that stand for the segments; None: the mean of their patches.
    """
    flat = patches.flatten(0, 1)
    count = len(segments.scores)
    cover = segment_cover(segments.labels, count, grid)
    pooled = F.normalize(torch.from_numpy(cover).to(flat) @ flat, dim=1) if vectors is None else vectors
    alone = np.flatnonzero(cover.sum(axis=0) < MIN_COVER)
    owner = cover.argmax(axis=0)
    owner[alone] = count + np.arange(len(alone))
    boxes, positions = segment_boxes(segments.labels, count, (grid.height, grid.width))
    return Queries(
        torch.cat([pooled, flat[torch.from_numpy(alone).to(flat.device)]]),
        np.concatenate([boxes, patch_boxes(grid)[alone]]), np.concatenate([positions, grid.centres()[alone]]),
        (grid.height, grid.width), owner.reshape(grid.rows, grid.columns), count)


def patch_boxes(grid: PatchGrid) -> npt.NDArray[np.int32]:
    """(rows * columns, 4) boxes (x, y, width, height) of all patches in source pixels, as PatchGrid.box, row by row."""
    x = grid.width * np.arange(grid.columns + 1) // grid.columns
    y = grid.height * np.arange(grid.rows + 1) // grid.rows
    left, top = np.meshgrid(x[:-1], y[:-1])
    width, height = np.meshgrid(np.diff(x), np.diff(y))
    return np.stack([left, top, width, height], axis=-1).reshape(-1, 4).astype(np.int32)


def segment_cover(labels: npt.NDArray[np.int32], count: int, grid: PatchGrid) -> npt.NDArray[np.float32]:
    """(count, rows * columns) share of each patch that each segment covers, from labels (h, w) over the whole image.

    Exact at the patches' edges, so a segment smaller than a patch still has a share of one.
    """
    height, width = labels.shape
    rows = (np.arange(height, dtype=np.int64) * grid.rows + grid.rows - 1) // height
    columns = (np.arange(width, dtype=np.int64) * grid.columns + grid.columns - 1) // width
    rows, columns = np.minimum(rows, grid.rows - 1), np.minimum(columns, grid.columns - 1)
    patches = grid.rows * grid.columns
    index = (labels.astype(np.int64) * patches) + (rows[:, None] * grid.columns + columns[None, :])
    pixels = np.bincount(index.ravel(), minlength=(count + 1) * patches).reshape(count + 1, patches)
    area = np.bincount(rows, minlength=grid.rows)[:, None] * np.bincount(columns, minlength=grid.columns)[None, :]
    return (pixels[1:] / np.maximum(area.ravel(), 1)).astype(np.float32)


def segment_boxes(labels: npt.NDArray[np.int32], count: int, image_size: tuple[int, int]
                  ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """(count, 4) boxes in pixels of an image of this (height, width), and (count, 2) centres of mass 0..1.

    Args:
        labels: (h, w) over the whole image.
        count: of the segments.
        image_size: of the image.
    """
    height, width = labels.shape
    boxes = np.tile(np.array([width // 2, height // 2, 1, 1], np.int64), (count, 1))
    for number, slices in enumerate(ndimage.find_objects(labels, max_label=count)):
        if slices is not None:
            rows, columns = slices
            boxes[number] = columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start
    flat = labels.ravel()
    pixels = np.maximum(np.bincount(flat, minlength=count + 1), 1)
    x = np.tile(np.arange(width, dtype=np.float32), height)
    y = np.repeat(np.arange(height, dtype=np.float32), width)
    centres = np.stack([(np.bincount(flat, x, count + 1) / pixels + 0.5) / width,
                        (np.bincount(flat, y, count + 1) / pixels + 0.5) / height], axis=-1)[1:]
    ratio = np.array([image_size[1] / width, image_size[0] / height])
    first = np.floor(boxes[:, :2] * ratio)
    last = np.ceil((boxes[:, :2] + boxes[:, 2:]) * ratio)
    return np.hstack([first, last - first]).astype(np.int32), centres.astype(np.float32)
