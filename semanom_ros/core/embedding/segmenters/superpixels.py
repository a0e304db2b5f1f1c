"""Training-free segments from the patch embeddings themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from semanom_ros.core.embedding.registry import SegmenterFamily
from semanom_ros.core.embedding.segmenters.segmenter import Segmenter, inference
from semanom_ros.core.embedding.segmenters.weightless import WeightlessFamily
from semanom_ros.core.frames import Frame, Segments

if TYPE_CHECKING:
    import torch

NAMES = ('embedding',)
ITERATIONS = 5
COMPACTNESS = 0.1  # squared distance of one seed spacing counts as much as this cosine distance
UNCERTAIN = 0.6  # how far an outline may move to an edge of the picture, in patches
FINEST = 16  # pixels to a patch where outlines are drawn; finer pictures are reduced


class EmbeddingSegmenter(Segmenter):
    """SLIC over patch embeddings, outlined along the edges of the picture.

    k-means in embedding and position from seeds on a regular grid (R. Achanta et al., "SLIC superpixels compared to
    state-of-the-art superpixel methods", TPAMI 2012, with cosine distance of embeddings in place of colour), then
    OpenCV's watershed (F. Meyer, "Color image segmentation", 1992) flooded from inside each segment.
    """

    name = 'embedding'

    def __init__(self, max_segments: int) -> None:
        self.max_segments = max_segments

    @inference
    def segment(self, frame: Frame, patches: torch.Tensor) -> Segments:
        import torch
        import torch.nn.functional as F

        rows, columns, dimension = patches.shape
        vectors = patches.reshape(-1, dimension)
        down = max(1, min(rows, int((self.max_segments * rows / columns) ** 0.5)))
        across = max(1, min(columns, self.max_segments // down))
        spacing = (rows * columns / (down * across)) ** 0.5
        y, x = torch.meshgrid(torch.arange(rows, device=patches.device), torch.arange(columns, device=patches.device),
                              indexing='ij')
        place = torch.stack([y, x], dim=-1).reshape(-1, 2).float() / spacing
        owner = (y * down // rows * across + x * across // columns).reshape(-1)
        for _ in range(ITERATIONS):
            member = F.one_hot(owner, down * across).float().T
            size = member.sum(dim=1, keepdim=True)
            centres = F.normalize(member @ vectors, dim=1)
            places = (member @ place) / size.clamp(min=1)
            cost = 1 - vectors @ centres.T + COMPACTNESS * torch.cdist(place, places).square()
            owner = cost.masked_fill((size == 0).T, torch.inf).argmin(dim=1)
        parts = _connected(owner.cpu().numpy().reshape(rows, columns))
        sizes = np.bincount(parts.ravel())
        count = min(len(sizes), self.max_segments)
        rank = np.empty(len(sizes), np.int32)
        rank[np.argsort(-sizes, kind='stable')] = np.arange(1, len(sizes) + 1)
        labels = _outlined(rank[parts], frame.image)
        labels[labels > count] = 0
        return Segments(labels, np.ones(count, np.float32), ('',) * count)


def _connected(clusters: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """(rows, columns) numbers, from 0, of the connected parts of clusters."""
    parts, count = np.zeros(clusters.shape, np.int32), 0
    for cluster in np.unique(clusters):
        number, found = cv2.connectedComponents((clusters == cluster).astype(np.uint8), connectivity=4)
        parts += np.where(found > 0, found - 1 + count, 0)
        count += number - 1
    return parts


def _outlined(owners: npt.NDArray[np.int32], image: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    """(h, w) labels of pixels from those of patches (rows, columns), all >= 1: every one of them stays.

    The outlines are drawn at FINEST pixels to a patch, or at the picture's resolution where that is coarser.
    """
    rows, columns = owners.shape
    height, width = min(image.shape[0], rows * FINEST), min(image.shape[1], columns * FINEST)
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    labels = cv2.resize(owners.astype(np.float32), (width, height), interpolation=cv2.INTER_NEAREST)
    near = np.ones([2 * int(UNCERTAIN * size) + 1 for size in (height / rows, width / columns)], np.uint8)
    inside = cv2.dilate(labels, near) == cv2.erode(labels, near)
    inside |= np.isin(labels, np.setdiff1d(labels, labels[inside]))  # too thin to have an inside
    flooded = np.where(inside, labels, 0).astype(np.int32)
    cv2.watershed(small, flooded)
    lines = flooded < 1  # between two segments, and along the border
    around = cv2.dilate(flooded.astype(np.float32), np.ones((3, 3), np.uint8))
    flooded[lines] = np.where(around > 0, around, labels)[lines].astype(np.int32)
    return flooded


FAMILY: SegmenterFamily = WeightlessFamily(EmbeddingSegmenter.name, EmbeddingSegmenter, 'needs no weights')
