"""Fewer embeddings that stand for all: near duplicates dropped, then a coreset, of any number of them.

All work in a search space (`index.Space`), where half the squared distance is the distance meant. The embeddings are
gone through in blocks, several times, and fall into cells of neighbouring ones. What is near is sought within a cell
only, so memory and time grow with the embeddings and not with their square, and what another cell holds can only make
the result better than it says it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from semanom_ros.core.database.index_file import faiss
from semanom_ros.core.database.points import Points, gathered
from semanom_ros.core.progress import SILENT, Progress
from semanom_ros.errors import DatabaseError

BLOCK = 2048

MEMORY = 3 << 30
"""Bytes of embeddings that are in memory at once, beside those that are kept while what they stand for is measured."""

CELL = 1024
"""Embeddings of a cell, on average, where they are many."""

WHOLE = 20_000
"""Embeddings up to which all are one cell: the coreset is that of the plain algorithm then."""

_LEAST_CHOSEN = 16  # of a cell on average: the first of each is chosen whatever it is worth
_TRIMMED = 1.1  # times what is wanted that is held before the least of it is given up
_SAMPLE = 32  # embeddings for each centre of a cell
_TOGETHER = 256  # points that are compared with those that are distinct already, and then with each other
_LOOKED_AT = 256  # points that the next one is chosen of: few enough for the caches of the processor
_ITERATIONS = 8  # of k-means: cells need not be the best ones


@dataclass(frozen=True)
class Ranking:
    """Points in the order in which a coreset takes them: of any size its first ones.

    Attributes:
        rows: (M,) which points; the others are near duplicates of these, or were not worth ranking.
        worth: (M,) float32 distance of each to those of its cell before it, falling; inf for the first of a cell.
        cell_of: (N,) int32 cell of every point.
    """

    rows: npt.NDArray[np.int64]
    worth: npt.NDArray[np.float32]
    cell_of: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.rows)

    def first(self, size: int | None) -> npt.NDArray[np.int64]:
        """The rows, ascending, of a coreset of at most so many; None: all that are ranked."""
        return np.sort(self.rows[:size])


def ranking(points: Points, distance: float = 0.0, size: int | None = None, *, memory: int = MEMORY,
            progress: Progress = SILENT) -> Ranking:
    """Near duplicates dropped, and the rest ranked by how far each is from those before it.

    Where no size is wanted, the first of several near duplicates is kept, and there is nothing to rank. Else it is
    greedy k-centre within each cell, where always the point farthest from those chosen comes next (T. F. Gonzalez,
    1985), until the rest are near duplicates, and the largest steps over all cells first: as where a coreset is made of
    those of parts (G. Malkomes et al., NeurIPS 2015), but for what a cell gets, which is as much as it is worth. With
    one cell it is the plain algorithm, which is PatchCore's choice (K. Roth et al., CVPR 2022) without its random
    projection.

    Args:
        points: N of them, which are gone through several times.
        distance: half the squared distance within which points count as the same.
        size: how many are wanted at most; None: all are ranked.
        memory: bytes of points that are in memory at once, at least a block.
        progress: is told.

    Raises:
        DatabaseError: a number that is not finite.
    """
    count, dimension = points.shape
    capacity = max(BLOCK, memory // (4 * dimension))
    cells = _Cells.of(points, _cell_count(count, size), capacity, progress)
    worthiest = _Worthiest(size)
    progress.begin('compact', count, 'vector')
    for first, last in cells.groups:
        ascending = np.sort(cells.order[cells.bounds[first]:cells.bounds[last]])
        held = gathered(points, ascending)
        for cell in range(first, last):
            own = cells.order[cells.bounds[cell]:cells.bounds[cell + 1]]
            one = held if len(own) == len(held) else held[torch.from_numpy(np.searchsorted(ascending, own))]
            if size is None:
                different = own[distinct(one, distance)]
                worthiest.add(different, np.full(len(different), np.inf, np.float32))
            else:
                order, steps = farthest_first(one, min(len(one), size), max(distance, worthiest.least))
                worthiest.add(own[order], steps)
            progress.advance(int(cells.bounds[cell + 1] - cells.bounds[cell]))
        del held, one
    progress.end()
    return Ranking(*worthiest.ranked(), cells.cell_of)


class _Worthiest:
    """Of what all cells have chosen, as much as is wanted at most, by worth."""

    def __init__(self, size: int | None) -> None:
        self._size = size
        self._rows: list[npt.NDArray[np.int64]] = []
        self._worth: list[npt.NDArray[np.float32]] = []
        self._held = 0
        self.least = 0.0
        """What is worth less is not wanted: so much is worth more already."""

    def add(self, rows: npt.NDArray[np.int64], worth: npt.NDArray[np.float32]) -> None:
        """Of another cell."""
        self._rows.append(rows)
        self._worth.append(worth)
        self._held += len(rows)
        if self._size is not None and self._held > _TRIMMED * self._size:
            rows, worth = self.ranked()
            self._rows, self._worth, self._held = [rows], [worth], len(rows)
            self.least = float(worth[-1])

    def ranked(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Rows and worth, falling; of equal ones that of the first row first."""
        rows = np.concatenate([np.zeros(0, np.int64), *self._rows])
        worth = np.concatenate([np.zeros(0, np.float32), *self._worth])
        best = np.lexsort((rows, -worth))[:self._size]
        return rows[best], worth[best]


