"""What frame and pixel metrics are read off, over streams of any length.

It is one kind of curve: how many anomalous and how many nominal
items score at least as high as a falling threshold. Frames are few and enter with
their exact scores; pixels are many and enter through histograms, so that an hour of
full resolution takes a few megabytes.

A metric whose ground truth is missing (no anomalous or no nominal item) is None. Which
metrics there are stands in `metric_table.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

NOMINAL, IGNORE, ANOMALOUS = 0, 128, 255
"""Pixel values of a ground-truth mask."""

AUPRO_LIMIT = 0.3
"""Highest false-positive rate that AUPRO integrates to, as in MVTec AD and anomalib."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """What is found, and what is found falsely, as the threshold falls.

    Attributes:
        found: (T,) weight of the anomalous items that score at least the t-th threshold; not decreasing.
        false: (T,) the same of the nominal items. The last entries are the totals.
    """

    found: Array
    false: Array

    @classmethod
    def from_scores(cls, scores: npt.ArrayLike, anomalous: npt.ArrayLike,
                    weights: npt.ArrayLike | None = None) -> Curve:
        """Exact curve of N items: scores (N,), anomalous (N,) bool, weights (N,), 1 each when None."""
        scores, anomalous = np.asarray(scores, np.float64), np.asarray(anomalous, bool)
        weights = np.ones(len(scores)) if weights is None else np.asarray(weights, np.float64)
        order = np.argsort(-scores, kind='stable')
        scores, anomalous, weights = scores[order], anomalous[order], weights[order]
        last = np.flatnonzero(np.r_[scores[1:] != scores[:-1], True]) if len(scores) else np.zeros(0, np.int64)
        return cls(np.cumsum(weights * anomalous)[last], np.cumsum(weights * ~anomalous)[last])

    @classmethod
    def from_histograms(cls, anomalous: npt.NDArray, nominal: npt.NDArray) -> Curve:
        """Curve of histograms (B,) over the same bins, the lowest scores first; equal bins count as ties."""
        used = np.flatnonzero((anomalous > 0) | (nominal > 0))[::-1]
        return cls(np.cumsum(anomalous[used], dtype=np.float64), np.cumsum(nominal[used], dtype=np.float64))

    @property
    def complete(self) -> bool:
        """Whether there are both anomalous and nominal items."""
        return len(self.found) > 0 and self.found[-1] > 0 and self.false[-1] > 0

    def rates(self) -> tuple[Array, Array]:
        """False-positive and true-positive rate (T + 1,) from (0, 0) to (1, 1); only for a complete curve."""
        return np.r_[0.0, self.false / self.false[-1]], np.r_[0.0, self.found / self.found[-1]]

    def precision_recall(self) -> tuple[Array, Array]:
        """Precision and recall (T,) as the threshold falls; only for a complete curve."""
        reported = self.found + self.false
        precision = np.divide(self.found, reported, out=np.ones_like(reported), where=reported > 0)
        return precision, self.found / self.found[-1]

    def auroc(self) -> float | None:
        """Area under the ROC curve; ties count half."""
        if not self.complete:
            return None
        false_rate, true_rate = self.rates()
        return _area(true_rate, false_rate)

    def average_precision(self) -> float | None:
        """Sum of precision times gain in recall, without interpolation (scikit-learn's definition)."""
        if not self.complete:
            return None
        precision, recall = self.precision_recall()
        return float(np.sum(np.diff(recall, prepend=0.0) * precision))

    def fpr95(self) -> float | None:
        """False-positive rate at the highest threshold that finds at least 95 % of what is anomalous."""
        if not self.complete:
            return None
        at = np.searchsorted(self.found, 0.95 * self.found[-1] * (1 - 1e-12))
        return float(self.false[at] / self.false[-1])

    def area_to(self, limit: float) -> float | None:
        """Area under the ROC curve to a false-positive rate of `limit`, divided by `limit`."""
        if not self.complete:
            return None
        false_rate, true_rate = self.rates()
        kept = false_rate <= limit
        end = np.interp(limit, false_rate, true_rate)
        return _area(np.r_[true_rate[kept], end], np.r_[false_rate[kept], limit]) / limit


def _area(y: Array, x: Array) -> float:
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1])) / 2)


