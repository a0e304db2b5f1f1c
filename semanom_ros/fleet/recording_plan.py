"""Which frames of a recording are embedded, and the stretches that workers take on.

Thinning, stamps and what is held out depend on everything before a frame. So a recording is looked through once,
without decoding a picture, and stretches name their frames: cut anywhere, the frames are those of one process.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from semanom_ros.core.curation.recorder import HeldOut, Thinning
from semanom_ros.core.database.storage import arrays_to_bytes, read_arrays
from semanom_ros.core.embedding.embedder import LARGEST_BATCH
from semanom_ros.errors import BagError
from semanom_ros.recordings.bags import BagReader
from semanom_ros.recordings.storage_file import ALL, Span
from semanom_ros.settings import RecorderSettings

BATCHES = math.lcm(*LARGEST_BATCH.values())
"""Frames that are whole batches on every device."""


@dataclass(frozen=True)
class RecordingPlan:
    """The frames of one recording that are to be embedded.

    Attributes:
        path: of the recording.
        sha256: which recording that is, see `BagReader.fingerprint`.
        topics: of its cameras, as they were named.
        held_out: which stamps are kept aside.
        spanned: a stretch can be read alone; False where stamps depend on the frame before.
        repeated: frames that another one of the recording has the stamp of.
        bad_messages: messages of the cameras that are none.
        damage: what cannot be read of it, '' when all can.
        topic: (n,) int32 index in `topics` of each frame, in the order of bag time.
        stamp_ns, time_ns: (n,) int64 stamp and bag time.
    """

    path: str
    sha256: str
    topics: tuple[str, ...]
    held_out: HeldOut
    spanned: bool
    repeated: int
    bad_messages: int
    damage: str
    topic: npt.NDArray[np.int32]
    stamp_ns: npt.NDArray[np.int64]
    time_ns: npt.NDArray[np.int64]

    @classmethod
    def make(cls, bag: Path, settings: RecorderSettings) -> RecordingPlan:
        """Looks through a recording, as far as it can be read.

        Raises:
            BagError: a recording or topic will not do.
        """
        with BagReader(bag) as reader:
            topics = [reader.image_topic(topic) for topic in [one for one in settings.image_topics if one] or ['']]
            thinning, seen = Thinning(settings.every_n, settings.rate), set[tuple[str, int]]()
            frames: list[tuple[int, int, int]] = []
            first, last, repeated, damage = 0, 0, 0, ''
            any_frame = False
            try:
                for topic, stamp, time_ns in reader.headers(topics):
                    first, last = (min(first, stamp), max(last, stamp)) if any_frame else (stamp, stamp)
                    any_frame = True
                    if not thinning(topic, stamp):
                        continue
                    if (topic, stamp) in seen:
                        repeated += 1
                        continue
                    seen.add((topic, stamp))
                    frames.append((topics.index(topic), stamp, time_ns))
            except BagError as error:  # what came before is recorded
                damage = str(error)
            held_out = HeldOut.of_drive(first, last - first, settings.held_out_share)
            if not settings.held_out_share:
                held_out = HeldOut(0, 1, 0)
            columns = np.array(frames, np.int64).reshape(-1, 3)
            return cls(str(reader.path), reader.fingerprint(), tuple(topics), held_out,
                       not reader.repeated_stamps.total(), repeated, reader.bad_images, damage,
                       columns[:, 0].astype(np.int32), columns[:, 1], columns[:, 2])

    def __len__(self) -> int:
        return len(self.stamp_ns)

    def stretches(self, frames: int) -> Iterator[range]:
        """Its frames in runs of about so many.

        They begin where a batch begins when one process embeds all: what an encoder computes may differ from batch to
        batch in its last bits.
        """
        step = max(1, frames - frames % BATCHES if frames >= BATCHES else frames)
        yield from (range(first, min(first + step, len(self))) for first in range(0, len(self), step))

    def span(self, rows: range) -> Span:
        """Bag time that some of its frames lie in."""
        if not self.spanned:
            return ALL
        times = self.time_ns[rows.start:rows.stop]
        return Span(int(times.min()), int(times.max()))  # files of a recording may overlap in time

    def key(self, row: int) -> tuple[str, int]:
        """Topic and stamp of a frame."""
        return self.topics[self.topic[row]], int(self.stamp_ns[row])

    def dumps(self) -> bytes:
        """An .npz without pickled objects."""
        about: dict[str, Any] = {
            'path': self.path, 'sha256': self.sha256, 'topics': self.topics,
            'held_out': [self.held_out.start_ns, self.held_out.cycle_ns, self.held_out.stretch_ns],
            'spanned': self.spanned, 'repeated': self.repeated, 'bad_messages': self.bad_messages,
            'damage': self.damage}
        return arrays_to_bytes({'about': np.frombuffer(json.dumps(about).encode(), np.uint8), 'topic': self.topic,
                                'stamp_ns': self.stamp_ns, 'time_ns': self.time_ns})

    @classmethod
    def load(cls, root: Path, name: str) -> RecordingPlan:
        """Of a file that `dumps` made.

        Raises:
            one of UNREADABLE: damaged.
        """
        arrays = read_arrays(root, name)
        about = json.loads(arrays['about'].tobytes())
        return cls(**{**about, 'topics': tuple(about['topics']), 'held_out': HeldOut(*about['held_out'])},
                   topic=arrays['topic'], stamp_ns=arrays['stamp_ns'], time_ns=arrays['time_ns'])
