"""Nearest neighbours on a GPU: sought in half precision, measured in full."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

_TOGETHER = 32  # vectors of which the nearest stands for all, while it is sought
_MEASURED = 8  # vectors beyond the k nearest whose distance is measured
_CELLS = 1 << 28  # of the matrix of products that is in memory at once
_FINER = 2048.0  # what half precision leaves of a number, times this, is in its range again
_ALIGNED = 8  # numbers: what the tensor cores want rows to be a multiple of
_LOWEST = -65504.0  # of half precision: the product with what fills up
_ABSENT = _LOWEST / 2  # no product with a vector is that low
_ROUNDED = 2.0 ** -11  # of a product, relative: half precision
_SUMMED = 2.0 ** -15  # of squared lengths: what summing in single precision may lose, with room


@dataclass(frozen=True)
class Nearest:
    """The nearest vectors of each query, on the device.

    Attributes:
        distances: (M, k) float32, half the squared distance, ascending; inf where there are fewer.
        indices: (M, k) int64; -1 where there are fewer.
        rest: (M,) float32 what the distance to no other vector is below; inf where there is no other.
    """

    distances: torch.Tensor
    indices: torch.Tensor
    rest: torch.Tensor

    @property
    def certain(self) -> torch.Tensor:
        """(M,) whether no other vector is nearer."""
        return self.distances[:, -1] <= self.rest

    @classmethod
    def merged(cls, found: Iterable[Nearest], k: int) -> Nearest:
        """The k nearest of several."""
        known = list(found)
        distances = torch.cat([one.distances for one in known], dim=1)
        indices = torch.cat([one.indices for one in known], dim=1)
        if distances.shape[1] < k:
            distances = F.pad(distances, (0, k - distances.shape[1]), value=torch.inf)
            indices = F.pad(indices, (0, k - indices.shape[1]), value=-1)
        if len(known) > 1 or distances.shape[1] > k:
            distances, order = distances.topk(k, dim=1, largest=False)
            indices = indices.gather(1, order)
        return cls(distances, indices, torch.stack([one.rest for one in known]).amin(dim=0))


class HalfPrecisionVectors:
    """Vectors (N, d), each number as one of half precision and the rest of it as another.

    The first ones alone are gone through for each query, by the tensor cores and with half of the memory traffic; from
    both the distances to the few that are nearest there are measured as in single precision. How far a product can be
    off is bounded by what rounding left of the vectors and of the query, so it is known whether another one can be
    nearer than those that were found.
    """

    def __init__(self, count: int, dimension: int, device: torch.device) -> None:
        """Room for vectors, see `put`.

        Args:
            count, dimension: N and d.
            device: where they are, and where they are searched.
        """
        self._count, self._dimension = count, dimension
        columns = -(-(dimension + 2) // _ALIGNED) * _ALIGNED
        rows = -(-count // _TOGETHER) * _TOGETHER
        self._coarse = torch.zeros((rows, columns), dtype=torch.float16, device=device)
        self._coarse[count:, dimension] = _LOWEST  # what fills up is far from everything
        self._fine = torch.zeros((rows, dimension), dtype=torch.float16, device=device)
        self._longest = torch.zeros((), device=device)
        self._left = torch.zeros((), device=device)

    def __len__(self) -> int:
        return self._count

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self._coarse.device

    def put(self, start: int, vectors: torch.Tensor) -> None:
        """Takes vectors (n, d) float32, as number `start` on."""
        rows, dimension = slice(start, start + len(vectors)), self._dimension
        coarse = vectors.half()
        left = vectors - coarse.float()
        # the product with a query is the negative of their distance, but for what all products of a query have in
        # common: near nothing, where numbers of half precision are finest
        squares = -(vectors.square().sum(dim=1) + 1) / 2
        self._coarse[rows, :dimension] = coarse
        self._coarse[rows, dimension] = squares.half()
        self._coarse[rows, dimension + 1] = (squares - squares.half().float()).half()
        self._fine[rows] = (left * _FINER).half()
        self._longest = torch.maximum(self._longest, vectors.norm(dim=1).amax())
        self._left = torch.maximum(self._left, left.norm(dim=1).amax())

    def search(self, queries: torch.Tensor, k: int, excluded: tuple[int, int] = (0, 0)) -> Nearest:
        """The k nearest, but where that is not `certain` some that are near.

        Args:
            queries: (M, d) float32, on the device.
            k: how many.
            excluded: (first, end) of those that are passed over.
        """
        taken = min(k + _MEASURED, self._count)
        values, rows = self._highest(queries, taken + 1, excluded)
        distances = self._distances(queries, rows[:, :taken])
        distances = distances.masked_fill(values[:, :taken] <= _ABSENT, torch.nan).nan_to_num(torch.inf, torch.inf)
        distances, order = distances.topk(min(k, taken), dim=1, largest=False)
        indices = rows.gather(1, order).masked_fill(distances.isinf(), -1)
        return Nearest(distances, indices, self._rest(queries, values, taken))

    def _highest(self, queries: torch.Tensor, count: int, excluded: tuple[int, int]
                 ) -> tuple[torch.Tensor, torch.Tensor]:
        """(M, `count`, or all that there are) highest products, falling, and which rows they are of."""
        # ones for what stands behind a vector's numbers; behind that there are zeros
        coded = F.pad(queries.half(), (0, self._coarse.shape[1] - self._dimension), value=1.0).T
        own, inside = (torch.arange(size, device=self.device) for size in (len(queries), _TOGETHER))
        values, rows = [], []
        step = max(1, _CELLS // max(1, len(queries)) // _TOGETHER) * _TOGETHER
        for start in range(0, len(self._coarse), step):
            products = self._coarse[start:start + step] @ coded
            passed = slice(max(0, excluded[0] - start), max(0, excluded[1] - start))
            if passed.stop > passed.start:
                products[passed] = -torch.inf
            # the n highest lie in the n blocks whose highest are highest
            blocks = products.unflatten(0, (-1, _TOGETHER)).amax(dim=1).T
            best = blocks.topk(min(count, blocks.shape[1]), dim=1, sorted=False).indices
            members = (best[:, :, None] * _TOGETHER + inside).flatten(1)
            found = products.take(members * len(queries) + own[:, None]).topk(min(count, members.shape[1]), dim=1)
            values.append(found.values)
            rows.append(members.gather(1, found.indices) + start)
        if len(values) == 1:
            return values[0], rows[0]
        highest = torch.cat(values, dim=1)
        found = highest.topk(min(count, highest.shape[1]), dim=1)
        return found.values, torch.cat(rows, dim=1).gather(1, found.indices)

    def _rest(self, queries: torch.Tensor, values: torch.Tensor, taken: int) -> torch.Tensor:
        """(M,) what is not among the `taken` whose products are highest is no nearer than."""
        length = queries.norm(dim=1)
        if values.shape[1] <= taken:
            return torch.full_like(length, torch.inf)
        value = values[:, taken].float()
        left = (queries - queries.half()).norm(dim=1)
        lost = left * self._longest + (length + left) * self._left + value.abs() * _ROUNDED
        # half of what the squared lengths have in common is not in the products
        rest = (length.square() - 1) / 2 - value - lost - _SUMMED * (length + self._longest).square()
        return rest.masked_fill(value <= _ABSENT, torch.inf)

    def _distances(self, queries: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """(M, n) of queries (M, d) to the vectors of rows (M, n)."""
        step = max(1, _CELLS // max(1, 8 * rows.shape[1] * self._dimension))
        found = [self._measure(queries[start:start + step], rows[start:start + step])
                 for start in range(0, len(queries), step)]
        return found[0] if len(found) == 1 else torch.cat(found) if found else queries.new_zeros(0, rows.shape[1])

    def _measure(self, queries: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        left = queries[:, None] - self._coarse[rows][..., :self._dimension]
        return torch.sub(left, self._fine[rows], alpha=1 / _FINER).norm(dim=2).square() / 2

    def _vectors(self, rows: torch.Tensor | slice) -> torch.Tensor:
        """float32 vectors of some rows."""
        return self._coarse[rows][..., :self._dimension].float() + self._fine[rows].float() / _FINER

    def measured(self, queries: torch.Tensor, k: int, excluded: tuple[int, int] = (0, 0)) -> Nearest:
        """The k nearest, with the distances to all measured in single precision; as in `search`."""
        distances = queries.new_full((len(queries), k), torch.inf)
        indices = torch.full((len(queries), k), -1, dtype=torch.int64, device=queries.device)
        own = queries.square().sum(dim=1, keepdim=True)
        step = max(1024, _CELLS // 4 // max(len(queries), self._dimension))
        for start in range(0, self._count, step):
            vectors = self._vectors(slice(start, min(start + step, self._count)))
            found = torch.addmm(vectors.square().sum(dim=1)[None], queries, vectors.T, alpha=-2)
            passed = slice(max(0, excluded[0] - start), max(0, excluded[1] - start))
            if passed.stop > passed.start:
                found[:, passed] = torch.inf
            near, rows = found.topk(min(k, len(vectors)), dim=1, largest=False)
            distances, order = torch.cat([distances, (near + own).clamp(min=0) / 2], dim=1).topk(
                k, dim=1, largest=False)
            indices = torch.cat([indices, rows + start], dim=1).gather(1, order)
        lacking = ~distances.isfinite()
        return Nearest(distances.masked_fill(lacking, torch.inf), indices.masked_fill(lacking, -1),
                       queries.new_full((len(queries),), torch.inf))
