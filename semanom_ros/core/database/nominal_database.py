"""The nominal database as its readers see it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from semanom_ros.core.database.index import NearestNeighbours, Searched, Space, Vectors, as_tensor
from semanom_ros.core.database.index_file import read_index
from semanom_ros.core.database.manifest import HELD_OUT, RECORDED, Manifest, PartEntry
from semanom_ros.core.database.published import read_calibration, read_learned, read_manifest, verify_files
from semanom_ros.core.database.storage import VECTORS, FrameRecord, FrameSequence, Part, Statistics
from semanom_ros.core.embedding.description import EmbeddingDescription
from semanom_ros.errors import DatabaseError
from semanom_ros.settings import SearchSettings

logger = logging.getLogger(__name__)

INDEXED_FROM = 20_000
"""Embeddings from which on an approximate index is quicker than searching them all on a CPU."""


READ_LATER = 4 << 30
"""Bytes of vectors that an index stands for, beyond which a start does not wait until they have been read."""


@dataclass(frozen=True)
class NominalExample:
    """The nominal picture part that resembles an anomaly most: the evidence.

    Attributes:
        source: bag path or `live:<topic>` that the example was recorded from.
        topic: image topic.
        stamp_ns: stamp of the nominal frame in nanoseconds.
        box: (x, y, width, height) in pixels of the nominal source image.
        distance: cosine distance to the query, 0 (same) to 2 (opposite).
        thumbnail: JPEG of the nominal frame, as it is stored; empty where none was kept.
        image_size: (height, width) of the nominal source image in pixels, which `box` refers to.
    """

    source: str
    topic: str
    stamp_ns: int
    box: tuple[int, int, int, int]
    distance: float
    thumbnail: bytes = b''
    image_size: tuple[int, int] = (0, 0)


class NominalDatabase:
    """One version of a database, opened for search with some settings. It never changes, so any thread may use it.

    Indices of vectors count through the parts in the manifest's order; appending
    leaves those that are there unchanged. Files and memory are given back when nobody has it any more.

    Attributes:
        path: the folder.
        manifest: of the version that is open.
        settings: how it is viewed: what was asked for, as far as the encoder wants it.
        calibration: arrays that calibration stored; empty when not calibrated.
        device: where searches run.
    """

    path: Path
    manifest: Manifest
    settings: SearchSettings
    calibration: dict[str, npt.NDArray]
    device: torch.device

    @classmethod
    def open(cls, path: Path, settings: SearchSettings | None = None, *, device: torch.device | str = 'cpu',
             verify: bool = True) -> NominalDatabase:
        """Opens the current version.

        Args:
            path: the folder.
            settings: how to view it; None: the plain cosine distance.
            device: where to search.
            verify: compare every file with its size and SHA-256 in the manifest. Of vectors that an index stands for,
                where they are more than READ_LATER bytes, the size alone: they are compared before they are used for
                the first time, if they ever are.

        Raises:
            DatabaseError: missing, no database, corrupt, or of another schema.
        """
        path = Path(path)
        manifest = read_manifest(path)
        while True:
            try:
                later = _unread(manifest, settings or PLAIN, torch.device(device)) if verify else ()
                if verify:
                    verify_files(path, manifest, later=later)
                database = cls(path, manifest, settings, device=device)
                for entry in manifest.parts:
                    if f'{entry.name}/{VECTORS}' in later:
                        database._opened[entry.name].vectors.verify_first(manifest.files[f'{entry.name}/{VECTORS}'])
                database._warn_of_slow_search()
                return database
            except DatabaseError:
                # A writer that published meanwhile may have removed files of the version read here.
                current = read_manifest(path)
                if current.identity == manifest.identity:
                    raise
                manifest = current

    def __init__(self, path: Path, manifest: Manifest, settings: SearchSettings | None = None, *,
                 device: torch.device | str = 'cpu', before: NominalDatabase | None = None) -> None:
        """Opens a given version; `open` is the way in.

        Args:
            path, manifest: the folder, and the version.
            settings, device: as in `open`.
            before: another version of it, opened with the same settings: what it has in memory is used again.
        """
        self.path, self.manifest = Path(path), manifest
        self.device = torch.device(device)
        description = manifest.description
        self.settings = effective_settings(settings or PLAIN, description)
        known = before._opened if before is not None else {}
        self._opened: dict[str, Part] = {
            entry.name: known.get(entry.name) or entry.open(self.path, description.dimension)
            for entry in manifest.parts}
        self._entries = [entry for entry in manifest.parts if entry.kind != HELD_OUT]
        self._parts = [self._opened[entry.name] for entry in self._entries]
        self.calibration = read_calibration(self.path, manifest)
        self._space = Space(self.settings, self.statistics)
        reused = before is not None and before.manifest.index == manifest.index
        self._index: Any = before._index if before is not None and reused else self._load_index()
        embedded = dict(before._embedded) if before is not None and reused else {}
        covered = 0
        self._embedded: dict[str, Searched] = {}  # by part; without those that the index stands for
        for entry, part in zip(self._entries, self._parts, strict=True):
            if self._index is None or covered >= self._index.ntotal:  # it covers whole parts
                known_vectors = embedded.get(entry.name)
                self._embedded[entry.name] = (
                    known_vectors if known_vectors is not None else self._space.embed_all(part, self.device))
            covered += len(part.vectors)
        nprobe = manifest.index.nprobe if manifest.index else 1
        self._neighbours = NearestNeighbours(list(self._embedded.values()), self._index, nprobe)
        self._frames = FrameSequence(self._parts, held_out=False)
        self._firsts = np.concatenate([[0], *(part.frames['count'] for part in self._parts)]).cumsum()

    def successor(self, manifest: Manifest) -> NominalDatabase:
        """The next version, viewed as this one; what is in memory already stays there."""
        return NominalDatabase(self.path, manifest, self.settings, device=self.device, before=self)

    @cached_property
    def learned(self) -> dict[str, npt.NDArray]:
        """Arrays that `semanom learn` stored; empty when nothing was learned."""
        return read_learned(self.path, self.manifest)

    def _load_index(self) -> Any:
        entry = self.manifest.index
        if entry is None or dict(entry.search) != self.settings.values() \
                or self.device.type == 'cuda':  # a GPU searches exactly in less time
            return None
        return read_index(self.path, entry, self.manifest.description.dimension)

    def _warn_of_slow_search(self) -> None:
        if self.device.type == 'cuda' or self._index is not None or self.manifest.vectors < INDEXED_FROM:
            return
        entry = self.manifest.index
        why = 'no index' if entry is None else f'an index for {_listed(entry.search)}'
        logger.warning('%s: found %d vectors and %s, expected one for %s: searching them all takes longer; run '
                       'semanom db index', self.path, self.manifest.vectors, why, _listed(self.settings.values()))

    @property
    def statistics(self) -> Statistics:
        """Mean and spread of each dimension over the recorded vectors.

        What was reviewed later is left out, so that accepting a frame does not move the
        space that calibration was done in.
        """
        return statistics_of(self._parts, self._entries, self.manifest.description.dimension)

    def parts(self) -> list[tuple[Part, PartEntry, Searched]]:
        """The folders of vectors to compare with, and these as they are compared, (n, d) each, where they are searched.

        Not those that an approximate index stands for.
        """
        return [(part, entry, self._embedded[entry.name]) for part, entry in
                zip(self._parts, self._entries, strict=True) if entry.name in self._embedded]

    def check_compatible(self, description: EmbeddingDescription) -> None:
        """Refuses embeddings other than those that made the database.

        Raises:
            DatabaseError: names the first field that differs.
        """
        difference = self.manifest.description.difference(description)
        if difference:
            field, found, expected = difference
            raise DatabaseError(f'{self.path}: {field}: found {found}, expected {expected} (loaded now); load what the '
                                'database was recorded with, or record it anew with this')

    def __len__(self) -> int:
        """How many nominal embeddings there are."""
        return self._neighbours.size

    def search(self, queries: Vectors, k: int = 1, places: Vectors | None = None
               ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """The k nearest nominal embeddings of each query.

        Args:
            queries: (M, D) float32 of unit length, NumPy or torch on any device.
            k: how many neighbours, 1 to the number of vectors.
            places: (M, 3) as `places` gives them, needed where a weight of them is not 0; (M, 2) centres are enough
                where scale_weight is.

        Returns:
            (M, k) float32 distances, ascending: 1 - cosine, 0 to 2, plus position_weight *
            |difference of positions|^2 and scale_weight * |difference of sizes|^2; and (M, k) int64
            indices. An approximate index may find fewer than k: inf and -1 there, as for a query that is not finite.

        Raises:
            DatabaseError: k is larger than the database.
        """
        return self._search(queries, k, places, (0, 0))

    def bounds(self, queries: Vectors, k: int, places: Vectors | None
               ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """The same of nominal embeddings that are near, at less cost than a search, where it is `bounded` at all.

        Returns:
            as `search`, and (M,) whether a search would find them too, for certain.
        """
        return self._neighbours.bounds(self._asked(queries, k, places), k)

    def search_excluding(self, queries: Vectors, k: int, forbidden_frame_range: tuple[int, int],
                         places: Vectors | None = None) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """The same, passing over the vectors of some frames; exact where `search` is.

        A nominal frame compared with the rest of the database (cross-validation) must not
        find its own neighbours in time. Where fewer than k vectors are left the distance
        is inf and the index -1.

        Args:
            forbidden_frame_range: (first, end) of indices into `frames()`, see `neighbourhood`.
        """
        first, end = (int(self._firsts[np.clip(i, 0, len(self._frames))]) for i in forbidden_frame_range)
        return self._search(queries, k, places, (first, end))

    def _search(self, queries: Vectors, k: int, places: Vectors | None, excluded: tuple[int, int]
                ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        asked = self._asked(queries, k, places)
        if len(asked) == 0:
            return np.empty((0, k), np.float32), np.empty((0, k), np.int64)
        return self._neighbours.search(asked, k, excluded)

    def _asked(self, queries: Vectors, k: int, places: Vectors | None) -> torch.Tensor:
        """Checked queries, in the space in which they are compared."""
        if not 1 <= k <= len(self):
            raise DatabaseError(f'{self.path}: neighbours: found {k}, expected 1 to {len(self)}, the '
                                'number of its vectors; lower it or record more')
        dimension = self.manifest.description.dimension
        if tuple(queries.shape[1:]) != (dimension,):
            raise ValueError(f'queries of shape {tuple(queries.shape)}, expected (M, {dimension})')
        if self._space.places and (places is None or places.shape[1] < self._space.places):
            raise ValueError(f'places of {0 if places is None else places.shape[1]} columns, expected '
                             f'{self._space.places}: a weight of them is not 0')
        return self._space.embed(as_tensor(queries), places)

    @property
    def bounded(self) -> bool:
        """Whether `bounds` tells something at less cost than a search does."""
        return self._neighbours.visits_lists or self._neighbours.goes_through_all

    @property
    def bounded_at_once(self) -> bool:
        """Whether its `bounds` are near enough to ask for them where nothing else is known of a query."""
        return self._neighbours.goes_through_all

    @property
    def looked_up(self) -> bool:
        """Whether `compared` tells what is searched: not on a GPU, nor of an index whose codes estimate distances."""
        return self._neighbours.looked_up

    def compared(self, indices: npt.NDArray[np.int64]) -> torch.Tensor:
        """(M, d) float32 nominal embeddings (M,) as a search sees them, where they are `looked_up`: half the squared
        distance to an `embed`ded query is the distance that it returns."""
        return self._neighbours.vectors(indices)

    def embed(self, queries: Vectors, places: Vectors | None) -> torch.Tensor:
        """(M, d) float32 queries (M, D) at `places`, see `search`, in the space in which they are compared."""
        return self._space.embed(as_tensor(queries), places)

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

    def positions_of(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """(M, 2) where in their images nominal embeddings (M,) are, 0 to 1; NaN for -1."""
        found = np.full((len(indices), 2), np.nan, np.float32)
        first = 0
        for part in self._parts:
            own = (indices >= first) & (indices < first + len(part.vectors))
            found[own] = part.positions[indices[own] - first]
            first += len(part.vectors)
        return found

    def frames(self) -> FrameSequence:
        """The frames to compare with, in the vectors' order: (record, vectors, boxes, positions)."""
        return self._frames

    def held_out(self) -> FrameSequence:
        """The frames that are kept aside for calibration, likewise."""
        held_out = [self._opened[entry.name] for entry in self.manifest.parts if entry.kind == HELD_OUT]
        return FrameSequence(held_out, held_out=True)

    def pictures(self) -> Iterator[tuple[FrameRecord, Callable[[], bytes]]]:
        """Every nominal frame's record, and what reads its picture, JPEG; empty where none was kept."""
        for part in self._opened.values():
            for index in range(len(part.frames)):
                yield part.record(index, False), partial(part.thumbnail, index)

    def frame_indices(self, indices: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Indices into `frames()` of the frames that vectors belong to."""
        return np.searchsorted(self._firsts, indices, side='right') - 1

    def whole_frames(self) -> FrameSequence:
        """The recorded frames that hold all of their embeddings, likewise: none that was compacted or reviewed."""
        return FrameSequence([part for part, entry in zip(self._parts, self._entries, strict=True)
                              if entry.kind == RECORDED and entry.whole], held_out=False)

    @cached_property
    def _by_source(self) -> dict[tuple[str, str], tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        """Indices into `frames()` and stamps of each recording, in the frames' order."""
        found: dict[tuple[str, str], list[tuple[int, int]]] = {}
        for index in range(len(self._frames)):
            record = self._frames.record(index)
            found.setdefault((record.source_sha256, record.source), []).append((index, record.stamp_ns))
        return {key: tuple(np.array(pairs, np.int64).T) for key, pairs in found.items()}  # type: ignore[misc]

    def neighbourhood(self, record: FrameRecord, seconds: float) -> tuple[int, int]:
        """(first, end) of the frames of the same source that are at most `seconds` away from one; (0, 0): none.

        With those between them, where a recording was looped.
        """
        known = self._by_source.get((record.source_sha256, record.source))
        if known is None:
            return 0, 0
        near = known[0][np.abs(known[1] - record.stamp_ns) <= seconds * 1e9]
        return (int(near[0]), int(near[-1]) + 1) if len(near) else (0, 0)

    def example(self, index: int, distance: float) -> NominalExample:
        """Where a nominal vector came from, with the picture of its frame.

        Args:
            index: of the vector, as found by `search`.
            distance: to the query; passed on.
        """
        frame = int(self.frame_indices(index))
        part, local = self._frames.locate(frame)
        record = part.record(local, held_out=False)
        row = part.frames[local]
        box = part.boxes[int(row['first']) + int(index) - int(self._firsts[frame])]
        return NominalExample(record.source, record.topic, record.stamp_ns,
                              (int(box[0]), int(box[1]), int(box[2]), int(box[3])), float(distance),
                              part.thumbnail(local), record.image_size)


PLAIN = SearchSettings(standardize=False)
"""The plain cosine distance."""


def effective_settings(search: SearchSettings, description: EmbeddingDescription) -> SearchSettings:
    """How a database is viewed: what was asked for, as far as the encoder wants it."""
    return replace(search, standardize=search.standardize and description.wants_standardizing)


def statistics_of(parts: Sequence[Part], entries: Sequence[PartEntry], dimension: int) -> Statistics:
    """Of the recorded vectors of some parts; of all where none was recorded."""
    recorded = [part for part, entry in zip(parts, entries, strict=True) if entry.kind == RECORDED]
    total = Statistics.over(np.zeros((0, dimension), np.float32))
    for part in recorded or parts:
        total = total + part.statistics
    return total


def _unread(manifest: Manifest, settings: SearchSettings, device: torch.device) -> frozenset[str]:
    """The files of the vectors that are not read when a version is opened, where they are many."""
    index, covered, names = manifest.index, 0, set()
    viewed = effective_settings(settings, manifest.description)
    if index is None or dict(index.search) != viewed.values() or device.type == 'cuda':
        return frozenset()
    for part in manifest.parts:
        if part.kind != HELD_OUT and covered < index.vectors:
            names.add(f'{part.name}/{VECTORS}')
            covered += part.vectors
    return frozenset(names) if sum(manifest.files[name].size for name in names) > READ_LATER else frozenset()


def _listed(settings: Mapping[str, object]) -> str:
    return ', '.join(f'{name} {value}' for name, value in sorted(settings.items()))
