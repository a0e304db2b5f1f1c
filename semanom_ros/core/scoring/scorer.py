"""Distances to the nominal database turned into anomaly scores."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt
import torch

from semanom_ros.core.database.nominal_database import NominalDatabase
from semanom_ros.core.embedding.embedder import FrameEmbedding
from semanom_ros.core.embedding.queries import Queries
from semanom_ros.core.scoring.calibration import Calibration, frame_statistic, highest
from semanom_ros.core.scoring.comparison import Comparison
from semanom_ros.core.scoring.search_memory import SearchMemory
from semanom_ros.settings import ScoreSettings

EXACT_ABOVE = 0.5
"""Score of a query from which on it is searched for, where nothing lower is of interest."""

AHEAD = 4  # times the queries that a frame score is the mean of
_SEARCHED = 16  # queries that are searched for without being bounded first
_NOTHING = 2e-6  # a distance, or score, that is as good as 0: what single precision makes of equal embeddings


@dataclass(frozen=True)
class FrameScores:
    """Raw and calibrated scores of one frame, before the filter.

    Calibrated scores share one scale: 1.0 is the alarm level. The frame score is a mean of the highest query scores,
    so a frame above 1 holds a query above 1.

    Attributes:
        embedding: what was scored.
        queries: what of it was compared.
        distances: (N,) float32, mean cosine distance of each query to its nearest nominal embeddings, 0 to 2; an upper
            bound of it where it is not `exact`.
        nearest: (N,) int64, the nominal embedding that each query is nearest to, of some where it is not `exact`; -1
            where there is none.
        exact: (N,) whether a query was searched for, see `Scorer`.
        scores: (N,) float32, calibrated score of each query, >= 0; likewise.
        score, raw_score: calibrated frame score, and the same aggregate over `distances`.
        p_value: conformal p-value of the frame score, (0, 1].
        level: what scores before calibration were divided by.
        timings_ms: milliseconds by stage.
    """

    embedding: FrameEmbedding
    queries: Queries
    distances: npt.NDArray[np.float32]
    nearest: npt.NDArray[np.int64]
    exact: npt.NDArray[np.bool_]
    scores: npt.NDArray[np.float32]
    score: float
    raw_score: float
    p_value: float
    level: float
    timings_ms: dict[str, float] = field(default_factory=dict)


class Scorer:
    """Compares queries with a nominal database.

    Where it remembers what a camera's last frames resembled, queries that are plainly nominal are not searched for.
    What is found then is what a search for all of them finds:

    - the frame score, before and after calibration, and so the p-value;
    - the score, distance and nearest embedding of every query above `exact_above`, and of those next to it in the
      picture, so that what is drawn, tracked and reported of a map there is the same.

    The score and the distance of any other query are upper bounds, of which that of the score is at most
    `exact_above`; its nearest embedding is the nearest of some. `FrameScores.exact` tells them apart.

    A search is the database's own, which its calibration was made with. Where that is by an approximate index, which
    misses what is nearest now and then, the bounds are of the true distance and not of what it would find: a query
    that something remembered is near to stays plainly nominal although the index would have missed that.
    """

    def __init__(self, database: NominalDatabase, calibration: Calibration, settings: ScoreSettings,
                 exact_above: float = EXACT_ABOVE) -> None:
        """
        Args:
            database: the nominal database.
            calibration: what nominal data says about scores.
            settings: how they are compared.
            exact_above: score of a query from which on it is searched for; 1.0 is the alarm level.
        """
        self._database = database
        self._calibration = calibration
        self._compare = Comparison.of(settings)
        self._fraction = settings.frame_score_fraction
        self._exact_above = exact_above
        # a model of what belongs where may give more for less distance
        falling = self._compare.monotone and calibration.judge is None
        self._remembering = falling and database.looked_up
        self._bounding = falling and database.bounded

    def score(self, embedding: FrameEmbedding, queries: Queries, level: float, memory: SearchMemory | None = None
              ) -> FrameScores:
        """Scores one frame, see `score_batch`."""
        return self.score_batch([embedding], [queries], level, None if memory is None else [memory])[0]

    def score_batch(self, embeddings: Sequence[FrameEmbedding], queries: Sequence[Queries], level: float,
                    memories: Sequence[SearchMemory] | None = None) -> list[FrameScores]:
        """Scores frames, compared with the database together.

        Args:
            embeddings: of the frames.
            queries: of each.
            level: the frame score before calibration that counts as an alarm.
            memories: of the camera of each, changed here; None: every query is searched for.
        """
        start = time.perf_counter()
        known = [None] * len(queries) if memories is None else memories
        frames = [self._begun(*one) for one in zip(queries, known, strict=True)]
        threshold = level * self._exact_above
        while any(map(len, asked := [frame.undecided(threshold, self._fraction) for frame in frames])):
            loose = [frame.loose(rows, self._database.bounded_at_once) if self._bounding and memories is not None
                     else rows[:0] for frame, rows in zip(frames, asked, strict=True)]
            if sum(map(len, loose)) > _SEARCHED:
                self._bound(frames, loose)
            else:
                self._search(frames, asked)
        for frame, memory in zip(frames, known, strict=True):
            if memory is not None and self._remembering:
                memory.remember(self._database, frame.nearest)
        search = (time.perf_counter() - start) * 1e3 / max(1, len(frames))
        return [self._scored(*one, level, search) for one in zip(embeddings, frames, strict=True)]

    def searched(self, scores: FrameScores, memory: SearchMemory | None = None
                 ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Distances (N,) and nearest embeddings (N,) of a frame with every query searched for.

        Args:
            scores: of the frame.
            memory: of its camera, which learns of them.
        """
        if scores.exact.all():
            return scores.distances, scores.nearest
        queries = scores.queries
        distances, nearest = self._compare.neighbourhood(self._database, queries.vectors, queries.places)
        if memory is not None:
            memory.remember(self._database, nearest)
        return distances, nearest[:, 0]

    def _begun(self, queries: Queries, memory: SearchMemory | None) -> _Comparing:
        """With what is remembered; databases that are not larger than that are searched at once."""
        count, k = len(queries.vectors), min(self._compare.neighbours, len(self._database))
        bounds = None
        if memory is not None and self._remembering and len(self._database) > count * k:
            embedded = self._database.embed(queries.vectors.cpu(), queries.places)
            bounds = memory.bounds(self._database, embedded, k)
        distances, nearest = bounds or (np.full(count, np.nan, np.float32), np.full((count, k), -1, np.int64))
        return _Comparing(queries, self._calibration, distances, nearest, *np.zeros((2, count), bool))

    def _bound(self, frames: Sequence[_Comparing], asked: Sequence[npt.NDArray[np.int64]]) -> None:
        """Bounds of the queries that are asked for of each frame, lower than those known."""
        vectors, places = _of(frames, asked)
        distances, nearest, certain = self._compare.bounds(self._database, vectors, places)
        for frame, rows, own in _shares(frames, asked):
            frame.lower(rows, distances[own], nearest[own])
            sure = certain[own]
            frame.take(rows[sure], distances[own][sure], nearest[own][sure])

    def _search(self, frames: Sequence[_Comparing], asked: Sequence[npt.NDArray[np.int64]]) -> None:
        """Searches for the queries that are asked for of each frame."""
        vectors, places = _of(frames, asked)
        distances, nearest = self._compare.neighbourhood(self._database, vectors, places)
        for frame, rows, own in _shares(frames, asked):
            frame.take(rows, distances[own], nearest[own])

    def _scored(self, embedding: FrameEmbedding, frame: _Comparing, level: float, search: float) -> FrameScores:
        start = time.perf_counter()
        queries, relative, judge = frame.queries, frame.relative, self._calibration.judge
        if judge is not None:
            relative = judge.of_queries(relative, queries.vectors.cpu().numpy(), queries.positions, queries.owners)
        score = frame_statistic(relative, self._fraction)
        return FrameScores(
            embedding, queries, frame.distances, frame.nearest[:, 0], frame.exact, relative / np.float32(level),
            score / level, frame_statistic(frame.distances, self._fraction), self._calibration.p_value(score), level,
            {**embedding.timings_ms, 'search': search, 'score': (time.perf_counter() - start) * 1e3})


