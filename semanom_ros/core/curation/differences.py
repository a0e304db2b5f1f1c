"""What two versions of a database, or two databases, do not have in common, and how much of that the other covers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from semanom_ros.core.curation.publishing import Recipe
from semanom_ros.core.database.manifest import HELD_OUT, REVIEWED, Manifest
from semanom_ros.core.database.nominal_database import NominalDatabase, NominalExample
from semanom_ros.core.database.published import read_calibration, verify_files
from semanom_ros.core.database.storage import FrameRecord, NominalFrame, Part
from semanom_ros.core.progress import SILENT, Progress
from semanom_ros.core.scoring.calibration import distances_of, stored_parameters
from semanom_ros.core.scoring.comparison import Comparison
from semanom_ros.core.scoring.regions import STRETCH_SECONDS
from semanom_ros.errors import DatabaseError

USUAL = 0.95
"""Share of a database's own embeddings that are as near to its rest as what it covers."""

MOST_COMPARED = 500
"""Frames on either side that are compared with the other, evenly spread where there are more."""

MOST_SHOWN = 24
_OWN = 200  # frames of a database that say what is usual in it

Key = tuple[bool, str, str, int, int]


@dataclass(frozen=True)
class Version:
    """A version of a database in a folder."""

    path: Path
    manifest: Manifest

    def __str__(self) -> str:
        return f'{self.path} version {self.manifest.version}'


@dataclass(frozen=True)
class Held:
    """What one side holds of a camera in a recording, or of a camera in all.

    Attributes:
        frames, vectors: how many.
        own_frames, own_vectors: of these, those of frames that the other side does not have.
        compared: of the own frames, those that were compared with the other side.
        covered: share of their embeddings that the other side covers; None: nothing was compared, or the other side is
            too small to say what is usual in it.
        distance: mean distance of their embeddings to the other side; None: nothing was compared.
    """

    frames: int
    vectors: int
    own_frames: int
    own_vectors: int
    compared: int
    covered: float | None
    distance: float | None


@dataclass(frozen=True)
class Stream:
    """A camera in a recording, or in all.

    Attributes:
        source, source_sha256: the recording; '' for all.
        topic: of the camera.
        before, after: what either side holds of it.
    """

    source: str
    source_sha256: str
    topic: str
    before: Held
    after: Held


@dataclass(frozen=True)
class OwnFrame:
    """A frame that the other side does not have, compared with it.

    Attributes:
        record: which.
        covered: share of its embeddings that the other side covers; None: it is too small to say.
        distance: mean distance of its embeddings to the other side.
        farthest: distance of the one that is farthest.
        box: (x, y, width, height) of that one in pixels of the picture.
        picture: JPEG, '' where none was kept.
        nearest: what it resembles most on the other side.
    """

    record: FrameRecord
    covered: float | None
    distance: float
    farthest: float
    box: tuple[int, int, int, int]
    picture: bytes
    nearest: NominalExample


@dataclass(frozen=True)
class Difference:
    """What two versions do not have in common.

    Attributes:
        before, after: the versions.
        total: all that they hold.
        cameras: by topic, over all recordings.
        recordings: by recording and topic.
        new, gone: frames that only `after`, or `before`, has: those that resemble the other side least first, none of
            them close in time to one before it; at most MOST_SHOWN.
        usual: distance within which (before, after) cover an embedding; None: too small to say.
    """

    before: Version
    after: Version
    total: Stream
    cameras: tuple[Stream, ...]
    recordings: tuple[Stream, ...]
    new: tuple[OwnFrame, ...]
    gone: tuple[OwnFrame, ...]
    usual: tuple[float | None, float | None]


def difference(before: Version, after: Version, progress: Progress = SILENT) -> Difference:
    """Compares two versions by the frames that they hold.

    A frame is the same where recording, topic and stamp are; of one that was compacted the rest of its embeddings are
    counted. Frames that one side alone has are compared with the other as that is searched. It covers an embedding that
    is no farther from it than 95 % of its own are from what is more than two seconds away from them.

    Args:
        before, after: of one database, or of two that were made with one encoder.
        progress: is told.

    Raises:
        DatabaseError: files are missing or damaged, or the embeddings cannot be compared.
    """
    different = before.manifest.description.difference(after.manifest.description)
    if different:
        field, expected, found = different
        raise DatabaseError(f'{after.path}: {field}: found {found}, expected {expected} as in {before.path}; compare '
                            'databases of one encoder and variant')
    verify_files(before.path, before.manifest, progress)
    known = before.manifest.files if before.path == after.path else {}
    verify_files(after.path, after.manifest.replace(files={
        name: entry for name, entry in after.manifest.files.items() if known.get(name) != entry}), progress)
    held = [list(_frames(version)) for version in (before, after)]
    keys = [{key for key, _, _ in frames} for frames in held]
    own = [[one for one in frames if one[0] not in others]
           for frames, others in zip(held, reversed(keys), strict=True)]
    # each side's frames are compared with the other side
    compared, usual = zip(*(_compare(frames, other, progress) for frames, other in
                            zip(own, (after, before), strict=True)), strict=True)
    streams = dict.fromkeys(_stream(part, index) for frames in held for _, part, index in frames)
    sides = [_Side(frames, {key for key, _, _ in mine}, found)
             for frames, mine, found in zip(held, own, compared, strict=True)]
    return Difference(
        before, after, Stream('', '', '', *(side.held(streams) for side in sides)),
        tuple(Stream('', '', topic, *(side.held([one for one in streams if one[2] == topic]) for side in sides))
              for topic in sorted({topic for _, _, topic in streams})),
        tuple(Stream(*stream, *(side.held([stream]) for side in sides)) for stream in streams),
        _shown(compared[1]), _shown(compared[0]), (usual[1], usual[0]))


