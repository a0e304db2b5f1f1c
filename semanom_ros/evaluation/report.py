"""The report: one HTML page that opens from disk and needs nothing else."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from jinja2 import Environment, PackageLoader, StrictUndefined

from semanom_ros import __version__
from semanom_ros.core.scoring.timeline import JOIN_S
from semanom_ros.evaluation.charts import Chart, rate_curve
from semanom_ros.evaluation.detectors import Row
from semanom_ros.evaluation.gallery import Gallery
from semanom_ros.evaluation.measurement import Measurement
from semanom_ros.evaluation.metrics import AUPRO_LIMIT
from semanom_ros.evaluation.replay import Replay
from semanom_ros.evaluation.sequences import GRACE_S, RESAMPLES, STRETCH_S, Timeline

_LARGEST_VIDEO = 24_000_000  # bytes; a longer one stays beside the page
_MOST_STRIPS = 12
_DASH = '–'


@dataclass(frozen=True)
class Column:
    """One figure of the table.

    Attributes:
        group, title: headings.
        path: keys in the metrics of a row.
        digits: after the point.
        best: `max`, `min`, or '' where neither is better.
        percent: shown as a percentage.
    """

    group: str
    title: str
    path: tuple[str, ...]
    digits: int = 3
    best: str = 'max'


COLUMNS = (
    Column('Detection (frames)', 'AUROC', ('frame', 'auroc')),
    Column('Detection (frames)', 'AP', ('frame', 'ap')),
    Column('Detection (frames)', 'FPR95', ('frame', 'fpr95'), best='min'),
    Column('Detection (frames)', 'F1', ('frame', 'f1')),
    Column('Localization (pixels)', 'AUROC', ('pixel', 'auroc')),
    Column('Localization (pixels)', 'AP', ('pixel', 'ap')),
    Column('Localization (pixels)', 'FPR95', ('pixel', 'fpr95'), best='min'),
    Column('Localization (pixels)', 'AUPRO', ('pixel', 'aupro')),
    Column('Components', 'sIoU', ('component', 'siou')), Column('Components', 'PPV', ('component', 'ppv')),
    Column('Components', 'F1', ('component', 'f1')),
    Column('Over time', 'FA/min', ('false_alarms_per_minute',), 2, 'min'),
    Column('Over time', 'delay s', ('detection_delay_s',), 2, 'min'),
    Column('Latency', 'p50 ms', ('latency_ms', 'p50'), 0, 'min'),
    Column('Latency', 'p99 ms', ('latency_ms', 'p99'), 0, 'min'),
)


def write_report(path: Path, found: Replay, metrics: Mapping[str, Any], figures: Mapping[Row, Mapping[str, Any]],
                 shown: Row, gallery: Gallery, *, video: Path | None = None, live: Mapping[str, Any] | None = None,
                 notes: Sequence[str] = ()) -> None:
    """Writes the page.

    Args:
        path: file to write.
        found: what the replay measured.
        metrics: content of metrics.json.
        figures: metrics of each row.
        shown: the row that the pictures and the timeline are of.
        gallery: pictures.
        video: MP4 to put in; a very large one is linked.
        live: what the live detector did, in a demo.
        notes: remarks for the top of the page, one sentence each.
    """
    rows = list(found.measurements)
    environment = Environment(loader=PackageLoader('semanom_ros.evaluation'), autoescape=True,
                              undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.get_template('report.html').render(
        title=', '.join(recording.name for recording in found.recordings), version=__version__, metrics=metrics,
        headline=_headline(figures[shown]), summary=_summary(metrics, figures[shown]), notes=notes, shown=shown,
        table=_table(rows, figures), columns=COLUMNS, groups=_groups(),
        strips=_strips(found, found.measurements[shown]),
        curves=_curves(rows, found), legend=[(row.name, f'series-{i % 8}') for i, row in enumerate(rows)],
        gallery=gallery, recordings=found.recordings, video=_video(video, path.parent), live=live,
        definitions={'limit': AUPRO_LIMIT, 'join': JOIN_S, 'grace': GRACE_S, 'stretch': STRETCH_S,
                     'resamples': RESAMPLES})
    path.write_text(page, encoding='utf-8')


def _pick(figures: Mapping[str, Any], path: Sequence[str]) -> Any:
    value: Any = figures
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _text(value: float | None, digits: int) -> str:
    return _DASH if value is None else f'{value:.{digits}f}'


def _headline(figures: Mapping[str, Any]) -> list[dict[str, str]]:
    """The figures at the top: value, unit, name, and the interval or what it is made of."""
    def entry(name: str, path: tuple[str, ...], digits: int, unit: str = '', detail: str = '') -> dict[str, str]:
        interval = _pick(figures['intervals'], path)
        if interval:
            detail = f'{interval[0]:.{digits}f} to {interval[1]:.{digits}f}'
        text = _text(_pick(figures, path), digits)
        return {'name': name, 'value': text, 'unit': '' if text == _DASH else unit,
                'detail': '' if text == _DASH else detail}

    events, noticed = figures['events'], figures['events_noticed']
    return [
        entry('frame AUROC', ('frame', 'auroc'), 3), entry('pixel AP', ('pixel', 'ap'), 3),
        {'name': 'anomalies noticed', 'value': f'{noticed}' if events else _DASH,
         'unit': f'of {events}' if events else '',
         'detail': f'{figures["events_localized"]} in the right place' if events else 'no ground truth'},
        entry('false alarms per minute', ('false_alarms_per_minute',), 2, '',
              '' if figures['false_alarms'] is None else f'{figures["false_alarms"]} in all'),
        entry('detection delay', ('detection_delay_s',), 2, 's', 'mean over the noticed'),
        entry('latency', ('latency_ms', 'p50'), 0, 'ms', f'99 %: {_text(_pick(figures, ("latency_ms", "p99")), 0)} ms'),
    ]


def _summary(metrics: Mapping[str, Any], figures: Mapping[str, Any]) -> str:
    """The verdict in a sentence or two."""
    frames = f'{metrics["frames"]:,} frames'
    if metrics['anomalous_frames'] is None:
        rate = figures['alarms_per_minute']
        return f'{frames} without ground truth; ' + (
            'no duration to count alarms over.' if rate is None else f'{rate:.2f} alarms per minute.')
    text = f'{frames}, {metrics["anomalous_frames"]:,} of them anomalous.'
    if figures['events']:
        noticed = figures['events_noticed']
        text += (f' Of {_count(figures["events"], "anomaly", "anomalies")}, {noticed or "none"} '
                 f'{"were" if noticed > 1 else "was"} noticed')
        if figures['detection_delay_s'] is not None:
            text += f', {figures["detection_delay_s"]:.1f} s after coming into view on average'
        text += '.'
    if figures['false_alarms'] is not None:
        text += f' {_count(figures["false_alarms"], "false alarm", "false alarms").capitalize()} in nominal driving.'
    return text


def _count(number: int, one: str, many: str) -> str:
    return f'{number or "no"} {one if number == 1 else many}'


def _groups() -> list[tuple[str, int]]:
    groups: list[tuple[str, int]] = []
    for column in COLUMNS:
        if groups and groups[-1][0] == column.group:
            groups[-1] = (column.group, groups[-1][1] + 1)
        else:
            groups.append((column.group, 1))
    return groups


def _table(rows: Sequence[Row], figures: Mapping[Row, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Cells as text, the best of each column marked, intervals as hints."""
    best: dict[Column, str] = {}
    for column in COLUMNS:
        texts = [_text(_pick(figures[row], column.path), column.digits) for row in rows]
        numbers = [float(text) for text in texts if text != _DASH]
        if column.best and len(set(numbers)) > 1:
            best[column] = f'{(max if column.best == "max" else min)(numbers):.{column.digits}f}'
    table = []
    for index, row in enumerate(rows):
        cells = []
        for column in COLUMNS:
            text = _text(_pick(figures[row], column.path), column.digits)
            interval = _pick(figures[row]['intervals'], column.path)
            hint = f'95 %: {interval[0]:.{column.digits}f} to {interval[1]:.{column.digits}f}' if interval else ''
            cells.append({'text': text, 'best': text == best.get(column), 'hint': hint})
        table.append({'name': row.name, 'baseline': bool(row.baseline), 'series': f'series-{index % 8}',
                      'cells': cells})
    return table


