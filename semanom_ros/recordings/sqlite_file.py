"""SQLite files of rosbag2, whole or not, read by SQLite itself.

The reader of `rosbags` opens them as immutable, and would not see what a crashed recorder left in the journal.
"""

from __future__ import annotations

import sqlite3
from array import array
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

from semanom_ros.errors import BagError
from semanom_ros.recordings.chunked_file import Counts
from semanom_ros.recordings.storage_file import READABLE, Damage, Row, Topic, breaks_off, line, type_name

MAGIC = b'SQLite format 3\0'


class SqliteFile:
    """A SQLite file: whole, without its end, or with a journal beside it. A damaged message costs itself."""

    def __init__(self, path: Path) -> None:
        self.name, self._path = path.name, path
        self.damage = ''
        self.span = 0, 0
        self._cut = False
        self._connection = self._connect(path, '')
        try:
            try:
                self.learn()
            except sqlite3.DatabaseError as error:
                # SQLite then opens a file that is shorter than its header says
                self._connection.close()
                self._connection = self._connect(path, 'PRAGMA writable_schema = ON')
                self._cut = True
                self.learn()
                self.damage = breaks_off(self.name, sum(topic.messages for topic in self.topics), line(error))
        except BaseException:
            self._connection.close()
            raise

    @staticmethod
    def _connect(path: Path, pragma: str) -> sqlite3.Connection:
        # a journal is replayed where the folder may be written to; a file alone is taken as it is
        for options in ('mode=ro', 'mode=ro&immutable=1'):
            connection = sqlite3.connect(f'{path.absolute().as_uri()}?{options}', uri=True, check_same_thread=False)
            connection.text_factory = lambda text: text.decode(errors='replace')
            try:
                connection.execute(pragma)
                connection.execute('SELECT count(*) FROM sqlite_master').fetchone()
                return connection
            except sqlite3.DatabaseError as error:
                connection.close()
                failure = error
        if pragma:
            raise BagError(f'{path}: cannot be read ({line(failure)}); copy or record it again') from failure
        return sqlite3.connect(f'{path.absolute().as_uri()}?mode=ro&immutable=1', uri=True, check_same_thread=False)

    def learn(self) -> None:
        tables = {name for name, in self._connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not {'topics', 'messages'} <= tables:
            raise BagError(f'{self._path}: found a SQLite file without the tables topics and messages, expected a '
                           'recording of rosbag2; give one')
        rows = self._connection.execute('SELECT id, name, type, serialization_format FROM topics').fetchall()
        definitions: dict[str, tuple[str, str]] = {}
        with suppress(sqlite3.DatabaseError):  # files of before ROS 2 Iron have no such table
            definitions = {type_name(type): (encoding, text) for type, encoding, text in self._connection.execute(
                'SELECT topic_type, encoding, encoded_message_definition FROM message_definitions')
                if isinstance(type, str) and isinstance(text, str)}
        self._streams: dict[int, Topic] = {}
        for id, name, type, encoding in rows:
            if isinstance(name, str) and isinstance(type, str):
                kind = type_name(type) if encoding in READABLE else type
                how, text = definitions.get(kind, ('', ''))
                self._streams[id] = Topic(name, kind, 0, text, how == 'ros2idl', str(encoding))
        count = Counts()
        self._ids = array('q')
        order = 'id' if self._cut else 'timestamp, id'
        try:
            for id, topic, time_ns in self._connection.execute(
                    f'SELECT id, topic_id, timestamp FROM messages ORDER BY {order}'):
                if topic in self._streams and isinstance(time_ns, int) and isinstance(id, int):
                    count(topic, time_ns)
                    self._ids.append(id)
                elif self._cut:
                    raise sqlite3.DatabaseError('a row names no topic')
        except sqlite3.DatabaseError:
            if not self._cut:
                raise
            if self._ids:  # SQLite fills the missing part of a page with zeros: the last one is not to be trusted
                self._ids.pop()
        self.span = count.span
        self.topics = [topic._replace(messages=count.counts.get(id, 0)) for id, topic in self._streams.items()]

    def messages(self, topics: Collection[str]) -> Iterator[Row]:
        wanted = {id for id, topic in self._streams.items() if topic.name in topics and topic.encoding in READABLE}
        if not wanted:
            return
        lost, failure, held = 0, '', None
        query = ('SELECT topic_id, timestamp, data FROM messages WHERE id = ? AND topic_id IN '
                 f'({", ".join("?" * len(wanted))})')
        for id in self._ids:
            try:
                row = self._connection.execute(query, (id, *wanted)).fetchone()
                if row is None:
                    continue
                topic, time_ns, data = row
                if not isinstance(data, bytes) or not isinstance(time_ns, int):
                    raise sqlite3.DatabaseError('a message that holds no bytes')
            except (sqlite3.Error, OverflowError) as error:
                lost, failure = lost + 1, failure or line(error)
                if self._cut:  # nor is the one before this
                    held = None
                continue
            if held is not None:
                yield held
            held = self._streams[topic].name, self._streams[topic].type, time_ns, data
        if held is not None:
            yield held
        if self.damage or lost:
            raise Damage(self.damage or f'{self.name}: {lost} messages cannot be read ({failure})')

    def close(self) -> None:
        self._connection.close()


