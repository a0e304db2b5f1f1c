"""What is kept round an alarm: the last seconds of messages, when they are worth a recording, and writing it.

Nothing is copied for what comes after an alarm: the ring keeps what an open snapshot still needs, and a snapshot is
written from it when its time is over. Times are those of one clock that never goes back, in nanoseconds; bag times are
the messages' own.
"""

from __future__ import annotations

import stat
from collections import Counter, deque
from collections.abc import Callable, Collection, Hashable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from semanom_ros.errors import BagError
from semanom_ros.recordings.bags import BagWriter
from semanom_ros.settings import SnapshotSettings

MOST_OPEN = 8
"""Snapshots that wait for their end, or to be written; what they hold of the ring stays in memory."""

MOST_TRACKS = 1000
"""Of one camera that are remembered."""

MOST_HELD = 100
"""Latched messages of one topic that are remembered: each publisher of /tf_static has its own."""

HOUR_NS = 3600 * 10**9

KEPT = 'kept'
KNOWN = 'resembles what was kept'
HOURLY = 'snapshots_per_hour reached'
FULL = 'snapshot_megabytes reached'
BUSY = f'{MOST_OPEN} snapshots are open'
FAILED = 'could not be written'
SKIPPED = (KNOWN, HOURLY, FULL, BUSY, FAILED)
"""Why nothing is kept of an alarm."""


class Message(NamedTuple):
    """A message as it came.

    Attributes:
        topic, type: where, and of what kind.
        when_ns: it came.
        bag_ns: time that it gets in a recording.
        cdr: serialized, with its encapsulation header.
    """

    topic: str
    type: str
    when_ns: int
    bag_ns: int
    cdr: bytes


@dataclass(eq=False)
class Snapshot:
    """Something that may be kept.

    Attributes:
        camera: that raised the alarm.
        name: of its recording.
        start_ns, end_ns: what of the ring belongs to it.
        new: it shows what was not kept yet; None: that is not known.
    """

    camera: str
    name: str
    start_ns: int
    end_ns: int
    new: bool | None = None


class Taken(NamedTuple):
    """What belongs to a snapshot.

    Attributes:
        held: latched messages that hold by its end.
        messages: the others, in order.
        bytes: of all, serialized.
        short: the first ones are missing: they had to go for their bytes.
    """

    held: list[Message]
    messages: list[Message]
    bytes: int
    short: bool