def _strips(found: Replay, measurement: Measurement) -> list[dict[str, str]]:
    """Score over time, a chart for each sequence."""
    strips: list[dict[str, str]] = []
    at = 0
    for frames, line in measurement.timelines():
        recording = found.recordings[found.recording_of[at]]
        at += len(frames)
        if len(strips) < _MOST_STRIPS:
            strips.append({'name': recording.name, 'chart': _strip(recording.name, frames, line)})
    return strips


def _strip(name: str, frames: npt.NDArray, line: Timeline) -> str:
    """The score relative to its threshold; what is truly anomalous is shaded, alarms are marked at the bottom."""
    seconds = (frames['stamp_ns'] - frames['stamp_ns'][0]) / 1e9
    level = frames['score'] / np.maximum(frames['threshold'], 1e-12)
    step = float(np.median(np.diff(seconds))) if len(seconds) > 1 else 1.0
    top = max(2.0, 1.08 * float(np.quantile(level, 0.995)))
    chart = Chart((0.0, float(seconds[-1]) + step), (0.0, top), f'anomaly score over time, {escape(name)}', 'seconds',
                  'score / threshold', x_ticks=8)
    for event in line.events:
        chart.span(seconds[event.start], seconds[event.stop] + step, 'truth')
    for first, last in line.alarms:
        chart.span(seconds[first], seconds[last] + step, 'alarm', 0.0, 0.035)
    for first, last in line.false_alarms:
        chart.span(seconds[first], seconds[last] + step, 'false', 0.0, 0.035)
    chart.level(1.0, 'threshold')
    if step > 2:  # stills: nothing lies between them
        chart.dots(seconds + step / 2, level, 'score')
    else:
        chart.line(seconds, level, 'score')
    return chart.html()


def _curves(rows: Sequence[Row], found: Replay) -> list[dict[str, str]]:
    """ROC and precision-recall, of frames and of pixels; only what has ground truth."""
    charts = []
    for what in ('frame', 'pixel'):
        receiver, precision = [], []
        for index, row in enumerate(rows):
            measurement = found.measurements[row]
            curve = measurement.frame_curve() if what == 'frame' else measurement.pixels.curve()
            if curve.complete:
                style = f'series-{index % 8}' + (' filtered' if row.filtered else '')
                receiver.append((*curve.rates(), style))
                values, recall = curve.precision_recall()
                precision.append((np.r_[0, recall], np.r_[values[0], values], style))
        if receiver:
            charts.append({'name': f'ROC, {what}s', 'chart': rate_curve(
                f'ROC curve of {what}s', 'false-positive rate', 'true-positive rate', receiver, diagonal=True)})
            charts.append({'name': f'Precision and recall, {what}s', 'chart': rate_curve(
                f'precision-recall curve of {what}s', 'recall', 'precision', precision)})
    return charts


def _video(path: Path | None, folder: Path) -> str:
    if path is None:
        return ''
    if path.stat().st_size > _LARGEST_VIDEO:
        return str(path.relative_to(folder))
    return 'data:video/mp4;base64,' + base64.b64encode(path.read_bytes()).decode()
