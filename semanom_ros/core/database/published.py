"""What lies in the folder of a nominal database, and whether it is as it was written; nothing is searched."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy.typing as npt

from semanom_ros.core.database.folder_files import FOLDER, RESTORE, kind_of, open_inside
from semanom_ros.core.database.manifest import MANIFEST, Manifest
from semanom_ros.core.database.storage import UNREADABLE, FileEntry, changed, read_arrays, sha256_of
from semanom_ros.core.progress import SILENT, Progress
from semanom_ros.errors import DatabaseError

_AT_ONCE = 4  # files that are verified at a time: a disk has no more to give

STAGING, JOURNAL = 'staging', 'journal'
"""The folder of a recording that is under way or was interrupted, and in it what confirms its frames."""


def read_manifest(path: Path) -> Manifest:
    """The manifest of a database's current version.

    Raises:
        DatabaseError: no such folder, no database in it, or an unreadable manifest.
    """
    path = Path(path)
    try:
        if not path.is_dir():
            found = 'a file' if path.is_file() else 'no folder'
            raise DatabaseError(f'{path}: found {found}, expected a nominal database; make one with semanom record, or '
                                'ros2 launch semanom_ros record_nominal.launch.py')
        if not os.path.lexists(path / MANIFEST):
            if os.path.lexists(path / STAGING) or any(path.glob(f'v*/{JOURNAL}')):
                raise DatabaseError(f'{path}: found an unfinished recording, expected a nominal database; '
                                    'run the same semanom record again to finish it')
            raise DatabaseError(f'{path / MANIFEST}: missing, expected a nominal database; '
                                'give a folder that semanom record made')
    except (OSError, ValueError) as error:  # a name that is too long, or none at all
        raise DatabaseError(f'{path}: unreadable ({getattr(error, "strerror", "") or error}); give another') from error
    return Manifest.read(path / MANIFEST)


def kept_versions(path: Path, manifest: Manifest) -> list[Manifest]:
    """The versions before one that keep their files, the latest first."""
    return versions_before(path, manifest)[:manifest.kept]


def versions_before(path: Path, manifest: Manifest) -> list[Manifest]:
    """The same, with those whose files a writer was still removing when it was interrupted.

    Each names the one before it: a folder that is called like a version and is none of this database is none.
    """
    found = [manifest]
    while (before := _version(Path(path), found[-1].version - 1, found[-1].previous)) is not None:
        found.append(before)
    return found[1:]


def read_version(path: Path, number: int | None = None) -> Manifest:
    """The manifest of a version that keeps its files; None: of the current one.

    Raises:
        DatabaseError: no database, or no such version.
    """
    manifest = read_manifest(path)
    return manifest if number in (None, manifest.version) else earlier_version(path, manifest, number)


def earlier_version(path: Path, manifest: Manifest, number: int) -> Manifest:
    """A version before one, that keeps its files.

    Raises:
        DatabaseError: there is no such version.
    """
    kept = kept_versions(path, manifest)
    for version in kept:
        if version.version == number:
            return version
    others = ', '.join(str(version.version) for version in kept) or 'none does'
    raise DatabaseError(f'{path}: version: found {number}, expected one before {manifest.version} that keeps its files '
                        f'({others}); see semanom db history')


def _version(root: Path, number: int, identity: str) -> Manifest | None:
    """An earlier version; None where it is gone, or is another."""
    folder = root / f'v{number:06d}'
    if not identity or kind_of(folder) != FOLDER:
        return None
    with suppress(DatabaseError):  # one that cannot be read cannot be gone back to
        found = Manifest.read(folder / MANIFEST)
        return found if (found.version, found.identity) == (number, identity) else None
    return None


def own_bytes(manifests: Sequence[Manifest]) -> list[int]:
    """Bytes of the files of each version that none before it in the list has: what it costs to keep it, too."""
    known: set[str] = set()
    sizes = []
    for manifest in manifests:
        sizes.append(sum(entry.size for name, entry in manifest.files.items() if name not in known))
        known |= manifest.files.keys()
    return sizes


def read_calibration(path: Path, manifest: Manifest) -> dict[str, npt.NDArray]:
    """Arrays that calibration stored; empty when not calibrated.

    Raises:
        DatabaseError: the file is unreadable.
    """
    return _arrays(path, manifest.calibration, f'run semanom db calibrate {path}')


def read_learned(path: Path, manifest: Manifest) -> dict[str, npt.NDArray]:
    """Arrays that `semanom learn` stored; empty when nothing was learned.

    Raises:
        DatabaseError: the file is unreadable.
    """
    file = manifest.learned.file if manifest.learned else ''
    return _arrays(path, file, f'run semanom learn for {path} again')


def _arrays(path: Path, file: str, remedy: str) -> dict[str, npt.NDArray]:
    if not file:
        return {}
    try:
        return read_arrays(path, file)
    except UNREADABLE as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DatabaseError(f'{path / file}: unreadable ({reason}); {remedy}') from error


def verify_files(path: Path, manifest: Manifest, progress: Progress = SILENT, later: Collection[str] = ()) -> None:
    """Compares every file with its size and SHA-256 in the manifest, several at a time.

    Args:
        path, manifest: the folder, and the version.
        progress: is told.
        later: of these files the size alone.

    Raises:
        DatabaseError: the first file that is missing or changed.
    """
    entries = manifest.files.items()
    progress.begin('verify', sum(entry.size for name, entry in entries if name not in later), 'B')
    telling, fault = threading.Lock(), threading.Event()

    def advance(size: int) -> None:
        if fault.is_set():  # one is enough: nobody waits for the rest of a large file
            raise CancelledError
        with telling:
            progress.advance(size)

    with ThreadPoolExecutor(min(_AT_ONCE, os.cpu_count() or 1), 'semanom_verify') as pool:
        checks = [pool.submit(verify_file, path, name, entry, advance, name not in later) for name, entry in entries]
        try:
            for check in checks:
                check.result()
        except BaseException:
            fault.set()
            pool.shutdown(cancel_futures=True)
            raise
    progress.end()


def verify_file(path: Path, name: str, entry: FileEntry, advance: Callable[[int], None] | None = None,
                content: bool = True) -> None:
    """Compares one file of a folder with its size, and its `content` with its SHA-256.

    Raises:
        DatabaseError: it is missing or changed.
    """
    try:
        with open_inside(path, name) as file:
            size = os.fstat(file.fileno()).st_size
            if size != entry.size:
                raise DatabaseError(f'{path / name}: found {size} bytes, expected {entry.size}; {RESTORE}')
            found = sha256_of(file, advance) if content else entry.sha256
    except FileNotFoundError as error:
        raise DatabaseError(f'{path / name}: missing, expected {entry.size} bytes; {RESTORE}') from error
    except OSError as error:
        raise DatabaseError(f'{path / name}: unreadable ({error.strerror}); {RESTORE}') from error
    if found != entry.sha256:
        raise changed(path / name, found, entry)


def verify(path: Path, progress: Progress = SILENT) -> Manifest:
    """Checks every file of a database against its manifest, and that each can be opened and fits the others.

    Raises:
        DatabaseError: the first fault found.
    """
    path, manifest = Path(path), read_manifest(path)
    verify_files(path, manifest, progress)
    for entry in manifest.parts:
        entry.open(path, manifest.description.dimension).check_vectors()
    read_calibration(path, manifest)
    read_learned(path, manifest)
    if manifest.index is not None:
        from semanom_ros.core.database.index_file import read_index  # FAISS, where it is needed

        read_index(path, manifest.index, manifest.description.dimension)
    return manifest
