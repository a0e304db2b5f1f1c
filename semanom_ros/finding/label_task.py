"""What was mined, as a labelling task: pictures, COCO annotations that CVAT imports, clips, and what they are.

Each run is a folder of its own, `001`, `002`, ..., that comes into place in one step:

    images/           the frames as they were recorded
    nominal/          the nominal example that is most like each outlined thing
    annotations.json  COCO: the outlined regions as candidates for annotations
    mined.json        where each frame comes from, what it scored and would score with those before it nominal
    clips/            the seconds round each frame with all messages, MCAP
    things/           a database that is not calibrated: the embeddings of what was outlined
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from semanom_ros.core.curation.writer import DatabaseWriter
from semanom_ros.core.database.published import read_manifest
from semanom_ros.core.database.storage import FrameRecord, Lock, NominalFrame, write_durably
from semanom_ros.core.database.transaction import exists
from semanom_ros.core.embedding.description import EmbeddingDescription
from semanom_ros.core.results import Anomaly
from semanom_ros.errors import DatabaseError
from semanom_ros.finding.clip_bags import Stretch, write_clips
from semanom_ros.finding.mining import Candidate, Survey
from semanom_ros.finding.opening import Places
from semanom_ros.recordings.bags import BagReader
from semanom_ros.recordings.images import compress_pixels
from semanom_ros.recordings.picture_files import JPEG_QUALITY

IMAGES, NOMINAL, CLIPS, THINGS = 'images', 'nominal', 'clips', 'things'
ANNOTATIONS, MINED = 'annotations.json', 'mined.json'
CATEGORY = 'anomaly'
MARGIN_NS = 2_000_000_000
"""Nanoseconds that a clip begins before its frame, and ends behind it."""


class LabelTasks:
    """The folder that runs go to. One process at a time; use it as a context manager.

    Attributes:
        folder: of the runs.
        before: what was mined, of all runs.
        known: which frames were.
    """

    def __init__(self, folder: Path, description: EmbeddingDescription) -> None:
        """
        Args:
            folder: made where it is not there.
            description: of what mines now.

        Raises:
            DatabaseError: another process is at work, or what was mined before has embeddings of another encoder.
        """
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._empty = not any(folder.iterdir())
        self._lock = Lock(folder)
        try:
            self.before: list[NominalFrame] = []
            for path in sorted(folder.glob(f'[0-9]*/{THINGS}')):
                if not exists(path):
                    continue
                manifest = read_manifest(path)
                difference = manifest.description.difference(description)
                if difference:
                    name, found, expected = difference
                    raise DatabaseError(f'{path}: {name}: found {found}, expected {expected} (in use now); give '
                                        'another --output, or the database that it was mined with')
                for entry in manifest.parts:
                    part = entry.open(path, description.dimension)
                    self.before += [part.frame(index, held_out=False) for index in range(len(part.frames))]
        except BaseException:
            self._lock.release()
            raise
        self.known = frozenset(frame.record.key for frame in self.before)

    def __enter__(self) -> LabelTasks:
        return self

    def __exit__(self, *_: object) -> None:
        if self._empty and [path.name for path in self.folder.iterdir()] == ['lock']:
            self._lock.release(remove=True)
            self.folder.rmdir()
        else:
            self._lock.release()

    def write(self, chosen: Sequence[Candidate], survey: Survey, description: EmbeddingDescription) -> tuple[Path, int]:
        """Writes a run; nothing of it is left when it fails.

        Args:
            chosen: the frames, most worth first; at least one.
            survey: that they were chosen from.
            description: of their embeddings.

        Returns:
            The folder of the run, and how many pictures are in it.

        Raises:
            SemanomError: a recording is gone or changed meanwhile, or the disk is full.
        """
        number = 1 + max((int(path.name) for path in self.folder.glob('[0-9]*') if path.name.isdecimal()), default=0)
        run, staging = self.folder / f'{number:03d}', self.folder / '.unfinished'
        shutil.rmtree(staging, ignore_errors=True)
        try:
            for name in (IMAGES, NOMINAL):
                (staging / name).mkdir(parents=True)
            names = {one.evidence.record.key: f'{number:03d}_{rank:04d}_{Path(one.evidence.record.source).stem}.jpg'
                     for rank, one in enumerate(chosen, 1)}
            self._write_recordings(staging, chosen, names)
            with DatabaseWriter.begin(staging / THINGS, description) as writer:
                for one in chosen:
                    writer.add(one.evidence)
                writer.commit()
            write_durably(staging / ANNOTATIONS, json.dumps(_coco(chosen, names)).encode())
            for one in chosen:
                for place, anomaly in enumerate(one.anomalies):
                    if anomaly.nearest is not None and anomaly.nearest.thumbnail:
                        (staging / _nominal_picture(names[one.evidence.record.key], place)).write_bytes(
                            anomaly.nearest.thumbnail)
            content = {
                'frames': survey.frames, 'flagged': survey.flagged, 'unknown': dict(survey.unknown),
                'bad_images': survey.bad_images, 'damaged': survey.damaged,
                'mined': [_described(rank, one, names) for rank, one in enumerate(chosen, 1)]}
            write_durably(staging / MINED, (json.dumps(content, indent=2) + '\n').encode())
            staging.rename(run)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return run, len(chosen)

    @staticmethod
    def _write_recordings(staging: Path, chosen: Sequence[Candidate], names: dict[tuple[str, str, int], str]) -> None:
        """Pictures and clips, recording by recording."""
        by_source: dict[str, list[FrameRecord]] = {}
        for one in chosen:
            by_source.setdefault(one.evidence.record.source, []).append(one.evidence.record)
        places = Places()
        for records in by_source.values():
            here = places.of(records[0])
            if here is None:
                raise DatabaseError(places.missing[records[0].source_sha256])
            wanted = {(record.topic, record.stamp_ns): record for record in records}
            with BagReader(here.path) as reader:
                for frame in reader.images(sorted({record.topic for record in records}),
                                           lambda topic, stamp: (topic, stamp) in wanted):  # noqa: B023
                    name = names[wanted.pop((frame.topic, frame.stamp_ns)).key]
                    picture = compress_pixels(frame.image, 'jpeg', JPEG_QUALITY)
                    (staging / IMAGES / name).write_bytes(picture)
                    if not wanted:
                        break
            write_clips(here.path, [
                Stretch(record.stamp_ns + here.ahead_ns - MARGIN_NS, record.stamp_ns + here.ahead_ns + MARGIN_NS,
                        staging / CLIPS / Path(names[record.key]).stem) for record in records])


def _coco(chosen: Sequence[Candidate], names: dict[tuple[str, str, int], str]) -> dict[str, Any]:
    """COCO's object detection format: https://cocodataset.org/#format-data."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, one in enumerate(chosen, 1):
        height, width = one.evidence.record.image_size
        images.append({'id': number, 'file_name': names[one.evidence.record.key], 'width': width, 'height': height})
        annotations += [_annotation(len(annotations) + place, number, anomaly)
                        for place, anomaly in enumerate(one.anomalies, 1)]
    return {'info': {'description': 'frames mined by semanom_ros'}, 'licenses': [], 'images': images,
            'annotations': annotations, 'categories': [{'id': 1, 'name': CATEGORY, 'supercategory': ''}]}


