"""Which regions of an anomaly map are worth reporting."""

from __future__ import annotations

import numpy as np

from semanom_ros.core.frames import Frame, Segments
from semanom_ros.core.localization.evidence import SequentialTest
from semanom_ros.core.localization.frame_clock import FrameClock
from semanom_ros.core.localization.regions_of_map import Box, Region
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
    """Tracks of one camera, and the evidence that adds up along them.

    Attributes:
        clock: time between its frames.
    """

    def __init__(self) -> None:
        self.clock = FrameClock()
        self._tracker = Tracker()
        self._confirmed = 0

    def update(self, frame: Frame, boxes: list[Box], surprises: list[float], settings: FilterSettings) -> list[Track]:
        """The track of each region; takes one frame after another.

        What is not surprising enough to be reported is followed too ("track before detect"): once it is, it has a
        history. A track that was confirmed stays so until all of its evidence has leaked away.

        Args:
            frame: of the regions; its picture, its stamp and its reception count.
            boxes: of the regions of its map, also of those below the alarm level.
            surprises: of each, see `Surprise`.
            settings: what confirms.
        """
        elapsed_ns = self.clock.advance(frame.stamp_ns, frame.received_ns)
        seconds = (elapsed_ns or 0) / 1e9
        places = np.array(boxes, np.float32).reshape(-1, 4)
        tracks, test = self._tracker.update(frame.image, elapsed_ns, places), SequentialTest(settings.evidence)
        for track, surprise in zip(tracks, surprises, strict=True):
            first = track.seen == 1
            track.evidence = test.first(surprise) if first else test.seen(track.evidence, surprise, seconds)
            if test.confirms(track.evidence) and not track.confirmed:
                self._confirmed += 1
                track.track_id = self._confirmed
        for track in self._tracker.tracks:
            if track.unseen_ns:
                track.evidence = test.unseen(track.evidence, seconds)
        self._tracker.tracks = [track for track in self._tracker.tracks if track.evidence > 0]
        return tracks
