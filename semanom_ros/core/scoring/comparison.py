"""How far embeddings are from the nominal database."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from semanom_ros.core.database.index import Vectors
from semanom_ros.core.database.nominal_database import NominalDatabase
from semanom_ros.settings import ScoreSettings


@dataclass(frozen=True)
class Comparison:
    """Distance to the nearest nominal embeddings.

    Attributes:
        neighbours: whose mean distance it is.
        density_neighbours: PatchCore's re-weighting (K. Roth et al., CVPR 2022, eq. 7): a distance counts the less, the
            nearer the query is to the so many nearest neighbours of its nearest nominal embedding, compared with that
            one itself: where nominal embeddings are rare, less is certain. 0: off.
    """

    neighbours: int = 1
    density_neighbours: int = 0

    @property
    def monotone(self) -> bool:
        """Whether a distance can only fall with each nominal embedding that is looked at: what a few of them give is
        never less than what all would."""
        return not self.density_neighbours

    @classmethod
    def of(cls, settings: ScoreSettings) -> Comparison:
        """From the settings of the same names."""
        return cls(settings.neighbours, settings.density_neighbours)

    def __call__(self, database: NominalDatabase, queries: Vectors, places: npt.NDArray[np.float32],
                 excluded: tuple[int, int] | None = None
                 ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Distances of queries.

        Args:
            database: nominal database.
            queries: (N, D) float32 of unit length.
            places: (N, 3) where they are in the image and how large, see `places`.
            excluded: (first, end) of the frames that are passed over.

        Returns:
            (N,) float32 distances, inf where nothing is left to compare with, and (N,) int64 nearest nominal
            embeddings.
        """
        distances, indices = self.neighbourhood(database, queries, places, excluded)
        return distances, indices[:, 0]

    def neighbourhood(self, database: NominalDatabase, queries: Vectors, places: npt.NDArray[np.float32],
                      excluded: tuple[int, int] | None = None
                      ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """The same with all of the `neighbours` (N, k), nearest first."""
        k = min(self.neighbours, len(database))
        if excluded is None:
            found, indices = database.search(queries, k, places)
        else:
            found, indices = database.search_excluding(queries, k, excluded, places)
        distances = found.mean(axis=1).astype(np.float32)
        if self.density_neighbours and len(database) > 1:
            distances = distances * self._weights(database, queries, places, found[:, 0], indices[:, 0])
        return distances, indices

    def bounds(self, database: NominalDatabase, queries: Vectors, places: npt.NDArray[np.float32]
               ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """What the distances of queries cannot exceed (N,), where distances are `monotone` and the database `bounded`.

        With the (N, k) nominal embeddings that they are the mean distance to, and whether that is what
        `neighbourhood` finds, for certain (N,).
        """
        found, indices, certain = database.bounds(queries, min(self.neighbours, len(database)), places)
        return found.mean(axis=1).astype(np.float32), indices, certain

    def _weights(self, database: NominalDatabase, queries: Vectors, places: npt.NDArray[np.float32],
                 nearest_distances: npt.NDArray[np.float32], nearest: npt.NDArray[np.int64]
                 ) -> npt.NDArray[np.float32]:
        """(N,) weights: 1 - softmax of the Euclidean distances to the nearest embedding among its neighbours."""
        known = np.flatnonzero(nearest >= 0)
        weights = np.ones(len(nearest), np.float32)
        support = database.neighbours_of(nearest[known], min(self.density_neighbours, len(database)))
        to_support = database.distances(queries[known], places[known], support)
        # half the squared Euclidean distance is the distance that is searched by
        to_nearest = np.sqrt(2 * np.maximum(nearest_distances[known], 0))[:, None]
        others = np.where(support == nearest[known][:, None], np.inf, np.sqrt(2 * np.maximum(to_support, 0)))
        others = np.where(np.isfinite(others), others, -np.inf)
        weights[known] = 1 - 1 / (1 + np.exp(others - to_nearest).sum(axis=1))
        return weights
