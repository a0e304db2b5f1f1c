"""Distances to the nominal database turned into anomaly scores."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from semanom_ros.core.database import NominalDatabase
from semanom_ros.core.embedding.embedder import FrameEmbedding, Queries
from semanom_ros.core.scoring.calibration import Calibration, frame_statistic
from semanom_ros.core.scoring.comparison import Comparison


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
        threshold: calibrated frame score above which the frame is anomalous.
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
    threshold: float
    level: float
    timings_ms: dict[str, float] = field(default_factory=dict)

    @property
    def raw_map(self) -> npt.NDArray[np.float32]:
        """(rows, columns) float32, cosine distance of the query that speaks for each patch, 0 to 2."""
        return self.distances[self.queries.owners]

    @property
    def patch_map(self) -> npt.NDArray[np.float32]:
        """(rows, columns) float32, calibrated score of the query that speaks for each patch, >= 0."""
        return self.scores[self.queries.owners]

    @cached_property
    def pixel_map(self) -> npt.NDArray[np.float32] | None:
        """(H, W) float32, calibrated score of each pixel where segments give one finer than the patches; else None."""
        segments = self.embedding.segments
        if segments is None or not self.queries.segments:
            return None
        grid = self.embedding.grid
        rows = ((np.arange(grid.height) + 1) * grid.rows - 1) // grid.height
        columns = ((np.arange(grid.width) + 1) * grid.columns - 1) // grid.width
        background = self.patch_map[rows[:, None], columns[None, :]]
        by_label = np.concatenate([np.zeros(1, np.float32), self.scores[:self.queries.segments]])
        return np.where(segments.labels > 0, by_label[segments.labels], background)


class Scorer:
    """Compares queries with a nominal database.

    Args:
        database: the nominal database.
        calibration: what nominal data says about scores.
        compare: measures the distances.
        frame_score_fraction: share of the highest scores whose mean is the frame score; 0: the maximum.
    """

    def __init__(self, database: NominalDatabase, calibration: Calibration, compare: Comparison,
                 frame_score_fraction: float) -> None:
        self._database = database
        self._calibration = calibration
        self._compare = compare
        self._fraction = frame_score_fraction

    def score(self, embedding: FrameEmbedding, queries: Queries, level: float) -> FrameScores:
        """Scores one frame; `level` is the frame score before calibration that counts as an alarm."""
        start = time.perf_counter()
        distances, nearest = self._compare(self._database, queries.vectors, queries.places)
        searched = time.perf_counter()
        relative = self._calibration.relative(distances, queries.positions)
        model = self._calibration.plausibility
        if model is not None:
            relative = model.of_queries(relative, queries.vectors.cpu().numpy(), queries.positions, queries.owners)
        frame = frame_statistic(relative, self._fraction)
        return FrameScores(
            embedding, queries, distances, nearest, relative / np.float32(level), frame / level,
            frame_statistic(distances, self._fraction), self._calibration.p_value(frame), 1.0, level,
            {'search': (searched - start) * 1e3, 'score': (time.perf_counter() - searched) * 1e3})
