"""Listening to a camera over DDS."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import String

from semanom_ros.recordings.bags import COMPRESSED_IMAGE, IMAGE
from semanom_ros.ros.camera_listening import listen
from semanom_ros.ros.messages import image_to_compressed, image_to_message
from semanom_ros.ros.running_parameters import running_parameters

PICTURE = np.full((48, 64, 3), 90, np.uint8)
PERIOD_S = 0.02


@pytest.fixture
def robot(ros_domain_id: int) -> Iterator[Node]:
    """A node that spins in a thread of its own."""
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node('robot', context=context)
    node.declare_parameter('encoder', 'semanom-tiny')
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    thread = threading.Thread(target=executor.spin)
    thread.start()
    yield node
    executor.shutdown()
    thread.join()
    node.destroy_node()
    rclpy.shutdown(context=context)


def sends(node: Node, kind: Any, topic: str, make: Callable[[], Any], depth: int = 5) -> None:
    publisher = node.create_publisher(kind, topic, depth)
    node.create_timer(PERIOD_S, lambda: publisher.publish(make()))


def test_a_camera_is_heard(robot: Node) -> None:
    sends(robot, Image, '/front/image_raw', lambda: image_to_message(PICTURE, 'bgr8', time.time_ns(), 'front'))
    info = CameraInfo(height=48, width=64, k=[50.0, 0.0, 32.0, 0.0, 50.0, 24.0, 0.0, 0.0, 1.0])
    sends(robot, CameraInfo, '/front/camera_info', lambda: info)
    heard = listen('/front/image_raw', 0.5)
    assert (heard.kind, heard.cameras, heard.clock) == (IMAGE, ['/front/image_raw'], False)
    (publisher,) = heard.publishers
    assert publisher.startswith('/robot: reliable, volatile, ')
    assert len(heard.received) == len(heard.stamps) > 5
    assert (heard.sizes, heard.encodings, heard.frame_ids) == ({(48, 64)}, {'bgr8'}, {'front'})
    assert heard.bytes > PICTURE.nbytes
    assert max(abs(came - stamp) for came, stamp in zip(heard.received, heard.stamps, strict=True)) < 5
    assert heard.infos > 0
    assert not heard.fault
    assert not heard.info_fault


def test_what_is_wrong_with_one_is_heard(robot: Node) -> None:
    def broken() -> CompressedImage:
        message = image_to_compressed(PICTURE, 7_000_000_000, '')
        message.data = message.data[:40]
        return message

    sends(robot, CompressedImage, '/front/image_raw/compressed', broken)
    sends(robot, CameraInfo, '/front/camera_info', lambda: CameraInfo(height=48, width=64))
    heard = listen('/front/image_raw/compressed', 0.3)
    assert heard.kind == COMPRESSED_IMAGE
    assert set(heard.stamps) == {7.0}
    assert heard.fault
    assert 'uncalibrated' in heard.info_fault
    assert heard.frame_ids == {''}


def test_what_is_no_camera(robot: Node) -> None:
    sends(robot, String, '/status', String)
    sends(robot, Image, '/front/image_raw', lambda: image_to_message(PICTURE, 'bgr8', 1, 'front'))
    assert listen('/status', 1.0).kind == 'std_msgs/msg/String'
    silent = listen('/nowhere', 1.0, wait_s=0.5)
    assert (silent.kind, silent.cameras) == ('', ['/front/image_raw'])


def test_parameters_of_a_running_node_are_read(robot: Node) -> None:
    found = running_parameters(['robot', 'nobody'])
    assert found['/robot']['encoder'] == 'semanom-tiny'
    assert list(found) == ['/robot']
