"""Distances to the nominal database turned into anomaly scores."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from semanom_ros.core.database.nominal_database import NominalDatabase
from semanom_ros.core.embedding.embedder import FrameEmbedding
from semanom_ros.core.embedding.queries import Queries
from semanom_ros.core.scoring.calibration import Calibration, frame_statistic
from semanom_ros.core.scoring.comparison import Comparison
from semanom_ros.settings import ScoreSettings


@dataclass(frozen=True)
class FrameScores:
    """Raw and calibrated scores of one frame, before the filter.

    Calibrated scores share one scale: 1.0 is the alarm level. The frame score is a mean of the highest query scores,
    so a frame above 1 holds a query above 1.

    Attributes:
        embedding: what was scored.
        queries: what of it was compared.
        distances: (N,) float32, mean cosine distance of each query to its nearest nominal embeddings, 0 to 2.
        nearest: (N,) int64, the nearest nominal embedding of each query; -1 where there is none.
        scores: (N,) float32, calibrated score of each query, >= 0.
        score, raw_score: calibrated frame score, and the same aggregate over `distances`.
        p_value: conformal p-value of the frame score, (0, 1].
        level: what scores before calibration were divided by.
        timings_ms: milliseconds by stage.
    """

    embedding: FrameEmbedding
    queries: Queries
    distances: npt.NDArray[np.float32]
    nearest: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]
    score: float
    raw_score: float
    p_value: float
    level: float
    timings_ms: dict[str, float] = field(default_factory=dict)


class Scorer:
    """Compares queries with a nominal database.

    Args:
        database: the nominal database.
        calibration: what nominal data says about scores.
        settings: how they are compared.
    """

    def __init__(self, database: NominalDatabase, calibration: Calibration, settings: ScoreSettings) -> None:
        self._database = database
        self._calibration = calibration
        self._compare = Comparison.of(settings)
        self._fraction = settings.frame_score_fraction

    def score(self, embedding: FrameEmbedding, queries: Queries, level: float) -> FrameScores:
        """Scores one frame; `level` is the frame score before calibration that counts as an alarm."""
        return self.score_batch([embedding], [queries], level)[0]

    def score_batch(self, embeddings: Sequence[FrameEmbedding], queries: Sequence[Queries], level: float
                    ) -> list[FrameScores]:
        """Scores frames, compared with the database in one search.

        Args:
            embeddings: of the frames.
            queries: of each.
            level: the frame score before calibration that counts as an alarm.
        """
        start = time.perf_counter()
        vectors = torch.cat([one.vectors for one in queries])
        places = np.concatenate([one.places for one in queries])
        distances, nearest = self._compare(self._database, vectors, places)
        search = (time.perf_counter() - start) * 1e3 / len(queries)
        ends = np.cumsum([len(one.vectors) for one in queries])[:-1]
        return [self._scored(*one, level, search) for one in zip(
            embeddings, queries, np.split(distances, ends), np.split(nearest, ends), strict=True)]

    def _scored(self, embedding: FrameEmbedding, queries: Queries, distances: npt.NDArray[np.float32],
                nearest: npt.NDArray[np.int64], level: float, search: float) -> FrameScores:
        start = time.perf_counter()
        relative = self._calibration.relative(distances, queries.positions)
        judge = self._calibration.judge
        if judge is not None:
            relative = judge.of_queries(relative, queries.vectors.cpu().numpy(), queries.positions, queries.owners)
        frame = frame_statistic(relative, self._fraction)
        return FrameScores(
            embedding, queries, distances, nearest, relative / np.float32(level), frame / level,
            frame_statistic(distances, self._fraction), self._calibration.p_value(frame), level,
            {**embedding.timings_ms, 'search': search, 'score': (time.perf_counter() - start) * 1e3})