def f1_of_verdicts(alarms: npt.ArrayLike, anomalous: npt.ArrayLike,
                   weights: npt.ArrayLike | None = None) -> float | None:
    """F1 of yes/no verdicts (N,) against the truth (N,); None when nothing is anomalous."""
    alarms, anomalous = np.asarray(alarms, bool), np.asarray(anomalous, bool)
    weights = np.ones(len(alarms)) if weights is None else np.asarray(weights, np.float64)
    if not np.sum(weights * anomalous):
        return None
    hits = np.sum(weights * (alarms & anomalous))
    return float(2 * hits / (np.sum(weights * alarms) + np.sum(weights * anomalous)))


def percentile(values: npt.ArrayLike, share: float) -> float | None:
    """Value that `share` per cent of the values do not exceed, interpolated; None when there are none."""
    values = np.asarray(values, np.float64)
    return float(np.percentile(values, share)) if values.size else None


@dataclass(frozen=True)
class JudgedFrames:
    """N frames whose truth is known, as frame metrics see them.

    Attributes:
        curve: of their scores.
        alarms: (N,) verdicts.
        anomalous: (N,) truth.
        weights: (N,) how often each counts.
    """

    curve: Curve
    alarms: npt.NDArray[np.bool_]
    anomalous: npt.NDArray[np.bool_]
    weights: Array

    @classmethod
    def of(cls, scores: Array, alarms: npt.NDArray[np.bool_], anomalous: npt.NDArray[np.bool_], weights: Array
           ) -> JudgedFrames:
        """Frames with their scores (N,)."""
        return cls(Curve.from_scores(scores, anomalous, weights), alarms, anomalous, weights)


# Bins of pixel scores. Bit patterns of positive floats sort like the floats, so the upper bits of a float32
# are bins of constant *relative* width whatever the scale of the scores: 13 bits of mantissa, 1.2e-4.
_MANTISSA = 13
_SMALLEST, _OCTAVES = 2.0 ** -14, 28
_FIRST = (int(np.float32(_SMALLEST).view(np.uint32)) >> (23 - _MANTISSA))
BINS = _OCTAVES << _MANTISSA
_COARSE = 6  # bits fewer in the histograms of single stretches, which only feed confidence intervals
COARSE_BINS = BINS >> _COARSE


def bin_index(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.int32]:
    """Histogram bin, 0 to BINS - 1, of each score.

    Bins are 1.2e-4 of the score wide; scores below 6e-5 share the lowest and scores of
    16384 and more the highest.

    Raises:
        ValueError: a score is negative or not a number.
    """
    scores = np.ascontiguousarray(scores, np.float32)
    if scores.size and not scores.min() >= 0:  # also False for NaN
        raise ValueError('anomaly map: found a negative score or NaN, expected scores of at least 0')
    bits = (scores + np.float32(0.0)).view(np.int32) >> (23 - _MANTISSA)  # + 0.0: -0.0 becomes 0.0
    bits -= _FIRST
    return np.clip(bits, 0, BINS - 1, out=bits)


@dataclass(frozen=True)
class PixelCurves:
    """Pixels as pixel metrics see them.

    Attributes:
        curve: of the scores; what is found are anomalous pixels.
        overlap: the same, but what is found are shares of ground-truth regions, whatever their size.
    """

    curve: Curve
    overlap: Curve

    @classmethod
    def from_histograms(cls, anomalous: npt.NDArray, nominal: npt.NDArray, overlap: npt.NDArray) -> PixelCurves:
        """Curves of histograms (B,) over the bins of `bin_index`, or over coarser ones."""
        return cls(Curve.from_histograms(anomalous, nominal), Curve.from_histograms(overlap, nominal))


