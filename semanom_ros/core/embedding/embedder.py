"""Frames in, patch embeddings and queries out: the one path that recorder, detector and evaluator share."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy import ndimage

from semanom_ros.core.database.storage import places
from semanom_ros.core.embedding.crops import masked_crops
from semanom_ros.core.embedding.encoders import load_encoder
from semanom_ros.core.embedding.encoders.encoder import Encoder, PictureEncoder
from semanom_ros.core.embedding.preprocessing import PatchGrid, Preprocessor
from semanom_ros.core.embedding.segmenters import load_segmenter
from semanom_ros.core.embedding.segmenters.segmenter import Segmenter
from semanom_ros.core.frames import Frame, Segments
from semanom_ros.errors import EncoderError
from semanom_ros.parameters import Value

CROP_BATCH = 16  # crops that are encoded at once
MIN_COVER = 0.5  # share of a patch that segments must cover for the patch to need no query of its own


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
    """

    frame: Frame
    grid: PatchGrid
    patches: torch.Tensor
    segments: Segments | None = None
    segment_vectors: torch.Tensor | None = None
    timings_ms: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Queries:
    """The embeddings of one frame that are compared with the nominal database.

    Attributes:
        vectors: (N, D) float32, unit length, on the encoder's device.
        boxes: (N, 4) int32, (x, y, width, height) in source pixels.
        positions: (N, 2) float32 centres (x, y), 0 to 1 of the image.
        image_size: (height, width) of the source image in pixels.
        owners: (rows, columns) int64, the query that speaks for each patch.
        segments: the first so many queries are segments, in the order of their labels; the rest are patches.
    """

    vectors: torch.Tensor
    boxes: npt.NDArray[np.int32]
    positions: npt.NDArray[np.float32]
    image_size: tuple[int, int]
    owners: npt.NDArray[np.int64]
    segments: int = 0

    @property
    def places(self) -> npt.NDArray[np.float32]:
        """(N, 3) float32, see `places`."""
        return places(self.positions, self.boxes, self.image_size)


class Embedder:
    """Preprocessor, encoder and, for the instance variant, segmenter.

    Attributes:
        encoder: the vision foundation model.
        preprocessor: source image to encoder input.
        segmenter: None for the grid variant.
    """

    def __init__(self, encoder: Encoder, segmenter: Segmenter | None = None, segment_embedding: str = 'patches'
                 ) -> None:
        """
        Args:
            encoder: the vision foundation model.
            segmenter: None for the grid variant.
            segment_embedding: as in the parameter.

        Raises:
            EncoderError: it cannot embed crops.
        """
        self.encoder = encoder
        self.segmenter = segmenter
        self.preprocessor = Preprocessor(encoder.input_size, encoder.device)
        self._pictures: PictureEncoder | None = None
        if segmenter is not None and segment_embedding == 'crop':
            if not isinstance(encoder, PictureEncoder):
                raise EncoderError(f'parameter segment_embedding: found crop with encoder {encoder.name}, expected a '
                                   'CLIP encoder of open_clip with encoder_features maskclip, whose patches and crops '
                                   'can be compared; set those, or segment_embedding patches')
            self._pictures = encoder

    @classmethod
    def load(cls, parameters: Mapping[str, Value]) -> Embedder:
        """Loads what the parameters (of the group `method`, resolved) name.

        Raises:
            EncoderError, SegmenterError: a model or its weights are unusable.
        """
        size = parameters['input_size']
        assert isinstance(size, list)
        encoder = load_encoder(
            str(parameters['encoder']), weights=str(parameters['encoder_weights']),
            input_size=(int(size[0]), int(size[1])), device=str(parameters['device']),
            precision=str(parameters['precision']), layer=int(parameters['encoder_layer']),  # type: ignore[arg-type]
            features=str(parameters['encoder_features']))
        segmenter = load_segmenter(parameters, encoder.device) if parameters['variant'] == 'instance' else None
        return cls(encoder, segmenter, str(parameters['segment_embedding']))

    @property
    def variant(self) -> str:
        """`grid` or `instance`."""
        return 'grid' if self.segmenter is None else 'instance'

    @property
    def segmenter_name(self) -> str:
        """As in the parameter `segmenter`; '' for the grid variant."""
        return '' if self.segmenter is None else self.segmenter.name

    @property
    def settings(self) -> dict[str, str]:
        """What else than the encoder changes the queries, for the database's description."""
        settings = {'segmenter': self.segmenter_name} if self.segmenter is not None else {}
        return settings | ({'segment_embedding': 'crop'} if self._pictures is not None else {})

    def reset(self, camera: str | None = None) -> None:
        """Forgets what the segmenter remembers of a camera's pictures, or of all cameras'."""
        if self.segmenter is not None:
            self.segmenter.reset(camera)

    @torch.inference_mode()
    def embed(self, frames: list[Frame]) -> list[FrameEmbedding]:
        """Patch embeddings of a batch of frames, which may differ in size.

        Raises:
            ImageError: a picture that is none.
        """
        clock = _Clock(self.encoder.device)
        images = self.preprocessor([frame.image for frame in frames])
        preprocess = clock.lap()
        patches = self.encoder.encode(images)
        encode = clock.lap()
        embeddings = []
        for frame, one in zip(frames, patches, strict=True):
            timings = {'preprocess': preprocess / len(frames), 'encode': encode / len(frames)}
            segments = vectors = None
            if self.segmenter is not None:
                segments = self.segmenter.segment(frame, one)
                if self._pictures is not None and len(segments.scores):
                    vectors = self._embed_crops(self._pictures, frame, segments)
                timings['segment'] = clock.lap()
            grid = PatchGrid(one.shape[0], one.shape[1], frame.image.shape[0], frame.image.shape[1])
            embeddings.append(FrameEmbedding(frame, grid, one, segments, vectors, timings))
        return embeddings

    def _embed_crops(self, encoder: PictureEncoder, frame: Frame, segments: Segments) -> torch.Tensor:
        boxes, _ = _segment_boxes(segments.labels, len(segments.scores))
        size = encoder.picture_size
        pictures = Preprocessor(size, encoder.device)(masked_crops(frame.image, segments.labels, boxes, size))
        return torch.cat([encoder.encode_image(batch) for batch in pictures.split(CROP_BATCH)])

    @torch.inference_mode()
    def queries(self, embedding: FrameEmbedding) -> Queries:
        """What is compared: every patch (grid), or every segment and the patches that none covers (instance)."""
        grid, patches = embedding.grid, embedding.patches.reshape(-1, embedding.patches.shape[-1])
        owners = np.arange(len(patches), dtype=np.int64).reshape(grid.rows, grid.columns)
        boxes, positions = patch_boxes(grid), grid.centres()
        if embedding.segments is None or not len(embedding.segments.scores):
            return Queries(patches, boxes, positions, (grid.height, grid.width), owners)
        labels, count = embedding.segments.labels, len(embedding.segments.scores)
        cover = segment_cover(labels, count, grid)
        weights = torch.from_numpy(cover).to(patches)
        vectors = embedding.segment_vectors
        pooled = F.normalize(weights @ patches, dim=1) if vectors is None else vectors
        total = cover.sum(axis=0)
        alone = np.flatnonzero(total < MIN_COVER)
        owner = cover.argmax(axis=0)
        owner[alone] = count + np.arange(len(alone))
        segment_boxes, segment_positions = _segment_boxes(labels, count)
        return Queries(
            torch.cat([pooled, patches[torch.from_numpy(alone).to(patches.device)]]),
            np.concatenate([segment_boxes, boxes[alone]]), np.concatenate([segment_positions, positions[alone]]),
            (grid.height, grid.width), owner.reshape(grid.rows, grid.columns), count)


