"""One table of metrics: what stands in a row is computed and shown everywhere, and nowhere else."""

from __future__ import annotations

import re

import numpy as np
import pytest

from semanom_ros.core.localization.regions_of_map import Region
from semanom_ros.core.results import FrameResult, ScoreMap, Verdict
from semanom_ros.evaluation import metric_table
from semanom_ros.evaluation.detectors import Ranked, Row
from semanom_ros.evaluation.gallery import Gallery
from semanom_ros.evaluation.measurement import Measurement
from semanom_ros.evaluation.metric_table import (
    COMPONENT,
    FRAME,
    LATENCY,
    METRICS,
    PIXEL,
    TIME,
    Metric,
    short_table,
    shown_in_bench,
    terminal_line,
)
from semanom_ros.evaluation.replay import Recording, Replay, Topics
from semanom_ros.evaluation.report import write_report

KEYS = {
    'operating_point': {'asked', 'got', 'anomalies', 'noticed', 'noticed_at_oracle', 'oracle_level', 'efficiency'},
    'frame': {'auroc', 'ap', 'fpr95', 'f1'}, 'pixel': {'auroc', 'ap', 'fpr95', 'aupro'},
    'component': {'siou', 'ppv', 'f1'}, 'latency_ms': {'p50', 'p99'},
    '': {'false_alarms_per_minute', 'detection_delay_s', 'alarms_per_minute', 'false_alarms', 'events',
         'events_noticed', 'events_localized', 'unknown_frames', 'held_back_frames'}}


