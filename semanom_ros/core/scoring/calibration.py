"""Thresholds and p-values from nominal data alone.

Each nominal frame is scored by a database that does not hold its own stretch of time, with everything else that was
learned from nominal frames learned without it: cross-conformal prediction (V. Vovk, "Cross-conformal predictors",
Annals of Mathematics and Artificial Intelligence, 2015; R. F. Barber et al., "Predictive inference with the
jackknife+", Annals of Statistics, 2021). The distribution of these frame scores gives p-values (S. Bates et al.,
"Testing for outliers with conformal p-values", Annals of Statistics, 2023) and the threshold for an asked false-alarm
rate; rates beyond what so many frames carry come from their fitted tail.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from semanom_ros.core.database.manifest import Manifest
from semanom_ros.core.database.published import read_calibration
from semanom_ros.core.database.storage import FrameRecord, NominalFrame
from semanom_ros.core.drift.drift_reference import CELLS, DriftReference, drift_arrays, sample_of
from semanom_ros.core.progress import SILENT, Progress
from semanom_ros.core.scoring.regions import REGION_COLUMNS, REGION_ROWS, STRETCH_SECONDS, RegionStatistics
from semanom_ros.core.scoring.tail import Tail
from semanom_ros.core.scoring.timeline import durations_s, runs
from semanom_ros.errors import DatabaseError, ParameterError
from semanom_ros.parameters import Value
from semanom_ros.settings import AlarmSettings, MethodSettings, ScoreSettings, SearchSettings

if TYPE_CHECKING:  # PyTorch, which thresholds do without
    from semanom_ros.core.database.nominal_database import NominalDatabase
    from semanom_ros.core.scoring.comparison import Comparison

log = logging.getLogger(__name__)

FEW = 5  # nominal frames above a level: with fewer it comes from the tail, so that no single one decides
EXTRAPOLATED = 4.0  # how far below 1 / n a rate may lie that n frames are asked for
SMALLEST_LEVEL = 1e-6  # where nominal frames equal each other: a frozen picture, a parked simulator
UNCALIBRATED_SCALE = 1.0  # cosine distance 1: no likeness to anything nominal
MOST_FRAMES = 2000  # that a calibration is made from, evenly spread where there are more
FOLDS = 10  # of neighbouring frames; what is usual at a place is learned without the frame's own
_RESAMPLES, _BLOCK_S = 500, 10.0  # behind the interval of a level


class QueryJudge(Protocol):
    """Judges queries by more than their distance; see `plausibility.PlausibilityModel`."""

    def of_queries(self, relative: npt.NDArray[np.float32], vectors: npt.NDArray[np.float32],
                   positions: npt.NDArray[np.float32], owners: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """(N,) float32 scores, >= 0."""

    def owners(self, record: FrameRecord, grid_size: tuple[int, int], variant: str) -> npt.NDArray[np.int64] | None:
        """(rows, columns) which query speaks for each patch of a nominal frame; None where it is not known."""

    def without(self, record: FrameRecord) -> QueryJudge:
        """A judge that has not learned from that frame."""


def frame_statistic(scores: npt.NDArray[np.float32], fraction: float) -> float:
    """Mean of the highest `fraction` of the scores (at least one); 0: the maximum. 0 for a frame without queries."""
    if not len(scores):
        return 0.0
    count = highest(len(scores), fraction)
    return float(np.partition(scores, -count)[-count:].mean())


def highest(count: int, fraction: float) -> int:
    """Of how many of so many scores a frame score is the mean."""
    return max(1, round(fraction * count))


@dataclass(frozen=True)
class AlarmLevel:
    """The frame score before calibration above which a frame is anomalous.

    Attributes:
        level: of the score, > 0.
        rate: share of nominal frames that it is for; None: that is not known.
        doubt: what is doubtful about it, one line; '' when nothing is.
    """

    level: float
    rate: float | None
    doubt: str = ''


@dataclass(frozen=True)
class Calibration:
    """What nominal data says about scores.

    Attributes:
        frame_scores: (n,) sorted frame scores of nominal frames, before division by the alarm level; empty when there
            are none.
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
        """From what `calibrate` returned, with the judge that it was made with; {} gives an empty calibration.

        Raises:
            DatabaseError: they are no calibration's.
        """
        if arrays:
            _check(arrays)
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

    @classmethod
    def stored(cls, path: Path, manifest: Manifest) -> Calibration:
        """That of a version of a database in a folder; without what was learned, which no level depends on.

        Raises:
            DatabaseError: its file is unreadable.
        """
        return cls.from_arrays(read_calibration(path, manifest))

    def level_for(self, alarm: AlarmSettings) -> AlarmLevel:
        """What the settings ask for."""
        return self.alarm_level(alarm.false_alarm_rate, alarm.false_alarms_per_minute)

    @property
    def calibrated(self) -> bool:
        """Whether there is anything to go by."""
        return len(self.frame_scores) > 0

    @property
    def minutes(self) -> float:
        """Of nominal driving that the frame scores are of."""
        return sum(float(durations_s(stamps).sum()) for stamps, _ in self.drives) / 60

    @property
    def lowest_rate(self) -> float:
        """The lowest false alarm rate that so many frames support: 1 where there are none."""
        return min(1.0, 1 / (EXTRAPOLATED * max(len(self.frame_scores), 0.25)))

    @cached_property
    def tail(self) -> Tail:
        """Of the frame scores, of which there is at least one."""
        return Tail.fit(self.frame_scores)

    def relative(self, distances: npt.NDArray[np.float32],
                 positions: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """(N,) scores of distances (N,) at positions (N, 2) before division by the alarm level, >= 0.

        Standard deviations above the usual; the distances themselves without region statistics.
        """
        return distances.astype(np.float32) if self.regions is None else self.regions.relative(distances, positions)

    def p_value(self, score: float) -> float:
        """Conformal p-value of a frame score, (0, 1]: (1 + nominal scores at least as high) / (n + 1)."""
        n = len(self.frame_scores)
        return float(1 + n - np.searchsorted(self.frame_scores, score, side='left')) / (n + 1)

    def survival(self, score: float) -> float:
        """Share of nominal frames expected to score at least as high, [0, 1].

        The p-value; in the tail, which goes on falling beyond what the frames carry, the tail's.
        """
        if not self.calibrated:
            return 1.0
        return self.p_value(score) if score <= self.tail.start else self.tail.survival(score)

    def alarm_level(self, false_alarm_rate: float, alarms_per_minute: float = 0.0) -> AlarmLevel:
        """The smallest level that nominal frames lie above no more often than asked.

        As far as at least FEW nominal frames lie above it, it is the conformal quantile; beyond, the fitted tail's.
        n frames support rates down to 1 / (EXTRAPOLATED n): asked for less, they give the level for that rate, which
        is rung too often rather than never, and say so.

        Args:
            false_alarm_rate: share of nominal frames that may lie above it.
            alarms_per_minute: alarms, each a run of frames, that nominal driving may raise; 0: the rate decides.
        """
        n = len(self.frame_scores)
        if n == 0:
            return AlarmLevel(UNCALIBRATED_SCALE, None, (
                'database is not calibrated: it holds no nominal frames that can be compared with others of its own, '
                'so no frame can be judged; record a longer drive, or run semanom db calibrate'))
        if alarms_per_minute:
            return self._level_per_minute(alarms_per_minute)
        if false_alarm_rate < self.lowest_rate:
            rate = self.lowest_rate
            return AlarmLevel(self._level(rate), rate, (
                f'asked for a false alarm rate of {100 * false_alarm_rate:.2g} %, got the level for {100 * rate:.2g} '
                f'%, the lowest that {n} nominal frames support: expect more false alarms; record '
                f'{int(np.ceil(1 / (EXTRAPOLATED * false_alarm_rate)))} frames or more, or ask for a higher rate'))
        return AlarmLevel(self._level(false_alarm_rate), false_alarm_rate)

    def _level(self, rate: float) -> float:
        return max(_level_of(self.frame_scores, rate, self.tail), SMALLEST_LEVEL)

    def level_interval(self, rate: float) -> tuple[float, float]:
        """Between what, 95 %, the level for a rate lies: stretches of the nominal drives drawn anew, with the tail."""
        blocks = [scores[own] for stamps, scores in self.drives
                  for own in np.split(np.arange(len(stamps)), np.flatnonzero(np.diff(
                      ((stamps - stamps[0]) / (_BLOCK_S * 1e9)).astype(np.int64))) + 1)]
        rng, levels = np.random.default_rng(0), []
        for _ in range(_RESAMPLES):
            drawn = np.sort(np.concatenate([blocks[i] for i in rng.integers(len(blocks), size=len(blocks))]))
            levels.append(_level_of(drawn, rate, Tail.fit(drawn)))
        low, high = np.quantile(levels, (0.025, 0.975))
        return float(low), float(high)

    def describe(self, rates: Sequence[float] = (0.01, 0.02, 0.05)) -> list[str]:
        """How far it carries, for people, in a few lines."""
        if not self.calibrated:
            return ['no: no frame can be judged']
        lines = [f'from {len(self.frame_scores):,} nominal frames, {self.minutes:.1f} min; supports false alarm rates '
                 f'down to {100 * self.lowest_rate:.2g} %']
        for rate in rates:
            if rate >= self.lowest_rate:
                low, high = self.level_interval(rate)
                lines.append(f'{100 * rate:g} % of nominal frames score above {self._level(rate):.3g} '
                             f'(95 % interval {low:.3g} to {high:.3g})')
        return lines

    def _level_per_minute(self, asked: float) -> AlarmLevel:
        """The smallest level above which nominal driving raises no more alarms in a minute."""
        minutes = self.minutes
        if not minutes:
            return AlarmLevel(self._level(self.lowest_rate), self.lowest_rate, (
                f'database does not know how long its nominal drives lasted: asked for {asked:g} alarms per minute, '
                f'got the level for a false alarm rate of {100 * self.lowest_rate:.2g} %; record more'))
        lowest = 1 / (EXTRAPOLATED * minutes)
        doubt = '' if asked >= lowest else (
            f'asked for {asked:g} alarms per minute, got the level for {lowest:.2g}, the lowest that {minutes:.1f} '
            'nominal minutes support: expect more; record longer drives or ask for more')

        def alarms(level: float) -> int:
            return sum(len(runs(stamps, scores > level)) for stamps, scores in self.drives)

        wanted = max(asked, lowest) * minutes
        level = float(self.frame_scores[-1])
        for lower in self.frame_scores[::-1]:
            if alarms(float(lower)) > wanted:
                break
            level = float(lower)
        if wanted < FEW:  # the tail, from where FEW alarms are raised on
            few = next((float(lower) for lower in self.frame_scores[::-1] if alarms(float(lower)) >= FEW),
                       float(self.frame_scores[0]))
            level = few + self.tail.scale * float(np.log(max(alarms(few), 1) / wanted))
        share = float((self.frame_scores > level).mean()) or self.tail.survival(level)
        return AlarmLevel(max(level, SMALLEST_LEVEL), share, doubt)


def _level_of(ascending: npt.NDArray[np.float32], rate: float, tail: Tail) -> float:
    n = len(ascending)
    allowed = int(np.floor(rate * (n + 1) + 1e-9)) - 1  # nominal scores that may lie at or above
    return float(ascending[n - 1 - allowed]) if allowed + 1 >= FEW or rate >= tail.share else tail.level(rate)


def stored_parameters(arrays: Mapping[str, npt.NDArray]) -> dict[str, Value]:
    """The parameters that stored calibration arrays were made for; {} where there are none.

    Raises:
        DatabaseError: they are no calibration's.
    """
    try:
        stored = json.loads(bytes(arrays['settings'])) if arrays else {}
        MethodSettings.of(stored)
        return stored
    except (KeyError, ValueError, TypeError, RecursionError, ParameterError) as error:
        raise DatabaseError(f'calibration: settings: unreadable ({error}); run semanom db calibrate') from error


def _check(arrays: Mapping[str, npt.NDArray]) -> None:
    """What would fail, or be taken for a threshold, later."""
    shapes = [arrays[name].shape for name in ('frame_scores', 'frame_stamps', 'frame_streams') if name in arrays]
    fits = len(shapes) == 3 and len(set(shapes)) == 1 and len(shapes[0]) == 1 and shapes[0][0] > 0
    regions = [arrays[name] for name in ('region_mean', 'region_deviation') if name in arrays]
    fits &= not regions or [region.shape for region in regions] == 2 * [(REGION_ROWS, REGION_COLUMNS)]
    drift = [arrays[name] for name in ('drift_samples', 'drift_stamps', 'drift_streams') if name in arrays]
    fits &= not drift or (len(drift) == 3 and drift[0].ndim == 2 and drift[0].shape[1] == CELLS + 2
                          and all(one.shape == drift[0].shape[:1] for one in drift[1:]))
    finite = all(array.dtype.kind in 'fiu' and np.isfinite(array).all() if name != 'drift_names'
                 else array.dtype.kind == 'U' and array.ndim == 1 for name, array in arrays.items())
    if not (fits and finite and all((region > 0).all() for region in regions[1:])):
        raise DatabaseError(f'calibration: found arrays {", ".join(f"{n} {a.shape}" for n, a in arrays.items())} that '
                            'do not fit together or are not finite, expected those of one calibration; run semanom db '
                            'calibrate')


def parameters_of(search: SearchSettings, score: ScoreSettings) -> dict[str, Value]:
    """What scores before the alarm level depend on, so a calibration as well."""
    return {**search.values(), **score.values()}


def calibrate(database: NominalDatabase, search: SearchSettings, score: ScoreSettings, judge: QueryJudge | None = None,
              progress: Progress = SILENT, frames: Sequence[NominalFrame] | None = None) -> dict[str, npt.NDArray]:
    """Calibration arrays of a database from nominal frames alone.

    Each frame is compared with what is farther than STRETCH_SECONDS from it in its own recording, judged by what is
    usual at each place of the picture in other frames than its neighbours, and by a judge that has not learned from it.

    Args:
        database: viewed by `search`.
        search, score: what it is made for.
        judge: of what belongs where; None: that was not learned.
        progress: is told.
        frames: to calibrate with; None: those that the database keeps aside, where there are none those recorded.

    Returns:
        `frame_scores`, `frame_stamps` (nanoseconds) and `frame_streams` (a number for each camera of each recording),
        all (n,), `settings`, `region_mean` and `region_deviation` where distances are judged by their place, and what
        `drift_arrays` gives; {} when no frame can be compared with others.
    """
    from semanom_ros.core.scoring.comparison import Comparison

    own = distances_of(database, Comparison.of(score), MOST_FRAMES, progress, frames)
    if not own:
        log.warning('%s holds no nominal frame that can be compared with others of its own: it stays uncalibrated',
                    database.path)
        return {}
    settings = json.dumps(parameters_of(search, score), sort_keys=True).encode()
    arrays: dict[str, npt.NDArray] = {'settings': np.frombuffer(settings, np.uint8)}
    relative = [one.distances for one in own]
    # what was learned is of distances by their place
    by_region = score.calibrate_by_region and (
        judge is not None or database.manifest.description.wants_calibration_by_place)
    if by_region:
        regions = regions_of(own)
        relative = _relative(own)
        arrays |= {'region_mean': regions.mean, 'region_deviation': regions.deviation}
    drift = _drift(own)
    if judge is not None and score.plausibility and by_region:
        own, relative = _judged(database, judge, own, relative)
    arrays['frame_scores'] = np.array(
        [frame_statistic(scores, score.frame_score_fraction) for scores in relative], np.float32)
    records = [one.frame.record for one in own]
    streams = {key: number for number, key in enumerate(dict.fromkeys((r.source_sha256, r.topic) for r in records))}
    arrays['frame_stamps'] = np.array([r.stamp_ns for r in records], np.int64)
    arrays['frame_streams'] = np.array([streams[r.source_sha256, r.topic] for r in records], np.int32)
    return arrays | drift


def _drift(frames: Sequence[CrossDistances]) -> dict[str, npt.NDArray]:
    """What driving is compared with, to tell drift."""
    records = [one.frame.record for one in frames]
    names = {(record.source_sha256, record.topic): f'{record.source} {record.topic}' for record in records}
    streams = {key: number for number, key in enumerate(names)}
    samples = [sample_of(one.distances, np.asarray(one.frame.positions, np.float32), one.matched) for one in frames]
    return drift_arrays(samples, [record.stamp_ns for record in records],
                        [streams[record.source_sha256, record.topic] for record in records], list(names.values()))


@dataclass(frozen=True)
class CrossDistances:
    """A nominal frame, and (n,) float32 how far its embeddings are from the rest of the database.

    Attributes:
        frame, distances: those.
        matched: (n, 2) float32 where in their images the nearest embeddings are, 0 to 1.
    """

    frame: NominalFrame
    distances: npt.NDArray[np.float32]
    matched: npt.NDArray[np.float32]


def distances_of(database: NominalDatabase, compare: Comparison, most: int, progress: Progress = SILENT,
                 frames: Sequence[NominalFrame] | None = None) -> list[CrossDistances]:
    """Nominal frames, each compared with what is farther than STRETCH_SECONDS from it in its own recording.

    Those that were held out are compared with all. Frames that nothing is left to be compared with are left out.

    Args:
        database: as it will be viewed.
        compare: how.
        most: frames, evenly spread where there are more.
        progress: is told.
        frames: see `calibrate`.
    """
    given = frames if frames is not None else database.held_out() or database.whole_frames()
    chosen = np.unique(np.linspace(0, len(given) - 1, min(len(given), most)).astype(np.int64)) if len(given) else ()
    found = []
    progress.begin('calibrate', len(chosen), 'frame')
    for index in chosen:
        frame = given[int(index)]
        held_out = frame.record.held_out  # with its whole stretch
        near = (0, 0) if held_out else database.neighbourhood(frame.record, STRETCH_SECONDS)
        distances, nearest = compare(database, frame.vectors, frame.places, near)
        if len(distances) and np.isfinite(distances).all():
            found.append(CrossDistances(frame, distances, database.positions_of(nearest)))
        progress.advance(1)
    progress.end()
    return found


def regions_of(frames: Sequence[CrossDistances]) -> RegionStatistics:
    """What is usual where in the picture, from at least one frame."""
    return RegionStatistics.gather(np.concatenate([one.distances for one in frames]),
                                   np.concatenate([np.asarray(one.frame.positions, np.float32) for one in frames]))


def _relative(frames: Sequence[CrossDistances]) -> list[npt.NDArray[np.float32]]:
    """Scores of each frame by what is usual in frames other than itself and its neighbours."""
    relative = []
    for fold in np.array_split(np.arange(len(frames)), min(FOLDS, len(frames))):
        others = [one for number, one in enumerate(frames) if not fold[0] <= number <= fold[-1]] or frames
        regions = regions_of(others)
        relative += [regions.relative(frames[i].distances, np.asarray(frames[i].frame.positions, np.float32))
                     for i in fold]
    return relative


def _judged(database: NominalDatabase, judge: QueryJudge, frames: list[CrossDistances],
            relative: list[npt.NDArray[np.float32]]) -> tuple[list[CrossDistances], list[npt.NDArray[np.float32]]]:
    """Scores by what belongs where, of the frames that the judge can be asked about."""
    made, scored, known = database.manifest.description, [], []
    for one, scores in zip(frames, relative, strict=True):
        record = one.frame.record
        owners = judge.owners(record, made.grid_size, made.variant)
        if owners is not None:
            scored.append(judge.without(record).of_queries(
                scores, np.asarray(one.frame.vectors), np.asarray(one.frame.positions), owners))
            known.append(one)
    if len(scored) < len(relative):
        log.info('%s: %d of %d nominal frames were not looked at by `semanom learn` and do not calibrate',
                 database.path, len(relative) - len(scored), len(relative))
    return known, scored
