"""The frames of a database, read again from the recordings that it was made from."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from semanom_ros.core.database.nominal_database import NominalDatabase
from semanom_ros.core.database.storage import FrameRecord
from semanom_ros.core.frames import Frame
from semanom_ros.errors import BagError
from semanom_ros.recordings.bags import BagReader
from semanom_ros.recordings.instance_masks import BagSegments, wanted_segments
from semanom_ros.settings import MethodSettings

log = logging.getLogger(__name__)


class NominalFrames:
    """Frames of nominal recordings, evenly spread.

    Of recordings that the database was made from, wherever they lie now, the frames that it holds; of others, whichever
    frames they have.
    """

    def __init__(self, database: NominalDatabase, recordings: Sequence[Path], settings: MethodSettings) -> None:
        """
        Args:
            database: with the frames.
            recordings: to read; empty: those that the database was made from, where they are still there.
            settings: of the method.

        Raises:
            BagError: a recording is unusable, or none of the database's is there.
        """
        self._settings = settings
        self._held = {record.key: record for frames in (database.frames(), database.held_out())
                      for record in map(frames.record, range(len(frames)))
                      if not record.source.startswith(('reviewed:', 'live:'))}
        known = {key[0] for key in self._held}
        self._recordings: list[tuple[Path, str]] = []
        for path in recordings:
            with BagReader(path) as reader:
                self._recordings.append((path, reader.fingerprint()))
        if not recordings:
            sources = [source for source in database.manifest.sources if source.sha256 in known]
            for source in sources:
                path = Path(source.path)
                if not path.exists():
                    continue
                with BagReader(path) as reader:
                    if reader.fingerprint() == source.sha256:
                        self._recordings.append((path, source.sha256))
                    else:
                        log.warning('%s: is another recording now than %s was made from; it is not used', path,
                                    database.path)
            if not self._recordings:
                names = ', '.join(source.path for source in sources) or 'it was not made from any'
                raise BagError(f'{database.path}: found none of its recordings ({names}), expected at least one; name '
                               'where they lie now, or other nominal ones, with --recording BAG')

    def __call__(self, count: int, phase: float = 0.0) -> Iterator[tuple[FrameRecord, Frame]]:
        """At most so many frames, in the order of the recordings; what a damaged one has before its damage.

        Args:
            count: of frames.
            phase: where in a step between two of them they begin, 0 to 1: with another, others.
        """
        share = max(1, -(-count // len(self._recordings)))
        for path, sha256 in self._recordings:
            with BagReader(path) as reader:
                held = sorted(key for key in self._held if key[0] == sha256)
                topics = sorted({key[1] for key in held}) or [reader.image_topic()]
                total = len(held) or sum(reader.counts[topic] for topic in topics)
                step = max(1.0, total / share)
                chosen = {int(place) for place in np.arange(phase * step, total, step)}
                wanted = {held[place] for place in chosen} if held else chosen
                yield from self._read(reader, topics, sha256, wanted, bool(held))

    def _read(self, reader: BagReader, topics: list[str], sha256: str, wanted: set, held: bool
              ) -> Iterator[tuple[FrameRecord, Frame]]:
        seen = -1

        def choose(topic: str, stamp_ns: int) -> bool:
            nonlocal seen
            seen += 1
            return (sha256, topic, stamp_ns) in wanted if held else seen in wanted

        with BagSegments(reader, topics, wanted_segments(self._settings.queries)) as segments:
            frames = reader.images(topics, choose, segments, self._settings.encoder.bit_depth)
            try:
                for frame in frames:
                    size = frame.image.shape[0], frame.image.shape[1]
                    record = self._held.get((sha256, frame.topic, frame.stamp_ns)) or FrameRecord(
                        frame.source, sha256, frame.topic, frame.stamp_ns, size)
                    yield record, replace(frame, source=record.source)
            except BagError as error:
                log.warning('%s; what came before is used', error)
