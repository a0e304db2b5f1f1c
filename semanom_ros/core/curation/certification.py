"""An engine of a database's encoder, made and compared with the original frame by frame."""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from semanom_ros import __version__
from semanom_ros.core.database.engines import basis_of, write_engine
from semanom_ros.core.database.nominal_database import NominalDatabase
from semanom_ros.core.database.storage import FrameRecord, FrameSequence, NominalFrame, Part, PartWriter
from semanom_ros.core.embedding.backends.backend import versions
from semanom_ros.core.embedding.backends.certificate import Certificate, Deviations, EncoderFacts, Verdicts
from semanom_ros.core.embedding.backends.engine import BuiltEngine, EngineEncoder, build_engine, probe_picture
from semanom_ros.core.embedding.device import device_identity
from semanom_ros.core.embedding.embedder import Embedder, FrameEmbedding
from semanom_ros.core.embedding.encoders.encoder import Encoder
from semanom_ros.core.embedding.encoders.network import NetworkEncoder
from semanom_ros.core.embedding.registry import load_backend
from semanom_ros.core.frames import Frame
from semanom_ros.core.plausibility.learning import projection_of
from semanom_ros.core.plausibility.plausibility_model import PlausibilityModel
from semanom_ros.core.plausibility.transplanting import IMPLAUSIBLE, NominalPicture, Transplanter
from semanom_ros.core.progress import SILENT, Progress
from semanom_ros.core.scoring.calibration import (
    MOST_FRAMES,
    Calibration,
    calibrate,
    frame_statistic,
    parameters_of,
    stored_parameters,
)
from semanom_ros.core.scoring.comparison import Comparison
from semanom_ros.core.scoring.regions import STRETCH_SECONDS
from semanom_ros.errors import DatabaseError, EncoderError
from semanom_ros.settings import MethodSettings

RANGE_PICTURES = 48  # that int8 finds its ranges with
DONORS = 12  # pictures that things are taken from
TRANSPLANTS = 3  # that are tried in a picture
RACES = 7  # interleaved runs that the time is the median of

ReadFrames = Callable[[int, float], Iterator[tuple[FrameRecord, Frame]]]
"""So many nominal frames, evenly spread over the recordings, from that share of a step on."""

log = logging.getLogger(__name__)


def export(root: Path, settings: MethodSettings, original: Embedder, backend: str, precision: str, frames: ReadFrames,
           count: int, own_calibration: bool = False, progress: Progress = SILENT) -> Certificate:
    """Makes an engine, compares it, and puts it with its certificate into the database's folder.

    Args:
        root: the database.
        settings: of the method, as the database is calibrated for.
        original: what made the database, in fp32 on the device that the engine is for.
        backend: its name.
        precision: one that it has; '': its usual one.
        frames: reads the database's recordings.
        count: frames to compare with, and as many with transplants, where things for them are found.
        own_calibration: give it a calibration of its own.
        progress: is told.

    Raises:
        EncoderError: the engine cannot be made, or gives NaN.
        DatabaseError: the database is not calibrated for the settings, or cannot be written to.
    """
    database = NominalDatabase.open(root, settings.search, device=original.encoder.device)
    database.check_compatible(original.description)
    basis = basis_of(database.manifest)
    asked = parameters_of(settings.search, settings.score)
    if (stored := stored_parameters(database.calibration)) != asked:
        name = next(name for name in asked if stored.get(name) != asked[name])
        raise DatabaseError(f'{root}: parameter {name}: found {asked[name]}, expected {stored.get(name)}, which it is '
                            'calibrated for; leave it out, or run semanom db calibrate with it')
    encoder = original.encoder
    if not isinstance(encoder, NetworkEncoder):
        raise EncoderError(f'encoder {encoder.name}: found {type(encoder).__name__}, expected a network of PyTorch '
                           '(NetworkEncoder), of which engines are made; use backend torch')
    family = load_backend(backend)
    precision = precision or family.precisions[0]
    pictures = []
    if precision == 'int8':
        progress.begin('read', RANGE_PICTURES, 'picture')
        for _, frame in frames(RANGE_PICTURES, 0.5):
            pictures.append(original.preprocessor([frame.image]))
            progress.advance(1)
        progress.end()
    built = build_engine(encoder, backend, precision, pictures)
    engine = Embedder(built.encoder, original.segmenter, settings.queries.segment_embedding)
    model = PlausibilityModel.of(database)
    arrays = _own_calibration(database, settings, engine, frames, model, progress) if own_calibration else None
    judge = model if settings.score.plausibility else None
    sides = (_Side(original, database, Calibration.from_arrays(database.calibration, judge), settings),
             _Side(engine, database, Calibration.from_arrays(
                 database.calibration if arrays is None else arrays, judge), settings))
    deviations, verdicts = _compare(database, sides, frames, count, settings, progress)
    milliseconds, original_milliseconds = _race(built.encoder, encoder)
    certificate = Certificate(
        backend=backend, precision=precision, encoder=EncoderFacts.of(encoder), device=device_identity(encoder.device),
        libraries=versions(family), basis=basis, parameters=asked, deviations=deviations, verdicts=verdicts,
        own_calibration=arrays is not None, milliseconds=milliseconds, original_milliseconds=original_milliseconds,
        probe=_probe_of(built), files={}, created=datetime.now(timezone.utc).isoformat(timespec='seconds'),
        package_version=__version__)
    return write_engine(root, certificate, built.files, arrays)


