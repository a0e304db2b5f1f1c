"""MCAP files, whose records the `mcap` library parses.

Its readers, and that of `rosbags`, would refuse files of other profiles, with foreign channels beside the camera or
without an end, and unpack whatever they are given.
"""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from io import BytesIO

from mcap.data_stream import ReadDataStream
from mcap.opcode import Opcode
from mcap.records import Channel, Chunk, ChunkIndex, Schema, Statistics

from semanom_ros.recordings.chunked_file import ChunkedFile, Stretch
from semanom_ros.recordings.compression import unpack_chunk
from semanom_ros.recordings.storage_file import READABLE, Damage, Row, Topic, breaks_off, line, type_name

MAGIC = b'\x89MCAP0\r\n'
_KNOWN = frozenset(Opcode)
_RUN = 1 << 20  # bytes of records outside of chunks that are read at once


class McapFile(ChunkedFile):
    """An MCAP file of any profile."""

    def learn(self) -> None:
        self._schemas: dict[int, Schema] = {}
        self._channels: dict[int, Channel] = {}
        counts = self._by_index()
        if counts is None:
            counts = self._by_records()
        for number, channel in self._channels.items():
            schema, encoding, text = self._schemas.get(channel.schema_id), channel.message_encoding, ''
            idl = schema is not None and schema.encoding in ('ros2idl', 'omgidl')
            if schema is not None and (idl or schema.encoding in ('ros2msg', 'ros1msg')):
                text = schema.data.decode(errors='replace')
            name = '' if schema is None else schema.name
            self._streams[number] = Topic(channel.topic, type_name(name) if encoding in READABLE else name,
                                          counts.get(number, 0), text, idl, encoding)

    def _by_index(self) -> dict[int, int] | None:
        """Numbers of messages as the summary at the end says; None where that does not say all, or is damaged."""
        footer = self._size - 37
        try:
            tail = self.read(footer, 37)
            opcode, length, begin, _, crc = struct.unpack('<BQQQI', tail[:29])
            if tail[29:] != MAGIC or opcode != Opcode.FOOTER or length != 20 or not 8 < begin < footer:
                return None
            summary = self.read(begin, footer - begin)
            if crc and zlib.crc32(tail[:25], zlib.crc32(summary)) != crc:
                return None
            statistics: Statistics | None = None
            for opcode, offset, length in _records(summary):
                stream = ReadDataStream(BytesIO(summary[offset:offset + length]))
                if opcode == Opcode.CHUNK_INDEX:
                    chunk = ChunkIndex.read(stream)
                    if chunk.chunk_start_offset + chunk.chunk_length > begin:
                        raise Damage('it names what is not there')
                    self._stretches.append(Stretch(chunk.message_start_time, chunk.chunk_start_offset + 9,
                                                    chunk.chunk_length - 9, True, chunk.message_end_time))
                elif opcode == Opcode.STATISTICS:
                    statistics = Statistics.read(stream)
                else:
                    self._note(opcode, stream)
            if statistics is None or statistics.chunk_count != len(self._stretches) or (
                    statistics.message_count and not self._stretches):
                raise Damage('it leaves something out')
            counts = statistics.channel_message_counts
            schemas = {channel.schema_id for channel in self._channels.values()}
            if counts.keys() - self._channels.keys() or schemas - {0, *self._schemas}:
                raise Damage('it leaves something out')
            return dict(counts)
        except Exception:  # whatever the parser meets in damaged bytes; the records themselves may be sound
            for learned in (self._schemas, self._channels, self._stretches):
                learned.clear()  # type: ignore[attr-defined]
            return None

    def _by_records(self) -> dict[int, int]:
        """Numbers of messages, counted."""
        count, lost, position = Counter[int](), [], len(MAGIC)
        run: Stretch | None = None
        try:
            while True:
                opcode, length = struct.unpack('<BQ', self.read(position, 9))
                if not opcode:
                    raise Damage('no record where one should be')
                if opcode in (Opcode.DATA_END, Opcode.FOOTER):
                    reason = ''
                    break
                content = position + 9
                if length > self._size - content:
                    raise Damage('it ends inside of a record')
                if opcode == Opcode.CHUNK:
                    start, end = struct.unpack('<QQ', self.read(content, 16))
                    self._stretches.append(Stretch(start, content, length, True, end))
                    try:
                        self._count(self._chunk(self.read(content, length)), count)
                    except Exception as error:
                        lost.append(f'at byte {content}: {line(error)}')
                elif opcode == Opcode.MESSAGE:
                    channel, _, time_ns = struct.unpack('<HIQ', self.read(content, 14))
                    count[channel] += 1
                    if run is None or run.offset + run.length != position or run.length > _RUN:
                        run = Stretch(time_ns, position, 0, False, time_ns)
                        self._stretches.append(run)
                    run = self._stretches[-1] = Stretch(min(run.start, time_ns), run.offset, content + length -
                                                         run.offset, False, max(run.end, time_ns))
                elif opcode in (Opcode.SCHEMA, Opcode.CHANNEL):
                    self._note(opcode, ReadDataStream(BytesIO(self.read(content, length))))
                position = content + length
        except Exception as error:
            reason = 'its end is missing' if position == self._size else line(error)
        if reason:
            self.damage = breaks_off(self.name, count.total(), reason)
        elif lost:
            self.damage = self.lost_chunks(lost)
        if self.damage:
            self.damage += '; `mcap recover` mends it'
        return count

    def _count(self, data: bytes, count: Counter[int]) -> None:
        for opcode, offset, length in _records(data):
            if opcode == Opcode.MESSAGE:
                count[struct.unpack_from('<HIQ', data, offset)[0]] += 1
            elif opcode in (Opcode.SCHEMA, Opcode.CHANNEL):
                self._note(opcode, ReadDataStream(BytesIO(data[offset:offset + length])))

    def _note(self, opcode: int, stream: ReadDataStream) -> None:
        if opcode == Opcode.SCHEMA:
            schema = Schema.read(stream)
            self._schemas.setdefault(schema.id, schema)
        elif opcode == Opcode.CHANNEL:
            channel = Channel.read(stream)
            self._channels.setdefault(channel.id, channel)

    def rows(self, stretch: Stretch, wanted: dict[int, tuple[str, str]]) -> Iterator[Row]:
        data = self.read(stretch.offset, stretch.length)
        if stretch.packed:
            data = self._chunk(data)
        for opcode, position, size in _records(data):
            if opcode == Opcode.MESSAGE:
                channel, _, time_ns, _ = struct.unpack_from('<HIQQ', data, position)
                if channel in wanted:
                    yield *wanted[channel], time_ns, data[position + 22:position + size]

    @staticmethod
    def _chunk(record: bytes) -> bytes:
        chunk = Chunk.read(ReadDataStream(BytesIO(record)))
        data = unpack_chunk(chunk.compression, chunk.data, chunk.uncompressed_size)
        if chunk.uncompressed_crc and zlib.crc32(data) != chunk.uncompressed_crc:
            raise Damage('a chunk with a wrong checksum')
        return data


def _records(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(opcode, offset of its content, length) of each MCAP record."""
    position = 0
    while position < len(data):
        opcode, length = struct.unpack_from('<BQ', data, position)
        position += 9
        if opcode not in _KNOWN:  # zeros, for one, would be walked through nine bytes at a time
            raise Damage('no record where one should be')
        if length > len(data) - position:
            raise Damage('a record that is longer than what holds it')
        yield opcode, position, length
        position += length
