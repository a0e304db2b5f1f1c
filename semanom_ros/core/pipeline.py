"""Frames in, results out: embed, compare, calibrate, filter."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from semanom_ros.core.curation.recorder import thumbnail
from semanom_ros.core.database import FrameRecord, NominalAddition, NominalDatabase
from semanom_ros.core.embedding.embedder import Embedder, FrameEmbedding
from semanom_ros.core.embedding.encoders.encoder import TextAlignedEncoder
from semanom_ros.core.frames import Anomaly, Frame, FrameResult
from semanom_ros.core.localization.filtering import Filter, Region, TemporalFilter, regions
from semanom_ros.core.localization.tracking import Track
from semanom_ros.core.scoring.calibration import Calibration, calibrate, made_for, view_settings
from semanom_ros.core.scoring.comparison import Comparison
from semanom_ros.core.scoring.scorer import FrameScores, Scorer
from semanom_ros.errors import ParameterError
from semanom_ros.parameters import METHOD, Value, resolve, table

log = logging.getLogger(__name__)

EVIDENCE_SIZE = 160  # longer side of the picture kept with what was accepted, pixels


class Pipeline:
    """Embedder, scorer and filter; temporal state is kept per Frame.camera.

    Not for several threads at once: callers serialize.

    Attributes:
        embedder: frames to embeddings and queries.
        database: the nominal database.
        parameters: resolved, of the group `method`.
        warnings: what is doubtful about the results, one line each, for logs and diagnostics.
    """

    def __init__(self, embedder: Embedder, database: NominalDatabase, parameters: Mapping[str, Value]) -> None:
        self.embedder = embedder
        self.parameters = dict(parameters)
        vocabulary = str(parameters['label_vocabulary'])
        self._labeller = Labeller.load(embedder, Path(vocabulary)) if vocabulary else None
        self._cameras: dict[str, TemporalFilter] = {}
        self._use(database)

    def _use(self, database: NominalDatabase) -> None:
        database.check_compatible(self.embedder.encoder, self.embedder.preprocessor.sha256, self.embedder.variant,
                                  self.embedder.settings)
        arrays = database.calibration
        if not made_for(arrays, self.parameters) or 'frame_streams' not in arrays:  # made before alarms were counted
            log.info('%s: calibrating for the present parameters', database.path)
            arrays = calibrate(database, self.parameters)
        self.database = database
        self._calibration = Calibration.from_arrays(arrays, bool(self.parameters['plausibility']))
        self._scorer = Scorer(database, self._calibration, Comparison.of(self.parameters),
                              float(self.parameters['frame_score_fraction']))  # type: ignore[arg-type]
        self.warnings: tuple[str, ...] = ()
        self.update({})

    @classmethod
    def load(cls, parameters: Mapping[str, Value], database: Path, embedder: Embedder | None = None) -> Pipeline:
        """Loads the encoder (unless given), opens, verifies and compares the database, and warms up.

        Args:
            parameters: of the group `method`; what is missing takes its default.
            database: folder of the nominal database.

        Raises:
            SemanomError: one line; nothing stays loaded.
        """
        resolved = resolve(parameters, METHOD)
        embedder = embedder or Embedder.load(resolved)
        pipeline = cls(embedder, _open(database, embedder, resolved), resolved)
        height, width = embedder.encoder.input_size
        pipeline.score(embedder.embed([Frame(np.zeros((height, width, 3), np.uint8), 0)])[0])
        return pipeline

    def with_database(self, database: Path) -> Pipeline:
        """The same encoder, parameters and tracks with another database, or with a newer version of this one.

        Leaves the encoder alone, so that this pipeline may process frames in another thread meanwhile.

        Raises:
            SemanomError: the database is unusable; this pipeline goes on with its own.
        """
        other = copy.copy(self)
        other._use(_open(database, self.embedder, self.parameters))
        warm = np.eye(1, self.embedder.encoder.dimension, dtype=np.float32)
        other.database.search(warm, 1, np.zeros((1, 3), np.float32))
        return other

    def sibling(self, parameters: Mapping[str, Value]) -> Pipeline:
        """The same encoder, database and calibration with other `live` parameters and temporal state of its own.

        Raises:
            ParameterError: see `update`.
        """
        other = copy.copy(self)
        other._cameras = {}
        other.update(parameters)
        return other

    def process(self, frame: Frame) -> FrameResult:
        """What is anomalous in a frame.

        Raises:
            ImageError: the picture is none.
        """
        start = time.perf_counter()
        result = self.filter(self.score(self.embedder.embed([frame])[0]))
        return replace(result, timings_ms={**result.timings_ms, 'total': (time.perf_counter() - start) * 1e3})

    def score(self, embedding: FrameEmbedding) -> FrameScores:
        """Raw and calibrated scores of an embedded frame, before the filter."""
        scores = self._scorer.score(embedding, self.embedder.queries(embedding), self._level)
        return replace(scores, timings_ms={**embedding.timings_ms, **scores.timings_ms})

    def filter(self, scores: FrameScores) -> FrameResult:
        """The verdict on scored frames, taken in the order of each camera's frames.

        A frame whose score is at or below the threshold holds no anomaly. Above it, the anomalies are the regions of
        pixels above the pixel threshold round those above the alarm level (frame and patch scores share one scale)
        that the filter leaves; the frame is anomalous when there is one. With the filter off, the
        frame score alone decides.
        """
        start = time.perf_counter()
        frame, grid = scores.embedding.frame, scores.embedding.grid
        size = (grid.height, grid.width)
        result = FrameResult(
            frame.stamp_ns, frame.camera, size, scores.score, scores.raw_score, scores.p_value, scores.threshold,
            scores.score > scores.threshold, scores.patch_map,
            float(self.parameters['pixel_threshold']),  # type: ignore[arg-type]
            pixel_map=scores.pixel_map)
        found: list[Region] = []
        if result.anomalous:
            found = [region for region in regions(result.anomaly_map, result.threshold, result.pixel_threshold)
                     if self._filter.keeps(region, size, scores.embedding.segments)]
        tracked: list[tuple[Region, Track | None]] = [(region, None) for region in found]
        if self._filter.temporal:
            camera = self._cameras.setdefault(frame.camera, TemporalFilter())
            tracked = list(camera.update(frame.image, frame.stamp_ns, found, self._filter))
        mask = None
        if tracked:
            mask = np.zeros(size, bool)
            for region, _ in tracked:
                x, y, w, h = region.box
                mask[y:y + h, x:x + w] |= region.mask
        anomalies = sorted((self._anomaly(scores, result, region, track) for region, track in tracked),
                           key=lambda anomaly: -anomaly.score)
        filtered = self._filter.spatial or self._filter.temporal
        timings = {**scores.timings_ms, 'filter': (time.perf_counter() - start) * 1e3}
        return replace(result, anomalies=tuple(anomalies), region_mask=mask, timings_ms=timings,
                       anomalous=result.anomalous and (bool(anomalies) or not filtered))

    def evidence_for(self, frame: Frame, result: FrameResult) -> NominalAddition:
        """What becomes nominal when a person finds a flagged frame harmless, for `NominalDatabase.accept`.

        The embeddings that speak for patches above the pixel threshold in the anomalous regions (anywhere, where the
        filter was off).

        Args:
            frame: that was flagged.
            result: what was said about it.
        """
        embedding = self.embedder.embed([frame])[0]
        grid, queries = embedding.grid, self.embedder.queries(embedding)
        chosen = result.patch_map > result.pixel_threshold
        if result.region_mask is not None:
            inside = np.zeros((grid.rows, grid.columns), bool)
            y, x = np.nonzero(result.region_mask)
            inside[((y + 1) * grid.rows - 1) // grid.height, ((x + 1) * grid.columns - 1) // grid.width] = True
            chosen = chosen & inside if (chosen & inside).any() else inside
        own = np.unique(queries.owners[chosen])
        record = FrameRecord(frame.source or f'live:{frame.topic}', '', frame.topic, frame.stamp_ns,
                             (grid.height, grid.width))
        return NominalAddition(record, queries.vectors[torch.from_numpy(own)], queries.boxes[own],
                               queries.positions[own], thumbnail(frame.image, EVIDENCE_SIZE))

    def update(self, parameters: Mapping[str, Value]) -> None:
        """Changes `live` parameters.

        Raises:
            ParameterError: unknown, not live, or a bad value; nothing is changed then.
        """
        live = {p.name for p in table(METHOD) if p.live}
        for name in parameters:
            if name not in live:
                raise ParameterError(f'parameter {name}: cannot change while loaded; expected one of '
                                     f'{", ".join(sorted(live))}')
        self.parameters = resolve({**self.parameters, **parameters}, METHOD)
        self._filter = Filter.of(self.parameters)
        self._level, doubt = self._calibration.alarm_level(
            float(self.parameters['false_alarm_rate']),  # type: ignore[arg-type]
            float(self.parameters['false_alarms_per_minute']))  # type: ignore[arg-type]
        known, self.warnings = self.warnings, (doubt,) if doubt else ()
        for warning in self.warnings:
            if warning not in known:
                log.warning('%s: %s', self.database.path, warning)

    def reset(self, camera: str | None = None) -> None:
        """Forgets tracks, persistence and moved masks, of one camera or of all."""
        self.embedder.reset(camera)
        if camera is None:
            self._cameras.clear()
        else:
            self._cameras.pop(camera, None)

    def close(self) -> None:
        """Frees models and database, on the GPU too; the pipeline is of no use afterwards."""
        device = self.embedder.encoder.device
        self.database.close()
        for name in ('embedder', 'database', '_scorer', '_labeller', '_cameras'):
            self.__dict__.pop(name, None)
        if device.type == 'cuda':
            torch.cuda.empty_cache()

    def _anomaly(self, scores: FrameScores, result: FrameResult, region: Region, track: Track | None) -> Anomaly:
        """What is said about one region: its strongest query, the evidence for it, and a label."""
        grid, queries = scores.embedding.grid, scores.queries
        x, y, w, h = region.box
        rows = slice(y * grid.rows // grid.height, ((y + h) * grid.rows - 1) // grid.height + 1)
        columns = slice(x * grid.columns // grid.width, ((x + w) * grid.columns - 1) // grid.width + 1)
        near = np.unique(queries.owners[rows, columns])
        if scores.embedding.segments is not None:
            labels = np.unique(scores.embedding.segments.labels[y:y + h, x:x + w][region.mask])
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
            track.last_ns - track.first_ns if track else 0, nearest, label, label_score)


class Labeller:
    """Zero-shot text labels for patch embeddings of a CLIP encoder."""

    def __init__(self, encoder: TextAlignedEncoder, labels: list[str]) -> None:
        self._encoder = encoder
        self._labels = labels
        self._texts = encoder.encode_text([f'a photo of a {label}' for label in labels])

    @classmethod
    def load(cls, embedder: Embedder, vocabulary: Path) -> Labeller:
        """Labels from a text file, one a line; `#` starts a comment.

        Raises:
            ParameterError: unreadable or empty file, or an encoder that knows no texts.
        """
        if not isinstance(embedder.encoder, TextAlignedEncoder):
            raise ParameterError(f'parameter label_vocabulary: encoder {embedder.encoder.name} knows no texts; choose '
                                 'a CLIP encoder or leave label_vocabulary empty')
        try:
            lines = vocabulary.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ParameterError(f'parameter label_vocabulary: {vocabulary} is unreadable ({error}); give a text file '
                                 'with one label a line') from error
        labels = [line.split('#')[0].strip() for line in lines]
        labels = [label for label in labels if label]
        if not labels:
            raise ParameterError(f'parameter label_vocabulary: {vocabulary} holds no label; give one a line')
        return cls(embedder.encoder, labels)

    @torch.inference_mode()
    def __call__(self, embeddings: torch.Tensor) -> tuple[str, float]:
        """The label of embeddings (N, D) together, and its cosine similarity."""
        mean = F.normalize(self._encoder.project_to_text(embeddings).mean(dim=0), dim=0)
        similarity = self._texts @ mean
        best = int(similarity.argmax())
        return self._labels[best], float(similarity[best])


def _open(path: Path, embedder: Embedder, parameters: Mapping[str, Value]) -> NominalDatabase:
    return NominalDatabase.open(Path(path), device=embedder.encoder.device, **view_settings(parameters))
