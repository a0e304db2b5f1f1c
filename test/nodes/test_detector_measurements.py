"""Distances that a depth camera or a lidar measures, live."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import Quaternion, TransformStamped, Vector3
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image, PointCloud2, PointField
from std_msgs.msg import Header

from semanom_ros.errors import MeasurementError
from semanom_ros.geometry.anomaly_place import DistanceSource
from semanom_ros.geometry.transform_tree import TransformTree
from semanom_ros.msg import Anomaly, AnomalyArray
from semanom_ros.ros.measurement_input import MeasurementInput
from semanom_ros.ros.messages import camera_model, header

from .conftest import camera_info

BOX = (48, 40, 24, 16)
OPTICAL, LIDAR = 'camera_optical', 'lidar'
THING_M, BEHIND_M = 4.0, 20.0


class Sensor:
    """A detector, and frames with what a sensor has measured at their time."""

    def __init__(self, bench: Any, name: str, kind: Any) -> None:
        self.bench, self.name, self.kind = bench, name, kind
        self.arrays = bench.listen(AnomalyArray, 'camera/anomalies')
        self.stamp_ns = bench.second

    @property
    def input(self) -> Any:
        return next(iter(self.bench.detector._cameras))._sensor

    def measures(self, message: Any, late_s: float = 0.0) -> Anomaly:
        """Shows the box until it is anomalous, with a message that is stamped like each frame or later."""
        publisher = self.bench.publisher(self.kind, f'camera/{self.name}')
        for _ in range(5):
            self.stamp_ns += self.bench.second // 10
            message.header = header(self.stamp_ns + round(late_s * 1e9), message.header.frame_id)
            publisher.publish(message)
            self.bench.spin_until(lambda: self.stamp_ns + round(late_s * 1e9) in self.input._waiting, what=self.name)
            if (said := self.frame()).anomalies:
                return said.anomalies[0]
        raise AssertionError('the box is not anomalous')

    def frame(self) -> AnomalyArray:
        self.arrays.clear()
        self.bench.send(self.bench.street_with_box(100, BOX), self.stamp_ns, frame_id=OPTICAL)
        self.bench.spin_until(lambda: self.arrays, what='anomalies')
        return self.arrays[0]

    def warns(self, text: str) -> None:
        status = self.bench.status('camera', lambda status: f'distances are not measured: {self.input.topic}: {text}'
                                   in status.message)
        assert status.level == DiagnosticStatus.WARN
        assert '; ' in status.message.split(text, 1)[1]  # what to do


def depth_image(encoding: str = '16UC1', **changes: Any) -> Image:
    """The box before a wall, with holes; rows are longer than their pixels."""
    depths = np.full((96, 128), BEHIND_M)
    depths[BOX[1]:BOX[1] + BOX[3], BOX[0]:BOX[0] + BOX[2]] = THING_M
    depths[::4] = np.nan if encoding == '32FC1' else 0.0
    samples = depths.astype('<f4') if encoding == '32FC1' else (1000 * depths).astype('>u2')
    rows = np.zeros((96, samples.strides[0] + 6), np.uint8)
    rows[:, :-6] = samples.view(np.uint8).reshape(96, -1)
    given = {'header': Header(frame_id=OPTICAL), 'height': 96, 'width': 128, 'encoding': encoding,
             'is_bigendian': int(encoding != '32FC1'), 'step': rows.shape[1], 'data': rows.tobytes(), **changes}
    return Image(**{**given, 'data': array('B', given['data'])})


@pytest.fixture
def sensor(bench: Callable[..., Any], recorded: Path) -> Callable[..., Sensor]:
    """Beside a detector that is active."""

    def start(name: str, kind: Any, **given: Any) -> Sensor:
        one = bench(database=str(recorded), distance_sensor=name, **given)
        assert one.configure(), one.detector._fault
        assert one.activate()
        return Sensor(one, name, kind)

    return start


@pytest.fixture
def depth(sensor: Callable[..., Sensor]) -> Sensor:
    return sensor('depth', Image, distance_max_gap=0.05)


def test_numbers_of_sources_are_those_of_the_message() -> None:
    assert list(DistanceSource) == [Anomaly.DISTANCE_GROUND, Anomaly.DISTANCE_DEPTH, Anomaly.DISTANCE_POINTS]


def test_a_depth_image_measures_the_thing(depth: Sensor) -> None:
    said = depth.measures(depth_image())
    assert said.distance_source == Anomaly.DISTANCE_UNKNOWN  # without CameraInfo
    depth.bench.status('camera', lambda status: 'no CameraInfo on' in status.message)
    depth.bench.send_info(depth.bench.camera_info())
    for encoding in ('16UC1', '32FC1'):
        said = depth.measures(depth_image(encoding))
        assert said.distance_source == Anomaly.DISTANCE_DEPTH
        aside = np.array([said.box.x_offset + said.box.width / 2 - 64, said.box.y_offset + said.box.height / 2 - 48])
        assert said.distance == pytest.approx(THING_M * np.hypot(1, np.linalg.norm(aside) / 100), rel=0.03)
        assert np.isnan(said.position.x)  # where the ground is nobody has said
    depth.bench.status('camera', lambda status: 'distances' not in status.message)


def test_depth_that_cannot_be_used_is_said(depth: Sensor) -> None:
    depth.bench.send_info(depth.bench.camera_info())
    depth.frame()
    depth.warns('found nothing, expected depth with the images')
    for changes, text in (
            ({'encoding': 'rgb8'}, "found encoding 'rgb8', expected one of 16UC1, mono16, 32FC1"),
            ({'height': 48}, 'found 128x48 pixels, expected 128x96, those of the image'),
            ({'header': Header(frame_id='left_infra')}, "found frame 'left_infra', expected 'camera_optical'"),
            ({'data': bytes(500)}, 'found 500 bytes, 262 in a row, expected 128x96 pixels of 16UC1'),
            ({'step': 100}, 'found 25152 bytes, 100 in a row')):
        assert depth.measures(depth_image(**changes)).distance_source == Anomaly.DISTANCE_UNKNOWN
        depth.warns(text)
    assert depth.measures(depth_image(), late_s=-0.08).distance_source == Anomaly.DISTANCE_UNKNOWN
    depth.warns('found the nearest 0.080 s before the image, expected at most 0.05 s')
    assert depth.measures(depth_image(), late_s=0.03).distance_source == Anomaly.DISTANCE_DEPTH
    assert len(depth.input._waiting) < 10  # what is of no use any more goes


@pytest.mark.parametrize('rubbish', [1e-40, 1e38])
def test_rubbish_is_no_distance(depth: Sensor, rubbish: float) -> None:
    """As where a driver names the wrong order of bytes."""
    depth.bench.send_info(depth.bench.camera_info())
    depth.frame()
    said = depth.measures(depth_image('32FC1', data=np.full(96 * 262, rubbish, '<f4').tobytes(), step=512))
    assert said.distance_source == Anomaly.DISTANCE_UNKNOWN


def test_depth_without_stamps_is_of_no_time(depth: Sensor) -> None:
    """One message would be of the time of all later images, though the sensor fell silent."""
    depth.bench.send_info(depth.bench.camera_info())
    publisher, message = depth.bench.publisher(Image, 'camera/depth'), depth_image()
    message.header = header(0, OPTICAL)
    publisher.publish(message)
    depth.bench.spin_until(lambda: 0 in depth.input._waiting, what='depth')
    depth.stamp_ns = 0
    depth.frame()
    depth.warns('found an image without stamp, expected one that tells what was measured at its time')


def turned(points: np.ndarray) -> np.ndarray:
    """From the optical frame to that of a lidar at the same place: x forward, y left, z up."""
    return points[:, [2, 0, 1]] * (1, -1, -1)


def cloud(frame_id: str, **changes: Any) -> PointCloud2:
    """The box before a wall, as lidars send it: with intensity between, and points behind the sensor."""
    columns, rows = (grid.ravel() for grid in np.meshgrid(np.arange(0, 128, 2), np.arange(0, 96, 2)))
    inside = (columns >= BOX[0]) & (columns < BOX[0] + BOX[2]) & (rows >= BOX[1]) & (rows < BOX[1] + BOX[3])
    rays = np.column_stack([(columns - 63.5) / 100, (rows - 47.5) / 100, np.ones(len(rows))])
    points = rays / np.linalg.norm(rays, axis=1)[:, None] * np.where(inside, THING_M, BEHIND_M)[:, None]
    points = np.concatenate([points, -points, np.full((3, 3), np.nan)])
    points = points if frame_id == OPTICAL else turned(points)
    kind = np.dtype([('intensity', '<f4'), ('x', '<f4'), ('y', '<f4'), ('z', '<f4'), ('ring', '<u2'), ('', '<u2')])
    packed = np.zeros(len(points), kind)
    for number, name in enumerate('xyz'):
        packed[name] = points[:, number]
    fields = [PointField(name=name, offset=4 * number, datatype=PointField.FLOAT32, count=1)
              for number, name in enumerate(('intensity', 'x', 'y', 'z'))]
    given = {'header': Header(frame_id=frame_id), 'height': 1, 'width': len(points), 'fields': fields,
             'point_step': 20, 'row_step': 20 * len(points), 'data': array('B', packed.tobytes()), **changes}
    return PointCloud2(**given)


def fixed(parent: str, child: str, z: float, *turn: float) -> TransformStamped:
    transform = TransformStamped(child_frame_id=child)
    transform.header.frame_id = parent
    transform.transform.translation = Vector3(x=0.0, y=0.0, z=z)
    x, y, z, w = turn
    transform.transform.rotation = Quaternion(x=x, y=y, z=z, w=w)
    return transform


def test_a_point_cloud_measures_the_thing(sensor: Callable[..., Sensor]) -> None:
    """Also where it hangs: above the horizon, where the ground tells nothing."""
    tf2_msgs = pytest.importorskip('tf2_msgs.msg', reason='tf2_msgs is not installed: source a ROS 2 installation')
    lidar = sensor('points', PointCloud2, ground_frame='base_footprint')
    lidar.bench.send_info(lidar.bench.camera_info())
    assert lidar.measures(cloud(LIDAR)).distance_source == Anomaly.DISTANCE_UNKNOWN
    lidar.bench.status('camera', lambda status: 'distances are not measured: transforms: found none from lidar to '
                       'camera_optical' in status.message)
    qos = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    lidar.bench.node.create_publisher(tf2_msgs.TFMessage, '/tf_static', qos).publish(tf2_msgs.TFMessage(transforms=[
        fixed('base_footprint', LIDAR, 2.0, 0.0, 0.0, 0.0, 1.0), fixed(LIDAR, OPTICAL, 0.0, -0.5, 0.5, -0.5, 0.5)]))
    lidar.bench.spin_until(lambda: len(lidar.bench.detector._transforms.tree._links) == 2, what='/tf_static')
    for frame_id in (LIDAR, OPTICAL):
        said = lidar.measures(cloud(frame_id))
        assert said.distance_source == Anomaly.DISTANCE_POINTS
        assert said.distance == pytest.approx(THING_M, rel=1e-5)
        assert np.linalg.norm([said.position.x, said.position.y, said.position.z - 2]) == pytest.approx(THING_M)
        lower = (said.box.y_offset + said.box.height - 0.5 - 47.5) / 100
        assert said.position.z == pytest.approx(2 - THING_M * lower / np.hypot(1, lower), abs=0.01)
    for changes, text in (({'fields': []}, 'found fields none, expected x, y and z as float32 or float64'),
                          ({'point_step': 8}, 'bytes, 8 for a point'),
                          ({'width': 10**6}, 'expected 1000000 points with their fields')):
        assert lidar.measures(cloud(LIDAR, **changes)).distance_source == Anomaly.DISTANCE_GROUND
        lidar.bench.status('camera', lambda status, text=text: text in status.message)


ONE_PLACE = [PointField(name=name, offset=4, datatype=PointField.FLOAT32, count=1) for name in 'xyz']
HALF_LAID_OVER = [PointField(name=name, offset=2 * n, datatype=PointField.FLOAT32, count=1)
                  for n, name in enumerate('xyz')]


@pytest.mark.parametrize(('changes', 'text'), [
    ({}, ''),
    ({'fields': []}, 'found fields none, expected x, y and z as float32 or float64'),
    ({'fields': ONE_PLACE}, 'found x, y and z at 4, 4, 4 bytes, expected each to have its own'),
    ({'fields': HALF_LAID_OVER}, 'found x, y and z at 0, 2, 4 bytes, expected each to have its own'),
    ({'width': 0, 'point_step': 2**31, 'data': array('B')}, 'found a point cloud without points, expected some'),
    ({'height': 0, 'width': 2**32 - 1}, 'found a point cloud without points, expected some'),
    ({'header': header(10**9, '')}, 'found a point cloud without frame_id, expected to be told where the sensor is'),
    ({'point_step': 2**32 - 1}, 'bytes, 4294967295 for a point')])
def test_clouds_that_measure_nothing(ros_domain_id: int, changes: dict[str, Any], text: str) -> None:
    """Each is said in a line; the nodes take any other error for a fault of the image."""
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node('lidars', context=context)
    try:
        lidar = MeasurementInput(node, 'camera', 'points', TransformTree())
        lidar._receive(serialize_message(cloud(OPTICAL, **{'header': header(10**9, OPTICAL), **changes})))
        with pytest.raises(MeasurementError, match=text) if text else nullcontext():
            lidar.at(10**9, 0.1, camera_model(camera_info()), (96, 128), OPTICAL)
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)


def test_points_need_the_package_of_transforms(bench: Callable[..., Any], recorded: Any,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'tf2_msgs.msg', None)
    one = bench(database=str(recorded), distance_sensor='points')
    assert not one.configure()
    assert 'parameter distance_sensor: found no package tf2_msgs' in one.detector._fault
