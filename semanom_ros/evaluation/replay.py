"""Recordings through the detector's pipeline, frame by frame: nothing dropped, nothing out of order."""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from semanom_ros.core.drift.drift_monitor import DriftState
from semanom_ros.core.frames import Frame
from semanom_ros.core.overlapping import Behind, ahead, batches
from semanom_ros.core.results import Reason, Verdict
from semanom_ros.errors import BagError, CameraError
from semanom_ros.evaluation.detectors import Detectors, Method, Ranked, Row
from semanom_ros.evaluation.exports.export_protocol import Export
from semanom_ros.evaluation.measurement import Measurement, rounded
from semanom_ros.evaluation.metrics import ANOMALOUS
from semanom_ros.evaluation.result_bag import CAMERA, ResultBag
from semanom_ros.evaluation.sequences import SequenceCounter
from semanom_ros.evaluation.surroundings import Surroundings, SurroundingsReader
from semanom_ros.evaluation.truth import TruthReader
from semanom_ros.geometry.camera_model import CameraModel
from semanom_ros.recordings.bags import BagReader
from semanom_ros.recordings.instance_masks import BagSegments
from semanom_ros.ros.messages import camera_model
from semanom_ros.settings import DetectorSettings

log = logging.getLogger(__name__)

_STRETCHES_PER_BAG = 1 << 32


@dataclass(frozen=True)
class CameraTopics:
    """Of one camera.

    Attributes:
        image: '' when each recording has only one.
        truth: '' for the default one, where there is one.
    """

    image: str = ''
    truth: str = ''

    @property
    def name(self) -> str:
        """`left` of `/left/image_raw/compressed`."""
        return self.image.strip('/').partition('/')[0]


@dataclass(frozen=True)
class Topics:
    """What of the recordings is read.

    Attributes:
        cameras: each is replayed on its own, as if it were a recording of its own.
        truth_instances: what is anomalous where `truth` holds CARLA's instance segmentation, see TruthReader.
        segments: masks for the segmenter `topic`, at most one.
        min_anomaly_pixels: a frame with fewer anomalous pixels, but some, is neither anomalous nor nominal: it counts
            nowhere.
        bit_depth: bits that 16-bit images use; 0: all.
    """

    cameras: tuple[CameraTopics, ...] = (CameraTopics(),)
    truth_instances: tuple[str, ...] = ()
    segments: tuple[str, ...] = ()
    min_anomaly_pixels: int = 1
    bit_depth: int = 0


@dataclass(frozen=True)
class Recording:
    """One replayed recording.

    Attributes:
        name: unique among the recordings of a replay; the result bag's folder.
        path: of the recording.
        topic: image topic.
        truth_topic: ground-truth topic, '' where the recording has none.
        frames: how many were judged.
        unreadable: image messages that hold no picture.
        damage: what could not be read, '' when all could.
        stills: its pictures have nothing to do with each other: each is an event of its own, and nothing is tracked.
    """

    name: str
    path: Path
    topic: str
    truth_topic: str
    frames: int
    unreadable: int
    damage: str
    stills: bool


@dataclass(frozen=True)
class Unmeasured:
    """A recording that is to be replayed.

    Attributes:
        index: among those of the replay.
        path: of the recording.
        camera: whose pictures.
        name: see Recording.
        stored: file that gets what is measured, when all of it is.
    """

    index: int
    path: Path
    camera: CameraTopics
    name: str
    stored: Path


@dataclass
class Replay:
    """Everything that a replay found.

    Attributes:
        folder: where the result bags lie, below `bags/`.
        recordings: in the order given.
        measurements: of each row, over all recordings.
        recording_of: (N,) index of the recording of each frame.
        by_recording: measurements for each recording alone.
        topics: what was read.
        left_out: recordings that could not be measured elsewhere, by name, and why.
    """

    folder: Path
    topics: Topics
    recordings: list[Recording] = field(default_factory=list)
    measurements: dict[Row, Measurement] = field(default_factory=dict)
    recording_of: list[int] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    by_recording: list[dict[Row, Measurement]] = field(default_factory=list)


Elsewhere = Callable[[Path, Sequence[Unmeasured]], dict[str, str]]
"""Has recordings measured by others, so that `stored` and the result bags below the folder are there then; gives the
names of those where that failed, and why."""


