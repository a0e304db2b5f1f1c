"""`semanom evaluate` from the command line to metrics.json, scores.csv, the report and the result bags."""

from __future__ import annotations

import csv
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from semanom_ros.cli import main
from semanom_ros.evaluation.measurement import rounded
from semanom_ros.recordings.bags import BagReader
from semanom_ros.recordings.images import image_from_message, stamp_ns

from .conftest import PERIOD_NS, START_NS, write_drive


@pytest.fixture(scope='session')
def evaluated(town, tmp_path_factory):
    """All four variants on the drive."""
    output = tmp_path_factory.mktemp('evaluated') / 'out'
    assert main(['evaluate', str(town.drive), '--output', str(output), *town.arguments('grid', 'instance')]) == 0
    return output


def metrics_of(output):
    return json.loads((output / 'metrics.json').read_text())


def without_latency(text):
    return re.sub(r'"latency_ms": \{[^}]*\}', '', text)


def test_metrics_hold_what_is_promised(evaluated):
    metrics = metrics_of(evaluated)
    assert metrics['frames'] == 70
    assert metrics['anomalous_frames'] == 23
    assert [(r['variant'], r['filter']) for r in metrics['results']] == [
        ('grid', False), ('grid', True), ('instance', False), ('instance', True)]
    for row in metrics['results']:
        assert row['frame']['auroc'] > 0.99
        assert row['pixel']['ap'] > 0.7
        assert row['pixel']['aupro'] > 0.9
        assert {'auroc', 'ap', 'fpr95', 'f1'} == row['frame'].keys()
        assert {'siou', 'ppv', 'f1'} == row['component'].keys()
        assert {'auroc', 'ap', 'fpr95', 'aupro'} == row['pixel'].keys()
        assert row['component']['siou'] > 0.3
        assert row['latency_ms']['p99'] >= row['latency_ms']['p50'] > 0
        assert (row['events'], row['events_noticed'], row['events_localized']) == (2, 2, 2)
    assert metrics['encoder'].startswith('torchscript:')
    assert metrics['segmenter'] == 'embedding'
    assert metrics['database']['vectors'] == metrics['databases']['instance']['vectors'] > 0
    assert metrics['database']['version'] == 1
    assert [recording['drift']['drifting'] for recording in metrics['recordings']] == [0]


def test_filter_costs_delay(evaluated):
    """The temporal filter waits for 0.3 s of persistence; without it an anomaly is noticed in its first frame."""
    delays = {(r['variant'], r['filter']): r['detection_delay_s'] for r in metrics_of(evaluated)['results']}
    assert delays['grid', False] == pytest.approx(0.0)
    assert delays['grid', True] == pytest.approx(0.3)


def test_two_runs_give_the_same_bytes(town, evaluated, tmp_path):
    assert main(['evaluate', str(town.drive), '--output', str(tmp_path / 'again'),
                 *town.arguments('grid', 'instance')]) == 0
    for name in ('metrics.json', 'scores.csv'):
        first, second = (evaluated / name).read_text(), (tmp_path / 'again' / name).read_text()
        assert without_latency(first) == without_latency(second)


def test_scores_agree_with_metrics(evaluated):
    """Figures computed anew from scores.csv, which has a line for each frame and row."""
    with open(evaluated / 'scores.csv') as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 4 * 70
    for row in metrics_of(evaluated)['results']:
        own = [line for line in lines if (line['variant'], line['filter']) == (row['variant'], str(int(row['filter'])))]
        truth, scores = [int(line['truth']) for line in own], [float(line['score']) for line in own]
        assert [int(line['stamp_ns']) for line in own] == [START_NS + n * PERIOD_NS for n in range(70)]
        assert row['frame']['auroc'] == pytest.approx(roc_auc_score(truth, scores), abs=1e-5)
        assert row['frame']['ap'] == pytest.approx(average_precision_score(truth, scores), abs=1e-5)


def test_result_bag_holds_every_frame(evaluated):
    with BagReader(evaluated / 'bags' / 'drive') as reader:
        prefix = '/semanom_detector/camera/'
        assert reader.topics == {
            prefix + 'anomalies': 'semanom_ros/msg/AnomalyArray', prefix + 'score': 'semanom_ros/msg/AnomalyScore',
            prefix + 'overlay/compressed': 'sensor_msgs/msg/CompressedImage', prefix + 'mask': 'sensor_msgs/msg/Image',
            prefix + 'anomaly_map': 'sensor_msgs/msg/Image', prefix + 'markers': 'visualization_msgs/msg/MarkerArray'}
        assert set(reader.counts.values()) == {70}
        for index, (_, time, message) in enumerate(reader.messages([prefix + 'mask'])):
            assert stamp_ns(message) == time == START_NS + index * PERIOD_NS
            assert message.header.frame_id == 'camera_optical'
            if index == 30:
                assert image_from_message(message)[50, 60, 0] == 255
        arrays = [message for _, _, message in reader.messages([prefix + 'anomalies'])]
        assert arrays[30].anomalies[0].nearest.source.endswith('nominal')
        assert arrays[30].camera == 'camera'


