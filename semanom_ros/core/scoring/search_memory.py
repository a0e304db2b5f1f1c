"""What one camera's last frames resembled: bounds of the distances in its next one, for next to nothing."""

from __future__ import annotations

import weakref
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from semanom_ros.core.database.index_file import processor_flags
from semanom_ros.core.database.nominal_database import NominalDatabase

LARGEST = 2
"""Embeddings that are remembered for each query of a frame: what one frame does not resemble a later one may again."""

_ALIGNED = 32  # numbers: the rows of a tile
_CODED = torch.bfloat16 if processor_flags() & {'amx_bf16', 'avx512_bf16'} else torch.float32


@dataclass(frozen=True)
class _Pool:
    """Nominal embeddings of one version of a database, viewed in one way.

    Attributes:
        database: which.
        indices: (P,) int64, each once.
        unused: (P,) int64, frames since each was nearest to a query.
        vectors: (P, d) float32, as they are compared.
        coded: (P, e) the same, see `_coded`.
    """

    database: weakref.ref[NominalDatabase]
    indices: npt.NDArray[np.int64]
    unused: npt.NDArray[np.int64]
    vectors: torch.Tensor
    coded: torch.Tensor


class SearchMemory:
    """Nominal embeddings that were nearest to the queries of one camera's last frames.

    The next frame resembles them too. The distance to any of them is never less than the distance to the nearest of
    all, so a query that is near one of them is known to be near without a search. Whatever is remembered, and from
    whichever frames, that holds; with another version of the database, or another view of it, all is forgotten.
    """

    def __init__(self) -> None:
        self._pool: _Pool | None = None

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
        pool = self._of(database)
        if pool is None or len(pool.indices) < k:
            return None
        likeness = _coded_queries(queries) @ pool.coded.T  # which is nearest may be missed by a little; how far is not
        chosen = likeness.topk(k, dim=1).indices if k > 1 else likeness.max(dim=1, keepdim=True).indices
        distances = (queries[:, None] - pool.vectors[chosen]).square().sum(dim=2) / 2
        distances, order = distances.sort(dim=1)
        return distances.mean(dim=1).numpy(), pool.indices[chosen.gather(1, order).numpy()]

    def remember(self, database: NominalDatabase, nearest: npt.NDArray[np.int64]) -> None:
        """Takes the nominal embeddings (N, k) that were nearest to a frame's queries; -1: none.

        The LARGEST times N that were nearest to something last are kept.
        """
        pool, used = self._of(database), np.unique(nearest[nearest >= 0])
        if pool is None:
            empty = np.zeros(0, np.int64)
            vectors = database.compared(empty)
            pool = _Pool(weakref.ref(database), empty, empty, vectors, _coded(vectors))
        unused = np.where(np.isin(pool.indices, used), 0, pool.unused + 1)
        new = np.setdiff1d(used, pool.indices, assume_unique=True)
        kept: npt.NDArray[np.int64] = np.arange(len(unused))
        most = LARGEST * nearest.size
        if len(unused) + len(new) > most:
            kept = np.sort(np.argsort(unused, kind='stable')[:most - len(new)])
        if len(new) or len(kept) < len(unused):
            vectors, rows = database.compared(new), torch.from_numpy(kept)
            pool = _Pool(pool.database, np.concatenate([pool.indices[kept], new]), unused,
                         torch.cat([pool.vectors[rows], vectors]), torch.cat([pool.coded[rows], _coded(vectors)]))
        unused = np.concatenate([unused[kept], np.zeros(len(new), np.int64)])
        self._pool = _Pool(pool.database, pool.indices, unused, pool.vectors, pool.coded)

    def _of(self, database: NominalDatabase) -> _Pool | None:
        pool = self._pool
        return pool if pool is not None and pool.database() is database else None


def _coded(vectors: torch.Tensor) -> torch.Tensor:
    """(P, e) nominal embeddings (P, d) as they are multiplied, in half precision where the CPU has instructions for it.

    The product with a coded query is the negative of their distance, but for what all products of a query have in
    common: near nothing, where such numbers are finest.
    """
    rest = -(vectors.square().sum(dim=1) + 1) / 2
    coarse = rest.to(_CODED)
    return _aligned(vectors, coarse, rest - coarse)


def _coded_queries(queries: torch.Tensor) -> torch.Tensor:
    """(N, e) the same for queries (N, d)."""
    ones = torch.ones(len(queries))
    return _aligned(queries, ones, ones)


def _aligned(vectors: torch.Tensor, *columns: torch.Tensor) -> torch.Tensor:
    """(N, e) vectors (N, d), columns (N,) behind them, and zeros."""
    count, dimension = vectors.shape
    coded = torch.zeros((count, -(-(dimension + len(columns)) // _ALIGNED) * _ALIGNED), dtype=_CODED)
    coded[:, :dimension] = vectors
    for number, column in enumerate(columns):
        coded[:, dimension + number] = column
    return coded
