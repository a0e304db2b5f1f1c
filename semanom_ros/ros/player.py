"""Plays recordings and captures topics, for replays that bring their own player.

`ros2 bag play` is the tool for people; this is the one that a program can wait for, that
says when each message went out, and that needs no rosbag2 to be installed.
"""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Callable, Collection, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

from builtin_interfaces.msg import Time
from rclpy.event_handler import PublisherEventCallbacks
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock

from semanom_ros.errors import BagError
from semanom_ros.recordings.bags import BagReader, BagWriter
from semanom_ros.ros.messages import stamp_of
from semanom_ros.ros.qos import LATCHED, OUTPUT

_CLOCK_PERIOD_S = 0.02
_STATIC, _CLOCK = '/tf_static', '/clock'


def message_class(type: str) -> Any:
    """The Python class of a message type such as `sensor_msgs/msg/Image`.

    Raises:
        ImportError: its package is not installed.
    """
    package, _, name = type.split('/')
    return getattr(importlib.import_module(f'{package}.msg'), name)


@cache
def _stamped(type: str) -> bool:
    """Whether messages of a type begin with a std_msgs/Header."""
    return next(iter(message_class(type).get_fields_and_field_types().items())) == ('header', 'std_msgs/Header')


class Player:
    """Publishes the messages of a recording at its own pace, with /clock.

    Messages go out as they were recorded, byte by byte.

    Attributes:
        published: how many messages went out, by topic.
    """

    def __init__(self, node: Node, bag: Path, remap: Mapping[str, str] | None = None, *,
                 topics: Collection[str] = ()) -> None:
        """Advertises the topics.

        Args:
            node: publishes; somebody else spins it.
            bag: recording.
            remap: other names for some topics.
            topics: what to play; empty: everything whose message package is installed, but for a recorded /clock and
                what a detector said when it was recorded.

        Raises:
            BagError: the recording cannot be read, or a topic is not in it.
        """
        self._node = node
        self._reader = BagReader(bag)
        self._subscribers = threading.Condition()
        self._matched: dict[str, int] = {}
        self._publishers: dict[str, Publisher[Any]] = {}
        remap = remap or {}
        for topic in topics or self._reader.replayed_topics:
            if topic not in self._reader.topics:
                raise BagError(f'{bag}: found no topic {topic}, expected one of '
                               f'{", ".join(sorted(self._reader.topics))}')
            try:
                kind = message_class(self._reader.topics[topic])
            except ImportError:
                node.get_logger().debug(f'{topic} is not played: {self._reader.topics[topic]} is not installed')
                continue
            qos = LATCHED if topic == _STATIC else QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE,
                                                              durability=DurabilityPolicy.VOLATILE)
            events = PublisherEventCallbacks(matched=partial(self._on_matched, topic))
            self._publishers[topic] = node.create_publisher(kind, remap.get(topic, topic), qos, event_callbacks=events)
        self._clock = node.create_publisher(Clock, _CLOCK, OUTPUT)
        self.published = dict.fromkeys(self._publishers, 0)

    def wait_for_subscribers(self, topic: str, timeout_s: float) -> bool:
        """Waits until somebody listens to a topic of the recording; False when nobody does in time."""
        with self._subscribers:
            return self._subscribers.wait_for(lambda: self._matched.get(topic, 0) > 0, timeout_s)

    def play(self, on_message: Callable[[str, bytes], None] | None = None,
             stop: threading.Event | None = None) -> None:
        """Plays to the end.

        Args:
            on_message: called with topic and serialized message just before it goes out.
            stop: ends the replay early when set.

        Raises:
            BagError: the recording breaks off; what could be read has been played.
        """
        stop = stop or threading.Event()
        begin = first = None
        ticked = 0.0
        for topic, _, stamp, cdr in self._reader.raw(list(self._publishers)):
            if begin is None or first is None:
                begin, first = time.monotonic(), stamp
            due = begin + (stamp - first) / 1e9
            while (now := time.monotonic()) < due:
                if now - ticked >= _CLOCK_PERIOD_S:  # keeps timers that run on /clock alive between messages
                    self._tick(first + round((now - begin) * 1e9))
                    ticked = now
                if stop.wait(min(due - now, _CLOCK_PERIOD_S)):
                    return
            if stop.is_set():
                return
            self._tick(stamp)
            if on_message is not None:
                on_message(topic, cdr)
            self._publishers[topic].publish(bytes(cdr))
            self.published[topic] += 1

    def close(self) -> None:
        """Closes the recording and withdraws the topics."""
        self._reader.close()
        for publisher in (*self._publishers.values(), self._clock):
            self._node.destroy_publisher(publisher)

    def _tick(self, stamp_ns: int) -> None:
        seconds, nanoseconds = divmod(stamp_ns, 1_000_000_000)
        self._clock.publish(Clock(clock=Time(sec=seconds, nanosec=nanoseconds)))

    def _on_matched(self, topic: str, info: Any) -> None:
        with self._subscribers:
            self._matched[topic] = info.current_count
            self._subscribers.notify_all()


class Capture:
    """Writes what is published on some topics into a recording, byte by byte.

    Messages with a header are filed under its stamp; others under the latest stamp seen.
    """

    def __init__(self, node: Node, writer: BagWriter, topics: Mapping[str, str],
                 on_message: Callable[[str, bytes], None] | None = None) -> None:
        """
        Args:
            node: subscribes; somebody else spins it.
            writer: of the recording, used by nothing else meanwhile.
            topics: type of each topic.
            on_message: called with topic and serialized message as it arrives.
        """
        self._node = node
        self._writer = writer
        self._on_message = on_message
        self._latest_ns = 0
        self._lock = threading.Lock()
        self.received = dict.fromkeys(topics, 0)
        qos = QoSProfile(depth=50, reliability=ReliabilityPolicy.RELIABLE)
        self._subscriptions = []
        for topic, type in topics.items():
            self._subscriptions.append(node.create_subscription(
                message_class(type), topic, partial(self._receive, topic, type, _stamped(type)), qos, raw=True))

    def write(self, topic: str, type: str, cdr: bytes) -> None:
        """Adds a message that does not come from a topic."""
        with self._lock:
            self._file(topic, type, cdr, _stamped(type))

    def close(self) -> None:
        """Stops listening."""
        with self._lock:
            for subscription in self._subscriptions:
                self._node.destroy_subscription(subscription)
            self._subscriptions = []

    def _receive(self, topic: str, type: str, stamped: bool, cdr: bytes) -> None:
        with self._lock:
            if not self._subscriptions:  # closed
                return
            if self._on_message is not None:
                self._on_message(topic, cdr)
            self._file(topic, type, cdr, stamped)
            self.received[topic] += 1

    def _file(self, topic: str, type: str, cdr: bytes, stamped: bool) -> None:
        stamp = stamp_of(cdr) if stamped else self._latest_ns
        self._latest_ns = max(self._latest_ns, stamp)
        self._writer.write_cdr(topic, type, cdr, stamp)
