"""What is measured of one method over the frames of recordings, and the figures made of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from semanom_ros.core.results import Verdict
from semanom_ros.evaluation.components import ComponentStatistics
from semanom_ros.evaluation.detectors import Ranked
from semanom_ros.evaluation.metric_table import (
    COMPONENT,
    FRAME,
    LATENCY,
    OPERATION,
    PIXEL,
    TIME,
    VERDICT,
    WARNING,
    Group,
    Value,
    measured,
)
from semanom_ros.evaluation.metrics import ANOMALOUS, Array, Curve, JudgedFrames, PixelStatistics
from semanom_ros.evaluation.operating_point import OperatingPoint
from semanom_ros.evaluation.sequences import Timeline, Timelines, bootstrap, timeline
from semanom_ros.evaluation.surroundings import Surroundings
from semanom_ros.evaluation.visibility import METRES, PATCHES, PIXELS, FirstReports, noticed_by

FRAME_TYPE = np.dtype([
    ('stamp_ns', np.int64), ('sequence', np.int64), ('stretch', np.int64), ('truth', np.int8),
    ('score', np.float64), ('raw_score', np.float64), ('p_value', np.float64), ('threshold', np.float64),
    ('verdict', np.uint8), ('held_back', np.bool_), ('reason', np.uint8), ('alarm', np.bool_), ('anomalies', np.int32),
    ('localized', np.bool_), ('truth_pixels', np.int64), ('latency_ms', np.float64), ('frame_score', np.float64),
    ('truth_patches', np.float64), ('distance_m', np.float64), ('reported_m', np.float64), ('speed', np.float64),
    ('drift', np.int8), ('drift_since_ns', np.int64), ('drift_strength', np.float32), ('drift_what', 'U32')])
"""One frame as one method sees it.

