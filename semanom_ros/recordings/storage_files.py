"""The files of a recording: which they are, and what reads each of them.

What a file is say its first bytes, not its name. Lengths are compared with what is there before anything is read or
unpacked, so that memory stays bounded.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, suppress
from pathlib import Path, PurePath
from weakref import WeakValueDictionary

import yaml
import zstandard

from semanom_ros.errors import BagError, git_lfs_pointer
from semanom_ros.recordings import mcap_file, ros1_bag, sqlite_file
from semanom_ros.recordings.compression import ZSTD
from semanom_ros.recordings.natural_order import natural_order
from semanom_ros.recordings.storage_file import ALL, Row, Span, StorageFile, line
from semanom_ros.small_files import read_small

SUFFIXES = ('.mcap', '.db3', '.bag')
_READERS: dict[bytes, Callable[[Path], StorageFile]] = {
    mcap_file.MAGIC: mcap_file.McapFile, sqlite_file.MAGIC: sqlite_file.SqliteFile, ros1_bag.MAGIC: ros1_bag.Ros1Bag}
_ARCHIVES = {b'\x1f\x8b': 'gzip', b'PK\x03\x04': 'zip', b'BZh': 'bzip2', b'\xfd7zXZ': 'xz', b'\x04\x22\x4d\x18': 'lz4',
             b'7z\xbc\xaf': '7-Zip'}
_MOST_UNPACKED, _ALWAYS_UNPACKED = 1000, 64 << 20  # times its size; recordings are packed to a tenth at best
_SPARE_DISK = 1 << 30  # bytes that unpacking leaves to others


def open_storage_file(path: Path) -> StorageFile:
    """Opens a file of a recording.

    Raises:
        BagError: it is none, or nothing of it can be read.
    """
    try:
        with open(path, 'rb') as file:
            begin = file.read(16)
        if begin.startswith(ZSTD):
            return ZstdFile(path)
        for magic, reader in _READERS.items():
            if begin.startswith(magic):
                return reader(path)
        if pointer := git_lfs_pointer(path):
            raise BagError(pointer)
        if not begin:
            raise BagError(f'{path}: found an empty file, expected a recording; copy or record it again')
        for magic, name in _ARCHIVES.items():
            if begin.startswith(magic):
                raise BagError(f'{path}: found a {name} archive, expected a recording; unpack it first')
        if not _named_as_one(path):
            raise BagError(f'{path}: found no recording, expected a rosbag2 folder, or a .mcap, .db3 or .bag file')
        raise BagError(f'{path}: found neither MCAP nor SQLite nor a ROS 1 bag in it ({begin[:8].hex(" ")} ...); copy '
                       'or record it again')
    except OSError as error:
        raise BagError(f'{path}: cannot be read ({error.strerror or line(error)}); '
                       'change its permissions or copy it again') from error


def storage_files(folder: Path) -> tuple[list[Path], str]:
    """The files of a recording's folder in order, and a line about those that are not there, '' if none is missing.

    metadata.yaml says which belong to it. Its counts and times are not asked for, because the files know better; where
    it is broken, or names what is not there while other files are (renamed ones), all that lie there are taken.
    """
    there = [path for path in folder.iterdir()
             if path.is_file() and path.suffix.lower() in (*SUFFIXES, '.zstd') and _named_as_one(path)
             and not path.name.startswith('.')]
    # recorders number the files of a split recording without leading zeros
    there.sort(key=lambda path: natural_order(path.name))
    there = [path for path in there if path.suffix != '.zstd' or path.with_suffix('') not in there]  # not twice
    listed = _listed(folder)
    ours = [folder / name for name in listed if (folder / name).is_file()]
    missing = [name for name in listed if not (folder / name).is_file()]
    if missing and set(there) - set(ours):
        return there, ''
    # a recorder that was cut off may not have come to list its last ones
    if ours and (numbered := re.fullmatch(r'(.+_)\d+(\.\D+)', ours[-1].name)):
        ours += [path for path in there if path not in ours
                 and re.fullmatch(re.escape(numbered[1]) + r'\d+' + re.escape(numbered[2]), path.name)]
    return ours or there, f'{", ".join(missing)} of metadata.yaml is missing' if missing and ours else ''


def _named_as_one(path: Path) -> bool:
    return any(suffix.lower() in SUFFIXES for suffix in path.suffixes)


def _listed(folder: Path) -> list[str]:
    """Names of the files that metadata.yaml lists; none where it is missing or broken."""
    try:
        content = yaml.safe_load(read_small(folder / 'metadata.yaml'))
        # before ROS 2 Foxy they began with the folder's name
        names = [PurePath(name).name for name in content['rosbag2_bagfile_information']['relative_file_paths']]
        return list(dict.fromkeys(names))
    except Exception:  # whatever its parser meets
        return []


class ZstdFile:
    """A file that is compressed as a whole, unpacked into a temporary file that its readers share."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        status = path.stat()
        key = str(path.resolve()), status.st_mtime_ns, status.st_size
        self._copy = _COPIES.get(key) or _COPIES.setdefault(key, _Copy(path))
        try:
            self._file = open_storage_file(self._copy.path)
        except BagError as error:
            raise BagError(str(error).replace(str(self._copy.path), str(path))) from error
        self.topics, self.damage = self._file.topics, self._file.damage

    def messages(self, topics: Collection[str], span: Span = ALL) -> Iterator[Row]:
        return self._file.messages(topics, span)

    def close(self) -> None:
        self._file.close()


class _Copy:
    """What a zstd file holds, in a temporary file that goes with the last one who holds it."""

    def __init__(self, path: Path) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix='semanom_unpacked_')
        self.path = Path(self._folder.name) / (path.stem if path.suffix == '.zstd' else path.name)
        most = max(_ALWAYS_UNPACKED, _MOST_UNPACKED * path.stat().st_size)
        room = shutil.disk_usage(self._folder.name).free - _SPARE_DISK
        written = 0
        with open(path, 'rb') as packed, open(self.path, 'wb') as file:
            reader = zstandard.ZstdDecompressor(max_window_size=1 << 31).stream_reader(packed, read_across_frames=True)
            with closing(reader), suppress(zstandard.ZstdError):  # what came before damage may still be read
                while piece := reader.read(1 << 20):
                    written += len(piece)
                    if written > most:
                        raise BagError(f'{path}: found a file that unpacks to more than {_MOST_UNPACKED} times its '
                                       'size, expected a recording; record it again')
                    if written > room:
                        raise BagError(f'{path}: found more than the {max(0, room) / 1e9:.1f} GB that are free in '
                                       f'{Path(self._folder.name).parent} to unpack it; set TMPDIR to a larger place')
                    file.write(piece)
        if not written:
            raise BagError(f'{path}: found a zstd file of which nothing can be unpacked, expected a recording; copy or '
                           'record it again')


_COPIES: WeakValueDictionary[tuple[str, int, int], _Copy] = WeakValueDictionary()
