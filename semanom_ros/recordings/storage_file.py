"""What there is to know of a file of a recording, whatever its format."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple, Protocol

from rosbags.typesys.msg import normalize_msgtype


class Topic(NamedTuple):
    """One topic of one file.

    Attributes:
        name: of the topic.
        type: as `sensor_msgs/msg/Image`, whatever the file calls it.
        messages: how many there are.
        definition: of the type, '' where the file holds none.
        idl: the definition is in IDL and not in .msg format.
        encoding: of the messages: `cdr`, `ros1`, or something foreign (`json`, `protobuf`), which is not read.
    """

    name: str
    type: str
    messages: int
    definition: str
    idl: bool
    encoding: str


READABLE = ('cdr', 'ros1')
class Span(NamedTuple):
    """A stretch of bag time, nanoseconds, both ends included."""

    first_ns: int
    last_ns: int


ALL = Span(-(1 << 63), (1 << 63) - 1)

Row = tuple[str, str, int, bytes]
"""Topic, type, bag time in nanoseconds, serialized message."""


class StorageFile(Protocol):
    """A file of a recording, of which `messages` yields what can be read of a span and then raises.

    `damage` says in a line what is known to be missing, '' if nothing is.
    """

    name: str
    topics: list[Topic]
    damage: str

    def messages(self, topics: Collection[str], span: Span = ALL) -> Iterator[Row]: ...

    def close(self) -> None: ...


class Damage(Exception):
    """What cannot be read of a file."""


def line(error: BaseException) -> str:
    """What an exception says, in one line."""
    text = ' '.join(str(error).split())[:200]
    return text or type(error).__name__


def type_name(name: str) -> str:
    """A type as ROS 2 calls it: `sensor_msgs/msg/Image` also for `sensor_msgs/Image`."""
    return normalize_msgtype(name) if '/' in name else name


def breaks_off(name: str, messages: int, reason: str) -> str:
    """The line about a file that cannot be read to its end."""
    return f'{name} breaks off after {messages} messages ({reason})'
