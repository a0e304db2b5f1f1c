"""`semanom evaluate` from the command line to metrics.json, scores.csv, the report and the result bags."""

from __future__ import annotations

import csv
import json
import re
import shutil
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from semanom_ros.cli import main
from semanom_ros.core.progress import SILENT
from semanom_ros.evaluation.measurement import rounded
from semanom_ros.evaluation.result_bag import ResultBag
from semanom_ros.recordings.bags import BagReader, BagWriter
from semanom_ros.recordings.images import image_from_message, stamp_ns
from semanom_ros.recordings.nominal_recording import record_bags
from semanom_ros.ros.messages import image_to_message, write_message
from semanom_ros.settings import Settings

from .conftest import HEIGHT, PERIOD_NS, START_NS, WIDTH, ColourPatches, road, write_drive


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


def test_the_filter_costs_strong_anomalies_no_delay(evaluated):
    delays = {(r['variant'], r['filter']): r['detection_delay_s'] for r in metrics_of(evaluated)['results']}
    assert delays['grid', False] == pytest.approx(0.0)
    assert delays['grid', True] == pytest.approx(0.0)


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
            prefix + 'anomaly_map': 'sensor_msgs/msg/Image', prefix + 'markers': 'visualization_msgs/msg/MarkerArray',
            '/camera/image_raw/compressed': 'sensor_msgs/msg/CompressedImage'}
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
    assert page.images == 9  # two events and a false alarm: overlay, truth or map, nearest nominal
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
    """What was finished is taken over; the second recording's masks are of another size at first."""
    caplog.set_level('INFO')
    first = write_drive(tmp_path / 'first', 12, anomalies=((4, 8),))
    write_drive_of_small_masks(tmp_path / 'second')
    arguments = ['evaluate', str(first), str(tmp_path / 'second'), '--output', str(tmp_path / 'out'),
                 *town.arguments('grid')]
    assert main(arguments) == 2
    assert not (tmp_path / 'out').exists()
    assert '1 recordings are measured, and kept in' in caplog.text
    shutil.rmtree(tmp_path / 'second')
    write_drive(tmp_path / 'second', 12, anomalies=((4, 8),))
    assert main(arguments) == 0
    metrics = metrics_of(tmp_path / 'out')
    assert [r['name'] for r in metrics['recordings']] == ['first', 'second']
    assert metrics['frames'] == 24
    assert 'first: measured already' in caplog.text
    assert 'second: measured already' not in caplog.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ['first', 'out', 'second']


def write_drive_of_small_masks(path):
    with BagWriter(path) as writer:
        for topic, image, encoding in (('/camera/image_raw', road(0, 0), 'bgr8'),
                                       ('/ground_truth/anomaly_mask', np.zeros((4, 4), np.uint8), 'mono8')):
            write_message(writer, topic, image_to_message(image, encoding, START_NS, ''), START_NS)
    return path


@pytest.mark.parametrize('fault', ['no such recording', 'no such topic', 'masks of another size', 'Ctrl-C'])
def test_an_evaluation_that_fails_leaves_nothing(town, tmp_path, trial, monkeypatch, fault):
    small = fault == 'masks of another size'
    drive, options = write_drive_of_small_masks(tmp_path / 'drive') if small else write_drive(tmp_path / 'drive', 3), []
    if fault == 'no such recording':
        options = [str(tmp_path / 'missing')]
    elif fault == 'no such topic':
        options = ['--image-topic', '/elsewhere']
    elif fault == 'Ctrl-C':
        def interrupt(*_):
            raise KeyboardInterrupt
        monkeypatch.setattr(ResultBag, 'add', interrupt)
    with trial('Recordings', 'an evaluation that fails or is interrupted'):
        status = main(['evaluate', str(drive), *options, '--output', str(tmp_path / 'out'), *town.arguments('grid')])
        assert status == (130 if fault == 'Ctrl-C' else 2)
        assert [path.name for path in tmp_path.iterdir()] == ['drive']


def test_truncated_recording_is_measured_as_far_as_it_goes(town, tmp_path):
    drive = write_drive(tmp_path / 'whole', 40, anomalies=((4, 8),), storage='sqlite3')
    (file,) = drive.glob('*.db3')
    cut = tmp_path / 'cut.db3'
    cut.write_bytes(file.read_bytes()[:int(file.stat().st_size * 0.7)])
    assert main(['evaluate', str(cut), '--output', str(tmp_path / 'out'), *town.arguments('grid')]) == 0
    (recording,) = metrics_of(tmp_path / 'out')['recordings']
    assert 0 < recording['frames'] < 40
    assert 'cut.db3' in recording['damage']


