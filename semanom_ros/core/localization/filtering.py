"""From an anomaly map to the anomalies worth reporting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from semanom_ros.core.frames import Segments
from semanom_ros.core.localization.tracking import Track, Tracker
from semanom_ros.parameters import Value


@dataclass(frozen=True)
class Region:
    """A connected part of an image above the pixel threshold that reaches the alarm level.

    Attributes:
        box: (x, y, width, height), pixels.
        mask: (height, width) bool inside the box.
        area: pixels.
        peak: (x, y) of its highest value.
    """

    box: tuple[int, int, int, int]
    mask: npt.NDArray[np.bool_]
    area: int
    peak: tuple[int, int]

    def contour(self) -> npt.NDArray[np.int32]:
        """(N, 2) int32 outline (x, y) in pixels of the image."""
        outlines, _ = cv2.findContours(self.mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE,
                                       offset=self.box[:2])
        return np.concatenate([o[:, 0] for o in sorted(outlines, key=cv2.contourArea, reverse=True)]).astype(np.int32)


def regions(anomaly_map: npt.NDArray[np.float32], alarm: float, reach: float) -> list[Region]:
    """8-connected regions of a map (H, W) above `reach` that hold a pixel above `alarm`.

    Hysteresis thresholding (J. Canny, TPAMI 1986): what raises the alarm is the core of a thing, which reaches farther.
    """
    cores = anomaly_map > alarm
    if not cores.any():
        return []
    above = (anomaly_map > min(alarm, reach)).astype(np.uint8)
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(above, connectivity=8)
    found = []
    for number in np.unique(labels[cores]):
        x, y, w, h, area = (int(v) for v in statistics[number])
        mask = labels[y:y + h, x:x + w] == number
        peak = int(np.where(mask, anomaly_map[y:y + h, x:x + w], -np.inf).argmax())
        found.append(Region((x, y, w, h), mask, area, (x + peak % w, y + peak // w)))
    return found


@dataclass(frozen=True)
class Filter:
    """The filter's settings; each part can be switched off.

    Attributes:
        spatial: drop regions by area, border and agreement.
        min_area: smallest region, share of the image.
        border: width of the image border, share of the image, whose regions are dropped.
        agreement: share of a segment that a region must fill to be believed, where segments are known.
        temporal: report a region only when it persists.
        persistence: for how long, seconds.
    """

    spatial: bool
    min_area: float
    border: float
    agreement: float
    temporal: bool
    persistence: float

    @classmethod
    def of(cls, parameters: Mapping[str, Value]) -> Filter:
        """From the parameters `filter_*`."""
        return cls(**{name: parameters[f'filter_{name}'] for name in cls.__dataclass_fields__})  # type: ignore[arg-type]

    @property
    def persistence_ns(self) -> int:
        return round(self.persistence * 1e9)

    def keeps(self, region: Region, size: tuple[int, int], segments: Segments | None) -> bool:
        """Whether the spatial part keeps a region of an image of this (height, width)."""
        if not self.spatial:
            return True
        height, width = size
        if region.area < self.min_area * height * width:
            return False
        x, y, w, h = region.box
        if self.border > 0:
            centre = (x + w / 2) / width, (y + h / 2) / height
            if not all(self.border <= c <= 1 - self.border for c in centre):
                return False
        if self.agreement > 0 and segments is not None:
            px, py = region.peak
            segment = segments.labels[py, px]
            if segment > 0:
                inside = segments.labels[y:y + h, x:x + w] == segment
                if (inside & region.mask).sum() < self.agreement * (segments.labels == segment).sum():
                    return False
        return True


class TemporalFilter:
    """Persistence and track ids of one camera."""

    def __init__(self) -> None:
        self._tracker = Tracker(memory_ns=0)

    def update(self, image: npt.NDArray[np.uint8], stamp_ns: int, found: list[Region], settings: Filter
               ) -> list[tuple[Region, Track]]:
        """The regions that persist, each with its track; takes one picture after another."""
        self._tracker.memory_ns = settings.persistence_ns
        boxes = np.array([region.box for region in found], np.float32).reshape(-1, 4)
        tracks = self._tracker.update(image, stamp_ns, boxes)
        return [(region, track) for region, track in zip(found, tracks, strict=True)
                if track.persists(settings.persistence_ns)]
