"""Fewer embeddings that stand for all: near duplicates dropped, or a greedy coreset.

Both work in a search space (`index.Space`), where half the squared distance is the distance meant.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from semanom_ros.core.database.index_file import faiss
from semanom_ros.core.progress import SILENT, Progress

BLOCK = 2048


def distinct(points: npt.NDArray[np.float32], distance: float, progress: Progress = SILENT) -> npt.NDArray[np.int64]:
    """Indices of points of which no two are within a distance, while every other point is within it of one of them.

    The first of several near ones is kept.

    Args:
        points: (N, d).
        distance: half the squared distance within which points count as the same.
        progress: is told of points.
    """
    kept = np.empty((BLOCK, points.shape[1]), np.float32)
    indices: list[int] = []
    progress.begin('find near duplicates', len(points), 'vector')
    for start in range(0, len(points), BLOCK):
        block = np.ascontiguousarray(points[start:start + BLOCK])
        candidates = np.arange(len(block))
        if indices:
            nearest, _ = faiss.knn(block, kept[:len(indices)], 1, faiss.METRIC_L2)
            candidates = candidates[nearest[:, 0] * 0.5 > distance]
        chosen = candidates[_distinct_within(block[candidates], distance)]
        while len(indices) + len(chosen) > len(kept):
            kept = np.concatenate([kept, np.empty_like(kept)])
        kept[len(indices):len(indices) + len(chosen)] = block[chosen]
        indices += (start + chosen).tolist()
        progress.advance(len(block))
    progress.end()
    return np.array(indices, np.int64)


def _distinct_within(block: npt.NDArray[np.float32], distance: float) -> npt.NDArray[np.int64]:
    near = _half_squared(torch.from_numpy(block), torch.from_numpy(block)).numpy() <= distance
    alive = np.ones(len(block), bool)
    for i in range(len(block)):
        if alive[i]:
            alive[i + 1:] &= ~near[i, i + 1:]
    return np.flatnonzero(alive)


def coreset(points: npt.NDArray[np.float32], size: int, progress: Progress = SILENT) -> npt.NDArray[np.int64]:
    """Indices, ascending, of a greedy coreset: always the point farthest from those chosen (T. F. Gonzalez, 1985).

    The choice of PatchCore (K. Roth et al., CVPR 2022), without its random projection.
    Distances only shrink as points are chosen, so an old one is an upper bound: most
    points are never looked at again. The result is that of the plain algorithm.

    Args:
        points: (N, d).
        size: how many to choose, at most N.
        progress: is told of points chosen.
    """
    everything = torch.from_numpy(points if points.flags.writeable else points.copy())
    chosen = torch.empty((size, points.shape[1]))
    indices: list[int] = []
    bound = np.full(len(points), np.inf, np.float32)  # upper bound of the distance to those chosen
    seen = np.zeros(len(points), np.int64)  # how many of those chosen it takes into account

    def choose(index: int) -> None:
        chosen[len(indices)] = everything[index]
        indices.append(index)
        bound[index] = -1
        progress.advance(1)

    progress.begin('choose coreset', size, 'vector')
    choose(0)
    while len(indices) < size:
        block = np.argpartition(bound, -BLOCK)[-BLOCK:] if len(bound) > BLOCK else np.arange(len(bound))
        outside = np.inf if len(bound) > BLOCK else -np.inf
        if len(bound) > BLOCK:
            others = np.ones(len(bound), bool)
            others[block] = False
            outside = float(bound[others].max())
        block = block[bound[block] >= 0]
        own = everything[block]
        first = int(seen[block].min())
        fresh = _half_squared(own, chosen[first:len(indices)]).amin(dim=1).numpy()
        bound[block] = np.minimum(bound[block], fresh)
        while len(indices) < size:
            best = int(bound[block].argmax())
            if bound[block[best]] < outside or bound[block[best]] < 0:
                break
            choose(int(block[best]))
            last = _half_squared(own, chosen[len(indices) - 1:len(indices)])[:, 0].numpy()
            bound[block] = np.minimum(bound[block], last)
        seen[block] = len(indices)
    progress.end()
    return np.sort(np.array(indices, np.int64))


def _half_squared(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """(len(a), len(b)) halves of the squared distances, not negative."""
    squares = a.square().sum(dim=1)[:, None] + b.square().sum(dim=1)[None]
    return torch.addmm(squares, a, b.T, beta=0.5, alpha=-1.0).clamp_(min=0)
