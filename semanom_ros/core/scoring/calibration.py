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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from semanom_ros.core.database import FrameRecord, NominalDatabase, read_manifest
from semanom_ros.core.embedding.device import resolve_device
from semanom_ros.core.plausibility.plausibility_model import PlausibilityModel
from semanom_ros.core.progress import SILENT, Progress
from semanom_ros.core.scoring.comparison import Comparison
from semanom_ros.core.scoring.timeline import durations_s, runs
from semanom_ros.parameters import METHOD, Value, resolve

log = logging.getLogger(__name__)

SETTINGS = ('neighbours', 'density_neighbours', 'position_weight', 'scale_weight', 'standardize',
            'frame_score_fraction', 'calibrate_by_region', 'plausibility')
"""Parameters that scores before the alarm level depend on."""

REGION_ROWS, REGION_COLUMNS = 24, 32  # cells of the image in which usual distances are gathered
REGION_BLUR = 1.5  # standard deviation of the smoothing over cells, in cells
REGION_QUERIES = 20_000  # nominal embeddings that region statistics are gathered from: 26 a cell
STRETCH_SECONDS = 5.0  # of a recorded frame's own drive that it is not compared with: neighbours in time look alike
DEVIATION_FLOOR = 0.2  # of the whole image's deviation; so nothing is infinitely surprising where all was constant
TAIL_SHARE = 0.25  # share of the highest held-out scores that the tail is extrapolated from
SMALLEST_LEVEL = 1e-6  # where held-out frames equal recorded ones: a frozen picture, a parked simulator
UNCALIBRATED_SCALE = 1.0  # cosine distance 1: no likeness to anything nominal


def view_settings(parameters: Mapping[str, Value]) -> dict[str, Any]:
    """How the database is to be opened for these parameters: keyword arguments of NominalDatabase.open and view."""
    return {'position_weight': float(parameters['position_weight']),  # type: ignore[arg-type]
            'scale_weight': float(parameters['scale_weight']),  # type: ignore[arg-type]
            'standardize': bool(parameters['standardize'])}


