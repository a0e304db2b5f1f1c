"""Files of a nominal database: parts (folders of embeddings), durable writes, checksums, the lock.

A part holds, for N embeddings of F frames:

- `vectors.npy` (N, D) float32, unit length;
- `boxes.npy` (N, 4) int32, x, y, width, height in source pixels;
- `positions.npy` (N, 2) float32, centres, 0 to 1;
- `frames.npy` (F,) of `FRAME_TYPE`; the vectors of a frame lie together, in the frames' order;
- `names.json` the strings that the frames refer to;
- `thumbnails.bin` JPEG pictures, one after the other;
- `statistics.npz` count, mean and sum of squared deviations of each dimension.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch

from semanom_ros.errors import DatabaseError

FRAME_TYPE = np.dtype([
    ('source', '<i4'), ('topic', '<i4'), ('stamp_ns', '<i8'), ('height', '<i4'), ('width', '<i4'),
    ('first', '<i8'), ('count', '<i8'), ('thumbnail', '<i8'), ('thumbnail_size', '<i8'),
])
HEADER = 128  # bytes before the data of the arrays that grow: one size, whatever the final shape
CHUNK = 1 << 13  # vectors handled at a time: few enough for the processor's caches

Array = npt.NDArray[Any] | torch.Tensor


@dataclass(frozen=True)
class FrameRecord:
    """Provenance of one nominal frame.

    Attributes:
        source: bag path as given, or `live:<topic>`.
        source_sha256: of the bag; tells the same drive under another path.
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


def places(positions: npt.NDArray[np.float32], boxes: npt.NDArray[np.int32],
           image_size: tuple[npt.ArrayLike, npt.ArrayLike]) -> npt.NDArray[np.float32]:
    """(N, 3) float32: centre x and y, 0 to 1 of the image, and size: log2 of the root of the image's share.

    Twice as wide and high makes the size 1 larger.

    Args:
        positions: (N, 2) centres, 0 to 1.
        boxes: (N, 4) x, y, width, height in pixels.
        image_size: (height, width) in pixels, numbers or (N,).
    """
    height, width = (np.asarray(side, np.float64) for side in image_size)
    share = np.maximum(boxes[:, 2] / width * (boxes[:, 3] / height), 1e-12)
    return np.column_stack([positions, 0.5 * np.log2(share)]).astype(np.float32)


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


def encode_thumbnail(image: npt.NDArray[np.uint8] | None) -> bytes:
    """JPEG of an (h, w, 3) uint8 RGB picture; empty for None."""
    if image is None:
        return b''
    _, encoded = cv2.imencode('.jpg', cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85])
    return encoded.tobytes()


def decode_thumbnail(picture: bytes) -> npt.NDArray[np.uint8] | None:
    """The other way; None where there is none."""
    if not picture:
        return None
    decoded = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)
    return None if decoded is None else cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


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


def _header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """The .npy header (format 1.0), padded to HEADER bytes."""
    text = repr({'descr': np.lib.format.dtype_to_descr(dtype), 'fortran_order': False, 'shape': shape})
    body = text.ljust(HEADER - 11) + '\n'
    return b'\x93NUMPY\x01\x00' + len(body).to_bytes(2, 'little') + body.encode('latin1')


class Part:
    """One folder of embeddings, memory-mapped."""

    def __init__(self, folder: Path, dimension: int) -> None:
        """Raises DatabaseError when a file is missing or does not hold what its name says."""
        self.folder = folder
        try:
            self.frames = np.load(folder / 'frames.npy', allow_pickle=False)
            self.vectors = _map(folder / 'vectors.npy', np.dtype('<f4'), dimension)
            self.boxes = _map(folder / 'boxes.npy', np.dtype('<i4'), 4)
            self.positions = _map(folder / 'positions.npy', np.dtype('<f4'), 2)
            names = json.loads((folder / 'names.json').read_bytes())
            self._sources = [(str(path), str(sha256)) for path, sha256 in names['sources']]
            self._topics = [str(topic) for topic in names['topics']]
            # Kept open: the files of an old version may be unlinked while a reader still has it.
            self._thumbnails = open(folder / 'thumbnails.bin', 'rb')  # noqa: SIM115 - closed by close()
            with np.load(folder / 'statistics.npz', allow_pickle=False) as stored:
                self.statistics = Statistics(int(stored['count']), stored['mean'], stored['squares'])
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = str(error).splitlines()[0]
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
        return os.pread(self._thumbnails.fileno(), int(row['thumbnail_size']), int(row['thumbnail']))

    def close(self) -> None:
        """Closes the file of thumbnails; the arrays go with their last user."""
        self._thumbnails.close()


