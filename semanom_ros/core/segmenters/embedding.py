"""Training-free segments from the patch embeddings themselves."""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from semanom_ros.core.frames import Frame, Segments
from semanom_ros.core.segmenters.base import Segmenter

ITERATIONS = 5
COMPACTNESS = 1.0  # squared distance of one seed spacing counts as much as this cosine distance


class EmbeddingSegmenter(Segmenter):
    """SLIC over patch embeddings: k-means in embedding and position from seeds on a regular grid.

    R. Achanta et al., "SLIC superpixels compared to state-of-the-art superpixel methods", TPAMI 2012, with cosine
    distance of embeddings in place of colour.
    """

    name = 'embedding'

    def __init__(self, max_segments: int) -> None:
        self.max_segments = max_segments

    @torch.inference_mode()
    def segment(self, frame: Frame, patches: torch.Tensor) -> Segments:
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
        owners = np.unique(owner.cpu().numpy(), return_inverse=True)[1].reshape(rows, columns)
        count = int(owners.max()) + 1
        height, width = frame.image.shape[:2]
        labels = cv2.resize(owners.astype(np.uint16), (width, height), interpolation=cv2.INTER_NEAREST)
        return Segments(labels.astype(np.int32) + 1, np.ones(count, np.float32), ('',) * count)
