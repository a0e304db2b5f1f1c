"""How one version of a database follows another.

Layout of a database folder:

    manifest.json        the current version; replaced in one step: the moment of publication
    v000001/             what version 1 added; immutable once published
        manifest.json    the manifest of version 1
        recorded/        a part: embeddings to compare with
        held_out/        a part: embeddings kept for calibration
        calibration.npz
        learned.npz      what `semanom learn` has made
        index.faiss
    v000002/ ...         later versions refer to the files of earlier ones and do not copy them
    staging/             a recording that is under way or was interrupted
    lock                 held by the one writer

A new version is written into the folder that carries its number, brought to the disk,
and published by replacing the manifest at the top. Whatever is interrupted before that
moment no reader sees: the next writer completes it (the version's own manifest is
there, and follows the current one), takes it back to `staging` (a recording), or removes
it. As many versions before the current one as its manifest says (`kept`, one at first) keep
their files; those of older ones are removed, and the manifest goes on telling of them.

No link inside the folder is followed, and nothing is removed but what a manifest of
this database lists, or what writers name so in an unfinished version.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

from semanom_ros import __version__
from semanom_ros.core.database.folder_files import (
    FILE,
    FOLDER,
    RESTORE,
    expect,
    kind_of,
    make_folder,
    open_inside,
    remove_files,
    remove_folder,
)
from semanom_ros.core.database.manifest import (
    HELD_OUT,
    LARGEST_VERSION,
    LONGEST_HISTORY,
    MANIFEST,
    RECORDED,
    REVIEWED,
    CompactionEntry,
    Manifest,
    PartEntry,
    PastVersion,
    Source,
)
from semanom_ros.core.database.published import JOURNAL, STAGING, earlier_version, versions_before
from semanom_ros.core.database.storage import (
    FILES,
    LOCK,
    FileEntry,
    HashedFile,
    Lock,
    PartWriter,
    Statistics,
    sync,
    write_durably,
)
from semanom_ros.core.embedding.description import EmbeddingDescription
from semanom_ros.errors import DatabaseError

FIRST = 'v000001'
DESCRIPTION = 'description.json'
"""What makes the embeddings of an unfinished recording; in its folder, and no more in that of the version."""
CALIBRATION, LEARNED, INDEX = 'calibration.npz', 'learned.npz', 'index.faiss'
OWN = rf'{LOCK}|{FIRST}|{MANIFEST}\.new'  # what an interrupted first recording may leave
_KINDS = '|'.join((RECORDED, REVIEWED, HELD_OUT))
UNFINISHED = re.compile(
    rf'({JOURNAL}|{DESCRIPTION}|{MANIFEST}|{CALIBRATION}|{LEARNED}|{INDEX}|({_KINDS})(-[0-9]+)?'
    rf'/({"|".join(map(re.escape, FILES))}))(\.new)?')
"""What writers put into the folder of a version, and into `staging`."""


def exists(root: Path) -> bool:
    """Whether a folder holds a database, be it damaged."""
    return bool(kind_of(Path(root) / MANIFEST))


class Transaction:
    """The exclusive right to make the next version of a database.

    Attributes:
        root: the database.
        current: the manifest of the current version; None for a new database.
        folder: where the next version goes, `root/v000004`; made on demand by whoever writes there.
        recovered: a finished version was there that its writer had not come to publish; now it is.
    """

    def __init__(self, root: Path) -> None:
        """Takes the lock and settles what an interrupted writer left.

        Raises:
            DatabaseError: another writer is at work, or the folder is not a database.
        """
        self.root = Path(root)
        self._written: dict[str, FileEntry] = {}
        self.current: Manifest | None = None
        try:
            self._made = not self.root.exists()
            if not self._made and not self._there(MANIFEST):
                self._refuse_what_no_first_recording_leaves()
            self.root.mkdir(parents=True, exist_ok=True)
            self._lock = Lock(self.root)
        except (OSError, ValueError) as error:
            reason = getattr(error, 'strerror', '') or error
            raise DatabaseError(f'{self.root}: not writable ({reason}); give another folder') from error
        try:
            self._recover()
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise self.not_written(error) from error
            raise

    def _there(self, name: str) -> bool:
        return bool(kind_of(self.root / name))

    def _refuse_what_no_first_recording_leaves(self) -> None:
        """Of a folder without a manifest: it may hold a database that lost it, or something else."""
        versions = sorted(path.parent.name for path in self.root.glob(f'v*/{MANIFEST}'))
        if versions and versions[-1] > FIRST:
            raise DatabaseError(f'{self.root / MANIFEST}: missing, expected it beside {versions[-1]}; copy '
                                f'{self.root / versions[-1] / MANIFEST} there')
        strange = sorted(path.name for path in self.root.iterdir() if not re.fullmatch(OWN, path.name))
        if strange and not self._there(STAGING):
            raise DatabaseError(f'{self.root}: found {strange[0]} in it, expected a nominal database or an empty '
                                'folder; give another one')

    @property
    def number(self) -> int:
        """The next version's."""
        return self.current.version + 1 if self.current else 1

    @property
    def folder(self) -> Path:
        return self.root / f'v{self.number:06d}'

    @property
    def previous(self) -> str:
        """What the next version says of the one before it."""
        return self.current.identity if self.current else ''

    def _recover(self) -> None:
        if self._there(MANIFEST):
            self.current = Manifest.read(self.root / MANIFEST)
        if self.number > LARGEST_VERSION:
            raise DatabaseError(f'{self.root}: found version {LARGEST_VERSION}, the last one that there can be, '
                                'expected an earlier one; record anew, or merge it into a new database')
        for path, kind in ((self.folder, FOLDER), (self.root / STAGING, FOLDER), (self.folder / MANIFEST, FILE),
                           (self.folder / JOURNAL, FILE)):
            expect(path, kind)
        self.recovered = self._there(f'{self.folder.name}/{MANIFEST}')
        if self.recovered:
            finished = Manifest.read(self.folder / MANIFEST)
            if (finished.version, finished.previous) != (self.number, self.previous):
                raise DatabaseError(f'{self.folder}: found a version that follows another than version '
                                    f'{self.number - 1} here, expected none; move it away, or {RESTORE}')
            self._make_current(finished)
        elif self._there(f'{self.folder.name}/{JOURNAL}'):
            self.folder.rename(self.root / STAGING)
        else:
            self._remove_unfinished()

    def _remove_unfinished(self) -> None:
        remove_folder(self.folder, UNFINISHED.fullmatch)

    def add_part(self, writer: PartWriter, kind: str, statistics: Statistics | None = None, whole: bool = True
                 ) -> PartEntry:
        """Finishes a part that was written into the next version's folder, or into one that will become it.

        Args:
            writer: with all of its frames.
            kind: of the part; its folder in the next version has the name of the writer's.
            statistics: those to store, where they are not to be those of its vectors.
            whole: see PartEntry.
        """
        name = self.relative(self.folder / writer.folder.name)
        self._written |= {f'{name}/{file}': entry for file, entry in writer.finish(statistics).items()}
        return PartEntry(name, kind, writer.vectors, writer.frames, whole)

    def copy_part(self, other: Path, manifest: Manifest, entry: PartEntry, folder: Path) -> PartEntry:
        """Copies a part of another database, whose files are sound, into a folder of the next version."""
        make_folder(self.folder)
        make_folder(folder)
        for name in FILES:
            self._copy(other, manifest, f'{entry.name}/{name}', folder / name)
        return replace(entry, name=self.relative(folder))

    def new_file(self, name: str) -> HashedFile:
        """A file of the next version to be written; see `add_file`."""
        make_folder(self.folder)
        return HashedFile(self.folder / name)

    def candidate(self, description: EmbeddingDescription, parts: Iterable[PartEntry], change: str) -> Manifest:
        """The manifest of the next version, without calibration, index and what was learned; not yet published.

        Args:
            description: what made the embeddings.
            parts: of the current version, or from `add_part` and `copy_part`.
            change: what was done, for people.

        Raises:
            DatabaseError: there would be no nominal embedding in it.
        """
        parts = tuple(parts)
        nominal = [part for part in parts if part.kind != HELD_OUT]
        held_out = [part for part in parts if part.kind == HELD_OUT]
        vectors = sum(part.vectors for part in nominal)
        if vectors == 0:
            raise DatabaseError(f'{self.root}: found no nominal embedding to store, expected at least one; '
                                'record frames that are not all held out')
        known = {**(self.current.files if self.current else {}), **self._written}
        folders = tuple(f'{part.name}/' for part in parts)
        return Manifest(
            version=self.number, description=description,
            vectors=vectors, frames=sum(part.frames for part in nominal),
            held_out_vectors=sum(part.vectors for part in held_out),
            held_out_frames=sum(part.frames for part in held_out),
            sources=self._sources(parts, description.dimension), parts=parts, index=None, calibration='', learned=None,
            files={name: entry for name, entry in sorted(known.items()) if name.startswith(folders)}, change=change,
            created=_now(), package_version=__version__, previous=self.previous, history=self._history,
            kept=self.current.kept if self.current else 1, compaction=self._compaction(parts))

    def _compaction(self, parts: tuple[PartEntry, ...]) -> CompactionEntry | None:
        """What is known of an earlier compaction, where that still holds.

        Its part must be there as it was; where dimensions are standardized, by the same recorded vectors.
        """
        current = self.current
        entry = current.compaction if current else None
        if current is None or entry is None or entry.part not in {part.name for part in parts}:
            return None
        before, after = ([part for part in some if part.kind == RECORDED] for some in (current.parts, parts))
        return None if entry.search.get('standardize') and before != after else entry

    @property
    def _history(self) -> tuple[PastVersion, ...]:
        return self.current.versions[-LONGEST_HISTORY:] if self.current else ()

    def again(self, manifest: Manifest, change: str, kept: int | None = None) -> Manifest:
        """The manifest of the next version where it holds the same as one that there is; not yet published.

        Args:
            manifest: of the current version, or of one that keeps its files.
            change: what was done, for people.
            kept: how many versions keep their files from now on; None: as many as now.
        """
        assert self.current is not None
        return manifest.replace(
            version=self.number, change=change, created=_now(), package_version=__version__, previous=self.previous,
            history=self._history, kept=self.current.kept if kept is None else kept)

    def _sources(self, parts: Iterable[PartEntry], dimension: int) -> tuple[Source, ...]:
        found: dict[tuple[str, str], Source] = {}
        for entry in parts:
            part = entry.open(self.root, dimension)
            for path, sha256, topics, stamps in part.sources():
                old = found.get((path, sha256)) or Source(path, sha256, (), 0, 0, int(stamps.min()), int(stamps.max()))
                held_out = len(stamps) if entry.kind == HELD_OUT else 0
                found[path, sha256] = Source(
                    path, sha256, tuple(sorted({*old.topics, *topics})),
                    old.frames + len(stamps) - held_out, old.held_out_frames + held_out,
                    min(old.first_stamp_ns, int(stamps.min())), max(old.last_stamp_ns, int(stamps.max())))
        return tuple(found.values())

    def relative(self, path: Path) -> str:
        """How the manifest names a file."""
        return path.relative_to(self.root).as_posix()

    def copy_file(self, other: Path, manifest: Manifest, file: str, name: str) -> str:
        """Copies a file of another database, which is sound, into the next version; how manifests name it then."""
        make_folder(self.folder)
        self._copy(other, manifest, file, self.folder / name)
        return self.relative(self.folder / name)

    def _copy(self, other: Path, manifest: Manifest, file: str, path: Path) -> None:
        copy = HashedFile(path)
        with open_inside(other, file) as original:
            while piece := original.read(1 << 20):
                copy.write(piece)
        found, expected = copy.close(), manifest.files[file]
        if found != expected:
            raise DatabaseError(f'{other / file}: was changed while it was copied; try again')
        self._written[self.relative(path)] = found

    def written(self, file: str) -> dict[str, FileEntry]:
        """The entry of a file that was copied here."""
        return {file: self._written[file]}

    def add_file(self, manifest: Manifest, name: str, file: HashedFile) -> tuple[Manifest, str]:
        """The manifest with one more file of the next version, closed here, and how it names it."""
        relative = self.relative(self.folder / name)
        return manifest.replace(files={**manifest.files, relative: file.close()}), relative

    def carry(self, manifest: Manifest, file: str) -> Manifest:
        """The manifest with a file of the current version."""
        assert self.current is not None
        return manifest.replace(files={**manifest.files, file: self.current.files[file]})

    def carry_index(self, manifest: Manifest) -> Manifest:
        """The manifest with the current approximate index, where the vectors that it covers still come first."""
        current = self.current
        if current is None or current.index is None:
            return manifest
        covered, vectors = [], 0
        for part in current.parts:
            if part.kind != HELD_OUT and vectors < current.index.vectors:
                covered.append(part.name)
                vectors += part.vectors
        if [part.name for part in manifest.parts if part.kind != HELD_OUT][:len(covered)] != covered:
            return manifest
        return self.carry(manifest, current.index.file).replace(index=current.index)

    def publish(self, manifest: Manifest) -> None:
        """Makes a candidate the current version."""
        make_folder(self.folder)
        for folder in {self.folder, *(path.parent for path in self.folder.rglob('*'))}:
            sync(folder)
        sync(self.root)
        write_durably(self.folder / MANIFEST, manifest.dumps().encode())
        self._make_current(manifest)

    def _make_current(self, manifest: Manifest) -> None:
        folder = self.root / f'v{manifest.version:06d}'
        remove_files(folder, lambda name: UNFINISHED.fullmatch(name) and name != MANIFEST
                     and f'{folder.name}/{name}' not in manifest.files)
        write_durably(self.root / MANIFEST, manifest.dumps().encode())
        self.current = manifest
        self._collect_garbage(manifest)

    def _collect_garbage(self, manifest: Manifest) -> None:
        """Removes what versions before those that are kept list and no later one does.

        A folder that is called like a version and is none of this database stays.
        """
        versions = [manifest, *versions_before(self.root, manifest)]
        kept, old = versions[:1 + manifest.kept], versions[1 + manifest.kept:]
        known = {name for version in kept for name in version.files}
        for version in reversed(old):  # the oldest first, its manifest last: what is interrupted goes on
            for name in version.files.keys() - known:
                self._remove(name)
            self._remove(f'v{version.version:06d}/{MANIFEST}')

    def earlier(self, number: int | None = None) -> Manifest:
        """A version that keeps its files; None: the one before the current one.

        Raises:
            DatabaseError: there is none, or it is unreadable, or another database's.
        """
        current = self.current
        assert current is not None
        if number is not None and number != current.version - 1:
            return earlier_version(self.root, current, number)
        folder = self.root / f'v{current.version - 1:06d}'
        expect(folder, FOLDER)
        if not kind_of(folder / MANIFEST):
            raise DatabaseError(f'{self.root}: found no version before {current.version}, expected one to go back to; '
                                'see semanom db history')
        found = Manifest.read(folder / MANIFEST)
        if (found.version, found.identity) != (current.version - 1, current.previous):
            raise DatabaseError(f'{folder / MANIFEST}: found version {found.version} of {found.created}, expected the '
                                f'one that version {current.version} was made of; {RESTORE}')
        return found

    def _remove(self, name: str) -> None:
        """Removes a file that a manifest names, and the folders that are empty then; links stay."""
        path, *folders = [self.root / name, *(self.root / folder for folder in Path(name).parents)][:-1]
        if any(kind_of(folder) not in (FOLDER, '') for folder in folders):
            return
        if kind_of(path) == FILE:
            path.unlink()
        for folder in folders:
            if kind_of(folder) == FOLDER and not any(folder.iterdir()):
                folder.rmdir()

    def close(self) -> None:
        """Gives the lock back; a folder that has not become a database goes, where it was made for this."""
        empty = self.current is None and self.root.is_dir() and {path.name for path in self.root.iterdir()} <= {LOCK}
        self._lock.release(remove=empty)
        if empty and self._made:
            with suppress(OSError):  # the next writer is at work already
                self.root.rmdir()

    def __enter__(self) -> Transaction:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is not None and not self._there(f'{self.folder.name}/{MANIFEST}'):
            with suppress(OSError, DatabaseError):  # the next writer tries again
                self._remove_unfinished()
        self.close()
        if isinstance(error, OSError):
            raise self.not_written(error) from error

    def not_written(self, error: OSError) -> DatabaseError:
        """What a full or read-only disk means for whoever called."""
        return DatabaseError(f'{error.filename or self.root}: not written ({error.strerror}); make room or give '
                             'another folder, then try again: nothing is lost')


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec='seconds')
