"""What a version of a nominal database says about itself: `manifest.json`."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from semanom_ros.core.database.folder_files import RESTORE, read_inside
from semanom_ros.core.database.storage import FILES, GROWING, STAMPS, FileEntry, Part
from semanom_ros.core.embedding.description import EmbeddingDescription, parse_description
from semanom_ros.core.fields import Fields, parse_json
from semanom_ros.errors import DatabaseError, ParameterError
from semanom_ros.settings import SearchSettings

SCHEMA_VERSION = 2
LARGEST = 64 << 20
"""Bytes of a manifest: beyond tens of thousands of recordings."""
LARGEST_VERSION = 999_999
NAME = r'v[0-9]{6}(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+'
"""How files are named: inside the folder, in the version that made them."""
_NAMED = 'what lies in one of its versions, such as v000001/recorded'
FORMAT = 'semanom nominal database'
MANIFEST = 'manifest.json'

AUTO, EXACT = 'auto', 'exact'
"""How CPUs are to search, beside FAISS's factory strings: as suits the number of vectors, and without an index."""
NPROBE = 8
"""Inverted lists that a search visits, where nothing else is asked for."""

LONGEST_HISTORY = 1000
"""Earlier versions that a manifest tells of: those of years."""

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

    def open(self, root: Path, dimension: int) -> Part:
        """The part, of the database in that folder.

        Raises:
            DatabaseError: it is damaged, or is another.
        """
        part = Part(root, self.name, dimension)
        found, expected = (len(part.vectors), len(part.frames)), (self.vectors, self.frames)
        if found != expected:
            raise DatabaseError(f'{part.folder}: found {found[0]} vectors of {found[1]} frames, expected {expected[0]} '
                                f'of {expected[1]}; {RESTORE}')
        return part


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
class KeptOf:
    """What was kept of a recording when a database was compacted.

    Attributes:
        path, sha256: of the recording, see Source.
        vectors, kept: before and after.
        farthest: distance from the nearest one kept within which all of its dropped vectors lie.
    """

    path: str
    sha256: str
    vectors: int
    kept: int
    farthest: float


@dataclass(frozen=True)
class CompactionEntry:
    """How far what was dropped from a database lies from what was kept.

    Where a vector at distance d of a query is gone, one at (sqrt(d) + sqrt(radius))^2 or less is there.

    Attributes:
        part: the part that was kept, of which this is said.
        vectors, kept: recorded vectors before and after.
        radius, mean: largest, and mean, distance of the vectors before to the nearest one kept, as far as it was
            looked for.
        total: the same largest distance for all that was ever recorded; None where that is not known, as after
            something was removed from what an earlier compaction had kept.
        search: the space that it was measured in, by the parameters of the section `SearchSettings`.
        sources: what was kept of each recording.
    """

    part: str
    vectors: int
    kept: int
    radius: float
    mean: float
    total: float | None
    search: Mapping[str, Any]
    sources: tuple[KeptOf, ...]


