"""Files of a nominal database: parts (folders of embeddings), durable writes, checksums, the lock.

A part holds, for N embeddings of F frames:

- `vectors.f32` (N, D) float32, unit length;
- `boxes.i32` (N, 4) int32, x, y, width, height in source pixels;
- `positions.f32` (N, 2) float32, centres, 0 to 1;
- `frames.npy` (F,) of `FRAME_TYPE`; the vectors of a frame lie together, in the frames' order;
- `names.json` the strings that the frames refer to;
- `thumbnails.bin` JPEG pictures, one after the other;
- `statistics.npz` count, mean and sum of squared deviations of each dimension.

The files that grow are plain little-endian numbers, row by row, without a header: so their checksums are known when
the last row is written, and nothing is read again.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import logging
import math
import os
import threading
import weakref
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, Union

import cv2
import numpy as np
import numpy.typing as npt

from semanom_ros.core.database.folder_files import (
    RESTORE,
    create,
    expect,
    make_folder,
    open_inside,
    open_to_change,
    read_inside,
)
from semanom_ros.core.embedding.places import places
from semanom_ros.errors import DatabaseError

if TYPE_CHECKING:  # what only reads a database's files does without
    import torch

logger = logging.getLogger(__name__)

FRAME_TYPE = np.dtype([
    ('source', '<i4'), ('topic', '<i4'), ('stamp_ns', '<i8'), ('height', '<i4'), ('width', '<i4'),
    ('first', '<i8'), ('count', '<i8'), ('thumbnail', '<i8'), ('thumbnail_size', '<i8'),
])
CHUNK = 1 << 13  # vectors handled at a time: few enough for the processor's caches
LARGEST_BOX = 1 << 20
"""Pixels: beyond any picture."""
STAMPS = range(-(1 << 31) * 10**9, (1 << 31) * 10**9)
"""Nanoseconds that a ROS stamp can say."""

Array = Union[npt.NDArray[Any], 'torch.Tensor']


@dataclass(frozen=True)
class FrameRecord:
    """Provenance of one nominal frame.

    Attributes:
        source: bag path as given, or `live:<topic>`.
        source_sha256: which recording that is, wherever it lies: see `BagReader.fingerprint`.
        topic: image topic.
        stamp_ns: stamp of the image in nanoseconds.
        image_size: (height, width) of the source image in pixels.
        held_out: kept aside for calibration, not compared with.
    """

    source: str
    source_sha256: str
    topic: str
    stamp_ns: int
    image_size: tuple[int, int]
    held_out: bool = False

    @property
    def key(self) -> tuple[str, str, int]:
        """What makes a frame the same frame."""
        return self.source_sha256, self.topic, self.stamp_ns


class NominalFrame(NamedTuple):
    """One nominal frame with its embeddings: (n, D) float32, (n, 4) int32 and (n, 2) float32."""

    record: FrameRecord
    vectors: npt.NDArray[np.float32]
    boxes: npt.NDArray[np.int32]
    positions: npt.NDArray[np.float32]

    @property
    def places(self) -> npt.NDArray[np.float32]:
        """(n, 3) float32, see `places`."""
        return places(self.positions, self.boxes, self.record.image_size)


class NominalAddition(NamedTuple):
    """A frame to be added.

    Attributes:
        record: where it comes from.
        vectors: (n, D) float32 unit-length embeddings, NumPy or torch.
        boxes: (n, 4) x, y, width, height in source pixels.
        positions: (n, 2) centres, 0 to 1.
        thumbnail: JPEG, see `thumbnail`; empty: none.
    """

    record: FrameRecord
    vectors: Array
    boxes: Array
    positions: Array
    thumbnail: bytes = b''


@dataclass(frozen=True)
class Statistics:
    """Count, mean and sum of squared deviations of each dimension; (D,) float64."""

    count: int
    mean: npt.NDArray[np.float64]
    squares: npt.NDArray[np.float64]

    @classmethod
    def over(cls, vectors: npt.NDArray[np.float32]) -> Statistics:
        """Of (N, D) vectors."""
        total = cls(0, np.zeros(vectors.shape[1]), np.zeros(vectors.shape[1]))
        for start in range(0, len(vectors), CHUNK):
            chunk = vectors[start:start + CHUNK].astype(np.float64)
            mean = chunk.mean(axis=0)
            total = total + cls(len(chunk), mean, np.square(chunk - mean).sum(axis=0))
        return total

    def __add__(self, other: Statistics) -> Statistics:
        """Of both sets together (Chan, Golub and LeVeque, 1983)."""
        count = self.count + other.count
        if count == 0:
            return self
        shift = other.mean - self.mean
        return Statistics(count, self.mean + shift * (other.count / count),
                          self.squares + other.squares + np.square(shift) * (self.count * other.count / count))

    @property
    def scale(self) -> npt.NDArray[np.float64]:
        """(D,) what brings each dimension to unit variance; 1 where a dimension does not vary (as in scikit-learn)."""
        deviation = np.sqrt(self.squares / max(self.count, 1))
        return 1 / np.where(deviation > 1e-6 * max(float(deviation.max(initial=0)), 1e-12), deviation, 1.0)


def checked(frame: FrameRecord, vectors: Array, boxes: Array, positions: Array, dimension: int) -> NominalFrame:
    """A frame's embeddings as they are stored.

    Raises:
        DatabaseError: embeddings that are not finite or not of unit length.
        ValueError: shapes other than (n, dimension), (n, 4), (n, 2).
    """
    stored = NominalFrame(frame, _array(vectors, '<f4'), _array(boxes, '<i4'), _array(positions, '<f4'))
    count = len(stored.vectors)
    shapes = stored.vectors.shape, stored.boxes.shape, stored.positions.shape
    if shapes != ((count, dimension), (count, 4), (count, 2)):
        raise ValueError(f'found shapes {shapes}, expected (n, {dimension}), (n, 4), (n, 2)')
    check_lengths(stored.vectors, f'{frame.source} {frame.topic} {frame.stamp_ns}',
                  'use precision fp32 or another encoder')
    return stored


def check_lengths(vectors: npt.NDArray[np.float32], whose: str, remedy: str) -> None:
    """Raises DatabaseError where one of (n, D) embeddings is not of unit length."""
    lengths = np.sqrt(np.einsum('nd,nd->n', vectors, vectors))
    wrong = ~(np.abs(lengths - 1) < 1e-3)  # so that it holds for what is not a number, too
    if wrong.any():
        raise DatabaseError(f'{whose}: found an embedding of length {lengths[wrong][0]:g}, expected 1; {remedy}')


def _array(array: Array, dtype: str) -> npt.NDArray[Any]:
    if not isinstance(array, np.ndarray):
        array = array.detach().cpu().numpy()
    return np.ascontiguousarray(array, dtype)


def thumbnail(image: npt.NDArray[np.uint8], size: int) -> bytes:
    """JPEG of an (H, W, 3) uint8 RGB picture, its longer side at most `size` pixels; empty where size is 0."""
    if not size:
        return b''
    height, width = image.shape[:2]
    scale = min(1.0, size / max(height, width))
    shape = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(image, shape, interpolation=cv2.INTER_AREA)
    _, encoded = cv2.imencode('.jpg', cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85])
    return encoded.tobytes()


@dataclass(frozen=True)
class FileEntry:
    """Size in bytes and SHA-256 of one file."""

    size: int
    sha256: str


def changed(path: Path, found: str, entry: FileEntry) -> DatabaseError:
    """What is said of a file with another SHA-256 than its entry has."""
    return DatabaseError(f'{path}: found SHA-256 {found}, expected {entry.sha256}; it was changed after it was '
                         f'written: {RESTORE}')


class HashedFile:
    """A file that is written from its beginning on, and whose checksum grows with it."""

    def __init__(self, path: Path) -> None:
        self._path, self._file = path, create(path)
        self._digest, self._size = hashlib.sha256(), 0

    def write(self, content: bytes | memoryview) -> int:
        """Appends."""
        self._file.write(content)
        self._digest.update(content)
        self._size += len(content)
        return len(content)

    def close(self) -> FileEntry:
        """Brings it to the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return FileEntry(self._size, self._digest.hexdigest())


