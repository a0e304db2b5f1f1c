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
from typing import Protocol

import numpy as np
import numpy.typing as npt

from semanom_ros.core.database.nominal_database import NominalDatabase
from semanom_ros.core.database.storage import FrameRecord, NominalFrame
from semanom_ros.core.drift.drift_reference import DriftReference, drift_arrays, sample_of
from semanom_ros.core.progress import SILENT, Progress
from semanom_ros.core.scoring.comparison import Comparison
from semanom_ros.core.scoring.regions import STRETCH_SECONDS, RegionStatistics, recorded_regions
from semanom_ros.core.scoring.timeline import durations_s, runs
from semanom_ros.errors import DatabaseError
from semanom_ros.parameters import Value
from semanom_ros.settings import ScoreSettings, SearchSettings

log = logging.getLogger(__name__)

TAIL_SHARE = 0.25  # share of the highest held-out scores that the tail is extrapolated from
SMALLEST_LEVEL = 1e-6  # where held-out frames equal recorded ones: a frozen picture, a parked simulator
UNCALIBRATED_SCALE = 1.0  # cosine distance 1: no likeness to anything nominal


class QueryJudge(Protocol):
    """Judges queries by more than their distance; see `plausibility.PlausibilityModel`."""

    def of_queries(self, relative: npt.NDArray[np.float32], vectors: npt.NDArray[np.float32],
                   positions: npt.NDArray[np.float32], owners: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """(N,) float32 scores, >= 0."""

    def owners(self, record: FrameRecord, grid_size: tuple[int, int], variant: str) -> npt.NDArray[np.int64] | None:
        """(rows, columns) which query speaks for each patch of a held-out frame; None where it is not known."""


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
        drives: the same by camera and recording, in time: stamps (m,) in nanoseconds and scores (m,).
        regions: usual distances by place, None where that is switched off or unknown.
        judge: of what belongs where, None where that is switched off or was not learned.
        drift: what driving is compared with; None where there is no reference for that.
        drift_doubt: why there is none.
    """

    frame_scores: npt.NDArray[np.float32]
    drives: tuple[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]], ...] = ()
    regions: RegionStatistics | None = None
    judge: QueryJudge | None = None
    drift: DriftReference | None = None
    drift_doubt: str = ''

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray], judge: QueryJudge | None = None) -> Calibration:
        """From what `calibrate` returned, with the judge that it was made with; {} gives an empty calibration."""
        regions = None
        if 'region_mean' in arrays:
            regions = RegionStatistics(arrays['region_mean'], arrays['region_deviation'])
        scores = np.asarray(arrays.get('frame_scores', np.zeros(0, np.float32)), np.float32)
        drives = []
        for stream in np.unique(arrays['frame_streams']) if arrays else ():
            own = np.flatnonzero(arrays['frame_streams'] == stream)
            own = own[np.argsort(arrays['frame_stamps'][own], kind='stable')]
            drives.append((arrays['frame_stamps'][own], scores[own]))
        return cls(np.sort(scores), tuple(drives), regions, judge if regions else None,
                   *(DriftReference.from_arrays(arrays) if arrays else (None, '')))

    def relative(self, distances: npt.NDArray[np.float32],
                 positions: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """(N,) scores of distances (N,) at positions (N, 2) before division by the alarm level, >= 0.

        Standard deviations above the usual; the distances themselves without region statistics.
        """
        return distances.astype(np.float32) if self.regions is None else self.regions.relative(distances, positions)

    def p_value(self, score: float) -> float:
        """Conformal p-value of a frame score, (0, 1]: (1 + held-out scores at least as high) / (n + 1)."""
        n = len(self.frame_scores)
        return float(1 + n - np.searchsorted(self.frame_scores, score, side='left')) / (n + 1)

    def survival(self, score: float) -> float:
        """Share of nominal frames expected to score at least as high, (0, 1]: the p-value, and beyond what the frames
        carry the fitted tail, which goes on falling."""
        n = len(self.frame_scores)
        if n == 0:
            return 1.0
        tail, start, excess = self._tail()
        if score <= start or excess <= 0:
            return self.p_value(score)
        return tail / n * float(np.exp(-(score - start) / excess))

    def alarm_level(self, false_alarm_rate: float, alarms_per_minute: float = 0.0) -> tuple[float, str]:
        """Frame score above which a frame is anomalous, and what is doubtful about it ('' when nothing is).

        The smallest level whose conformal p-values stay at or below the rate. n held-out frames carry no rate below
        1 / (n + 1); beyond, an exponential tail is fitted to the highest quarter of their scores.

        Args:
            false_alarm_rate: share of nominal frames that may lie above it.
            alarms_per_minute: alarms, each a run of frames, that nominal driving may raise; 0: the rate decides.
        """
        n = len(self.frame_scores)
        if n == 0:
            return UNCALIBRATED_SCALE, ('database is not calibrated: it holds no held-out nominal frames, so the '
                                        f'threshold is the cosine distance {UNCALIBRATED_SCALE:g}; record more')
        if alarms_per_minute:
            return self._level_per_minute(alarms_per_minute)
        allowed = int(np.floor(false_alarm_rate * (n + 1) + 1e-9)) - 1  # held-out scores that may lie at or above
        if allowed >= 0:
            return max(float(self.frame_scores[n - 1 - allowed]), SMALLEST_LEVEL), ''
        tail, start, excess = self._tail()
        level = start + excess * float(np.log(tail / (n * false_alarm_rate)))
        return max(level, float(self.frame_scores[-1]), SMALLEST_LEVEL), (
            f'threshold extrapolated: {n} held-out nominal frames carry no false alarm rate below {1 / (n + 1):.2g}, '
            f'asked is {false_alarm_rate:g}; record longer drives or ask for a higher rate')

    def _tail(self) -> tuple[int, float, float]:
        """How many held-out scores make the tail, where it begins, and the mean of what they exceed that by."""
        n = len(self.frame_scores)
        tail = min(n, max(2, int(np.ceil(TAIL_SHARE * n))))
        start = float(self.frame_scores[max(n - tail - 1, 0)])
        return tail, start, float(self.frame_scores[n - tail:].mean()) - start

    def _level_per_minute(self, asked: float) -> tuple[float, str]:
        """The smallest level above which held-out nominal driving raises no more alarms in a minute."""
        minutes = sum(float(durations_s(stamps).sum()) for stamps, _ in self.drives) / 60
        if not minutes:
            return UNCALIBRATED_SCALE, ('database does not know how long its held-out nominal drives lasted, so the '
                                        f'threshold is the score {UNCALIBRATED_SCALE:g}; record more')

        def alarms(level: float) -> int:
            return sum(len(runs(stamps, scores > level)) for stamps, scores in self.drives)

        level = float(self.frame_scores[-1])
        allowed = int(asked * minutes + 1e-9)
        if allowed:
            for lower in self.frame_scores[::-1]:
                if alarms(float(lower)) > allowed:
                    break
                level = float(lower)
            return max(level, SMALLEST_LEVEL), ''
        _, start, excess = self._tail()
        beyond = start + excess * float(np.log(max(alarms(start), 1) / (minutes * asked)))
        return max(beyond, level, SMALLEST_LEVEL), (
            f'threshold extrapolated: {minutes:.1f} held-out nominal minutes carry no fewer than {1 / minutes:.2g} '
            f'alarms per minute, asked is {asked:g}; record longer drives or ask for more')


def stored_parameters(arrays: Mapping[str, npt.NDArray]) -> dict[str, Value]:
    """The parameters that stored calibration arrays were made for; {} where there are none.

    Raises:
        DatabaseError: they are no calibration's.
    """
    try:
        return json.loads(bytes(arrays['settings'])) if arrays else {}
    except (KeyError, ValueError) as error:
        raise DatabaseError(f'calibration: settings: unreadable ({error}); run semanom db calibrate') from error


def parameters_of(search: SearchSettings, score: ScoreSettings) -> dict[str, Value]:
    """What scores before the alarm level depend on, so a calibration as well."""
    return {**search.values(), **score.values()}


def calibrate(database: NominalDatabase, search: SearchSettings, score: ScoreSettings, judge: QueryJudge | None = None,
              progress: Progress = SILENT) -> dict[str, npt.NDArray]:
    """Calibration arrays of a database from nominal frames alone.

    Region statistics come from recorded frames, each compared with what is not close to it in time; frame scores from
    the held-out frames, in which the region statistics have no part: so they are exchangeable with those of unseen
    nominal frames, as conformal p-values need. Where no recorded frame has anything to be compared with, the two halves
    of the held-out frames calibrate each other.

    Args:
        database: viewed by `search`.
        search, score: what it is made for.
        judge: of what belongs where; None: that was not learned.
        progress: is told.

    Returns:
        `frame_scores`, `frame_stamps` (nanoseconds) and `frame_streams` (a number for each camera of each recording),
        all (n,), `settings`, `region_mean` and `region_deviation` where distances are judged by their place, and what
        `drift_arrays` gives; {} when the database holds no held-out frames.
    """
    compare = Comparison.of(score)
    distances, positions = [], []
    progress.begin('calibrate', len(database.held_out()), 'frame')
    for frame in database.held_out():
        distances.append(compare(database, frame.vectors, frame.places)[0])
        positions.append(np.asarray(frame.positions, np.float32))
        progress.advance(1)
    progress.end()
    if not distances:
        log.warning('%s holds no held-out nominal frames: the database stays uncalibrated', database.path)
        return {}
    settings = json.dumps(parameters_of(search, score), sort_keys=True).encode()
    arrays: dict[str, npt.NDArray] = {'settings': np.frombuffer(settings, np.uint8)}
    relative = distances
    # what was learned is of distances by their place
    by_region = score.calibrate_by_region and (
        judge is not None or database.manifest.description.wants_calibration_by_place)
    if by_region:
        regions = recorded_regions(database, compare, progress)
        if regions is not None:
            relative = [regions.relative(d, p) for d, p in zip(distances, positions, strict=True)]
        else:
            regions = RegionStatistics.gather(np.concatenate(distances), np.concatenate(positions))
            relative = _cross_calibrated(distances, positions)
        arrays |= {'region_mean': regions.mean, 'region_deviation': regions.deviation}
    records = [database.held_out().record(i) for i in range(len(relative))]
    if judge is not None and score.plausibility and by_region:
        relative, records = _judged(database, judge, relative)
    arrays['frame_scores'] = np.array(
        [frame_statistic(scores, score.frame_score_fraction) for scores in relative], np.float32)
    streams = {key: number for number, key in enumerate(dict.fromkeys((r.source_sha256, r.topic) for r in records))}
    arrays['frame_stamps'] = np.array([r.stamp_ns for r in records], np.int64)
    arrays['frame_streams'] = np.array([streams[r.source_sha256, r.topic] for r in records], np.int32)
    return arrays | _drift(database, compare)


def _drift(database: NominalDatabase, compare: Comparison) -> dict[str, npt.NDArray]:
    """The reference for drift, of all nominal frames, each compared with what is not close to it in time."""
    samples, stamps, numbers = [], [], []
    streams: dict[tuple[str, str], int] = {}
    names: dict[tuple[str, str], str] = {}

    def add(frame: NominalFrame, excluded: tuple[int, int] | None) -> None:
        distances, nearest = compare(database, frame.vectors, frame.places, excluded)
        samples.append(sample_of(distances, np.asarray(frame.positions, np.float32), database.positions_of(nearest)))
        stamps.append(frame.record.stamp_ns)
        key = frame.record.source_sha256, frame.record.topic
        numbers.append(streams.setdefault(key, len(streams)))
        names[key] = frame.record.source

    for index, frame in enumerate(database.frames()):
        add(frame, database.neighbourhood(index, STRETCH_SECONDS))
    for frame in database.held_out():
        add(frame, None)
    return drift_arrays(samples, stamps, numbers, [f'{names[key]} {key[1]}' for key in streams])


def _judged(database: NominalDatabase, judge: QueryJudge, relative: list[npt.NDArray[np.float32]]
                 ) -> tuple[list[npt.NDArray[np.float32]], list[FrameRecord]]:
    """Scores of the held-out frames by what belongs where, of those that the judge can be asked about."""
    made, scored, records = database.manifest.description, [], []
    for scores, frame in zip(relative, database.held_out(), strict=True):
        owners = judge.owners(frame.record, made.grid_size, made.variant)
        if owners is not None:
            scored.append(judge.of_queries(scores, np.asarray(frame.vectors), np.asarray(frame.positions), owners))
            records.append(frame.record)
    if len(scored) < len(relative):
        log.warning('%s: %d of %d held-out frames came after `semanom learn` and do not calibrate; learn anew',
                    database.path, len(relative) - len(scored), len(relative))
    return scored, records


def _cross_calibrated(distances: list[npt.NDArray[np.float32]],
                      positions: list[npt.NDArray[np.float32]]) -> list[npt.NDArray[np.float32]]:
    """Scores of each frame by what is usual in the frames of the other half of the recording."""
    half = max(1, len(distances) // 2)
    relative = []
    for own, other in ((slice(0, half), slice(half, None)), (slice(half, None), slice(0, half))):
        other = other if distances[other] else own
        regions = RegionStatistics.gather(np.concatenate(distances[other]), np.concatenate(positions[other]))
        relative += [regions.relative(d, p) for d, p in zip(distances[own], positions[own], strict=True)]
    return relative
