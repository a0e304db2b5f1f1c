"""The one table of metrics: what each is called, how it is computed, and where it is shown.

metrics.json, the report, the lines of `semanom evaluate`, the demo's table and the rows of `semanom bench` all loop
over METRICS: a row here is all that a metric needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from semanom_ros.core.results import Verdict
from semanom_ros.evaluation.components import ComponentSums
from semanom_ros.evaluation.metrics import (
    AUPRO_LIMIT,
    Array,
    JudgedFrames,
    PixelCurves,
    f1_of_verdicts,
    percentile,
)
from semanom_ros.evaluation.operating_point import OperatingPoint
from semanom_ros.evaluation.sequences import Timelines
from semanom_ros.evaluation.visibility import FirstReports

DASH = '–'
"""Stands in the report where a figure is missing."""

Known = TypeVar('Known')
Value = float | int | None


@dataclass(frozen=True)
class Group(Generic[Known]):
    """Metrics that are made of the same knowledge.

    Attributes:
        key: in metrics.json; '': its metrics stand at the top.
        heading: over its columns in the report.
        table: of the report that it stands in; one of TABLES.
    """

    key: str
    heading: str
    table: str


ALARMS, SCORES = TABLES = ('Alarms', 'Scores and masks')
"""The tables of the report: what the product does at its threshold, and what its scores are worth."""

OPERATION = Group[OperatingPoint]('operating_point', 'Operating point', ALARMS)
TIME = Group[Timelines]('', 'Over time', ALARMS)
WARNING = Group[FirstReports]('warning', 'First report', ALARMS)
VERDICT = Group[npt.NDArray]('', 'Verdicts', ALARMS)
"""Known are the frames, of measurement.FRAME_TYPE."""
FRAME = Group[JudgedFrames]('frame', 'Detection (frames)', SCORES)
PIXEL = Group[PixelCurves]('pixel', 'Localization (pixels)', SCORES)
COMPONENT = Group[ComponentSums]('component', 'Components', SCORES)
LATENCY = Group[Array]('latency_ms', 'Latency', ALARMS)
"""Known are the milliseconds of each frame."""


@dataclass(frozen=True)
class Metric(Generic[Known]):
    """One row of the table. Where a title is '' the metric is not shown.

    Attributes:
        group: what it is made of.
        key: in metrics.json, within its group.
        compute: the figure, of what the group knows; None, never 0, without ground truth.
        meaning: a few words, for whoever wonders at the report's column.
        digits: after the point, wherever it is shown.
        best: which of two figures is better; '': neither.
        unit: beside the figure.
        column: title in the report's table, its unit included.
        headline: title at the top of the report.
        detail: there below a figure without interval; a format string, of all figures of the method.
        terminal: title in the line that `semanom evaluate` prints.
        short: title in the demo's table, and in the benchmark's rows as far as those hold the figure.
        out_of: key of the count that this one is a part of: shown as `2 of 3`.
        interval: key of its 95 % interval where its group has one of its own; '': that of the bootstrap.
    """

    group: Group[Known]
    key: str
    compute: Callable[[Known], Value]
    meaning: str = ''
    digits: int = 3
    best: Literal['max', 'min', ''] = 'max'
    unit: str = ''
    column: str = ''
    headline: str = ''
    detail: str = ''
    terminal: str = ''
    short: str = ''
    out_of: str = ''
    interval: str = ''

    def value(self, figures: Mapping[str, Any]) -> Any:
        """Its figure among those of a method, or its interval among their intervals; None where there is none."""
        own = figures.get(self.group.key) if self.group.key else figures
        return None if own is None else own.get(self.key)

    def total(self, figures: Mapping[str, Any]) -> int:
        """The count that this one is a part of; 0 where that is unknown."""
        own = figures.get(self.group.key, {}) if self.group.key else figures
        return own.get(self.out_of) or 0

    def text(self, figures: Mapping[str, Any], missing: str = DASH) -> str:
        """Its figure for people, without unit; `missing` where there is none, or none of nothing."""
        value = self.value(figures)
        if value is None or (self.out_of and not self.total(figures)):
            return missing
        return f'{value:.{self.digits}f}'

    def interval_text(self, figures: Mapping[str, Any]) -> str:
        """The 95 % interval, of the bootstrap draws or its own; '' where there is none."""
        interval = figures[self.group.key][self.interval] if self.interval else self.value(figures['intervals'])
        return f'{interval[0]:.{self.digits}f} to {interval[1]:.{self.digits}f}' if interval else ''


def _count(flags: npt.NDArray[np.bool_]) -> int | None:
    """How many of the frames; None where there are none."""
    return int(flags.sum()) if len(flags) else None


METRICS: tuple[Metric[Any], ...] = (
    Metric(OPERATION, 'asked', lambda point: point.asked, 'share of nominal frames that may alarm', best='',
           column='asked', terminal='asked'),
    Metric(OPERATION, 'got', lambda point: point.got, 'share of the nominal frames of these recordings that alarm',
           best='', column='got', headline='nominal frames that alarm', terminal='got', interval='interval'),
    Metric(OPERATION, 'anomalies', lambda point: point.anomalies or None, 'anomalies in view', 0, ''),
    Metric(OPERATION, 'noticed', lambda point: point.noticed if point.anomalies else None,
           'anomalies with an alarm while in view', 0, '', column='noticed', terminal='noticed', out_of='anomalies'),
    Metric(OPERATION, 'noticed_at_oracle', lambda point: point.noticed_at_oracle if point.anomalies else None,
           'anomalies that score above the level which gives the asked share on these very nominal frames', 0, '',
           column='possible', terminal='possible'),
    Metric(OPERATION, 'oracle_level', lambda point: point.oracle_level,
           'that level, the product\'s own being 1', best=''),
    Metric(OPERATION, 'efficiency', lambda point: point.efficiency if point.anomalies else None,
           'noticed of those possible at the asked share', 2, '', column='efficiency',
           headline='operating-point efficiency',
           detail='{operating_point[noticed]} noticed, {operating_point[noticed_at_oracle]} possible at the asked '
                  '{operating_point[asked]:g}',
           terminal='efficiency', short='efficiency'),

    Metric(FRAME, 'auroc', lambda frames: frames.curve.auroc(), 'area under the ROC curve of the frame scores',
           column='AUROC', headline='frame AUROC', terminal='frame AUROC', short='frame AUROC'),
    Metric(FRAME, 'ap', lambda frames: frames.curve.average_precision(), 'average precision of the frame scores',
           column='AP', terminal='AP'),
    Metric(FRAME, 'fpr95', lambda frames: frames.curve.fpr95(),
           'share of the nominal frames that score as high as 95 % of the anomalous ones', best='min', column='FPR95'),
    Metric(FRAME, 'f1', lambda frames: f1_of_verdicts(frames.alarms, frames.anomalous, frames.weights),
           'F1 of the verdicts at the calibrated threshold', column='F1'),

    Metric(PIXEL, 'auroc', lambda pixels: pixels.curve.auroc(), 'area under the ROC curve of the pixel scores',
           column='AUROC'),
    Metric(PIXEL, 'ap', lambda pixels: pixels.curve.average_precision(), 'average precision of the pixel scores',
           column='AP', headline='pixel AP', terminal='pixel AP', short='pixel AP'),
    Metric(PIXEL, 'fpr95', lambda pixels: pixels.curve.fpr95(),
           'share of the nominal pixels that score as high as 95 % of the anomalous ones', best='min', column='FPR95'),
    Metric(PIXEL, 'aupro', lambda pixels: pixels.overlap.area_to(AUPRO_LIMIT),
           f'area under the overlap of each region, to a false-positive rate of {AUPRO_LIMIT}', column='AUPRO',
           terminal='AUPRO'),

    Metric(COMPONENT, 'siou', lambda sums: sums.mean_siou(), 'adjusted IoU, mean over the true components',
           column='sIoU'),
    Metric(COMPONENT, 'ppv', lambda sums: sums.mean_ppv(),
           'share of a reported component that is anomalous, mean over the reported ones', column='PPV'),
    Metric(COMPONENT, 'f1', lambda sums: sums.mean_f1(), 'F1 of components, mean over overlaps from 0.25 to 0.75',
           column='F1', terminal='component F1'),

    Metric(TIME, 'events', lambda lines: lines.count(lines.events), 'anomalies in view', 0, ''),
    Metric(TIME, 'events_noticed', lambda lines: lines.count(lines.delays_s()), 'anomalies with an alarm while in view',
           0, out_of='events', headline='anomalies noticed', detail='{events_localized} in the right place',
           short='noticed'),
    Metric(TIME, 'events_localized', lambda lines: lines.count([event for event in lines.events if event.localized]),
           'anomalies that what an alarm reported lay on', 0, out_of='events'),
    Metric(TIME, 'false_alarms', lambda lines: lines.false_alarms(), 'distinct alarms in nominal driving', 0, 'min',
           short='false alarms'),
    Metric(TIME, 'false_alarms_per_minute', lambda lines: lines.false_alarms_per_minute(),
           'distinct alarms for each minute of nominal driving', 2, 'min', column='FA/min',
           headline='false alarms per minute', detail='{false_alarms} in all', terminal='false alarms/min'),
    Metric(TIME, 'alarms_per_minute', lambda lines: lines.alarms_per_minute(),
           'distinct alarms, true or false, for each minute', 2, ''),
    Metric(TIME, 'detection_delay_s', lambda lines: lines.mean_delay_s(),
           'from coming into view to the alarm, mean over the noticed', 2, 'min', 's', column='delay s',
           headline='detection delay', detail='mean over the noticed', terminal='delay'),

    Metric(WARNING, 'anomalies', lambda reports: len(reports.distances_m) or None,
           'anomalies whose distance at the first report is known', 0, ''),
    Metric(WARNING, 'distance_m', lambda reports: reports.median_distance(),
           'distance of an anomaly when it is first reported where it is, median over the noticed', 1, 'max', 'm',
           column='distance m', headline='distance at the first report',
           detail='median of {warning[anomalies]} anomalies'),
    Metric(WARNING, 'seconds', lambda reports: reports.median_seconds(),
           'until the vehicle would be there at its speed then, median over the noticed', 1, 'max', 's',
           column='s ahead'),
    Metric(VERDICT, 'unknown_frames', lambda frames: _count(frames['verdict'] == Verdict.UNKNOWN),
           'frames that could not be judged: not ranked, and no alarms', 0, 'min', column='unknown'),
    Metric(VERDICT, 'held_back_frames', lambda frames: _count(frames['held_back']),
           'frames above the threshold that the filter calls nominal', 0, '', column='held back'),

    Metric(LATENCY, 'p50', lambda milliseconds: percentile(milliseconds, 50), 'median time that a frame takes', 0,
           'min', 'ms', column='p50 ms', headline='latency', detail='99 %: {latency_ms[p99]:.0f} ms',
           terminal='latency', short='latency'),
    Metric(LATENCY, 'p99', lambda milliseconds: percentile(milliseconds, 99), 'time that 99 % of the frames keep to',
           0, 'min', 'ms', column='p99 ms'),
)


def measured(group: Group[Known], known: Known) -> dict[str, Value]:
    """The figures of a group by key, of what is known."""
    return {metric.key: metric.compute(known) for metric in METRICS if metric.group == group}


def columns(table: str) -> list[Metric[Any]]:
    """Of one of the report's TABLES, those of a group side by side."""
    shown = [metric for metric in METRICS if metric.column and metric.group.table == table]
    groups = list(dict.fromkeys(metric.group for metric in shown))
    return sorted(shown, key=lambda metric: groups.index(metric.group))


