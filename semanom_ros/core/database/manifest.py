"""What a version of a nominal database says about itself: `manifest.json`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from semanom_ros.core.database.storage import FileEntry
from semanom_ros.core.embedding.description import EmbeddingDescription, parse_description
from semanom_ros.errors import DatabaseError

SCHEMA_VERSION = 2
FORMAT = 'semanom nominal database'
MANIFEST = 'manifest.json'

RECORDED, REVIEWED, HELD_OUT = 'recorded', 'reviewed', 'held_out'
"""Kinds of parts: nominal drives, what a person accepted as nominal, and what calibration keeps aside."""


@dataclass(frozen=True)
class Source:
    """Where nominal frames came from.

    Attributes:
        path: the bag's path as it was given, `live:<topic>`, or `reviewed:<source>`.
        sha256: which recording that is, wherever it lies: see `BagReader.fingerprint`.
        topics: image topics.
        frames, held_out_frames: frames to compare with, and frames kept aside for calibration.
        first_stamp_ns, last_stamp_ns: the stretch of time.
    """

    path: str
    sha256: str
    topics: tuple[str, ...]
    frames: int
    held_out_frames: int
    first_stamp_ns: int
    last_stamp_ns: int


@dataclass(frozen=True)
class PartEntry:
    """One immutable folder of embeddings.

    Attributes:
        name: folder, relative to the database, e.g. `v000001/recorded`.
        kind: `recorded`, `reviewed` or `held_out`.
        vectors, frames: how many it holds.
        whole: its frames hold all of their embeddings; not after it was compacted.
    """

    name: str
    kind: str
    vectors: int
    frames: int
    whole: bool = True


@dataclass(frozen=True)
class IndexEntry:
    """An approximate index over the first `vectors` nominal embeddings.

    Attributes:
        file: relative to the database.
        factory: FAISS factory string, e.g. `IVF4096,SQfp16`.
        nprobe: inverted lists visited by a search.
        search: the space that it was built in, by the parameters of the section `SearchSettings`.
        vectors: how many embeddings it covers; later ones are searched exactly.
    """

    file: str
    factory: str
    nprobe: int
    search: Mapping[str, Any]
    vectors: int


@dataclass(frozen=True)
class LearnedEntry:
    """What `semanom learn` has made.

    Attributes:
        file: relative to the database; the arrays of a plausibility model.
        composites: pictures with transplants that it was learned from.
        seed: of the choice of transplants.
    """

    file: str
    composites: int
    seed: int


@dataclass(frozen=True)
class Manifest:
    """One version of a database: everything that a reader needs to know before it opens a file.

    Attributes:
        version: counts up from 1 with every change.
        description: what made the embeddings.
        vectors, frames: nominal embeddings to compare with, and the frames that they come from.
        held_out_vectors, held_out_frames: what is kept aside for calibration.
        sources: where the frames came from.
        parts: the folders that hold the embeddings, in the order of the vectors' indices.
        index: the approximate index, None for exact search.
        calibration: file with the calibration arrays, '' when not calibrated.
        learned: what belongs where, None when that was not learned.
        files: every other file of this version, relative to the database.
        change: what made this version, for people.
        created: UTC, ISO 8601.
        package_version: of semanom_ros that wrote it.
    """

    version: int
    description: EmbeddingDescription
    vectors: int
    frames: int
    held_out_vectors: int
    held_out_frames: int
    sources: tuple[Source, ...]
    parts: tuple[PartEntry, ...]
    index: IndexEntry | None
    calibration: str
    learned: LearnedEntry | None
    files: Mapping[str, FileEntry]
    change: str
    created: str
    package_version: str
    schema_version: int = SCHEMA_VERSION

    @property
    def calibrated(self) -> bool:
        """Whether calibration arrays are stored."""
        return bool(self.calibration)

    def replace(self, **changes: Any) -> Manifest:
        """The same with some fields changed."""
        return replace(self, **changes)

    def dumps(self) -> str:
        """As JSON, with a checksum over the rest in the field `sha256`."""
        content = {'format': FORMAT, **asdict(self)}
        content['sha256'] = _checksum(content)
        return json.dumps(content, indent=1, sort_keys=True) + '\n'

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Reads and checks a manifest.

        Raises:
            DatabaseError: unreadable, changed since it was written, or of a newer schema.
        """
        try:
            content = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise DatabaseError(f'{path}: unreadable ({reason}); restore it from a copy or record anew') from error
        if not isinstance(content, dict) or content.get('format') != FORMAT:
            raise DatabaseError(f'{path}: not the manifest of a nominal database; '
                                'give a folder that semanom record made')
        schema = content.get('schema_version')
        if schema != SCHEMA_VERSION:
            raise DatabaseError(f'{path}: schema_version: found {schema}, expected {SCHEMA_VERSION}; '
                                'use the semanom_ros that wrote it, or record anew')
        found, expected = _checksum(content), content.get('sha256')
        if found != expected:
            raise DatabaseError(f'{path}: sha256: found {found}, expected {expected}; '
                                'it was changed after it was written: restore it from a copy or record anew')
        try:
            return _parse(content)
        except (KeyError, TypeError, ValueError) as error:
            raise DatabaseError(f'{path}: field missing or malformed ({error}); record anew') from error


def _checksum(content: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in content.items() if key != 'sha256'}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _parse(content: dict[str, Any]) -> Manifest:
    rest = {key: value for key, value in content.items() if key not in ('format', 'sha256')}
    return Manifest(**{
        **rest,
        'description': parse_description(content['description']),
        'sources': tuple(Source(**{**item, 'topics': tuple(item['topics'])}) for item in content['sources']),
        'parts': tuple(PartEntry(**item) for item in content['parts']),
        'index': IndexEntry(**content['index']) if content['index'] else None,
        'learned': LearnedEntry(**content['learned']) if content['learned'] else None,
        'files': {name: FileEntry(**item) for name, item in content['files'].items()},
    })
