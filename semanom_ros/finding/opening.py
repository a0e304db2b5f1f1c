"""How a moment of a recording is opened: where it lies now, and the commands and links that go there."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from urllib.parse import quote, urlencode

from semanom_ros.core.database.storage import FrameRecord
from semanom_ros.errors import BagError
from semanom_ros.recordings.bags import BagReader

FOXGLOVE = 'https://app.foxglove.dev/~/view'
"""Opens Foxglove, see its documentation of shareable links."""
_LEAD_S = 1.0  # that a replay begins before the moment, so that it can be seen to come


@dataclass(frozen=True)
class Lying:
    """A recording as it lies there.

    Attributes:
        path: of it.
        files: its storage files, relative to its folder, or its own name.
        start_ns: bag time of its first message.
        ahead_ns: by how much bag time is ahead of the stamps of the images, at their first one.
    """

    path: Path
    files: tuple[str, ...]
    start_ns: int
    ahead_ns: int

    def offset_s(self, stamp_ns: int) -> float:
        """Seconds from its beginning to a little before a stamp, as `ros2 bag play --start-offset` takes them."""
        return max(0.0, (stamp_ns + self.ahead_ns - self.start_ns) / 1e9 - _LEAD_S)

    def play_command(self, stamp_ns: int) -> str:
        """What plays it from a little before a stamp."""
        return f'ros2 bag play {shlex.quote(str(self.path))} --start-offset {self.offset_s(stamp_ns):.1f}'

    def foxglove_link(self, stamp_ns: int, served_at: str) -> str:
        """What opens it in Foxglove at a stamp; '' where it is no single MCAP file, which alone is opened from afar.

        Args:
            stamp_ns: of an image.
            served_at: address that the folder of recordings is served at, with range requests and CORS.
        """
        if len(self.files) != 1 or not self.files[0].endswith(('.mcap', '.bag')):
            return ''
        seconds, nanoseconds = divmod(stamp_ns + self.ahead_ns, 10**9)
        time = f'{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}Z'
        address = f'{served_at.rstrip("/")}/{quote(self.files[0])}'
        return f'{FOXGLOVE}?{urlencode({"ds": "remote-file", "ds.url": address, "time": time})}'


class Places:
    """Where recordings lie now; each is looked for once.

    Attributes:
        missing: what is not there any more, or is another recording now: a line for each, by fingerprint.
    """

    def __init__(self, moved: Sequence[Path] = ()) -> None:
        """
        Args:
            moved: recordings at other places than they were embedded at.

        Raises:
            BagError: one of these is no recording.
        """
        self.missing: dict[str, str] = {}
        self._moved: dict[str, Path] = {}
        self._known: dict[str, Lying | None] = {}
        for path in moved:
            with BagReader(path) as reader:
                self._moved[reader.fingerprint()] = reader.path

    def of(self, record: FrameRecord) -> Lying | None:
        """The recording that a frame comes from; None where it is not there."""
        key = record.source_sha256 or record.source
        if key not in self._known:
            self._known[key] = self._find(key, record)
        return self._known[key]

    def _find(self, key: str, record: FrameRecord) -> Lying | None:
        path = self._moved.get(record.source_sha256, Path(record.source))
        if record.source.startswith(('live:', 'reviewed:')):
            self.missing[key] = f'{record.source}: was recorded from a live camera, and there is no recording of it'
            return None
        try:
            with BagReader(path) as reader:
                if reader.fingerprint() != record.source_sha256:
                    self.missing[key] = f'{path}: is another recording now; name where it lies with --recording BAG'
                    return None
                first = next(reader.raw(), None)
                image = next(reader.raw([record.topic]), None)
                stamp = next(reader.stamps([record.topic]), None)
                assert first is not None
                assert image is not None
                assert stamp is not None
                names = tuple(file.name if reader.path.is_file() else f'{reader.path.name}/{file.name}'
                              for file in reader.files)
                return Lying(reader.path, names, first[2], image[2] - stamp)
        except BagError as error:
            gone = 'is not there any more' if not path.exists() else f'cannot be read ({error})'
            self.missing[key] = f'{path}: {gone}; name where it lies with --recording BAG'
            return None


def links(lying: Lying | None, stamp_ns: int, served_at: str) -> Mapping[str, str]:
    """Ways to open a moment, by name: `play`, a command, and `foxglove`, a link; those that there are."""
    if lying is None:
        return {}
    found = {'play': lying.play_command(stamp_ns)}
    if served_at and (link := lying.foxglove_link(stamp_ns, served_at)):
        found['foxglove'] = link
    return found
