"""Frames in, results out: embed, compare, calibrate, filter."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from semanom_ros.core.curation.operations import accept
from semanom_ros.core.database.engines import calibration_for, load_embedder
from semanom_ros.core.database.nominal_database import NominalDatabase
from semanom_ros.core.database.storage import FrameRecord, NominalAddition, thumbnail
from semanom_ros.core.drift.drift_monitor import Drift, DriftMonitor
from semanom_ros.core.drift.drift_reference import DriftReference, sample_of
from semanom_ros.core.embedding.device import resolve_device
from semanom_ros.core.embedding.embedder import Embedder, FrameEmbedding, queries_of
from semanom_ros.core.embedding.encoders.encoder import Encoder
from semanom_ros.core.embedding.preprocessing import Prepared
from semanom_ros.core.embedding.segmenters.refreshed import MaskMemory
from semanom_ros.core.frames import Frame
from semanom_ros.core.labelling import Labeller
from semanom_ros.core.localization.evidence import Surprise
from semanom_ros.core.localization.filtering import TemporalFilter, objection
from semanom_ros.core.localization.regions_of_map import Region, coarse_regions, regions
from semanom_ros.core.localization.tracking import Track
from semanom_ros.core.plausibility.plausibility_model import PlausibilityModel
from semanom_ros.core.results import ALARM, Anomaly, FrameResult, Reason, ScoreMap, Verdict
from semanom_ros.core.scoring.calibration import Calibration, calibrate, parameters_of, stored_parameters
from semanom_ros.core.scoring.scorer import EXACT_ABOVE, FrameScores, Scorer
from semanom_ros.core.scoring.search_memory import SearchMemory
from semanom_ros.errors import ImageError, SemanomError
from semanom_ros.settings import FilterSettings, MethodSettings

log = logging.getLogger(__name__)

LOG_PERIOD_S = 10.0
"""That a camera's frames fail is logged once in that time."""

EVIDENCE_SIZE = 160  # longer side of the picture kept with what was accepted, pixels


@dataclass
class CameraState:
    """What is remembered of one camera's frames.

    Attributes:
        masks: for segmenters that do not look at every frame.
        filter: tracks and their evidence.
        drift: whether driving is still like the nominal drives.
        search: what its frames resembled.
        stamp_ns: of the last frame that was judged; None: there was none.
        complained: when the log was last told of a frame that failed, monotonic seconds.
    """

    masks: MaskMemory = field(default_factory=MaskMemory)
    filter: TemporalFilter = field(default_factory=TemporalFilter)
    drift: DriftMonitor = field(default_factory=DriftMonitor)
    search: SearchMemory = field(default_factory=SearchMemory)
    stamp_ns: int | None = None
    complained: float = -math.inf

    def failed(self, frame: Frame, error: Exception) -> FrameResult:
        """What is said of a frame that failed in the pipeline; the log is told now and then."""
        if isinstance(error, ImageError):
            return FrameResult.unknown(frame.stamp_ns, frame.camera, Reason.INVALID_IMAGE, str(error))
        known, now = isinstance(error, SemanomError), time.monotonic()
        if now - self.complained > LOG_PERIOD_S:
            self.complained = now
            log.error('%s: frame failed: %s', frame.camera, error, exc_info=None if known else error)
        return FrameResult.unknown(frame.stamp_ns, frame.camera, Reason.FAILED,
                                   str(error) if known else f'frame failed: {error!r}', frame.size)