def _map(path: Path, dtype: np.dtype[Any], columns: int) -> npt.NDArray[Any]:
    array = np.load(path, mmap_mode='r', allow_pickle=False)
    if array.dtype != dtype or array.ndim != 2 or array.shape[1] != columns:
        raise ValueError(f'{path.name}: found shape {array.shape} of {array.dtype}, expected (N, {columns}) of {dtype}')
    # A plain array over the map: the memmap class costs microseconds on every slice.
    return array.view(np.ndarray)


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

    The files are those of a finished part but for the headers, which `finish` writes.
    """

    FILES = (('vectors.npy', np.dtype('<f4')), ('boxes.npy', np.dtype('<i4')), ('positions.npy', np.dtype('<f4')))

    def __init__(self, folder: Path, dimension: int) -> None:
        self.folder = folder
        self._columns = (dimension, 4, 2)
        self._sources: dict[tuple[str, str], int] = {}
        self._topics: dict[str, int] = {}
        self._rows: list[tuple[int, ...]] = []
        self.vectors = 0
        self._thumbnails = 0
        folder.mkdir(parents=True, exist_ok=True)
        self._files: list[IO[bytes]] = []
        for name in [name for name, _ in self.FILES] + ['thumbnails.bin']:
            mode = 'r+b' if (folder / name).exists() else 'w+b'
            self._files.append(open(folder / name, mode))  # noqa: SIM115 - open until close()
        for file in self._files[:3]:
            file.write(bytes(HEADER))
        self._seek()

    @property
    def frames(self) -> int:
        """How many frames it holds."""
        return len(self._rows)

    def append(self, record: FrameRecord, vectors: npt.NDArray[np.float32], boxes: npt.NDArray[np.int32],
               positions: npt.NDArray[np.float32], thumbnail: bytes) -> None:
        """Adds one frame; its bytes have left this process when this returns."""
        for file, array in zip(self._files, (vectors, boxes, positions), strict=False):
            file.write(np.ascontiguousarray(array).tobytes())
        self._files[3].write(thumbnail)
        for file in self._files:
            file.flush()
        self.register(record, len(vectors), len(thumbnail))

    def register(self, record: FrameRecord, vectors: int, thumbnail_size: int) -> None:
        """Counts in a frame whose bytes are in the files already."""
        self._rows.append((
            self._sources.setdefault((record.source, record.source_sha256), len(self._sources)),
            self._topics.setdefault(record.topic, len(self._topics)),
            record.stamp_ns, *record.image_size, self.vectors, vectors, self._thumbnails, thumbnail_size))
        self.vectors += vectors
        self._thumbnails += thumbnail_size

    def read(self, vectors: int, thumbnail_size: int) -> Iterator[bytes]:
        """The bytes of the next frame that is in the files but not yet counted in; short where they end."""
        for file, (_, dtype), columns in zip(self._files, self.FILES, self._columns, strict=False):
            width = dtype.itemsize * columns
            yield os.pread(file.fileno(), vectors * width, HEADER + self.vectors * width)
        yield os.pread(self._files[3].fileno(), thumbnail_size, self._thumbnails)

    def truncate(self) -> None:
        """Cuts off what was not counted in."""
        self._seek()
        for file in self._files:
            file.truncate()

    def _seek(self) -> None:
        for file, (_, dtype), columns in zip(self._files, self.FILES, self._columns, strict=False):
            file.seek(HEADER + self.vectors * dtype.itemsize * columns)
        self._files[3].seek(self._thumbnails)

    def finish(self, statistics: Statistics | None = None) -> None:
        """Writes headers and the rest and closes the files.

        Args:
            statistics: those to store, where they are not to be those of the vectors.
        """
        self.truncate()
        for file, (_, dtype), columns in zip(self._files, self.FILES, self._columns, strict=False):
            file.seek(0)
            file.write(_header(dtype, (self.vectors, columns)))
        self.close()
        np.save(self.folder / 'frames.npy', np.array(self._rows, FRAME_TYPE), allow_pickle=False)
        names = {'sources': list(self._sources), 'topics': list(self._topics)}
        (self.folder / 'names.json').write_text(json.dumps(names))
        stored = statistics or Statistics.over(np.load(self.folder / 'vectors.npy', mmap_mode='r', allow_pickle=False))
        (self.folder / 'statistics.npz').write_bytes(arrays_to_bytes({
            'count': np.array(stored.count), 'mean': stored.mean, 'squares': stored.squares}))

    def close(self) -> None:
        """Closes the files."""
        for file in self._files:
            file.close()