@dataclass(frozen=True)
class PastVersion:
    """What is still known of an earlier version, whether its files are kept or not.

    Attributes:
        version, change, created, vectors, frames, held_out_frames: as in its manifest.
        calibrated: whether it was.
    """

    version: int
    change: str
    created: str
    vectors: int
    frames: int
    held_out_frames: int
    calibrated: bool


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
        previous: `identity` of the version before, '' for the first one.
        history: the versions before it, the oldest first; at most LONGEST_HISTORY.
        kept: how many versions before it keep their files.
        compaction: what stands for what is gone; None: nothing was dropped, or it is not known.
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
    previous: str = ''
    history: tuple[PastVersion, ...] = ()
    kept: int = 1
    compaction: CompactionEntry | None = None

    @property
    def identity(self) -> str:
        """SHA-256 over all that it says, checksums of all files included: what makes this version this version."""
        return _checksum(self._content)

    @property
    def _content(self) -> dict[str, Any]:
        # What is as always is not written: the identity of versions made before these fields were stays the same.
        usual = {name for name, value in (('history', ()), ('kept', 1), ('compaction', None))
                 if getattr(self, name) == value}
        return {'format': FORMAT, **{name: value for name, value in asdict(self).items() if name not in usual}}

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(entry.size for entry in self.files.values())

    @property
    def calibrated(self) -> bool:
        """Whether calibration arrays are stored."""
        return bool(self.calibration)

    @property
    def versions(self) -> tuple[PastVersion, ...]:
        """Its history, with itself at the end."""
        own = PastVersion(self.version, self.change, self.created, self.vectors, self.frames, self.held_out_frames,
                          self.calibrated)
        return (*self.history, own)

    def replace(self, **changes: Any) -> Manifest:
        """The same with some fields changed."""
        return replace(self, **changes)

    def dumps(self) -> str:
        """As JSON, with a checksum over the rest in the field `sha256`."""
        content = {**self._content, 'sha256': self.identity}
        return json.dumps(content, indent=1, sort_keys=True) + '\n'

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Reads and checks a manifest: each field, and what they say of each other.

        Raises:
            DatabaseError: unreadable, changed since it was written, of a newer schema, or contradicting itself.
        """
        try:
            content = parse_json(read_inside(path.parent, path.name, LARGEST))
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise DatabaseError(f'{path}: unreadable ({reason}); {RESTORE}') from error
        if not isinstance(content, dict) or content.get('format') != FORMAT:
            raise DatabaseError(f'{path}: not the manifest of a nominal database; '
                                'give a folder that semanom record made')
        schema = content.get('schema_version')
        if schema != SCHEMA_VERSION:
            raise DatabaseError(f'{path}: schema_version: found {schema!r:.40}, expected {SCHEMA_VERSION}; '
                                'use the semanom_ros that wrote it, or record anew')
        found, expected = _checksum(content), content.get('sha256')
        if found != expected:
            raise DatabaseError(f'{path}: sha256: found {found}, expected {expected!s:.64}; '
                                f'it was changed after it was written: {RESTORE}')
        try:
            with Fields(content) as fields:
                return _parse(fields)
        except ValueError as error:
            raise DatabaseError(f'{path}: {error}; {RESTORE}') from error


def _checksum(content: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in content.items() if key != 'sha256'}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _parse(fields: Fields) -> Manifest:
    for name in ('format', 'sha256'):
        fields.get(name)
    files = fields.mapping('files')
    with Fields(files, 'files') as entries:
        listed = {name: entries.item(name, _file) for name in files}
    manifest = Manifest(
        version=fields.count('version', 1, LARGEST_VERSION), description=fields.item('description', parse_description),
        vectors=fields.count('vectors', 1), frames=fields.count('frames'),
        held_out_vectors=fields.count('held_out_vectors'), held_out_frames=fields.count('held_out_frames'),
        sources=fields.items('sources', _source), parts=fields.items('parts', _part),
        index=fields.item_or_none('index', _index), calibration=fields.matching('calibration', f'({NAME})?', _NAMED),
        learned=fields.item_or_none('learned', _learned), files=listed, change=fields.text('change'),
        created=fields.text('created'), package_version=fields.text('package_version'),
        schema_version=fields.count('schema_version'), previous=fields.optional('previous', fields.text, ''),
        history=fields.optional('history', lambda name: fields.items(name, _past), ()),
        kept=fields.optional('kept', lambda name: fields.count(name, 1, LARGEST_VERSION), 1),
        compaction=fields.optional('compaction', lambda name: fields.item(name, _compaction), None))
    _check(manifest, fields)
    return manifest


def _file(fields: Fields) -> FileEntry:
    return FileEntry(fields.count('size'), fields.matching('sha256', '[0-9a-f]{64}', 'a SHA-256'))


def _source(fields: Fields) -> Source:
    return Source(
        fields.text('path'), fields.text('sha256'), fields.texts('topics'), fields.count('frames'),
        fields.count('held_out_frames'), fields.count('first_stamp_ns', STAMPS.start, STAMPS.stop),
        fields.count('last_stamp_ns', STAMPS.start, STAMPS.stop))


def _past(fields: Fields) -> PastVersion:
    return PastVersion(
        fields.count('version', 1, LARGEST_VERSION), fields.text('change'), fields.text('created'),
        fields.count('vectors', 1), fields.count('frames'), fields.count('held_out_frames'), fields.flag('calibrated'))


def _part(fields: Fields) -> PartEntry:
    return PartEntry(_name(fields, 'name'), fields.choice('kind', (RECORDED, REVIEWED, HELD_OUT)),
                     fields.count('vectors'), fields.count('frames'), fields.flag('whole'))


def _index(fields: Fields) -> IndexEntry:
    return IndexEntry(_name(fields, 'file'), fields.text('factory'), fields.count('nprobe', 1, 1 << 31),
                      _search(fields), fields.count('vectors', 1))


def _search(fields: Fields) -> Mapping[str, Any]:
    search = fields.mapping('search')
    try:
        SearchSettings.of(search)
    except ParameterError as error:
        fields.wrong('search', dict(search), f'parameters of the search ({error})')
    return search


def _compaction(fields: Fields) -> CompactionEntry:
    total = None if fields.get('total') is None else fields.number('total', 0.0)
    return CompactionEntry(
        _name(fields, 'part'), fields.count('vectors'), fields.count('kept'), fields.number('radius', 0.0),
        fields.number('mean', 0.0), total, _search(fields), fields.items('sources', _kept_of))


def _kept_of(fields: Fields) -> KeptOf:
    return KeptOf(fields.text('path'), fields.text('sha256'), fields.count('vectors'), fields.count('kept'),
                  fields.number('farthest', 0.0))


def _learned(fields: Fields) -> LearnedEntry:
    return LearnedEntry(_name(fields, 'file'), fields.count('composites'), fields.count('seed'))


def _name(fields: Fields, field: str) -> str:
    return fields.matching(field, NAME, _NAMED)


def _check(manifest: Manifest, fields: Fields) -> None:
    """What fields say of each other."""
    nominal = [part for part in manifest.parts if part.kind != HELD_OUT]
    held_out = [part for part in manifest.parts if part.kind == HELD_OUT]
    dimension = manifest.description.dimension
    sizes: dict[str, int | None] = {}
    for part in manifest.parts:
        sizes |= {f'{part.name}/{name}': None for name in FILES}
        sizes |= {f'{part.name}/{name}': part.vectors * dtype.itemsize * (columns or dimension)
                  for name, dtype, columns in GROWING}
    others = [manifest.calibration, manifest.index.file if manifest.index else '',
              manifest.learned.file if manifest.learned else '']
    sizes |= dict.fromkeys(filter(None, others))
    if len({part.name for part in manifest.parts}) != len(manifest.parts):
        fields.wrong('parts', [part.name for part in manifest.parts], 'each of them once')
    for name in sizes.keys() ^ manifest.files.keys():
        fields.wrong('files', name, f'{"it among them" if name in sizes else "files of its parts alone"}')
    for name, size in sizes.items():
        if size not in (None, manifest.files[name].size):
            fields.wrong(f'files.{name}.size', manifest.files[name].size, f'{size}, as its part has vectors')
    for field, expected in (
            ('vectors', sum(part.vectors for part in nominal)), ('frames', sum(part.frames for part in nominal)),
            ('held_out_vectors', sum(part.vectors for part in held_out)),
            ('held_out_frames', sum(part.frames for part in held_out)),
            ('frames', sum(source.frames for source in manifest.sources)),
            ('held_out_frames', sum(source.held_out_frames for source in manifest.sources))):
        found = getattr(manifest, field)
        if found != expected:
            fields.wrong(field, found, f'{expected}, as many as its parts and sources have')
    covered = itertools.accumulate(part.vectors for part in nominal)
    if manifest.index and manifest.index.vectors not in covered:
        fields.wrong('index.vectors', manifest.index.vectors, 'the vectors of whole parts, the first ones')
    if manifest.compaction and manifest.compaction.part not in {part.name for part in manifest.parts}:
        fields.wrong('compaction.part', manifest.compaction.part, 'one of the parts')
    numbers = [past.version for past in manifest.versions]
    if any(later <= earlier for earlier, later in itertools.pairwise(numbers)):
        fields.wrong('history', numbers, 'versions that count up to this one')
    for source in manifest.sources:
        if source.first_stamp_ns > source.last_stamp_ns:
            fields.wrong('sources', source.first_stamp_ns, 'a first stamp that is not after the last')
