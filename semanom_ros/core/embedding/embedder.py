"""Frames in, patch embeddings and queries out: the one path that recorder, detector and evaluator share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch

from semanom_ros.core.embedding.crops import masked_crops
from semanom_ros.core.embedding.description import EmbeddingDescription
from semanom_ros.core.embedding.encoders.encoder import Encoder, PictureEncoder
from semanom_ros.core.embedding.preprocessing import PatchGrid, Prepared, Preprocessor
from semanom_ros.core.embedding.queries import Queries, patch_queries, segment_boxes, segment_queries
from semanom_ros.core.embedding.recorded_parameters import asked_parameters
from semanom_ros.core.embedding.registry import load_encoder, load_segmenter
from semanom_ros.core.embedding.segmenters.refreshed import MaskMemory, refreshed
from semanom_ros.core.embedding.segmenters.segmenter import Segmenter
from semanom_ros.core.embedding.stage_clock import Milliseconds, StageClock
from semanom_ros.core.frames import Frame, Segments
from semanom_ros.errors import EncoderError
from semanom_ros.settings import MethodSettings

CROP_BATCH = 16  # crops that are encoded at once

LARGEST_BATCH = {'cpu': 1, 'cuda': 16}
"""Pictures that go through an encoder at once, by kind of device. A CPU gains nothing from more, and all would wait for
the last; on a GPU the limit is lowered where its memory does not last."""

log = logging.getLogger(__name__)


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
        timings, bad: what tells `timings_ms` and `not_finite`; on a GPU it waits for what they are known after.
    """

    frame: Frame
    grid: PatchGrid
    patches: torch.Tensor
    segments: Segments | None = None
    segment_vectors: torch.Tensor | None = None
    timings: Milliseconds = dict
    bad: Callable[[], int] = int

    @cached_property
    def not_finite(self) -> int:
        """Patches and crops whose embedding holds NaN or infinity. Unless 0 no segments were looked for, and nothing
        that is computed from the frame means anything."""
        return self.bad()

    @cached_property
    def timings_ms(self) -> dict[str, float]:
        """Milliseconds by stage (`preprocess`, `encode`, `segment`), shared evenly within a batch."""
        return self.timings()

    @property
    def fault(self) -> str:
        """Why the frame cannot be judged, in a line; '' where it can."""
        if not self.not_finite:
            return ''
        rows, columns = self.patches.shape[:2]
        return (f'{self.not_finite} of {rows * columns} embeddings of the encoder hold NaN or infinity; choose '
                'precision bf16 or fp32, or another encoder')