def measured(points: Points, ranked: Ranking, kept: npt.NDArray[np.int64], *, memory: int = MEMORY,
             progress: Progress = SILENT) -> npt.NDArray[np.float32]:
    """(N,) distance of every point to one that is kept, 0 of those themselves: none is farther from all of them.

    Args:
        points: all of them.
        ranked: their ranking, for its cells.
        kept: (K,) rows, ascending; they are in memory meanwhile.
        memory: bytes of other points that are.
        progress: is told.
    """
    count, dimension = points.shape
    capacity = max(BLOCK, memory // (4 * dimension))
    near = np.zeros(count, np.float32)
    chosen = gathered(points, kept)
    cell_of_kept = ranked.cell_of[kept]
    by_cell = np.argsort(cell_of_kept, kind='stable')
    starts = np.searchsorted(cell_of_kept[by_cell], np.arange(int(ranked.cell_of.max(initial=0)) + 2))
    progress.begin('measure', count, 'vector')
    for start, held in _regrouped(points, capacity):
        cells = ranked.cell_of[start:start + len(held)]
        order = np.argsort(cells, kind='stable')
        ends = np.flatnonzero(np.diff(cells[order], append=-1)) + 1
        for first, last in zip(np.r_[0, ends[:-1]], ends, strict=True):
            rows, cell = order[first:last], cells[order[first]]
            candidates = by_cell[starts[cell]:starts[cell + 1]]
            # where a cell has lost all of its own, any are: true, if far
            others = chosen[torch.from_numpy(candidates)] if len(candidates) else chosen
            near[start + rows] = _nearest(held[torch.from_numpy(rows)], others).numpy()
        progress.advance(len(held))
    progress.end()
    near[kept] = 0
    return near


def _nearest(points: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """(n,) distance of each to the nearest of others, from their difference: exact where it is next to nothing."""
    found = torch.empty(len(points))
    squares = others.square().sum(dim=1)[None] / 2
    step = max(1, min(BLOCK, (1 << 24) // len(others)))
    for start in range(0, len(points), step):
        block = points[start:start + step]
        index = torch.addmm(squares, block, others.T, alpha=-1.0).argmin(dim=1)
        found[start:start + step] = (block - others[index]).square().sum(dim=1) / 2
    return found


def distinct(points: torch.Tensor, distance: float) -> npt.NDArray[np.int64]:
    """Indices of points of which no two are within a distance, while every other point is within it of one of them.

    The first of several near ones is kept.

    Args:
        points: (N, d) float32.
        distance: half the squared distance within which points count as the same.
    """
    kept = torch.empty((min(_TOGETHER, len(points)), points.shape[1]))
    squares = torch.empty(len(kept))
    indices: list[int] = []
    for start in range(0, len(points), _TOGETHER):
        block = points[start:start + _TOGETHER]
        own, known = block.square().sum(dim=1) / 2, len(indices)
        candidates = np.arange(len(block))
        if known:
            nearest = torch.addmm(squares[:known][None], block, kept[:known].T, alpha=-1.0).amin(dim=1) + own
            candidates = candidates[nearest.clamp_(min=0).numpy() > distance]
        chosen = candidates[_distinct_within(block[torch.from_numpy(candidates)], distance)]
        while known + len(chosen) > len(kept):
            kept, squares = torch.cat([kept, torch.empty_like(kept)]), torch.cat([squares, torch.empty_like(squares)])
        rows = torch.from_numpy(chosen)
        kept[known:known + len(chosen)], squares[known:known + len(chosen)] = block[rows], own[rows]
        indices += (start + chosen).tolist()
    return np.array(indices, np.int64)


def _distinct_within(block: torch.Tensor, distance: float) -> npt.NDArray[np.int64]:
    near = _half_squared(block, block).numpy() <= distance
    np.fill_diagonal(near, False)
    alive = np.ones(len(block), bool)
    for i in np.flatnonzero(near.any(axis=1)):
        if alive[i]:
            alive[i + 1:] &= ~near[i, i + 1:]
    return np.flatnonzero(alive)


def farthest_first(points: torch.Tensor, size: int, least: float = 0.0
                   ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Points in the order of a greedy k-centre: the first, then always the one farthest from those chosen.

    Distances only shrink as points are chosen, so an old one is an upper bound: most
    points of many are never looked at again. The result is that of the plain algorithm.

    Args:
        points: (N, d) float32, at least one.
        size: how many to choose, at most N.
        least: no further ones once none is that far from those chosen.

    Returns:
        Indices, and the distance of each to those before it, falling; inf for the first.
    """
    chosen = torch.empty((size, points.shape[1]))
    squares = points.square().sum(dim=1) / 2
    indices: list[int] = []
    steps: list[float] = []
    bound = np.full(len(points), np.inf, np.float32)  # upper bound of the distance to those chosen
    seen = np.zeros(len(points), np.int64)  # how many of those chosen it takes into account

    def choose(index: int, step: float) -> None:
        chosen[len(indices)] = points[index]
        indices.append(index)
        steps.append(step)
        bound[index] = -1

    choose(0, np.inf)
    while len(indices) < size:
        whole = len(bound) <= _LOOKED_AT
        block = np.arange(len(bound)) if whole else np.argpartition(bound, -_LOOKED_AT)[-_LOOKED_AT:]
        outside = -np.inf
        if not whole:
            others = np.ones(len(bound), bool)
            others[block] = False
            outside = float(bound[others].max())
        block = block[bound[block] >= 0]
        rows = torch.from_numpy(block)
        own, own_squares = points[rows], squares[rows]
        first = int(seen[block].min())
        known = torch.from_numpy(bound[block])
        if first < len(indices):
            known = torch.minimum(known, _half_squared(own, chosen[first:len(indices)]).amin(dim=1))
        while len(indices) < size:
            best = int(known.argmax())
            step = float(known[best])
            if step < outside or step < 0:
                break
            if step < least:
                return np.array(indices, np.int64), np.array(steps, np.float32)
            choose(int(block[best]), step)
            last = torch.mv(own, own[best]).neg_().add_(own_squares).add_(own_squares[best]).clamp_(min=0)
            torch.minimum(known, last, out=known)
            known[best] = -1
        bound[block] = known.numpy()
        seen[block] = len(indices)
    return np.array(indices, np.int64), np.array(steps, np.float32)


def _half_squared(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """(len(a), len(b)) halves of the squared distances, not negative."""
    squares = (a.square().sum(dim=1)[:, None] + b.square().sum(dim=1)[None]) / 2
    return torch.addmm(squares, a, b.T, alpha=-1.0).clamp_(min=0)


def _cell_count(count: int, size: int | None) -> int:
    """How many cells points fall into: one where they are few enough to be compared with each other."""
    if count <= WHOLE:
        return 1
    cells = -(-count // CELL)
    return cells if size is None else max(1, min(cells, size // _LEAST_CHOSEN))


@dataclass(frozen=True)
class _Cells:
    """Points by the cell that they fall into.

    Attributes:
        cell_of: (N,) int32.
        order: (N,) points, cell after cell, ascending in each.
        bounds: (cells + 1,) where each cell begins in `order`.
        groups: (first, end) of cells that are in memory at once.
    """

    cell_of: npt.NDArray[np.int32]
    order: npt.NDArray[np.int64]
    bounds: npt.NDArray[np.int64]
    groups: list[tuple[int, int]]

    @property
    def count(self) -> int:
        return len(self.bounds) - 1

    @classmethod
    def of(cls, points: Points, wanted: int, capacity: int, progress: Progress) -> _Cells:
        """About so many cells, none of them larger than the capacity: one that would be is cut into several."""
        count = points.shape[0]
        cell_of = _fallen(points, wanted, progress)
        order = np.argsort(cell_of, kind='stable')
        fallen = cell_of[order]
        begins = np.flatnonzero(np.diff(fallen, prepend=-1)) if count else np.zeros(0, np.int64)
        ends = np.r_[begins[1:], count][:len(begins)]
        pieces = [np.arange(begin, end, capacity) for begin, end in zip(begins, ends, strict=True)]
        starts = np.concatenate([np.zeros(0, np.int64), *pieces])
        bounds = np.r_[starts, count]
        cell_of[order] = np.repeat(np.arange(len(starts), dtype=np.int32), np.diff(bounds))
        groups, first = [], 0
        for cell in range(len(starts)):
            if bounds[cell + 1] - bounds[first] > capacity:
                groups.append((first, cell))
                first = cell
        if len(starts):
            groups.append((first, len(starts)))
        return cls(cell_of, order, bounds, groups)


def _fallen(points: Points, wanted: int, progress: Progress) -> npt.NDArray[np.int32]:
    """(N,) to which of about so many centres points fall: the nearest of few, and of those beside that the nearest."""
    count = points.shape[0]
    cell_of = np.zeros(count, np.int32)
    outer = max(1, round(math.sqrt(wanted)))
    if wanted > 1:
        rows = np.linspace(0, count - 1, min(count, _SAMPLE * wanted)).astype(np.int64)
        sample = gathered(points, np.unique(rows))
        _check_finite(sample, 0)
        coarse = _centres(sample, outer)
        fell = _to(sample, coarse)
        fine = [_centres(own, max(1, round(wanted * len(own) / len(sample)))) if len(own) else coarse[number:number + 1]
                for number in range(outer) for own in [sample[fell == number]]]
        firsts = np.cumsum([0, *map(len, fine)])
        del sample
    progress.begin('sort into cells', count, 'vector')
    for start, block in points.blocks():
        _check_finite(block, start)
        if wanted > 1:
            first = _to(block, coarse)
            for number in torch.unique(first).tolist():
                inside = first == number
                cell_of[start:start + len(block)][inside.numpy()] = firsts[number] + _to(
                    block[inside], fine[number]).numpy()
        progress.advance(len(block))
    progress.end()
    return cell_of


def _check_finite(block: torch.Tensor, first: int) -> None:
    if not bool(torch.isfinite(block).all()):
        raise DatabaseError(f'embeddings from {first} on: found a number that is not finite, expected finite ones; '
                            'restore them from a backup or record anew')


def _centres(sample: torch.Tensor, count: int) -> torch.Tensor:
    """(count, d) centres of a sample, by k-means; fewer where it holds fewer."""
    if count == 1 or len(sample) <= count:
        return sample[:count] if len(sample) <= count else sample.mean(dim=0, keepdim=True)
    means = faiss.Kmeans(sample.shape[1], count, niter=_ITERATIONS, seed=0, min_points_per_centroid=1,
                         max_points_per_centroid=4 * _SAMPLE)
    means.train(np.ascontiguousarray(sample.numpy()))
    return torch.from_numpy(means.centroids)


def _to(points: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    """(n,) which centre is nearest to each."""
    if len(centres) == 1:
        return torch.zeros(len(points), dtype=torch.int64)
    return torch.addmm(centres.square().sum(dim=1)[None] / 2, points, centres.T, alpha=-1.0).argmin(dim=1)


def _regrouped(points: Points, capacity: int) -> Iterator[tuple[int, torch.Tensor]]:
    """The points so many at a time, in memory that is used again for the next ones."""
    held, first, filled = torch.empty((min(capacity, points.shape[0]), points.shape[1])), 0, 0
    for _, block in points.blocks():
        while len(block):
            fits = block[:len(held) - filled]
            held[filled:filled + len(fits)] = fits
            filled, block = filled + len(fits), block[len(fits):]
            if filled == len(held):
                yield first, held
                first, filled = first + filled, 0
    if filled:
        yield first, held[:filled]
