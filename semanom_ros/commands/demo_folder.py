"""The folder of `semanom demo`, and what of an earlier demo in it is still true."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import semanom_ros
from semanom_ros.errors import SemanomError
from semanom_ros.evaluation.runner import versions

MARKER = '.semanom_demo'


class DemoFolder:
    """Parts of the folder are taken over where they were made whole, by the same code, of the same things.

    Attributes:
        path: absolute.
    """

    def __init__(self, output: Path) -> None:
        """
        Raises:
            SemanomError: something else is there.
        """
        self.path = output.absolute()
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())) \
                and not (self.path / MARKER).is_file():
            raise SemanomError(f'{output}: found something that is no demo, expected an empty or new folder; give '
                               'another --output')
        self._whole: dict[str, str] = {}

    def clear(self, **parts: object) -> None:
        """Removes everything but the parts that are as they would be made.

        Args:
            parts: by name, in the order that they are made in, what each is made of; a part is made of those before
                it as well.
        """
        try:
            marked = json.loads((self.path / MARKER).read_text())
        except (OSError, ValueError):
            marked = {}
        for name, what in parts.items():
            if not isinstance(marked, dict) or marked.get(name) != self._fingerprint(name, what):
                break
            self._whole[name] = marked[name]
        self.path.mkdir(parents=True, exist_ok=True)
        self._mark()
        for path in self.path.iterdir():
            if path.name not in (MARKER, *self._whole):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def begin(self, name: str) -> bool:
        """Whether a part is to be made; its folder is there then."""
        if name in self._whole:
            print('      as in the demo before: nothing that they are made of has changed')
            return False
        (self.path / name).mkdir()
        return True

    def end(self, name: str, what: object) -> None:
        """Notes that a part is whole."""
        self._whole[name] = self._fingerprint(name, what)
        self._mark()

    def _mark(self) -> None:
        (self.path / MARKER).write_text(json.dumps(self._whole))

    def _fingerprint(self, name: str, what: object) -> str:
        """Of a part: what it is made of, the code that makes it, and its files as they lie there."""
        part = self.path / name
        files = [(str(file.relative_to(part)), file.stat().st_size, file.stat().st_mtime_ns)
                 for file in sorted(part.rglob('*')) if file.is_file()]
        return hashlib.sha256(repr([what, versions(), _sources(), files]).encode()).hexdigest()


def _sources() -> str:
    """Of everything in the package: a change of its code must not meet what older code has made."""
    package, digest = Path(semanom_ros.__file__).parent, hashlib.sha256()
    for file in sorted(package.rglob('*')):
        if file.is_file() and file.suffix != '.pyc':
            digest.update(f'{file.relative_to(package)}\n{file.stat().st_size}\n'.encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()