class Embedder:
    """Preprocessor, encoder and, for the instance variant, segmenter.

    It remembers nothing between frames but how many pictures its device has memory for at once.

    Attributes:
        encoder: the vision foundation model.
        preprocessor: source image to encoder input.
        segmenter: None for the grid variant.
        largest_batch: pictures that go through the encoder at once.
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
        usual = LARGEST_BATCH[encoder.device.type]
        self.largest_batch = min(usual, encoder.largest_batch or usual)
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

    @property
    def prepares_ahead(self) -> bool:
        """Whether it pays to prepare pictures in a thread while the encoder works: not where both share the cores."""
        return self.encoder.device.type == 'cuda'

    def prepare(self, frame: Frame) -> Prepared:
        """Begins the way of a frame's picture to the encoder, see `encode`.

        Raises:
            ImageError: the picture is none.
        """
        return self.preprocessor.prepare(frame.image)

    def embed(self, frames: Sequence[Frame], memories: Sequence[MaskMemory] | None = None,
              prepared: Sequence[Prepared] | None = None) -> list[FrameEmbedding]:
        """Patch embeddings of a batch of frames, which may differ in size, and their segments.

        Args:
            frames: pictures.
            memories: what is remembered of the masks of each frame's camera, changed here; None: nothing, every frame
                is the first.
            prepared: the same pictures on their way, see `encode`.

        Raises:
            ImageError: a picture that is none.
            EncoderError: the device has no memory for a single one.
        """
        known = memories or [MaskMemory() for _ in frames]
        return [self.segment(one, memory) for one, memory in zip(self.encode(frames, prepared), known, strict=True)]

    @torch.inference_mode()
    def encode(self, frames: Sequence[Frame], prepared: Sequence[Prepared] | None = None) -> list[FrameEmbedding]:
        """Patch embeddings of a batch of frames, in one pass of the encoder where its device has the memory for it.

        On a GPU this returns before they are computed: what only another computation there needs is not waited for.

        Args:
            frames: pictures, which may differ in size.
            prepared: the same pictures on their way; None: that begins now.

        Raises:
            ImageError, EncoderError: see `embed`.
        """
        clock = StageClock(self.encoder.device)
        images = torch.cat([one.wait() for one in prepared or [self.prepare(frame) for frame in frames]])
        clock.lap('preprocess')
        patches = self._patches(images)
        bad = _OnTheHost((~patches.isfinite().all(dim=-1)).flatten(1).sum(dim=1))
        clock.lap('encode')
        rows, columns = patches.shape[1:3]
        timings = clock.shared(len(frames))
        return [FrameEmbedding(frame, PatchGrid(rows, columns, *frame.size), one, timings=timings,
                               bad=partial(bad.__getitem__, number))
                for number, (frame, one) in enumerate(zip(frames, patches, strict=True))]

    def _patches(self, images: torch.Tensor) -> torch.Tensor:
        """(B, rows, columns, D) embeddings; where the GPU's memory does not last the batches are halved, for good."""
        while True:
            try:
                return torch.cat([self.encoder.encode(part) for part in images.split(self.largest_batch)])
            except torch.cuda.OutOfMemoryError as error:
                batch, why = min(self.largest_batch, len(images)), str(error).splitlines()[0]
            if images.device.type == 'cuda':
                torch.cuda.empty_cache()  # what is free there in pieces may be enough as a whole
            if batch == 1:
                raise EncoderError(f'encoder {self.encoder.name}: found no memory on {self.encoder.device} for one '
                                   f'picture ({why}), expected enough; choose a smaller input_size or encoder, or end '
                                   'what else uses the device')
            self.largest_batch = batch // 2
            log.error('encoder %s: %s has no memory for %d pictures at once (%s); from now on %d', self.encoder.name,
                      self.encoder.device, batch, why, self.largest_batch)

    @torch.inference_mode()
    def segment(self, embedding: FrameEmbedding, memory: MaskMemory) -> FrameEmbedding:
        """The same with segments and their embeddings, for the instance variant.

        Args:
            embedding: of a frame.
            memory: of the masks of its camera, changed here.
        """
        if self.segmenter is None or embedding.not_finite:
            return embedding
        clock = StageClock(self.encoder.device)
        segments = refreshed(self.segmenter, self._every_n, embedding.frame, embedding.patches, memory)
        vectors, bad = None, embedding.bad
        if self._pictures is not None and len(segments.scores):
            vectors = self._embed_crops(self._pictures, embedding.frame, segments)
            bad = partial(_OnTheHost((~vectors.isfinite().all(dim=-1)).sum()[None]).__getitem__, 0)
        clock.lap('segment')
        before, spent = embedding.timings, clock.shared(1)
        return replace(embedding, segments=segments, segment_vectors=vectors, bad=bad,
                       timings=lambda: {**before(), **spent()})

    def _embed_crops(self, encoder: PictureEncoder, frame: Frame, segments: Segments) -> torch.Tensor:
        labels = segments.at(frame.size)
        boxes, _ = segment_boxes(labels, len(segments.scores), frame.size)
        size = encoder.picture_size
        pictures = Preprocessor(size, encoder.device)(masked_crops(frame.image, labels, boxes, size))
        return torch.cat([encoder.encode_image(batch) for batch in pictures.split(CROP_BATCH)])

    @staticmethod
    def queries(embedding: FrameEmbedding) -> Queries:
        """What is compared, see `queries_of`.

        Raises:
            EncoderError: the embedding holds NaN or infinity.
        """
        if embedding.fault:
            raise EncoderError(f'frame {embedding.frame.stamp_ns}: {embedding.fault}')
        return queries_of(embedding)


@torch.inference_mode()
def queries_of(embedding: FrameEmbedding) -> Queries:
    """What is compared: every patch (grid), or every segment and the patches that none covers (instance).

    Whether they are finite is not looked at, for which a GPU would be waited for.
    """
    if embedding.segments is None or not len(embedding.segments.scores):
        return patch_queries(embedding.patches, embedding.grid)
    return segment_queries(embedding.patches, embedding.grid, embedding.segments, embedding.segment_vectors)


class _OnTheHost:
    """Whole numbers (N,) of a device, on their way to the host; whoever asks for one waits for them."""

    def __init__(self, numbers: torch.Tensor) -> None:
        self._there: torch.cuda.Event | None = None
        self._numbers = numbers
        if numbers.device.type == 'cuda':
            self._numbers = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
            self._numbers.copy_(numbers, non_blocking=True)
            self._there = torch.cuda.current_stream(numbers.device).record_event()

    def __getitem__(self, index: int) -> int:
        if self._there is not None:
            self._there.synchronize()
        return int(self._numbers[index])
