"""Which camera is meant where nobody named one: the only one that sends images."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import rclpy
from rclpy.node import Node

from semanom_ros.recordings.bags import COMPRESSED_IMAGE, IMAGE, camera_topics

WAIT_S = 5.0
"""So long a camera may take until it is seen."""

SETTLE_S = 0.7
"""So long nothing new was seen, and it is taken that there is nothing else: discovery tells of a robot in bursts."""

_PERIOD_S = 0.05
_COMPRESSED = '/compressed'


@dataclass(frozen=True)
class Found:
    """What was found of cameras.

    Attributes:
        topic: of the only camera's images; '' where there is none, or more than one, or the node's own has a publisher.
        transport: `raw` or `compressed`, as that camera sends.
        line: what is to be said about it, for people.
    """

    topic: str
    transport: str
    line: str


def search(own: str, transport: str = '', wait_s: float = WAIT_S) -> Found:
    """Looks for the only camera in the graph.

    Args:
        own: image topic of the node's own, `/NODE/input/NAME/image`; if somebody publishes there, that is the camera.
        transport: `raw` or `compressed`, where only that is wanted; '': raw where there is both.
        wait_s: how long to look at most, seconds, where no camera is seen.
    """
    context = rclpy.Context()
    rclpy.init(context=context)
    try:
        node = rclpy.create_node('semanom_camera_search', context=context, enable_rosout=False,
                                 start_parameter_services=False)
        try:
            return choose(_published(node, wait_s), own, transport)
        finally:
            node.destroy_node()
    finally:
        rclpy.shutdown(context=context)


def choose(topics: Mapping[str, str], own: str, transport: str = '') -> Found:
    """The only camera among topics.

    Args:
        topics: type of every topic that somebody publishes, by name.
        own, transport: as in `search`.
    """
    kinds = {'raw': (IMAGE,), 'compressed': (COMPRESSED_IMAGE,)}.get(transport, (IMAGE, COMPRESSED_IMAGE))
    seen = {name: kind for name, kind in camera_topics(topics).items() if kind in kinds}
    cameras = {name.removesuffix(_COMPRESSED) if kind == COMPRESSED_IMAGE else name for name, kind in seen.items()}
    wanted = transport or 'raw'
    if own in cameras:
        return Found('', wanted, f'image topic: {own}')
    if not cameras:
        return Found('', wanted, f'image topic: found none, waiting for {own}; start the camera first, or name its '
                                 'topic: image_topic:=/TOPIC')
    if len(cameras) > 1:
        return Found('', wanted, f'image topic: found {", ".join(sorted(cameras))}, expected one, waiting for {own}; '
                                 'name it: image_topic:=/TOPIC, or several: cameras:=front:=/TOPIC,rear:=/TOPIC')
    (topic,) = cameras
    return Found(topic, 'raw' if seen.get(topic) == IMAGE else 'compressed', f'image topic: {topic}, the only camera')


def _published(node: Node, wait_s: float) -> dict[str, str]:
    """Type of every topic that has a publisher, once there is a camera and nothing new is seen, or time is up."""
    end = time.monotonic() + wait_s
    found: dict[str, str] = {}
    since = time.monotonic()
    while time.monotonic() < end:
        now = {name: types[0] for name, types in node.get_topic_names_and_types() if node.count_publishers(name)}
        if now != found:
            found, since = now, time.monotonic()
        elif camera_topics(found) and time.monotonic() - since > SETTLE_S:
            break
        time.sleep(_PERIOD_S)  # the graph has no event that Python could wait for without an executor
    return found
