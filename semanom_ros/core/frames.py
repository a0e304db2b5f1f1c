"""What goes into the pipeline and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import cv2
import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Segments:
    """Instance masks of one image.

    Attributes:
        labels: (H, W) int32 at source resolution: 0 where no segment is, n for segment n - 1.
        scores: (N,) float32, confidence of each segment, 0 to 1.
        names: N names, '' where the segmenter knows none.
    """

    labels: npt.NDArray[np.int32]
    scores: npt.NDArray[np.float32]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Frame:
    """One camera picture.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        stamp_ns: time of exposure in nanoseconds, as stamped by the camera driver.
        camera: name of the stream that the frame belongs to; temporal state (tracks,
            persistence) is kept apart for each.
        source: where the frame came from, for provenance: the bag's path or
            `live:<topic>`.
        topic: the image topic.
        segments: instance masks that came with it, for the segmenter `topic`; None: none did.
    """

    image: npt.NDArray[np.uint8]
    stamp_ns: int
    camera: str = 'camera'
    source: str = ''
    topic: str = ''
    segments: Segments | None = None


@dataclass(frozen=True)
class NominalExample:
    """The nominal picture part that resembles an anomaly most: the evidence.

    Attributes:
        source: bag path or `live:<topic>` that the example was recorded from.
        topic: image topic.
        stamp_ns: stamp of the nominal frame in nanoseconds.
        box: (x, y, width, height) in pixels of the nominal source image.
        distance: cosine distance to the query, 0 (same) to 2 (opposite).
        thumbnail: (h, w, 3) uint8 RGB of the nominal frame, or None where none was kept.
        image_size: (height, width) of the nominal source image in pixels, which `box` refers to.
    """

    source: str
    topic: str
    stamp_ns: int
    box: tuple[int, int, int, int]
    distance: float
    thumbnail: npt.NDArray[np.uint8] | None = None
    image_size: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Anomaly:
    """One localized anomaly of one frame.

    Attributes:
        track_id: the same number for the same thing over time, from 1; 0 without tracking.
        score: calibrated anomaly score, the highest in the region; 1.0 is the alarm threshold.
        raw_score: cosine distance to the nearest nominal embedding, 0 to 2.
        p_value: share of nominal frames that hold a score at least as high, (0, 1].
        box: (x, y, width, height) in pixels of the source image.
        contour: (N, 2) int32 outline (x, y) in source pixels, the largest part first
            where the region has several.
        area: pixels of the source image inside the region.
        age_ns: for how long the track has existed.
        nearest: the most similar nominal example, None where the database keeps none.
        label: zero-shot text label, '' without a text-aligned encoder.
        label_score: cosine similarity of the label, -1 to 1; 0 without a label.
    """

    track_id: int
    score: float
    raw_score: float
    p_value: float
    box: tuple[int, int, int, int]
    contour: npt.NDArray[np.int32]
    area: int
    age_ns: int = 0
    nearest: NominalExample | None = None
    label: str = ''
    label_score: float = 0.0


@dataclass(frozen=True)
class FrameResult:
    """What the detector says about one frame.

    Attributes:
        stamp_ns, camera: those of the frame, untouched.
        image_size: (height, width) of the source image in pixels.
        score: calibrated frame score, >= 0; the alarm threshold is `threshold`.
        raw_score: the frame score before calibration: cosine distance, 0 to 2.
        p_value: conformal p-value of the frame score, (0, 1].
        threshold: frame score above which the frame is anomalous.
        anomalous: the verdict, after the filter where it is on.
        patch_map: (h, w) float32, calibrated score of each patch, >= 0.
        pixel_threshold: value of the anomaly map above which a pixel belongs to an anomaly whose core is above
            `threshold`.
        anomalies: what is left after the filter, the highest score first.
        region_mask: (H, W) bool, the pixels of `anomalies`; None stands for all False.
        pixel_map: (H, W) float32 where the variant computes one finer than the patches;
            None: the patch map enlarged.
        timings_ms: milliseconds by stage (`preprocess`, `encode`, `segment`, `search`,
            `score`, `filter`, `total`).
    """

    stamp_ns: int
    camera: str
    image_size: tuple[int, int]
    score: float
    raw_score: float
    p_value: float
    threshold: float
    anomalous: bool
    patch_map: npt.NDArray[np.float32]
    pixel_threshold: float
    anomalies: tuple[Anomaly, ...] = ()
    region_mask: npt.NDArray[np.bool_] | None = None
    pixel_map: npt.NDArray[np.float32] | None = None
    timings_ms: dict[str, float] = field(default_factory=dict)

    @cached_property
    def anomaly_map(self) -> npt.NDArray[np.float32]:
        """(H, W) float32, calibrated score per source pixel."""
        if self.pixel_map is not None:
            return self.pixel_map
        height, width = self.image_size
        enlarged = cv2.resize(self.patch_map, (width, height), interpolation=cv2.INTER_LINEAR)
        return np.asarray(enlarged, np.float32)

    @cached_property
    def mask(self) -> npt.NDArray[np.uint8]:
        """(H, W) uint8, 255 where an anomaly is, else 0."""
        if self.region_mask is None:
            return np.zeros(self.image_size, np.uint8)
        return self.region_mask.astype(np.uint8) * 255
