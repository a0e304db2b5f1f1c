"""Nearest nominal embeddings: one class, CPU and GPU hidden inside."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from semanom_ros.core.database.folder_files import RESTORE
from semanom_ros.core.database.half_precision import HalfPrecisionVectors, Nearest
from semanom_ros.core.database.index_file import coordinates, faiss
from semanom_ros.core.database.storage import CHUNK, Part, Statistics, check_lengths
from semanom_ros.settings import SearchSettings

_LOOKED_UP = (faiss.IndexIVFScalarQuantizer, faiss.IndexIVFFlat)
"""Indices that measure the distance to a vector as they hold it: other codes estimate it."""

_FEW = 16  # queries that a GPU measures all distances of at once: to go through all first takes as long
_CELLS = 1 << 24  # of the matrix of distances that is in memory at once

Vectors = npt.NDArray[np.float32] | torch.Tensor
"""(N, D) float32, in NumPy or in torch on any device."""

Searched = npt.NDArray[np.float32] | HalfPrecisionVectors
"""Vectors (N, d) as they are searched: on the CPU, or on a GPU."""


class Space:
    """The space in which neighbours are sought: half the squared distance there is the distance that we mean.

    For unit vectors that is 1 - cosine; further coordinates, the position and the size
    times the root of twice their weight, add weight * |difference|^2. Every FAISS
    index can search it.
    """

    def __init__(self, settings: SearchSettings, statistics: Statistics) -> None:
        """With `standardize` every dimension is first brought to zero mean and unit variance, and length 1 again.

        Args:
            settings: which space it is.
            statistics: of the nominal embeddings, for `standardize`.
        """
        self.settings = settings
        self._mean = torch.from_numpy(statistics.mean.astype(np.float32))
        self._scale = torch.from_numpy(statistics.scale.astype(np.float32))
        weighted = ((slice(0, 2), settings.position_weight), (slice(2, 3), settings.scale_weight))
        self._weighted = [(columns, weight) for columns, weight in weighted if weight]  # columns of `places`

    @property
    def coordinates(self) -> int:
        """How many coordinates of the place stand behind the embedding's."""
        return coordinates(self.settings)

    @property
    def places(self) -> int:
        """How many columns of `places` are needed, 0 to 3."""
        return max((columns.stop for columns, _ in self._weighted), default=0)

    def embed(self, vectors: Vectors, places: Vectors | None) -> torch.Tensor:
        """(N, D) vectors and (N, at least `places`) places brought into the space.

        Returns:
            (N, D + coordinates) float32.

        The result shares the memory of `vectors` where nothing changes them.
        """
        result = as_tensor(vectors)
        if self.settings.standardize:
            mean, scale = self._mean.to(result.device), self._scale.to(result.device)
            result = torch.nn.functional.normalize((result - mean) * scale, dim=1)
        if self._weighted:
            assert places is not None
            known = as_tensor(places).to(result.device)
            added = (known[:, columns] * (2 * weight) ** 0.5 for columns, weight in self._weighted)
            result = torch.cat([result, *added], dim=1)
        return result.contiguous()

    def embed_all(self, part: Part, device: torch.device) -> Searched:
        """The same for the vectors of a part, in steps; NumPy on the CPU.

        Raises:
            DatabaseError: embeddings that are not of unit length.
        """
        count, dimension = part.vectors.shape[0], part.vectors.shape[1] + self.coordinates
        if device.type == 'cpu':
            whole = torch.empty((count, dimension))
            for start, vectors in self.embedded(part, device):
                whole[start:start + len(vectors)] = vectors
            return whole.numpy()
        on_gpu = HalfPrecisionVectors(count, dimension, device)
        for start, vectors in self.embedded(part, device):
            on_gpu.put(start, vectors)
        return on_gpu

    def embedded(self, part: Part, device: torch.device) -> Iterator[tuple[int, torch.Tensor]]:
        """Vectors of a part, brought into the space: in blocks, and from which row on each is.

        Raises:
            DatabaseError: embeddings that are not of unit length.
        """
        for start in range(0, len(part.vectors), CHUNK):
            rows = slice(start, start + CHUNK)
            vectors = part.vectors[rows]
            check_lengths(vectors, f'{part.folder}: vectors from {start} on', RESTORE)
            yield start, self.embed(as_tensor(vectors).to(device), part.places(rows) if self.coordinates else None)


def as_tensor(array: Vectors) -> torch.Tensor:
    """float32 torch tensor that shares the array's memory where it can; read-only arrays are copied."""
    if isinstance(array, torch.Tensor):
        return array.detach().to(torch.float32)
    array = np.ascontiguousarray(array, np.float32)
    return torch.from_numpy(array if array.flags.writeable else array.copy())


