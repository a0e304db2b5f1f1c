"""The report: one HTML page that opens from disk and needs nothing else."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from jinja2 import Environment, PackageLoader, StrictUndefined

from semanom_ros import __version__
from semanom_ros.core.results import Verdict
from semanom_ros.core.scoring.timeline import JOIN_S
from semanom_ros.evaluation.charts import Chart, rate_curve, share_curve
from semanom_ros.evaluation.detectors import Row
from semanom_ros.evaluation.drift_summary import drift_sentence
from semanom_ros.evaluation.gallery import Gallery
from semanom_ros.evaluation.measurement import Measurement
from semanom_ros.evaluation.metric_table import DASH, TABLES, WARNING, Metric, columns, headlines
from semanom_ros.evaluation.metrics import AUPRO_LIMIT
from semanom_ros.evaluation.replay import Replay
from semanom_ros.evaluation.sequences import GRACE_S, RESAMPLES, STRETCH_S, Timeline
from semanom_ros.evaluation.visibility import METRES, PATCHES, PIXELS, noticed_by

_LARGEST_VIDEO = 24_000_000  # bytes; a longer one stays beside the page
_MOST_STRIPS = 12


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
        headline=[_headline(metric, figures[shown]) for metric in headlines()
                  if metric.group is not WARNING or metric.value(figures[shown]) is not None],  # few recordings tell
        summary=_summary(metrics, figures[shown]), notes=notes, shown=shown,
        tables=[_table(name, [(row.name, bool(row.baseline), figures[row]) for row in rows]) for name in TABLES],
        recording_tables=_recording_tables(metrics, shown),
        strips=_strips(found, found.measurements[shown]),
        curves=_curves(rows, found), visibility=_visibility(rows, found),
        legend=[(row.name, f'series-{i % 8}') for i, row in enumerate(rows)],
        shown_figures=figures[shown], gallery=gallery, recordings=found.recordings,
        drift_sentence=drift_sentence,
        video=_video(video, path.parent), live=live,
        definitions={'limit': AUPRO_LIMIT, 'join': JOIN_S, 'grace': GRACE_S, 'stretch': STRETCH_S,
                     'resamples': RESAMPLES, 'pixels': found.topics.min_anomaly_pixels})
    path.write_text(page, encoding='utf-8')


def _headline(metric: Metric, figures: Mapping[str, Any]) -> dict[str, str]:
    """A figure at the top: value, unit, name, and the interval or what it is made of."""
    text = metric.text(figures)
    if text == DASH:
        return {'name': metric.headline, 'value': text, 'unit': '', 'detail': ''}
    return {'name': metric.headline, 'value': text,
            'unit': f'of {metric.total(figures)}' if metric.out_of else metric.unit,
            'detail': metric.interval_text(figures) or metric.detail.format_map(figures)}


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
    if figures['unknown_frames']:
        text += f' {_count(figures["unknown_frames"], "frame", "frames").capitalize()} could not be judged.'
    return text


def _count(number: int, one: str, many: str) -> str:
    return f'{number or "no"} {one if number == 1 else many}'


def _recording_tables(metrics: Mapping[str, Any], shown: Row) -> list[dict[str, Any]]:
    """TABLES of one row, recording by recording; none where there is one only."""
    rows = [(recording['name'], False, {**figures, 'intervals': {}}) for recording in metrics['recordings']
            for figures in recording['results']
            if Row(figures['variant'], figures['filter'], figures['baseline']) == shown]
    return [_table(name, rows) for name in TABLES] if rows else []


def _table(name: str, rows: Sequence[tuple[str, bool, Mapping[str, Any]]]) -> dict[str, Any]:
    """One of TABLES: headings over columns, and over how many; cells as text, the best of each column marked, intervals
    as hints.

    Args:
        name: of TABLES.
        rows: name, whether it is a baseline, figures.
    """
    table: list[dict[str, Any]] = [
        {'name': one, 'baseline': baseline, 'series': f'series-{index % 8}', 'cells': []}
        for index, (one, baseline, _) in enumerate(rows)]
    for metric in columns(name):
        texts = [metric.text(figures) for _, _, figures in rows]
        numbers = {float(text) for text in texts if text != DASH}
        best = (min if metric.best == 'min' else max)(numbers) if metric.best and len(numbers) > 1 else None
        for line, (_, _, figures), text in zip(table, rows, texts, strict=True):
            interval = metric.interval_text(figures)
            line['cells'].append({'text': text, 'best': text != DASH and float(text) == best,
                                  'hint': f'95 %: {interval}' if interval else ''})
    groups = Counter(metric.group.heading for metric in columns(name))
    return {'name': name, 'groups': list(groups.items()), 'columns': columns(name), 'rows': table}


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
    """The score relative to its threshold.

    What is truly anomalous, or unknown, is shaded; alarms, and what is held back, are marked at the bottom.
    """
    seconds = (frames['stamp_ns'] - frames['stamp_ns'][0]) / 1e9
    level = frames['score'] / np.maximum(frames['threshold'], 1e-12)
    step = float(np.median(np.diff(seconds))) if len(seconds) > 1 else 1.0
    judged = frames['verdict'] != Verdict.UNKNOWN
    top = max(2.0, 1.08 * float(np.quantile(level[judged], 0.995))) if judged.any() else 2.0
    chart = Chart((0.0, float(seconds[-1]) + step), (0.0, top), f'anomaly score over time, {escape(name)}', 'seconds',
                  'score / threshold', x_ticks=8)
    for event in line.events:
        chart.span(seconds[event.start], seconds[event.stop] + step, 'truth')
    for first, last in line.alarms:
        chart.span(seconds[first], seconds[last] + step, 'alarm', 0.0, 0.035)
    for first, last in line.false_alarms:
        chart.span(seconds[first], seconds[last] + step, 'false', 0.0, 0.035)
    for first, last in _stretches(~judged):
        chart.span(seconds[first], seconds[last] + step, 'unknown')
    for first, last in _stretches(frames['held_back']):
        chart.span(seconds[first], seconds[last] + step, 'held', 0.0, 0.035)
    chart.level(1.0, 'threshold')
    if step > 2:  # stills: nothing lies between them
        chart.dots((seconds + step / 2)[judged], level[judged], 'score')
    else:
        for first, last in _stretches(judged):
            chart.line(seconds[first:last + 1], level[first:last + 1], 'score')
    return chart.html()


def _visibility(rows: Sequence[Row], found: Replay) -> list[dict[str, str]]:
    """Noticed against size and, where it is known, distance."""
    charts = []
    for unit, name, title in ((PATCHES, 'By size in patches', 'patches of the encoder that the anomaly covers'),
                              (PIXELS, 'By size in pixels', 'pixels of the image that the anomaly covers'),
                              (METRES, 'By distance', 'metres')):
        bins = {row: noticed_by(unit, found.measurements[row].timelines()) for row in rows}
        known = next((one for one in bins.values() if one), None)
        if known:
            ends = [one.begin for one in known] + [known[-1].end or float('inf')]
            curves = [([one.share for one in bins[row]], _series(index, row))
                      for index, row in enumerate(rows) if bins[row]]
            charts.append({'name': name, 'chart': share_curve(
                f'share of anomalies noticed, {name.lower()}', title, ends, [one.anomalies for one in known], curves)})
    return charts


def _series(index: int, row: Row) -> str:
    """Style of a row's line."""
    return f'series-{index % 8}' + (' filtered' if row.filtered else '')
def _stretches(flags: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """(first, last) index of each run of flagged frames."""
    edges = np.flatnonzero(np.diff(np.r_[False, flags, False].astype(np.int8)))
    return [(int(first), int(stop) - 1) for first, stop in edges.reshape(-1, 2)]


def _curves(rows: Sequence[Row], found: Replay) -> list[dict[str, str]]:
    """ROC and precision-recall, of frames and of pixels; only what has ground truth."""
    charts = []
    for what in ('frame', 'pixel'):
        receiver, precision = [], []
        for index, row in enumerate(rows):
            measurement = found.measurements[row]
            curve = measurement.frame_curve() if what == 'frame' else measurement.pixels.curves().curve
            if curve.complete:
                style = _series(index, row)
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
