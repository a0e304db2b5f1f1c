"""Which camera is meant where nobody named one."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import rclpy
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image, Imu

from semanom_ros.msg import AnomalyScore
from semanom_ros.recordings.bags import COMPRESSED_IMAGE, IMAGE
from semanom_ros.ros.camera_search import WAIT_S, choose, search

OWN = '/semanom_detector/input/camera/image'


@pytest.mark.parametrize(
    ('topics', 'transport', 'topic', 'found_transport'),
    [
        ({'/front/image_raw': IMAGE}, '', '/front/image_raw', 'raw'),
        ({'/front/image_raw': IMAGE, '/imu': 'sensor_msgs/msg/Imu'}, '', '/front/image_raw', 'raw'),
        ({'/front/image_raw/compressed': COMPRESSED_IMAGE}, '', '/front/image_raw', 'compressed'),
        ({'/front/image': COMPRESSED_IMAGE}, '', '/front/image', 'compressed'),
        ({'/a': IMAGE, '/a/compressed': COMPRESSED_IMAGE, '/a/compressedDepth': COMPRESSED_IMAGE}, '', '/a', 'raw'),
        ({'/a': IMAGE, '/a/compressed': COMPRESSED_IMAGE}, 'compressed', '/a', 'compressed'),
        ({'/a': IMAGE}, 'compressed', '', 'compressed'),
        ({'/a': IMAGE, '/b': IMAGE}, '', '', 'raw'),
        ({'/a': IMAGE, '/b/compressed': COMPRESSED_IMAGE}, '', '', 'raw'),
        ({'/a': IMAGE, OWN: IMAGE}, '', '', 'raw'),
        ({'/a': IMAGE, '/semanom_detector/camera/overlay': IMAGE}, '', '/a', 'raw'),
        ({'/a': IMAGE, '/ground_truth/anomaly_mask': IMAGE}, '', '/a', 'raw'),
        ({}, '', '', 'raw'),
    ],
)
def test_the_only_camera(topics: dict[str, str], transport: str, topic: str, found_transport: str) -> None:
    found = choose(topics, OWN, transport)
    assert (found.topic, found.transport) == (topic, found_transport)
    assert found.line.startswith('image topic: ')


def test_what_is_said_names_what_was_found() -> None:
    assert '/a, /b, expected one' in choose({'/b': IMAGE, '/a': IMAGE}, OWN).line
    assert choose({OWN: IMAGE, '/a': IMAGE}, OWN).line == f'image topic: {OWN}'
    assert f'found none, waiting for {OWN}' in choose({}, OWN).line


@pytest.fixture
def robot(ros_domain_id: int) -> Iterator[Node]:
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node('robot', context=context)
    yield node
    node.destroy_node()
    rclpy.shutdown(context=context)


def test_in_a_graph(robot: Node) -> None:
    robot.create_publisher(CompressedImage, '/front/image_raw/compressed', 1)
    robot.create_publisher(Imu, '/imu', 1)
    robot.create_publisher(AnomalyScore, '/other/rear/score', 1)
    robot.create_publisher(Image, '/other/rear/overlay', 1)
    robot.create_subscription(Image, '/wanted/image_raw', lambda _: None, 1)  # of which nobody sends images
    found = search(OWN)
    assert (found.topic, found.transport) == ('/front/image_raw', 'compressed')


def test_a_camera_that_comes_later_is_waited_for(robot: Node) -> None:
    begin = time.monotonic()
    timer = threading.Timer(1.0, robot.create_publisher, (Image, '/front/image_raw', 1))
    timer.start()
    found = search(OWN, wait_s=60.0)
    timer.join()
    assert found.topic == '/front/image_raw'
    assert 1.0 < time.monotonic() - begin < 30.0


def test_without_a_camera_it_ends(ros_domain_id: int) -> None:
    begin = time.monotonic()
    assert search(OWN, wait_s=0.3).topic == ''
    assert time.monotonic() - begin < WAIT_S
