"""Several cameras of one recording: each evaluated on its own, in one report."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from semanom_ros.cli import main
from semanom_ros.recordings.bags import BagReader, BagWriter
from semanom_ros.recordings.ground_truth import ANOMALY_MASK, INSTANCES, beside
from semanom_ros.ros.messages import image_to_message, write_message

from .conftest import HEIGHT, PERIOD_NS, START_NS, WIDTH, Town, road

FRAMES = 14
TOPICS = ['--image-topic', '/front/image_raw', '--image-topic', '/left/image_raw']


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    """A red thing in the pictures of the left camera alone, from frame 5 to 8."""
    with BagWriter(tmp_path / 'drive') as writer:
        for number in range(FRAMES):
            stamp = START_NS + number * PERIOD_NS
            for seed, camera in enumerate(('front', 'left')):
                image, mask = road(number, seed), np.zeros((HEIGHT, WIDTH), np.uint8)
                if camera == 'left' and 5 <= number <= 8:
                    cv2.rectangle(image, (48, 40), (71, 60), (220, 30, 30), -1)
                    mask[40:61, 48:72] = 255
                write_message(writer, f'/{camera}/image_raw', image_to_message(image, 'bgr8', stamp, camera), stamp)
                write_message(writer, f'/truth/{camera}', image_to_message(mask, 'mono8', stamp, camera), stamp)
    return tmp_path / 'drive'


def test_each_camera_is_a_recording_of_its_own(town: Town, drive: Path, tmp_path: Path) -> None:
    output = tmp_path / 'report'
    assert main(['evaluate', str(drive), *town.arguments('grid'), '--output', str(output), '--filter', 'off', *TOPICS,
                 '--truth-topic', '/truth/front', '--truth-topic', '/truth/left']) == 0
    metrics = json.loads((output / 'metrics.json').read_text())
    assert (metrics['frames'], metrics['anomalous_frames']) == (2 * FRAMES, 4)
    assert [recording['name'] for recording in metrics['recordings']] == ['drive_front', 'drive_left']
    front, left = (recording['results'][0] for recording in metrics['recordings'])
    assert (front['events'], front['frame']['auroc']) == (0, None), 'nothing anomalous is in front'
    assert (left['events'], left['events_noticed'], left['frame']['auroc']) == (1, 1, 1.0)
    assert metrics['results'][0]['events_noticed'] == 1
    assert 'Results by recording, grid' in (output / 'report.html').read_text()
    for camera in ('front', 'left'):
        with BagReader(output / 'bags' / f'drive_{camera}') as reader:
            assert reader.counts[f'/{camera}/image_raw/compressed'] == FRAMES
            assert reader.counts['/semanom_detector/camera/score'] == FRAMES


@pytest.mark.parametrize(('options', 'said'), [
    ([*TOPICS, '--truth-topic', '/truth/front'], 'found 1 for 2 image topics, expected one for each'),
    ([*TOPICS, '--image-topic', '/left/image_rect'], 'expected topics that begin with the names of their cameras')])
def test_what_does_not_fit_is_refused(town: Town, drive: Path, tmp_path: Path, options: list[str], said: str,
                                      capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['evaluate', str(drive), *town.arguments('grid'), '--output', str(tmp_path / 'report'), *options]) == 2
    assert said in capsys.readouterr().err


def test_a_simulated_rig_tells_of_each_camera(tmp_path: Path) -> None:
    """Pictures, masks, distances and transforms of the same moments."""
    path = tmp_path / 'rig'
    assert main(['simulate', str(path), '--frames', '2', '--every', '50', '--anomalies', '--seed', '1001', '--camera',
                 'front', '--camera', 'left=-40']) == 0
    with BagReader(path) as reader:
        assert list(reader.image_topics) == ['/front/image_raw/compressed', '/left/image_raw/compressed']
        stamps = {topic: [frame.stamp_ns for frame in reader.images(topic)] for topic in reader.image_topics}
        assert len({tuple(one) for one in stamps.values()}) == 1
        frames = [frame.image for frame in reader.images(list(reader.image_topics))]
        assert np.abs(frames[0].astype(int) - frames[1]).mean() > 10, 'they look elsewhere'
        _, _, pose = next(iter(reader.messages(['/tf'])))
        turns = {one.child_frame_id: one.transform.rotation for one in pose.transforms}
        assert set(turns) == {'base_link', 'front_optical_frame', 'left_optical_frame'}
        assert turns['front_optical_frame'] != turns['left_optical_frame']
    truth = f'/ground_truth/left/{ANOMALY_MASK.rpartition("/")[2]}'
    assert beside(INSTANCES, truth) == '/ground_truth/left/instances'
    assert beside(INSTANCES, ANOMALY_MASK) == beside(INSTANCES, '/other/mask') == INSTANCES


@pytest.mark.parametrize('given', ['Front=0', 'left=sideways', 'left=90', '=3'])
def test_a_camera_that_is_none_is_refused(tmp_path: Path, given: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['simulate', str(tmp_path / 'rig'), '--frames', '1', '--camera', given]) == 2
    assert f'--camera {given}: expected NAME=DEG' in capsys.readouterr().err
    assert not (tmp_path / 'rig').exists()
