"""SQLite files of rosbag2, whole or not, read by SQLite itself.

The reader of `rosbags` opens them as immutable, and would not see what a crashed recorder left in the journal.
"""

from __future__ import annotations

import sqlite3
import struct
from array import array
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from semanom_ros.errors import BagError
from semanom_ros.recordings.compression import LARGEST
from semanom_ros.recordings.storage_file import ALL, READABLE, Damage, Row, Span, Topic, breaks_off, line, type_name

MAGIC = b'SQLite format 3\0'
_ROWS_OF_A_PAGE = 8
"""Rows that go beyond their page, of which a page holds the beginnings at most: an eighth of the page of each."""


class SqliteFile:
    """A SQLite file: whole, without its end, or with a journal beside it. A damaged message costs itself."""

    def __init__(self, path: Path) -> None:
        self.name, self._path = path.name, path
        self.damage = ''
        reason = _shortage(path)
        self._connection = self._connect(path)
        try:
            try:
                if reason:
                    raise sqlite3.DatabaseError(reason)
                self._cut = False
                self._learn()
            except sqlite3.DatabaseError as error:
                self._connection.execute('PRAGMA writable_schema = ON')  # of a cut file nothing is read without it
                self._cut = True
                self._learn()
                self.damage = breaks_off(self.name, sum(topic.messages for topic in self.topics), line(error))
        except BaseException:
            self._connection.close()
            raise

    @staticmethod
    def _connect(path: Path) -> sqlite3.Connection:
        # a journal is replayed where the folder may be written to; a file alone is taken as it is
        for options in ('mode=ro', 'mode=ro&immutable=1'):
            connection = sqlite3.connect(f'{path.absolute().as_uri()}?{options}', uri=True, check_same_thread=False)
            connection.text_factory = lambda text: text.decode(errors='replace')
            try:
                connection.execute('PRAGMA schema_version').fetchone()
                break
            except sqlite3.OperationalError:  # DatabaseError: it is damaged, and read as far as it goes
                if 'immutable' in options:
                    break
                connection.close()
            except sqlite3.DatabaseError:
                break
        return connection

    def _learn(self) -> None:
        tables = {name for name, in self._connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not {'topics', 'messages'} <= tables:
            raise BagError(f'{self._path}: found a SQLite file without the tables topics and messages, expected a '
                           'recording of rosbag2; give one')
        topics = self._connection.execute('SELECT id, name, type, serialization_format FROM topics').fetchall()
        definitions: dict[str, tuple[str, str]] = {}
        with suppress(sqlite3.DatabaseError):  # files of before ROS 2 Iron have no such table
            definitions = {type_name(type): (encoding, text) for type, encoding, text in self._connection.execute(
                'SELECT topic_type, encoding, encoded_message_definition FROM message_definitions')
                if isinstance(type, str) and isinstance(text, str)}
        self._streams: dict[int, Topic] = {}
        for id, name, type, encoding in topics:
            if isinstance(name, str) and isinstance(type, str):
                kind = type_name(type) if encoding in READABLE else type
                how, text = definitions.get(kind, ('', ''))
                self._streams[id] = Topic(name, kind, 0, text, how == 'ros2idl', str(encoding))
        rows, strange = (array('q'), array('q')), 0
        order = 'id' if self._cut else 'timestamp, id'
        try:
            for id, topic, time_ns in self._connection.execute(
                    f'SELECT id, topic_id, timestamp FROM messages ORDER BY {order}'):
                if topic in self._streams and isinstance(time_ns, int) and isinstance(id, int):
                    for column, value in zip(rows, (id, topic), strict=True):
                        column.append(value)
                elif self._cut:
                    raise sqlite3.DatabaseError('a row names no topic')
                else:
                    strange += 1
        except sqlite3.DatabaseError:
            if not self._cut:
                raise
        self._ids = rows[0][:self._trusted(rows[0])] if self._cut else rows[0]
        count = Counter(rows[1][:len(self._ids)])
        if strange:
            self.damage = f'{self.name}: {strange} rows are no messages of its topics'
        self.topics = [topic._replace(messages=count[id]) for id, topic in self._streams.items()]

    def _trusted(self, ids: Sequence[int]) -> int:
        """How many of the rows of a cut file are what was written.

        SQLite fills the missing part of a row with zeros. Pages were taken in the order of the rows, so whatever is
        missing belongs to the last ones that are listed: at most to those whose beginnings share a page.
        """
        page_size = self._connection.execute('PRAGMA page_size').fetchone()[0]
        doubtful = 0
        for count in range(len(ids), 0, -1):
            data: Any = None
            with suppress(sqlite3.DatabaseError):
                data = self._connection.execute('SELECT data FROM messages WHERE id = ?', (ids[count - 1],)
                                                ).fetchone()[0]
            if isinstance(data, bytes):
                if len(data) < page_size // _ROWS_OF_A_PAGE:  # it lies in one page, which could be read
                    continue
                if data[-1]:
                    return count
            doubtful += 1
            if doubtful > _ROWS_OF_A_PAGE:
                return count - 1
        return 0

    def messages(self, topics: Collection[str], span: Span = ALL) -> Iterator[Row]:
        wanted = {id for id, topic in self._streams.items() if topic.name in topics and topic.encoding in READABLE}
        if not wanted:
            return
        lost, failure = 0, ''
        # a column may be made by an expression, of any length
        query = (f'SELECT topic_id, timestamp, CASE WHEN length(data) <= {LARGEST} THEN data END '
                 'FROM messages WHERE id = ? AND timestamp BETWEEN ? AND ? '
                 f'AND topic_id IN ({", ".join("?" * len(wanted))})')
        for id in self._ids:
            try:
                row = self._connection.execute(query, (id, *span, *wanted)).fetchone()
                if row is None:
                    continue
                topic, time_ns, data = row
                if not isinstance(data, bytes) or not isinstance(time_ns, int):
                    raise sqlite3.DatabaseError(f'a message that holds no bytes, or more than {LARGEST}')
            except (sqlite3.Error, OverflowError) as error:
                lost, failure = lost + 1, failure or line(error)
                continue
            yield self._streams[topic].name, self._streams[topic].type, time_ns, data
        if self.damage or lost:
            raise Damage(self.damage or f'{self.name}: {lost} messages cannot be read ({failure})')

    def close(self) -> None:
        self._connection.close()


def _shortage(path: Path) -> str:
    """What a file lacks by its header; '' if nothing. SQLite itself takes a part of the last page for all of it."""
    with open(path, 'rb') as file:
        page, count = struct.unpack('>16xH10xI', file.read(32).ljust(32, b'\0'))
    page, size = 65536 if page == 1 else page, path.stat().st_size
    if not page or (size % page == 0 and count * page <= size):
        return ''
    return f'it has {size} bytes, expected {max(count, size // page + 1) * page}'
