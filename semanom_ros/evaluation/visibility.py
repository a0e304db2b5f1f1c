"""How large, and how far away, an anomaly is when it is noticed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from semanom_ros.evaluation.sequences import Timeline

Parts = Sequence[tuple[npt.NDArray, Timeline]]
"""Sequences: their frames (of FRAME_TYPE) and what happened."""

PIXELS = 'pixels'
PATCHES = 'patches'
METRES = 'm'

EDGES = {
    PIXELS: (1, 16, 64, 256, 1024, 4096, 16384, 65536),
    PATCHES: (0, 0.25, 1, 4, 16, 64, 256, 1024),
    METRES: (0, 5, 10, 15, 20, 30, 40, 60, 80)}
"""Where bins begin; the last is open. Four times the area is twice the width and height."""

_FIELDS = {PIXELS: 'truth_pixels', PATCHES: 'truth_patches', METRES: 'distance_m'}


@dataclass(frozen=True)
class Bin:
    """Anomalies while they look about that large, or are about that far away.

    Attributes:
        unit: PIXELS, PATCHES or METRES.
        begin, end: from, and to below; end None: no end.
        anomalies: how many were ever in view like that.
        noticed: of them, how many had an alarm while they were.
    """

    unit: str
    begin: float
    end: float | None
    anomalies: int
    noticed: int

    @property
    def share(self) -> float | None:
        """Noticed of those in view; None without any."""
        return self.noticed / self.anomalies if self.anomalies else None

    def figures(self) -> dict[str, Any]:
        """For metrics.json."""
        return {**asdict(self), 'share': self.share}


def noticed_by(unit: str, parts: Parts) -> list[Bin]:
    """Bins from the first to the last that an anomaly was in; none where the unit is not known.

    The size is that of everything anomalous in a frame, in pixels of the source image or in patches of the encoder's
    grid; the distance that of the nearest anomaly in view.
    """
    edges = np.array(EDGES[unit], np.float64)
    seen, noticed = np.zeros(len(edges), np.int64), np.zeros(len(edges), np.int64)
    for frames in _events(parts):
        values = frames[_FIELDS[unit]].astype(np.float64)
        at = np.searchsorted(edges, values, side='right') - 1
        known = (frames['truth'] == 1) & np.isfinite(values) & (at >= 0)
        seen[np.unique(at[known])] += 1
        noticed[np.unique(at[known & frames['alarm']])] += 1
    used = np.flatnonzero(seen)
    if not len(used):
        return []
    ends = [*edges[1:], None]
    return [Bin(unit, float(edges[i]), ends[i], int(seen[i]), int(noticed[i])) for i in range(used[0], used[-1] + 1)]


@dataclass(frozen=True)
class FirstReports:
    """Anomalies when what is reported first lies on them.

    Attributes:
        distances_m: of each along the optical axis.
        seconds: until the vehicle would be there at the speed that it has then; not of those seen from a standstill.
    """

    distances_m: tuple[float, ...] = ()
    seconds: tuple[float, ...] = ()

    @classmethod
    def of(cls, parts: Parts) -> FirstReports:
        """Of the anomalies whose distance is known."""
        distances, seconds = [], []
        for frames in _events(parts):
            reported = np.flatnonzero(frames['alarm'] & np.isfinite(frames['reported_m']))
            if len(reported):
                first = frames[reported[0]]
                distances.append(float(first['reported_m']))
                if first['speed'] > 0:
                    seconds.append(float(first['reported_m'] / first['speed']))
        return cls(tuple(distances), tuple(seconds))

    def median_distance(self) -> float | None:
        """Metres; None where none is known."""
        return float(np.median(self.distances_m)) if self.distances_m else None

    def median_seconds(self) -> float | None:
        """Before the vehicle is there; None where none is known."""
        return float(np.median(self.seconds)) if self.seconds else None


def _events(parts: Parts) -> Iterator[npt.NDArray]:
    """The frames of each event."""
    for frames, line in parts:
        for event in line.events:
            yield frames[event.start:event.stop + 1]
