"""Stamps of recorded messages, each one another."""

from __future__ import annotations

from collections import Counter
from typing import Any

from semanom_ros.recordings.images import stamp_ns


class Stamps:
    """Stamps of the messages of some topics, asked for in the order in which they were recorded.

    A header that says nothing, or a time before 1970, gives the bag time. Messages that follow each other with the same
    stamp are different ones, from a driver that stamps too coarsely or not at all: they are told apart by a nanosecond.

    Attributes:
        repeated: messages that were told apart, by topic.
    """

    def __init__(self) -> None:
        self.repeated: Counter[str] = Counter()
        self._last: dict[str, tuple[int, int]] = {}  # stamp, and how many had it before

    def __call__(self, topic: str, header_ns: int, time_ns: int) -> int:
        """The stamp of the next message of a topic, nanoseconds.

        Args:
            topic: of the message.
            header_ns: stamp of its header; 0 where it has none.
            time_ns: bag time.
        """
        stamp = header_ns if header_ns > 0 else max(0, time_ns)
        last, times = self._last.get(topic, (-1, 0))
        times = times + 1 if stamp == last else 0
        self._last[topic] = stamp, times
        if times:
            self.repeated[topic] += 1
        return stamp + times

    def of_message(self, topic: str, message: Any, time_ns: int) -> int:
        """As above, for a deserialized message."""
        return self(topic, stamp_ns(message) if hasattr(message, 'header') else 0, time_ns)
