"""What workers do for a nominal database: look through recordings, embed stretches of them."""

from __future__ import annotations

import json
import shutil
import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from semanom_ros.core.curation.recorder import NominalRecorder
from semanom_ros.core.database.engines import load_embedder
from semanom_ros.core.database.manifest import HELD_OUT, RECORDED
from semanom_ros.core.database.storage import NominalAddition, PartWriter, checked
from semanom_ros.core.embedding.embedder import Embedder
from semanom_ros.errors import BagError
from semanom_ros.fleet.recording_plan import RecordingPlan
from semanom_ros.fleet.shared_storage import SharedStorage
from semanom_ros.recordings.bags import BagReader
from semanom_ros.recordings.instance_masks import BagSegments, wanted_segments
from semanom_ros.settings import Settings

PLANS, PARTS = 'plans', 'parts'
DONE = 'done.json'


def plan_file(sha256: str) -> str:
    """Where the plan of a recording lies."""
    return f'{PLANS}/{sha256[:32]}.npz'


def parts_folder(sha256: str, rows: range) -> str:
    """Where the embeddings of a stretch lie."""
    return f'{PARTS}/{sha256[:32]}/{rows.start}-{rows.stop}'


def begin(order: Mapping[str, Any], storage: SharedStorage) -> RecordingWork:
    """Loads the encoder."""
    settings = Settings.of(order['parameters'])
    return RecordingWork(settings, load_embedder(settings.method, Path(order['database'])), storage)


class Parts:
    """The embeddings of a stretch, as parts of a database."""

    def __init__(self, folder: Path, dimension: int) -> None:
        self._folder, self._dimension = folder, dimension
        self._writers: dict[str, PartWriter] = {}

    def has(self, source_sha256: str, topic: str, stamp_ns: int) -> bool:
        """Nothing: a stretch names each frame once."""
        return False

    def add(self, addition: NominalAddition) -> bool:
        """Appends a frame; one that is held out keeps no picture."""
        record = addition.record
        kind = HELD_OUT if record.held_out else RECORDED
        if kind not in self._writers:
            self._writers[kind] = PartWriter(self._folder / kind, self._dimension)
        frame = checked(record, addition.vectors, addition.boxes, addition.positions, self._dimension)
        self._writers[kind].append(frame, b'' if record.held_out else addition.thumbnail)
        return True

    def finish(self) -> dict[str, tuple[int, str]]:
        """Size and SHA-256 of each file, by its name in the folder."""
        return {f'{kind}/{name}': (entry.size, entry.sha256) for kind, writer in sorted(self._writers.items())
                for name, entry in writer.finish().items()}

    def close(self) -> None:
        """Closes the files."""
        for writer in self._writers.values():
            writer.close()


class RecordingWork:
    """A worker with its encoder loaded."""

    def __init__(self, settings: Settings, embedder: Embedder, storage: SharedStorage) -> None:
        self._settings, self._embedder, self._storage = settings, embedder, storage
        self.about = {'description': asdict(embedder.description)}
        self.methods = {'plan': self.plan, 'embed': self.embed}

    def plan(self, bag: str) -> dict[str, Any]:
        """Looks through a recording and stores which frames are to be embedded.

        Returns:
            `sha256` of the recording, of which the plan is stored.
        """
        with BagReader(bag) as reader:
            sha256 = reader.fingerprint()
            topics = [topic for topic in self._settings.recorder.image_topics if topic] or ['']
            segments = wanted_segments(self._settings.method.queries)
            BagSegments(reader, [reader.image_topic(topic) for topic in topics], segments)
        if self._storage.read(plan_file(sha256)) is None:
            plan = RecordingPlan.make(Path(bag), self._settings.recorder)
            self._storage.write(plan_file(sha256), plan.dumps())
        return {'sha256': sha256}

    def embed(self, bag: str, sha256: str, first: int, stop: int) -> dict[str, Any]:
        """Embeds a stretch of a recording and stores its parts.

        Raises:
            BagError: the recording is gone, is another one now, or holds less than was planned.
        """
        name = plan_file(sha256)
        with self._storage.here('', [name]) as root:
            plan = RecordingPlan.load(root, name)
        rows = range(first, stop)
        wanted = {plan.key(row) for row in rows}
        asked, seen, decoded = self._settings.recorder, 0, 0

        def choose(topic: str, stamp_ns: int) -> bool:
            nonlocal seen
            if (topic, stamp_ns) not in wanted:
                return False
            wanted.remove((topic, stamp_ns))
            seen += 1
            return True

        scratch = Path(tempfile.mkdtemp(prefix='semanom_fleet_'))
        parts = Parts(scratch, self._embedder.description.dimension)
        try:
            recorder = NominalRecorder(self._embedder, parts, asked.thumbnail_size)
            with BagReader(bag) as reader:
                if reader.fingerprint() != sha256:
                    raise BagError(f'{reader.path}: is another recording now than when it was looked through, expected '
                                   'one that stays; give the same command again')
                segments = BagSegments(reader, plan.topics, wanted_segments(self._settings.method.queries))
                with segments:
                    frames = reader.images(plan.topics, choose, segments, self._settings.method.encoder.bit_depth,
                                           plan.span(rows))
                    try:
                        for count in recorder.record(frames, sha256, plan.held_out.__contains__):
                            decoded += count
                    except BagError:  # damage elsewhere in it, which the plan knows of
                        if seen < len(rows):
                            raise
            if seen < len(rows):
                raise BagError(f'{bag}: found {seen} frames from {first} on, expected {len(rows)} as when it was '
                               'looked through; see that nobody writes to it, then give the same command again')
            files = parts.finish()
            summary = recorder.summary
            done: dict[str, Any] = {
                'files': files, 'bad_images': seen - decoded, 'repeated': summary.repeated,
                'not_finite': summary.not_finite, 'not_finite_frames': summary.not_finite_frames}
            # A worker that was given up may still be at work on the same: each tries in a folder of its own.
            target = parts_folder(sha256, rows)
            done['folder'] = uuid.uuid4().hex[:12]
            self._storage.put(scratch, f'{target}/{done["folder"]}')
            self._storage.write(f'{target}/{DONE}', json.dumps(done).encode())
            return {}
        finally:
            parts.close()
            shutil.rmtree(scratch, ignore_errors=True)