def write_hashed(path: Path, content: bytes) -> FileEntry:
    """Writes a whole file, to the disk."""
    file = HashedFile(path)
    file.write(content)
    return file.close()


LOCK = 'lock'


class Lock:
    """One writer at a time: the kernel gives it back when the process ends, however it ends."""

    def __init__(self, root: Path) -> None:
        """Raises DatabaseError when another writer has it."""
        self._path = root / LOCK
        while True:
            expect(self._path, 'a file')
            self._file = os.fdopen(os.open(
                self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666), 'r+b', buffering=0)
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                holder = self._file.read(20).decode('ascii', 'replace').strip() or 'unknown'
                self._file.close()
                raise DatabaseError(f'{root}: found a writer at work (process {holder}), expected none; '
                                    'wait for it or stop it, then try again') from error
            found = os.fstat(self._file.fileno())
            with suppress(FileNotFoundError):  # it was removed in between, with a database that did not come about
                if os.path.samestat(found, self._path.lstat()):
                    break
            self._file.close()
        if found.st_nlink == 1:  # by another name it may be a file of somebody else
            with suppress(OSError):  # of a full disk: for people only
                self._file.truncate(0)
                self._file.write(str(os.getpid()).encode())

    def release(self, remove: bool = False) -> None:
        """Lets the next writer in; `remove`: the file goes, too."""
        if remove:
            self._path.unlink(missing_ok=True)
        self._file.close()