def test_operating_point_and_sizes_of_a_drive(evaluated):
    """Both anomalies are red things of 504 pixels, which is 7.9 patches of 8x8."""
    metrics = metrics_of(evaluated)
    for row in metrics['results']:
        point = row['operating_point']
        assert (point['asked'], point['anomalies'], point['noticed'], point['noticed_at_oracle']) == (0.05, 2, 2, 2)
        assert point['efficiency'] == 1
        assert point['interval'][0] <= point['got'] <= point['interval'][1]
        assert row['warning'] == {'anomalies': None, 'distance_m': None, 'seconds': None}
        assert row['noticed_by_size'] == [
            {'unit': 'patches', 'begin': 4, 'end': 16, 'anomalies': 2, 'noticed': 2, 'share': 1},
            {'unit': 'pixels', 'begin': 256, 'end': 1024, 'anomalies': 2, 'noticed': 2, 'share': 1}]
        assert row['noticed_by_distance'] == []
    with open(evaluated / 'scores.csv') as file:
        calm = [line for line in csv.DictReader(file) if (line['variant'], line['filter']) == ('grid', '0')
                and line['truth'] == '0']
    assert metrics['results'][0]['operating_point']['got'] == pytest.approx(
        sum(float(line['score']) > float(line['threshold']) for line in calm) / len(calm), abs=1e-5)


def test_smaller_anomalies_are_neither_anomalous_nor_nominal(town, tmp_path):
    arguments = ['evaluate', str(town.drive), '--output', str(tmp_path / 'out'), '--filter', 'off',
                 *town.arguments('grid'), '--min-anomaly-pixels']
    assert main([*arguments, '504']) == 0
    metrics = metrics_of(tmp_path / 'out')
    assert (metrics['frames_with_truth'], metrics['anomalous_frames']) == (70, 23)
    (before,) = metrics['results']
    assert main([*arguments, '505']) == 0
    metrics = metrics_of(tmp_path / 'out')
    assert (metrics['frames_with_truth'], metrics['anomalous_frames']) == (47, 0)
    assert metrics['definitions']['min_anomaly_pixels'] == 505
    (row,) = metrics['results']
    assert row['events'] == 0
    assert row['false_alarms'] == before['false_alarms']  # the alarms on what is too small are none
    assert row['alarms_per_minute'] == before['alarms_per_minute']
    assert row['operating_point']['got'] == before['operating_point']['got']
    assert row['pixel']['ap'] is row['operating_point']['noticed'] is None
    assert 'from 505 anomalous pixels' in (tmp_path / 'out' / 'report.html').read_text()
    with pytest.raises(SystemExit):
        main([*arguments, '0'])


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
    (tmp_path / 'metrics.json').write_text('{}')  # an evaluation, beside which people keep what belongs to it
    assert main(['evaluate', str(town.drive), '--output', str(tmp_path), *town.arguments('grid')]) == 2
    assert 'found thesis.txt beside the evaluation' in capsys.readouterr().err
    assert (tmp_path / 'thesis.txt').read_text() == 'years of work'
    assert main(['evaluate', str(tmp_path / 'bags/drive'), '--output', str(tmp_path), *town.arguments('grid')]) == 2
    assert 'bags/drive in it, which is read' in capsys.readouterr().err


def test_a_recording_without_a_picture_is_no_result(town, tmp_path, capsys, trial):
    with BagWriter(tmp_path / 'drive') as writer:
        types = writer.typestore.types
        header = types['std_msgs/msg/Header'](types['builtin_interfaces/msg/Time'](1, 0), 'camera')
        for number in range(5):
            writer.write('/camera/image_raw', types['sensor_msgs/msg/Image'](
                header, 0, 0, 'rgb8', 0, 0, np.zeros(0, np.uint8)), number)
    with trial('Recordings', 'a recording in which no image holds a picture'):
        assert main(['evaluate', str(tmp_path / 'drive'), '--output', str(tmp_path / 'out'), *town.arguments('grid')]
                    ) == 2
        assert 'drive: found no frame that can be judged' in capsys.readouterr().err
        assert sorted(path.name for path in tmp_path.iterdir()) == ['drive']


def test_an_output_that_cannot_be_written_is_said_before_anything_is_loaded(tmp_path, capsys):
    (tmp_path / 'file').write_text('no folder')
    assert main(['evaluate', 'no_bag', '--database', 'no_database', '--output', str(tmp_path / 'file' / 'out')]) == 2
    assert 'out: not writable (' in capsys.readouterr().err


def test_rounded_is_stable():
    assert rounded({'a': [np.float64(1 / 3), np.int64(2), None], 'b': True}) == {'a': [0.333333, 2, None], 'b': True}


def test_stills_pass_no_filter_over_time(town, tmp_path):
    """A thing in every second picture, at the same place: each is an event, noticed at once and not tracked."""
    for number in range(8):
        image = road(number, 3)
        mask = np.zeros(image.shape[:2], np.uint8)
        if number % 2:
            image[40:61, 48:72], mask[40:61, 48:72] = (220, 30, 30), 255
        for folder, pixels in (('images', image[..., ::-1]), ('masks', mask)):
            (tmp_path / folder).mkdir(exist_ok=True)
            cv2.imwrite(str(tmp_path / folder / f'{number}.png'), pixels)
    said, tracks = {}, {}
    for name, options in (('drive', ['--rate', '5']), ('stills', ['--stills'])):
        assert main(['import', 'images', str(tmp_path / 'images'), '--masks', str(tmp_path / 'masks'), '--output',
                     str(tmp_path / name), *options]) == 0
        output = tmp_path / f'{name}_evaluated'
        assert main(['evaluate', str(tmp_path / name), '--output', str(output), *town.arguments('grid')]) == 0
        metrics = metrics_of(output)
        assert metrics['recordings'][0]['stills'] is (name == 'stills')
        said[name] = [(row['events'], row['events_noticed']) for row in metrics['results']]
        assert ('have nothing to do with each other' in (output / 'report.html').read_text()) is (name == 'stills')
        with BagReader(output / 'bags' / name) as reader:
            tracks[name] = {anomaly.track_id for _, _, message in
                            reader.messages(['/semanom_detector/camera/anomalies']) for anomaly in message.anomalies}
    assert said['drive'][0] == (1, 1)
    assert said['stills'] == [(4, 4), (4, 4)]
    assert 0 not in tracks['drive']
    assert tracks['stills'] == {0}


