"""Recordings that were embedded: an index of them, and what databases and indices hold, for a search through all.

An index is a folder of databases that are not calibrated, one for each recording: embedded as nominal drives are, by
the same code, resumable and published in one step. Nothing in it is said to be nominal.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from semanom_ros.core.database.engines import TORCH, load_embedder
from semanom_ros.core.database.manifest import PartEntry
from semanom_ros.core.database.published import STAGING, read_manifest
from semanom_ros.core.database.storage import FrameRecord, Part
from semanom_ros.core.database.transaction import exists
from semanom_ros.core.embedding.description import EmbeddingDescription
from semanom_ros.core.embedding.embedder import Embedder
from semanom_ros.core.progress import Progress
from semanom_ros.errors import DatabaseError
from semanom_ros.recordings.bags import BagReader
from semanom_ros.recordings.nominal_recording import BagRecording, record_bags
from semanom_ros.settings import MethodSettings, Settings

log = logging.getLogger(__name__)


@dataclass
class Indexing:
    """What came of indexing recordings.

    Attributes:
        made: what was embedded now, by the folder that it went to.
        known: recordings that the index held already.
    """

    made: dict[Path, BagRecording] = field(default_factory=dict)
    known: list[Path] = field(default_factory=list)


def embedder_for(settings: MethodSettings) -> Embedder:
    """The encoder itself and no engine of it: only that has a text tower, and what is searched has no certificate."""
    return load_embedder(settings.changed({'backend': TORCH}))


def index_recordings(bags: Sequence[Path], folder: Path, settings: Settings, progress: Progress,
                     embedder: Embedder | None = None) -> Indexing:
    """Embeds recordings, each into a folder of its own that comes into place in one step.

    Killed at any moment, it goes on there when it is called again; a recording that is in the index is passed over,
    wherever it lies now. Several processes may add different recordings at the same time.

    Args:
        bags: recordings, as BagReader takes them.
        folder: of the index.
        settings: of the method and the recorder.
        progress: is told.
        embedder: loaded already; None: loaded from the settings.

    Raises:
        SemanomError: a recording, topic or encoder will not do, another process is at work on the same recording, or
            the index was made with another encoder.
    """
    targets = {}
    for bag in bags:  # all of them looked at before the encoder is loaded and hours are spent
        with BagReader(bag) as reader:
            for topic in [topic for topic in settings.recorder.image_topics if topic] or ['']:
                reader.image_topic(topic)
            mark = reader.fingerprint()[:8]
            there = sorted(folder.glob(f'*-{mark}'))  # by whatever name it was indexed, or begun
            targets[bag] = there[0] if there else folder / f'{reader.path.stem}-{mark}'
    embedder = embedder or embedder_for(settings.method)
    for path in indexed(folder):
        difference = read_manifest(path).description.difference(embedder.description)
        if difference:
            name, found, expected = difference
            raise DatabaseError(f'{path}: {name}: found {found}, expected {expected} (in use now); index with what the '
                                'others were made with, or give another folder')
    folder.mkdir(parents=True, exist_ok=True)
    result = Indexing()
    for bag, target in targets.items():
        if exists(target):
            result.known.append(bag)
        else:
            result.made[target] = record_bags([bag], target, settings, progress, embedder, calibrated=False)
    return result


def indexed(folder: Path) -> list[Path]:
    """The recordings of an index that are in place, sorted."""
    return sorted(path for path in folder.glob('*') if exists(path)) if folder.is_dir() else []


def databases_of(databases: Sequence[Path], indices: Sequence[Path]) -> list[Path]:
    """Folders to search: databases, and those of indices.

    Raises:
        DatabaseError: a folder is no index, or there is no recording in it yet.
    """
    found = list(databases)
    for index in indices:
        if exists(index):
            raise DatabaseError(f'{index}: found a nominal database, expected an index that semanom index made; give '
                                f'it as --database {index}')
        own = indexed(index)
        unfinished = [path.parent for path in sorted(index.glob(f'*/{STAGING}')) if path.parent not in own]
        if not own:
            what = ('a recording that is not finished' if unfinished else 'none' if index.is_dir() else 'no folder')
            raise DatabaseError(f'{index}: found {what}, expected recordings that semanom index embedded; run semanom '
                                f'index BAG... --output {index}')
        for path in unfinished:
            log.warning('%s: is not finished, and is not searched', path)
        found += own
    return found


@dataclass(frozen=True)
class Stored:
    """Embedded frames that lie in one part of a database.

    Attributes:
        folder: the database.
        part: its files.
        entry: what its manifest says of them.
        nominal: whether that is a nominal database, and no recording of an index.
    """

    folder: Path
    part: Part
    entry: PartEntry
    nominal: bool

    def record(self, index: int) -> FrameRecord:
        """Where a frame comes from."""
        return self.part.record(index, held_out=False)

    def stretches(self, vectors: int) -> Iterator[slice]:
        """The frames that hold embeddings, in runs of about so many of these."""
        counts = self.part.frames['count']
        ends = np.cumsum(counts)
        start = 0
        while start < len(counts):
            before = int(ends[start] - counts[start])
            stop = max(start + 1, int(np.searchsorted(ends, before + vectors, side='right')))
            yield slice(start, stop)
            start = stop


class EmbeddedRecordings:
    """Everything that was embedded, of databases and indices of one encoder.

    Attributes:
        folders: what was opened.
        stored: the parts.
        description: what made the embeddings.
    """

    def __init__(self, databases: Sequence[Path], indices: Sequence[Path]) -> None:
        """
        Args:
            databases: nominal ones.
            indices: folders that `semanom index` made; at least one of both.

        Raises:
            DatabaseError: one is unusable, or was made with another encoder than the first, or an index is empty.
        """
        folders = databases_of(databases, indices)
        self.folders = folders
        self.stored: list[Stored] = []
        described: EmbeddingDescription | None = None
        for folder in folders:
            manifest = read_manifest(folder)
            described = described or manifest.description
            difference = manifest.description.difference(described)
            if difference:
                name, found, expected = difference
                raise DatabaseError(f'{folder}: {name}: found {found}, expected {expected} as in {folders[0]}; search '
                                    'those apart, or index the recordings anew with one encoder')
            self.stored += [Stored(folder, entry.open(folder, described.dimension), entry, folder in databases)
                            for entry in manifest.parts]
        assert described is not None
        self.description = described

    @property
    def frames(self) -> int:
        """How many there are; one that lies in two folders counts twice."""
        return sum(len(one.part.frames) for one in self.stored)

    def check_compatible(self, description: EmbeddingDescription) -> None:
        """Refuses to ask with another encoder than made the embeddings.

        Raises:
            DatabaseError: names the first field that differs.
        """
        difference = self.description.difference(description)
        if difference:
            name, found, expected = difference
            raise DatabaseError(f'{self.folders[0]}: {name}: found {found}, expected {expected} (loaded now); load '
                                'what it was made with, or index the recordings anew')

    def sources(self) -> dict[str, str]:
        """Paths of the recordings as they were when they were embedded, by their fingerprints."""
        return {sha256: path for one in self.stored for path, sha256, _, _ in one.part.sources()}