@dataclass(frozen=True)
class _Side:
    """One of the two that are compared: scores as the detector gives them, but for what a frame may be compared with.

    Attributes:
        embedder, database, calibration, settings: what frames are judged by.
    """

    embedder: Embedder
    database: NominalDatabase
    calibration: Calibration
    settings: MethodSettings

    def embed(self, image: npt.NDArray[np.uint8], frame: Frame) -> FrameEmbedding:
        embedding = self.embedder.embed([Frame(image, frame.stamp_ns, segments=frame.segments)])[0]
        if embedding.fault:
            raise EncoderError(f'encoder {self.embedder.encoder.name}: frame {frame.stamp_ns} of {frame.source}: '
                               f'{embedding.fault}')
        return embedding

    def score(self, embedding: FrameEmbedding, near: tuple[int, int]) -> tuple[npt.NDArray[np.float32], float] | None:
        """(rows, columns) scores of the patches and that of the frame, the level being 1; None: nothing to compare.

        Args:
            embedding: of the frame.
            near: the database's frames that it is not compared with.
        """
        queries, level = self.embedder.queries(embedding), self.calibration.level_for(self.settings.alarm).level
        distances, _ = Comparison.of(self.settings.score)(self.database, queries.vectors, queries.places, near)
        if not np.isfinite(distances).all():
            return None
        relative = self.calibration.relative(distances, queries.positions)
        if self.calibration.judge is not None:
            relative = self.calibration.judge.of_queries(
                relative, queries.vectors.cpu().numpy(), queries.positions, queries.owners)
        frame = frame_statistic(relative, self.settings.score.frame_score_fraction)
        return relative[queries.owners] / np.float32(level), frame / level


