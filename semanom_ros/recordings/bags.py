"""rosbag2 recordings, in MCAP and sqlite3, read and written without a ROS installation.

The `rosbags` library does the work. What it refuses, a recording whose end is
missing because the power went off, is read from the front as far as it goes: MCAP
with the `mcap` library's streaming reader, sqlite3 row by row.
"""

from __future__ import annotations

import hashlib
import logging
import re
import shutil
import sqlite3
import struct
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from mcap.reader import NonSeekingReader
from mcap.records import Schema
from rosbags.interfaces import (
    Connection,
    MessageDefinitionFormat,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import CompressionFormat, CompressionMode, Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from semanom_ros.core.frames import Frame, Segments
from semanom_ros.errors import BagError, ImageError
from semanom_ros.recordings import ground_truth
from semanom_ros.recordings.images import (
    BitDepth,
    compress_pixels,
    encode_pixels,
    image_from_compressed,
    image_from_message,
    is_compressed,
    stamp_ns,
)

IMAGE = 'sensor_msgs/msg/Image'
COMPRESSED_IMAGE = 'sensor_msgs/msg/CompressedImage'
CAMERA_INFO = 'sensor_msgs/msg/CameraInfo'
STILLS = '/semanom/stills'
"""Topic of one latched Empty in a recording of pictures that have nothing to do with each other."""
STORAGES = {'mcap': StoragePlugin.MCAP, 'sqlite3': StoragePlugin.SQLITE3}
_SUFFIXES = ('.mcap', '.db3')
_ZSTD = b'\x28\xb5\x2f\xfd'
_TASTE = 1 << 20  # bytes of a file's beginning and end that tell it from others

logger = logging.getLogger(__name__)


class _Topic(NamedTuple):
    """One topic of one storage file."""

    name: str
    type: str
    messages: int
    definition: str
    idl: bool


class _Part(Protocol):
    """A recording, or one file of it, of which `messages` yields what can be read and then raises.

    `damage` says in a line what is known to be missing, '' if nothing is.
    """

    name: str
    topics: list[_Topic]
    span: tuple[int, int]
    damage: str

    def messages(self, topics: Collection[str]) -> Iterator[tuple[str, str, int, bytes]]: ...

    def close(self) -> None: ...


class BagReader:
    """Reads one rosbag2 recording.

    Use it as a context manager. A recording that breaks off, or a file of it that is
    damaged, is read as far as it goes; the iterators then raise after the last message
    that could be read, so a caller may keep what it has and still knows.

    Attributes:
        path: absolute path of the recording, for provenance.
        files: its storage files, in order.
        topics: type of every topic, by name.
        counts: number of messages of every topic.
        span: bag time of the first and the last message, nanoseconds; (0, 0) when there is none.
        damage: a line about what cannot be read, '' when all can (as far as opening shows).
        bad_images: image messages that `images` skipped because they hold no picture.
        stills: its pictures have nothing to do with each other: neighbours in it are no neighbours in time.
    """

    def __init__(self, path: Path | str) -> None:
        """
        Args:
            path: folder of the recording, its metadata.yaml, or a single .mcap or .db3 file.

        Raises:
            BagError: nothing there, or nothing that can be read.
        """
        path = Path(path).expanduser()
        if path.name == 'metadata.yaml':
            path = path.parent
        if not path.exists():
            raise BagError(f'{path}: no such recording; give a rosbag2 folder or a .mcap or .db3 file')
        self.path = path.resolve()
        self.bad_images = 0
        self.files = _storage_files(self.path)
        self._parts = _open(self.path, self.files)
        self.damage = '; '.join(part.damage for part in self._parts if part.damage)
        spans = [part.span for part in self._parts if part.span != (0, 0)] or [(0, 0)]
        self.span = min(start for start, _ in spans), max(end for _, end in spans)
        self.topics: dict[str, str] = {}
        self.counts: dict[str, int] = {}
        self._definitions: dict[str, _Topic] = {}
        for topic in (topic for part in self._parts for topic in part.topics):
            self.topics.setdefault(topic.name, topic.type)
            self.counts[topic.name] = self.counts.get(topic.name, 0) + topic.messages
            if topic.definition:
                self._definitions.setdefault(topic.type, topic)
        self.stills = self.counts.get(STILLS, 0) > 0
        self._own_types = get_typestore(Stores.EMPTY)

    def __enter__(self) -> BagReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Closes the files; the reader is of no use afterwards."""
        for part in self._parts:
            part.close()
        self._parts = []

    @property
    def image_topics(self) -> dict[str, str]:
        """Type of every camera topic: Image or CompressedImage; neither ground truth nor compressed depth."""
        return {name: type for name, type in sorted(self.topics.items()) if type in (IMAGE, COMPRESSED_IMAGE)
                and not name.startswith(ground_truth.PREFIX) and not name.endswith('/compressedDepth')}

    def image_topic(self, topic: str = '') -> str:
        """The image topic that is meant: `topic`, its `/compressed` twin, or the only one there is.

        Raises:
            BagError: no such topic, not one of images, without messages, or not the only one.
        """
        images = ', '.join(f'{name} ({type.rpartition("/")[2]})' for name, type in self.image_topics.items()) or 'none'
        if not topic:
            if len(self.image_topics) != 1:
                raise BagError(f'{self.path}: found image topics {images}, expected one; '
                               + ('name the one to read' if self.image_topics else 'record the camera too'))
            topic = next(iter(self.image_topics))
        if topic not in self.topics and f'{topic}/compressed' in self.topics:
            topic = f'{topic}/compressed'
        if topic not in self.topics:
            raise BagError(f'{self.path}: found no topic {topic}, expected one of its image topics: {images}')
        if self.topics[topic] not in (IMAGE, COMPRESSED_IMAGE):
            raise BagError(f'{self.path}: found {self.topics[topic]} on {topic}, expected one of its image topics: '
                           f'{images}')
        if not self.counts[topic]:
            raise BagError(f'{self.path}: found no message on {topic}, expected images; record it again'
                           + (f' ({self.damage})' if self.damage else ''))
        return topic

    def raw(self, topics: Collection[str] = ()) -> Iterator[tuple[str, str, int, bytes]]:
        """Serialized messages in the order of bag time.

        Args:
            topics: names; empty: every topic.

        Yields:
            (topic, type, bag time in nanoseconds, CDR with its encapsulation header).

        Raises:
            BagError: at once for a topic that does not exist; after the last readable
                message when the recording is damaged.
        """
        for topic in topics:
            if topic not in self.topics:
                raise BagError(f'{self.path}: found no topic {topic}, expected one of {", ".join(sorted(self.topics))}')
        return self._raw(set(topics) or set(self.topics))

    def _raw(self, topics: set[str]) -> Iterator[tuple[str, str, int, bytes]]:
        damage = []
        for part in self._parts:
            read = 0
            try:
                for message in part.messages(topics):
                    if message[3][:4] == _ZSTD:
                        raise BagError('messages are compressed one by one and metadata.yaml, which says so, is '
                                       'missing or unusable; run `ros2 bag reindex`')
                    yield message
                    read += 1
            except Exception as error:  # whatever a parser of the libraries meets in damaged bytes
                damage.append(_breaks_off(part.name, read, _line(error)))
        if damage:
            raise BagError(f'{self.path}: {"; ".join(damage)}')

    def messages(self, topics: Collection[str] = ()) -> Iterator[tuple[str, int, Any]]:
        """Deserialized messages in the order of bag time: (topic, bag time in nanoseconds, message).

        The messages are objects of `rosbags` with the fields of the ROS message; a
        numeric array is a read-only NumPy array.

        Raises:
            BagError: as `raw`; or a message that does not fit its definition.
        """
        rows = self.raw(topics)  # raises here, not at the first next()
        return ((topic, time_ns, self._deserialize(topic, type, cdr)) for topic, type, time_ns, cdr in rows)

    def images(self, topics: str | Sequence[str] = '', wanted: Callable[[str, int], bool] | None = None,
               segments: Callable[[str, int, tuple[int, ...]], Segments | None] = lambda topic, stamp, size: None,
               bit_depth: int = 0) -> Iterator[Frame]:
        """Pictures in the order of bag time, stamped as their headers say, or with bag time where they say nothing.

        A message that holds no picture is skipped, counted in `bad_images`, and logged
        for the first time on each topic.

        Args:
            topics: image topics, as `image_topic` understands them; '': the only one.
            wanted: called with topic and stamp in nanoseconds; a picture that it refuses
                is not decoded.
            segments: called with topic, stamp and (height, width) for the instance masks of a picture.
            bit_depth: bits that 16-bit images use; 0: all.

        Yields:
            Frames whose `source` is `path`, and whose `camera` is the topic.

        Raises:
            BagError: at once when a topic will not do; after the last readable message
                when the recording is damaged.
        """
        names = [self.image_topic(topic) for topic in ([topics] if isinstance(topics, str) else topics)]
        return self._images(names, wanted, segments, bit_depth)

    def _images(self, topics: list[str], wanted: Callable[[str, int], bool] | None,
                segments: Callable[[str, int, tuple[int, ...]], Segments | None], bit_depth: int) -> Iterator[Frame]:
        bad: dict[str, int] = {}
        depths = {topic: BitDepth(bit_depth, f'{self.path}: {topic}') for topic in topics}
        try:
            for topic, time_ns, message in self.messages(topics):
                stamp = stamp_ns(message) or time_ns
                if wanted is not None and not wanted(topic, stamp):
                    continue
                try:
                    decode = image_from_compressed if is_compressed(message) else image_from_message
                    image = decode(message, depths[topic])
                except ImageError as error:
                    self.bad_images += 1
                    bad[topic] = bad.get(topic, 0) + 1
                    if bad[topic] == 1:
                        logger.warning('%s: %s at %d.%09d skipped: %s', self.path, topic, *divmod(stamp, 10**9), error)
                    continue
                yield Frame(image, stamp, camera=topic, source=str(self.path), topic=topic,
                            segments=segments(topic, stamp, image.shape[:2]), still=self.stills, received_ns=time_ns)
        finally:
            for topic, count in bad.items():
                if count > 1:
                    logger.warning('%s: %d images of %s skipped', self.path, count, topic)

    def stamps(self, topics: Sequence[str]) -> Iterator[int]:
        """Stamps of the messages of image topics as `images` gives them, nanoseconds, without a look at the pictures.

        Raises:
            BagError: as `raw`.
        """
        for _, _, time_ns, cdr in self.raw(topics):
            if len(cdr) >= 12:  # CDR: four bytes of encapsulation, then the Header's time
                seconds, nanoseconds = struct.unpack_from('<iI' if cdr[1] & 1 else '>iI', cdr, 4)
                yield seconds * 1_000_000_000 + nanoseconds or time_ns

    def camera_info(self, image_topic: str) -> Any | None:
        """The first CameraInfo beside an image topic, by image_transport's convention; None where there is none."""
        topic = camera_info_topic(image_topic)
        if self.topics.get(topic) != CAMERA_INFO:
            return None
        return next((message for _, _, message in self.messages([topic])), None)

    def fingerprint(self) -> str:
        """SHA-256 over the sizes, beginnings and ends of the storage files: which recording this is, wherever it lies.

        A whole file is not read for it: MCAP's index with every chunk's place and time is in its end. metadata.yaml is
        left out: `ros2 bag reindex` writes it anew.
        """
        digest = hashlib.sha256()
        for path in self.files:
            size = path.stat().st_size
            digest.update(size.to_bytes(8, 'little'))
            with open(path, 'rb') as file:
                digest.update(file.read(_TASTE))
                file.seek(max(_TASTE, size - _TASTE))
                digest.update(file.read(_TASTE))
        return digest.hexdigest()

    def _deserialize(self, topic: str, type: str, cdr: bytes) -> Any:
        store = self._store(type)
        try:
            return store.deserialize_cdr(memoryview(cdr), type)
        except Exception as error:  # the generated parsers raise what they like on foreign bytes
            raise BagError(f'{self.path}: a message on {topic} is no {type} ({_line(error)}); '
                           'record it again') from error

    def _store(self, type: str) -> Typestore:
        """The definitions of the recording itself, and the standard ones where it carries none (before ROS 2 Iron)."""
        if type in self._own_types.fielddefs:
            return self._own_types
        known = self._definitions.get(type)
        if known is None:
            if type not in typestore().fielddefs:
                raise BagError(f'{self.path}: found no definition of {type}, expected one in the recording; '
                               'record it with ROS 2 Iron or newer')
            return typestore()
        try:
            if not known.idl:
                self._own_types.register(get_types_from_msg(known.definition, type))
            for text in re.split(r'^=+\n(?:IDL: .*\n)?', known.definition, flags=re.M) if known.idl else ():
                if text:
                    self._own_types.register(get_types_from_idl(text))
        except Exception as error:
            raise BagError(f'{self.path}: the definition of {type} cannot be read ({_line(error)})') from error
        return self._own_types


class BagWriter:
    """Writes one rosbag2 recording that `ros2 bag` of Jazzy and newer, RViz and Foxglove play.

    Use it as a context manager. The recording is written beside its place and renamed
    into it on success; after an exception nothing is left.

    Attributes:
        path: folder of the recording.
        typestore: message classes to fill, e.g. `typestore.types['sensor_msgs/msg/Image']`; the
            standard ones and those of this package.
    """

    def __init__(self, path: Path | str, storage: str = 'mcap') -> None:
        """
        Args:
            path: folder to be made; must not exist.
            storage: `mcap` (chunks compressed with zstd) or `sqlite3`.

        Raises:
            BagError: the folder exists or cannot be made, or the storage is unknown.
        """
        self.path = Path(path).expanduser().absolute()
        self.typestore = typestore()
        if storage not in STORAGES:
            raise BagError(f'{path}: found storage {storage!r}, expected one of {", ".join(STORAGES)}')
        if self.path.exists():
            raise BagError(f'{path}: exists already; remove it or give another name')
        self._connections: dict[str, Connection] = {}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._staging = Path(tempfile.mkdtemp(prefix=f'.{self.path.name}.', dir=self.path.parent))
        except OSError as error:
            raise BagError(f'{path}: cannot be written ({error.strerror}); give another folder') from error
        try:
            self._writer = Writer(self._staging / self.path.name, version=9, storage_plugin=STORAGES[storage])
            if storage == 'mcap':
                self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
            self._writer.open()
        except BaseException:  # Ctrl-C too: there is no writer yet that would clear up
            shutil.rmtree(self._staging, ignore_errors=True)
            raise

    def __enter__(self) -> BagWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def declare(self, topic: str, type: str, latched: bool = False) -> None:
        """Adds a topic before its first message.

        Args:
            topic: name.
            type: as `sensor_msgs/msg/Image`.
            latched: publish it transient local when it is played, as /tf_static is.

        Raises:
            BagError: the type is not known.
        """
        if topic not in self._connections:
            if type not in self.typestore.fielddefs:
                raise BagError(f'{self.path}: found message type {type}, expected a standard one or one of semanom_ros')
            self._connections[topic] = self._writer.add_connection(
                topic, type, typestore=self.typestore, offered_qos_profiles=[_qos(latched or topic == '/tf_static')])

    def write(self, topic: str, message: Any, t_ns: int) -> None:
        """Adds a message.

        Args:
            topic: name; declared by its first message.
            message: filled message of `typestore`.
            t_ns: bag time in nanoseconds.
        """
        type = message.__msgtype__
        self.write_cdr(topic, type, self.typestore.serialize_cdr(message, type), t_ns)

    def write_cdr(self, topic: str, type: str, cdr: bytes | memoryview, t_ns: int) -> None:
        """Adds a message that is serialized already, with its encapsulation header."""
        self.declare(topic, type)
        self._writer.write(self._connections[topic], t_ns, cdr)

    def write_image(self, topic: str, image: npt.NDArray[Any], encoding: str, stamp_ns: int, frame_id: str,
                    compress: bool = False) -> None:
        """Adds a picture at its own stamp, as Image or as CompressedImage (JPEG).

        Args:
            topic: name.
            image: what `encode_pixels` takes for the encoding; colour is RGB.
            encoding: rgb8, bgr8, mono8 or 32FC1; without meaning for a JPEG.
            stamp_ns: header stamp and bag time, nanoseconds.
            frame_id: of the camera's optical frame.
            compress: store a JPEG.
        """
        types = self.typestore.types
        stamp = types['builtin_interfaces/msg/Time'](*divmod(stamp_ns, 1_000_000_000))
        header = types['std_msgs/msg/Header'](stamp, frame_id)  # type: ignore[arg-type]
        if compress:
            data = np.frombuffer(compress_pixels(image), np.uint8)
            message = types[COMPRESSED_IMAGE](header, 'jpeg', data)  # type: ignore[arg-type]
        else:
            data = np.frombuffer(encode_pixels(image, encoding), np.uint8)
            height, width = image.shape[:2]
            message = types[IMAGE](  # type: ignore[arg-type]
                header, height, width, encoding, 0, data.size // height, data)  # type: ignore[arg-type]
        self.write(topic, message, stamp_ns)

    def mark_stills(self, t_ns: int) -> None:
        """Says, at this bag time, that the pictures have nothing to do with each other."""
        self.declare(STILLS, 'std_msgs/msg/Empty', latched=True)
        self.write(STILLS, self.typestore.types['std_msgs/msg/Empty'](), t_ns)

    def close(self) -> None:
        """Completes the recording and puts it in its place."""
        try:
            self._writer.close()
            (self._staging / self.path.name).rename(self.path)
        except OSError as error:
            raise BagError(f'{self.path}: cannot be written ({error.strerror}); free space or give another '
                           'folder') from error
        finally:
            shutil.rmtree(self._staging, ignore_errors=True)

    def abort(self) -> None:
        """Throws away what was written."""
        with suppress(Exception):
            self._writer.abort()
        shutil.rmtree(self._staging, ignore_errors=True)


def camera_info_topic(image_topic: str) -> str:
    """The CameraInfo topic beside an image topic: `/camera/image_raw/compressed` -> `/camera/camera_info`."""
    return image_topic.removesuffix('/compressed').rpartition('/')[0] + '/camera_info'


@cache
def typestore() -> Typestore:
    """Message definitions of ROS 2 Kilted and of this package.

    Raises:
        BagError: the package's .msg files are not where an installation has them.
    """
    store = get_typestore(Stores.ROS2_KILTED)
    for folder in (place for parent in Path(__file__).resolve().parents
                   for place in (parent / 'msg', parent / 'share' / 'semanom_ros' / 'msg')):
        definitions = sorted(folder.glob('*.msg'))
        if definitions:
            for path in definitions:
                store.register(get_types_from_msg(path.read_text(), f'semanom_ros/msg/{path.stem}'))
            return store
    raise BagError(f'{Path(__file__).parent}: found no message definitions of semanom_ros in a share folder above it, '
                   'expected share/semanom_ros/msg; install the package again')


def _storage_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    names = [name for name in path.iterdir() if re.search(r'\.(mcap|db3)(\.zstd)?$', name.name)]
    # recorders number the files of a split recording without leading zeros
    return sorted(names, key=lambda name: [int(w) if w.isdigit() else w for w in re.split(r'(\d+)', name.name)])


def _open(path: Path, files: list[Path]) -> list[_Part]:
    if not files:
        raise BagError(f'{path}: found neither a .mcap nor a .db3 file; give a rosbag2 folder or file')
    try:
        if path.is_dir() and not (path / 'metadata.yaml').is_file():
            raise FileNotFoundError('metadata.yaml is missing')
        _check_journal(files)
        return [_Whole(path)]
    except PermissionError as error:
        raise BagError(f'{path}: may not be read; change its permissions') from error
    except Exception as error:  # whatever a parser of the libraries meets in damaged bytes
        reason = _line(error)
    parts: list[_Part] = []
    try:
        for file in files:
            parts.append(_open_file(file))
        if any(part.topics for part in parts):
            logger.warning('%s: %s; reading its storage files one by one', path, reason)
            return parts
    except Exception as error:
        reason = _line(error)
    for part in parts:
        part.close()
    raise BagError(f'{path}: cannot be read ({reason}); record it again, or try `mcap recover` or `ros2 bag reindex`')


def _open_file(file: Path) -> _Part:
    if file.suffix not in _SUFFIXES:
        raise BagError(f'{file.name} is compressed as a whole and damaged, or its metadata.yaml is')
    try:
        _check_journal([file])
        return _Whole(file)
    except PermissionError:
        raise
    except Exception:
        return _CutMcap(file) if file.suffix == '.mcap' else _CutSqlite(file)


def _check_journal(files: list[Path]) -> None:
    """`rosbags` opens sqlite3 files as immutable and would not see what a crashed recorder left in the journal."""
    for file in files:
        journal = file.with_name(file.name + '-wal')
        if journal.is_file() and journal.stat().st_size:
            raise BagError(f'{journal.name} holds messages that are not in {file.name} yet')


class _Whole:
    """What `rosbags` can read: a folder with its metadata.yaml, or an undamaged file."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self.damage = ''
        self._reader = Reader(path)
        self._reader.open()
        empty = self._reader.message_count == 0
        self.span = (0, 0) if empty else (self._reader.start_time, self._reader.end_time - 1)
        self.topics = [_Topic(c.topic, c.msgtype, c.msgcount, c.msgdef.data,
                              c.msgdef.format == MessageDefinitionFormat.IDL) for c in self._reader.connections]

    def messages(self, topics: Collection[str]) -> Iterator[tuple[str, str, int, bytes]]:
        if connections := [c for c in self._reader.connections if c.topic in topics]:
            for connection, time_ns, cdr in self._reader.messages(connections):
                yield connection.topic, connection.msgtype, time_ns, cdr

    def close(self) -> None:
        self._reader.close()


class _CutMcap:
    """An MCAP file without its end, read from the front."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._path = path
        counts: dict[tuple[str, str, str, bool], int] = {}
        self.span = 0, 0
        reason = 'its index is unusable'
        try:
            for schema, topic, time_ns, _ in self._rows(None):
                self.span = self.span[0] or time_ns, max(self.span[1], time_ns)
                key = (topic, schema.name, schema.data.decode(), schema.encoding != 'ros2msg')
                counts[key] = counts.get(key, 0) + 1
        except Exception as error:  # the parser meets anything in damaged bytes
            reason = _line(error)
        self.topics = [_Topic(topic, type, count, definition, idl)
                       for (topic, type, definition, idl), count in counts.items()]
        self.damage = _breaks_off(self.name, sum(counts.values()), reason) + '; `mcap recover` mends it'

    def _rows(self, topics: Collection[str] | None) -> Iterator[tuple[Schema, str, int, bytes]]:
        with open(self._path, 'rb') as file:
            for schema, channel, message in NonSeekingReader(file).iter_messages(topics, log_time_order=False):
                if schema is not None:
                    yield schema, channel.topic, message.log_time, message.data

    def messages(self, topics: Collection[str]) -> Iterator[tuple[str, str, int, bytes]]:
        for schema, topic, time_ns, cdr in self._rows(topics):
            yield topic, schema.name, time_ns, cdr

    def close(self) -> None:
        pass


class _CutSqlite:
    """A sqlite3 file without its end, or with a journal beside it, read row by row."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self.damage = ''
        self._connection = self._connect(path)
        self._names = {id: (name, type) for id, name, type in
                       self._connection.execute('SELECT id, name, type FROM topics')}
        definitions: dict[str, tuple[str, str]] = {}
        with suppress(sqlite3.DatabaseError):  # files of before ROS 2 Iron have no such table
            definitions = {type: (encoding, text) for type, encoding, text in self._connection.execute(
                'SELECT topic_type, encoding, encoded_message_definition FROM message_definitions')}
        counts = dict.fromkeys(self._names, 0)
        self.span = 0, 0
        try:
            for id, time_ns in self._rows('topic_id, timestamp'):
                self.span = self.span[0] or time_ns, max(self.span[1], time_ns)
                counts[id] += 1
        except sqlite3.DatabaseError as error:
            self.damage = _breaks_off(self.name, sum(counts.values()), _line(error))
        self.topics = []
        for id, (name, type) in self._names.items():
            encoding, definition = definitions.get(type, ('', ''))
            self.topics.append(_Topic(name, type, counts[id], definition, encoding == 'ros2idl'))

    @staticmethod
    def _connect(path: Path) -> sqlite3.Connection:
        # a journal is replayed where the folder may be written to; a file alone is taken as it is
        for options in ('mode=ro', 'mode=ro&immutable=1'):
            connection = sqlite3.connect(f'{path.as_uri()}?{options}', uri=True, check_same_thread=False)
            try:
                # SQLite then opens a file that is shorter than its header says
                connection.execute('PRAGMA writable_schema = ON')
                connection.execute('SELECT count(*) FROM topics').fetchone()
                return connection
            except sqlite3.OperationalError as error:
                connection.close()
                failure = error
        raise failure

    def _rows(self, columns: str) -> Iterator[tuple[Any, ...]]:
        """Rows in the order they were written, but not the last one before damage.

        SQLite fills the missing part of a page with zeros.
        """
        last = None
        for row in self._connection.execute(f'SELECT {columns} FROM messages ORDER BY id'):
            if row[0] not in self._names:
                raise sqlite3.DatabaseError('a row names no topic')
            if last is not None:
                yield last
            last = row
        if last is not None:
            yield last

    def messages(self, topics: Collection[str]) -> Iterator[tuple[str, str, int, bytes]]:
        for id, time_ns, cdr in self._rows('topic_id, timestamp, data'):
            name, type = self._names[id]
            if name in topics:
                yield name, type, time_ns, cdr

    def close(self) -> None:
        self._connection.close()


def _breaks_off(name: str, messages: int, reason: str) -> str:
    return f'{name} breaks off after {messages} messages ({reason})'


def _line(error: BaseException) -> str:
    text = ' '.join(str(error).split())
    return text or type(error).__name__


def _qos(latched: bool) -> Qos:
    forever = QosTime(9223372036, 854775807)
    durability = QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE
    return Qos(QosHistory.KEEP_LAST, 1 if latched else 10, QosReliability.RELIABLE, durability, forever, forever,
               QosLiveliness.AUTOMATIC, forever, False)
