"""Nominal frames into a nominal database: thinned, embedded in batches, some kept aside for calibration."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from semanom_ros.core.database.storage import FrameRecord, NominalAddition, thumbnail
from semanom_ros.core.embedding.embedder import Embedder, FrameEmbedding, MaskMemory
from semanom_ros.core.frames import Frame
from semanom_ros.core.overlapping import Behind, ahead, batches

SHORTEST_STRETCH_NS = 5_000_000_000  # neighbouring frames look alike: a stretch must be longer than they do
MOST_STRETCHES = 10  # of one drive
MOST_NAMED = 5  # frames that could not be recorded

log = logging.getLogger(__name__)


class Thinning:
    """Which frames of a stream to take: every n-th, or so many a second by their stamps.

    Looks at every frame of a stream in its order, so a recording is thinned to the same
    frames however often it is begun again.
    """

    def __init__(self, every_n: int = 1, rate: float = 0.0) -> None:
        """
        Args:
            every_n: take the first of every n frames of a camera.
            rate: then take at most so many a second of a camera, Hz; 0: all.
        """
        self._every_n = every_n
        self._period_ns = round(1e9 / rate) if rate else 0
        self._seen: dict[str, int] = {}
        self._due: dict[str, int] = {}
        self._last: dict[str, int] = {}

    def __call__(self, camera: str, stamp_ns: int) -> bool:
        """Whether to take the next frame of a camera."""
        seen = self._seen.get(camera, 0)
        self._seen[camera] = seen + 1
        if seen % self._every_n:
            return False
        backwards = stamp_ns < self._last.get(camera, stamp_ns)  # a looped bag, or a clock that was set
        self._last[camera] = stamp_ns
        due = stamp_ns if backwards else self._due.get(camera, stamp_ns)
        if stamp_ns < due - self._period_ns // 10:  # a camera at that very rate keeps time to so much
            return False
        gap = stamp_ns - due > self._period_ns  # what was missed is not caught up with
        self._due[camera] = (stamp_ns if gap else due) + self._period_ns
        return True


@dataclass(frozen=True)
class HeldOut:
    """The stretches of a drive that are kept aside for calibration.

    Whole stretches and not single frames: the neighbour of a recorded frame looks like it
    and would make nominal scores seem lower than they are. A stretch lies in the middle
    of every cycle.

    Attributes:
        start_ns: where the first cycle begins.
        cycle_ns: length of a cycle.
        stretch_ns: held-out part of every cycle; 0: none.
    """

    start_ns: int
    cycle_ns: int
    stretch_ns: int

    @classmethod
    def of_drive(cls, start_ns: int, duration_ns: int, share: float) -> HeldOut:
        """For a drive whose length is known: up to MOST_STRETCHES of at least SHORTEST_STRETCH_NS, if it is that long.

        Args:
            start_ns: stamp of its first frame.
            duration_ns: from its first to its last frame.
            share: of the time, 0 to 0.5.
        """
        stretches = min(MOST_STRETCHES, max(1, int(duration_ns * share) // SHORTEST_STRETCH_NS))
        cycle = max(1, duration_ns // stretches)
        return cls(start_ns, cycle, int(cycle * share))

    @classmethod
    def of_live(cls, start_ns: int, share: float) -> HeldOut:
        """For a drive that may end at any time: stretches of SHORTEST_STRETCH_NS."""
        if not share:
            return cls(start_ns, 1, 0)
        return cls(start_ns, int(SHORTEST_STRETCH_NS / share), SHORTEST_STRETCH_NS)

    def __contains__(self, stamp_ns: int) -> bool:
        place = (stamp_ns - self.start_ns) % self.cycle_ns
        begin = (self.cycle_ns - self.stretch_ns) // 2
        return begin <= place < begin + self.stretch_ns


@dataclass
class RecordingSummary:
    """What a recording added.

    Attributes:
        frames: frames added.
        held_out: of these, kept aside for calibration.
        vectors: embeddings added.
        known: frames that the database, or an interrupted recording, held already.
        repeated: frames that were not added, because another one of the same source has their stamp.
        not_finite: frames that were not added, because the encoder gave NaN or infinity.
        not_finite_frames: topic and stamp of the first of them.
    """

    frames: int = 0
    held_out: int = 0
    vectors: int = 0
    known: int = 0
    repeated: int = 0
    not_finite: int = 0
    not_finite_frames: list[str] = field(default_factory=list)

    def refuse(self, embedding: FrameEmbedding) -> None:
        """A frame is not added, because its embedding is none."""
        frame = embedding.frame
        name = f'{frame.topic} at {frame.stamp_ns // 10**9}.{frame.stamp_ns % 10**9:09d}'
        self.not_finite += 1
        if len(self.not_finite_frames) < MOST_NAMED:
            self.not_finite_frames.append(name)
            log.warning('%s is not recorded: %s', name, embedding.fault)

    @property
    def not_finite_line(self) -> str:
        """The frames that were not added because of NaN or infinity, for people; '' where there are none."""
        if not self.not_finite:
            return ''
        more = self.not_finite - len(self.not_finite_frames)
        return (f'{self.not_finite} frames not recorded, of which the encoder gave NaN or infinity: '
                f'{", ".join(self.not_finite_frames)}{f" and {more} more" if more else ""}; choose precision bf16 or '
                'fp32, or another encoder')


class FrameStore(Protocol):
    """Takes embedded frames, as `DatabaseWriter` does."""

    def has(self, source_sha256: str, topic: str, stamp_ns: int) -> bool:
        """Whether it has this frame already."""

    def add(self, addition: NominalAddition) -> bool:
        """Adds a frame; False when it was there already."""


class NominalRecorder:
    """Embeds frames and adds them to a database that is being written.

    Memory does not grow with the number of frames.

    Attributes:
        summary: what was added so far.
    """

    def __init__(self, embedder: Embedder, writer: FrameStore, thumbnail_size: int = 160) -> None:
        """
        Args:
            embedder: the one that the detector will use.
            writer: begun with the embedder's description.
            thumbnail_size: longer side of the pictures kept as evidence, pixels; 0: none.
        """
        self._embedder = embedder
        self._writer = writer
        self._thumbnail_size = thumbnail_size
        self._masks: defaultdict[str, MaskMemory] = defaultdict(MaskMemory)  # by camera
        self.summary = RecordingSummary()

    def wanted(self, thinning: Thinning, sha256: str) -> Callable[[str, int], bool]:
        """Whether to take a frame of a topic and stamp: chosen by the thinning, and not recorded yet.

        Args:
            thinning: of this source.
            sha256: which source this is.
        """
        seen: set[tuple[str, int]] = set()

        def decide(topic: str, stamp_ns: int) -> bool:
            if not thinning(topic, stamp_ns):
                return False
            if (topic, stamp_ns) in seen:
                self.summary.repeated += 1
                return False
            seen.add((topic, stamp_ns))
            if self._writer.has(sha256, topic, stamp_ns):
                self.summary.known += 1
                return False
            return True

        return decide

    def record(self, frames: Iterable[Frame], sha256: str, held_out: Callable[[int], bool]) -> Iterator[int]:
        """Adds frames; decodes and prepares the next ones, and stores those before, while the encoder works.

        Args:
            frames: from one source, not recorded yet.
            sha256: which source that is.
            held_out: whether a stamp lies in a stretch that is kept aside.

        Yields:
            How many frames were embedded, batch by batch; all of them are stored when it ends.

        Raises:
            SemanomError: from `frames`, after all that came before it is recorded.
        """
        batch_size = self._embedder.largest_batch
        pictures = ((frame, self._embedder.prepare(frame)) for frame in frames)
        with Behind() as behind, closing(ahead(pictures, 2 * batch_size)) as prepared:
            for batch in batches(prepared, batch_size):
                recorded = [frame for frame, _ in batch]
                embeddings = self._embedder.embed(
                    recorded, [self._memory(frame) for frame in recorded], [picture for _, picture in batch])
                behind(self._add, embeddings, sha256, held_out)
                yield len(batch)

    def _memory(self, frame: Frame) -> MaskMemory:
        return MaskMemory() if frame.still else self._masks[frame.camera]

    def _add(self, embeddings: Sequence[FrameEmbedding], sha256: str, held_out: Callable[[int], bool]) -> None:
        for embedding in embeddings:
            if embedding.fault:
                self.summary.refuse(embedding)
                continue
            frame, queries = embedding.frame, self._embedder.queries(embedding)
            record = FrameRecord(
                source=frame.source, source_sha256=sha256, topic=frame.topic, stamp_ns=frame.stamp_ns,
                image_size=frame.image.shape[:2], held_out=held_out(frame.stamp_ns))
            picture = b'' if record.held_out else thumbnail(frame.image, self._thumbnail_size)
            added = self._writer.add(
                NominalAddition(record, queries.vectors, queries.boxes, queries.positions, picture))
            if added:
                self.summary.frames += 1
                self.summary.held_out += record.held_out
                self.summary.vectors += len(queries.vectors)
            else:  # two frames of one stamp
                self.summary.repeated += 1


def folder_size(path: Path) -> int:
    """Bytes of the files in a folder."""
    return sum(file.stat().st_size for file in path.rglob('*') if file.is_file())
