"""Messages of one topic in step with the stamps of another."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Any

from semanom_ros.errors import BagError
from semanom_ros.recordings.bags import BagReader
from semanom_ros.recordings.stamps import Stamps

_WAITING = 32  # messages read ahead


class InStep:
    """Finds, for the stamp of each frame, the message of another topic that has the same.

    Use it as a context manager. Messages may lie before or after their frames, and frames
    may have none; memory stays bounded.

    Attributes:
        topic: of the messages.
        matched: messages that a frame asked for.
    """

    def __init__(self, reader: BagReader, topic: str) -> None:
        """
        Args:
            reader: of the recording, used by nothing else; closed with this object.
            topic: of the messages; a recording without it has none.
        """
        self.topic = topic
        self.matched = 0
        self._reader = reader
        self._messages = self._read() if topic in reader.topics else iter(())
        self._waiting: dict[int, Any] = {}

    def __enter__(self) -> InStep:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._reader.close()

    def at(self, stamp: int) -> Any | None:
        """The message of this stamp (nanoseconds), None where there is none; the next call's stamp usually is later."""
        while stamp not in self._waiting:
            if len(self._waiting) == _WAITING:
                oldest = next(iter(self._waiting))
                if oldest > stamp:
                    break
                del self._waiting[oldest]
            try:
                found, message = next(self._messages)
            except StopIteration:
                break
            self._waiting[found] = message
        if stamp not in self._waiting:
            return None
        while (found := next(iter(self._waiting))) != stamp:  # frames come in order, so nobody will ask for these
            del self._waiting[found]
        self.matched += 1
        return self._waiting.pop(stamp)

    def _read(self) -> Iterator[tuple[int, Any]]:
        messages, stamps = self._reader.messages([self.topic]), Stamps()
        while True:
            try:
                _, time_ns, message = next(messages)
            except (StopIteration, BagError):  # a recording that breaks off: whoever reads its frames says so
                return
            yield stamps.of_message(self.topic, message, time_ns), message
