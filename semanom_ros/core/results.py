"""What comes out of the pipeline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property

import cv2
import numpy as np
import numpy.typing as npt

from semanom_ros.core.database.nominal_database import NominalExample
from semanom_ros.core.drift.drift_monitor import Drift
from semanom_ros.core.embedding.queries import Queries
from semanom_ros.core.frames import Segments
from semanom_ros.core.localization.regions_of_map import Region

ALARM = 1.0
"""Calibrated frame score above which a frame is anomalous."""


class Verdict(IntEnum):
    """What is said about a frame. What could not be judged is unknown, never nominal: so that is what 0 means."""

    UNKNOWN = 0
    NOMINAL = 1
    ANOMALOUS = 2

    @classmethod
    def of(cls, anomalous: bool) -> Verdict:
        """Of a frame that was judged."""
        return cls.ANOMALOUS if anomalous else cls.NOMINAL

    @property
    def words(self) -> str:
        """For people."""
        return self.name.lower()


class Reason(IntEnum):
    """Why a frame is not simply nominal or anomalous.

    Up to 15: it scores above the threshold, but is held back by the filter. From 16 on: why it is unknown.
    """

    NONE = 0
    UNCONFIRMED = 1
    """Not enough evidence has added up along any track yet."""
    TOO_SMALL = 2
    AT_BORDER = 3
    DISAGREES = 4
    """It fills too little of its segment."""
    NOT_CALIBRATED = 16
    NOT_FINITE = 17
    """The encoder gave NaN or infinity."""
    STALE = 18
    STANDING_STAMPS = 19
    LATE = 20
    """The worker has not answered in time."""
    INVALID_IMAGE = 21
    FAILED = 22

    @property
    def holds_back(self) -> bool:
        """Whether it holds a frame back that scores above the threshold."""
        return Reason.NONE < self < Reason.NOT_CALIBRATED

    @property
    def words(self) -> str:
        """In few words, for people; '' where there is none."""
        return '' if self is Reason.NONE else self.name.lower().replace('_', ' ')

    @property
    def explanation(self) -> str:
        """In a line, where nothing more is known of the frame; '' where there is nothing to explain."""
        return _EXPLANATIONS[self]


_EXPLANATIONS = {
    Reason.NONE: '',
    Reason.UNCONFIRMED: 'not seen for long enough yet',
    Reason.TOO_SMALL: 'smaller than filter_min_area',
    Reason.AT_BORDER: 'at the image border, see filter_border',
    Reason.DISAGREES: 'fills too little of its segment, see filter_agreement',
    Reason.NOT_CALIBRATED: 'the database holds no nominal frames to calibrate by; record more',
    Reason.NOT_FINITE: 'the encoder gave NaN or infinity; choose precision bf16 or fp32, or another encoder',
    Reason.STALE: 'older than max_age; synchronize the clocks, set use_sim_time, or raise max_age',
    Reason.STANDING_STAMPS: 'it has the stamp of the frame before; mend the camera driver',
    Reason.LATE: 'not answered within latency_limit; choose a smaller encoder or input_size',
    Reason.INVALID_IMAGE: 'it holds no picture; check the camera driver',
    Reason.FAILED: 'it failed in the pipeline; see the log',
}


@dataclass(frozen=True)
class ScoreMap:
    """Scores over an image at the resolution that they were computed at; enlarged where somebody wants more.

    Attributes:
        scores: (N,) float32, of each query, >= 0.
        owners: (rows, columns) int64, the query that speaks for each patch.
        segments: masks of the first queries, finer than the patches; None: patches are all there is.
    """

    scores: npt.NDArray[np.float32]
    owners: npt.NDArray[np.int64]
    segments: Segments | None = None

    @classmethod
    def of_pixels(cls, scores: npt.NDArray[np.float32]) -> ScoreMap:
        """Of scores (h, w) float32, >= 0, that nothing stands behind: a method without queries."""
        return cls(scores.ravel(), np.arange(scores.size).reshape(scores.shape))

    @property
    def patches(self) -> npt.NDArray[np.float32]:
        """(rows, columns) float32, score of the query that speaks for each patch."""
        return self.scores[self.owners]

    @property
    def finest(self) -> npt.NDArray[np.float32]:
        """(h, w) float32, as fine as it was computed."""
        return self.patches if self.segments is None else self._by_segment(self.segments.labels)

    def at(self, size: tuple[int, int]) -> npt.NDArray[np.float32]:
        """(H, W) float32 for an image of this (height, width): segments as they are, patches blending."""
        if self.segments is not None:
            return self._by_segment(self.segments.at(size))
        return np.asarray(cv2.resize(self.patches, size[::-1], interpolation=cv2.INTER_LINEAR), np.float32)

    def _by_segment(self, labels: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        """Scores of segments where there is one, of patches elsewhere, for labels (h, w)."""
        assert self.segments is not None
        height, width = labels.shape
        rows, columns = self.owners.shape
        row = ((np.arange(height) + 1) * rows - 1) // height
        column = ((np.arange(width) + 1) * columns - 1) // width
        by_label = np.concatenate([np.zeros(1, np.float32), self.scores[:len(self.segments.scores)]])
        return np.where(labels > 0, by_label[labels], self.patches[row[:, None], column[None, :]])


@dataclass(frozen=True)
class Anomaly:
    """One localized anomaly of one frame.

    Attributes:
        track_id: the same number for the same thing over time, from 1; 0 without tracking.
        score: calibrated anomaly score, the highest in the region; 1.0 is the alarm threshold.
        raw_score: cosine distance to the nearest nominal embedding, 0 to 2.
        p_value: share of nominal frames that hold a score at least as high, (0, 1].
        box: (x, y, width, height) in pixels of the source image.
        contour: (N, 2) int32 outline (x, y) in source pixels, the largest part first
            where the region has several.
        area: pixels of the source image inside the region.
        age_ns: for how long the track has existed.
        nearest: the most similar nominal example, None where the database keeps none.
        label: zero-shot text label, '' without a text-aligned encoder.
        label_score: cosine similarity of the label, -1 to 1; 0 without a label.
    """

    track_id: int
    score: float
    raw_score: float
    p_value: float
    box: tuple[int, int, int, int]
    contour: npt.NDArray[np.int32]
    area: int
    age_ns: int = 0
    nearest: NominalExample | None = None
    label: str = ''
    label_score: float = 0.0


@dataclass(frozen=True)
class FrameResult:
    """What the detector says about one frame.

    Attributes:
        stamp_ns, camera: those of the frame, untouched.
        image_size: (height, width) of the source image in pixels; (0, 0) where no picture was read.
        score: calibrated frame score, >= 0; the alarm threshold is `threshold`. NaN where it is unknown.
        raw_score: the frame score before calibration: cosine distance, 0 to 2. NaN where nothing was compared.
        p_value: conformal p-value of the frame score, (0, 1]; NaN where it is unknown.
        threshold: frame score above which the frame is anomalous.
        verdict: after the filter where it is on.
        scores: where it is how surprising; None where that is unknown.
        pixel_threshold: value of the anomaly map above which a pixel belongs to an anomaly whose core is above
            `threshold`.
        anomalies: what is left after the filter, the highest score first.
        regions: their pixels, in no order.
        queries: what was compared with the database; None for methods that compare nothing.
        timings_ms: milliseconds by stage (`preprocess`, `encode`, `segment`, `search`,
            `score`, `filter`, `total`).
        reason: why it is unknown, or held back.
        explanation: the same in a line, for people; '' where there is nothing to explain.
        held_back_regions: what the filter dropped of the regions, in no order.
        drift: whether driving is still like the nominal drives, on which p-value and threshold rest.
    """

    stamp_ns: int
    camera: str
    image_size: tuple[int, int]
    score: float
    raw_score: float
    p_value: float
    threshold: float
    verdict: Verdict
    scores: ScoreMap | None
    pixel_threshold: float
    anomalies: tuple[Anomaly, ...] = ()
    regions: tuple[Region, ...] = ()
    queries: Queries | None = None
    timings_ms: dict[str, float] = field(default_factory=dict)
    reason: Reason = Reason.NONE
    explanation: str = ''
    held_back_regions: tuple[Region, ...] = ()
    drift: Drift = field(default_factory=Drift)

    @classmethod
    def unknown(cls, stamp_ns: int, camera: str, reason: Reason, explanation: str = '',
                image_size: tuple[int, int] = (0, 0), raw_score: float = math.nan,
                timings_ms: dict[str, float] | None = None) -> FrameResult:
        """Of a frame that could not be judged.

        Args:
            stamp_ns, camera: those of the frame.
            reason: why, 16 or more.
            explanation: the same in a line; '': what is usual.
            image_size: (height, width), pixels; (0, 0): no picture was read.
            raw_score: where distances were computed.
            timings_ms: as far as it went.
        """
        return cls(stamp_ns, camera, image_size, math.nan, raw_score, math.nan, ALARM, Verdict.UNKNOWN, None, ALARM,
                   timings_ms=timings_ms or {}, reason=reason, explanation=explanation or reason.explanation)

    @property
    def anomalous(self) -> bool:
        """Whether the verdict is that."""
        return self.verdict is Verdict.ANOMALOUS

    @property
    def held_back(self) -> bool:
        """Whether it scores above the threshold and is called nominal all the same, because of the filter."""
        return self.verdict is Verdict.NOMINAL and self.reason.holds_back

    @cached_property
    def anomaly_map(self) -> npt.NDArray[np.float32]:
        """(H, W) float32, calibrated score per source pixel; there is none where `scores` is None."""
        assert self.scores is not None
        return self.scores.at(self.image_size)

    @cached_property
    def mask(self) -> npt.NDArray[np.uint8]:
        """(H, W) uint8, 255 where an anomaly is, else 0."""
        return region_mask(self.regions, self.image_size)


def region_mask(regions: Sequence[Region], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """(H, W) uint8, 255 inside the regions of an image of this (height, width), else 0."""
    mask = np.zeros(size, np.uint8)
    for region in regions:
        x, y, w, h = region.box
        mask[y:y + h, x:x + w][region.mask] = 255
    return mask
