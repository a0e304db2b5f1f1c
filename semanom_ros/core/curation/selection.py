"""Which frames of a database are meant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from semanom_ros.core.database.manifest import Manifest
from semanom_ros.core.database.storage import FrameRecord
from semanom_ros.errors import DatabaseError


@dataclass(frozen=True)
class Selection:
    """Some of a database's frames.

    Attributes:
        sources: recordings, by their paths or names as `info` shows them, the beginning of their SHA-256 (8 digits at
            least), or patterns such as `reviewed:*`; () for all.
        topics: of their cameras, or patterns such as `/front/*`; () for all.
    """

    sources: tuple[str, ...] = ()
    topics: tuple[str, ...] = ()

    def __str__(self) -> str:
        return ', '.join((*self.sources, *self.topics))

    def of(self, path: Path, manifest: Manifest) -> Callable[[FrameRecord], bool]:
        """Whether a frame of a version is among them.

        Raises:
            DatabaseError: one of its sources or topics matches nothing.
        """
        sources = set()
        for wanted in self.sources:
            found = {(source.path, source.sha256) for source in manifest.sources
                     if fnmatch(source.path, wanted) or Path(source.path).name == wanted.rstrip('/')
                     or (len(wanted) >= 8 and source.sha256.startswith(wanted))}
            if not found:
                raise DatabaseError(f'{path}: source: found none that is {wanted}, expected one of '
                                    f'{", ".join(source.path for source in manifest.sources)}')
            sources |= found
        known = sorted({topic for source in manifest.sources for topic in source.topics})
        for wanted in self.topics:
            if not any(fnmatch(topic, wanted) for topic in known):
                raise DatabaseError(f'{path}: topic: found none that is {wanted}, expected one of {", ".join(known)}')
        topics = {topic for topic in known if any(fnmatch(topic, wanted) for wanted in self.topics)}
        return lambda record: ((not self.sources or (record.source, record.source_sha256) in sources)
                               and (not self.topics or record.topic in topics))
