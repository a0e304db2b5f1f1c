"""Components: is each anomaly found as one thing, and is each reported thing an anomaly?

The definition is that of the SegmentMeIfYouCan benchmark (Chan et al., NeurIPS 2021
Datasets and Benchmarks), with the component sizes of its obstacle track. There the
threshold of the mask is the one that is best on the truth; here the mask is what the
detector reports at the threshold calibrated on nominal data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from semanom_ros.evaluation.metrics import ANOMALOUS, IGNORE

THRESHOLDS = np.linspace(0.25, 0.75, 11)
"""Overlaps that F1 is averaged over."""

SMALLEST_TRUTH = 10
"""Ground-truth components of fewer pixels are ignored."""

SMALLEST_PREDICTION = 50
"""Reported components of fewer pixels are dropped."""


def _label(mask: npt.NDArray[np.bool_], smallest: int) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """8-connected components (H, W), numbered from 1, and the pixels (H, W) of those below the size."""
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    small = statistics[:, cv2.CC_STAT_AREA] < smallest
    small[0] = False
    if not small.any():
        return labels, np.zeros(mask.shape, bool)
    return np.where(small, 0, np.arange(count, dtype=np.int32))[labels], np.asarray(small[labels])


def component_overlaps(predicted: npt.NDArray[np.bool_], truth: npt.NDArray[np.uint8], *,
                       smallest_truth: int = SMALLEST_TRUTH, smallest_prediction: int = SMALLEST_PREDICTION,
                       ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Overlaps of one frame's components.

    The adjusted intersection over union (sIoU) of a ground-truth component k with the
    union K of the reported components that touch it leaves out of the union the pixels
    of K that belong to other ground-truth components. The predictive value (PPV) of a
    reported component is the share of it that is truly anomalous. Components are
    8-connected; what is reported on ignored pixels is dropped before they are formed.

    Args:
        predicted: (H, W), what is reported as anomalous.
        truth: (H, W), 0 nominal, 128 ignore, 255 anomalous.
        smallest_truth: ground-truth components of fewer pixels become ignored pixels.
        smallest_prediction: reported components of fewer pixels are dropped.

    Returns:
        sIoU (G,) of each ground-truth component and PPV (P,) of each reported one.
    """
    if not predicted.any() and not (truth == ANOMALOUS).any():
        return np.zeros(0), np.zeros(0)
    reported, _ = _label(predicted & (truth != IGNORE), smallest_prediction)
    regions, too_small = _label(truth == ANOMALOUS, smallest_truth)
    valid = (truth != IGNORE) & ~too_small
    reported, regions = reported[valid], regions[valid]

    # One table of shared pixels says everything: rows are truth components, columns reported ones, 0 is neither.
    rows, columns = int(regions.max(initial=0)) + 1, int(reported.max(initial=0)) + 1
    shared = np.bincount(regions * columns + reported, minlength=rows * columns).reshape(rows, columns) * 1.0
    truth_area, reported_area, on_truth = shared.sum(axis=1), shared.sum(axis=0), shared[1:].sum(axis=0)

    overlaps = []
    for row in np.flatnonzero(truth_area[1:] > 0) + 1:
        touching = shared[row] > 0
        touching[0] = False
        intersection = shared[row, touching].sum()
        elsewhere = on_truth[touching].sum() - intersection
        union = reported_area[touching].sum() - elsewhere + truth_area[row] - intersection
        overlaps.append(intersection / union)
    columns_used = np.flatnonzero(reported_area[1:] > 0) + 1
    return np.array(overlaps), on_truth[columns_used] / reported_area[columns_used]


@dataclass(frozen=True)
class ComponentSums:
    """Components of many frames, as component metrics see them.

    Attributes:
        siou: sum of the adjusted IoU of the ground-truth components.
        truths: how many of those there are.
        ppv: sum of the predictive values of the reported components.
        reports: how many of those there are.
        hits, missed, false: (T,) found and missed ground-truth components, and false reported ones, at each of
            THRESHOLDS.
    """

    siou: float
    truths: float
    ppv: float
    reports: float
    hits: npt.NDArray[np.float64]
    missed: npt.NDArray[np.float64]
    false: npt.NDArray[np.float64]

    @classmethod
    def of(cls, total: npt.NDArray[np.float64]) -> ComponentSums:
        """The sums that ComponentStatistics keeps, as one row."""
        siou, truths, ppv, reports = (float(value) for value in total[:4])
        return cls(siou, truths, ppv, reports, *total[4:].reshape(3, -1))

    def mean_siou(self) -> float | None:
        """Over the ground-truth components; None when there are none."""
        return self.siou / self.truths if self.truths else None

    def mean_ppv(self) -> float | None:
        """Over the reported components; None when there are none, or nothing that they could be right about."""
        return self.ppv / self.reports if self.truths and self.reports else None

    def mean_f1(self) -> float | None:
        """Over THRESHOLDS; None when there are no ground-truth components."""
        return float(np.mean(2 * self.hits / (2 * self.hits + self.missed + self.false))) if self.truths else None


class ComponentStatistics:
    """Components of a stream of frames: sums for each stretch of time."""

    # sum of sIoU, how many; sum of PPV, how many; hits, misses and false ones by threshold
    _FIELDS = 4 + 3 * len(THRESHOLDS)

    def __init__(self) -> None:
        self.stretches: dict[int, npt.NDArray[np.float64]] = {}

    def add(self, predicted: npt.NDArray[np.bool_], truth: npt.NDArray[np.uint8], stretch: int, *,
            smallest_truth: int = SMALLEST_TRUTH, smallest_prediction: int = SMALLEST_PREDICTION) -> None:
        """Adds one frame; see `component_overlaps`."""
        siou, ppv = component_overlaps(predicted, truth, smallest_truth=smallest_truth,
                                       smallest_prediction=smallest_prediction)
        hits = (siou[:, None] >= THRESHOLDS).sum(axis=0)
        false = (ppv[:, None] < THRESHOLDS).sum(axis=0)
        self.stretches[stretch] = self.stretches.get(stretch, np.zeros(self._FIELDS)) + np.concatenate(
            [[siou.sum(), len(siou), ppv.sum(), len(ppv)], hits, len(siou) - hits, false])

    def merge(self, other: ComponentStatistics) -> None:
        """Adds another stream's frames; its stretches must have other numbers."""
        self.stretches.update(other.stretches)

    def sums(self) -> ComponentSums:
        """Of all frames."""
        return self.weighted(list(self.stretches))(np.ones(len(self.stretches)))

    def weighted(self, stretches: Sequence[int]) -> Callable[[npt.NDArray[np.float64]], ComponentSums]:
        """The same as a function of how often (S,) each of the stretches counts."""
        absent = np.zeros(self._FIELDS)
        stacked = np.stack([*(self.stretches.get(s, absent) for s in stretches), absent])
        return lambda weights: ComponentSums.of(np.append(weights, 0.0) @ stacked)

    def arrays(self) -> dict[str, npt.NDArray]:
        """Everything as arrays, for `numpy.savez`; `from_arrays` reads it."""
        return {'stretches': np.array(list(self.stretches), np.int64),
                'sums': np.stack([*self.stretches.values(), np.zeros(self._FIELDS)])[:-1]}

    @classmethod
    def from_arrays(cls, arrays: dict[str, npt.NDArray]) -> ComponentStatistics:
        """Inverse of `arrays`."""
        statistics = cls()
        statistics.stretches = dict(zip(arrays['stretches'].tolist(), arrays['sums'], strict=True))
        return statistics