def _frames(version: Version) -> Iterator[tuple[Key, Part, int]]:
    """Every frame: its key, and where it is. A frame that was reviewed twice has two keys."""
    seen: Counter[tuple] = Counter()
    for entry in version.manifest.parts:
        part = entry.open(version.path, version.manifest.description.dimension)
        for index in range(len(part.frames)):
            key = (entry.kind == REVIEWED, *part.record(index, entry.kind == HELD_OUT).key)
            yield (*key, seen[key]), part, index
            seen[key] += 1


def _stream(part: Part, index: int) -> tuple[str, str, str]:
    record = part.record(index, False)
    return record.source, record.source_sha256, record.topic


class _Side:
    """Counts of one side by stream."""

    def __init__(self, frames: Sequence[tuple[Key, Part, int]], own: set[Key], compared: Sequence[_Compared]) -> None:
        self._counts: dict[tuple[str, str, str], npt.NDArray[np.int64]] = {}
        for key, part, index in frames:
            mine, vectors = key in own, int(part.frames[index]['count'])
            counts = self._counts.setdefault(_stream(part, index), np.zeros(4, np.int64))
            counts += (1, vectors, mine, mine * vectors)
        self._compared: dict[tuple[str, str, str], list[_Compared]] = {}
        for one in compared:
            record = one.frame.record
            self._compared.setdefault((record.source, record.source_sha256, record.topic), []).append(one)

    def held(self, streams: Iterable[tuple[str, str, str]]) -> Held:
        """What it holds of some streams."""
        streams = list(streams)
        counts = sum((self._counts.get(stream, np.zeros(4, np.int64)) for stream in streams), np.zeros(4, np.int64))
        found = [one for stream in streams for one in self._compared.get(stream, [])]
        distances = [one.distances for one in found]
        covered = [one.covered for one in found if one.covered is not None]
        frames, vectors, own_frames, own_vectors = counts.tolist()
        return Held(frames, vectors, own_frames, own_vectors, len(found),
                    float(np.concatenate(covered).mean()) if covered else None,
                    float(np.concatenate(distances).mean()) if distances else None)


@dataclass(frozen=True)
class _Compared:
    """A frame, and how far its embeddings are from the other side."""

    frame: NominalFrame
    picture: bytes
    distances: npt.NDArray[np.float32]
    covered: npt.NDArray[np.bool_] | None
    nearest: NominalExample


def _compare(own: Sequence[tuple[Key, Part, int]], other: Version, progress: Progress
             ) -> tuple[list[_Compared], float | None]:
    """Frames compared with the other side, and within what distance that covers an embedding."""
    own = [(key, part, index) for key, part, index in own if part.frames[index]['count']]
    if not own:
        return [], None
    recipe = Recipe.as_before(other.manifest, stored_parameters(read_calibration(other.path, other.manifest)))
    database, compare = NominalDatabase(other.path, other.manifest, recipe.search), Comparison.of(recipe.score)
    usual = [one.distances for one in distances_of(database, compare, _OWN, progress)]
    level = float(np.quantile(np.concatenate(usual), USUAL)) if usual else None
    chosen = np.unique(np.linspace(0, len(own) - 1, min(len(own), MOST_COMPARED)).astype(np.int64))
    found = []
    progress.begin(f'compare with version {other.manifest.version}', len(chosen), 'frame')
    for number in chosen:
        progress.advance(1)
        _, part, index = own[number]
        frame = part.frame(index, False)
        distances, nearest = compare(database, frame.vectors, frame.places)
        farthest = int(distances.argmax())
        if not np.isfinite(distances).all():  # an index that finds fewer neighbours than are asked for
            continue
        found.append(_Compared(frame, part.thumbnail(index), distances, None if level is None else distances <= level,
                               database.example(int(nearest[farthest]), float(distances[farthest]))))
    progress.end()
    return found, level


def _shown(compared: Sequence[_Compared]) -> tuple[OwnFrame, ...]:
    """Those that resemble the other side least, none of them close in time to one before it."""
    shown: list[OwnFrame] = []
    for one in sorted(compared, key=lambda one: (
            0.0 if one.covered is None else float(one.covered.mean()), -float(one.distances.mean()))):
        record = one.frame.record
        near = any(other.record.key[:2] == record.key[:2]
                   and abs(other.record.stamp_ns - record.stamp_ns) <= STRETCH_SECONDS * 1e9 for other in shown)
        if near or len(shown) == MOST_SHOWN:
            continue
        farthest = int(one.distances.argmax())
        x, y, width, height = one.frame.boxes[farthest].tolist()
        shown.append(OwnFrame(
            record, None if one.covered is None else float(one.covered.mean()), float(one.distances.mean()),
            float(one.distances[farthest]), (x, y, width, height), one.picture, one.nearest))
    return tuple(shown)
