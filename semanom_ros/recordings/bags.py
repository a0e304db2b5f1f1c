"""Recordings, read and written without a ROS installation.

Read are rosbag2 folders and their files, MCAP, SQLite and ROS 1 bags, see `storage_files`; messages of ROS 1 come as
those of ROS 2. The `rosbags` library knows message definitions, and writes.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import struct
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
from rosbags.interfaces import Connection, Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys.store import Typestore

from semanom_ros.core.frames import Frame, Segments
from semanom_ros.errors import BagError, ImageError
from semanom_ros.home import expanded
from semanom_ros.recordings import ground_truth
from semanom_ros.recordings.compression import ZSTD, unpack
from semanom_ros.recordings.definitions import Definitions, typestore
from semanom_ros.recordings.images import (
    BitDepth,
    compress_pixels,
    encode_pixels,
    image_from_compressed,
    image_from_message,
    is_compressed,
)
from semanom_ros.recordings.own_outputs import own_outputs
from semanom_ros.recordings.stamps import Stamps
from semanom_ros.recordings.storage_file import ALL, READABLE, Damage, Span, StorageFile, breaks_off, line
from semanom_ros.recordings.storage_files import open_storage_file, storage_files

IMAGE = 'sensor_msgs/msg/Image'
COMPRESSED_IMAGE = 'sensor_msgs/msg/CompressedImage'
CAMERA_INFO = 'sensor_msgs/msg/CameraInfo'
STILLS = '/semanom/stills'
"""Topic of one latched Empty in a recording of pictures that have nothing to do with each other."""
STORAGES = {'mcap': StoragePlugin.MCAP, 'sqlite3': StoragePlugin.SQLITE3}
_TASTE = 1 << 20  # bytes of a file's beginning and end that tell it from others
_MOST_LISTED = 24  # topics in an error
_CLOCK = '/clock'

logger = logging.getLogger(__name__)


class BagReader:
    """Reads one recording.

    Use it as a context manager. A recording that breaks off, or a file of it that is
    damaged, is read as far as it goes; the iterators then raise after the last message
    that could be read, so a caller may keep what it has and still knows. A single message
    that is damaged is skipped, counted in `bad_messages`, and logged for the first time on
    each topic.

    Attributes:
        path: absolute path of the recording, for provenance.
        files: its storage files, in order.
        topics: type of every topic that can be read, by name.
        counts: number of messages of every topic.
        foreign: type and serialization of every other topic, such as `foxglove.Log in protobuf`, by name.
        damage: a line about what cannot be read, '' when all can (as far as opening shows).
        bad_messages: messages skipped because they are not what their topic says, by topic.
        repeated_stamps: images that were told apart from one of the same stamp, by topic.
        stills: its pictures have nothing to do with each other: neighbours in it are no neighbours in time.
    """

    def __init__(self, path: Path | str) -> None:
        """
        Args:
            path: folder of the recording, its metadata.yaml, or a single .mcap, .db3 or .bag file, also one that is
                compressed with zstd.

        Raises:
            BagError: nothing there, or nothing that can be read.
        """
        path = expanded(path)
        if path.name == 'metadata.yaml':
            path = path.parent
        if not path.exists():
            raise BagError(f'{path}: no such recording; give a rosbag2 folder or a .mcap, .db3 or .bag file')
        self.path = path.resolve()
        self.bad_messages: Counter[str] = Counter()
        self.repeated_stamps: Counter[str] = Counter()
        self.files, missing = _files(self.path)
        self._parts, damage = _open(self.path, self.files)
        self.damage = '; '.join([*([missing] if missing else []), *damage])
        self._missing = missing
        self.topics: dict[str, str] = {}
        self.counts: dict[str, int] = {}
        self.foreign: dict[str, str] = {}
        self._encodings: dict[str, str] = {}
        found = [topic for part in self._parts for topic in part.topics]
        for topic in found:
            if topic.encoding not in READABLE:
                self.foreign[topic.name] = f'{topic.type or "no type"} in {topic.encoding or "no serialization"}'
            elif self.topics.setdefault(topic.name, topic.type) == topic.type:
                self._encodings.setdefault(topic.name, topic.encoding)
                self.counts[topic.name] = self.counts.get(topic.name, 0) + topic.messages
        self._definitions = Definitions(self.path, found)
        self.stills = self.counts.get(STILLS, 0) > 0

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
        """Type of every camera topic: Image or CompressedImage; no ground truth, compressed depth or own output."""
        return camera_topics(self.topics)

    @property
    def replayed_topics(self) -> list[str]:
        """What a replay plays to a detector: no clock, not what a detector said when it was recorded, no node's log."""
        return sorted(self.topics.keys() - own_outputs(self.topics) - {_CLOCK, '/rosout', '/parameter_events'})

    @property
    def bad_images(self) -> int:
        """Image messages that `images` skipped because they hold no picture."""
        return sum(count for topic, count in self.bad_messages.items()
                   if self.topics[topic] in (IMAGE, COMPRESSED_IMAGE))

    def image_topic(self, topic: str = '') -> str:
        """The image topic that is meant: `topic`, its `/compressed` twin, or the only one there is.

        Of twins, the one without messages is never meant.

        Raises:
            BagError: no such topic, not one of images, without messages, or not the only one.
        """
        candidates = self.image_topics
        images = ', '.join(f'{name} ({type.rpartition("/")[2]})' for name, type in candidates.items())
        damage = f' ({self.damage})' if self.damage else ''
        if not candidates and topic not in self.topics:
            raise BagError(f'{self.path}: found no image topic{self._listing()}, expected {IMAGE} or '
                           f'{COMPRESSED_IMAGE}; record the camera too{damage}')
        if not topic:
            filled = [name for name in candidates if self.counts[name]] or list(candidates)
            if len(filled) != 1:
                raise BagError(f'{self.path}: found image topics {images}, expected one; name the one to read '
                               '(--image-topic, or image_topic:= of a launch file)')
            topic = filled[0]
        if not self.counts.get(topic):
            twin = topic.removesuffix('/compressed') if topic.endswith('/compressed') else f'{topic}/compressed'
            if self.topics.get(twin) in (IMAGE, COMPRESSED_IMAGE) and (topic not in self.topics or self.counts[twin]):
                topic = twin
        if topic not in self.topics and topic not in self.foreign:
            raise BagError(f'{self.path}: found no topic {topic}, expected one of its image topics: {images}')
        if self.topics.get(topic) not in (IMAGE, COMPRESSED_IMAGE):
            raise BagError(f'{self.path}: found {self.topics.get(topic) or self.foreign[topic]} on {topic}, expected '
                           f'one of its image topics: {images}')
        if not self.counts[topic]:
            raise BagError(f'{self.path}: found no message on {topic}, expected images; record it again{damage}')
        return topic

    def _listing(self) -> str:
        """The topics and types that are there, for an error."""
        known = {**self.topics, **self.foreign}
        shown = [f'{name} ({type})' for name, type in sorted(known.items())]
        more = len(shown) - _MOST_LISTED
        return (f' among {", ".join(shown[:_MOST_LISTED])}{f" and {more} more" if more > 0 else ""}' if shown else
                ', nor any other topic')

    def raw(self, topics: Collection[str] = (), span: Span = ALL) -> Iterator[tuple[str, str, int, bytes]]:
        """Serialized messages in the order of bag time.

        Args:
            topics: names; empty: every topic.
            span: of bag time; what lies outside is not read, where the format has an index.

        Yields:
            (topic, type, bag time in nanoseconds, CDR with its encapsulation header).

        Raises:
            BagError: at once for a topic that does not exist; after the last readable
                message when the recording is damaged.
        """
        for topic in topics:
            if topic not in self.topics:
                raise BagError(f'{self.path}: found no topic {topic}, expected one of {", ".join(sorted(self.topics))}')
        return self._raw(set(topics) or set(self.topics), span)

    def _raw(self, topics: set[str], span: Span) -> Iterator[tuple[str, str, int, bytes]]:
        damage = [self._missing] if self._missing else []
        for part in self._parts:
            read = 0
            try:
                for topic, type, time_ns, data in part.messages(topics, span):
                    read += 1
                    if type != self.topics[topic]:  # another publisher's
                        continue
                    try:
                        if data[:4] == ZSTD:  # no serialization begins so: messages compressed one by one
                            data = unpack(data)
                        if self._encodings[topic] == 'ros1':
                            data = self._definitions.cdr(type, data)
                    except Exception as error:  # whatever a parser meets in damaged bytes
                        self._skip(topic, time_ns, line(error))
                        continue
                    yield topic, type, time_ns, data
            except Damage as error:
                damage.append(str(error))
            except Exception as error:
                damage.append(breaks_off(part.name, read, line(error)))
        if damage:
            raise BagError(f'{self.path}: {"; ".join(damage)}')

    def messages(self, topics: Collection[str] = (), span: Span = ALL) -> Iterator[tuple[str, int, Any]]:
        """Deserialized messages in the order of bag time: (topic, bag time in nanoseconds, message).

        Args:
            topics, span: as of `raw`.

        The messages are objects of `rosbags` with the fields of the ROS message; a
        numeric array is a read-only NumPy array.

        Raises:
            BagError: as `raw`; or there is no usable definition of a type.
        """
        return self._messages(self.raw(topics, span))  # raises here, not at the first next()

    def _messages(self, rows: Iterator[tuple[str, str, int, bytes]]) -> Iterator[tuple[str, int, Any]]:
        for topic, type, time_ns, cdr in rows:
            store = self._definitions.store(type)
            try:
                message = store.deserialize_cdr(memoryview(cdr), type)
            except Exception as error:  # the generated parsers raise what they like on foreign bytes
                self._skip(topic, time_ns, f'it is no {type}: {line(error)}')
                continue
            yield topic, time_ns, message

    def _skip(self, topic: str, time_ns: int, why: str) -> None:
        self.bad_messages[topic] += 1
        if self.bad_messages[topic] == 1:
            _warn_once(f'{self.path}: {topic} at {time_ns // 10**9}.{time_ns % 10**9:09d} skipped: {why}')

    def images(self, topics: str | Sequence[str] = '', wanted: Callable[[str, int], bool] | None = None,
               segments: Callable[[str, int, tuple[int, ...]], Segments | None] = lambda topic, stamp, size: None,
               bit_depth: int = 0, span: Span = ALL) -> Iterator[Frame]:
        """Pictures in the order of bag time, stamped as `Stamps` says.

        A message that holds no picture is skipped, counted in `bad_images`, and logged
        for the first time on each topic.

        Args:
            topics: image topics, as `image_topic` understands them; '': the only one.
            wanted: called with topic and stamp in nanoseconds; a picture that it refuses
                is not decoded.
            segments: called with topic, stamp and (height, width) for the instance masks of a picture.
            bit_depth: bits that 16-bit images use; 0: all.
            span: of bag time, see `raw`. Stamps are told apart within it alone.

        Yields:
            Frames whose `source` is `path`, and whose `camera` is the topic.

        Raises:
            BagError: at once when a topic will not do; after the last readable message
                when the recording is damaged.
        """
        names = [self.image_topic(topic) for topic in ([topics] if isinstance(topics, str) else topics)]
        for name in names:
            del self.bad_messages[name], self.repeated_stamps[name]
        return self._images(names, wanted, segments, bit_depth, span)

    def _images(self, topics: list[str], wanted: Callable[[str, int], bool] | None,
                segments: Callable[[str, int, tuple[int, ...]], Segments | None], bit_depth: int, span: Span
                ) -> Iterator[Frame]:
        stamps = Stamps()
        depths = {topic: BitDepth(bit_depth, f'{self.path}: {topic}') for topic in topics}
        try:
            for topic, time_ns, message in self.messages(topics, span):
                stamp = stamps.of_message(topic, message, time_ns)
                if wanted is not None and not wanted(topic, stamp):
                    continue
                try:
                    decode = image_from_compressed if is_compressed(message) else image_from_message
                    image = decode(message, depths[topic])
                except ImageError as error:
                    self._skip(topic, stamp, str(error))
                    continue
                yield Frame(image, stamp, camera=topic, source=str(self.path), topic=topic,
                            segments=segments(topic, stamp, image.shape[:2]), still=self.stills, received_ns=time_ns)
        finally:
            self.repeated_stamps.update(stamps.repeated)
            for topic in topics:
                if self.bad_messages[topic] > 1:
                    _warn_once(f'{self.path}: {self.bad_messages[topic]} images of {topic} skipped')
                if count := self.repeated_stamps[topic]:
                    _warn_once(f'{self.path}: {count} images of {topic} have the stamp of the one before, and are told '
                               'apart by nanoseconds; check how the camera driver stamps')

    def headers(self, topics: Sequence[str]) -> Iterator[tuple[str, int, int]]:
        """(topic, stamp as `images` gives it, bag time) of the messages of image topics, nanoseconds; none is decoded.

        Raises:
            BagError: as `messages`.
        """
        for topic in topics:
            del self.bad_messages[topic], self.repeated_stamps[topic]
        stamps = Stamps()
        try:
            for topic, time_ns, message in self.messages(topics):
                yield topic, stamps.of_message(topic, message, time_ns), time_ns
        finally:
            self.repeated_stamps.update(stamps.repeated)

    def stamps(self, topics: Sequence[str]) -> Iterator[int]:
        """Stamps of the messages of image topics as `images` gives them, nanoseconds, without a look at the pictures.

        Raises:
            BagError: as `raw`.
        """
        stamps = Stamps()
        for topic, _, time_ns, cdr in self.raw(topics):
            if len(cdr) >= 12:  # CDR: four bytes of encapsulation, then the Header's time
                seconds, nanoseconds = struct.unpack_from('<iI' if cdr[1] & 1 else '>iI', cdr, 4)
                yield stamps(topic, seconds * 1_000_000_000 + nanoseconds, time_ns)

    def camera_info(self, image_topic: str) -> Any | None:
        """The first CameraInfo beside an image topic, by image_transport's convention; None where there is none."""
        topic = camera_info_topic(image_topic)
        if self.topics.get(topic) != CAMERA_INFO:
            return None
        with suppress(BagError):  # of a recording that breaks off; reading its pictures says so
            return next((message for _, _, message in self.messages([topic])), None)
        return None

    def definitions(self, topic: str) -> Typestore:
        """Message definitions that know the type of a topic, with which its messages can be written again.

        Raises:
            BagError: there is no usable one.
        """
        return self._definitions.store(self.topics[topic])

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


