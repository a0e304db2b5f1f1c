"""Which regions of an anomaly map are worth reporting."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from semanom_ros.core.frames import Segments
from semanom_ros.core.localization.regions_of_map import Region
from semanom_ros.core.localization.tracking import Track, Tracker
from semanom_ros.settings import FilterSettings


def objection(settings: FilterSettings, region: Region, size: tuple[int, int], segments: Segments | None) -> str:
    """Why the spatial part drops a region of an image of this (height, width): a name of Reason; '': it keeps it.

    Args:
        settings: by area, border and agreement.
        region: in pixels of the image.
        size: of the image.
        segments: of the image, for the agreement; None: unknown.
    """
    if not settings.spatial:
        return ''
    height, width = size
    if region.area < settings.min_area * height * width:
        return 'TOO_SMALL'
    x, y, w, h = region.box
    if settings.border > 0:
        centre = (x + w / 2) / width, (y + h / 2) / height
        if not all(settings.border <= c <= 1 - settings.border for c in centre):
            return 'AT_BORDER'
    if settings.agreement > 0 and segments is not None:
        labels = segments.at(size)
        px, py = region.peak
        segment = labels[py, px]
        if segment > 0:
            inside = labels[y:y + h, x:x + w] == segment
            if (inside & region.mask).sum() < settings.agreement * (labels == segment).sum():
                return 'DISAGREES'
    return ''


class TemporalFilter:
    """Persistence and track ids of one camera."""

    def __init__(self) -> None:
        self._tracker = Tracker(memory_ns=0)

    def update(self, image: npt.NDArray[np.uint8], stamp_ns: int, found: list[Region], settings: FilterSettings
               ) -> list[tuple[Region, Track]]:
        """The regions that persist, each with its track; takes one picture after another."""
        persistence_ns = round(settings.persistence * 1e9)
        self._tracker.memory_ns = persistence_ns
        boxes = np.array([region.box for region in found], np.float32).reshape(-1, 4)
        tracks = self._tracker.update(image, stamp_ns, boxes)
        return [(region, track) for region, track in zip(found, tracks, strict=True)
                if track.persists(persistence_ns)]
