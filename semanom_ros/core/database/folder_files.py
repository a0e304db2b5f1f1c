"""Files of a folder that somebody else may have touched: no links are followed, and regular files alone are opened.

A database's folder may itself be a link. Inside of it nothing is: through a link that was put there, or that a copy
brought along, a writer would change, and deletion delete, what lies elsewhere.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable
from pathlib import Path

from semanom_ros.errors import DatabaseError

RESTORE = 'restore the database from a copy (cp -rL) or record anew'
_KINDS = ((stat.S_ISLNK, 'a symbolic link'), (stat.S_ISDIR, 'a folder'), (stat.S_ISREG, 'a file'),
          (stat.S_ISFIFO, 'a named pipe'), (stat.S_ISSOCK, 'a socket'))
FOLDER, FILE = 'a folder', 'a file'


def kind_of(path: Path) -> str:
    """What lies at a path, for people: FOLDER, FILE, `a symbolic link`, ...; '' where nothing does."""
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return ''
    return next((name for matches, name in _KINDS if matches(mode)), 'a device')


def expect(path: Path, kind: str) -> None:
    """Complains of what is there and is not a FOLDER, or not a FILE.

    Raises:
        DatabaseError: it is something else, such as a link.
    """
    found = kind_of(path)
    if found not in ('', kind):
        raise DatabaseError(f'{path}: found {found}, expected {kind}; move it away, or {RESTORE}')


def open_inside(root: Path, name: str) -> io.FileIO:
    """Opens a regular file of a folder for reading.

    Neither the file nor a folder on the way to it may be a link, whatever is put into its place meanwhile; what blocks
    (a named pipe) or never ends (a device) is not opened.

    Args:
        root: the folder; it may be a link.
        name: of the file, relative to it, with `/` between.

    Raises:
        DatabaseError: no regular file lies there.
        OSError: it is missing, or may not be read.
    """
    path = root
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        *folders, last = name.split('/')
        for part in folders:
            path = path / part
            inner = _open_at(folder, part, os.O_DIRECTORY, path, FOLDER)
            os.close(folder)
            folder = inner
        path = path / last
        # A named pipe that nobody writes to would keep it waiting.
        opened = _open_at(folder, last, os.O_NONBLOCK, path, FILE)
    finally:
        os.close(folder)
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        expect(path, FILE)
        raise DatabaseError(f'{path}: found no regular file, expected one; {RESTORE}')
    return io.FileIO(opened, 'rb')


def _open_at(folder: int, name: str, flags: int, path: Path, kind: str) -> int:
    try:
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | flags, dir_fd=folder)
    except OSError as error:
        expect(path, kind)
        raise OSError(error.errno, error.strerror, str(path)) from error


def read_inside(root: Path, name: str, most: int) -> bytes:
    """The whole of a file of a folder, see `open_inside`.

    Args:
        root, name: which.
        most: bytes that it may have.

    Raises:
        DatabaseError: no regular file lies there, or a larger one.
        OSError: it is missing, or may not be read.
    """
    with open_inside(root, name) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise DatabaseError(f'{root / name}: found {size} bytes, expected at most {most}; {RESTORE}')
        return _read(file, size)


def _read(file: io.FileIO, size: int) -> bytes:
    content = bytearray()
    while len(content) < size and (piece := file.read(size - len(content))):
        content += piece
    return bytes(content)


def make_folder(path: Path) -> None:
    """Makes a folder where there is none.

    Raises:
        DatabaseError: something else is there, such as a link.
    """
    try:
        path.mkdir()
    except FileExistsError:
        expect(path, FOLDER)


def create(path: Path) -> io.BufferedWriter:
    """A new file to write, in the place of one of an interrupted writer.

    That one is taken away and not written over: it may be a link, or another name of a file elsewhere.
    """
    path.unlink(missing_ok=True)
    return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666), 'wb')


def open_to_change(path: Path) -> io.BufferedRandom:
    """A file to read and write, which is made where there is none.

    One with several names (`cp -rl`, backups by hard links) becomes a file of its own first.

    Raises:
        DatabaseError: something else than a file is there.
    """
    expect(path, FILE)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    if os.fstat(descriptor).st_nlink > 1:
        with open(descriptor, 'rb') as shared, create(path.with_name(f'{path.name}.new')) as own:
            while piece := shared.read(1 << 20):
                own.write(piece)
        os.replace(path.with_name(f'{path.name}.new'), path)
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    return open(descriptor, 'r+b')


def remove_files(folder: Path, ours: Callable[[str], object]) -> None:
    """Removes the files of a folder that are ours, and the folders in it that are empty then.

    Args:
        folder: nothing is done where it is something else.
        ours: says of a path relative to it, with `/` between, whether it is.
    """
    if kind_of(folder) != FOLDER:
        return
    for path in sorted(folder.rglob('*'), reverse=True):  # it does not go through links
        kind = kind_of(path)
        if kind == FOLDER:
            if not any(path.iterdir()):
                path.rmdir()
        elif kind == FILE and ours(path.relative_to(folder).as_posix()):
            path.unlink()


def remove_folder(folder: Path, ours: Callable[[str], object]) -> None:
    """The same, and then removes the folder.

    Raises:
        DatabaseError: something else is left.
    """
    expect(folder, FOLDER)
    remove_files(folder, ours)
    if not kind_of(folder):
        return
    for left in sorted(folder.iterdir()):
        raise DatabaseError(f'{left}: found in the folder of an unfinished version, expected nothing that semanom does '
                            'not put there; move it away, then try again')
    folder.rmdir()