def sha256_of(file: io.FileIO, progress: Callable[[int], None] | None = None) -> str:
    """SHA-256 of a file, hexadecimal; `progress` is called with the bytes of each step."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(1 << 20))
    while size := file.readinto(buffer):
        digest.update(buffer[:size])
        if progress:
            progress(size)
    return digest.hexdigest()


def sync(path: Path) -> None:
    """Brings a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, content: bytes) -> None:
    """Replaces a file in one step: a reader sees the old content or the new one, also after a power cut."""
    beside = path.with_name(path.name + '.new')
    write_hashed(beside, content)
    os.replace(beside, path)
    sync(path.parent)


def arrays_to_bytes(arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """An .npz without pickled objects.

    Raises:
        ValueError: an array holds Python objects.
    """
    if any(np.asarray(array).dtype.hasobject for array in arrays.values()):
        raise ValueError('found an array of Python objects, expected plain numbers or strings')
    buffer = io.BytesIO()
    np.savez(buffer, **dict(arrays))  # type: ignore[arg-type]
    return buffer.getvalue()


def read_arrays(root: Path, name: str) -> dict[str, npt.NDArray[Any]]:
    """The arrays of an .npz file of a folder, as `arrays_to_bytes` makes it.

    Raises:
        one of UNREADABLE: damaged, or made to take more memory than it has bytes.
    """
    content = read_inside(root, name, LARGEST_ARRAYS)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) > len(content):
            raise ValueError(f'{len(content)} bytes that say they hold more')
        return {member.filename.removesuffix('.npy'): read_array(archive.read(member)) for member in members}


def read_array(content: bytes) -> npt.NDArray[Any]:
    """The array of an .npy file.

    Raises:
        one of UNREADABLE: damaged, or its header says more than it holds.
    """
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError(f'version {version} of NPY, expected (1, 0)')
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    expected = dtype.itemsize * math.prod(shape)
    if dtype.hasobject or min(shape, default=0) < 0 or expected != len(content) - file.tell():
        raise ValueError(f'{len(content) - file.tell()} bytes of {dtype} with the shape {shape}')
    file.seek(0)
    return np.load(file, allow_pickle=False)


UNREADABLE = (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error, RecursionError,
              MemoryError, NotImplementedError, RuntimeError, SyntaxError, OverflowError)
"""What reading a damaged file of a database raises; the last ones come from zipfile and from the headers of NPY."""

LARGEST_ARRAYS, LARGEST_NAMES = 4 << 30, 64 << 20
"""Bytes of an .npz file, and of names.json: beyond any that was written."""

VECTORS = 'vectors.f32'
GROWING = (
    (VECTORS, np.dtype('<f4'), 0), ('boxes.i32', np.dtype('<i4'), 4), ('positions.f32', np.dtype('<f4'), 2))
"""Files of numbers: name, type, columns (0: the dimension of the embeddings)."""

FRAMES, NAMES, PICTURES, STATISTICS = 'frames.npy', 'names.json', 'thumbnails.bin', 'statistics.npz'
FILES = (*(name for name, _, _ in GROWING), FRAMES, NAMES, PICTURES, STATISTICS)
"""What a part consists of."""


