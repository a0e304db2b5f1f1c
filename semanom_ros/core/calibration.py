"""Thresholds and p-values from nominal data alone.

The frame-score distribution of held-out nominal frames gives split-conformal p-values
(V. Vovk, A. Gammerman, G. Shafer, "Algorithmic Learning in a Random World"; S. Bates et
al., "Testing for outliers with conformal p-values", 2023) and the threshold for an
asked false-alarm rate. What distance is usual at which place of the image comes from
nominal frames as well.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from semanom_ros.parameters import Value

if TYPE_CHECKING:
    from semanom_ros.core.database import NominalDatabase

log = logging.getLogger(__name__)

SETTINGS = ('neighbours', 'position_weight', 'frame_score_fraction', 'calibrate_by_region')  # scores depend on them
REGION_ROWS, REGION_COLUMNS = 24, 32  # cells of the image in which usual distances are gathered
REGION_BLUR = 1.5  # standard deviation of the smoothing over cells, in cells
TAIL_SHARE = 0.25  # share of the highest held-out scores that the tail is extrapolated from
UNCALIBRATED_SCALE = 1.0  # cosine distance 1: no likeness to anything nominal


@dataclass(frozen=True)
class RegionStatistics:
    """Which distances to the nominal database are usual where in the image.

    Attributes:
        mean, deviation: (REGION_ROWS, REGION_COLUMNS) float32, cosine distance.
    """

    mean: npt.NDArray[np.float32]
    deviation: npt.NDArray[np.float32]

    @classmethod
    def gather(cls, distances: npt.NDArray[np.float32], positions: npt.NDArray[np.float32]) -> RegionStatistics:
        """Statistics of nominal distances (N,) at positions (N, 2) in 0..1, smoothed over neighbouring cells.

        Cells that no query fell into take from their surroundings.
        """
        shape = (REGION_ROWS, REGION_COLUMNS)
        column = np.clip((positions[:, 0] * REGION_COLUMNS).astype(np.int64), 0, REGION_COLUMNS - 1)
        row = np.clip((positions[:, 1] * REGION_ROWS).astype(np.int64), 0, REGION_ROWS - 1)
        cell = row * REGION_COLUMNS + column
        # a little of the whole image stands behind every cell: an unvisited one is then the average place
        prior = 1e-3 * len(distances) / cell_count(shape)
        moments = []
        for power in range(3):
            values = distances.astype(np.float64) ** power
            total = np.bincount(cell, values, cell_count(shape)).reshape(shape)
            smooth = cv2.GaussianBlur(total, (0, 0), REGION_BLUR, borderType=cv2.BORDER_REFLECT)
            moments.append(smooth + prior * values.mean())
        mean = moments[1] / moments[0]
        variance = np.maximum(moments[2] / moments[0] - mean ** 2, 0)
        return cls(mean.astype(np.float32), np.sqrt(variance).astype(np.float32))

    def usual(self, positions: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """(N,) highest distance that is usual at each position (N, 2): mean plus two standard deviations."""
        limit = np.maximum(self.mean + 2 * self.deviation, 1e-6)
        x = positions[:, 0] * REGION_COLUMNS - 0.5
        y = positions[:, 1] * REGION_ROWS - 0.5
        return cv2.remap(limit, x[None].astype(np.float32), y[None].astype(np.float32), cv2.INTER_LINEAR,
                         borderMode=cv2.BORDER_REPLICATE)[0]


def cell_count(shape: tuple[int, int]) -> int:
    return shape[0] * shape[1]


def frame_statistic(scores: npt.NDArray[np.float32], fraction: float) -> float:
    """Mean of the highest `fraction` of the scores (at least one); 0: the maximum. 0 for a frame without queries."""
    if not len(scores):
        return 0.0
    count = max(1, round(fraction * len(scores)))
    return float(np.partition(scores, -count)[-count:].mean())


@dataclass(frozen=True)
class Calibration:
    """What nominal data says about scores.

    Attributes:
        frame_scores: (n,) sorted frame scores of held-out nominal frames, before division by the alarm level;
            empty when there are none.
        regions: usual distances by place, None where that is switched off or unknown.
    """

    frame_scores: npt.NDArray[np.float32]
    regions: RegionStatistics | None = None

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray]) -> Calibration:
        """From what `calibrate` returned; {} gives an empty calibration."""
        regions = None
        if 'region_mean' in arrays:
            regions = RegionStatistics(arrays['region_mean'], arrays['region_deviation'])
        return cls(np.sort(np.asarray(arrays.get('frame_scores', np.zeros(0, np.float32)), np.float32)), regions)

    def relative(self, distances: npt.NDArray[np.float32],
                 positions: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """(N,) distances (N,) over what is usual at their positions (N, 2); unchanged without region statistics."""
        if self.regions is None:
            return distances.astype(np.float32)
        return (distances / self.regions.usual(positions)).astype(np.float32)

    def p_value(self, score: float) -> float:
        """Conformal p-value of a frame score, (0, 1]: (1 + held-out scores at least as high) / (n + 1)."""
        n = len(self.frame_scores)
        return float(1 + n - np.searchsorted(self.frame_scores, score, side='left')) / (n + 1)

    def alarm_level(self, false_alarm_rate: float) -> tuple[float, str]:
        """Frame score above which a frame is anomalous, and what is doubtful about it ('' when nothing is).

        The smallest level whose conformal p-values stay at or below the rate. n held-out frames carry no rate below
        1 / (n + 1); beyond, an exponential tail is fitted to the highest quarter of their scores.
        """
        n = len(self.frame_scores)
        if n == 0:
            return UNCALIBRATED_SCALE, ('database is not calibrated: it holds no held-out nominal frames, so the '
                                        f'threshold is the cosine distance {UNCALIBRATED_SCALE:g}; record more')
        allowed = int(np.floor(false_alarm_rate * (n + 1) + 1e-9)) - 1  # held-out scores that may lie at or above
        if allowed >= 0:
            return float(self.frame_scores[n - 1 - allowed]), ''
        tail = max(2, int(np.ceil(TAIL_SHARE * n)))
        start = float(self.frame_scores[max(n - tail - 1, 0)])
        excess = float(self.frame_scores[max(n - tail, 0):].mean()) - start
        level = start + excess * float(np.log(min(tail, n) / (n * false_alarm_rate)))
        return max(level, float(self.frame_scores[-1])), (
            f'threshold extrapolated: {n} held-out nominal frames carry no false alarm rate below {1 / (n + 1):.2g}, '
            f'asked is {false_alarm_rate:g}; record longer drives or ask for a higher rate')


def settings_of(parameters: Mapping[str, Value]) -> npt.NDArray[np.uint8]:
    """The parameters that scores depend on, as an array of UTF-8 bytes to store beside the calibration."""
    text = json.dumps({name: parameters[name] for name in SETTINGS}, sort_keys=True)
    return np.frombuffer(text.encode(), np.uint8)


def calibrate(database: NominalDatabase, parameters: Mapping[str, Value]) -> dict[str, npt.NDArray]:
    """Calibration arrays of a database from its held-out nominal frames.

    Each held-out frame is judged by region statistics from the other half of them, so that its score says what an
    unseen nominal frame's would.

    Args:
        database: opened with the position weight of the parameters.
        parameters: resolved, of the group `method`.

    Returns:
        `frame_scores` (n,), `settings`, and `region_mean`, `region_deviation` where calibrate_by_region is on;
        {} when the database holds no held-out frames.
    """
    neighbours, fraction = int(parameters['neighbours']), float(parameters['frame_score_fraction'])  # type: ignore[arg-type]
    distances, positions = [], []
    for _, vectors, _, places in database.held_out():
        found, _ = database.search(vectors, neighbours, places)
        distances.append(found.mean(axis=1))
        positions.append(np.asarray(places, np.float32))
    if not distances:
        log.warning('%s holds no held-out nominal frames: the database stays uncalibrated', database.path)
        return {}
    arrays: dict[str, npt.NDArray] = {'settings': settings_of(parameters)}
    relative = distances
    if parameters['calibrate_by_region']:
        regions = RegionStatistics.gather(np.concatenate(distances), np.concatenate(positions))
        arrays |= {'region_mean': regions.mean, 'region_deviation': regions.deviation}
        relative = _cross_calibrated(distances, positions)
    arrays['frame_scores'] = np.sort(np.array([frame_statistic(scores, fraction) for scores in relative], np.float32))
    return arrays


def _cross_calibrated(distances: list[npt.NDArray[np.float32]],
                      positions: list[npt.NDArray[np.float32]]) -> list[npt.NDArray[np.float32]]:
    """Distances of each frame over what is usual in the frames of the other half of the recording."""
    if len(distances) < 2:
        regions = RegionStatistics.gather(np.concatenate(distances), np.concatenate(positions))
        return [d / regions.usual(p) for d, p in zip(distances, positions, strict=True)]
    half = len(distances) // 2
    relative = []
    for own, other in ((slice(0, half), slice(half, None)), (slice(half, None), slice(0, half))):
        regions = RegionStatistics.gather(np.concatenate(distances[other]), np.concatenate(positions[other]))
        relative += [d / regions.usual(p) for d, p in zip(distances[own], positions[own], strict=True)]
    return relative
