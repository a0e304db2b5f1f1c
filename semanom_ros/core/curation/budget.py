"""How many vectors, in which codes and with which index, a vehicle has the memory and the time for."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np
import numpy.typing as npt
import torch

from semanom_ros.core.curation.publishing import IndexSettings, Recipe, fill_index, suggested_lists
from semanom_ros.core.curation.reduction import Ranking
from semanom_ros.core.database.half_precision import HalfPrecisionVectors
from semanom_ros.core.database.index import NearestNeighbours, Searched
from semanom_ros.core.database.index_file import faiss
from semanom_ros.core.database.manifest import EXACT, NPROBE
from semanom_ros.core.database.points import Points, gathered
from semanom_ros.core.database.storage import FrameRecord
from semanom_ros.core.database.streamed import StreamedDatabase, StreamedVectors
from semanom_ros.core.progress import SILENT, Progress
from semanom_ros.core.scoring.regions import STRETCH_SECONDS
from semanom_ros.errors import DatabaseError

FEWEST = 1000
"""Vectors below which nothing is offered, where there are as many."""

_FRAMES, _QUERIES = 8, 2048  # nominal frames that distances are measured with, and patches of all of them
_TURNS = 5  # searches of each frame
_ATTEMPTS = 8  # to meet a time with fewer vectors
_NEAR_ENOUGH = 1.3  # times as many are too slow: no more are tried
_PROVENANCE = 24  # bytes of box and position of a vector, which are in memory
_LISTED = 16  # bytes of the number of a vector in an index, and of where it stands in it


@dataclass(frozen=True)
class Budget:
    """What a vehicle has.

    Attributes:
        megabytes: that vectors, index, boxes and positions may take in memory, 10^6 bytes; None: any.
        milliseconds: that the search for every patch of a frame may take; None: any.
        device: where it searches.
    """

    megabytes: float | None
    milliseconds: float | None
    device: torch.device


@dataclass(frozen=True)
class Codes:
    """How vectors are held.

    Attributes:
        name: for people.
        bytes: of a number.
        factory: of FAISS behind the inverted lists; '' where all are searched exactly.
    """

    name: str
    bytes: float
    factory: str = ''


ON_CPU = (Codes('fp32', 4), Codes('fp16', 2, 'SQfp16'), Codes('int8', 1, 'SQ8'))
ON_GPU = (Codes('two halves', 4),)


@dataclass(frozen=True)
class Choice:
    """One way to search, as it was measured.

    Attributes:
        codes: how the vectors are held.
        vectors: how many.
        index: what searches them.
        megabytes: in memory.
        milliseconds: of the search for every patch of a frame, median.
        error_mean, error_p99: how much larger distances of nominal frames are than those to all vectors, exactly;
            mean, and 99 % quantile of the absolute difference.
        fits: whether the budget is met.
    """

    codes: str
    vectors: int
    index: IndexSettings
    megabytes: float
    milliseconds: float
    error_mean: float
    error_p99: float
    fits: bool


@dataclass
class Fitting:
    """Chooses for a budget, by what is measured on this machine; see `operations.compact`.

    Attributes:
        budget: of the vehicle.
        recipe: what the database is for.
        progress: is told.
        tried: what was measured.
        patches: of the frames that it was measured with.
    """

    budget: Budget
    recipe: Recipe
    progress: Progress = SILENT
    tried: list[Choice] = field(default_factory=list)
    patches: int = 0

    @property
    def chosen(self) -> Choice:
        """Of what fits, what changes distances least."""
        return min((one for one in self.tried if one.fits), key=lambda one: (one.error_mean, one.milliseconds))

    def most(self, vectors: int, dimension: int) -> int:
        """How many vectors may be wanted at most, so many at least that there is something to offer.

        Raises:
            DatabaseError: not even FEWEST fit the memory, or there are none.
        """
        if not vectors:
            raise DatabaseError('compact: found no recorded vectors, expected some that may be dropped; what was '
                                'reviewed stays whole')
        codes = ON_GPU if self.budget.device.type == 'cuda' else ON_CPU
        room = max(self._room(one, vectors, dimension) for one in codes)
        least = min(FEWEST, vectors)
        if room < least:
            needed = min(_bytes(one, least, dimension) for one in codes) / 1e6
            raise DatabaseError(f'compact: found --budget-mb {self.budget.megabytes:g}, expected {_up(needed)} or '
                                f'more, which {least:,} vectors take, the fewest that are offered; raise it')
        return room

    def _room(self, codes: Codes, vectors: int, dimension: int) -> int:
        """How many of so many vectors fit the memory."""
        if self.budget.megabytes is None:
            return vectors
        fits, beyond = 0, vectors + 1
        while beyond - fits > 1:
            middle = (fits + beyond) // 2
            if _bytes(codes, middle, dimension) <= self.budget.megabytes * 1e6:
                fits = middle
            else:
                beyond = middle
        return fits

    def __call__(self, database: StreamedDatabase, ranked: Ranking) -> tuple[int, IndexSettings]:
        """How many of the ranked vectors to keep, and how to search them.

        Raises:
            DatabaseError: no way fits, with the nearest that does; or there is no frame to measure with.
        """
        points = database.recorded()
        asked = _Asked.of(database, points)
        self.patches = round(median(len(whole) for whole in asked.whole))
        for codes in ON_GPU if self.budget.device.type == 'cuda' else ON_CPU:
            room = min(self._room(codes, len(ranked), points.shape[1]), len(ranked))
            if room >= min(FEWEST, len(ranked)):
                self.tried.append(self._fitted(codes, room, points, ranked, asked))
        if not any(one.fits for one in self.tried):
            nearest = min(self.tried, key=lambda one: one.milliseconds)
            raise DatabaseError(f'compact: found --budget-ms {self.budget.milliseconds:g}, expected '
                                f'{_up(nearest.milliseconds)} or more, which the search for {self.patches:,} patches '
                                f'in {nearest.vectors:,} vectors of {nearest.codes} takes here, the quickest that is '
                                'offered; raise it')
        return self.chosen.vectors, self.chosen.index

    def _fitted(self, codes: Codes, vectors: int, points: StreamedVectors, ranked: Ranking, asked: _Asked) -> Choice:
        """As many vectors of some codes, of at most so many, as the time is enough for."""
        limit, fewest = self.budget.milliseconds, min(FEWEST, len(ranked))
        room, slow, best = vectors, vectors + 1, None
        for _ in range(_ATTEMPTS):
            choice = self._measured(codes, vectors, points, ranked, asked)
            if choice.fits:
                best = choice
                if vectors == room or vectors * _NEAR_ENOUGH >= slow:
                    break
            else:
                slow = vectors
                if vectors <= fewest or limit is None:
                    break
            if best is not None:
                vectors = int(math.sqrt(best.vectors * slow))
            elif limit is not None:
                vectors = max(fewest, int(vectors * min(0.8, 0.9 * limit / choice.milliseconds)))
        return best or choice

    def _measured(self, codes: Codes, vectors: int, points: StreamedVectors, ranked: Ranking, asked: _Asked) -> Choice:
        """Builds it and searches; with fewer inverted lists visited where the time wants it."""
        kept = ranked.first(vectors)
        own = _Chosen(points, kept)
        k, limit = min(self.recipe.score.neighbours, vectors), self.budget.milliseconds
        lists = suggested_lists(vectors)
        factory = f'IVF{lists},{codes.factory}' if codes.factory else EXACT
        if codes.factory:
            index = faiss.index_factory(own.shape[1], factory, faiss.METRIC_L2)
            fill_index(index, own, self.progress)
            searched: list[Searched] = []
        else:
            index = None
            searched = [self._held(own)]
        nprobe = NPROBE
        while True:
            neighbours = NearestNeighbours(searched, index, nprobe)
            milliseconds = _time(neighbours, asked.whole, k, self.budget.device)
            fits = limit is None or milliseconds <= limit
            if fits or index is None or nprobe == 1:
                break
            nprobe //= 2
        errors = asked.errors(neighbours, kept, k, self.budget.device)
        return Choice(codes.name, vectors, IndexSettings(factory, nprobe if index is not None else 0),
                      _bytes(codes, vectors, own.shape[1]) / 1e6, milliseconds, float(errors.mean()),
                      float(np.quantile(np.abs(errors), 0.99)), fits)

    def _held(self, points: Points) -> Searched:
        if self.budget.device.type == 'cpu':
            return gathered(points, np.arange(points.shape[0])).numpy()
        held = HalfPrecisionVectors(*points.shape, self.budget.device)
        for start, block in points.blocks():
            held.put(start, block.to(self.budget.device))
        return held


def _bytes(codes: Codes, vectors: int, dimension: int) -> float:
    """In memory of a detector."""
    each = codes.bytes * dimension + _PROVENANCE
    if not codes.factory:
        return vectors * each
    return vectors * (each + _LISTED) + 4 * dimension * (suggested_lists(vectors) if vectors else 0)


def _up(value: float) -> str:
    """Three digits, not less than the value."""
    return f'{value * 1.005:.3g}'


def _time(neighbours: NearestNeighbours, frames: Sequence[torch.Tensor], k: int, device: torch.device) -> float:
    """Milliseconds of the search for all patches of a frame, median; the first one of each does not count."""
    taken = []
    for queries in frames[:_TURNS]:
        here = queries.to(device)
        neighbours.search(here, k)
        begun = time.perf_counter()
        neighbours.search(here, k)
        taken.append((time.perf_counter() - begun) * 1e3)
    return median(taken)


class _Chosen:
    """Some of the points, by ascending rows."""

    def __init__(self, points: Points, rows: npt.NDArray[np.int64]) -> None:
        self._points, self._rows = points, rows
        self.shape = len(rows), points.shape[1]

    def blocks(self) -> Iterator[tuple[int, torch.Tensor]]:
        """In their order."""
        for start, block in self._points.blocks():
            first, last = np.searchsorted(self._rows, (start, start + len(block)))
            if last > first:
                yield int(first), block[torch.from_numpy(self._rows[first:last] - start)]


@dataclass(frozen=True)
class _Asked:
    """Nominal frames that are searched for.

    Attributes:
        whole: all patches of each, as they are searched for.
        some: a few of these.
        excluded: rows that each frame may not find: itself and its neighbours in time.
        exact: distances of `some` to the nearest of all.
    """

    whole: list[torch.Tensor]
    some: list[torch.Tensor]
    excluded: list[tuple[int, int]]
    exact: list[npt.NDArray[np.float32]]

    @classmethod
    def of(cls, database: StreamedDatabase, points: StreamedVectors) -> _Asked:
        """Evenly spread over those that a calibration is made from.

        Raises:
            DatabaseError: there is none that can be compared with others.
        """
        frames = database.calibrating()
        whole, some, excluded = [], [], []
        for number in np.unique(np.linspace(0, len(frames) - 1, min(len(frames), _FRAMES)).astype(int)) if len(frames) \
                else ():
            frame = frames[int(number)]
            queries = database.embed(frame.vectors, frame.places)
            away = (0, 0) if frame.record.held_out else _near(points, frame.record)
            if len(queries) and away[1] - away[0] < points.shape[0]:
                rows = np.unique(np.linspace(0, len(queries) - 1, min(len(queries), _QUERIES // _FRAMES)).astype(int))
                whole.append(queries)
                some.append(queries[torch.from_numpy(rows)])
                excluded.append(away)
        if not whole:
            raise DatabaseError(f'{database.path}: found no nominal frame that can be compared with others, expected '
                                'some to measure budgets with: its frames were compacted, or its drive is too short; '
                                'go back (semanom db revert), or append a drive (semanom record --append)')
        best = [torch.full((len(queries),), torch.inf) for queries in some]
        for start, block in points.blocks():
            squares = block.square().sum(dim=1)[None] / 2
            for queries, (first, end), found in zip(some, excluded, best, strict=True):
                near = torch.addmm(squares, queries, block.T, alpha=-1.0)
                near[:, max(0, first - start):max(0, end - start)] = torch.inf
                torch.minimum(found, near.amin(dim=1), out=found)
        exact = [(found + queries.square().sum(dim=1) / 2).clamp(min=0).numpy()
                 for queries, found in zip(some, best, strict=True)]
        return cls(whole, some, excluded, exact)

    def errors(self, neighbours: NearestNeighbours, kept: npt.NDArray[np.int64], k: int, device: torch.device
               ) -> npt.NDArray[np.float64]:
        """How much larger the distances to the nearest are than the exact ones to all."""
        found = []
        for queries, away, exact in zip(self.some, self.excluded, self.exact, strict=True):
            first, end = np.searchsorted(kept, away)
            distances = neighbours.search(queries.to(device), k, (int(first), int(end)))[0][:, 0]
            # nothing else was kept: no likeness to anything nominal
            found.append(np.where(np.isfinite(distances), distances, 1.0).astype(np.float64) - exact)
        return np.concatenate(found)


def _near(points: StreamedVectors, record: FrameRecord) -> tuple[int, int]:
    """(first, end) of the rows of frames of its source that are near a frame in time."""
    first, rows = 0, []
    for part in points.parts:
        close = np.abs(part.frames['stamp_ns'] - record.stamp_ns) <= STRETCH_SECONDS * 1e9
        for index in np.flatnonzero(close):
            one = part.record(int(index), held_out=False)
            if (one.source, one.source_sha256) == (record.source, record.source_sha256):
                begin = first + int(part.frames[index]['first'])
                rows += [begin, begin + int(part.frames[index]['count'])]
        first += len(part.vectors)
    return (min(rows), max(rows)) if rows else (0, 0)