class DividingPatches(ColourPatches):
    """The same, that divides by zero at white patches."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        patches = torch.nn.functional.avg_pool2d(images, 8)
        darkness = 1 - patches.mean(dim=1, keepdim=True)
        return torch.cat([patches - 0.5, torch.full_like(patches[:, :1], 0.1)], 1) * darkness / darkness


def test_what_could_not_be_judged_is_counted_and_never_nominal(tmp_path):
    """Frames 10 to 12 and 20 to 21 hold a white patch; from 20 to 24 there is an anomaly."""
    torch.jit.save(torch.jit.script(DividingPatches()), str(tmp_path / 'dividing.ts'))
    given = {'encoder': f'torchscript:{tmp_path / "dividing.ts"}', 'input_size': [HEIGHT, WIDTH], 'device': 'cpu',
             'held_out_share': 0.5, 'false_alarm_rate': 0.05}
    options = [part for name, value in given.items() for part in ('--set', f'{name}={value}')]
    nominal = write_drive(tmp_path / 'nominal', 100, seed=1, truth=False)
    record_bags([nominal], tmp_path / 'database', Settings.of(given), SILENT)
    bad = (10, 11, 12, 20, 21)
    drive = write_drive(tmp_path / 'drive', 40, seed=2, anomalies=((20, 24),), white=bad)
    assert main(['evaluate', str(drive), '--database', str(tmp_path / 'database'), '--output', str(tmp_path / 'out'),
                 *options]) == 0
    with open(tmp_path / 'out' / 'scores.csv') as file:
        lines = list(csv.DictReader(file))
    for row, filtered in zip(metrics_of(tmp_path / 'out')['results'], ('0', '1'), strict=True):
        assert row['unknown_frames'] == 5
        own = [line for line in lines if line['filter'] == filtered]
        unknown = [line for line in own if line['verdict'] == 'unknown']
        assert [own.index(line) for line in unknown] == list(bad)
        assert {tuple(line[name] for name in ('score', 'raw_score', 'p_value', 'reason', 'alarm', 'held_back'))
                for line in unknown} == {('', '', '', 'not finite', '0', '0')}
        ranked = [line for line in own if line['score']]
        assert len(ranked) == 35
        assert row['frame']['auroc'] == pytest.approx(roc_auc_score(
            [int(line['truth']) for line in ranked], [float(line['score']) for line in ranked]), abs=1e-5)
        held_back = [line for line in own if line['held_back'] == '1']
        assert row['held_back_frames'] == len(held_back) == 0  # so strange that one look is enough
    without = metrics_of(tmp_path / 'out')['results'][0]
    assert without['detection_delay_s'] == pytest.approx(0.2), 'not in its first two frames, which are unknown'
    with BagReader(tmp_path / 'out' / 'bags' / 'drive') as reader:
        counts = {topic.rpartition('camera/')[2]: count for topic, count in reader.counts.items()}
        assert [counts[name] for name in ('score', 'overlay/compressed', 'mask', 'anomaly_map')] == [40, 40, 35, 35]
    page = (tmp_path / 'out' / 'report.html').read_text()
    assert '5 frames could not be judged' in page
    assert not re.search(r'\bnan\b', re.sub(r'data:[^"]*', '', page)), 'a figure, or a point of a chart'


def test_an_evaluation_without_calibration_has_nothing_but_unknown_frames(town, tmp_path):
    config = town.config.read_text()
    encoder = re.search(r'torchscript:\S+', config).group()
    given = {'encoder': encoder, 'input_size': [HEIGHT, WIDTH], 'device': 'cpu', 'held_out_share': 0.0}
    nominal = write_drive(tmp_path / 'nominal', 20, seed=1, truth=False)
    record_bags([nominal], tmp_path / 'database', Settings.of(given), SILENT)
    drive = write_drive(tmp_path / 'drive', 30, seed=2, anomalies=((20, 24),))
    assert main(['evaluate', str(drive), '--database', str(tmp_path / 'database'), '--output', str(tmp_path / 'out'),
                 '--config', str(town.config)]) == 0
    for row in metrics_of(tmp_path / 'out')['results']:
        assert row['unknown_frames'] == 30
        assert row['frame']['auroc'] is None
        assert row['events_noticed'] == 0
    assert '30 frames could not be judged' in (tmp_path / 'out' / 'report.html').read_text()