def _compare(database: NominalDatabase, sides: tuple[_Side, _Side], frames: ReadFrames, count: int,
             settings: MethodSettings, progress: Progress) -> tuple[Deviations, Verdicts]:
    """Both on the same frames, and on transplants between them, so that there are verdicts on both sides of the level.

    A frame is compared with what is not near it in time, as for a calibration: with itself it would be nominal whatever
    the engine makes of it.
    """
    transplanter, rng = Transplanter(np.random.default_rng(0)), np.random.default_rng(1)
    projection = projection_of(database, rng)
    donors: deque[NominalPicture] = deque(maxlen=DONORS)
    cosines, patches = [], []
    scores: list[tuple[float, float]] = []
    tried = {'nominal': 0, 'transplanted': 0}

    def compare(kind: str, image: npt.NDArray[np.uint8], frame: Frame, near: tuple[int, int]
                ) -> FrameEmbedding | None:
        embeddings = [side.embed(image, frame) for side in sides]
        found = [side.score(embedding, near) for side, embedding in zip(sides, embeddings, strict=True)]
        if found[0] is None or found[1] is None:
            return None
        (maps, frame_score), (other_maps, other_score) = found[0], found[1]
        a, b = (embedding.patches.cpu() for embedding in embeddings)
        # half the squared distance is 1 - cosine of unit vectors, without the cancellation
        cosines.append((a - b).square().sum(dim=-1).numpy().ravel() / 2)
        patches.append(np.abs(maps - other_maps).ravel())
        scores.append((frame_score, other_score))
        tried[kind] += 1
        return embeddings[0]

    progress.begin('compare', count, 'frame')
    for record, frame in frames(count, 0.0):
        near = (0, 0) if record.held_out else database.neighbourhood(record, STRETCH_SECONDS)
        embedding = compare('nominal', frame.image, frame, near)
        if embedding is not None:
            picture = NominalPicture(frame.image, projection(embedding.patches.cpu().numpy()))
            if donors and (sides[0].embedder.segmenter is None or not sides[0].embedder.segmenter.needs_masks):
                others = [donors[int(i)] for i in rng.integers(len(donors), size=2)]
                composite = transplanter.compose(picture, [donors[-1]], others, TRANSPLANTS)
                if (composite.labels == IMPLAUSIBLE).any():
                    compare('transplanted', composite.image, frame, near)
            donors.append(picture)
        progress.advance(1)
    progress.end()
    if not scores:
        raise DatabaseError(f'{database.path}: found no frame of its recordings that can be compared with others of '
                            f'its own, more than {STRETCH_SECONDS:g} s away, expected some; record a longer drive')
    mine, theirs = np.array(scores).T
    if not (mine > 1).any():
        log.warning('%s: no frame came above the alarm level, with transplants or without: the certificate says '
                    'nothing of alarms; give more frames, or recordings with more things in them', database.path)
    distances, differences = np.concatenate(cosines), np.concatenate(patches)
    alarm = settings.alarm
    return Deviations(
        float(distances.max()), float(np.quantile(distances, 0.99)), float(differences.max()),
        float(np.quantile(differences, 0.99)), float(np.abs(mine - theirs).max())), Verdicts(
        alarm.false_alarm_rate, alarm.false_alarms_per_minute, tried['nominal'], tried['transplanted'],
        int((mine > 1).sum()), int(((mine > 1) != (theirs > 1)).sum()), float(np.abs(mine - 1).min()))


def _own_calibration(database: NominalDatabase, settings: MethodSettings, engine: Embedder, frames: ReadFrames,
                     model: PlausibilityModel | None, progress: Progress) -> Mapping[str, npt.NDArray[Any]]:
    """A calibration of the engine's embeddings of the frames that the database is calibrated with.

    Raises:
        DatabaseError: none of them was read.
    """
    calibrating = database.held_out() or database.whole_frames()
    own = {calibrating.record(i).key: calibrating.record(i) for i in range(len(calibrating))}
    with tempfile.TemporaryDirectory(prefix='semanom_engine_') as folder:
        writer = PartWriter(Path(folder) / 'part', engine.encoder.dimension)
        progress.begin('embed', min(len(own), MOST_FRAMES), 'frame')
        for record, frame in frames(MOST_FRAMES, 0.0):
            known = own.get(record.key)
            embedding = engine.embed([frame])[0] if known is not None else None
            if known is not None and embedding is not None and not embedding.fault:
                queries = engine.queries(embedding)
                writer.append(NominalFrame(known, queries.vectors.cpu().numpy(), queries.boxes, queries.positions), b'')
                progress.advance(1)
        progress.end()
        arrays: Mapping[str, npt.NDArray[Any]] = {}
        if writer.frames:
            writer.finish()
            part = Part(Path(folder), 'part', engine.encoder.dimension)
            arrays = calibrate(database, settings.search, settings.score, model, progress,
                               FrameSequence([part], held_out=bool(database.held_out())))
    if not arrays:
        raise DatabaseError(f'{database.path}: found none of the frames that it is calibrated with in the recordings, '
                            'expected some for a calibration of the engine\'s own; name them with --recording')
    return arrays


def _race(engine: EngineEncoder, original: Encoder) -> tuple[float, float]:
    """Milliseconds for one picture, of both: medians of interleaved runs."""
    picture, taken = probe_picture(engine.input_size).to(engine.device), [list[float](), list[float]()]
    for encoder in (engine, original):
        encoder.warm_up()
    for _ in range(RACES):
        for encoder, own in zip((engine, original), taken, strict=True):
            float(encoder.encode(picture).sum())  # while threads of the other library still wait at full speed
            begin = time.perf_counter()
            float(encoder.encode(picture).sum())  # waits for a GPU
            own.append((time.perf_counter() - begin) * 1e3)
    return statistics.median(taken[0]), statistics.median(taken[1])


def _probe_of(built: BuiltEngine) -> tuple[float, ...]:
    return tuple(round(float(value), 6) for value in built.encoder.probe)
