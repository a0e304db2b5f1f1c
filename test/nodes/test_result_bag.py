"""One table of outputs: what is published live, written into result bags and captured."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rclpy.serialization import deserialize_message
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import CameraInfo

from semanom_ros.core.frames import Frame
from semanom_ros.core.pipeline import CameraState, Judge
from semanom_ros.evaluation import live_run, result_bag
from semanom_ros.evaluation.result_bag import PREFIX, RECORDED, ResultBag
from semanom_ros.msg import AnomalyArray, AnomalyScore
from semanom_ros.recordings.bags import BagReader, BagWriter
from semanom_ros.recordings.images import image_from_compressed
from semanom_ros.recordings.own_outputs import own_outputs
from semanom_ros.ros import outputs
from semanom_ros.ros.messages import camera_model
from semanom_ros.ros.outputs import OUTPUTS, OVERLAY_JPEG, Needs, Output
from semanom_ros.ros.player import Capture
from semanom_ros.settings import DetectorSettings, MethodSettings

SIZE = 192, 256  # larger than what the encoder sees
FRAME_ID = 'camera_optical'
ALWAYS = [output for output in RECORDED if output.needs is not Needs.GROUND]
"""What needs no transforms."""


@pytest.mark.parametrize('name', ['learned', 'segmented'])
def test_a_result_bag_holds_the_messages_that_are_published_live(
        active: Callable[..., Any], encoder: dict[str, Any], instances: dict[str, Any],
        request: pytest.FixtureRequest, tmp_path: Path, name: str) -> None:
    database, given = request.getfixturevalue(name), instances if name == 'segmented' else {}
    one = active(database=str(database), **given)
    live = {output.name: one.listen(output.type, f'camera/{output.name}') for output in ALWAYS}
    info = one.camera_info(height=SIZE[0], width=SIZE[1])
    one.send_info(info)
    frames = [Frame(one.street_with_box(70, (96, 80, 48, 32), SIZE), one.second + number * one.second // 10)
              for number in range(5)]
    for count, frame in enumerate(frames, 1):
        one.send(frame.image, frame.stamp_ns, frame_id=FRAME_ID)
        one.spin_until(lambda count=count: all(len(messages) == count for messages in live.values()))

    judge, state = Judge.load(MethodSettings.of({**encoder, **given}), database), CameraState()
    with ResultBag(tmp_path / 'results', FRAME_ID, camera_model(info)) as bag:
        for frame in frames:
            bag.add(frame, judge.process(frame, state))
    with BagReader(tmp_path / 'results') as reader:
        assert reader.topics == {PREFIX + output.name: output.type_name for output in ALWAYS} | {
            '/camera/image_raw/compressed': 'sensor_msgs/msg/CompressedImage'}
        for output in ALWAYS:
            rows = list(reader.raw([PREFIX + output.name]))
            assert [stamp for _, _, stamp, _ in rows] == [frame.stamp_ns for frame in frames]
            for (_, _, _, cdr), message in zip(rows, live[output.name], strict=True):
                read = deserialize_message(bytes(cdr), output.type)
                # as text where a distance that is not known is NaN, which equals nothing
                assert str(read) == str(message) if output.name == 'anomalies' else read == message, output.name
    assert [array.anomalous for array in live['anomalies']] == [True] * 5
    assert {(message.height, message.width) for topic in ('anomaly_map', 'mask') for message in live[topic]} == {SIZE}


def test_a_result_bag_holds_what_rviz_shows(encoder: dict[str, Any], learned: Path, tmp_path: Path) -> None:
    """Camera, CameraInfo and transforms at the frames' stamps, though the bag time was another; and a layout."""
    with BagWriter(tmp_path / 'drive') as writer:
        types = writer.typestore.types
        times = [types['builtin_interfaces/msg/Time'](second, 0) for second in range(1, 4)]
        headers = [types['std_msgs/msg/Header'](time, 'base_link') for time in times]
        moved = types['geometry_msgs/msg/Transform'](types['geometry_msgs/msg/Vector3'](0, 0, 1),
                                                     types['geometry_msgs/msg/Quaternion'](0, 0, 0, 1))
        roi = types['sensor_msgs/msg/RegionOfInterest'](0, 0, 0, 0, False)
        for number, header in enumerate(headers):
            transform = types['geometry_msgs/msg/TransformStamped'](header, FRAME_ID, moved)
            for topic in ('/tf', '/tf_static') if number == 0 else ('/tf',):
                writer.write(topic, types['tf2_msgs/msg/TFMessage']([transform]), 10**18 + number)
            info = types['sensor_msgs/msg/CameraInfo'](header, *SIZE, 'plumb_bob', np.zeros(5), np.eye(3).ravel(),
                                                       np.eye(3).ravel(), np.zeros(12), 0, 0, roi)
            writer.write('/front/camera_info', info, 10**18 + number)
            writer.write('/chatter', types['std_msgs/msg/String']('x'), 10**18 + number)
    judge, state = Judge.load(MethodSettings.of(encoder), learned), CameraState()
    frames = [Frame(np.full((*SIZE, 3), 90, np.uint8), second * 10**9) for second in range(1, 4)]
    with ResultBag(tmp_path / 'results', FRAME_ID, recording=tmp_path / 'drive', image_topic='/front/image') as bag:
        for frame in frames:
            bag.add(frame, judge.process(frame, state))
    with BagReader(tmp_path / 'results') as reader:
        stamps = {topic: [time_ns for _, _, time_ns, _ in reader.raw([topic])] for topic in reader.topics}
        assert set(stamps) == {PREFIX + output.name for output in ALWAYS} | {
            '/front/image/compressed', '/front/camera_info', '/tf', '/tf_static'}
        assert stamps.pop('/tf_static') == [10**9]
        assert all(times == [frame.stamp_ns for frame in frames] for times in stamps.values())
        assert set(reader.image_topics) == {'/front/image/compressed'}
        assert [frame.image.shape for frame in reader.images()] == [(*SIZE, 3)] * 3
    layout = yaml.safe_load((tmp_path / 'results' / 'semanom.rviz').read_text())['Visualization Manager']
    shown = {display['Topic']['Value'] for display in layout['Displays'] if 'Topic' in display}
    assert shown == {PREFIX + name for name in ('markers', 'overlay/compressed', 'anomaly_map')} | {
        '/front/image/compressed'}
    assert layout['Global Options']['Fixed Frame'] == 'base_link'
    panels = json.loads((tmp_path / 'results' / 'foxglove_layout.json').read_text())['configById'].values()
    pictures = {panel['imageMode']['imageTopic'] for panel in panels if panel.get('imageMode')}
    assert pictures - {PREFIX + 'anomaly_map', PREFIX + 'mask'} == {
        '/front/image/compressed', PREFIX + 'overlay/compressed'}
    assert pictures <= stamps.keys()


