"""What is measured of one method over the frames of recordings, and the figures made of it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from semanom_ros.evaluation.components import ComponentStatistics
from semanom_ros.evaluation.detectors import Row, Verdict
from semanom_ros.evaluation.metrics import (
    ANOMALOUS,
    Array,
    Curve,
    Metrics,
    PixelStatistics,
    f1_of_verdicts,
    percentiles,
)
from semanom_ros.evaluation.sequences import Timeline, bootstrap, timeline, timeline_metrics

FRAME_TYPE = np.dtype([
    ('stamp_ns', np.int64), ('sequence', np.int64), ('stretch', np.int64), ('truth', np.int8),
    ('score', np.float64), ('raw_score', np.float64), ('p_value', np.float64), ('threshold', np.float64),
    ('alarm', np.bool_), ('anomalies', np.int32), ('localized', np.bool_), ('truth_pixels', np.int64),
    ('latency_ms', np.float64)])
"""One frame as one method sees it. `truth`: 1 anomalous, 0 nominal, -1 unknown; `score`: as ranked."""


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

    def add(self, verdict: Verdict, truth: npt.NDArray[np.uint8] | None, sequence: int, stretch: int) -> None:
        """Adds the next frame; `truth` (H, W) is None where it is unknown."""
        result = verdict.result
        mask = result.mask > 0
        pixels = 0 if truth is None else int(np.count_nonzero(truth == ANOMALOUS))
        localized = bool(pixels) and bool((truth[mask] == ANOMALOUS).any())  # type: ignore[index]
        self._frames.append(np.array([(
            result.stamp_ns, sequence, stretch, -1 if truth is None else bool(pixels), verdict.score, result.raw_score,
            result.p_value, result.threshold, result.anomalous, len(result.anomalies), localized, pixels,
            verdict.latency_ms)], FRAME_TYPE))
        if truth is not None:
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
        """The frames that have ground truth."""
        return self.frames[self.frames['truth'] >= 0]

    def frame_curve(self) -> Curve:
        """Curve of the frame scores."""
        known = self.known()
        return Curve.from_scores(known['score'], known['truth'] == 1)

    def timelines(self) -> list[tuple[npt.NDArray, Timeline]]:
        """The frames of each sequence and what happened in it."""
        frames = self.frames
        parts = np.split(frames, np.flatnonzero(np.diff(frames['sequence'])) + 1) if len(frames) else []
        return [(part, timeline(part['stamp_ns'], part['alarm'], part['truth'], part['localized'])) for part in parts]

    def metrics(self) -> dict[str, object]:
        """`frame`, `pixel`, `component`, figures over time, `intervals` (95 %), `latency_ms`."""
        known = self.known()
        stretches = sorted({*known['stretch'].tolist()})
        position = np.searchsorted(stretches, known['stretch']) if stretches else np.zeros(0, np.int64)
        parts = {'pixel': self.pixels.weighted(stretches), 'component': self.components.weighted(stretches)} \
            if stretches else {}

        def measure(weights: Array) -> Metrics:
            found = {f'frame.{name}': value for name, value in _frame_metrics(known, weights[position]).items()}
            for group, function in parts.items():
                found |= {f'{group}.{name}': value for name, value in function(weights).items()}
            return found

        intervals: dict[str, dict[str, list[float] | None]] = {}
        for name, interval in bootstrap(len(stretches), measure).items():
            group, metric = name.split('.')
            intervals.setdefault(group, {})[metric] = interval
        return {
            'frame': _frame_metrics(known, np.ones(len(known))), 'pixel': self.pixels.metrics(),
            'component': self.components.metrics(), **timeline_metrics([line for _, line in self.timelines()]),
            'threshold': float(self.frames['threshold'][-1]) if len(self.frames) else None, 'intervals': intervals,
            'latency_ms': percentiles(self.frames['latency_ms'])}


def _frame_metrics(known: npt.NDArray, weights: Array) -> Metrics:
    anomalous = known['truth'] == 1
    curve = Curve.from_scores(known['score'], anomalous, weights)
    if not curve.complete:
        return {'auroc': None, 'ap': None, 'fpr95': None, 'f1': f1_of_verdicts(known['alarm'], anomalous, weights)}
    return {'auroc': curve.auroc(), 'ap': curve.average_precision(), 'fpr95': curve.fpr95(),
            'f1': f1_of_verdicts(known['alarm'], anomalous, weights)}


def rounded(value: object) -> object:
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


@dataclass(frozen=True)
class Result:
    """One row of the table."""

    row: Row
    measurement: Measurement
    metrics: dict[str, object]