class NearestNeighbours:
    """k nearest of what lies in some arrays, one after the other.

    Exact search goes straight over the arrays, with PyTorch's matrix product. On the CPU an approximate index may stand
    in for the first arrays. An excluded range costs nothing in exact search.
    """

    def __init__(self, arrays: Sequence[Searched], approximate: Any = None, nprobe: int = 1) -> None:
        """Of vectors that lie in memory or on a GPU.

        Args:
            arrays: (N_i, d) each, all of them in memory or all on a GPU; their vectors come after those of
                `approximate`.
            approximate: FAISS IVF index.
            nprobe: inverted lists of it that a search visits.
        """
        self._approximate, self._nprobe = approximate, nprobe
        if isinstance(approximate, _LOOKED_UP):
            approximate.make_direct_map()
        self._pieces: list[tuple[int, npt.NDArray[np.float32]]] = []
        self._on_gpu: list[tuple[int, HalfPrecisionVectors]] = []
        self.size = 0 if approximate is None else approximate.ntotal
        self._dimension = 0 if approximate is None else approximate.d
        for array in arrays:
            if isinstance(array, HalfPrecisionVectors):
                self._on_gpu.append((self.size, array))
            else:
                self._pieces.append((self.size, array))
                self._dimension = array.shape[1]
            self.size += len(array)

    @property
    def looked_up(self) -> bool:
        """Whether `vectors` can tell what a search measures the distance to; not on a GPU, which searches them all in
        less time."""
        return not self._on_gpu and (self._approximate is None or isinstance(self._approximate, _LOOKED_UP))

    @property
    def visits_lists(self) -> bool:
        """Whether an index visits some of its inverted lists only, so that there is something quicker: one."""
        return self._approximate is not None and self._nprobe > 1

    @property
    def goes_through_all(self) -> bool:
        """Whether a search goes through all vectors in half precision, so that there is something quicker: to leave it
        at that."""
        return bool(self._on_gpu)

    def vectors(self, indices: npt.NDArray[np.int64]) -> torch.Tensor:
        """(M, d) float32 the vectors (M,) that are searched, as a search sees them; only where they are `looked_up`."""
        found = np.empty((len(indices), self._dimension), np.float32)
        if self._approximate is not None:
            own = indices < self._approximate.ntotal
            if own.any():
                found[own] = self._approximate.reconstruct_batch(indices[own])
        for offset, array in self._pieces:
            own = (indices >= offset) & (indices < offset + len(array))
            found[own] = array[indices[own] - offset]
        return torch.from_numpy(found)

    def search(self, queries: torch.Tensor, k: int, excluded: tuple[int, int] = (0, 0)
               ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Half the squared distances (M, k), ascending, and indices (M, k).

        Where fewer than k are left the distance is inf and the index -1.

        Args:
            queries: (M, d) float32.
            k: how many.
            excluded: (first, end) of the indices that are passed over.
        """
        if self._on_gpu and len(queries) <= _FEW:
            return self._measured(queries, k, excluded)
        if self._on_gpu:
            distances, indices, certain = self._through_all(queries, k, excluded)
            if not certain.all():
                rows = np.flatnonzero(~certain)
                distances[rows], indices[rows] = self._measured(queries[torch.from_numpy(rows)], k, excluded)
            return distances, indices
        found = []
        if self._approximate is not None:
            found.append(self._search_approximate(queries, k, excluded, self._nprobe))
        for offset, array in self._pieces:
            for start, end in _without(offset, len(array), excluded):
                piece = array[start - offset:end - offset]
                found.append(_shifted(_knn_on_cpu(queries.cpu(), piece, min(k, len(piece))), start))
        return _merge(found, len(queries), k)

    def bounds(self, queries: torch.Tensor, k: int
               ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """The same at less cost, of vectors that are near, and (M,) whether they are the nearest for certain.

        Only where an index `visits_lists`, of which one is visited for each query, or all vectors are gone through.
        """
        if self._on_gpu:
            return self._through_all(queries, k, (0, 0))
        found = [self._search_approximate(queries, k, (0, 0), 1),
                 *(_shifted(_knn_on_cpu(queries.cpu(), array, min(k, len(array))), offset)
                   for offset, array in self._pieces if len(array))]
        return *_merge(found, len(queries), k), np.zeros(len(queries), bool)

    def _through_all(self, queries: torch.Tensor, k: int, excluded: tuple[int, int]
                     ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        found = Nearest.merged(self._each_on_gpu(HalfPrecisionVectors.search, queries, k, excluded), k)
        # together: each copy to the host waits for the GPU
        packed = torch.cat([found.distances.contiguous().view(torch.int32), found.indices.int(),
                            found.certain[:, None].int()], dim=1).cpu().numpy()
        return packed[:, :k].copy().view(np.float32), packed[:, k:2 * k].astype(np.int64), packed[:, 2 * k] > 0

    def _measured(self, queries: torch.Tensor, k: int, excluded: tuple[int, int]
                  ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        found = Nearest.merged(self._each_on_gpu(HalfPrecisionVectors.measured, queries, k, excluded), k)
        return found.distances.cpu().numpy(), found.indices.cpu().numpy()

    def _each_on_gpu(self, how: Callable[[HalfPrecisionVectors, torch.Tensor, int, tuple[int, int]], Nearest],
                     queries: torch.Tensor, k: int, excluded: tuple[int, int]) -> Iterator[Nearest]:
        """What is found in each array, with indices that count through them."""
        for offset, array in self._on_gpu:
            if len(array):
                found = how(array, queries.to(array.device), k, (excluded[0] - offset, excluded[1] - offset))
                yield replace(found, indices=torch.where(found.indices < 0, -1, found.indices + offset))

    def _search_approximate(self, queries: torch.Tensor, k: int, excluded: tuple[int, int], nprobe: int
                            ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        given: dict[str, Any] = {}
        if excluded[1] > excluded[0]:
            # Kept in names: the parameters only point at their selector.
            inner = faiss.IDSelectorRange(*excluded)
            selector = faiss.IDSelectorNot(inner)
            given['sel'] = selector
        rows = queries.cpu().numpy()
        parameters = faiss.SearchParametersIVF(nprobe=nprobe, **given)
        distances, indices = self._approximate.search(rows, k, params=parameters)
        lacking = (indices < 0).any(axis=1)  # the lists near them hold too few that may be found: all lists, then
        if lacking.any() and self._nprobe <= nprobe < self._approximate.nlist:
            parameters = faiss.SearchParametersIVF(nprobe=self._approximate.nlist, **given)
            distances[lacking], indices[lacking] = self._approximate.search(rows[lacking], k, params=parameters)
        return distances, indices


def _knn_on_cpu(queries: torch.Tensor, piece: npt.NDArray[np.float32], k: int
                ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """The same as `faiss.knn` with METRIC_L2, by PyTorch's matrix product: 4 to 5 times as fast as that of the OpenBLAS
    in the FAISS wheels."""
    step = max(k, 1024, _CELLS // max(1, len(queries)))
    own = queries.square().sum(dim=1, keepdim=True)
    best = torch.full((len(queries), k), torch.inf)
    places = torch.full((len(queries), k), -1, dtype=torch.int64)
    for start in range(0, len(piece), step):
        rows = as_tensor(piece[start:start + step])
        distances = torch.addmm(rows.square().sum(dim=1)[None], queries, rows.T, alpha=-2)
        found, indices = distances.topk(min(k, len(rows)), dim=1, largest=False)
        merged = torch.cat([best, found], dim=1)
        best, order = merged.topk(k, dim=1, largest=False)
        places = torch.cat([places, indices + start], dim=1).gather(1, order)
    finite = torch.isfinite(own) & torch.isfinite(best)
    return ((best + own).clamp(min=0).masked_fill(~finite, torch.inf).numpy(),
            places.masked_fill(~finite, -1).numpy())


def _shifted(found: tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]], offset: int
             ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """With indices that count from `offset` on; -1 stays."""
    return found[0], np.where(found[1] < 0, -1, found[1] + offset)


def _without(offset: int, size: int, excluded: tuple[int, int]) -> list[tuple[int, int]]:
    """The ranges of offset .. offset + size that lie outside the excluded one."""
    first, end = max(excluded[0], offset), min(excluded[1], offset + size)
    if first >= end:
        return [(offset, offset + size)] if size else []
    return [(a, b) for a, b in ((offset, first), (end, offset + size)) if b > a]


def _merge(found: Sequence[tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]], queries: int, k: int
           ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """The k best of several results, halved, filled up with inf and -1."""
    filler = (np.full((queries, k), np.inf, np.float32), np.full((queries, k), -1, np.int64))
    exactly_one = len(found) == 1 and found[0][0].shape[1] == k
    distances, indices = found[0] if exactly_one else (
        np.concatenate([part[axis] for part in (*found, filler)], axis=1) for axis in (0, 1))
    distances = np.where(indices < 0, np.inf, distances * 0.5).astype(np.float32)
    if not exactly_one:
        order = np.argsort(distances, axis=1, kind='stable')[:, :k]
        distances, indices = np.take_along_axis(distances, order, 1), np.take_along_axis(indices, order, 1)
    return distances, indices