def test_distances_come_from_the_transforms_of_the_recording(
        encoder: dict[str, Any], learned: Path, street_with_box: Callable[..., np.ndarray], tmp_path: Path) -> None:
    """A camera two metres above the ground that looks straight ahead, on a vehicle that nobody has told to move."""
    height, width = 96, 128
    with BagWriter(tmp_path / 'drive') as writer:
        types = writer.typestore.types
        header = types['std_msgs/msg/Header'](types['builtin_interfaces/msg/Time'](0, 0), 'base_link')
        turn = Rotation.from_matrix([[0, 0, 1], [-1, 0, 0], [0, -1, 0]]).as_quat()
        mount = types['geometry_msgs/msg/Transform'](types['geometry_msgs/msg/Vector3'](1.0, 0.0, 2.0),
                                                     types['geometry_msgs/msg/Quaternion'](*turn))
        writer.write('/tf_static', types['tf2_msgs/msg/TFMessage'](
            [types['geometry_msgs/msg/TransformStamped'](header, FRAME_ID, mount)]), 1)
    info = CameraInfo(height=height, width=width, k=[100.0, 0.0, 63.5, 0.0, 100.0, 47.5, 0.0, 0.0, 1.0])
    judge, state = Judge.load(MethodSettings.of(encoder), learned), CameraState()
    settings = DetectorSettings(ground_frame='base_link')
    with ResultBag(tmp_path / 'results', FRAME_ID, camera_model(info), settings, tmp_path / 'drive') as bag:
        for number in range(5):
            frame = Frame(street_with_box(100, (48, 64, 24, 16)), (number + 1) * 10**8)
            bag.add(frame, judge.process(frame, state))
    with BagReader(tmp_path / 'results') as reader:
        assert reader.counts[PREFIX + 'obstacles'] == 5
        *_, (_, _, _, cdr) = reader.raw([PREFIX + 'anomalies'])
    array = deserialize_message(bytes(cdr), AnomalyArray)
    (anomaly,) = array.anomalies
    bottom = anomaly.box.y_offset + anomaly.box.height - 0.5
    assert array.ground_frame == 'base_link'
    assert anomaly.distance_source == anomaly.DISTANCE_GROUND
    assert anomaly.position.x == pytest.approx(1 + 2 * 100 / (bottom - 47.5))
    assert anomaly.position.z == pytest.approx(0, abs=1e-6)


