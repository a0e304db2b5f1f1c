"""`semanom simulate`: what is in the bag."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from semanom_ros.cli import main
from semanom_ros.recordings.bags import BagReader
from semanom_ros.recordings.images import image_from_message
from semanom_ros.simulation import simulate
from semanom_ros.simulation.drive_bag import quaternion
from semanom_ros.simulation.things import turn

TOPICS = {
    '/camera/camera_info': 'sensor_msgs/msg/CameraInfo',
    '/tf': 'tf2_msgs/msg/TFMessage',
    '/tf_static': 'tf2_msgs/msg/TFMessage',
    '/clock': 'rosgraph_msgs/msg/Clock',
    '/ground_truth/anomaly_mask': 'sensor_msgs/msg/Image',
    '/ground_truth/instances': 'sensor_msgs/msg/Image',
    '/ground_truth/scenario': 'std_msgs/msg/String',
}


@pytest.mark.parametrize(
    ('options', 'topic', 'type_'),
    [
        ([], '/camera/image_raw/compressed', 'sensor_msgs/msg/CompressedImage'),
        (['--raw', '--storage', 'sqlite3'], '/camera/image_raw', 'sensor_msgs/msg/Image'),
    ],
)
def test_a_bag_holds_every_topic_for_every_frame(tmp_path: Path, options: list[str], topic: str, type_: str):
    bag = tmp_path / 'drive'
    assert (
        main(['simulate', str(bag), '--anomalies', '--seed', '41', '--frames', '3', '--weather', 'sun', *options]) == 0
    )
    frames = list(simulate(41, 3, True, weather='sun'))
    seen: dict[str, list[int]] = {}
    with BagReader(bag) as reader:
        assert reader.topics == {**TOPICS, topic: type_}
        for name, stamp, message in reader.messages():
            seen.setdefault(name, []).append(stamp)
            k = len(seen[name]) - 1
            if hasattr(message, 'header'):
                assert message.header.stamp.sec * 10**9 + message.header.stamp.nanosec == stamp
            if name == '/ground_truth/anomaly_mask':
                assert message.encoding == 'mono8'
                assert np.array_equal(message.data.reshape(360, 640), frames[k].anomaly_mask)
            elif name == '/ground_truth/instances':
                assert message.encoding == 'mono16'
                assert np.array_equal(message.data.view('<u2').reshape(360, 640), frames[k].instance_ids)
            elif name == '/ground_truth/scenario':
                content = json.loads(message.data)
                assert [a['name'] for a in content['anomalies']] == list(frames[k].scenarios)
                assert {int(i) for i in content['instances']} == set(frames[k].instances)
                assert {int(i): one['distance'] for i, one in content['instances'].items()} == pytest.approx(
                    frames[k].distances, abs=0.006
                )
                assert content['speed'] == pytest.approx(frames[k].speed, abs=0.001)
            elif name == '/camera/camera_info':
                assert (message.height, message.width) == frames[k].image.shape[:2]
                assert message.k[2] == pytest.approx(319.5)
            elif name == topic and '--raw' in options:
                assert np.array_equal(image_from_message(message), frames[k].image)
        pictures = list(reader.images(topic))
    assert [p.stamp_ns for p in pictures] == [f.stamp_ns for f in frames]
    for picture, frame in zip(pictures, frames, strict=True):
        assert np.abs(picture.image.astype(int) - frame.image).mean() < 6
    for name, stamps in seen.items():
        assert stamps == ([frames[0].stamp_ns] if name == '/tf_static' else [f.stamp_ns for f in frames]), name


def test_an_existing_bag_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    bag = tmp_path / 'drive'
    bag.mkdir()
    (bag / 'precious').write_text('mine')
    assert main(['simulate', str(bag), '--frames', '1']) == 2
    assert (bag / 'precious').read_text() == 'mine'
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert 'exists already' in lines[0]


@pytest.mark.parametrize(
    'arguments', [['--weather', 'snow'], ['--frames', '-1'], ['--frames', '0'], ['--scenario', 'unicorn']]
)
def test_bad_usage_ends_with_status_2(tmp_path: Path, arguments: list[str]):
    try:
        status = main(['simulate', str(tmp_path / 'drive'), *arguments])
    except SystemExit as left:
        status = left.code
    assert status == 2
    assert not (tmp_path / 'drive').exists()


@pytest.mark.parametrize('angles', [(0, 0, 0), (3.1, 0.2, -0.3), (-1.5, 1.2, 3.0), (0.4, -1.5, 0.1)])
def test_quaternions_turn_as_their_matrix_does(angles: tuple[float, float, float]):
    matrix = turn(*angles)
    x, y, z, w = quaternion(matrix)
    vector = np.array([0.3, -0.7, 0.2])
    axis = np.array([x, y, z])
    turned = vector + 2 * np.cross(axis, np.cross(axis, vector) + w * vector)
    assert x * x + y * y + z * z + w * w == pytest.approx(1)
    assert turned == pytest.approx(matrix @ vector)