class Ring:
    """The last messages, bounded by their bytes; latched ones hold until others replace them.

    Attributes:
        bytes: serialized, in all.
        lost_ns: when the last message came that had to go for its bytes, before its time; -1: none.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._messages: deque[Message] = deque()
        self._held: dict[str, deque[Message]] = {}
        self.bytes, self.lost_ns = 0, -1

    def add(self, message: Message, latched: bool = False) -> None:
        """Adds the newest message."""
        if latched:
            held = self._held.setdefault(message.topic, deque(maxlen=MOST_HELD))
            if all(one.cdr != message.cdr for one in held):
                held.append(message)
            return
        self._messages.append(message)
        self.bytes += len(message.cdr)
        while self.bytes > self._most:
            self.lost_ns = self._drop().when_ns

    def forget(self, before_ns: int) -> None:
        """Drops what came before."""
        while self._messages and self._messages[0].when_ns < before_ns:
            self._drop()

    def _drop(self) -> Message:
        message = self._messages.popleft()
        self.bytes -= len(message.cdr)
        return message

    @property
    def seconds(self) -> float:
        """That its messages span."""
        return (self._messages[-1].when_ns - self._messages[0].when_ns) / 1e9 if self._messages else 0.0

    def newest(self, topic: str, wanted: Callable[[bytes], bool]) -> Message | None:
        """The last message of a topic that is wanted."""
        return next((one for one in reversed(self._messages) if one.topic == topic and wanted(one.cdr)), None)

    def between(self, start_ns: int, end_ns: int) -> tuple[list[Message], list[Message]]:
        """Latched messages that hold by the end, and the messages of a stretch, in order."""
        held = [one for messages in self._held.values() for one in messages if one.when_ns <= end_ns]
        return held, [one for one in self._messages if start_ns <= one.when_ns <= end_ns]


class Snapshots:
    """Decides which alarms become recordings. Not for several threads.

    An alarm goes on while its tracks do: only a track that was not seen before asks for a snapshot. Limits come before
    the question whether it is new, which costs a pass of the encoder.

    Attributes:
        ring: of messages.
        counts: alarms by what became of them: KEPT, or one of SKIPPED.
        open: snapshots that wait for their end.
        used: bytes of all snapshots on the disk; whoever looks there sets it.
        reserved: bytes of the messages that are being written.
    """

    def __init__(self, settings: SnapshotSettings, used: int = 0) -> None:
        """
        Args:
            settings: limits and lengths.
            used: bytes on the disk from before.
        """
        self._before_ns, self._after_ns = round(settings.before * 1e9), round(settings.after * 1e9)
        self._per_hour, self._most_bytes = settings.per_hour, settings.megabytes * 10**6
        self.ring = Ring(settings.memory * 10**6)
        self.counts = Counter[str]()
        self.open: list[Snapshot] = []
        self.used, self.reserved = used, 0
        self._kept: deque[int] = deque()  # when, of the last hour
        self._tracks: dict[str, deque[Hashable]] = {}

    def alarm(self, camera: str, tracks: Collection[int], when_ns: int, name: str) -> Snapshot | None:
        """A frame is anomalous; returns what may be kept of that, and is then to be judged.

        Args:
            camera: that it is of.
            tracks: of its anomalies; 0, or none: without tracking, and each frame that is not within an open snapshot
                of its camera is an alarm of its own.
            when_ns: the picture came.
            name: of the recording.
        """
        known = self._tracks.setdefault(camera, deque(maxlen=MOST_TRACKS))
        new = [track for track in tracks if track and track not in known]
        tracked = any(tracks)
        if not new and (tracked or any(one.camera == camera and one.end_ns >= when_ns for one in self.open)):
            return None
        known += new
        if len(self.open) >= MOST_OPEN:
            self.counts[BUSY] += 1
        elif self._spent(when_ns):
            self.counts[HOURLY] += 1
        elif self.used + self.reserved >= self._most_bytes:
            self.counts[FULL] += 1
        else:
            snapshot = Snapshot(camera, name, when_ns - self._before_ns, when_ns + self._after_ns)
            self.open.append(snapshot)
            return snapshot
        return None

    def _spent(self, now_ns: int) -> bool:
        """Whether the hour has as many as it may have."""
        while self._kept and self._kept[0] <= now_ns - HOUR_NS:
            self._kept.popleft()
        return len(self._kept) + sum(one.new is True for one in self.open) >= self._per_hour

    def decide(self, snapshot: Snapshot, new: bool) -> bool:
        """Whether it shows what was not kept yet; returns whether it is to be written, by the limits too."""
        spent = new and self._spent(snapshot.end_ns)
        snapshot.new = new and not spent
        if not snapshot.new:
            self.open.remove(snapshot)
            self.counts[HOURLY if spent else KNOWN] += 1
        return snapshot.new

    def due(self, now_ns: int) -> list[Snapshot]:
        """Those whose time is over and that are to be written; forgets what nobody needs any more."""
        self.ring.forget(min([now_ns - self._before_ns, *(one.start_ns for one in self.open)]))
        return [one for one in self.open if one.new and one.end_ns < now_ns]

    def take(self, snapshot: Snapshot) -> Taken | None:
        """Ends a snapshot that is due; None: it might not fit into what is left of the limit, its messages not being
        compressed yet."""
        self.open.remove(snapshot)
        held, messages = self.ring.between(snapshot.start_ns, snapshot.end_ns)
        taken = Taken(held, messages, sum(len(one.cdr) for one in (*held, *messages)), self.ring.lost_ns
                      >= snapshot.start_ns)
        if self.used + self.reserved + taken.bytes > self._most_bytes:
            self.counts[FULL] += 1
            return None
        self.reserved += taken.bytes  # until it is known what it takes
        self._kept.append(snapshot.end_ns)
        return taken

    def written(self, snapshot: Snapshot, taken: Taken, size: int) -> None:
        """A snapshot that was taken is on the disk, with this size in bytes; 0: it could not be written."""
        self.reserved -= taken.bytes
        self.used += size
        self.counts[KEPT if size else FAILED] += 1
        if not size and snapshot.end_ns in self._kept:
            self._kept.remove(snapshot.end_ns)


def write_snapshot(path: Path, taken: Taken) -> int:
    """Writes a recording, or nothing; returns its size in bytes.

    Args:
        path: folder to be made.
        taken: what it is to hold; latched messages from before the first of the others get its time.

    Raises:
        BagError: it cannot be written, as when the disk is full, or a type is not known.
    """
    try:
        with BagWriter(path) as writer:
            start = taken.messages[0].bag_ns if taken.messages else 0
            for one in taken.held:
                writer.declare(one.topic, one.type, latched=True)
                writer.write_cdr(one.topic, one.type, one.cdr, max(one.bag_ns, start))
            for one in taken.messages:
                writer.write_cdr(one.topic, one.type, one.cdr, one.bag_ns)
        return size_of(path)
    except OSError as error:
        raise BagError(f'{path}: cannot be written ({error.strerror}); free space, or give another snapshot_folder'
                       ) from error


def size_of(folder: Path) -> int:
    """Bytes of the files below a folder."""
    size = 0
    for path in folder.rglob('*'):
        with suppress(FileNotFoundError):  # it was moved elsewhere meanwhile
            found = path.lstat()
            size += found.st_size if stat.S_ISREG(found.st_mode) else 0
    return size
