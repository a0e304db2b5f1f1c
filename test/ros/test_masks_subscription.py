"""Masks that wait for their image."""

from __future__ import annotations

import threading
import time
from array import array
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import Image

from semanom_ros.ros.masks_subscription import MasksSubscription
from semanom_ros.ros.messages import header

SIZE = 4, 6
NUMBERS = np.array([[0, 0, 7, 7, 7, 7], [0, 0, 7, 7, 7, 7], [300, 300, 0, 0, 0, 9], [300, 300, 0, 0, 0, 0]])


class Camera:
    """A subscription to masks, and a node that sends some."""

    def __init__(self, wait_s: float) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node('detector', context=self.context)
        self.masks = MasksSubscription(self.node, 'front', wait_s)
        self.masks.open()
        self.publisher = self.node.create_publisher(Image, '/detector/input/front/segments', 10)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.thread = threading.Thread(target=self.executor.spin)
        self.thread.start()

    def send(self, stamp_ns: int, numbers: np.ndarray = NUMBERS) -> None:
        data = array('B', numbers.astype('<u2').tobytes())
        self.publisher.publish(Image(header=header(stamp_ns, 'camera'), height=SIZE[0], width=SIZE[1],
                                     encoding='mono16', step=2 * SIZE[1], data=data))

    def close(self) -> None:
        self.masks.close()
        self.executor.shutdown()
        self.thread.join(30)
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)


@pytest.fixture
def camera(ros_domain_id: int, request: pytest.FixtureRequest) -> Iterator[Camera]:
    made = Camera(getattr(request, 'param', 30.0))
    yield made
    made.close()


def test_an_image_gets_the_masks_of_its_stamp(camera: Camera) -> None:
    for stamp in (100, 200, 300):
        camera.send(stamp, np.where(NUMBERS == 7, stamp, 0))
    segments, fault = camera.masks.take(300, SIZE)
    assert (fault, len(segments.scores)) == ('', 1)
    segments, fault = camera.masks.take(200, SIZE)  # out of turn
    assert fault == ''
    camera.send(400)
    assert 'expected those of the image' in camera.masks.take(400, (8, 8))[1]


@pytest.mark.parametrize('camera', [0.05], indirect=True)
def test_an_image_without_masks_waits_no_longer_than_asked(camera: Camera) -> None:
    segments, fault = camera.masks.take(100, SIZE)
    assert segments is None
    assert '/detector/input/front/segments' in fault
    assert '\n' not in fault


def test_who_waits_is_released_when_the_camera_is_closed(camera: Camera) -> None:
    answers: list[Any] = []
    waiting = threading.Thread(target=lambda: answers.append(camera.masks.take(100, SIZE)))
    waiting.start()
    camera.masks.close()
    waiting.join(25)
    assert answers[0][0] is None


@pytest.mark.parametrize('camera', [1e4], indirect=True)
def test_masks_are_waited_for_from_when_the_image_came(camera: Camera) -> None:
    """Or those of several cameras would be waited for one after the other."""
    came = time.monotonic() - 1e4
    assert camera.masks.take(100, SIZE, came)[0] is None
    camera.send(100)
    assert camera.masks.take(100, SIZE)[0] is not None
    camera.send(200)
    assert camera.masks.take(200, SIZE, time.monotonic())[0] is not None
