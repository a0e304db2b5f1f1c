"""Weather and light."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from semanom_ros.errors import ParameterError
from semanom_ros.simulation.painter import FloatArray


@dataclass(frozen=True)
class Weather:
    """Light and air. Colours are RGB 0..255, lights are factors, one for each of RGB.

    Attributes:
        sky_top, sky_low: colour of the sky overhead and at the horizon.
        ambient, sunlight: light from everywhere and from the sun.
        sun: (3,) towards the sun.
        fog: extinction per metre.
        clouds: share of the sky, 0 to 1.
        rain: 0 to 1; streaks, a wet road.
        night: 0 to 1; lamps, lit windows.
    """

    sky_top: FloatArray
    sky_low: FloatArray
    ambient: FloatArray
    sunlight: FloatArray
    sun: FloatArray
    fog: float
    clouds: float
    rain: float
    night: float

    def mixed(self, other: Weather, share: float) -> Weather:
        """Between this (share 0) and the other (share 1)."""
        values = {f.name: (1 - share) * getattr(self, f.name) + share * getattr(other, f.name) for f in fields(self)}
        values['sun'] = values['sun'] / np.linalg.norm(values['sun'])
        return Weather(**values)


def _weather(
    top: tuple[int, int, int],
    low: tuple[int, int, int],
    ambient: tuple[float, float, float],
    sunlight: tuple[float, float, float],
    elevation: float,
    fog: float,
    clouds: float,
    rain: float,
    night: float,
) -> Weather:
    e, a = math.radians(elevation), math.radians(40)
    sun = np.array([math.cos(e) * math.cos(a), math.cos(e) * math.sin(a), math.sin(e)])
    return Weather(
        np.array(top, float), np.array(low, float), np.array(ambient), np.array(sunlight), sun, fog, clouds, rain, night
    )


WEATHERS = {
    'sun': _weather((86, 140, 212), (196, 216, 232), (0.76, 0.78, 0.84), (0.60, 0.55, 0.45), 42, 0.0016, 0.35, 0, 0),
    'dusk': _weather((50, 60, 112), (236, 158, 108), (0.42, 0.40, 0.52), (0.34, 0.20, 0.10), 9, 0.0030, 0.45, 0, 0.85),
    'rain': _weather(
        (126, 134, 144), (176, 182, 188), (0.66, 0.69, 0.74), (0.04, 0.04, 0.04), 50, 0.0085, 1.0, 1.0, 0.25
    ),
    'fog': _weather((186, 190, 194), (202, 205, 207), (0.80, 0.82, 0.84), (0.04, 0.04, 0.04), 50, 0.0260, 1.0, 0, 0.15),
}
CHOICES = ('mixed', *WEATHERS)


def schedule(choice: str, rng: np.random.Generator) -> list[str]:
    """The order in which a drive meets the weathers.

    Raises:
        ParameterError: not one of CHOICES.
    """
    if choice not in CHOICES:
        raise ParameterError(f'weather: found {choice!r}, expected one of {", ".join(CHOICES)}; choose one of them')
    if choice != 'mixed':
        return [choice]
    rest = ['dusk', 'rain', 'fog']
    rng.shuffle(rest)
    return ['sun', *rest]


def at(order: list[str], stretch: float) -> Weather:
    """The weather at a place of the drive; each weather lasts for 1, the last fifth of it passes into the next."""
    k = int(stretch)
    this, following = WEATHERS[order[k % len(order)]], WEATHERS[order[(k + 1) % len(order)]]
    share = max(0.0, (stretch - k - 0.8) / 0.2)
    return this if share == 0 or this is following else this.mixed(following, share)


def lens_noise(rng: np.random.Generator, height: int, width: int, count: int = 2) -> npt.NDArray[np.int16]:
    """(count, height, width, 3) sensor noise of standard deviation 1, times 16; shifted about, few are enough."""
    return np.rint(rng.standard_normal((count, height, width, 3), np.float32) * 16).astype(np.int16)