def replay(bags: Sequence[Path], methods: Sequence[Method], shown: Row, folder: Path, topics: Topics,
           settings: Mapping[str, object] | None = None, pictures: DetectorSettings | None = None,
           elsewhere: Elsewhere | None = None, exports: Sequence[Export] = ()) -> Replay:
    """Replays recordings and measures every row of every method.

    Recordings that an earlier, interrupted replay into the same folder finished are not
    replayed again, provided that `settings` and the recordings are the same; with exports, which want every frame, all
    are.

    Args:
        bags: recordings; temporal state is forgotten between them.
        methods: what judges the frames.
        shown: the row whose results go into the result bags.
        folder: for the result bags (`bags/`) and what resuming needs.
        topics: what is read.
        settings: what else the results depend on.
        pictures: settings of markers and overlays in the result bags; None: the defaults.
        elsewhere: who measures; None: this process.
        exports: entered; get the frames and the results of `shown` as well.

    Raises:
        SemanomError: a recording or topic will not do, or there is no frame in any recording.
    """
    for path in bags:  # before hours are spent
        with BagReader(path) as reader:
            for camera in topics.cameras:
                reader.image_topic(camera.image)
    _resume_or_begin(folder, [repr(topics), repr(shown), dict(settings or {})])
    rows = [row for method in methods for row in method.rows]
    found = Replay(folder, topics, measurements={row: Measurement() for row in rows})
    sequences = 0
    views = [(path, camera, name if len(topics.cameras) == 1 else f'{name}_{camera.name}')
             for path, name in zip(bags, _names(bags), strict=True) for camera in topics.cameras]
    recordings = [Unmeasured(index, path, camera, name, folder / 'measured' / f'{index}-{name}-{_state(path)}.npz')
                  for index, (path, camera, name) in enumerate(views)]
    missing = [one for one in recordings if exports or not one.stored.is_file()]
    if elsewhere is not None and missing:
        found.left_out = elsewhere(folder, missing)
        recordings = [one for one in recordings if one.name not in found.left_out]
    for index, one in enumerate(recordings):
        if one not in missing:
            log.info('%s: measured already', one.path)
        elif elsewhere is None:
            measure(one, methods, shown, folder, topics, pictures, exports)
        recording, measurements = _load(one.stored, rows)
        found.by_recording.append(dict(zip(rows, measurements, strict=True)))
        for row, measurement in zip(rows, measurements, strict=True):
            found.measurements[row].merge(measurement, sequences)
        found.recordings.append(recording)
        found.recording_of += [index] * recording.frames
        frames = found.measurements[rows[0]].frames
        sequences = int(frames['sequence'][-1]) + 1 if len(frames) else 0
    if not found.recording_of:
        shutil.rmtree(folder / 'measured')  # nothing that is worth going on from
        raise BagError(f'{", ".join(map(str, bags))}: found no frame that can be judged, expected images; see the '
                       'messages above')
    return found


def measure(one: Unmeasured, methods: Sequence[Method], shown: Row, folder: Path, topics: Topics,
            drawn: DetectorSettings | None, exports: Sequence[Export] = ()) -> None:
    """Replays one recording, see `replay`."""
    path, camera, name = one.path, one.camera, one.name
    rows = [row for method in methods for row in method.rows]
    measurements = {row: Measurement() for row in rows}
    count = SequenceCounter(one.index * _STRETCHES_PER_BAG)
    target = folder / 'bags' / name
    shutil.rmtree(target, ignore_errors=True)
    damage, frames, sequence, size = '', 0, -1, (0, 0, 0)
    detectors = [method for method in methods if isinstance(method, Detectors)]
    batch = max((one.embedder.largest_batch for one in detectors), default=1)

    def note(frame: Frame, verdicts: Sequence[Ranked], truth: npt.NDArray[np.uint8] | None, sequence: int,
             stretch: int, surroundings: Surroundings | None) -> None:
        for row, verdict in zip(rows, verdicts, strict=True):
            measurements[row].add(verdict, truth, sequence, stretch, surroundings)
            if row == shown:
                results.add(frame, verdict.result)
                for export in exports:
                    export.add(frame, verdict.result, truth)

    for export in exports:
        export.begin(name)
    with BagReader(path) as reader, TruthReader(BagReader(path), camera.truth, topics.truth_instances) as truths, \
            SurroundingsReader(path, truths.topic) as told:
        topic = reader.image_topic(camera.image)
        with BagSegments(reader, [topic], topics.segments) as segments, \
                ResultBag(target, _frame_id(reader, topic), _camera(reader, topic), drawn, path, topic) as results, \
                tqdm(total=reader.counts[topic], desc=f'replay {name}', unit='frame', disable=None) as bar, \
                closing(ahead(reader.images(topic, segments=segments, bit_depth=topics.bit_depth), 2 * batch)
                        ) as pictures, Behind() as behind:
            taken = _in_batches(pictures, batch, detectors)
            while True:
                try:
                    frame = next(taken, None)
                except BagError as error:  # the recording breaks off; what was there counts
                    log.warning('%s', error)
                    damage, frame = str(error), None
                if frame is None:
                    break
                before = sequence, size
                (sequence, stretch), size = count(frame.stamp_ns), frame.image.shape
                if reader.stills or before != (sequence, size):  # as the detector does
                    for method in methods:
                        method.reset()
                truth = truths.at(frame.stamp_ns, frame.size)
                if truth is not None and 0 < np.count_nonzero(truth == ANOMALOUS) < topics.min_anomaly_pixels:
                    truth = None
                verdicts = [verdict for method in methods for verdict in method.process(frame)]
                behind(note, frame, verdicts, truth, sequence, stretch, told.at(frame.stamp_ns, frame.size))
                frames += 1
                bar.update()
        if truths.topic in reader.topics and not truths.matched:
            log.warning('%s: found no mask on %s with the stamp of a frame; expected the stamps of %s', path,
                        truths.topic, topic)
        recording = Recording(name, path, topic, truths.topic if truths.topic in reader.topics else '', frames,
                              reader.bad_images, damage, reader.stills)
    _store(one.stored, recording, [measurements[row] for row in rows])


