"""What MCAP and ROS 1 bags have in common: messages in chunks, each of some stretch of time."""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from semanom_ros.recordings.compression import LARGEST
from semanom_ros.recordings.storage_file import ALL, READABLE, Damage, Row, Span, Topic, line

_MOST_AHEAD = 1 << 30  # bytes of messages that wait for earlier ones in chunks still to come


class Stretch(NamedTuple):
    """A part of a file that holds messages: a chunk, or records outside of chunks."""

    start: int  # bag time of its first message
    offset: int
    length: int
    packed: bool
    end: int  # bag time of its last message, or later


class ChunkedFile(ABC):
    """What MCAP and ROS 1 bags have in common: messages in chunks, each of some stretch of time.

    Messages come in the order of bag time. What is in the file is learned from its index where that is sound, and by a
    look at every record otherwise. A damaged chunk costs its own messages.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self.damage = ''
        self.topics: list[Topic] = []
        self._file: BinaryIO = open(path, 'rb')  # noqa: SIM115 - open until close()
        self._size = path.stat().st_size
        self._stretches: list[Stretch] = []
        self._streams: dict[int, Topic] = {}
        try:
            self.learn()
        except BaseException:
            self.close()
            raise
        self.topics = list(self._streams.values())

    def close(self) -> None:
        self._file.close()

    def messages(self, topics: Collection[str], span: Span = ALL) -> Iterator[Row]:
        wanted = {number: (topic.name, topic.type) for number, topic in self._streams.items()
                  if topic.name in topics and topic.encoding in READABLE}
        lost: list[str] = []
        number = ahead = 0
        waiting: list[tuple[int, int, Row]] = []
        for stretch in sorted(self._stretches) if wanted else ():
            if stretch.end < span.first_ns or stretch.start > span.last_ns:
                continue
            while waiting and waiting[0][0] < stretch.start:
                row = heapq.heappop(waiting)[2]
                ahead -= len(row[3])
                yield row
            try:
                for row in self.rows(stretch, wanted):
                    if not span.first_ns <= row[2] <= span.last_ns:
                        continue
                    heapq.heappush(waiting, (row[2], number, row))  # of equal times the first one first
                    number += 1
                    ahead += len(row[3])
            except Exception as error:  # whatever a parser meets in damaged bytes
                lost.append(f'at byte {stretch.offset}: {line(error)}')
            if ahead > _MOST_AHEAD:
                raise Damage(f'{self.name} has chunks that overlap in time by more than {_MOST_AHEAD >> 30} GiB; sort '
                             'it with `mcap sort`')
        while waiting:
            yield heapq.heappop(waiting)[2]
        if self.damage or lost:
            raise Damage(self.damage or self.lost_chunks(lost))

    @abstractmethod
    def learn(self) -> None:
        """Fills `damage`, `_stretches` and `_streams`."""

    @abstractmethod
    def rows(self, stretch: Stretch, wanted: dict[int, tuple[str, str]]) -> Iterator[Row]:
        """The messages of a stretch; `wanted`: topic and type of streams."""

    def read(self, offset: int, length: int) -> bytes:
        if length > self._size - offset:
            raise Damage('it ends inside of a record')
        if length > LARGEST:
            raise Damage(f'a record of {length} bytes, expected at most {LARGEST}')
        self._file.seek(offset)
        return self._file.read(length)

    def lost_chunks(self, lost: list[str]) -> str:
        return f'{self.name}: {len(lost)} of {len(self._stretches)} chunks cannot be read (the first one {lost[0]})'