class PixelStatistics:
    """Pixel scores of a stream of frames in constant memory.

    Pixels are sorted into bins of 1.2e-4 relative width, and pixels of one bin count as
    ties. The error of AUROC is therefore at most half the share of anomalous-nominal
    pairs that share a bin.

    AUPRO is the area under the per-region overlap: at each threshold the share of each
    ground-truth region (8-connected) that is found, averaged over all regions of all
    frames, against the false-positive rate of all nominal pixels, from 0 to 0.3, divided
    by 0.3 (Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 2021). Ignored
    pixels take part in nothing.
    """

    def __init__(self) -> None:
        self.anomalous = np.zeros(BINS, np.int64)
        self.nominal = np.zeros(BINS, np.int64)
        self.overlap = np.zeros(BINS, np.float64)  # every region adds 1 in total
        self.stretches: dict[int, npt.NDArray[np.float64]] = {}  # (3, COARSE_BINS): the same three

    def add(self, anomaly_map: npt.NDArray[np.float32], truth: npt.NDArray[np.uint8], stretch: int) -> None:
        """Adds one frame.

        Args:
            anomaly_map: (H, W) scores of at least 0.
            truth: (H, W), 0 nominal, 128 ignore, 255 anomalous.
            stretch: number of the stretch of time that the frame belongs to, for `bootstrap`.

        Raises:
            ValueError: the shapes differ, or a score is negative or NaN.
        """
        if anomaly_map.shape != truth.shape:
            raise ValueError(f'ground truth: found shape {truth.shape}, expected {anomaly_map.shape}')
        bins = bin_index(anomaly_map)
        coarse = self.stretches.setdefault(stretch, np.zeros((3, COARSE_BINS)))
        counts = np.bincount(bins.ravel() if not truth.any() else bins[truth == NOMINAL], minlength=BINS)
        self.nominal += counts
        coarse[1] += _coarse(counts)
        anomalous = truth == ANOMALOUS
        if not anomalous.any():
            return
        counts = np.bincount(bins[anomalous], minlength=BINS)
        self.anomalous += counts
        coarse[0] += _coarse(counts)
        _, regions = cv2.connectedComponents(anomalous.astype(np.uint8), connectivity=8)
        inside = regions[anomalous]
        shares = np.bincount(bins[anomalous], weights=1.0 / np.bincount(inside)[inside], minlength=BINS)
        self.overlap += shares
        coarse[2] += _coarse(shares)

    def merge(self, other: PixelStatistics) -> None:
        """Adds another stream's frames; its stretches must have other numbers."""
        self.anomalous += other.anomalous
        self.nominal += other.nominal
        self.overlap += other.overlap
        self.stretches.update(other.stretches)

    def curves(self) -> PixelCurves:
        """Of all pixels."""
        return PixelCurves.from_histograms(self.anomalous, self.nominal, self.overlap)

    def weighted(self, stretches: Sequence[int]) -> Callable[[Array], PixelCurves]:
        """The same as a function of how often (S,) each of the stretches counts, on coarser bins (0.8 %)."""
        absent = np.zeros((3, COARSE_BINS))
        stacked = np.stack([self.stretches.get(s, absent) for s in stretches])
        return lambda weights: PixelCurves.from_histograms(*np.tensordot(weights, stacked, 1))

    def arrays(self) -> dict[str, npt.NDArray]:
        """Everything as arrays, for `numpy.savez`; `from_arrays` reads it."""
        return {'anomalous': self.anomalous, 'nominal': self.nominal, 'overlap': self.overlap,
                'stretches': np.array(list(self.stretches), np.int64),
                'stretch_histograms': np.stack([*self.stretches.values(), np.zeros((3, COARSE_BINS))])[:-1]}

    @classmethod
    def from_arrays(cls, arrays: dict[str, npt.NDArray]) -> PixelStatistics:
        """Inverse of `arrays`."""
        statistics = cls()
        statistics.anomalous, statistics.nominal, statistics.overlap = (
            arrays[name] for name in ('anomalous', 'nominal', 'overlap'))
        statistics.stretches = dict(zip(arrays['stretches'].tolist(), arrays['stretch_histograms'], strict=True))
        return statistics


def _coarse(counts: npt.NDArray) -> npt.NDArray:
    return counts.reshape(COARSE_BINS, -1).sum(axis=1)