class StoredFile:
    """A file of a database that is read in pieces. It stays open, and cannot end the process.

    A map of it into memory could: whoever cuts the file, or copies another over it, has the kernel end every process
    that looks there (SIGBUS).
    """

    def __init__(self, root: Path, name: str) -> None:
        """Raises DatabaseError where it is no regular file inside, OSError where it is missing."""
        self.path = root / name
        self._file = open_inside(root, name)
        weakref.finalize(self, self._file.close)
        self._written = self._last_write()
        self.size = self._written[0]
        self._unverified: FileEntry | None = None
        self._verifying = threading.Lock()

    def verify_first(self, entry: FileEntry) -> None:
        """Has the content compared with its SHA-256 when it is read for the first time."""
        self._unverified = entry

    def _verify(self) -> None:
        with self._verifying:
            if self._unverified is not None:
                with open(self._file.fileno(), 'rb', buffering=0, closefd=False) as file:
                    file.seek(0)
                    found = sha256_of(file)
                if found != self._unverified.sha256:
                    raise changed(self.path, found, self._unverified)
                self._unverified = None

    def _last_write(self) -> tuple[int, int]:
        found = os.fstat(self._file.fileno())
        return found.st_size, found.st_mtime_ns

    def read(self, start: int, buffer: memoryview) -> None:
        """Fills a buffer.

        Raises:
            DatabaseError: it was changed since it was opened, or since it was written.
        """
        if self._unverified is not None:
            self._verify()
        buffer, filled = buffer.cast('B'), 0
        while filled < len(buffer) and (size := os.preadv(self._file.fileno(), [buffer[filled:]], start + filled)):
            filled += size
        if filled < len(buffer) or self._last_write() != self._written:
            raise DatabaseError(f'{self.path}: was changed while it was open; {RESTORE}, and open it anew '
                                '(reload_database)')

    def rows(self, dtype: np.dtype[Any], columns: int) -> npt.NDArray[Any]:
        """The whole file as an array of so many columns, in memory.

        Raises:
            ValueError: it ends in the middle of a row.
        """
        width = dtype.itemsize * columns
        if self.size % width:
            raise ValueError(f'{self.path.name}: found {self.size} bytes, expected rows of {width}')
        found = np.empty((self.size // width, columns), dtype)
        if found.size:
            self.read(0, found.view(np.uint8).data)
        return found


class StoredVectors:
    """(N, D) float32 in a file; a slice or an array of rising indices of it is read when it is asked for."""

    def __init__(self, file: StoredFile, dimension: int) -> None:
        """Raises ValueError where the file ends in the middle of a row."""
        self._file, self._width = file, 4 * dimension
        if file.size % self._width:
            raise ValueError(f'{file.path.name}: found {file.size} bytes, expected rows of {self._width}')
        self.shape = (file.size // self._width, dimension)

    def verify_first(self, entry: FileEntry) -> None:
        """Has the file compared with its SHA-256 when some of it is read for the first time."""
        self._file.verify_first(entry)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        if not isinstance(rows, slice):
            return np.concatenate([np.zeros((0, self.shape[1]), np.float32), *(
                self[first:last + 1] for first, last in _runs(np.asarray(rows)))])
        start, stop, step = rows.indices(len(self))
        assert step == 1
        found = np.empty((max(0, stop - start), self.shape[1]), '<f4')
        if len(found):
            self._file.read(start * self._width, found.view(np.uint8).data)
        return found


def _runs(rows: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """(first, last) of each run of indices that follow each other."""
    if not len(rows):
        return
    ends = np.flatnonzero(np.diff(rows) != 1)
    yield from zip(rows[np.r_[0, ends + 1]].tolist(), rows[np.r_[ends, len(rows) - 1]].tolist(), strict=True)


class Part:
    """One folder of embeddings. Boxes and positions are in memory; vectors and pictures are read when asked for."""

    def __init__(self, root: Path, name: str, dimension: int) -> None:
        """Of a database's folder, and the name of the part in it.

        Raises:
            DatabaseError: a file is missing, or does not hold what its name says, or files contradict each other.
        """
        self.folder = root / name
        self._told = False
        try:
            self.frames = read_array(read_inside(root, f'{name}/{FRAMES}', LARGEST_ARRAYS))
            _, *others = GROWING
            self.vectors = StoredVectors(StoredFile(root, f'{name}/{VECTORS}'), dimension)
            self.boxes, self.positions = (
                StoredFile(root, f'{name}/{file}').rows(dtype, columns) for file, dtype, columns in others)
            names = json.loads(read_inside(root, f'{name}/{NAMES}', LARGEST_NAMES))
            self._sources = [(_text(path), _text(sha256)) for path, sha256 in names['sources']]
            self._topics = [_text(topic) for topic in names['topics']]
            # Kept open: the files of an old version may be unlinked while a reader still has it.
            self._thumbnails = StoredFile(root, f'{name}/{PICTURES}')
            stored = read_arrays(root, f'{name}/{STATISTICS}')
            self.statistics = Statistics(int(stored['count']), stored['mean'], stored['squares'])
        except UNREADABLE as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise DatabaseError(f'{self.folder}: unreadable ({reason}); {RESTORE}') from error
        counts = self.frames['count'] if self.frames.dtype == FRAME_TYPE and self.frames.ndim == 1 else np.zeros(0)
        if self.frames.dtype != FRAME_TYPE or counts.sum() != len(self.vectors):
            raise DatabaseError(f'{self.folder / FRAMES}: found {int(counts.sum())} vectors of {self.frames.dtype}, '
                                f'expected {len(self.vectors)} of {FRAME_TYPE}; {RESTORE}')
        self._check(dimension)

    def _check(self, dimension: int) -> None:
        """What would fail only when somebody looks there, which is at an anomaly, fails at once."""
        frames, statistics, vectors = self.frames, self.statistics, len(self.vectors)
        boxes, positions = (name for name, _, _ in GROWING[1:])

        def expect_that(holds: Any, file: str, expected: str) -> None:
            if not holds:
                raise DatabaseError(f'{self.folder / file}: found other than {expected}, which is expected; {RESTORE}')

        counts = frames['count']
        expect_that((counts >= 0).all() and (frames['first'] == np.cumsum(counts) - counts).all(), FRAMES,
                    'frames whose vectors follow each other')
        expect_that(_within(frames['source'], 0, len(self._sources)) and _within(frames['topic'], 0, len(self._topics)),
                    FRAMES, f'sources and topics of {NAMES}')
        expect_that(_within(frames['stamp_ns'], STAMPS.start, STAMPS.stop), FRAMES, 'stamps of ROS')
        expect_that(_within(frames['height'], 1, LARGEST_BOX) and _within(frames['width'], 1, LARGEST_BOX), FRAMES,
                    'sizes of pictures')
        pictures, sizes = frames['thumbnail'], frames['thumbnail_size']
        expect_that(_within(pictures, 0, self._thumbnails.size + 1) and _within(sizes, 0, self._thumbnails.size + 1)
                    and _within(pictures + sizes, 0, self._thumbnails.size + 1), FRAMES, f'pictures in {PICTURES}')
        expect_that(len(self.boxes) == vectors and _within(self.boxes, 0, LARGEST_BOX), boxes,
                    f'boxes of {vectors} vectors, in pixels')
        expect_that(len(self.positions) == vectors and _within(self.positions, 0, 1.001), positions,
                    f'centres of {vectors} vectors, 0 to 1')
        expect_that(statistics.mean.shape == statistics.squares.shape == (dimension,) and statistics.count >= 0
                    and np.isfinite(statistics.mean).all() and np.isfinite(statistics.squares).all()
                    and (statistics.squares >= 0).all(), STATISTICS, f'finite numbers for {dimension} dimensions')

    def check_vectors(self) -> None:
        """Raises DatabaseError where an embedding is not of unit length."""
        for start in range(0, len(self.vectors), CHUNK):
            check_lengths(self.vectors[start:start + CHUNK], f'{self.folder}: vectors from {start} on', RESTORE)

    def record(self, index: int, held_out: bool) -> FrameRecord:
        """Provenance of a frame of this part."""
        row = self.frames[index]
        source, sha256 = self._sources[row['source']]
        return FrameRecord(source, sha256, self._topics[row['topic']], int(row['stamp_ns']),
                           (int(row['height']), int(row['width'])), held_out)

    def frame(self, index: int, held_out: bool, only: npt.NDArray[np.int64] | None = None) -> NominalFrame:
        """A frame of this part with its embeddings; or with the `only` ones, by their rising numbers in it."""
        row = self.frames[index]
        first = int(row['first'])
        own: Any = slice(first, first + int(row['count'])) if only is None else first + only
        return NominalFrame(self.record(index, held_out), self.vectors[own], self.boxes[own], self.positions[own])

    def places(self, rows: slice | npt.NDArray[np.int64] = slice(None)) -> npt.NDArray[np.float32]:
        """(n, 3) float32 of some of its vectors, see `places`."""
        chosen = np.arange(len(self.vectors))[rows]
        frames = self.frames[np.searchsorted(self.frames['first'], chosen, side='right') - 1]
        return places(self.positions[rows], self.boxes[rows], (frames['height'], frames['width']))

    def sources(self) -> Iterator[tuple[str, str, tuple[str, ...], npt.NDArray[np.int64]]]:
        """Path, SHA-256, topics and stamps of each source in this part."""
        for index, (path, sha256) in enumerate(self._sources):
            rows = self.frames[self.frames['source'] == index]
            if len(rows):
                yield path, sha256, tuple(self._topics[topic] for topic in np.unique(rows['topic'])), rows['stamp_ns']

    def vectors_by_source(self) -> Iterator[tuple[str, str, npt.NDArray[np.int64]]]:
        """Path and SHA-256 of each source in this part, and the rows of its vectors."""
        sources = np.repeat(self.frames['source'], self.frames['count'])
        for index, (path, sha256) in enumerate(self._sources):
            yield path, sha256, np.flatnonzero(sources == index)

    def thumbnail(self, index: int) -> bytes:
        """JPEG of a frame of this part; empty where none was kept, or the file was changed since it was opened."""
        row = self.frames[index]
        picture = bytearray(int(row['thumbnail_size']))
        try:
            self._thumbnails.read(int(row['thumbnail']), memoryview(picture))
        except (DatabaseError, OSError) as error:  # a verdict is worth more than its picture
            if not self._told:
                logger.error('%s', error)
            self._told = True
            return b''
        return bytes(picture)


def _within(values: npt.NDArray[Any], first: int, end: float) -> bool:
    return not values.size or bool(first <= values.min() and values.max() < end)  # not so for NaN


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f'{value!r:.40} among the names')
    return value


class FrameSequence(Sequence[NominalFrame]):
    """The frames of some parts, one after the other; read when asked for."""

    def __init__(self, parts: Sequence[Part], held_out: bool) -> None:
        self._parts, self._held_out = parts, held_out
        self._starts = np.cumsum([0] + [len(part.frames) for part in parts])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index):  # type: ignore[no-untyped-def, override]
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        part, local = self.locate(index)
        return part.frame(local, self._held_out)

    def __iter__(self) -> Iterator[NominalFrame]:
        for part in self._parts:
            for index in range(len(part.frames)):
                yield part.frame(index, self._held_out)

    def record(self, index: int) -> FrameRecord:
        """Provenance of one frame, without its embeddings."""
        part, local = self.locate(index)
        return part.record(local, self._held_out)

    def locate(self, index: int) -> tuple[Part, int]:
        """The part that holds a frame, and the frame's index there."""
        index = index + len(self) if index < 0 else index
        if not 0 <= index < len(self):
            raise IndexError(f'frame {index} of {len(self)}')
        part = int(np.searchsorted(self._starts, index, side='right')) - 1
        return self._parts[part], int(index - self._starts[part])


class PartWriter:
    """Appends frames to the files of a part; memory does not grow with the embeddings.

    Checksums and statistics are gathered on the way.
    """

    def __init__(self, folder: Path, dimension: int) -> None:
        self.folder = folder
        self.vectors = 0
        self._columns = [columns or dimension for _, _, columns in GROWING]
        self._sources: dict[tuple[str, str], int] = {}
        self._topics: dict[str, int] = {}
        self._rows: list[tuple[int, ...]] = []
        self._thumbnails = 0
        self._statistics = Statistics.over(np.zeros((0, dimension), np.float32))
        make_folder(folder.parent)
        make_folder(folder)
        self._names = [*(name for name, _, _ in GROWING), PICTURES]
        self._digests = [hashlib.sha256() for _ in self._names]
        self._files: list[IO[bytes]] = []
        for name in self._names:
            self._files.append(open_to_change(folder / name))

    @property
    def sources(self) -> list[str]:
        """Paths of the recordings that its frames are of."""
        return [path for path, _ in self._sources]

    @property
    def frames(self) -> int:
        """How many frames it holds."""
        return len(self._rows)

    def append(self, frame: NominalFrame, picture: bytes) -> None:
        """Adds one frame with its thumbnail; its bytes have left this process when this returns."""
        pieces = pieces_of(frame, picture)
        for file, piece in zip(self._files, pieces, strict=True):
            file.write(piece)
            file.flush()
        self.register(frame.record, pieces)

    def register(self, record: FrameRecord, pieces: Sequence[bytes]) -> None:
        """Counts in a frame whose bytes, as `pieces_of` gives them, are in the files already."""
        for digest, piece in zip(self._digests, pieces, strict=True):
            digest.update(piece)
        vectors = np.frombuffer(pieces[0], '<f4').reshape(-1, self._columns[0])
        self._rows.append((
            self._sources.setdefault((record.source, record.source_sha256), len(self._sources)),
            self._topics.setdefault(record.topic, len(self._topics)),
            record.stamp_ns, *record.image_size, self.vectors, len(vectors), self._thumbnails, len(pieces[-1])))
        self._statistics += Statistics.over(vectors)
        self.vectors += len(vectors)
        self._thumbnails += len(pieces[-1])

    def read(self, vectors: int, thumbnail_size: int) -> list[bytes]:
        """The pieces of the next frame that is in the files but not yet counted in; short where they end."""
        sizes = [*(vectors * width for width in self._widths), thumbnail_size]
        return [os.pread(file.fileno(), min(size, max(0, os.fstat(file.fileno()).st_size - start)), start)
                for file, size, start in zip(self._files, sizes, self._ends, strict=True)]

    def truncate(self) -> None:
        """Cuts off what was not counted in."""
        for file, end in zip(self._files, self._ends, strict=True):
            file.seek(end)
            file.truncate()

    @property
    def _widths(self) -> list[int]:
        """Bytes of one embedding in each of the growing files."""
        return [dtype.itemsize * columns for (_, dtype, _), columns in zip(GROWING, self._columns, strict=True)]

    @property
    def _ends(self) -> list[int]:
        """Bytes of each file that are counted in."""
        return [*(self.vectors * width for width in self._widths), self._thumbnails]

    def finish(self, statistics: Statistics | None = None) -> dict[str, FileEntry]:
        """Writes the rest and closes the files, all to the disk.

        Args:
            statistics: those to store, where they are not to be those of the vectors.

        Returns:
            Size and checksum of each file of the part, by name.
        """
        self.truncate()
        ends = self._ends
        for file in self._files:
            file.flush()
            os.fsync(file.fileno())
        self.close()
        entries = {name: FileEntry(end, digest.hexdigest())
                   for name, end, digest in zip(self._names, ends, self._digests, strict=True)}
        frames = io.BytesIO()
        np.save(frames, np.array(self._rows, FRAME_TYPE), allow_pickle=False)
        stored = statistics or self._statistics
        rest = {
            FRAMES: frames.getvalue(),
            NAMES: json.dumps({'sources': list(self._sources), 'topics': list(self._topics)}).encode(),
            STATISTICS: arrays_to_bytes(
                {'count': np.array(stored.count), 'mean': stored.mean, 'squares': stored.squares})}
        return entries | {name: write_hashed(self.folder / name, content) for name, content in rest.items()}

    def close(self) -> None:
        """Closes the files; what a full disk did not take of a frame is not of the part."""
        for file in self._files:
            with suppress(OSError):
                file.close()


def pieces_of(frame: NominalFrame, picture: bytes) -> list[bytes]:
    """What a frame adds to each of the files that grow: GROWING's, and PICTURES."""
    return [*(np.ascontiguousarray(array, dtype).tobytes()
              for array, (_, dtype, _) in zip(frame[1:], GROWING, strict=True)), picture]