def headlines() -> list[Metric[Any]]:
    """What stands at the top of the report."""
    return [metric for metric in METRICS if metric.headline]


def terminal_line(name: str, figures: Mapping[str, Any]) -> str:
    """One method in a line: `grid  frame AUROC 0.981  AP 0.902   pixel AP 0.655 ...`."""
    line, group = f'{name:18s}', None
    for metric in METRICS:
        if metric.terminal:
            width = metric.digits + 2 if metric.digits else 1
            part = f' of {metric.total(figures)}' if metric.out_of and metric.total(figures) else ''
            figure = metric.text(figures, f'{"-":^{width}}') + part + (metric.unit and f' {metric.unit}')
            line += ('  ' if metric.group == group else '   ' if group else ' ') + f'{metric.terminal} {figure}'
            group = metric.group
    return line


def short_table(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """The most telling figures of some methods, a line each below the titles.

    Args:
        rows: name and figures of each.
    """
    longest = max(18, *(len(name) for name, _ in rows))
    lines = [f'{name:{longest}s}' for name in ('', *(name for name, _ in rows))]
    for metric in METRICS:
        if metric.short:
            cells = [metric.short]
            for _, figures in rows:
                part = f'/{metric.total(figures)}' if metric.out_of else ''
                text = metric.text(figures, '')
                cells.append(text + part + (metric.unit and f' {metric.unit}') if text else '-')
            width = max(map(len, cells))
            lines = [f'{line}  {cell:>{width}s}' for line, cell in zip(lines, cells, strict=True)]
    return '\n'.join(lines)


def shown_in_bench(figures: Mapping[str, Any]) -> dict[str, float | None]:
    """The figures of the short table by title and unit, of the groups that a benchmark measures."""
    return {f'{metric.short} {metric.unit}'.rstrip(): metric.value(figures) for metric in METRICS
            if metric.short and (metric.group.key in figures if metric.group.key else metric.key in figures)}