class Page(HTMLParser):
    """Collects what a page refers to, and whether its tags are closed."""

    def __init__(self, text):
        super().__init__()
        self.references, self.images, self.open, self.text = [], 0, [], ''
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.references += [values[name] for name in ('src', 'href', 'srcset', 'data') if values.get(name)]
        self.images += tag == 'img'
        if tag not in ('meta', 'link', 'img', 'br', 'polyline', 'rect', 'path', 'line'):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in ('polyline', 'rect', 'path', 'line'):
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_report_is_one_page_that_needs_nothing_else(evaluated):
    text = (evaluated / 'report.html').read_text()
    page = Page(text)
    assert page.open == []
    assert all(reference.startswith('data:') for reference in page.references)
    assert not re.search(r'url\((?!data:)|@import|<script', text)
    assert page.images == 6  # two events: overlay, truth, nearest nominal
    for name in ('grid + filter', 'instance + filter', '1.000', 'No anomaly was missed', 'Strongest detections'):
        assert name in page.text


def test_recording_without_truth_has_no_figures(town, tmp_path):
    drive = write_drive(tmp_path / 'plain', 25, anomalies=((10, 14),), truth=False, compressed=True)
    assert main(['evaluate', str(drive), '--output', str(tmp_path / 'out'), '--filter', 'off',
                 *town.arguments('grid')]) == 0
    metrics = metrics_of(tmp_path / 'out')
    assert metrics['frames'] == 25
    assert metrics['anomalous_frames'] is None
    (row,) = metrics['results']
    for group in ('frame', 'pixel', 'component'):
        assert set(row[group].values()) == {None}
    assert row['false_alarms_per_minute'] is row['detection_delay_s'] is None
    assert row['alarms_per_minute'] > 0
    assert 'without ground truth' in (tmp_path / 'out' / 'report.html').read_text()


def test_nominal_recording_has_only_false_alarms(town, tmp_path):
    drive = write_drive(tmp_path / 'calm', 25)
    assert main(['evaluate', str(drive), '--output', str(tmp_path / 'out'), *town.arguments('grid')]) == 0
    for row in metrics_of(tmp_path / 'out')['results']:
        assert row['frame']['auroc'] is row['pixel']['ap'] is row['component']['f1'] is row['detection_delay_s'] is None
        assert row['false_alarms_per_minute'] == pytest.approx(0)


def test_interrupted_evaluation_goes_on_where_it_stopped(town, tmp_path, caplog):
    caplog.set_level('INFO')
    first = write_drive(tmp_path / 'first', 12, anomalies=((4, 8),))
    second = write_drive(tmp_path / 'second', 12, anomalies=((4, 8),))
    broken = second.rename(tmp_path / 'elsewhere')
    arguments = ['evaluate', str(first), str(second), '--output', str(tmp_path / 'out'), *town.arguments('grid')]
    assert main(arguments) == 2
    assert not (tmp_path / 'out').exists()
    broken.rename(second)
    assert main(arguments) == 0
    metrics = metrics_of(tmp_path / 'out')
    assert [r['name'] for r in metrics['recordings']] == ['first', 'second']
    assert metrics['frames'] == 24
    assert 'first: measured already' in caplog.text
    assert 'second: measured already' not in caplog.text


def test_truncated_recording_is_measured_as_far_as_it_goes(town, tmp_path):
    drive = write_drive(tmp_path / 'whole', 40, anomalies=((4, 8),), storage='sqlite3')
    (file,) = drive.glob('*.db3')
    cut = tmp_path / 'cut.db3'
    cut.write_bytes(file.read_bytes()[:int(file.stat().st_size * 0.7)])
    assert main(['evaluate', str(cut), '--output', str(tmp_path / 'out'), *town.arguments('grid')]) == 0
    (recording,) = metrics_of(tmp_path / 'out')['recordings']
    assert 0 < recording['frames'] < 40
    assert 'cut.db3' in recording['damage']


@pytest.mark.parametrize(('change', 'message'), [
    (['--variant', 'instance'], 'expected one of instance'),
    (['--truth-topic', '/nowhere'], 'found no ground truth topic /nowhere'),
    (['--image-topic', '/nowhere'], 'found no topic /nowhere'),
    (['--set', 'neighbours=0'], 'parameter neighbours: found 0'),
])
def test_bad_input_is_one_line(town, tmp_path, capsys, change, message):
    output = tmp_path / 'out'
    assert main(['evaluate', str(town.drive), '--output', str(output), *town.arguments('grid'), *change]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert 'Traceback' not in error
    assert not output.exists()


def test_foreign_folder_is_left_alone(town, tmp_path, capsys):
    (tmp_path / 'thesis.txt').write_text('years of work')
    assert main(['evaluate', str(town.drive), '--output', str(tmp_path), *town.arguments('grid')]) == 2
    assert 'no evaluation' in capsys.readouterr().err
    assert (tmp_path / 'thesis.txt').read_text() == 'years of work'


def test_an_output_that_cannot_be_written_is_said_before_anything_is_loaded(tmp_path, capsys):
    (tmp_path / 'file').write_text('no folder')
    assert main(['evaluate', 'no_bag', '--database', 'no_database', '--output', str(tmp_path / 'file' / 'out')]) == 2
    assert 'out: not writable (' in capsys.readouterr().err


def test_rounded_is_stable():
    assert rounded({'a': [np.float64(1 / 3), np.int64(2), None], 'b': True}) == {'a': [0.333333, 2, None], 'b': True}