@dataclass(frozen=True)
class RegionStatistics:
    """Which distances to the nominal database are usual where in the image.

    Per-place normalization as in PaDiM (T. Defard et al., 2021), but of distances, and shared between neighbouring
    places, since a camera moves.

    Attributes:
        mean, deviation: (REGION_ROWS, REGION_COLUMNS) float32, cosine distance.
    """

    mean: npt.NDArray[np.float32]
    deviation: npt.NDArray[np.float32]

    @classmethod
    def gather(cls, distances: npt.NDArray[np.float32], positions: npt.NDArray[np.float32]) -> RegionStatistics:
        """Statistics of nominal distances (N,) at positions (N, 2) in 0..1, smoothed over neighbouring cells.

        A little of the whole image stands behind every cell: one that no query fell into is the average place.
        """
        shape, cells = (REGION_ROWS, REGION_COLUMNS), REGION_ROWS * REGION_COLUMNS
        column = np.clip((positions[:, 0] * REGION_COLUMNS).astype(np.int64), 0, REGION_COLUMNS - 1)
        row = np.clip((positions[:, 1] * REGION_ROWS).astype(np.int64), 0, REGION_ROWS - 1)
        prior = 0.01 * len(distances) / cells
        moments = []
        for power in range(3):
            values = distances.astype(np.float64) ** power
            total = np.bincount(row * REGION_COLUMNS + column, values, cells).reshape(shape)
            smooth = cv2.GaussianBlur(total, (0, 0), REGION_BLUR, borderType=cv2.BORDER_REFLECT)
            moments.append(smooth + prior * values.mean())
        mean = moments[1] / moments[0]
        deviation = np.sqrt(np.maximum(moments[2] / moments[0] - mean ** 2, 0))
        floor = max(DEVIATION_FLOOR * float(distances.std()), 1e-6)
        return cls(mean.astype(np.float32), np.maximum(deviation, floor).astype(np.float32))

    def relative(self, distances: npt.NDArray[np.float32], positions: npt.NDArray[np.float32]
                 ) -> npt.NDArray[np.float32]:
        """(N,) by how many standard deviations distances (N,) exceed what is usual at positions (N, 2); at least 0."""
        x = (positions[:, 0] * REGION_COLUMNS - 0.5)[None].astype(np.float32)
        y = (positions[:, 1] * REGION_ROWS - 0.5)[None].astype(np.float32)
        mean, deviation = (cv2.remap(table, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[0]
                           for table in (self.mean, self.deviation))
        return np.maximum((distances - mean) / deviation, 0).astype(np.float32)


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
        plausibility: model of what belongs where, None where it is switched off or was not learned.
    """

    frame_scores: npt.NDArray[np.float32]
    drives: tuple[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]], ...] = ()
    regions: RegionStatistics | None = None
    plausibility: PlausibilityModel | None = None

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray], plausibility: bool = True) -> Calibration:
        """From what `calibrate` returned; {} gives an empty calibration. `plausibility`: whether to use that model."""
        regions = None
        if 'region_mean' in arrays:
            regions = RegionStatistics(arrays['region_mean'], arrays['region_deviation'])
        scores = np.asarray(arrays.get('frame_scores', np.zeros(0, np.float32)), np.float32)
        drives = []
        if 'frame_streams' in arrays:
            for stream in np.unique(arrays['frame_streams']):
                own = np.flatnonzero(arrays['frame_streams'] == stream)
                own = own[np.argsort(arrays['frame_stamps'][own], kind='stable')]
                drives.append((arrays['frame_stamps'][own], scores[own]))
        return cls(np.sort(scores), tuple(drives), regions,
                   PlausibilityModel.from_arrays(arrays) if plausibility and regions else None)

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


def settings_of(parameters: Mapping[str, Value]) -> npt.NDArray[np.uint8]:
    """The parameters that scores depend on, as an array of UTF-8 bytes to store beside the calibration."""
    text = json.dumps({name: parameters[name] for name in SETTINGS}, sort_keys=True)
    return np.frombuffer(text.encode(), np.uint8)


def stored_parameters(arrays: Mapping[str, npt.NDArray]) -> dict[str, Value]:
    """The parameters that stored calibration arrays were made for; {} where there are none."""
    return json.loads(bytes(arrays['settings'])) if 'settings' in arrays else {}


def made_for(arrays: Mapping[str, npt.NDArray], parameters: Mapping[str, Value]) -> bool:
    """Whether stored calibration arrays fit the parameters; a setting that is newer than they are had its default."""
    stored, defaults = stored_parameters(arrays), resolve({}, METHOD)
    return bool(stored) and all(stored.get(name, defaults[name]) == parameters[name] for name in SETTINGS)


def calibrator(path: Path, parameters: Mapping[str, Value], progress: Progress = SILENT
               ) -> Callable[[NominalDatabase], dict[str, npt.NDArray]]:
    """What the next version of a database is calibrated with; it keeps what the current one has learned.

    Args:
        path: of the database, which need not exist yet.
        parameters: resolved, of the group `method`.
        progress: is told.
    """
    model = None
    if (path / 'manifest.json').exists():
        current = NominalDatabase(path, read_manifest(path))
        model = PlausibilityModel.from_arrays(current.calibration)
        current.close()

    def calibrated(database: NominalDatabase) -> dict[str, npt.NDArray]:
        view = database.view(device=resolve_device(str(parameters['device'])), **view_settings(parameters))
        try:
            return calibrate(view, parameters, model, progress)
        finally:
            view.close()

    return calibrated


def calibrate(database: NominalDatabase, parameters: Mapping[str, Value], model: PlausibilityModel | None = None,
              progress: Progress = SILENT) -> dict[str, npt.NDArray]:
    """Calibration arrays of a database from nominal frames alone.

    Region statistics come from recorded frames, each compared with what is not close to it in time; frame scores from
    the held-out frames, in which the region statistics have no part: so they are exchangeable with those of unseen
    nominal frames, as conformal p-values need. Where no recorded frame has anything to be compared with, the two halves
    of the held-out frames calibrate each other.

    Args:
        database: opened with `view_settings(parameters)`.
        parameters: resolved, of the group `method`.
        model: plausibility model to store with it; None: the one that the database holds already.
        progress: is told.

    Returns:
        `frame_scores`, `frame_stamps` (nanoseconds) and `frame_streams` (a number for each camera of each recording),
        all (n,), `settings`, `region_mean`, `region_deviation` where calibrate_by_region is on, and the
        arrays of the plausibility model where there is one; {} when the database holds no held-out frames.
    """
    compare, fraction = Comparison.of(parameters), float(parameters['frame_score_fraction'])  # type: ignore[arg-type]
    model = model or PlausibilityModel.from_arrays(database.calibration)
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
    arrays: dict[str, npt.NDArray] = {'settings': settings_of(parameters)}
    relative = distances
    by_region = bool(parameters['calibrate_by_region'])
    if model is None:  # what was learned is of distances by their place
        by_region = database.manifest.description.calibrates_by_region(by_region)
    if by_region:
        regions = recorded_regions(database, compare, progress)
        if regions is not None:
            relative = [regions.relative(d, p) for d, p in zip(distances, positions, strict=True)]
        else:
            regions = RegionStatistics.gather(np.concatenate(distances), np.concatenate(positions))
            relative = _cross_calibrated(distances, positions)
        arrays |= {'region_mean': regions.mean, 'region_deviation': regions.deviation}
    records = [database.held_out().record(i) for i in range(len(relative))]
    if model is not None:
        arrays |= model.arrays()
        if parameters['plausibility'] and by_region:
            relative, records = _implausible(database, model, relative)
    arrays['frame_scores'] = np.array([frame_statistic(scores, fraction) for scores in relative], np.float32)
    streams = {key: number for number, key in enumerate(dict.fromkeys((r.source_sha256, r.topic) for r in records))}
    arrays['frame_stamps'] = np.array([r.stamp_ns for r in records], np.int64)
    arrays['frame_streams'] = np.array([streams[r.source_sha256, r.topic] for r in records], np.int32)
    return arrays


def _implausible(database: NominalDatabase, model: PlausibilityModel, relative: list[npt.NDArray[np.float32]]
                 ) -> tuple[list[npt.NDArray[np.float32]], list[FrameRecord]]:
    """Scores of the held-out frames by a plausibility model, of those that it can be asked about."""
    made, scored, records = database.manifest.description, [], []
    for scores, frame in zip(relative, database.held_out(), strict=True):
        owners = model.owners(frame.record, made.grid_size, made.variant)
        if owners is not None:
            scored.append(model.of_queries(scores, np.asarray(frame.vectors), np.asarray(frame.positions), owners))
            records.append(frame.record)
    if len(scored) < len(relative):
        log.warning('%s: %d of %d held-out frames came after `semanom learn` and do not calibrate; learn anew',
                    database.path, len(relative) - len(scored), len(relative))
    return scored, records


def recorded_regions(database: NominalDatabase, compare: Comparison, progress: Progress = SILENT
                     ) -> RegionStatistics | None:
    """Region statistics from a sample of the recorded embeddings; None when nothing is left to compare them with."""
    frames, rng = database.frames(), np.random.default_rng(0)
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(len(frames), REGION_QUERIES // 200)).astype(np.int64))
    distances, positions = [], []
    progress.begin('learn places', len(chosen), 'frame')
    for index in chosen:
        frame = frames[index]
        sample = rng.permutation(len(frame.vectors))[:REGION_QUERIES // len(chosen)]
        found, _ = compare(database, frame.vectors[sample], frame.places[sample],
                           database.neighbourhood(int(index), STRETCH_SECONDS))
        usable = np.isfinite(found)
        distances.append(found[usable])
        positions.append(np.asarray(frame.positions[sample][usable], np.float32))
        progress.advance(1)
    progress.end()
    together = np.concatenate(distances)
    return RegionStatistics.gather(together, np.concatenate(positions)) if len(together) else None


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
