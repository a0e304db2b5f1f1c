"""What comes in from one camera: images, and the masks beside them. Both nodes take their frames from here."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image

from semanom_ros.core.embedding.registry import needs_masks
from semanom_ros.core.frames import Frame
from semanom_ros.errors import ParameterError
from semanom_ros.recordings.images import BitDepth
from semanom_ros.ros.masks_subscription import MasksSubscription
from semanom_ros.ros.messages import frame_id_of, picture_of, stamp_of
from semanom_ros.settings import CameraSettings, MethodSettings

if TYPE_CHECKING:
    from rclpy.subscription import MessageInfo


MOST_CAMERAS = 64
LONGEST_NAME = 64


def names_of(cameras: CameraSettings) -> list[str]:
    """The names of the cameras.

    Raises:
        ParameterError: one cannot be part of a topic, or comes twice, or there are too many.
    """
    names = list(cameras.camera_names)
    for name in names:
        if not re.fullmatch('[A-Za-z][A-Za-z0-9_]*', name) or '__' in name or len(name) > LONGEST_NAME:
            raise ParameterError(f'parameter camera_names: found {name[:100]!r}, expected letters, digits and single '
                                 f'underscores, a letter first, {LONGEST_NAME} at most; correct it')
    if len(set(names)) < len(names):
        raise ParameterError(f'parameter camera_names: found {names!r}, expected every name once; correct it')
    if len(names) > MOST_CAMERAS:
        raise ParameterError(f'parameter camera_names: found {len(names)} names, expected at most {MOST_CAMERAS}; '
                             'start another node for the others')
    return names


class Received(NamedTuple):
    """A frame as it came.

    Attributes:
        serialized: the message.
        when: it came, monotonic seconds.
        lost: frames between this and the last of the same publisher that never came, where the middleware counts.
    """

    serialized: bytes
    when: float
    lost: int

    @property
    def stamp_ns(self) -> int:
        """Of the header.

        Raises:
            ImageError: the message is too short to have one.
        """
        return stamp_of(self.serialized)

    @property
    def frame_id(self) -> str:
        """Of the header; '' where the message is cut off."""
        return frame_id_of(self.serialized)


class Decoded(NamedTuple):
    """A frame that can be judged.

    Attributes:
        frame: with the masks that belong to it.
        frame_id: of its header.
        without_masks: why it has none, though the segmenter needs them; '' where nothing is missing.
    """

    frame: Frame
    frame_id: str
    without_masks: str


class CameraInput:
    """The images of one camera on `~/input/NAME/image` (or `.../compressed`), and its masks where they are needed.

    Attributes:
        name: of the camera.
        topic: of its images.
    """

    def __init__(self, node: Node, name: str, cameras: CameraSettings, method: MethodSettings, qos: QoSProfile) -> None:
        """
        Args:
            node: subscribes; somebody spins it.
            name: of the camera.
            cameras: what it sends, and how long masks are waited for.
            method: how many bits 16-bit images use, and whether masks are needed.
            qos: of the images.
        """
        self.name = name
        self._node, self._qos = node, qos
        self._compressed = cameras.image_transport == 'compressed'
        self.topic = node.resolve_topic_name(f'~/input/{name}/image{"/compressed" if self._compressed else ""}')
        self._masks = MasksSubscription(node, name, cameras.segments_wait) if needs_masks(method.queries) else None
        self._depth = BitDepth(method.encoder.bit_depth, self.topic)
        self._images: Subscription[Any] | None = None
        self._sequences: dict[bytes, int] = {}

    def open(self, receive: Callable[[Received], None]) -> None:
        """Lets images in; `receive` is called for each in the executor's thread, and must not take long."""
        self._sequences.clear()

        def on_image(serialized: bytes, info: MessageInfo) -> None:
            receive(Received(serialized, time.monotonic(), self._lost(info)))

        if self._masks is not None:
            self._masks.open()
        kind: Any = CompressedImage if self._compressed else Image
        self._images = self._node.create_subscription(kind, self.topic, on_image, self._qos, raw=True)

    def close(self) -> None:
        """Lets no more images in; nobody waits for masks."""
        if self._images is not None:
            self._node.destroy_subscription(self._images)
            self._images = None
        if self._masks is not None:
            self._masks.close()

    def decode(self, received: Received) -> Decoded:
        """The frame in a message; waits for its masks where they are needed.

        Raises:
            ImageError: it holds no picture.
        """
        image, stamp, frame_id = picture_of(received.serialized, self._compressed, self._depth)
        segments, fault = None, ''
        if self._masks is not None:
            segments, fault = self._masks.take(stamp, image.shape[:2], received.when)
        frame = Frame(image, stamp, self.name, f'live:{self.topic}', self.topic, segments,
                      received_ns=round(received.when * 1e9))
        return Decoded(frame, frame_id, fault)

    def _lost(self, info: MessageInfo) -> int:
        number, publisher = info.get('publication_sequence_number'), info.get('publisher_gid')
        if number is None or publisher is None:
            return 0
        last = self._sequences.get(publisher['data'])
        self._sequences[publisher['data']] = number
        return 0 if last is None else max(0, number - last - 1)
