"""Listening to one camera for some seconds: what is told of it by its messages and by the graph."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from semanom_ros.errors import CameraError, ImageError
from semanom_ros.recordings.bags import COMPRESSED_IMAGE, IMAGE, camera_info_topic, camera_topics
from semanom_ros.recordings.images import BitDepth
from semanom_ros.ros.messages import camera_model, encoding_of, frame_id_of, picture_of, stamp_of
from semanom_ros.ros.qos import INPUT

if TYPE_CHECKING:
    from rclpy.subscription import MessageInfo

WAIT_S = 5.0
"""So long a publisher may take until it is seen, and so long the first image after that."""

DECODED = 3
"""Images that are decoded; the others are only looked at."""

_CLASSES: dict[str, Any] = {IMAGE: Image, COMPRESSED_IMAGE: CompressedImage}


@dataclass
class Heard:
    """What was heard of a camera.

    Attributes:
        topic: of its images.
        kind: type of its messages; '' where nobody publishes.
        cameras: topics of all cameras that were seen.
        publishers: who sends, and how: `/camera: best effort, volatile, keeps 5`.
        received: system time at which each image came, seconds.
        stamps: of the images, seconds; 0.0 where there is none.
        lost: images that never came, where the middleware counts.
        frame_ids: that the images have.
        sizes: (height, width) of those that were decoded.
        encodings: of those that were decoded, or their formats.
        bytes: of the largest image.
        fault: why an image holds no picture; '' where all did.
        info_topic: where CameraInfo is looked for.
        infos: messages that came there.
        info_fault: why no bearing can be computed from the last of them; ''.
        clock: whether somebody publishes /clock.
    """

    topic: str
    kind: str = ''
    cameras: list[str] = field(default_factory=list)
    publishers: list[str] = field(default_factory=list)
    received: list[float] = field(default_factory=list)
    stamps: list[float] = field(default_factory=list)
    lost: int = 0
    frame_ids: set[str] = field(default_factory=set)
    sizes: set[tuple[int, int]] = field(default_factory=set)
    encodings: set[str] = field(default_factory=set)
    bytes: int = 0
    fault: str = ''
    info_topic: str = ''
    infos: int = 0
    info_fault: str = ''
    clock: bool = False


def listen(topic: str, seconds: float, wait_s: float = WAIT_S, arguments: Sequence[str] = ()) -> Heard:
    """Subscribes to a camera as the detector does, and takes down what comes.

    Args:
        topic: of its images, raw or compressed.
        seconds: how long, from the first image on.
        wait_s: how long to wait for a publisher, and for the first image.
        arguments: for `rclpy.init`.
    """
    context = rclpy.Context()
    rclpy.init(context=context, args=list(arguments))
    try:
        node = rclpy.create_node('semanom_camera_listening', context=context, enable_rosout=False,
                                 start_parameter_services=False)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(node)
        try:
            return _Listener(node, executor, topic).listen(seconds, wait_s)
        finally:
            executor.shutdown()
            node.destroy_node()
    finally:
        rclpy.shutdown(context=context)


class _Listener:
    def __init__(self, node: Node, executor: SingleThreadedExecutor, topic: str) -> None:
        self._node, self._executor = node, executor
        self._heard = Heard(node.resolve_topic_name(topic))
        self._numbers: dict[bytes, int] = {}
        self._depth = BitDepth()

    def listen(self, seconds: float, wait_s: float) -> Heard:
        heard = self._heard
        self._spin(lambda: bool(self._kind()), wait_s)
        heard.kind = self._kind()
        heard.cameras = sorted(camera_topics(self._types()))
        heard.clock = self._node.count_publishers('/clock') > 0
        if heard.kind not in _CLASSES:
            return heard
        heard.info_topic = camera_info_topic(heard.topic)
        self._node.create_subscription(_CLASSES[heard.kind], heard.topic, self._on_image, INPUT, raw=True)
        self._node.create_subscription(CameraInfo, heard.info_topic, self._on_info, INPUT)
        self._spin(lambda: bool(heard.received), wait_s)
        if heard.received:
            self._spin(lambda: False, seconds)
        heard.publishers = self._publishers()  # at the end: names of nodes come some time after their topics
        return heard

    def _publishers(self) -> list[str]:
        return [
            f'{info.node_namespace.rstrip("/")}/{info.node_name}: '
            f'{_words(info.qos_profile.reliability)}, {_words(info.qos_profile.durability)}, '
            + (f'keeps {info.qos_profile.depth}' if info.qos_profile.depth else 'depth not told')
            for info in self._node.get_publishers_info_by_topic(self._heard.topic)]

    def _types(self) -> dict[str, str]:
        return {name: types[0] for name, types in self._node.get_topic_names_and_types()
                if self._node.count_publishers(name)}

    def _kind(self) -> str:
        return self._types().get(self._heard.topic, '')

    def _spin(self, done: Any, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not done() and (rest := end - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=min(rest, 0.1))  # the graph's changes wake nobody

    def _on_image(self, serialized: bytes, info: MessageInfo) -> None:
        heard, compressed = self._heard, self._heard.kind == COMPRESSED_IMAGE
        number, publisher = info.get('publication_sequence_number'), info.get('publisher_gid')
        if number is not None and publisher is not None:
            last = self._numbers.get(publisher['data'])
            self._numbers[publisher['data']] = number
            heard.lost += 0 if last is None else max(0, number - last - 1)
        heard.received.append(time.time())
        heard.bytes = max(heard.bytes, len(serialized))
        try:
            heard.stamps.append(stamp_of(serialized) / 1e9)
            heard.frame_ids.add(frame_id_of(serialized))
            if len(heard.received) <= DECODED:
                heard.encodings.add(encoding_of(serialized, compressed))
                picture, _, _ = picture_of(serialized, compressed, self._depth)
                heard.sizes.add((picture.shape[0], picture.shape[1]))
        except ImageError as error:
            heard.fault = str(error)

    def _on_info(self, info: CameraInfo) -> None:
        self._heard.infos += 1
        try:
            camera_model(info)
            self._heard.info_fault = ''
        except CameraError as error:
            self._heard.info_fault = str(error)


def _words(policy: Any) -> str:
    return str(policy.name).lower().replace('_', ' ')