def measured(*, truth=True, anomalies=True, frames=400, period_ns=100_000_000):
    """Frames in which a patch is anomalous for two seconds of every ten, and scores that mostly say so."""
    random = np.random.default_rng(0)
    measurement = Measurement()
    for number in range(frames):
        anomalous = anomalies and number % 100 >= 80
        mask = np.zeros((24, 32), np.uint8)
        mask[4:16, 8:20] = 255 * anomalous
        pixels = (random.random(mask.shape) + 0.4 * (mask > 0)).astype(np.float32)
        score = float(0.8 * random.random() + 0.4 * anomalous)
        alarm = score > 0.75
        whole = Region((0, 0, mask.shape[1], mask.shape[0]), (mask > 0) & alarm, int((mask > 0).sum()), (0, 0))
        result = FrameResult(
            number * period_ns, 'camera', mask.shape, score, score, 0.1, 0.75, Verdict.of(alarm),
            ScoreMap.of_pixels(pixels), 0.5, regions=(whole,) if alarm else ())
        measurement.add(Ranked(result, score, pixels, 5.0 + number % 7), mask if truth else None, 0, number // 100)
    return measurement


def report(tmp_path, figures, measurement):
    row, other = Row('grid', True), Row('grid')
    found = Replay(tmp_path, Topics(), [Recording('drive', tmp_path, '/image', '/truth', 400, 0, '', False)],
                   {row: measurement, other: measurement}, [0] * 400)
    content = {'frames': 400, 'anomalous_frames': 80, 'encoder': 'e', 'segmenter': None, 'databases': {},
               'recordings': [], 'versions': {}, 'parameters': {}}
    write_report(tmp_path / 'report.html', found, content, {row: figures, other: figures}, row, Gallery())
    return (tmp_path / 'report.html').read_text()


def test_keys_are_what_others_read():
    figures = measured().metrics(0.2)
    assert len(figures['operating_point'].pop('interval')) == 2
    assert figures.pop('warning') == {'anomalies': None, 'distance_m': None, 'seconds': None}
    for group, keys in KEYS.items():
        own = figures[group] if group else figures
        assert keys <= own.keys()
        assert not group or keys == own.keys()
        assert {metric.key for metric in METRICS if metric.group.key == group} == keys
        assert all(own[key] is not None for key in keys)
    assert figures.keys() == {*KEYS, *KEYS[''], 'threshold', 'intervals', 'noticed_by_size', 'noticed_by_distance'} - {
        ''}
    assert figures['intervals'].keys() == {'operating_point', 'frame', 'pixel', 'component'}
    assert all(low <= high for group in figures['intervals'].values() for low, high in group.values())


@pytest.mark.parametrize('truth', [True, False])
def test_without_anomalies_or_truth_a_figure_is_none(truth):
    figures = measured(truth=truth, anomalies=False).metrics()
    for group in ('frame', 'pixel', 'component'):
        assert set(figures[group].values()) == {None}
    assert figures['detection_delay_s'] is None
    assert (figures['false_alarms'] is None) != truth
    assert figures['events'] == (0 if truth else None)
    assert figures['alarms_per_minute'] > 0
    assert re.search(r'frame AUROC +- ', terminal_line('grid', figures))


def test_no_frames_at_all():
    figures = Measurement().metrics()
    assert {metric.value(figures) for metric in METRICS} == {None}
    assert figures['threshold'] is None


@pytest.mark.parametrize(('group', 'compute', 'expected'), [
    (FRAME, lambda frames: frames.weights[frames.anomalous].sum(), '80.00'),
    (PIXEL, lambda pixels: pixels.curve.found[-1] / 144, '80.00'),
    (COMPONENT, lambda sums: sums.truths, '80.00'),
    (TIME, lambda lines: float(lines.events[1].stop), '199.00'),
    (LATENCY, lambda milliseconds: milliseconds.max(), '11.00')])
def test_a_row_is_all_that_a_metric_needs(monkeypatch, tmp_path, group, compute, expected):
    row = Metric(group, 'new', compute, 'what it means', 2, 'min', column='NEW', headline='new headline',
                 terminal='new figure', short='new one')
    monkeypatch.setattr(metric_table, 'METRICS', (*METRICS, row))
    measurement = measured()
    figures = measurement.metrics()
    own = figures[group.key] if group.key else figures
    assert f'{own["new"]:.2f}' == expected
    if group.key in figures['intervals']:
        low, high = figures['intervals'][group.key]['new']
        assert low <= own['new'] <= high

    page = report(tmp_path, figures, measurement)
    assert '<th scope="col" title="what it means">NEW ↓</th>' in page
    assert page.count(f'>{expected}</td>') == 2
    assert f'<dt>new headline</dt><dd>{expected}</dd>' in page
    assert f'new figure {expected}' in terminal_line('grid', figures)
    title, line = short_table([('grid', figures)]).splitlines()
    assert title.split('  ')[-1].strip() == 'new one'
    assert line.split()[-1] == expected
    assert shown_in_bench(figures)['new one'] == own['new']


def test_columns_of_the_report_stand_under_their_groups(tmp_path):
    measurement = measured()
    page = report(tmp_path, measurement.metrics(), measurement)
    alarms, scores = re.findall(r'<thead>(.*?)</thead>', page, re.DOTALL)
    assert re.findall(r'<th colspan="(\d+)">([^<]+)</th>', alarms) == [
        ('5', 'Operating point'), ('2', 'Over time'), ('2', 'First report'), ('2', 'Verdicts'), ('2', 'Latency')]
    assert re.findall(r'<th colspan="(\d+)">([^<]+)</th>', scores) == [
        ('4', 'Detection (frames)'), ('4', 'Localization (pixels)'), ('3', 'Components')]
    assert re.findall(r'<th scope="col"[^>]*>([^<]+)</th>', alarms) == [
        'Method', 'asked', 'got', 'noticed', 'possible', 'efficiency', 'FA/min ↓', 'delay s ↓', 'distance m', 's ahead',
        'unknown ↓', 'held back', 'p50 ms ↓', 'p99 ms ↓']
    assert re.findall(r'<th scope="col"[^>]*>([^<]+)</th>', scores) == [
        'Method', 'AUROC', 'AP', 'FPR95 ↓', 'F1', 'AUROC', 'AP', 'FPR95 ↓', 'AUPRO', 'sIoU', 'PPV', 'F1']


def test_lines_and_tables_for_people():
    figures = measured().metrics(0.1)
    figures['operating_point'] |= {'got': 0.031, 'efficiency': 0.9}
    figures |= {'frame': {'auroc': 0.98765, 'ap': 0.5, 'fpr95': 0, 'f1': 0}, 'detection_delay_s': None,
                'false_alarms': 12, 'events': 4, 'events_noticed': 3, 'latency_ms': {'p50': 12.4, 'p99': 20.0}}
    line = terminal_line('grid + filter', figures)
    assert line.startswith('grid + filter      asked 0.100  got 0.031  noticed 4 of 4  possible 4  efficiency 0.90   '
                           'frame AUROC 0.988  AP 0.500   pixel AP ')
    assert re.search(r'delay +- +s   latency 12 ms$', line)
    unknown = measured(truth=False).metrics()
    table = short_table([('grid', figures), ('grid + filter', unknown)]).splitlines()
    assert len({len(line) for line in table}) == 1
    assert table[0].split('  ')[-6:] == ['efficiency', 'frame AUROC', 'pixel AP', 'noticed', 'false alarms', 'latency']
    assert table[1].split() == ['grid', '0.90', '0.988', f'{figures["pixel"]["ap"]:.3f}', '3/4', '12', '12', 'ms']
    assert table[2].split()[3:8] == ['-', '-', '-', '-', '-']


def test_benchmarks_show_what_they_measure():
    figures = measured().metrics()
    chosen = {group: figures[group] for group in ('frame', 'pixel', 'latency_ms')}
    assert shown_in_bench(chosen) == {
        'frame AUROC': figures['frame']['auroc'], 'pixel AP': figures['pixel']['ap'],
        'latency ms': figures['latency_ms']['p50']}
