"""The methods that are compared: the rows of the table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from semanom_ros.core.database.engines import load_embedder
from semanom_ros.core.database.nominal_database import NominalDatabase
from semanom_ros.core.database.published import read_manifest
from semanom_ros.core.embedding.embedder import Embedder, FrameEmbedding
from semanom_ros.core.embedding.segmenters.refreshed import MaskMemory
from semanom_ros.core.frames import Frame
from semanom_ros.core.pipeline import CameraState, Judge, not_finite
from semanom_ros.core.results import FrameResult, Verdict
from semanom_ros.errors import DatabaseError
from semanom_ros.settings import MethodSettings

VARIANTS = ('grid', 'instance')
_STAGES = {'grid': ('preprocess', 'encode', 'search', 'score', 'filter'),
           'instance': ('preprocess', 'encode', 'segment', 'search', 'score', 'filter')}


@dataclass(frozen=True)
class Row:
    """One method of the table.

    Attributes:
        variant: `grid` or `instance`; '' for a baseline that has none.
        filtered: whether the filter is on.
        baseline: '' for our method, else the name of the baseline.
    """

    variant: str
    filtered: bool = False
    baseline: str = ''

    @property
    def name(self) -> str:
        """For people: `instance + filter`."""
        return self.baseline or self.variant + (' + filter' if self.filtered else '')


@dataclass(frozen=True)
class Ranked:
    """What one method says about one frame, in the form that is measured.

    Attributes:
        result: the detector's result.
        score: frame score that is ranked; NaN where the frame could not be judged: it is not ranked then.
        pixel_scores: (H, W) float32, at least 0, that are ranked; None where the frame could not be judged.
        latency_ms: milliseconds that the method needs for the frame on its own.
    """

    result: FrameResult
    score: float
    pixel_scores: npt.NDArray[np.float32] | None
    latency_ms: float


class Method(Protocol):
    """Something that judges frames: one or several rows of the table at once.

    Attributes:
        rows: of the table.
        false_alarm_rate: share of nominal frames that its threshold is asked for; None: something else sets that.
    """

    rows: tuple[Row, ...]
    false_alarm_rate: float | None

    def process(self, frame: Frame) -> list[Ranked]:
        """The verdict of each row on the next frame of a recording."""

    def reset(self) -> None:
        """Forgets temporal state, before another recording."""

    def details(self) -> dict[str, Any]:
        """What else belongs beside its figures; the same on every run."""


def ranked(result: FrameResult, filtered: bool, latency_ms: float) -> Ranked:
    """The scores of a result that metrics rank.

    A filter does not change scores, it takes alarms back. What it takes back is ranked as
    just below an alarm: a frame without a verdict at its threshold at most, and pixels
    outside the reported regions at the alarm level at most, below all that are reported.
    What is unknown is not ranked at all.
    """
    if result.verdict is Verdict.UNKNOWN:
        return Ranked(result, math.nan, None, latency_ms)
    score, pixels = result.score, result.anomaly_map
    if filtered:
        score = score if result.anomalous else min(score, result.threshold)
        alarm = np.float32(result.threshold)
        capped = np.minimum(pixels, alarm)
        pixels = np.where(result.mask > 0, pixels + alarm, capped) if result.regions else capped
    return Ranked(result, score, pixels, latency_ms)


class Detectors:
    """The detector's own pipeline in up to four variants; each frame is embedded once.

    Attributes:
        rows: grid, grid + filter, instance, instance + filter, as far as asked for.
        databases: the nominal database of each variant.
        embedder: what all share.
        false_alarm_rate: see Method.
    """

    def __init__(self, settings: MethodSettings, databases: Sequence[Path], variants: Sequence[str],
                 filters: Sequence[bool], embedder: Embedder | None = None) -> None:
        """
        Args:
            settings: of the method; `variant` is taken from the databases.
            databases: folders, one for each variant.
            variants: which to run; empty: those that there are databases of.
            filters: without and with the filter.
            embedder: encoder (and segmenter) to use instead of those of the settings.

        Raises:
            SemanomError: a database or model will not do, or a variant has no database.
        """
        folders: dict[str, Path] = {}
        for folder in databases:
            variant = read_manifest(folder).description.variant
            if variant in folders:
                raise DatabaseError(f'{folder}: found a second database of the variant {variant}, expected one for '
                                    'each variant; merge them with `semanom db merge`')
            folders[variant] = folder
        for variant in variants:
            if variant not in folders:
                raise DatabaseError(f'{databases[0]}: found databases of the variants {", ".join(folders)}, expected '
                                    f'one of {variant}; record it with variant: {variant} and give both')
        chosen = [variant for variant in VARIANTS if variant in (variants or folders)]
        self.embedder = embedder or load_embedder(
            settings.changed({'variant': chosen[-1]}), *(folders[variant] for variant in reversed(chosen)))
        self.databases: dict[str, NominalDatabase] = {}
        self._judges: list[tuple[str, list[Judge]]] = []
        rows = []
        for variant in chosen:
            own = self.embedder if variant == self.embedder.variant else self.embedder.without_segments()
            judge = Judge.load(settings.changed({'variant': variant}), folders[variant], own)
            self._judges.append((variant, [judge.live(_switches(settings, on)) for on in filters]))
            self.databases[variant] = judge.database
            rows += [Row(variant, on) for on in filters]
        self.rows = tuple(rows)
        self.false_alarm_rate = None if settings.alarm.false_alarms_per_minute else settings.alarm.false_alarm_rate
        self._encoded: dict[int, FrameEmbedding] = {}  # by the id of its frame, which it keeps
        self.warnings = tuple(dict.fromkeys(w for _, all in self._judges for judge in all for w in judge.warnings))
        self.reset()

    def look_ahead(self, frames: Sequence[Frame]) -> None:
        """What `process` will be asked about next: embedded together, as many as suit the encoder's device.

        Raises:
            ImageError: a picture is none.
        """
        self._encoded = {id(embedding.frame): embedding for embedding in self.embedder.encode(frames)}

    def process(self, frame: Frame) -> list[Ranked]:
        """The verdict of each row on the next frame.

        Raises:
            ImageError: the picture is none.
        """
        encoded = self._encoded.pop(id(frame), None)
        embedding = self.embedder.segment(encoded or self.embedder.encode([frame])[0], self._masks)
        verdicts: list[Ranked] = []
        for variant, judges in self._judges:
            own = embedding if variant == 'instance' else replace(embedding, segments=None)
            scores = None if own.fault else judges[0].score(own)
            for judge in judges:
                row = self.rows[len(verdicts)]
                result = judge.filter(scores, self._states[row]) if scores is not None else not_finite(own)
                latency = sum(result.timings_ms.get(stage, 0.0) for stage in _STAGES[variant])
                verdicts.append(ranked(result, row.filtered, latency))
        return verdicts

    def details(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def reset(self) -> None:
        """Forgets tracks and their evidence, drift and moved masks."""
        self._masks = MaskMemory()
        self._states = {row: CameraState() for row in self.rows}


def _switches(settings: MethodSettings, on: bool) -> dict[str, bool]:
    """The filter's switches: as configured, or all off."""
    return {'filter_spatial': on and settings.filter.spatial, 'filter_temporal': on and settings.filter.temporal}
