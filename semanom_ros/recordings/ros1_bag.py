"""ROS 1 bags, closed or not, whose headers `rosbags` parses; its reader wants an index."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from io import BytesIO

from rosbags.rosbag1.reader import Header, normalize

from semanom_ros.errors import BagError
from semanom_ros.recordings.chunked_file import ChunkedFile, Stretch
from semanom_ros.recordings.compression import unpack_chunk
from semanom_ros.recordings.storage_file import Damage, Row, Topic, breaks_off, line, type_name

MAGIC = b'#ROSBAG V'
_LARGEST_HEADER = 1 << 20  # of a record: a few fields


class Ros1Bag(ChunkedFile):
    """A ROS 1 bag, closed or not."""

    _HEADER, _CHUNK, _CONNECTION, _MESSAGE, _INDEX = 3, 5, 7, 2, 4

    def learn(self) -> None:
        version = self._file.readline(64).decode(errors='replace').strip()
        if version != '#ROSBAG V2.0':
            raise BagError(f'{self._file.name}: found a ROS 1 bag of version {version.removeprefix("#ROSBAG V")!r}, '
                           'expected 2.0; `rosbag fix` of ROS 1 converts it')
        self._packing: dict[int, tuple[str, int]] = {}
        count, reason, position = Counter[int](), '', self._file.tell()
        indexed: dict[int, tuple[int, int]] = {}  # bag time of the first and last message, where an index tells
        places: list[tuple[int, int]] = []
        closed = False
        try:
            while position < self._size:
                header, offset, length = self._record(position)
                operation = header.get_uint8('op')
                if operation == self._HEADER:
                    if header.get('encryptor'):
                        raise BagError(f'{self._file.name}: found a bag that is encrypted by '
                                       f'{header.get_string("encryptor")}, expected a plain one; decrypt it')
                    closed = header.get_uint64('index_pos') > 0
                elif operation == self._CHUNK:
                    places.append((offset, length))
                    self._packing[offset] = header.get_string('compression'), header.get_uint32('size')
                elif operation == self._INDEX and places:
                    times = struct.unpack(f'<{length // 4}I', self.read(offset, length // 12 * 12))
                    for seconds, nanoseconds in zip(times[::3], times[1::3], strict=True):
                        time_ns = seconds * 1_000_000_000 + nanoseconds
                        count[header.get_uint32('conn')] += 1
                        start, end = indexed.get(places[-1][0], (time_ns, time_ns))
                        indexed[places[-1][0]] = min(time_ns, start), max(time_ns, end)
                elif operation == self._CONNECTION:
                    self._note(header, self.read(offset - 4, length + 4))
                position = offset + length
            if not closed:
                reason = 'it was not closed: the recorder was cut off, or records still'
        except BagError:
            raise
        except Exception as error:
            reason = line(error)
        lost = self._look_into(places, indexed, count)
        for number, stream in self._streams.items():
            self._streams[number] = stream._replace(messages=count[number])
        if reason:
            self.damage = breaks_off(self.name, count.total(), reason) + '; `rosbag reindex` of ROS 1 mends it'
        elif lost:
            self.damage = self.lost_chunks(lost)

    def _look_into(self, places: list[tuple[int, int]], indexed: dict[int, tuple[int, int]], count: Counter[int]
                   ) -> list[str]:
        """Makes stretches of chunks; learns from their content what no index tells. Returns what cannot be read."""
        if count.keys() - self._streams.keys():  # without the index's connections its counts are of no use
            indexed.clear()
            count.clear()
        lost = []
        for offset, length in places:
            span = indexed.get(offset)
            if span is None:
                times: list[int] = []
                try:
                    for header, data in self._unpacked(offset, length):
                        operation = header.get_uint8('op')
                        if operation == self._CONNECTION:
                            self._note(header, data)
                        elif operation == self._MESSAGE:
                            count[header.get_uint32('conn')] += 1
                            times.append(header.get_time('time'))
                except Exception as error:
                    lost.append(f'at byte {offset}: {line(error)}')
                span = min(times, default=0), max(times, default=0)
            self._stretches.append(Stretch(span[0], offset, length, True, span[1]))
        return lost

    def _record(self, position: int) -> tuple[Header, int, int]:
        """Header of a record, and offset and length of its data."""
        length = struct.unpack('<I', self.read(position, 4))[0]
        if length > _LARGEST_HEADER:
            raise Damage(f'a header of {length} bytes')
        header = Header.read(BytesIO(self.read(position, 4 + length)))
        offset = position + 8 + length
        size = struct.unpack('<I', self.read(offset - 4, 4))[0]
        if size > self._size - offset:
            raise Damage('it ends inside of a record')
        return header, offset, size

    def _note(self, header: Header, data: bytes) -> None:
        """A connection: its data, with their length before them, are fields like those of a header."""
        fields = Header.read(BytesIO(data))
        self._streams.setdefault(header.get_uint32('conn'), Topic(
            normalize(header.get_string('topic')), type_name(fields.get_string('type')), 0,
            fields.get_string('message_definition'), False, 'ros1'))

    def _unpacked(self, offset: int, length: int) -> Iterator[tuple[Header, bytes]]:
        """Headers and data, with the length before them, of the records in a chunk."""
        stream = BytesIO(unpack_chunk(self._packing[offset][0], self.read(offset, length), self._packing[offset][1]))
        while len(stream.getbuffer()) > stream.tell():
            header, begin = Header.read(stream), stream.tell()
            size = struct.unpack('<I', stream.read(4))[0]
            if size > len(stream.getbuffer()) - stream.tell():
                raise Damage('a record that is longer than its chunk')
            stream.seek(begin)
            yield header, stream.read(4 + size)

    def rows(self, stretch: Stretch, wanted: dict[int, tuple[str, str]]) -> Iterator[Row]:
        for header, data in self._unpacked(stretch.offset, stretch.length):
            if header.get_uint8('op') == self._MESSAGE and header.get_uint32('conn') in wanted:
                yield *wanted[header.get_uint32('conn')], header.get_time('time'), data[4:]
