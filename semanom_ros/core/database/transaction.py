"""How one version of a database follows another.

Layout of a database folder:

    manifest.json        the current version; replaced in one step: the moment of publication
    v000001/             what version 1 added; immutable once published
        manifest.json    the manifest of version 1
        recorded/        a part: embeddings to compare with
        held_out/        a part: embeddings kept for calibration
        calibration.npz
    v000002/ ...         later versions refer to the files of earlier ones and do not copy them
    staging/             a recording that is under way or was interrupted
    lock                 held by the one writer

A new version is written into the folder that carries its number, brought to the disk,
and published by replacing the manifest at the top. Whatever is interrupted before that
moment no reader sees: the next writer completes it (the version's own manifest is
there), takes it back to `staging` (a recording), or removes it. The version before the
current one is kept, with its files; older ones are removed.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

from semanom_ros import __version__
from semanom_ros.core.database.manifest import (
    HELD_OUT,
    MANIFEST,
    DatabaseDescription,
    FileEntry,
    Manifest,
    PartEntry,
    Source,
)
from semanom_ros.core.database.storage import Lock, Part, sha256_of, sync, write_durably
from semanom_ros.core.progress import SILENT, Progress
from semanom_ros.errors import DatabaseError

STAGING, JOURNAL = 'staging', 'journal'
OWN = rf'lock|v\d{{6}}|{MANIFEST}\.new'  # what an interrupted first recording may leave


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
        try:
            if self.root.exists() and not (self.root / MANIFEST).exists() and not (self.root / STAGING).exists():
                strange = sorted(p.name for p in self.root.iterdir() if not re.fullmatch(OWN, p.name))
                if strange:
                    raise DatabaseError(f'{self.root}: found {strange[0]} in it, expected a nominal database or an '
                                        'empty folder; give another one')
            self.root.mkdir(parents=True, exist_ok=True)
            self._lock = Lock(self.root)
        except OSError as error:
            raise DatabaseError(f'{self.root}: not writable ({error.strerror}); give another folder') from error
        try:
            self._recover()
        except BaseException:
            self.close()
            raise

    @property
    def number(self) -> int:
        """The next version's."""
        return self.current.version + 1 if self.current else 1

    @property
    def folder(self) -> Path:
        return self.root / f'v{self.number:06d}'

    def _recover(self) -> None:
        top = self.root / MANIFEST
        self.current: Manifest | None = Manifest.read(top) if top.exists() else None
        self.recovered = (self.folder / MANIFEST).exists()
        if self.recovered:
            self._make_current(Manifest.read(self.folder / MANIFEST))
        elif (self.folder / JOURNAL).exists():
            self.folder.rename(self.root / STAGING)
        elif self.folder.exists():
            shutil.rmtree(self.folder)

    def candidate(self, description: DatabaseDescription, parts: Iterable[PartEntry], change: str,
                  progress: Progress = SILENT) -> Manifest:
        """The manifest of the next version, without calibration and index, its files on the disk but not yet published.

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
        return Manifest(
            version=self.number, description=description,
            vectors=vectors, frames=sum(part.frames for part in nominal),
            held_out_vectors=sum(part.vectors for part in held_out),
            held_out_frames=sum(part.frames for part in held_out),
            sources=self._sources(parts, description.dimension), parts=parts, index=None, calibration='',
            files=self._files(parts, progress), change=change,
            created=datetime.now(timezone.utc).isoformat(timespec='seconds'), package_version=__version__)

    def _files(self, parts: Iterable[PartEntry], progress: Progress) -> dict[str, FileEntry]:
        known = self.current.files if self.current else {}
        paths = [path for part in parts for path in sorted((self.root / part.name).iterdir())]
        fresh = [path for path in paths if self.relative(path) not in known]
        progress.begin('checksums', sum(path.stat().st_size for path in fresh), 'B')
        entries = {}
        for path in paths:
            name = self.relative(path)
            if name in known:
                entries[name] = known[name]
            else:
                sync(path)
                entries[name] = FileEntry(path.stat().st_size, sha256_of(path, progress.advance))
        progress.end()
        return entries

    def _sources(self, parts: Iterable[PartEntry], dimension: int) -> tuple[Source, ...]:
        found: dict[tuple[str, str], Source] = {}
        for entry in parts:
            part = Part(self.root / entry.name, dimension)
            for path, sha256, topics, stamps in part.sources():
                old = found.get((path, sha256)) or Source(path, sha256, (), 0, 0, int(stamps.min()), int(stamps.max()))
                held_out = len(stamps) if entry.kind == HELD_OUT else 0
                found[path, sha256] = Source(
                    path, sha256, tuple(sorted({*old.topics, *topics})),
                    old.frames + len(stamps) - held_out, old.held_out_frames + held_out,
                    min(old.first_stamp_ns, int(stamps.min())), max(old.last_stamp_ns, int(stamps.max())))
            part.close()
        return tuple(found.values())

    def relative(self, path: Path) -> str:
        """How the manifest names a file."""
        return path.relative_to(self.root).as_posix()

    def add_file(self, manifest: Manifest, path: Path) -> Manifest:
        """The manifest with one more file of the next version."""
        sync(path)
        entry = FileEntry(path.stat().st_size, sha256_of(path))
        return manifest.replace(files={**manifest.files, self.relative(path): entry})

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
        file = current.index.file
        return manifest.replace(index=current.index, files={**manifest.files, file: current.files[file]})

    def publish(self, manifest: Manifest) -> None:
        """Makes a candidate the current version."""
        self.folder.mkdir(exist_ok=True)
        for folder in {self.folder, *(path.parent for path in self.folder.rglob('*'))}:
            sync(folder)
        sync(self.root)
        write_durably(self.folder / MANIFEST, manifest.dumps().encode())
        self._make_current(manifest)

    def _make_current(self, manifest: Manifest) -> None:
        write_durably(self.root / MANIFEST, manifest.dumps().encode())
        self.current = manifest
        (self.root / f'v{manifest.version:06d}' / JOURNAL).unlink(missing_ok=True)
        self._collect_garbage(manifest)

    def _collect_garbage(self, manifest: Manifest) -> None:
        kept = {MANIFEST, *manifest.files, f'v{manifest.version:06d}/{MANIFEST}'}
        previous = self.root / f'v{manifest.version - 1:06d}' / MANIFEST
        if previous.exists():
            with suppress(DatabaseError):  # one that cannot be read cannot be gone back to
                kept |= {self.relative(previous), *Manifest.read(previous).files}
        for folder in self.root.glob('v[0-9][0-9][0-9][0-9][0-9][0-9]'):
            for path in sorted(folder.rglob('*'), reverse=True):
                if path.is_dir():
                    if not any(path.iterdir()):
                        path.rmdir()
                elif self.relative(path) not in kept:
                    path.unlink()
            if not any(folder.iterdir()):
                folder.rmdir()

    def close(self) -> None:
        """Gives the lock back."""
        self._lock.release()

    def __enter__(self) -> Transaction:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is not None and not (self.folder / MANIFEST).exists():
            shutil.rmtree(self.folder, ignore_errors=True)
        self.close()
        if isinstance(error, OSError):
            raise self.not_written(error) from error

    def not_written(self, error: OSError) -> DatabaseError:
        """What a full or read-only disk means for whoever called."""
        return DatabaseError(f'{error.filename or self.root}: not written ({error.strerror}); make room or give '
                             'another folder, then try again: nothing is lost')