class Judge:
    """Embedder, database and settings: what a frame is judged by. It never changes; what does is the CameraState.

    Attributes:
        embedder: frames to embeddings and queries.
        database: the nominal database.
        settings: of the method.
        warnings: what is doubtful about the results, one line each, for logs and diagnostics.
    """

    def __init__(self, embedder: Embedder, database: NominalDatabase, settings: MethodSettings,
                 calibration: Calibration | None = None, labeller: Labeller | None = None) -> None:
        """
        Args:
            embedder: what the database was made with.
            database: viewed by the settings.
            settings: of the method.
            calibration: of the database; None: the stored one where it fits the settings, else made now.
            labeller: for the vocabulary of the settings; None: loaded where there is one.

        Raises:
            DatabaseError: the database was made with something else.
            ParameterError: the vocabulary is unusable.
        """
        database.check_compatible(embedder.description)
        vocabulary = settings.queries.label_vocabulary
        self.embedder, self.database, self.settings = embedder, database, settings
        self._labeller = labeller or (Labeller.load(embedder.encoder, Path(vocabulary)) if vocabulary else None)
        self._calibration = calibration or calibration_of(database, settings, embedder.encoder)
        self._scorer = Scorer(database, self._calibration, settings.score,
                              min(EXACT_ABOVE, settings.alarm.pixel_threshold))
        alarm = self._calibration.level_for(settings.alarm)
        self._level, self._calibrated = alarm.level, self._calibration.calibrated
        self._surprise = Surprise(self._calibration.survival, alarm.level, 1.0 if alarm.rate is None else alarm.rate)
        self.warnings: tuple[str, ...] = tuple(filter(None, (alarm.doubt, self._calibration.drift_doubt)))

    @property
    def drift_reference(self) -> DriftReference | None:
        """What driving is compared with; None where the database holds too little."""
        return self._calibration.drift

    @classmethod
    def load(cls, settings: MethodSettings, database: Path, embedder: Embedder | None = None) -> Judge:
        """Loads the encoder (unless given), opens and verifies the database meanwhile, compares them, and warms up.

        Args:
            settings: of the method.
            database: folder of the nominal database.
            embedder: loaded already.

        Raises:
            SemanomError: one line; nothing stays loaded.
        """
        device = embedder.encoder.device if embedder else resolve_device(settings.encoder.device)
        with ThreadPoolExecutor(1, 'semanom_opening') as pool:  # to read gigabytes takes as long as to load the encoder
            opening = pool.submit(NominalDatabase.open, database, settings.search, device=device)
            embedder = embedder or load_embedder(settings, database)
            opened = opening.result()
        judge = cls(embedder, opened, settings)
        judge._warn(())
        height, width = embedder.encoder.input_size
        judge.score(embedder.embed([Frame(np.zeros((height, width, 3), np.uint8), 0)])[0])
        return judge

    def with_database(self, path: Path) -> Judge:
        """The same encoder and settings with another database, or with a newer version of this one.

        Leaves the encoder alone, so that this one may judge frames in another thread meanwhile.

        Raises:
            SemanomError: the database is unusable.
        """
        opened = NominalDatabase.open(path, self.settings.search, device=self.embedder.encoder.device)
        warm = np.eye(1, self.embedder.encoder.dimension, dtype=np.float32)
        opened.search(warm, 1, np.zeros((1, 3), np.float32))
        judge = Judge(self.embedder, opened, self.settings, labeller=self._labeller)
        judge._warn(self.warnings)
        return judge

    def live(self, parameters: Mapping[str, object]) -> Judge:
        """The same with other live parameters.

        Raises:
            ParameterError: unknown, not live, or a bad value.
        """
        judge = Judge(self.embedder, self.database, self.settings.live(parameters), self._calibration, self._labeller)
        judge._warn(self.warnings)
        return judge

    def accepting(self, additions: list[NominalAddition]) -> Judge:
        """The same with what a person reviewed and found nominal in the database, whose next version this makes.

        Raises:
            DatabaseError: another writer is at work or has made a newer version.
        """
        database = accept(self.database, additions)
        return Judge(self.embedder, database, self.settings, self._calibration, self._labeller)

    @property
    def level(self) -> float:
        """Frame score before calibration that counts as an alarm."""
        return self._level

    def process(self, frame: Frame, state: CameraState) -> FrameResult:
        """What is anomalous in a frame, see `process_batch`."""
        return self.process_batch([frame], [state])[0]

    def process_batch(self, frames: Sequence[Frame], states: Sequence[CameraState],
                      prepared: Sequence[Prepared] | None = None) -> list[FrameResult]:
        """What is anomalous in frames of several cameras: one pass of the encoder, one search, then each on its own.

        What fails with a frame costs that frame alone: it is unknown, and the log says why.

        Args:
            frames: pictures, which may differ in size, at most one of each camera.
            states: of their cameras, whose frames come in their order; changed here.
            prepared: the same pictures on their way to the encoder; None: that begins now.
        """
        start = time.perf_counter()
        try:
            encoded = self.embedder.encode(frames, prepared)
        except Exception as error:
            if len(frames) == 1:
                return [states[0].failed(frames[0], error)]
            pictures = [None] * len(frames) if prepared is None else [[one] for one in prepared]
            return [self.process_batch([frame], [state], picture)[0]
                    for frame, state, picture in zip(frames, states, pictures, strict=True)]
        known: dict[int, FrameResult] = {}  # by place in the batch
        segmented: dict[int, FrameEmbedding] = {}
        # on a GPU what is not finite is known when it has searched; to ask before would be to wait for it twice
        at_once = self.embedder.encoder.device.type != 'cuda'
        for place, (embedding, state) in enumerate(zip(encoded, states, strict=True)):
            try:
                one = self.embedder.segment(embedding, state.masks)
                if at_once and one.fault:
                    known[place] = not_finite(one)
                else:
                    segmented[place] = one
            except Exception as error:
                known[place] = state.failed(embedding.frame, error)
        memories = {place: states[place].search for place in segmented}
        for place, scores in self._scored(segmented, memories).items():
            try:
                if isinstance(scores, Exception):
                    raise scores
                fault = scores.embedding.fault
                known[place] = not_finite(scores.embedding) if fault else self.filter(scores, states[place], start)
            except Exception as error:
                known[place] = states[place].failed(frames[place], error)
        return [known[place] for place in range(len(frames))]

    def _scored(self, embeddings: Mapping[int, FrameEmbedding], memories: Mapping[int, SearchMemory]
                ) -> dict[int, FrameScores | Exception]:
        """Scores of embeddings in one search; where that fails, of each alone, or why there are none."""
        if not embeddings:
            return {}
        batch = list(embeddings.values())
        try:
            scores = self._scorer.score_batch(batch, [queries_of(one) for one in batch], self._level,
                                              [memories[place] for place in embeddings])
            return dict(zip(embeddings, scores, strict=True))
        except Exception as error:
            if len(batch) == 1:
                return dict.fromkeys(embeddings, error)
            return {place: one for key, embedding in embeddings.items()
                    for place, one in self._scored({key: embedding}, memories).items()}

    def score(self, embedding: FrameEmbedding, memory: SearchMemory | None = None) -> FrameScores:
        """Raw and calibrated scores of an embedded frame, before the filter.

        Args:
            embedding: of the frame.
            memory: of what its camera's frames resembled, see `Scorer`; None: every query is searched for.

        Raises:
            EncoderError: the embedding holds NaN or infinity.
        """
        return self._scorer.score(embedding, self.embedder.queries(embedding), self._level, memory)

    def filter(self, scores: FrameScores, state: CameraState, since: float | None = None) -> FrameResult:
        """The verdict on scored frames, taken in the order of each camera's frames.

        A frame whose score is at or below the threshold holds no anomaly. Above it, the anomalies are the regions of
        pixels above the pixel threshold round those above the alarm level (frame and patch scores share one scale)
        that the filter leaves; the frame is anomalous when there is one. With the filter off, the
        frame score alone decides. Regions that stay below the alarm level are followed too, and gather evidence. A
        still passes the spatial filter only. A frame that would be nominal is unknown where it has the stamp of the one
        before: who knows whether it is another picture. Where the database is not calibrated every frame is unknown.

        Args:
            scores: of a frame.
            state: of its camera; changed here.
            since: when work on the frame began, by `time.perf_counter`, for the total; None: now.
        """
        start = time.perf_counter()
        frame, grid, settings = scores.embedding.frame, scores.embedding.grid, self.settings.filter
        if frame.still:
            settings = replace(settings, temporal=False)
        size, segments = (grid.height, grid.width), scores.embedding.segments
        stands, state.stamp_ns = frame.stamp_ns == state.stamp_ns != 0, frame.stamp_ns
        if not self._calibrated:
            return FrameResult.unknown(frame.stamp_ns, frame.camera, Reason.NOT_CALIBRATED, '', size, scores.raw_score,
                                       scores.timings_ms)
        if not math.isfinite(scores.score):  # NaN is below any level
            return FrameResult.unknown(frame.stamp_ns, frame.camera, Reason.NOT_FINITE, 'its score is NaN or infinity; '
                                       'check the database with `semanom db verify`', size, math.nan, scores.timings_ms)
        finer = segments if segments is not None and scores.queries.segments else None
        map_ = ScoreMap(scores.scores, scores.queries.owners, finer)
        reach, above = self.settings.alarm.pixel_threshold, scores.score > ALARM
        found: list[Region] = []
        heights: list[float] = []
        if above:
            whole = map_.at(size)
            found = regions(whole, reach if settings.temporal else ALARM, reach)
            heights = [float(whole[region.peak[::-1]]) for region in found]
        tracks: list[Track | None] = [None] * len(found)
        if settings.temporal:
            followed = [(region.box, height) for region, height in zip(found, heights, strict=True)]
            if not above and scores.scores.max(initial=0.0) > reach:
                followed = coarse_regions(map_.at, size, reach)
            surprises = [self._surprise(min(height, scores.score)) for _, height in followed]
            tracks[:] = state.filter.update(frame, [box for box, _ in followed], surprises, settings)[:len(found)]
        kept: list[tuple[Region, Track | None]] = []
        dropped: list[tuple[Region, Track | None, Reason]] = []
        for region, height, track in zip(found, heights, tracks, strict=True):
            if height <= ALARM:
                continue
            if why := objection(settings, region, size, segments):
                dropped.append((region, track, Reason[why]))
            elif track is not None and not track.confirmed:
                dropped.append((region, track, Reason.UNCONFIRMED))
            else:
                kept.append((region, track))
        anomalies = sorted((self._anomaly(scores, region, track) for region, track in kept),
                           key=lambda anomaly: -anomaly.score)
        filtered = settings.spatial or settings.temporal
        verdict = Verdict.of(above and (bool(anomalies) or not filtered))
        drift = Drift() if frame.still else state.drift.update(
            self._calibration.drift, self.settings.drift.level, frame.stamp_ns,
            lambda: self._drift_sample(scores, state.search))
        reason, explanation = Reason.NONE, ''
        if above and verdict is Verdict.NOMINAL:
            reason, explanation = _held_back(dropped, settings)
        if stands and verdict is Verdict.NOMINAL:
            verdict, reason, explanation = Verdict.UNKNOWN, Reason.STANDING_STAMPS, Reason.STANDING_STAMPS.explanation
        end = time.perf_counter()
        timings = {**scores.timings_ms, 'filter': (end - start) * 1e3, 'total': (end - (since or start)) * 1e3}
        return FrameResult(
            frame.stamp_ns, frame.camera, size, scores.score, scores.raw_score, scores.p_value, ALARM,
            verdict, map_, reach, tuple(anomalies), tuple(region for region, _ in kept), scores.queries, timings,
            reason, explanation, tuple(region for region, _, _ in dropped), drift)

    def _drift_sample(self, scores: FrameScores, memory: SearchMemory) -> npt.NDArray[np.float32]:
        """Of a frame with every query searched for, as in the nominal frames that it is compared with."""
        distances, nearest = self._scorer.searched(scores, memory)
        return sample_of(distances, scores.queries.positions, self.database.positions_of(nearest))

    def _anomaly(self, scores: FrameScores, region: Region, track: Track | None) -> Anomaly:
        """What is said about one region: its strongest query, the evidence for it, and a label."""
        grid, queries, segments = scores.embedding.grid, scores.queries, scores.embedding.segments
        x, y, w, h = region.box
        rows = slice(y * grid.rows // grid.height, ((y + h) * grid.rows - 1) // grid.height + 1)
        columns = slice(x * grid.columns // grid.width, ((x + w) * grid.columns - 1) // grid.width + 1)
        near = np.unique(queries.owners[rows, columns])
        if segments is not None:
            labels = np.unique(segments.at((grid.height, grid.width))[y:y + h, x:x + w][region.mask])
            near = np.union1d(near, labels[labels > 0] - 1)
        strongest = int(near[scores.scores[near].argmax()])
        score = float(scores.scores[strongest])
        nearest = None
        if scores.nearest[strongest] >= 0:
            nearest = self.database.example(int(scores.nearest[strongest]), float(scores.distances[strongest]))
        label, label_score = '', 0.0
        if self._labeller is not None:
            strong = near[scores.scores[near] >= 0.9 * score]
            label, label_score = self._labeller(queries.vectors[torch.from_numpy(strong)])
        return Anomaly(
            track.track_id if track else 0, score, float(scores.distances[strongest]),
            self._calibration.p_value(score * scores.level), region.box, region.contour(), region.area,
            track.age_ns if track else 0, nearest, label, label_score)

    def _warn(self, known: tuple[str, ...]) -> None:
        for warning in self.warnings:
            if warning not in known:
                log.warning('%s: %s', self.database.path, warning)


def calibration_of(database: NominalDatabase, settings: MethodSettings, encoder: Encoder | None = None
                   ) -> Calibration:
    """The calibration that a database holds, or one made now where that is for other settings.

    Args:
        database: viewed by the settings.
        settings: of the method.
        encoder: that frames are embedded with; an engine may have a calibration of its own.

    Raises:
        DatabaseError: the encoder is an engine whose certificate does not hold for this database.
    """
    own = calibration_for(database.path, database.manifest, encoder)
    model, arrays = PlausibilityModel.of(database), database.calibration if own is None else own
    if stored_parameters(arrays) != parameters_of(settings.search, settings.score):
        log.info('%s: calibrating for the present parameters', database.path)
        arrays = calibrate(database, settings.search, settings.score, model)
    return Calibration.from_arrays(arrays, model if settings.score.plausibility else None)


def not_finite(embedding: FrameEmbedding) -> FrameResult:
    """What is said about a frame whose embedding holds NaN or infinity."""
    frame = embedding.frame
    return FrameResult.unknown(frame.stamp_ns, frame.camera, Reason.NOT_FINITE, embedding.fault, frame.size,
                               timings_ms=embedding.timings_ms)


def _held_back(dropped: list[tuple[Region, Track | None, Reason]], settings: FilterSettings) -> tuple[Reason, str]:
    """Why a frame above the alarm level is not reported, and in words."""
    if not dropped:  # what is above the level is finer than a pixel
        return Reason.TOO_SMALL, 'smaller than a pixel'
    waiting = [track for _, track, reason in dropped if reason is Reason.UNCONFIRMED and track is not None]
    if waiting:
        track = max(waiting, key=lambda one: one.evidence)
        return Reason.UNCONFIRMED, (f'evidence {10 ** track.evidence:.1f} of {settings.evidence:g}, seen in '
                                    f'{track.seen} of {track.pictures} frames')
    region, _, reason = max(dropped, key=lambda one: one[0].area)
    if reason is Reason.TOO_SMALL:
        return reason, f'{region.area} pixels, smaller than filter_min_area {settings.min_area:g}'
    if reason is Reason.AT_BORDER:
        return reason, f'within filter_border {settings.border:g} of the image border'
    return reason, f'fills less than filter_agreement {settings.agreement:g} of its segment'


def evident_queries(result: FrameResult) -> npt.NDArray[np.int64]:
    """Indices of the queries that speak for patches above the pixel threshold in the anomalous regions of a flagged
    frame (anywhere, where the filter was off)."""
    queries = result.queries
    assert queries is not None
    assert result.scores is not None
    height, width = result.image_size
    rows, columns = queries.owners.shape
    chosen = result.scores.patches > result.pixel_threshold
    if result.regions:
        inside = np.zeros((rows, columns), bool)
        y, x = np.nonzero(result.mask)
        inside[((y + 1) * rows - 1) // height, ((x + 1) * columns - 1) // width] = True
        chosen = chosen & inside if (chosen & inside).any() else inside
    return np.unique(queries.owners[chosen])


def evidence_for(frame: Frame, result: FrameResult) -> NominalAddition:
    """What becomes nominal when a person finds a flagged frame harmless: the embeddings of `evident_queries`, as they
    were judged.

    Args:
        frame: that was flagged.
        result: what was said about it.
    """
    queries = result.queries
    assert queries is not None
    own = evident_queries(result)
    record = FrameRecord(frame.source or f'live:{frame.topic}', '', frame.topic, frame.stamp_ns, result.image_size)
    return NominalAddition(record, queries.vectors[torch.from_numpy(own)], queries.boxes[own], queries.positions[own],
                           thumbnail(frame.image, EVIDENCE_SIZE))