def _of(frames: Sequence[_Comparing], asked: Sequence[npt.NDArray[np.int64]]
        ) -> tuple[torch.Tensor, npt.NDArray[np.float32]]:
    """Vectors (M, D) and places (M, 3) of the queries that are asked for of each frame, one after the other."""
    vectors, places = [], []
    for frame, rows in zip(frames, asked, strict=True):
        all_, everything = frame.queries.vectors, len(rows) == len(frame.queries.vectors)
        vectors.append(all_ if everything else all_[torch.from_numpy(rows).to(all_.device)])
        places.append(frame.queries.places if everything else frame.queries.places[rows])
    return torch.cat(vectors), np.concatenate(places)


def _shares(frames: Sequence[_Comparing], asked: Sequence[npt.NDArray[np.int64]]
            ) -> Iterator[tuple[_Comparing, npt.NDArray[np.int64], slice]]:
    """Each frame, which of its queries were asked for, and where they stand among those of all."""
    start = 0
    for frame, rows in zip(frames, asked, strict=True):
        yield frame, rows, slice(start, start + len(rows))
        start += len(rows)


@dataclass
class _Comparing:
    """One frame while it is compared.

    Attributes:
        queries: of the frame.
        calibration: what nominal data says about scores.
        distances: (N,) of each query; of those that are not `exact` upper bounds, NaN: none is known.
        nearest: (N, k) nominal embeddings that it is the distance to.
        exact: (N,) whether a query was searched for.
        asked: (N,) whether the database was asked for its bound.
    """

    queries: Queries
    calibration: Calibration
    distances: npt.NDArray[np.float32]
    nearest: npt.NDArray[np.int64]
    exact: npt.NDArray[np.bool_]
    asked: npt.NDArray[np.bool_]

    @property
    def relative(self) -> npt.NDArray[np.float32]:
        """(N,) scores of the queries before division by the alarm level; rising with the distance."""
        return self.calibration.relative(self.distances, self.queries.positions)

    def undecided(self, threshold: float, fraction: float) -> npt.NDArray[np.int64]:
        """The queries that must be searched for; when there are none, the rest matters no more.

        Args:
            threshold: relative score that no bound may exceed, nor one beside it in the picture.
            fraction: of the highest scores, see `frame_statistic`: once they are above all bounds none can change it.
        """
        if not len(self.exact):
            return np.zeros(0, np.int64)
        unknown, relative = np.isnan(self.distances), self.relative
        above = unknown | (relative > threshold)
        owners = self.queries.owners
        beside = cv2.dilate((above & self.exact)[owners].astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        wanted = above.copy()
        wanted[owners[beside]] = True
        if not unknown.any():
            count = highest(len(relative), fraction)
            for values in (relative, self.distances):
                found = values[self.exact]
                if len(found) < count:  # the highest bounds first, and more: what is searched for is lower
                    few = min(len(values), AHEAD * count)
                    least = np.partition(values, -few)[-few]
                    wanted |= values >= max(least, _NOTHING)
                else:
                    wanted |= values > max(float(np.partition(found, -count)[-count]), _NOTHING)
        return np.flatnonzero(wanted & ~self.exact)

    def loose(self, rows: npt.NDArray[np.int64], at_once: bool) -> npt.NDArray[np.int64]:
        """Those of some queries whose bounds the database has not been asked for, where that pays.

        Args:
            rows: queries.
            at_once: whether it pays where nothing is known of them.
        """
        return rows[~self.asked[rows]] if at_once or not np.isnan(self.distances).all() else rows[:0]

    def lower(self, rows: npt.NDArray[np.int64], distances: npt.NDArray[np.float32], nearest: npt.NDArray[np.int64]
              ) -> None:
        """The database's bounds of some of the queries, which count where they are lower."""
        self.asked[rows] = True
        better = ~(self.distances[rows] <= distances)
        self.distances[rows[better]], self.nearest[rows[better]] = distances[better], nearest[better]

    def take(self, rows: npt.NDArray[np.int64], distances: npt.NDArray[np.float32], nearest: npt.NDArray[np.int64]
             ) -> None:
        """What was found for some of the queries."""
        self.distances[rows], self.nearest[rows], self.exact[rows] = distances, nearest, True
