"""The vectors of a version as they are searched, in blocks: none of them stays in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from semanom_ros.core.database.index import Space, Vectors
from semanom_ros.core.database.manifest import HELD_OUT, RECORDED, Manifest, PartEntry
from semanom_ros.core.database.nominal_database import effective_settings, statistics_of
from semanom_ros.core.database.storage import FrameSequence, Part
from semanom_ros.settings import SearchSettings

_CPU = torch.device('cpu')


class StreamedVectors:
    """The vectors of some parts, one after the other, brought into the space that they are searched in.

    Attributes:
        parts: of which they are.
        shape: (N, d), with the coordinates of the place.
    """

    def __init__(self, parts: Sequence[Part], space: Space, dimension: int) -> None:
        self.parts, self._space = parts, space
        self.shape = sum(len(part.vectors) for part in parts), dimension + space.coordinates

    def blocks(self) -> Iterator[tuple[int, torch.Tensor]]:
        """All of them: number of the first one of a block, and (n, d) float32.

        Raises:
            DatabaseError: embeddings that are not of unit length.
        """
        first = 0
        for part in self.parts:
            for start, vectors in self._space.embedded(part, _CPU):
                yield first + start, vectors
            first += len(part.vectors)


class StreamedDatabase:
    """One version of a database of which the vectors are read when they are gone through.

    Attributes:
        path: the folder.
        entries, parts: of those to compare with, in the order of the vectors.
        statistics: of each dimension, as the space is made with.
    """

    def __init__(self, root: Path, manifest: Manifest, search: SearchSettings) -> None:
        """
        Args:
            root, manifest: the folder, and the version.
            search: how it will be viewed.

        Raises:
            DatabaseError: a part is damaged.
        """
        self.path, self._dimension = root, manifest.description.dimension
        opened = [(entry, entry.open(root, self._dimension)) for entry in manifest.parts]
        self._held_out = [part for entry, part in opened if entry.kind == HELD_OUT]
        self.entries: list[PartEntry] = [entry for entry, _ in opened if entry.kind != HELD_OUT]
        self.parts = [part for entry, part in opened if entry.kind != HELD_OUT]
        self.statistics = statistics_of(self.parts, self.entries, self._dimension)
        self._space = Space(effective_settings(search, manifest.description), self.statistics)

    def recorded(self) -> StreamedVectors:
        """The vectors of nominal drives, without what was reviewed."""
        return StreamedVectors([part for part, entry in zip(self.parts, self.entries, strict=True)
                                if entry.kind == RECORDED], self._space, self._dimension)

    def embed(self, vectors: Vectors, places: Vectors) -> torch.Tensor:
        """(M, d) float32 queries (M, D) at places (M, 3) in the space in which they are compared."""
        return self._space.embed(vectors, places)

    def all(self) -> StreamedVectors:
        """All vectors to compare with."""
        return StreamedVectors(self.parts, self._space, self._dimension)

    def calibrating(self) -> FrameSequence:
        """The frames that a calibration is made from: those held out, or else those that hold all of their vectors."""
        if self._held_out:
            return FrameSequence(self._held_out, held_out=True)
        return FrameSequence([part for part, entry in zip(self.parts, self.entries, strict=True)
                              if entry.kind == RECORDED and entry.whole], held_out=False)
