"""Where, and when, a nominal database is thin."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from semanom_ros.core.database.nominal_database import NominalDatabase
from semanom_ros.core.drift.drift_reference import CELLS, REGION_COLUMNS, REGION_ROWS, stored_samples
from semanom_ros.core.picture_decoder import decode_thumbnail
from semanom_ros.errors import DatabaseError

STRETCH_S = 10.0
"""Length of the stretches of drives that are compared."""

LIGHTS = (('dark', 0.0, 60.0), ('dim', 60.0, 105.0), ('bright', 105.0, 256.0))
"""Name, and from and below which mean grey level, of the light in a picture."""

_PICTURES = 400  # that are looked at for their light
_FAR = 1.4  # times as far as usual is worth another drive
_RARE = 0.1  # share of the driving below which a light is rare


@dataclass(frozen=True)
class Stretch:
    """A part of a drive.

    Attributes:
        name: recording and topic.
        start_s, end_s: from the first nominal frame of the recording.
        ratio: how far its pictures are from the rest of the database, as a multiple of what is usual there.
    """

    name: str
    start_s: float
    end_s: float
    ratio: float


@dataclass(frozen=True)
class Light:
    """Pictures of one brightness.

    Attributes:
        name: of LIGHTS.
        share: of the pictures that were looked at.
        ratio: as for stretches; NaN where there is none.
    """

    name: str
    share: float
    ratio: float


@dataclass(frozen=True)
class Coverage:
    """How well nominal frames are covered by the others, further than a few seconds away.

    Attributes:
        frames: looked at.
        regions: (3, 4) how far each region is from the rest of the database, as a multiple of the mean of all.
        variation: (3, 4) by what factor that varies from frame to frame, one standard deviation.
        lights: by brightness; () where the database keeps no pictures.
        stretches: the farthest first.
    """

    frames: int
    regions: npt.NDArray[np.float64]
    variation: npt.NDArray[np.float64]
    lights: tuple[Light, ...]
    stretches: tuple[Stretch, ...]

    @property
    def advice(self) -> str:
        """Which drive to record next, in a sentence."""
        reasons = []
        farthest = self.stretches[0] if self.stretches else None
        if farthest is not None and farthest.ratio >= _FAR:
            reasons.append(f'the streets of {farthest.name} at {farthest.start_s:.0f} to {farthest.end_s:.0f} s, which '
                           f'are {farthest.ratio:.1f} times as far from the rest as usual')
        for light in self.lights:
            if light.share < _RARE:
                few = f'only {light.share:.0%} of the pictures are' if light.share else 'no picture is'
                reasons.append(f'a drive where it is {light.name}, as {few}')
            elif light.ratio >= _FAR:
                reasons.append(f'a longer drive where it is {light.name}: such pictures are {light.ratio:.1f} times as '
                               'far from the rest as usual')
        return ('Record next ' + '; and '.join(reasons) + '.' if reasons else
                'Record next a drive elsewhere: no stretch, light or region of what is recorded stands out.')


def coverage(database: NominalDatabase) -> Coverage:
    """Looks at the distances that calibration left of each nominal frame to the rest of the database.

    Raises:
        DatabaseError: they are not there.
    """
    arrays = database.calibration
    if 'drift_samples' not in arrays or not len(arrays['drift_samples']):
        raise DatabaseError(f'{database.path}: found no distances between its nominal frames, expected those that '
                            'calibration leaves; run semanom db calibrate, or record a drive of more than ten seconds')
    cells = stored_samples(arrays)[:, :CELLS]
    stamps, streams = arrays['drift_stamps'], arrays['drift_streams']
    usual = np.nanmean(cells, axis=0)
    own = np.nanmean(cells - usual, axis=1)
    shape = len(cells), REGION_ROWS, 2, REGION_COLUMNS, 2
    regions = np.nanmean(np.nanmean(cells.reshape(shape), axis=4), axis=2)
    place = np.nanmean(regions, axis=0)
    stretches = []
    for stream in np.unique(streams):
        mine = streams == stream
        seconds = (stamps[mine] - stamps[mine].min()) / 1e9
        parts = (seconds // STRETCH_S).astype(np.int64)
        for part in np.unique(parts):
            inside = parts == part
            stretches.append(Stretch(str(arrays['drift_names'][stream]), float(seconds[inside].min()),
                                     float(seconds[inside].max()), float(np.exp(own[mine][inside].mean()))))
    return Coverage(len(cells), np.exp(place - place.mean()), np.exp(np.nanstd(regions, axis=0)),
                    _lights(database, stamps, streams, own),
                    tuple(sorted(stretches, key=lambda stretch: -stretch.ratio)))


def _lights(database: NominalDatabase, stamps: npt.NDArray[np.int64], streams: npt.NDArray[np.int32],
            own: npt.NDArray[np.float64]) -> tuple[Light, ...]:
    names = database.calibration['drift_names']
    frames = {(f'{record.source} {record.topic}', record.stamp_ns): picture for record, picture in database.pictures()}
    levels, distances = [], []
    for index in np.unique(np.linspace(0, len(own) - 1, min(len(own), _PICTURES)).astype(np.int64)):
        picture = frames.get((str(names[streams[index]]), int(stamps[index])))
        content = picture() if picture is not None else b''
        if content:
            shown = decode_thumbnail(content)
            levels.append(np.nan if shown is None else float(np.mean(cv2.cvtColor(shown, cv2.COLOR_RGB2GRAY))))
            distances.append(own[index])
    known = np.isfinite(levels)
    if not known.any():
        return ()
    level, distance = np.array(levels)[known], np.array(distances)[known]
    lights = []
    for name, low, high in LIGHTS:
        inside = (level >= low) & (level < high)
        lights.append(Light(name, float(inside.mean()),
                            float(np.exp(distance[inside].mean())) if inside.any() else float('nan')))
    return tuple(lights)