def patch_boxes(grid: PatchGrid) -> npt.NDArray[np.int32]:
    """(rows * columns, 4) boxes (x, y, width, height) of all patches in source pixels, as PatchGrid.box, row by row."""
    x = grid.width * np.arange(grid.columns + 1) // grid.columns
    y = grid.height * np.arange(grid.rows + 1) // grid.rows
    left, top = np.meshgrid(x[:-1], y[:-1])
    width, height = np.meshgrid(np.diff(x), np.diff(y))
    return np.stack([left, top, width, height], axis=-1).reshape(-1, 4).astype(np.int32)


def segment_cover(labels: npt.NDArray[np.int32], count: int, grid: PatchGrid) -> npt.NDArray[np.float32]:
    """(count, rows * columns) share of each patch that each segment covers.

    Exact at the patches' edges, so a segment smaller than a patch still has a share of one.
    """
    rows = (np.arange(grid.height, dtype=np.int64) * grid.rows + grid.rows - 1) // grid.height
    columns = (np.arange(grid.width, dtype=np.int64) * grid.columns + grid.columns - 1) // grid.width
    rows, columns = np.minimum(rows, grid.rows - 1), np.minimum(columns, grid.columns - 1)
    patches = grid.rows * grid.columns
    index = (labels.astype(np.int64) * patches) + (rows[:, None] * grid.columns + columns[None, :])
    pixels = np.bincount(index.ravel(), minlength=(count + 1) * patches).reshape(count + 1, patches)
    area = np.bincount(rows, minlength=grid.rows)[:, None] * np.bincount(columns, minlength=grid.columns)[None, :]
    return (pixels[1:] / np.maximum(area.ravel(), 1)).astype(np.float32)


def _segment_boxes(labels: npt.NDArray[np.int32], count: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """(count, 4) boxes and (count, 2) centres of mass 0..1 of the segments."""
    height, width = labels.shape
    boxes = np.tile(np.array([width // 2, height // 2, 1, 1], np.int32), (count, 1))
    for number, slices in enumerate(ndimage.find_objects(labels, max_label=count)):
        if slices is not None:
            rows, columns = slices
            boxes[number] = columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start
    flat = labels.ravel()
    pixels = np.maximum(np.bincount(flat, minlength=count + 1), 1)
    x = np.tile(np.arange(width, dtype=np.float32), height)
    y = np.repeat(np.arange(height, dtype=np.float32), width)
    centres = np.stack([(np.bincount(flat, x, count + 1) / pixels + 0.5) / width,
                        (np.bincount(flat, y, count + 1) / pixels + 0.5) / height], axis=-1)[1:]
    return boxes, centres.astype(np.float32)


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