def test_every_output_is_told_from_what_a_vehicle_sends() -> None:
    beside = {'/anywhere/anomalies': 'semanom_ros/msg/AnomalyArray',
              **{f'/anywhere/{output.name}': output.type_name for output in OUTPUTS}}
    assert own_outputs({**beside, '/anywhere/image': 'sensor_msgs/msg/Image'}) == set(beside)


def test_wide_pictures_are_drawn_as_wide_as_live(encoder: dict[str, Any], learned: Path, tmp_path: Path) -> None:
    frame = Frame(np.zeros((720, 1400, 3), np.uint8), 10**9)
    result = Judge.load(MethodSettings.of(encoder), learned).process(frame, CameraState())
    with ResultBag(tmp_path / 'results', FRAME_ID) as bag:
        bag.add(frame, result)
    with BagReader(tmp_path / 'results') as reader:
        ((_, _, overlay),) = reader.messages([PREFIX + OVERLAY_JPEG.name])
    assert image_from_compressed(overlay).shape[1] == DetectorSettings().overlay_max_width < 1400


def test_the_node_offers_exactly_the_outputs_of_the_table(active: Callable[..., Any]) -> None:
    one = active(camera_names=['front', 'rear'])
    for camera in ('front', 'rear'):
        prefix = f'/semanom_detector/{camera}/'

        def offered(prefix: str = prefix) -> dict[str, list[str]]:
            return {topic.removeprefix(prefix): types for topic, types in one.node.get_topic_names_and_types()
                    if topic.startswith(prefix)}

        one.spin_until(lambda offered=offered: len(offered()) >= len(OUTPUTS))
        assert offered() == {output.name: [output.type_name] for output in OUTPUTS}
        publishers = {publisher.topic_name: publisher for publisher in one.detector.publishers}
        for output in OUTPUTS:
            (info,) = one.node.get_publishers_info_by_topic(prefix + output.name)
            assert info.qos_profile.reliability == output.qos.reliability, output.name
            assert info.qos_profile.durability == output.qos.durability, output.name
            assert publishers[prefix + output.name].qos_profile == output.qos, output.name


@pytest.fixture
def one_more() -> Iterator[Output]:
    """A further row of the table, as if it stood there when the modules that read it are imported."""
    row = Output('doubled', AnomalyScore, lambda judged: AnomalyScore(header=judged.header,
                                                                     score=2 * judged.result.score))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outputs, 'OUTPUTS', (*OUTPUTS, row))
        for module in (result_bag, live_run):
            importlib.reload(module)
        yield row
    for module in (result_bag, live_run):
        importlib.reload(module)


def test_a_row_more_is_live_in_result_bags_and_in_captures(
        one_more: Output, active: Callable[..., Any], encoder: dict[str, Any], learned: Path, tmp_path: Path) -> None:
    one = active()
    topic = PREFIX + one_more.name
    with BagWriter(tmp_path / 'captured') as writer:
        capture = Capture(one.node, writer, {PREFIX + output.name: output.type_name for output in live_run.RECORDED})
        live = one.listen(AnomalyScore, f'camera/{one_more.name}')
        frame = Frame(one.street(1), one.second)
        one.send(frame.image, frame.stamp_ns)
        one.spin_until(lambda: live and all(capture.received[PREFIX + output.name]
                                            for output in result_bag.RECORDED if output.needs is not Needs.GROUND))
        capture.close()
    judge = Judge.load(MethodSettings.of(encoder), learned)
    with result_bag.ResultBag(tmp_path / 'results', FRAME_ID) as bag:
        bag.add(frame, judge.process(frame, CameraState()))
    for name in ('captured', 'results'):
        with BagReader(tmp_path / name) as reader:
            ((_, type, stamp, cdr),) = reader.raw([topic])
            assert (type, stamp) == ('semanom_ros/msg/AnomalyScore', frame.stamp_ns)
            assert deserialize_message(bytes(cdr), AnomalyScore) == live[0], name
