"""Frames in, patch embeddings and queries out: the one path that recorder, detector and evaluator share."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from semanom_ros.core.embedding.crops import masked_crops
from semanom_ros.core.embedding.description import EmbeddingDescription
from semanom_ros.core.embedding.encoders.encoder import Encoder, PictureEncoder
from semanom_ros.core.embedding.preprocessing import PatchGrid, Preprocessor
from semanom_ros.core.embedding.queries import Queries, patch_queries, segment_boxes, segment_queries
from semanom_ros.core.embedding.recorded_parameters import asked_parameters
from semanom_ros.core.embedding.registry import load_encoder, load_segmenter
from semanom_ros.core.embedding.segmenters.refreshed import MaskMemory, refreshed
from semanom_ros.core.embedding.segmenters.segmenter import Segmenter
from semanom_ros.core.frames import Frame, Segments
from semanom_ros.errors import EncoderError
from semanom_ros.settings import MethodSettings

CROP_BATCH = 16  # crops that are encoded at once


@dataclass(frozen=True)
class FrameEmbedding:
    """What one frame is reduced to; all that scoring needs.

    Attributes:
        frame: the source frame.
        grid: where the patches lie in it.
        patches: (rows, columns, D) float32, unit length, on the encoder's device.
        segments: instance masks, for the instance variant; else None.
        segment_vectors: (N, D) float32, unit length, embeddings of the segments' crops; None: their patches stand for
            them.
        timings_ms: milliseconds by stage (`preprocess`, `encode`, `segment`), shared evenly within a batch.
        not_finite: patches and crops whose embedding holds NaN or infinity. Unless 0 no segments were looked for, and
            the frame has no queries: nothing may be computed from such numbers.
    """

    frame: Frame
    grid: PatchGrid
    patches: torch.Tensor
    segments: Segments | None = None
    segment_vectors: torch.Tensor | None = None
    timings_ms: dict[str, float] = field(default_factory=dict)
    not_finite: int = 0

    @property
    def fault(self) -> str:
        """Why the frame cannot be judged, in a line; '' where it can."""
        if not self.not_finite:
            return ''
        rows, columns = self.patches.shape[:2]
        return (f'{self.not_finite} of {rows * columns} embeddings of the encoder hold NaN or infinity; choose '
                'precision bf16 or fp32, or another encoder')


class Embedder:
    """Preprocessor, encoder and, for the instance variant, segmenter. It remembers nothing between frames.

    Attributes:
        encoder: the vision foundation model.
        preprocessor: source image to encoder input.
        segmenter: None for the grid variant.
    """

    def __init__(self, encoder: Encoder, segmenter: Segmenter | None = None, segment_embedding: str = 'patches',
                 every_n: int = 1, parameters: Mapping[str, Any] | None = None) -> None:
        """
        Args:
            encoder: the vision foundation model.
            segmenter: None for the grid variant.
            segment_embedding: as in the parameter.
            every_n: find masks in so many-th frame of a camera, as in the parameter `segmenter_every_n`.
            parameters: that all this was asked for with, for `EmbeddingDescription`.

        Raises:
            EncoderError: it cannot embed crops.
        """
        self.encoder = encoder
        self.segmenter = segmenter
        self.preprocessor = Preprocessor(encoder.input_size, encoder.device)
        self._every_n = every_n
        self._parameters = dict(parameters or {})
        self._pictures: PictureEncoder | None = None
        if segmenter is not None and segment_embedding == 'crop':
            if not isinstance(encoder, PictureEncoder):
                raise EncoderError(f'parameter segment_embedding: found crop with encoder {encoder.name}, expected a '
                                   'CLIP encoder of open_clip with encoder_features maskclip, whose patches and crops '
                                   'can be compared; set those, or segment_embedding patches')
            self._pictures = encoder

    @classmethod
    def load(cls, settings: MethodSettings) -> Embedder:
        """Loads what the settings name.

        Raises:
            EncoderError, SegmenterError: a model or its weights are unusable.
            ParameterError: no such device, or a file that a model needs is unusable.
        """
        encoder, asked = load_encoder(settings.encoder), settings.queries
        segmenter = load_segmenter(asked, encoder.device) if asked.variant == 'instance' else None
        return cls(encoder, segmenter, asked.segment_embedding, asked.segmenter_every_n, asked_parameters(settings))

    def without_segments(self) -> Embedder:
        """The same encoder for the grid variant."""
        return Embedder(self.encoder, parameters=self._parameters and {**self._parameters, 'variant': 'grid'})

    @property
    def variant(self) -> str:
        """`grid` or `instance`."""
        return 'grid' if self.segmenter is None else 'instance'

    @property
    def description(self) -> EmbeddingDescription:
        """What a database is told about the embeddings, and compared with."""
        encoder, settings = self.encoder, dict(self.encoder.settings)
        if self.segmenter is not None:
            settings['segmenter'] = self.segmenter.name
        if self._pictures is not None:
            settings['segment_embedding'] = 'crop'
        if depth := self._parameters.get('bit_depth'):
            settings['bit_depth'] = depth
        return EmbeddingDescription(
            encoder=encoder.name, weights=encoder.weights, weights_sha256=encoder.weights_sha256,
            preprocessing_sha256=self.preprocessor.sha256,
            input_size=(int(encoder.input_size[0]), int(encoder.input_size[1])),
            grid_size=(int(encoder.grid_size[0]), int(encoder.grid_size[1])),
            dimension=int(encoder.dimension), variant=self.variant, settings=settings,
            wants_standardizing=encoder.wants_standardizing,
            wants_calibration_by_place=encoder.wants_calibration_by_place, parameters=self._parameters)

    @torch.inference_mode()
    def embed(self, frames: Sequence[Frame], memories: Sequence[MaskMemory] | None = None) -> list[FrameEmbedding]:
        """Patch embeddings of a batch of frames, which may differ in size.

        Args:
            frames: pictures.
            memories: what is remembered of the masks of each frame's camera, changed here; None: nothing, every frame
                is the first.

        Raises:
            ImageError: a picture that is none.
        """
        clock = _Clock(self.encoder.device)
        images = self.preprocessor([frame.image for frame in frames])
        preprocess = clock.lap()
        patches = self.encoder.encode(images)
        not_finite = (~patches.isfinite().all(dim=-1)).flatten(1).sum(dim=1).tolist()
        encode = clock.lap()
        embeddings = []
        known = memories or [MaskMemory() for _ in frames]
        for frame, one, bad, memory in zip(frames, patches, not_finite, known, strict=True):
            timings = {'preprocess': preprocess / len(frames), 'encode': encode / len(frames)}
            segments = vectors = None
            if self.segmenter is not None and not bad:
                segments = refreshed(self.segmenter, self._every_n, frame, one, memory)
                if self._pictures is not None and len(segments.scores):
                    vectors = self._embed_crops(self._pictures, frame, segments)
                    bad = int((~vectors.isfinite().all(dim=-1)).sum())
                timings['segment'] = clock.lap()
            grid = PatchGrid(one.shape[0], one.shape[1], *frame.size)
            embeddings.append(FrameEmbedding(frame, grid, one, segments, vectors, timings, bad))
        return embeddings

    def _embed_crops(self, encoder: PictureEncoder, frame: Frame, segments: Segments) -> torch.Tensor:
        labels = segments.at(frame.size)
        boxes, _ = segment_boxes(labels, len(segments.scores), frame.size)
        size = encoder.picture_size
        pictures = Preprocessor(size, encoder.device)(masked_crops(frame.image, labels, boxes, size))
        return torch.cat([encoder.encode_image(batch) for batch in pictures.split(CROP_BATCH)])

    @staticmethod
    @torch.inference_mode()
    def queries(embedding: FrameEmbedding) -> Queries:
        """What is compared: every patch (grid), or every segment and the patches that none covers (instance).

        Raises:
            EncoderError: the embedding holds NaN or infinity.
        """
        if embedding.fault:
            raise EncoderError(f'frame {embedding.frame.stamp_ns}: {embedding.fault}')
        if embedding.segments is None or not len(embedding.segments.scores):
            return patch_queries(embedding.patches, embedding.grid)
        return segment_queries(embedding.patches, embedding.grid, embedding.segments, embedding.segment_vectors)


class _Clock:
    """Milliseconds between laps; waits for the GPU, whose work is queued."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._last = time.perf_counter()

    def lap(self) -> float:
        if self._device.type == 'cuda':
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        self._last, milliseconds = now, (now - self._last) * 1e3
        return milliseconds
