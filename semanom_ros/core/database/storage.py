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
import os
import weakref
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch

from semanom_ros.core.embedding.places import places
from semanom_ros.errors import DatabaseError

FRAME_TYPE = np.dtype([
    ('source', '<i4'), ('topic', '<i4'), ('stamp_ns', '<i8'), ('height', '<i4'), ('width', '<i4'),
    ('first', '<i8'), ('count', '<i8'), ('thumbnail', '<i8'), ('thumbnail_size', '<i8'),
])
CHUNK = 1 << 13  # vectors handled at a time: few enough for the processor's caches

Array = npt.NDArray[Any] | torch.Tensor


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
        """Of (N, D) vectors, which may be memory-mapped."""
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
    lengths = np.linalg.norm(stored.vectors, axis=1)
    wrong = ~(np.abs(lengths - 1) < 1e-3)  # so that it holds for what is not a number, too
    if wrong.any():
        raise DatabaseError(f'{frame.source} {frame.topic} {frame.stamp_ns}: found an embedding of length '
                            f'{lengths[wrong][0]:g}, expected 1; use precision fp32 or another encoder')
    return stored


def _array(array: Array, dtype: str) -> npt.NDArray[Any]:
    if isinstance(array, torch.Tensor):
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


class HashedFile:
    """A file that is written from its beginning on, and whose checksum grows with it."""

    def __init__(self, path: Path) -> None:
        self._path, self._file = path, open(path, 'wb')  # noqa: SIM115 - open until close()
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


class Lock:
    """One writer at a time: the kernel gives it back when the process ends, however it ends."""

    def __init__(self, root: Path) -> None:
        """Raises DatabaseError when another writer has it."""
        self._file = open(root / 'lock', 'a+')  # noqa: SIM115 - held until release()
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.seek(0)
            holder = self._file.read().strip() or 'unknown'
            self._file.close()
            raise DatabaseError(f'{root}: found a writer at work (process {holder}), expected none; '
                                'wait for it or stop it, then try again') from error
        self._file.truncate(0)
        self._file.write(str(os.getpid()))
        self._file.flush()

    def release(self) -> None:
        """Lets the next writer in."""
        self._file.close()


def sha256_of(path: Path, progress: Callable[[int], None] | None = None) -> str:
    """SHA-256 of a file, hexadecimal; `progress` is called with the bytes of each step."""
    digest = hashlib.sha256()
    with open(path, 'rb', buffering=0) as file:
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
    beside.write_bytes(content)
    sync(beside)
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


UNREADABLE = (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error)
"""What reading a damaged file of a database raises."""

GROWING = (
    ('vectors.f32', np.dtype('<f4'), 0), ('boxes.i32', np.dtype('<i4'), 4), ('positions.f32', np.dtype('<f4'), 2))
"""Files of numbers: name, type, columns (0: the dimension of the embeddings)."""

PICTURES = 'thumbnails.bin'


class Part:
    """One folder of embeddings, memory-mapped; its files are open as long as somebody has it."""

    def __init__(self, folder: Path, dimension: int) -> None:
        """Raises DatabaseError when a file is missing or does not hold what its name says."""
        self.folder = folder
        try:
            self.frames = np.load(folder / 'frames.npy', allow_pickle=False)
            self.vectors, self.boxes, self.positions = (
                _map(folder / name, dtype, columns or dimension) for name, dtype, columns in GROWING)
            names = json.loads((folder / 'names.json').read_bytes())
            self._sources = [(str(path), str(sha256)) for path, sha256 in names['sources']]
            self._topics = [str(topic) for topic in names['topics']]
            # Kept open: the files of an old version may be unlinked while a reader still has it.
            self._thumbnails = os.open(folder / PICTURES, os.O_RDONLY)
            weakref.finalize(self, os.close, self._thumbnails)
            with np.load(folder / 'statistics.npz', allow_pickle=False) as stored:
                self.statistics = Statistics(int(stored['count']), stored['mean'], stored['squares'])
        except UNREADABLE as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise DatabaseError(f'{folder}: unreadable ({reason}); restore it from a copy or record anew') from error
        if self.frames.dtype != FRAME_TYPE or self.frames['count'].sum() != len(self.vectors):
            raise DatabaseError(f'{folder / "frames.npy"}: found {int(self.frames["count"].sum())} vectors of '
                                f'{self.frames.dtype}, expected {len(self.vectors)} of {FRAME_TYPE}; record anew')

    def record(self, index: int, held_out: bool) -> FrameRecord:
        """Provenance of a frame of this part."""
        row = self.frames[index]
        source, sha256 = self._sources[row['source']]
        return FrameRecord(source, sha256, self._topics[row['topic']], int(row['stamp_ns']),
                           (int(row['height']), int(row['width'])), held_out)

    def frame(self, index: int, held_out: bool) -> NominalFrame:
        """A frame of this part with its embeddings."""
        row = self.frames[index]
        own = slice(int(row['first']), int(row['first'] + row['count']))
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

    def thumbnail(self, index: int) -> bytes:
        """JPEG of a frame of this part; empty where none was kept."""
        row = self.frames[index]
        return os.pread(self._thumbnails, int(row['thumbnail_size']), int(row['thumbnail']))


def _map(path: Path, dtype: np.dtype[Any], columns: int) -> npt.NDArray[Any]:
    size, width = path.stat().st_size, dtype.itemsize * columns
    if size % width:
        raise ValueError(f'{path.name}: found {size} bytes, expected rows of {width}')
    if not size:
        return np.zeros((0, columns), dtype)
    # A plain array over the map: the memmap class costs microseconds on every slice.
    return np.memmap(path, dtype, 'r').reshape(-1, columns).view(np.ndarray)


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
        folder.mkdir(parents=True, exist_ok=True)
        self._names = [*(name for name, _, _ in GROWING), PICTURES]
        self._digests = [hashlib.sha256() for _ in self._names]
        self._files: list[IO[bytes]] = []
        for name in self._names:
            mode = 'r+b' if (folder / name).exists() else 'w+b'
            self._files.append(open(folder / name, mode))  # noqa: SIM115 - open until close()

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
        return [os.pread(file.fileno(), size, start)
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
            'frames.npy': frames.getvalue(),
            'names.json': json.dumps({'sources': list(self._sources), 'topics': list(self._topics)}).encode(),
            'statistics.npz': arrays_to_bytes(
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