def _files(path: Path) -> tuple[list[Path], str]:
    """The files of a recording, and a line about those that are missing."""
    if path.is_file():
        return [path], ''
    if not path.is_dir():
        raise BagError(f'{path}: found neither a file nor a folder; give a rosbag2 folder or a .mcap, .db3 or .bag '
                       'file')
    try:
        files, missing = storage_files(path)
        if not files:
            below = [folder.name for folder in sorted(path.iterdir()) if folder.is_dir() and storage_files(folder)[0]]
            raise BagError(f'{path}: found neither a .mcap nor a .db3 nor a .bag file in it'
                           + (f', but the recordings {", ".join(below[:_MOST_LISTED])}; name one of them' if below else
                              f'{" (" + missing + ")" if missing else ""}; give a rosbag2 folder or file'))
    except OSError as error:
        raise BagError(f'{path}: cannot be read ({error.strerror}); change its permissions') from error
    bags = [file.name for file in files if file.suffix.lower() == '.bag']
    if bags and len(files) > 1:
        raise BagError(f'{path}: found {", ".join(bags[:_MOST_LISTED])}, expected one ROS 1 bag; name the one to read')
    return files, missing


def _open(path: Path, files: list[Path]) -> tuple[list[StorageFile], list[str]]:
    """The files opened, and lines about what cannot be read of them."""
    parts: list[StorageFile] = []
    refused: list[BagError] = []
    for file in files:
        try:
            parts.append(open_storage_file(file))
        except BagError as error:
            refused.append(error)
        except Exception as error:  # whatever a parser of the libraries meets in damaged bytes
            refused.append(BagError(f'{file}: cannot be read ({line(error)}); copy or record it again'))
    damage = [part.damage for part in parts if part.damage]
    if (refused or damage) and not any(part.topics for part in parts):
        for part in parts:
            part.close()
        raise refused[0] if refused else BagError(f'{path}: {damage[0]}; nothing of it can be read')
    return parts, damage + [str(error).removeprefix(f'{path}/') for error in refused]


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
            BagError: the folder exists or cannot be made, its path will not do, or the storage is unknown.
        """
        self.path = expanded(path).absolute()
        self.typestore = typestore()
        if storage not in STORAGES:
            raise BagError(f'{path}: found storage {storage!r}, expected one of {", ".join(STORAGES)}')
        if storage == 'sqlite3' and set(str(self.path)) & set('#%?'):  # `rosbags` would write to another file
            raise BagError(f'{path}: found one of # % ? in the path, expected none for a recording in SQLite; choose '
                           'another name, or mcap')
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

    def declare(self, topic: str, type: str, latched: bool = False, definitions: Typestore | None = None) -> None:
        """Adds a topic before its first message.

        Args:
            topic: name.
            type: as `sensor_msgs/msg/Image`.
            latched: publish it transient local when it is played, as /tf_static is.
            definitions: that know the type, such as those of the recording that its messages come from; None:
                `typestore`.

        Raises:
            BagError: the type is not known.
        """
        if topic not in self._connections:
            known = definitions or self.typestore
            if type not in known.fielddefs:
                raise BagError(f'{self.path}: found message type {type}, expected a standard one or one of semanom_ros')
            self._connections[topic] = self._writer.add_connection(
                topic, type, typestore=known, offered_qos_profiles=[_qos(latched or topic == '/tf_static')])

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


def camera_topics(topics: Mapping[str, str]) -> dict[str, str]:
    """Of topics and their types those of cameras, sorted: no ground truth, compressed depth or a detector's output."""
    own = own_outputs(topics)
    return {name: type for name, type in sorted(topics.items())
            if type in (IMAGE, COMPRESSED_IMAGE) and name not in own and not name.startswith(ground_truth.PREFIX)
            and not name.endswith('/compressedDepth')}


def camera_info_topic(image_topic: str) -> str:
    """The CameraInfo topic beside an image topic: `/camera/image_raw/compressed` -> `/camera/camera_info`."""
    return image_topic.removesuffix('/compressed').rpartition('/')[0] + '/camera_info'


@cache
def _warn_once(text: str) -> None:
    """A recording is opened and read several times for one task, which is nothing that a user should see."""
    logger.warning(text)


def _qos(latched: bool) -> Qos:
    forever = QosTime(9223372036, 854775807)
    durability = QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE
    return Qos(QosHistory.KEEP_LAST, 1 if latched else 10, QosReliability.RELIABLE, durability, forever, forever,
               QosLiveliness.AUTOMATIC, forever, False)
