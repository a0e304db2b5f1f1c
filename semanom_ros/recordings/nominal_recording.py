"""Recordings into a nominal database: what `semanom record` and the node `nominal_recorder` both do."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch

from semanom_ros.core.curation.publishing import IndexSettings, suggested_factory
from semanom_ros.core.curation.recorder import HeldOut, NominalRecorder, RecordingSummary, Thinning, describe
from semanom_ros.core.database import DatabaseWriter, NominalDatabase
from semanom_ros.core.embedding.embedder import Embedder
from semanom_ros.core.embedding.segmenters import segmenter_name
from semanom_ros.core.progress import SILENT, Progress
from semanom_ros.core.scoring.calibration import calibrator, view_settings
from semanom_ros.errors import BagError, ParameterError
from semanom_ros.recordings.bags import BagReader
from semanom_ros.recordings.instance_masks import BagSegments, wanted_segments

logger = logging.getLogger(__name__)


INDEXED_FROM = 50_000
"""Embeddings from which on a CPU takes longer to search them all than to encode a frame."""


@dataclass
class BagRecording:
    """What came of recording bags.

    Attributes:
        database: the committed database; None where there was nothing new to commit.
        summary: what was added.
        sources: the recordings read.
        damaged: what could not be read of them, a line each.
        bad_images: messages that hold no picture.
        seconds: that it took, without loading the encoder.
    """

    database: NominalDatabase | None = None
    summary: RecordingSummary = field(default_factory=RecordingSummary)
    sources: list[Path] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    bad_images: int = 0
    seconds: float = 0.0


def record_bags(bags: Sequence[Path], database: Path, parameters: Mapping[str, Any], progress: Progress,
                embedder: Embedder | None = None, stop: Callable[[], bool] = lambda: False) -> BagRecording:
    """Embeds nominal recordings, calibrates on the stretches kept aside, and puts the database in its place.

    Killed at any moment, or stopped, it leaves what it did so far beside the database; called
    again with the same recordings it goes on there. A damaged recording is used as far as it
    can be read.

    Args:
        bags: recordings, as BagReader takes them.
        database: folder.
        parameters: resolved, of the groups `method`, `node` and `recorder`.
        progress: is told.
        embedder: loaded already; None: loaded from the parameters.
        stop: is asked between frames; True ends the recording without a commit.

    Raises:
        SemanomError: a recording, topic, encoder or database will not do, or there is no frame in any recording.
    """
    topics = [topic for topic in parameters['image_topics'] if topic] or ['']
    masks = wanted_segments(segmenter_name(parameters), parameters)
    for bag in bags:  # before the encoder is loaded and hours are spent
        with BagReader(bag) as reader:
            names = [reader.image_topic(topic) for topic in topics]
        with BagSegments(bag, names, masks):
            pass
    embedder = embedder or Embedder.load(parameters)
    begun = time.monotonic()
    result = BagRecording()
    with DatabaseWriter.begin(database, describe(embedder), append=parameters['append']) as writer:
        recorder = NominalRecorder(embedder, writer, parameters['thumbnail_size'])
        result.summary = recorder.summary
        for bag in bags:
            if not stop():
                with BagReader(bag) as reader:
                    result.sources.append(reader.path)
                    _record_bag(reader, topics, recorder, parameters, progress, stop, result)
        if not stop():
            if not recorder.summary.frames and not recorder.summary.known:
                raise BagError(f'{", ".join(map(str, bags))}: found no frame that can be recorded, expected images; '
                               'see the messages above')
            result.database = commit(writer, parameters, embedder.encoder.device, progress)
    result.seconds = time.monotonic() - begun
    return result


def _record_bag(reader: BagReader, topics: Sequence[str], recorder: NominalRecorder, parameters: Mapping[str, Any],
                progress: Progress, stop: Callable[[], bool], result: BagRecording) -> None:
    topics = [reader.image_topic(topic) for topic in topics]
    progress.begin(f'hash {reader.path.name}', sum(file.stat().st_size for file in reader.files), 'B')
    sha256 = reader.sha256(progress.advance)
    progress.end()
    thinning = Thinning(parameters['every_n'], parameters['rate'])
    wanted = recorder.wanted(thinning, sha256)
    drive = _Drive(reader.span[1] - reader.span[0], parameters['held_out_share'])
    seen = told = 0

    def choose(topic: str, stamp_ns: int) -> bool:
        nonlocal seen
        seen += 1
        drive.begin(stamp_ns)
        return stop() or wanted(topic, stamp_ns)

    progress.begin(f'record {reader.path.name}', sum(reader.counts[topic] for topic in topics), 'frame')
    try:
        masks = wanted_segments(segmenter_name(parameters), parameters)
        with BagSegments(reader.path, topics, masks) as segments:
            frames = takewhile(lambda _: not stop(), reader.images(topics, choose, segments))
            for _ in recorder.record(frames, sha256, drive.held_out):
                progress.advance(seen - told)
                told = seen
    except BagError as error:  # what came before is recorded
        result.damaged.append(str(error))
    progress.advance(seen - told)
    progress.end()
    result.bad_images += reader.bad_images


def commit(writer: DatabaseWriter, parameters: Mapping[str, Any], device: torch.device, progress: Progress = SILENT
           ) -> NominalDatabase:
    """Calibrates on what was held out, and puts the database in its place.

    Where a CPU will search many embeddings, they get an approximate index first.

    Args:
        writer: with all frames.
        parameters: resolved, of the groups `method` and `recorder`.
        device: that will search.
        progress: is told.

    Raises:
        DatabaseError: every frame is held out.
    """
    index = None
    if parameters['index'] == 'auto' and device.type == 'cpu' and writer.exact_vectors >= INDEXED_FROM:
        index = IndexSettings(suggested_factory(writer.vectors), **view_settings(parameters))
    return writer.commit(calibrator(writer.path, parameters, progress), progress, index)


class _Drive:
    """The held-out stretches of a recording, which are reckoned from the stamp of its first frame."""

    def __init__(self, duration_ns: int, share: float) -> None:
        self._duration_ns = duration_ns
        self._share = share
        self._stretches: HeldOut | None = None

    def begin(self, stamp_ns: int) -> None:
        if self._stretches is None:
            self._stretches = HeldOut.of_drive(stamp_ns, self._duration_ns, self._share)

    def held_out(self, stamp_ns: int) -> bool:
        return self._stretches is not None and stamp_ns in self._stretches


def database_path(parameters: Mapping[str, Any]) -> Path:
    """The parameter `database`.

    Raises:
        ParameterError: it is empty.
    """
    if not parameters['database']:
        raise ParameterError("parameter database: found '', expected a folder; name where the database is to be")
    return Path(str(parameters['database'])).expanduser()
