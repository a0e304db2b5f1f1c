"""Masks that come over ROS beside a camera's images."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from typing import Any

from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from rclpy.subscription import Subscription
from sensor_msgs.msg import Image

from semanom_ros.core.frames import Segments
from semanom_ros.errors import ImageError
from semanom_ros.recordings.instance_masks import segments_from_message
from semanom_ros.ros.messages import stamp_of

_BUFFERED = 8  # masks that wait for their image
_QOS = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=_BUFFERED, reliability=ReliabilityPolicy.BEST_EFFORT)


class MasksSubscription:
    """The latest masks of one camera, on `~/input/NAME/segments`. For several threads.

    Attributes:
        topic: its name.
    """

    def __init__(self, node: Node, camera: str, wait_s: float) -> None:
        """
        Args:
            node: subscribes; somebody spins it.
            camera: name.
            wait_s: seconds that an image's masks are waited for.
        """
        self.topic = node.resolve_topic_name(f'~/input/{camera}/segments')
        self._node = node
        self._wait_s = wait_s
        self._subscription: Subscription[Any] | None = None
        self._changed = threading.Condition()
        self._waiting: OrderedDict[int, bytes] = OrderedDict()

    def open(self) -> None:
        """Lets masks in."""
        self._subscription = self._node.create_subscription(Image, self.topic, self._receive, _QOS, raw=True)

    def close(self) -> None:
        """Lets no more masks in; nobody waits for any."""
        with self._changed:
            subscription, self._subscription = self._subscription, None
            self._waiting.clear()
            self._changed.notify_all()
        if subscription is not None:
            self._node.destroy_subscription(subscription)

    def take(self, stamp_ns: int, size: tuple[int, ...], received: float | None = None
             ) -> tuple[Segments | None, str]:
        """The masks of an image, and '' - or None, and why there are none.

        Args:
            stamp_ns, size: of the image; (height, width).
            received: when it came, monotonic seconds, which its masks are waited for from: images of several cameras
                wait at the same time, though they ask one after the other; None: now.
        """
        end = (time.monotonic() if received is None else received) + self._wait_s
        with self._changed:
            while stamp_ns not in self._waiting and self._subscription is not None:
                left = end - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    break
            serialized = self._waiting.pop(stamp_ns, None)
        if serialized is None:
            return None, (f'no masks on {self.topic} with the stamp of the image within {self._wait_s:g} s: it is '
                          'compared patch by patch; remap the topic, or raise segments_wait')
        try:
            return segments_from_message(deserialize_message(serialized, Image), size), ''
        except ImageError as error:
            return None, str(error)

    def _receive(self, serialized: bytes) -> None:
        try:
            stamp = stamp_of(serialized)
        except ImageError:  # cut off: as if it had not come
            return
        with self._changed:
            self._waiting[stamp] = serialized
            while len(self._waiting) > _BUFFERED:
                self._waiting.popitem(last=False)
            self._changed.notify_all()