def _annotation(number: int, image: int, anomaly: Anomaly) -> dict[str, Any]:
    outline = np.asarray(anomaly.contour, float).ravel().tolist()
    x, y, width, height = anomaly.box
    if len(outline) < 6:  # a polygon has three corners
        outline = [float(value) for value in (x, y, x + width, y, x + width, y + height, x, y + height)]
    return {'id': number, 'image_id': image, 'category_id': 1, 'segmentation': [outline], 'area': anomaly.area,
            'bbox': [int(value) for value in anomaly.box], 'iscrowd': 0,
            'attributes': {'score': round(anomaly.score, 4)}}


def _described(rank: int, one: Candidate, names: dict[tuple[str, str, int], str]) -> dict[str, Any]:
    record = one.evidence.record
    return {
        'rank': rank, 'image': f'{IMAGES}/{names[record.key]}', 'clip': f'{CLIPS}/{Path(names[record.key]).stem}',
        'recording': record.source, 'recording_sha256': record.source_sha256, 'topic': record.topic,
        'stamp_ns': record.stamp_ns, 'score': round(one.score, 4), 'worth': round(one.worth, 4),
        'anomalies': [{'box': [int(value) for value in anomaly.box], 'score': round(anomaly.score, 4),
                       'p_value': anomaly.p_value, 'nearest': _nearest(anomaly, names[record.key], place)}
                      for place, anomaly in enumerate(one.anomalies)]}


def _nearest(anomaly: Anomaly, name: str, place: int) -> dict[str, Any] | None:
    near = anomaly.nearest
    if near is None:
        return None
    return {'recording': near.source, 'topic': near.topic, 'stamp_ns': near.stamp_ns,
            'box': [int(value) for value in near.box], 'distance': round(near.distance, 4),
            'image': _nominal_picture(name, place) if near.thumbnail else ''}


def _nominal_picture(name: str, place: int) -> str:
    """Of the nominal example for a thing of a frame, in the run's folder."""
    return f'{NOMINAL}/{Path(name).stem}_{place}.jpg'
