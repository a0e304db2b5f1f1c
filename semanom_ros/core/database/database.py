"""The nominal database as its readers see it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from semanom_ros.core.database.index import NearestNeighbours, Space, Vectors, as_tensor, faiss, gpu_resources
from semanom_ros.core.database.manifest import (
    HELD_OUT,
    MANIFEST,
    RECORDED,
    REVIEWED,
    DatabaseDescription,
    Manifest,
    PartEntry,
)
from semanom_ros.core.database.storage import (
    FrameRecord,
    FrameSequence,
    Part,
    PartWriter,
    Statistics,
    checked,
    decode_thumbnail,
    encode_thumbnail,
    sha256_of,
)
from semanom_ros.core.database.transaction import JOURNAL, STAGING, Transaction
from semanom_ros.core.embedding.encoders.encoder import Encoder
from semanom_ros.core.frames import NominalExample
from semanom_ros.core.progress import SILENT, Progress
from semanom_ros.errors import DatabaseError

logger = logging.getLogger(__name__)

MANY_VECTORS = 300_000  # exact search on a CPU then takes as long as a vision transformer, or longer


def read_manifest(path: Path) -> Manifest:
    """The manifest of a database's current version.

    Raises:
        DatabaseError: no such folder, no database in it, or an unreadable manifest.
    """
    path = Path(path)
    if not path.is_dir():
        raise DatabaseError(f'{path}: found no folder, expected a nominal database; make one with semanom record')
    if not (path / MANIFEST).exists():
        if (path / STAGING).exists() or any(path.glob(f'v*/{JOURNAL}')):
            raise DatabaseError(f'{path}: found an unfinished recording, expected a nominal database; '
                                'run the same semanom record again to finish it')
        raise DatabaseError(f'{path / MANIFEST}: missing, expected a nominal database; '
                            'give a folder that semanom record made')
    return Manifest.read(path / MANIFEST)


def verify_files(path: Path, manifest: Manifest, progress: Progress = SILENT) -> None:
    """Compares every file with its size and SHA-256 in the manifest.

    Raises:
        DatabaseError: the first file that is missing or changed.
    """
    remedy = 'restore the database from a copy or record anew'
    progress.begin('verify', sum(entry.size for entry in manifest.files.values()), 'B')
    for name, entry in manifest.files.items():
        file = path / name
        try:
            size = file.stat().st_size
            if size != entry.size:
                raise DatabaseError(f'{file}: found {size} bytes, expected {entry.size}; {remedy}')
            found = sha256_of(file, progress.advance)
        except FileNotFoundError as error:
            raise DatabaseError(f'{file}: missing, expected {entry.size} bytes; {remedy}') from error
        except OSError as error:
            raise DatabaseError(f'{file}: unreadable ({error.strerror}); {remedy}') from error
        if found != entry.sha256:
            raise DatabaseError(f'{file}: found SHA-256 {found}, expected {entry.sha256}; it was changed after it was '
                                f'written: {remedy}')
    progress.end()


class _Contents(NamedTuple):
    """What searches look at: replaced as one, so that another thread sees the old or the new.

    Attributes:
        frames: to compare with.
        firsts: index of the first vector of each frame, and after the last the number of vectors.
        neighbours: over the vectors.
    """

    frames: FrameSequence
    firsts: npt.NDArray[np.int64]
    neighbours: NearestNeighbours


class NominalAddition(NamedTuple):
    """A frame to be added, as `DatabaseWriter.add` takes it.

    Attributes:
        frame: where it comes from.
        vectors: (n, D) float32 unit-length embeddings, NumPy or torch.
        boxes: (n, 4) x, y, width, height in source pixels.
        positions: (n, 2) centres, 0 to 1.
        thumbnail: (h, w, 3) uint8 RGB, or None.
    """

    frame: FrameRecord
    vectors: Vectors
    boxes: npt.NDArray[np.int32]
    positions: Vectors
    thumbnail: npt.NDArray[np.uint8] | None = None


class NominalDatabase:
    """Embeddings of nominal drives, opened for search.

    Indices of vectors count through the parts in the manifest's order; appending
    leaves those that are there unchanged. Searches may run in one thread while
    another calls `accept`.

    Attributes:
        path: the folder.
        manifest: of the version that is open.
        calibration: arrays that calibration stored; empty when not calibrated.
        device: where searches run.
    """

    path: Path
    manifest: Manifest
    calibration: dict[str, npt.NDArray]
    device: torch.device

    @classmethod
    def open(cls, path: Path, *, device: torch.device | str = 'cpu', verify: bool = True, position_weight: float = 0.0,
             scale_weight: float = 0.0, standardize: bool = False) -> NominalDatabase:
        """Opens the current version.

        Args:
            path: the folder.
            device: where to search; `cuda` when FAISS has GPUs, else the CPU is used.
            verify: compare every file with its size and SHA-256 in the manifest.
            position_weight: weight of the squared difference of image positions in a distance.
            scale_weight: weight of the squared difference of sizes, see `places`.
            standardize: bring each dimension to zero mean and unit variance over the
                recorded vectors, and length 1 again, before vectors are compared; for
                encoders whose embedding is several layers side by side.

        Raises:
            DatabaseError: missing, no database, corrupt, or of a newer schema.
        """
        path = Path(path)
        manifest = read_manifest(path)
        while True:
            try:
                if verify:
                    verify_files(path, manifest)
                database = cls(path, manifest, device=device, position_weight=position_weight,
                               scale_weight=scale_weight, standardize=standardize)
                database._warn_of_slow_search()
                return database
            except DatabaseError:
                # A writer that published meanwhile may have removed files of the version read here.
                current = read_manifest(path)
                if current.version == manifest.version:
                    raise
                manifest = current

    def __init__(self, path: Path, manifest: Manifest, *, device: torch.device | str = 'cpu',
                 position_weight: float = 0.0, scale_weight: float = 0.0, standardize: bool = False) -> None:
        """Opens a given version; `open` is the way in."""
        self.path, self.manifest = Path(path), manifest
        device = torch.device(device)
        self.device = device if device.type == 'cuda' and faiss.get_num_gpus() > 0 else torch.device('cpu')
        if manifest.vectors == 0:
            raise DatabaseError(f'{path / MANIFEST}: vectors: found 0, expected at least 1; record nominal frames')
        dimension = manifest.description.dimension
        self._parts = [Part(self.path / entry.name, dimension) for entry in manifest.parts if entry.kind != HELD_OUT]
        self._held_out = [Part(self.path / entry.name, dimension) for entry in manifest.parts if entry.kind == HELD_OUT]
        found = sum(len(part.vectors) for part in self._parts)
        if found != manifest.vectors:
            raise DatabaseError(f'{path}: found {found} vectors in its parts, expected {manifest.vectors}; record anew')
        self.calibration = {}
        if manifest.calibration:
            try:
                with np.load(self.path / manifest.calibration, allow_pickle=False) as stored:
                    self.calibration = dict(stored)
            except (OSError, ValueError) as error:
                raise DatabaseError(f'{self.path / manifest.calibration}: unreadable ({str(error).splitlines()[0]}); '
                                    f'run semanom db calibrate {self.path}') from error
        standardize = manifest.description.standardizes(standardize)
        self._space = Space(position_weight, self.statistics if standardize else None, scale_weight)
        self._resources = gpu_resources() if self.device.type == 'cuda' else None
        self._index = self._load_index()
        embedded, covered = [], 0
        for part in self._parts:
            in_index = self._index is not None and covered < self._index.ntotal  # it covers whole parts
            covered += len(part.vectors)
            embedded.append(None if in_index else self._space.embed_all(part, self.device))
        self._embedded = embedded
        self._contents = self._assemble()

    def _assemble(self) -> _Contents:
        arrays = [array for array in self._embedded if array is not None]
        nprobe = self.manifest.index.nprobe if self.manifest.index else 1
        return _Contents(
            FrameSequence(self._parts, held_out=False),
            np.concatenate([[0], *(part.frames['count'] for part in self._parts)]).cumsum(),
            NearestNeighbours(arrays, self._index, nprobe, self._resources))

    def _load_index(self):  # type: ignore[no-untyped-def]
        entry = self.manifest.index
        usable = entry is not None and (entry.position_weight, entry.scale_weight, entry.standardize) == (
            self._space.position_weight, self._space.scale_weight, self._space.standardize)
        if entry is None or not usable or self.device.type == 'cuda':  # a GPU searches exactly in less time
            return None
        try:
            index = faiss.read_index(str(self.path / entry.file), faiss.IO_FLAG_READ_ONLY)
        except RuntimeError as error:
            raise DatabaseError(f'{self.path / entry.file}: unreadable as a FAISS index; '
                                f'build it anew with semanom db index {self.path}') from error
        if index.ntotal != entry.vectors:
            raise DatabaseError(f'{self.path / entry.file}: found {index.ntotal} vectors, expected {entry.vectors}; '
                                f'build it anew with semanom db index {self.path}')
        return index

    def _warn_of_slow_search(self) -> None:
        index = self.manifest.index
        if self.device.type == 'cuda' or self._index is not None:
            return
        if index is not None:
            logger.warning('%s: found an index for position_weight %g, scale_weight %g, standardize %s, expected %g, '
                           '%g, %s: searching exactly; build it anew with semanom db index', self.path,
                           index.position_weight, index.scale_weight, index.standardize, self._space.position_weight,
                           self._space.scale_weight, self._space.standardize)
        elif self.manifest.vectors >= MANY_VECTORS:
            logger.warning('%s: found %d vectors and no index: searching them exactly on the CPU takes longer than the '
                           'encoder; run semanom db index or semanom db compact', self.path, self.manifest.vectors)

    @property
    def statistics(self) -> Statistics:
        """Mean and spread of each dimension over the recorded vectors.

        What was reviewed later is left out, so that accepting a frame does not move the
        space that calibration was done in.
        """
        parts = [part for part, entry in zip(self._parts, self._entries(), strict=True) if entry.kind == RECORDED]
        total = Statistics.over(np.zeros((0, self.manifest.description.dimension), np.float32))
        for part in parts or self._parts:
            total = total + part.statistics
        return total

    def _entries(self) -> list[PartEntry]:
        return [entry for entry in self.manifest.parts if entry.kind != HELD_OUT]

    def parts(self) -> list[tuple[Part, PartEntry, npt.NDArray[np.float32]]]:
        """The folders of vectors to compare with, and these as they are compared, (n, d) each, on the CPU.

        Not those that an approximate index stands for.
        """
        return [(part, entry, array) for part, entry, array in
                zip(self._parts, self._entries(), self._embedded, strict=True) if isinstance(array, np.ndarray)]

    def view(self, *, device: torch.device | str = 'cpu', position_weight: float = 0.0, scale_weight: float = 0.0,
             standardize: bool = False) -> NominalDatabase:
        """The same version with other search settings, without verifying it again."""
        return NominalDatabase(self.path, self.manifest, device=device, position_weight=position_weight,
                               scale_weight=scale_weight, standardize=standardize)

    def check_compatible(self, encoder: Encoder, preprocessing_sha256: str, variant: str,
                         settings: Mapping[str, str] | None = None) -> None:
        """Refuses an encoder, preprocessing, variant or settings other than those that made the database.

        Raises:
            DatabaseError: names the first field that differs.
        """
        loaded = DatabaseDescription.of(encoder, preprocessing_sha256, variant, settings)
        difference = self.manifest.description.difference(loaded)
        if difference:
            field, found, expected = difference
            raise DatabaseError(f'{self.path}: {field}: found {found}, expected {expected} (loaded now); load what the '
                                'database was recorded with, or record it anew with this')

    def __len__(self) -> int:
        """How many nominal embeddings there are."""
        return self._contents.neighbours.size

    def search(self, queries: Vectors, k: int = 1, places: Vectors | None = None
               ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """The k nearest nominal embeddings of each query.

        Args:
            queries: (M, D) float32 of unit length, NumPy or torch on any device.
            k: how many neighbours, 1 to the number of vectors.
            places: (M, 3) as `places` gives them, needed where a weight is not 0; (M, 2) centres are enough
                where scale_weight is.

        Returns:
            (M, k) float32 distances, ascending: 1 - cosine, 0 to 2, plus position_weight *
            |difference of positions|^2 and scale_weight * |difference of sizes|^2; and (M, k) int64
            indices. An approximate index may find fewer than k: inf and -1 there, as for a query that is not finite.

        Raises:
            DatabaseError: k is larger than the database.
        """
        return self._search(queries, k, places, (0, 0))

    def search_excluding(self, queries: Vectors, k: int, forbidden_frame_range: tuple[int, int],
                         places: Vectors | None = None) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """The same, passing over the vectors of some frames; exact, and not slower.

        A nominal frame compared with the rest of the database (cross-validation) must not
        find its own neighbours in time. Where fewer than k vectors are left the distance
        is inf and the index -1.

        Args:
            forbidden_frame_range: (first, end) of indices into `frames()`, see `neighbourhood`.
        """
        contents = self._contents
        first, end = (int(contents.firsts[np.clip(i, 0, len(contents.frames))]) for i in forbidden_frame_range)
        return self._search(queries, k, places, (first, end))

    def _search(self, queries: Vectors, k: int, places: Vectors | None, excluded: tuple[int, int]
                ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        neighbours = self._contents.neighbours
        if not 1 <= k <= neighbours.size:
            raise DatabaseError(f'{self.path}: neighbours: found {k}, expected 1 to {neighbours.size}, the '
                                'number of its vectors; lower it or record more')
        dimension = self.manifest.description.dimension
        if tuple(queries.shape[1:]) != (dimension,):
            raise ValueError(f'queries of shape {tuple(queries.shape)}, expected (M, {dimension})')
        if self._space.coordinates and (places is None or (places.shape[1] < 3 and self._space.scale_weight)):
            raise ValueError('places are needed where position_weight or scale_weight is not 0, with sizes for the '
                             'latter')
        if len(queries) == 0:
            return np.empty((0, k), np.float32), np.empty((0, k), np.int64)
        return neighbours.search(self._space.embed(as_tensor(queries), places), k, excluded)

    def neighbours_of(self, indices: npt.NDArray[np.int64], k: int) -> npt.NDArray[np.int64]:
        """(M, k) the nominal embeddings nearest to nominal embeddings (M,), themselves among them; -1: none."""
        own, inverse = np.unique(indices, return_inverse=True)
        vectors, places = self._rows(own)
        return self._search(vectors, k, places, (0, 0))[1][inverse]

    def distances(self, queries: Vectors, places: Vectors | None, indices: npt.NDArray[np.int64]
                  ) -> npt.NDArray[np.float32]:
        """(M, k) distances, as `search` measures them, of queries (M, D) to nominal embeddings (M, k); -1 gives inf."""
        own, inverse = np.unique(indices, return_inverse=True)
        vectors, stored = self._rows(np.maximum(own, 0))
        mine = self._space.embed(as_tensor(queries).cpu(), places)
        theirs = self._space.embed(as_tensor(vectors), stored)[torch.from_numpy(inverse.reshape(indices.shape))]
        found = (mine[:, None] - theirs).square().sum(dim=2) / 2
        return np.where(indices >= 0, found.numpy(), np.inf).astype(np.float32)

    def _rows(self, indices: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Vectors (M, D) and places (M, 3) of rising indices."""
        sizes = [len(part.vectors) for part in self._parts]
        ends = np.cumsum(sizes)
        chosen = [indices[(indices >= end - size) & (indices < end)] - (end - size)
                  for size, end in zip(sizes, ends, strict=True)]
        return (np.concatenate([part.vectors[rows] for part, rows in zip(self._parts, chosen, strict=True)]),
                np.concatenate([part.places(rows) for part, rows in zip(self._parts, chosen, strict=True)]))

    def frames(self) -> FrameSequence:
        """The frames to compare with, in the vectors' order: (record, vectors, boxes, positions), memory-mapped."""
        return self._contents.frames

    def held_out(self) -> FrameSequence:
        """The frames that are kept aside for calibration, likewise."""
        return FrameSequence(self._held_out, held_out=True)

    def frame_indices(self, indices: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Indices into `frames()` of the frames that vectors belong to."""
        return np.searchsorted(self._contents.firsts, indices, side='right') - 1

    def neighbourhood(self, frame: int, seconds: float) -> tuple[int, int]:
        """(first, end) of the frames round one that are of the same source and at most `seconds` away from it."""
        frames = self._contents.frames
        own = frames.record(frame)

        def near(index: int) -> bool:
            other = frames.record(index)
            return (other.source_sha256 == own.source_sha256 and other.source == own.source
                    and abs(other.stamp_ns - own.stamp_ns) <= seconds * 1e9)

        first, end = frame, frame + 1
        while first > 0 and near(first - 1):
            first -= 1
        while end < len(frames) and near(end):
            end += 1
        return first, end

    def example(self, index: int, distance: float) -> NominalExample:
        """Where a nominal vector came from, with the picture of its frame.

        Args:
            index: of the vector, as found by `search`.
            distance: to the query; passed on.
        """
        contents = self._contents
        frame = int(np.searchsorted(contents.firsts, index, side='right')) - 1
        part, local = contents.frames.locate(frame)
        record = part.record(local, held_out=False)
        row = part.frames[local]
        box = part.boxes[int(row['first']) + int(index) - int(contents.firsts[frame])]
        return NominalExample(record.source, record.topic, record.stamp_ns,
                              (int(box[0]), int(box[1]), int(box[2]), int(box[3])), float(distance),
                              decode_thumbnail(part.thumbnail(local)), record.image_size)

    def accept(self, additions: Iterable[NominalAddition]) -> int:
        """Adds what a person reviewed and found nominal, as a new version; the one before is kept.

        Quick, whatever the size of the database: only what was ever reviewed is written. The
        calibration stays as it is: with more to compare with, nominal distances only get smaller,
        so it errs on the side of fewer alarms. Searches find the additions when this returns.

        Returns:
            The new version's number.

        Raises:
            DatabaseError: another writer is at work or has made a newer version.
        """
        with Transaction(self.path) as transaction:
            found = transaction.current.version if transaction.current else 0
            if found != self.manifest.version:
                raise DatabaseError(f'{self.path}: version: found {found}, expected {self.manifest.version} (loaded); '
                                    'load it anew and accept again')
            entries = list(self.manifest.parts)
            writer = PartWriter(transaction.folder / REVIEWED, self.manifest.description.dimension)
            last = self._entries()[-1]
            # One part holds all that was reviewed since the last recording (or index: that one covers whole parts).
            before = self._parts[-1] if last.kind == REVIEWED and self._embedded[-1] is not None else None
            if before is not None:
                for index in range(len(before.frames)):
                    writer.append(*before.frame(index, held_out=False), before.thumbnail(index))
            for addition in additions:
                frame, vectors, boxes, positions = checked(*addition[:4], self.manifest.description.dimension)
                source = frame.source if frame.source.startswith('reviewed:') else f'reviewed:{frame.source}'
                writer.append(replace(frame, source=source, held_out=False), vectors, boxes, positions,
                              encode_thumbnail(addition.thumbnail))
            writer.finish()
            entry = PartEntry(transaction.relative(writer.folder), REVIEWED, writer.vectors, writer.frames)
            if before is not None:
                entries[entries.index(last)] = entry
            else:
                entries.append(entry)
            manifest = transaction.candidate(self.manifest.description, entries, f'accepted {writer.frames} frames')
            manifest = transaction.carry_index(manifest)
            if self.manifest.calibration:
                manifest = manifest.replace(calibration=self.manifest.calibration, files={
                    **manifest.files, self.manifest.calibration: self.manifest.files[self.manifest.calibration]})
            transaction.publish(manifest)
        part = Part(self.path / entry.name, manifest.description.dimension)
        embedded = self._space.embed_all(part, self.device)
        if before is not None:
            self._parts, self._embedded = self._parts[:-1], self._embedded[:-1]
        self._parts, self._embedded = [*self._parts, part], [*self._embedded, embedded]
        self.manifest = manifest
        self._contents = self._assemble()
        return manifest.version

    def close(self) -> None:
        """Frees the memory, that of the GPU too; the database cannot be used afterwards."""
        for part in (*self._parts, *self._held_out):
            part.close()
        self._parts, self._held_out, self._embedded, self._index, self._resources = [], [], [], None, None
        self._contents = self._assemble()
