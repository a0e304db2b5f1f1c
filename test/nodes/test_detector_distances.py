"""Positions and distances of anomalies on the ground, live."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import Quaternion, TransformStamped, Vector3
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import PointCloud2
from visualization_msgs.msg import MarkerArray

from semanom_ros.msg import AnomalyArray
from semanom_ros.ros.obstacles import HEIGHTS_M

HEIGHT_M = 2.0
BOX = (48, 64, 24, 16)
FRAME_ID = 'camera_optical'


def mount() -> TransformStamped:
    """The camera above the ground, looking ahead: z forward is x, y down is -z."""
    transform = TransformStamped(child_frame_id=FRAME_ID)
    transform.header.frame_id = 'base_footprint'
    transform.transform.translation = Vector3(x=1.0, y=0.0, z=HEIGHT_M)
    transform.transform.rotation = Quaternion(x=-0.5, y=0.5, z=-0.5, w=0.5)
    return transform


def stamp_of(message: Any) -> Any:
    return (message.markers[0] if isinstance(message, MarkerArray) else message).header.stamp


def test_without_the_package_of_transforms_it_says_so(bench: Callable[..., Any], recorded: Any,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'tf2_msgs.msg', None)
    one = bench(database=str(recorded), ground_frame='base_footprint')
    assert not one.configure()
    assert 'parameter ground_frame: found no package tf2_msgs' in one.detector._fault


def test_what_stands_on_the_ground_has_a_distance(active: Callable[..., Any], street_with_box: Any) -> None:
    tf2_msgs = pytest.importorskip('tf2_msgs.msg', reason='tf2_msgs is not installed: source a ROS 2 installation')
    one = active(ground_frame='base_footprint')
    arrays = one.listen(AnomalyArray, 'camera/anomalies')
    clouds, markers = one.listen(PointCloud2, 'camera/obstacles'), one.listen(MarkerArray, 'camera/markers')
    one.send_info(one.camera_info())
    stamps = iter(range(one.second, 100 * one.second, one.second // 10))

    def shown() -> AnomalyArray:
        for _ in range(5):
            arrays.clear()
            one.send(street_with_box(100, BOX), next(stamps), frame_id=FRAME_ID)
            one.spin_until(lambda: arrays, what='anomalies')
        assert arrays[0].anomalous
        return arrays[0]

    before = shown()
    assert before.ground_frame == ''
    assert np.isnan([before.anomalies[0].distance, before.anomalies[0].position.x]).all()
    assert before.anomalies[0].distance_source == before.anomalies[0].DISTANCE_UNKNOWN
    status = one.status('camera', lambda status: 'found none from camera_optical to base_footprint' in status.message)
    assert status.level == DiagnosticStatus.WARN
    assert not clouds

    qos = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    one.node.create_publisher(tf2_msgs.TFMessage, '/tf_static', qos).publish(
        tf2_msgs.TFMessage(transforms=[mount()]))
    one.spin_until(lambda: one.detector._transforms.tree._links, what='/tf_static')
    array = shown()
    for heard in (clouds, markers):
        one.spin_until(lambda heard=heard: heard and stamp_of(heard[-1]) == array.header.stamp, what='the last frame')
    (anomaly,) = array.anomalies
    forward = HEIGHT_M * one.focal / (anomaly.box.y_offset + anomaly.box.height - 0.5 - 47.5)
    assert array.ground_frame == 'base_footprint'
    assert anomaly.distance_source == anomaly.DISTANCE_GROUND
    assert anomaly.position.x == pytest.approx(1 + forward)
    assert anomaly.distance == pytest.approx(np.hypot(np.hypot(forward, HEIGHT_M), anomaly.position.y), rel=1e-5)

    cloud = clouds[-1]
    assert (cloud.header.frame_id, cloud.header.stamp) == ('base_footprint', array.header.stamp)
    assert [field.name for field in cloud.fields] == ['x', 'y', 'z']
    points = np.frombuffer(cloud.data, '<f4').reshape(-1, cloud.point_step // 4)
    assert len(points) == cloud.width
    assert sorted(set(points[:, 2].tolist())) == pytest.approx(HEIGHTS_M)
    assert points[:, 0] == pytest.approx(anomaly.position.x, rel=1e-5)
    across = anomaly.box.width * forward / one.focal
    assert np.ptp(points[:, 1]) == pytest.approx(across, rel=1e-4)

    last = markers[-1].markers
    (feet,) = (marker for marker in last if marker.ns == 'feet')
    assert feet.header.frame_id == 'base_footprint'
    assert f', {anomaly.distance:.0f} m' in next(marker.text for marker in last if marker.ns == 'labels')
    one.status('camera', lambda status: 'distances' not in status.message)
