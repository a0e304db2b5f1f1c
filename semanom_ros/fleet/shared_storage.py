"""Where workers put what they made and the driver finds it: a folder that all machines have, or an fsspec URL."""

from __future__ import annotations

import logging
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from semanom_ros.errors import ParameterError, SemanomError, without_secrets
from semanom_ros.home import expanded

T = TypeVar('T')


class StorageError(SemanomError):
    """What is shared cannot be reached, or takes no more."""


class SharedStorage:
    """Files of a folder or bucket, written in one step each.

    Attributes:
        url: for people and for other machines; without users and passwords for people, see `shown`.
    """

    def __init__(self, url: str) -> None:
        """
        Args:
            url: a folder, or `protocol://path` as fsspec knows it (s3, gs, sftp, ...). Keys and passwords are taken
                from where its library looks for them; every machine needs them.

        Raises:
            ParameterError: no such protocol, or the library for it is not installed.
            StorageError: it cannot be reached.
        """
        self.url = url if '://' in url else str(expanded(url).absolute())
        try:
            self._files, self._root = self._tried('reached', lambda: fsspec.core.url_to_fs(self.url))
        except (ImportError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise ParameterError(f'--storage {self.shown}: found a protocol that cannot be used here ({reason}), '
                                 'expected a folder, or a URL whose library is installed on every machine (s3fs, '
                                 'gcsfs, paramiko); install it, or give another') from error

    @property
    def shown(self) -> str:
        """The URL for people."""
        return without_secrets(self.url)

    @property
    def local(self) -> bool:
        """Whether it is a folder."""
        return isinstance(self._files, LocalFileSystem)

    def holds(self, folder: Path) -> bool:
        """Whether a folder of this machine is the same, in it or round it."""
        if not self.local:
            return False
        own, other = Path(self._root).resolve(), folder.resolve()
        return own.is_relative_to(other) or other.is_relative_to(own)

    def _path(self, name: str) -> str:
        return f'{self._root.rstrip("/")}/{name}' if name else self._root

    def _tried(self, what: str, work: Callable[[], T]) -> T:
        """The result of some access; every protocol's library raises its own exceptions."""
        try:
            return work()
        except (FileNotFoundError, ImportError, ValueError):
            raise
        except Exception as error:
            reason = (getattr(error, 'strerror', '') or str(error) or type(error).__name__).splitlines()[0]
            raise StorageError(f'{self.shown}: not {what} ({reason}); see that every machine may read and write it and '
                               'that it has room, then give the same command again: it goes on after what is done'
                               ) from error

    def read(self, name: str) -> bytes | None:
        """The content of a file; None where there is none."""
        try:
            return self._tried('read', lambda: self._files.cat_file(self._path(name)))
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Makes or replaces a file in one step: a reader sees the old content or the new one."""
        beside = self._path(f'{name}.{uuid.uuid4().hex[:12]}.new')

        def work() -> None:
            self._files.makedirs(self._parent(name), exist_ok=True)
            try:
                self._files.pipe_file(beside, content)
                self._files.mv(beside, self._path(name))
            except BaseException:
                with suppress(Exception):
                    self._files.rm_file(beside)
                raise

        self._tried('written', work)

    def _parent(self, name: str) -> str:
        return self._path(name).rpartition('/')[0]

    def put(self, folder: Path, name: str) -> None:
        """Copies a folder with its files there; what fails leaves nothing."""

        def work() -> None:
            try:
                for file in sorted(path for path in folder.rglob('*') if path.is_file()):
                    target = f'{name}/{file.relative_to(folder).as_posix()}'
                    self._files.makedirs(self._parent(target), exist_ok=True)
                    self._files.put_file(str(file), self._path(target))
            except BaseException:
                with suppress(Exception):
                    self._files.rm(self._path(name), recursive=True)
                raise

        self._tried('written', work)

    @contextmanager
    def here(self, name: str, files: list[str]) -> Iterator[Path]:
        """A folder of this machine that holds these files of a folder: itself, or a copy that goes afterwards.

        Raises:
            FileNotFoundError: one is missing.
        """
        if self.local:
            yield Path(self._path(name))
            return
        with tempfile.TemporaryDirectory(prefix='semanom_fleet_') as scratch:
            for file in files:
                target = Path(scratch) / file
                target.parent.mkdir(parents=True, exist_ok=True)
                self._tried('read', lambda file=file, target=target: self._files.get_file(  # type: ignore[misc]
                    self._path(f'{name}/{file}' if name else file), str(target)))
            yield Path(scratch)

    def empty(self) -> bool:
        """Whether nothing is there."""
        def work() -> bool:
            self._files.invalidate_cache()
            return not self._files.exists(self._root) or not self._files.ls(self._root, detail=False)

        return self._tried('read', work)

    def remove(self, *names: str) -> None:
        """Removes files and folders, and a local folder where nothing is left in it; what cannot be removed stays."""
        self._files.invalidate_cache()
        for name in names:
            with suppress(FileNotFoundError):
                try:
                    self._tried('cleared', lambda name=name: self._files.rm(  # type: ignore[misc]
                        self._path(name), recursive=True))
                except StorageError as error:
                    logging.getLogger(__name__).warning('%s', error)
        if self.local:
            with suppress(OSError):  # what somebody else put there stays
                self._files.rmdir(self._root)

