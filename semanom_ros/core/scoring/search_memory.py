"""What one camera's last frames resembled: bounds of the distances in its next one, for next to nothing."""

from __future__ import annotations

import threading
import weakref

import numpy as np
import numpy.typing as npt
import torch

from semanom_ros.core.database.index_file import processor_flags
from semanom_ros.core.database.nominal_database import NominalDatabase

_ALIGNED = 32  # numbers: the rows of a tile
_CODED = torch.bfloat16 if processor_flags() & {'amx_bf16', 'avx512_bf16'} else torch.float32


class _Pool:
    """Nominal embeddings of one version of a database, viewed in one way.

    Attributes:
        database: which.
        indices: (P,) int64, each once.
        unused: (P,) int64, frames since each was nearest to a query.
    """

    def __init__(self, database: NominalDatabase) -> None:
        self.database = weakref.ref(database)
        self.indices = self.unused = np.zeros(0, np.int64)
        self._vectors = database.compared(self.indices).numpy()
        self._coded = _coded(self._vectors)

    def nearest(self, queries: npt.NDArray[np.float32], k: int
                ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Distances (N, k), ascending, and which of the pool they are to."""
        likeness = _coded_queries(queries) @ self._coded[:len(self.indices)].T
        # Which is nearest may be missed by a little; how far that is is not. NumPy: as quick, and in one thread, which
        # waits for no other where all cores are in use.
        chosen = (likeness.topk(k, dim=1) if k > 1 else likeness.max(dim=1, keepdim=True)).indices.numpy()
        differences = queries[:, None] - self._vectors[chosen]
        distances = np.einsum('nkd,nkd->nk', differences, differences) / 2
        order = distances.argsort(axis=1)
        return np.take_along_axis(distances, order, 1), np.take_along_axis(chosen, order, 1)

    def take(self, used: npt.NDArray[np.int64], most: int, database: NominalDatabase) -> None:
        """Those (U,), in rising order, that were nearest to something in one more frame; keeps `most` in all."""
        self.unused = np.where(np.isin(self.indices, used), 0, self.unused + 1)
        new = np.setdiff1d(used, self.indices, assume_unique=True)
        if not len(new):
            return
        free = np.arange(len(self.indices), min(most, len(self.indices) + len(new)))
        given_up = np.argsort(-self.unused, kind='stable')[:len(new) - len(free)]
        rows = np.concatenate([free, given_up])
        if len(free):
            self._grow(most)
            self.indices = np.concatenate([self.indices, new[:len(free)]])
            self.unused = np.concatenate([self.unused, np.zeros(len(free), np.int64)])
        vectors = database.compared(new).numpy()
        self.indices[rows], self.unused[rows], self._vectors[rows] = new, 0, vectors
        self._coded[torch.from_numpy(rows)] = _coded(vectors)

    def _grow(self, most: int) -> None:
        """Makes room for so many, where there is none."""
        lacking = most - len(self._vectors)
        if lacking > 0:
            self._vectors = np.pad(self._vectors, ((0, lacking), (0, 0)))
            self._coded = torch.nn.functional.pad(self._coded, (0, 0, 0, lacking))


class SearchMemory:
    """Nominal embeddings that were nearest to the queries of one camera's last frames; for any number of threads.

    The next frame resembles them too. The distance to any of them is never less than the distance to the nearest of
    all, so a query that is near one of them is known to be near without a search. Whatever is remembered, and from
    whichever frames, that holds; with another version of the database, or another view of it, all is forgotten.
    """

    def __init__(self) -> None:
        self._pool: _Pool | None = None
        self._lock = threading.Lock()

    def bounds(self, database: NominalDatabase, queries: torch.Tensor, k: int
               ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]] | None:
        """What the mean distance of queries to their k nearest nominal embeddings cannot exceed.

        Args:
            database: that they are compared with.
            queries: (N, d) float32, embedded as there.
            k: how many.

        Returns:
            (N,) float32 bounds, NaN for a query that is not finite, and the (N, k) int64 nominal embeddings that they
            are the mean distance to; None where fewer are remembered.
        """
        with self._lock:
            pool = self._pool
            if pool is None or pool.database() is not database or len(pool.indices) < k:
                return None
            distances, chosen = pool.nearest(queries.numpy(), k)
            return distances.mean(axis=1), pool.indices[chosen]

    def remember(self, database: NominalDatabase, nearest: npt.NDArray[np.int64]) -> None:
        """Takes the nominal embeddings (N, k) that were nearest to a frame's queries; -1: none.

        Of all, the N k that were nearest to something last are kept.
        """
        with self._lock:
            if self._pool is None or self._pool.database() is not database:
                self._pool = _Pool(database)
            self._pool.take(np.unique(nearest[nearest >= 0]), nearest.size, database)


def _coded(vectors: npt.NDArray[np.float32]) -> torch.Tensor:
    """(P, e) nominal embeddings (P, d) as they are multiplied, in half precision where the CPU has instructions for it.

    The product with a coded query is the negative of their distance, but for what all products of a query have in
    common: near nothing, where such numbers are finest.
    """
    rest = torch.from_numpy(-(np.square(vectors).sum(axis=1) + 1) / 2)
    coarse = rest.to(_CODED)
    return _aligned(vectors, coarse, rest - coarse)


def _coded_queries(queries: npt.NDArray[np.float32]) -> torch.Tensor:
    """(N, e) the same for queries (N, d)."""
    ones = torch.ones(len(queries))
    return _aligned(queries, ones, ones)


def _aligned(vectors: npt.NDArray[np.float32], *columns: torch.Tensor) -> torch.Tensor:
    """(N, e) vectors (N, d), columns (N,) behind them, and zeros."""
    count, dimension = vectors.shape
    coded = torch.zeros((count, -(-(dimension + len(columns)) // _ALIGNED) * _ALIGNED), dtype=_CODED)
    coded[:, :dimension] = torch.from_numpy(vectors)
    for number, column in enumerate(columns):
        coded[:, dimension + number] = column
    return coded