def _in_batches(pictures: Iterable[Frame], batch: int, detectors: Sequence[Detectors]) -> Iterator[Frame]:
    """The frames, one after the other; the detectors are told of so many of them together, before."""
    for frames in batches(pictures, batch):
        own = [replace(frame, camera=CAMERA) for frame in frames]
        for one in detectors:
            one.look_ahead(own)
        yield from own


def _frame_id(reader: BagReader, topic: str) -> str:
    with suppress(BagError):  # of a recording that breaks off; reading its pictures says so
        return next((str(message.header.frame_id) for _, _, message in reader.messages([topic])), '')
    return ''


def _camera(reader: BagReader, topic: str) -> CameraModel | None:
    """The camera of an image topic; None without a CameraInfo that makes sense."""
    info = reader.camera_info(topic)
    try:
        return None if info is None else camera_model(info)
    except CameraError as error:
        log.warning('%s: %s', reader.path, error)
        return None


def _names(bags: Sequence[Path]) -> list[str]:
    """A folder name for each recording: its own, numbered where two are the same."""
    names: list[str] = []
    for path in bags:
        stem = path.resolve().stem if path.is_file() else path.resolve().name
        name, number = stem, 1
        while name in names:
            number += 1
            name = f'{stem}_{number}'
        names.append(name)
    return names


def _resume_or_begin(folder: Path, settings: list[object]) -> None:
    """Empties the folder unless it holds an interrupted replay with the same settings."""
    fingerprint = _digest(settings)
    mark = folder / 'fingerprint'
    if folder.exists() and (not mark.is_file() or mark.read_text() != fingerprint):
        shutil.rmtree(folder)
    (folder / 'measured').mkdir(parents=True, exist_ok=True)
    for unfinished in (folder / 'bags').glob('.*'):  # a result bag of a replay that was killed
        shutil.rmtree(unfinished, ignore_errors=True)
    mark.write_text(fingerprint)


def _state(recording: Path) -> str:
    """Changes when the recording does."""
    files = sorted(recording.rglob('*')) if recording.is_dir() else [recording]
    return _digest([[str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns] for file in files
                    if file.exists()])[:16]


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def _store(path: Path, recording: Recording, measurements: Sequence[Measurement]) -> None:
    """Written beside and renamed, so that what is there is whole."""
    arrays: dict[str, Any] = {f'{index}.{name}': array for index, measurement in enumerate(measurements)
              for name, array in measurement.arrays().items()}
    about = json.dumps({**vars(recording), 'path': str(recording.path)})
    beside = path.with_suffix('.partial')
    with open(beside, 'wb') as file:
        np.savez_compressed(file, recording=np.frombuffer(about.encode(), np.uint8), **arrays)
    beside.rename(path)


def _load(path: Path, rows: Sequence[Row]) -> tuple[Recording, list[Measurement]]:
    with np.load(path, allow_pickle=False) as stored:
        about = json.loads(stored['recording'].tobytes())
        measurements = [Measurement.from_arrays({
            name.removeprefix(f'{index}.'): stored[name] for name in stored.files if name.startswith(f'{index}.')})
            for index in range(len(rows))]
    return Recording(**{**about, 'path': Path(about['path'])}), measurements


def write_scores(path: Path, found: Replay) -> None:
    """`scores.csv`: a line for each frame and row of the table; figures that are not known are empty."""
    with open(path, 'w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(['bag', 'topic', 'stamp_ns', 'truth', 'variant', 'filter', 'baseline', 'score', 'raw_score',
                         'p_value', 'threshold', 'verdict', 'held_back', 'reason', 'alarm', 'anomalies',
                         'drift'])
        for row, measurement in found.measurements.items():
            for recording, frame in zip(found.recording_of, measurement.frames, strict=True):
                of = found.recordings[recording]
                writer.writerow([
                    of.name, of.topic, frame['stamp_ns'], '' if frame['truth'] < 0 else frame['truth'], row.variant,
                    int(row.filtered), row.baseline,
                    *('' if np.isnan(frame[name]) else rounded(frame[name])
                      for name in ('score', 'raw_score', 'p_value', 'threshold')),
                    Verdict(frame['verdict']).words, int(frame['held_back']), Reason(frame['reason']).words,
                    int(frame['alarm']), frame['anomalies'], DriftState(frame['drift']).name.lower()])
