"""Recordings into a nominal database: what `semanom record` and the node `nominal_recorder` both do."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

from semanom_ros.core.curation.publishing import Recipe
from semanom_ros.core.curation.recorder import HeldOut, NominalRecorder, RecordingSummary, Thinning
from semanom_ros.core.curation.writer import DatabaseWriter
from semanom_ros.core.database.engines import load_embedder
from semanom_ros.core.database.manifest import Manifest
from semanom_ros.core.embedding.embedder import Embedder
from semanom_ros.core.progress import Progress
from semanom_ros.errors import BagError, ParameterError
from semanom_ros.home import expanded
from semanom_ros.recordings.bags import BagReader
from semanom_ros.recordings.instance_masks import BagSegments, wanted_segments
from semanom_ros.settings import CameraSettings, Settings


@dataclass
class BagRecording:
    """What came of recording bags.

    Attributes:
        manifest: of the database's current version; None where the recording was stopped.
        summary: what was added.
        sources: the recordings read.
        damaged: what could not be read of them, a line each.
        bad_images: messages that hold no picture.
        failed: recordings that are left out because workers failed on them, and why.
        seconds: that it took, without loading the encoder.
    """

    manifest: Manifest | None = None
    summary: RecordingSummary = field(default_factory=RecordingSummary)
    sources: list[Path] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    bad_images: int = 0
    failed: dict[Path, str] = field(default_factory=dict)
    seconds: float = 0.0


def record_bags(bags: Sequence[Path], database: Path, settings: Settings, progress: Progress,
                embedder: Embedder | None = None, stop: Callable[[], bool] = lambda: False, *,
                calibrated: bool = True) -> BagRecording:
    """Embeds nominal recordings, calibrates on the stretches kept aside, and puts the database in its place.

    Killed at any moment, or stopped, it leaves what it did so far beside the database; called
    again with the same recordings it goes on there. What fails before the first frame leaves
    nothing. A damaged recording is used as far as it can be read. Each recording is opened
    once and read once; and again for its masks, where they are needed, or its stamps, where
    stretches are kept aside.

    Args:
        bags: recordings, as BagReader takes them.
        database: folder.
        settings: of the method and the recorder.
        progress: is told.
        embedder: loaded already; None: loaded from the settings.
        stop: is asked between frames; True ends the recording without a commit.
        calibrated: False: what is recorded is to be found again and not to be judged by, so nothing is calibrated.

    Raises:
        SemanomError: a recording, topic, encoder or database will not do, or there is no frame in any recording.
    """
    result, asked = BagRecording(), settings.recorder
    with ExitStack() as stack:
        sources = []  # all of them looked at before the encoder is loaded and hours are spent
        for bag in bags:
            reader = stack.enter_context(BagReader(bag))
            topics = [reader.image_topic(topic) for topic in [topic for topic in asked.image_topics if topic] or ['']]
            sources.append((reader, topics, BagSegments(reader, topics, wanted_segments(settings.method.queries))))
        embedder = embedder or load_embedder(settings.method, database)
        begun = time.monotonic()
        writer = stack.enter_context(DatabaseWriter.begin(database, embedder.description, append=asked.append))
        recorder = NominalRecorder(embedder, writer, asked.thumbnail_size)
        result.summary = recorder.summary
        for reader, topics, segments in sources:
            if not stop():
                result.sources.append(reader.path)
                with reader, segments:
                    _record_bag(reader, topics, segments, recorder, settings, progress, stop, result)
        if not stop():
            if not recorder.summary.frames and not recorder.summary.known:
                raise BagError(f'{", ".join(map(str, bags))}: found no frame that can be recorded, expected images; '
                               'see the messages above')
            recipe = Recipe.of(settings.method, asked.index) if calibrated else None
            result.manifest = writer.commit(recipe, progress)
        result.seconds = time.monotonic() - begun
    return result


def _record_bag(reader: BagReader, topics: Sequence[str], segments: BagSegments, recorder: NominalRecorder,
                settings: Settings, progress: Progress, stop: Callable[[], bool], result: BagRecording) -> None:
    identity = reader.fingerprint()
    asked = settings.recorder
    wanted = recorder.wanted(Thinning(asked.every_n, asked.rate), identity)
    held_out = _held_out(reader, topics, asked.held_out_share)
    seen = told = 0

    def choose(topic: str, stamp_ns: int) -> bool:
        nonlocal seen
        seen += 1
        return stop() or wanted(topic, stamp_ns)

    progress.begin(f'record {reader.path.name}', sum(reader.counts[topic] for topic in topics), 'frame')
    try:
        frames = takewhile(lambda _: not stop(), reader.images(
            topics, choose, segments, settings.method.encoder.bit_depth))
        for _ in recorder.record(frames, identity, held_out):
            progress.advance(seen - told)
            told = seen
    except BagError as error:  # what came before is recorded
        result.damaged.append(str(error))
    progress.advance(seen - told)
    progress.end()
    result.bad_images += reader.bad_images


def _held_out(reader: BagReader, topics: Sequence[str], share: float) -> Callable[[int], bool]:
    """Whether a stamp lies in a stretch that is kept aside; for which, if there are any, all stamps are read first."""
    if not share:
        return lambda stamp_ns: False
    stamps: list[int] = []
    with suppress(BagError):  # of a recording that breaks off; reading its pictures says so
        for stamp in reader.stamps(topics):
            stamps.append(stamp)
    first, last = (min(stamps), max(stamps)) if stamps else (0, 0)
    return HeldOut.of_drive(first, last - first, share).__contains__


def database_path(settings: CameraSettings) -> Path:
    """The parameter `database`.

    Raises:
        ParameterError: it is empty.
    """
    if not settings.database:
        raise ParameterError("parameter database: found '', expected a folder; name where the database is to be")
    return expanded(settings.database)