`truth`: 1 anomalous, 0 nominal, -1 unknown; `score`: as ranked, NaN where the frame could not be judged; `verdict`,
`reason`: values of Verdict and Reason; `frame_score`: before the filter; `truth_patches`: size of what is anomalous in
patches of the encoder's grid; `distance_m`: of the nearest anomaly; `reported_m`: of the nearest that what was reported
lies on; `speed`: of the vehicle, m/s; `drift`: a DriftState. What is not known is NaN.
"""


@dataclass
class Measurement:
    """One method over the frames of one recording, or of several.

    Attributes:
        pixels, components: statistics over the frames that have ground truth.
        frames: (N,) of FRAME_TYPE, in order.
    """

    pixels: PixelStatistics = field(default_factory=PixelStatistics)
    components: ComponentStatistics = field(default_factory=ComponentStatistics)
    _frames: list[npt.NDArray] = field(default_factory=list)

    @property
    def frames(self) -> npt.NDArray:
        """(N,) of FRAME_TYPE."""
        if len(self._frames) != 1:
            self._frames = [np.concatenate([np.zeros(0, FRAME_TYPE), *self._frames])]
        return self._frames[0]

    def add(self, verdict: Ranked, truth: npt.NDArray[np.uint8] | None, sequence: int, stretch: int,
            surroundings: Surroundings | None = None) -> None:
        """Adds the next frame; `truth` (H, W) is None where it is unknown, as `surroundings` are."""
        result = verdict.result
        mask = result.mask > 0
        pixels = 0 if truth is None else int(np.count_nonzero(truth == ANOMALOUS))
        localized = truth is not None and bool((truth[mask] == ANOMALOUS).any())
        patches = np.nan if result.queries is None else pixels * result.queries.owners.size / mask.size
        distance = reported = speed = np.nan
        if truth is not None and surroundings is not None:
            distance, speed = surroundings.nearest(truth == ANOMALOUS), surroundings.speed
            reported = surroundings.nearest(mask & (truth == ANOMALOUS))
        self._frames.append(np.array([(
            result.stamp_ns, sequence, stretch, -1 if truth is None else bool(pixels), verdict.score, result.raw_score,
            result.p_value, result.threshold, result.verdict, result.held_back, result.reason, result.anomalous,
            len(result.anomalies), localized, pixels, verdict.latency_ms, result.score, patches, distance, reported,
            speed, result.drift.state, result.drift.since_ns, result.drift.strength, result.drift.what)], FRAME_TYPE))
        if truth is not None and verdict.pixel_scores is not None:
            self.pixels.add(verdict.pixel_scores, truth, stretch)
            self.components.add(mask, truth, stretch)

    def merge(self, other: Measurement, first_sequence: int) -> None:
        """Adds another recording, whose stretches have other numbers; its sequences get numbers from the first on."""
        frames = other.frames.copy()
        frames['sequence'] += first_sequence
        self._frames.append(frames)
        self.pixels.merge(other.pixels)
        self.components.merge(other.components)

    def arrays(self) -> dict[str, npt.NDArray]:
        """Everything as plain arrays, for `numpy.savez`; `from_arrays` reads it."""
        return {'frames': self.frames,
                **{f'pixels.{name}': array for name, array in self.pixels.arrays().items()},
                **{f'components.{name}': array for name, array in self.components.arrays().items()}}

    @classmethod
    def from_arrays(cls, arrays: dict[str, npt.NDArray]) -> Measurement:
        """Inverse of `arrays`."""
        def part(prefix: str) -> dict[str, npt.NDArray]:
            return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}

        return cls(PixelStatistics.from_arrays(part('pixels.')), ComponentStatistics.from_arrays(part('components.')),
                   [arrays['frames']])

    # -- figures

    def known(self) -> npt.NDArray:
        """The frames that have ground truth and could be judged: those that are ranked."""
        return self.frames[(self.frames['truth'] >= 0) & (self.frames['verdict'] != Verdict.UNKNOWN)]

    def frame_curve(self) -> Curve:
        """Curve of the frame scores."""
        known = self.known()
        return _judged(known, np.ones(len(known))).curve

    def timelines(self) -> list[tuple[npt.NDArray, Timeline]]:
        """The frames of each sequence and what happened in it."""
        frames = self.frames
        parts = np.split(frames, np.flatnonzero(np.diff(frames['sequence'])) + 1) if len(frames) else []
        return [(part, timeline(part['stamp_ns'], part['alarm'], part['truth'], part['localized'])) for part in parts]

    def metrics(self, false_alarm_rate: float | None = None) -> dict[str, Any]:
        """The figures of the table of metrics, and beside them `threshold`, what was noticed by size and distance, and
        `intervals` (95 %) of what can be drawn anew.

        Args:
            false_alarm_rate: that the threshold was asked for; None: something else sets it.
        """
        parts = self.timelines()
        threshold = float(self.frames['threshold'][-1]) if len(self.frames) else None
        return {
            **self.figures(false_alarm_rate), 'threshold': threshold, 'intervals': self._intervals(self.known()),
            'noticed_by_size': [one.figures() for unit in (PATCHES, PIXELS) for one in noticed_by(unit, parts)],
            'noticed_by_distance': [one.figures() for one in noticed_by(METRES, parts)]}

    def figures(self, false_alarm_rate: float | None = None) -> dict[str, Any]:
        """Those of the table of metrics alone, by group; see `metrics`."""
        known, parts = self.known(), self.timelines()
        operation = OperatingPoint.of(parts, false_alarm_rate)
        facts: dict[Group[Any], Any] = {
            FRAME: _judged(known, np.ones(len(known))), PIXEL: self.pixels.curves(), COMPONENT: self.components.sums(),
            OPERATION: operation, TIME: Timelines([line for _, line in parts]), WARNING: FirstReports.of(parts),
            VERDICT: self.frames,
            LATENCY: self.frames['latency_ms']}
        figures: dict[str, Any] = {}
        for group, fact in facts.items():
            found = measured(group, fact)
            figures |= {group.key: found} if group.key else found
        figures[OPERATION.key]['interval'] = operation.interval
        return figures

    def _intervals(self, known: npt.NDArray) -> dict[str, dict[str, list[float] | None]]:
        """What each group can draw anew from stretches of time, by group and key."""
        stretches = sorted({*known['stretch'].tolist()})
        position = np.searchsorted(stretches, known['stretch']) if stretches else np.zeros(0, np.int64)
        nominal = known['truth'] == 0
        drawn: list[tuple[Group[Any], Callable[[Array], Any]]] = [
            (FRAME, lambda weights: _judged(known, weights[position]))]
        if stretches:
            drawn += [(PIXEL, self.pixels.weighted(stretches)), (COMPONENT, self.components.weighted(stretches))]

        def measure(weights: Array) -> dict[str, Value]:
            own = weights[position] * nominal
            got = float(own[known['alarm']].sum() / own.sum()) if own.any() else None
            return {f'{OPERATION.key}.got': got, **{
                f'{group.key}.{key}': value for group, facts in drawn
                for key, value in measured(group, facts(weights)).items()}}

        intervals: dict[str, dict[str, list[float] | None]] = {}
        for name, interval in bootstrap(len(stretches), measure).items():
            group, key = name.split('.')
            intervals.setdefault(group, {})[key] = interval
        return intervals


def _judged(known: npt.NDArray, weights: Array) -> JudgedFrames:
    """Frames of FRAME_TYPE whose truth is known."""
    return JudgedFrames.of(known['score'], known['alarm'], known['truth'] == 1, weights)


def rounded(value: Any) -> Any:
    """Floats of nested figures to six significant places, so that text made of them is the same on every run."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(f'{value:.6g}')
    if isinstance(value, np.integer):
        return int(value)
    return value
