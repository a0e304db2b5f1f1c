"""What happens over time: alarms as a person hears them, delays, and intervals that respect time.

Neighbouring frames of a drive are nearly the same picture. Counting them one by one
makes a single false alarm look like twenty and a confidence interval far too narrow,
so alarms, events and bootstrap units are stretches of time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from semanom_ros.core.scoring.timeline import durations_s, runs

GRACE_S = 1.0
"""An alarm is not false until this many seconds after an anomaly has left the picture."""

STRETCH_S = 10.0
"""Length of the stretches of time that the bootstrap draws, seconds."""

RESAMPLES = 1000
"""Bootstrap samples behind an interval."""


@dataclass(frozen=True)
class Event:
    """Something that was anomalous for a while.

    Attributes:
        start, stop: indices of its first and last frame.
        delay_s: seconds from its first frame to the first alarm during it; None: never noticed.
        localized: whether, in an alarmed frame, what was reported overlaps what is anomalous.
    """

    start: int
    stop: int
    delay_s: float | None
    localized: bool


@dataclass(frozen=True)
class Timeline:
    """What happened over one uninterrupted sequence of frames of one camera.

    Attributes:
        events: the true anomalies, in order.
        false_alarms: (first, last) frame index of each distinct false alarm.
        alarms: (first, last) frame index of each distinct alarm, true or false.
        nominal_s: seconds that are known to be nominal.
        total_s: seconds altogether.
    """

    events: tuple[Event, ...] = ()
    false_alarms: tuple[tuple[int, int], ...] = ()
    alarms: tuple[tuple[int, int], ...] = ()
    nominal_s: float = 0.0
    total_s: float = 0.0


def timeline(stamps_ns: npt.NDArray[np.int64], alarms: npt.NDArray[np.bool_], truth: npt.NDArray[np.int8],
             localized: npt.NDArray[np.bool_]) -> Timeline:
    """What happened over one sequence.

    A false alarm is a run of alarmed frames that are known to be nominal and lie more
    than GRACE_S after the last anomaly; an alarm that begins long before an anomaly
    comes into view is therefore false as well as, later, right.

    Args:
        stamps_ns: (N,) rising.
        alarms: (N,) verdicts.
        truth: (N,) 1 anomalous, 0 nominal, -1 unknown.
        localized: (N,) whether what was reported overlaps what is anomalous.
    """
    events, excused = [], truth != 0
    for first, last in runs(stamps_ns, truth == 1):
        noticed = np.flatnonzero(alarms[first:last + 1])
        delay = (stamps_ns[first + noticed[0]] - stamps_ns[first]) / 1e9 if len(noticed) else None
        events.append(Event(first, last, delay, bool((alarms & localized)[first:last + 1].any())))
        excused |= (stamps_ns >= stamps_ns[first]) & (stamps_ns <= stamps_ns[last] + GRACE_S * 1e9)
    seconds = durations_s(stamps_ns)
    return Timeline(tuple(events), tuple(runs(stamps_ns, alarms & ~excused)), tuple(runs(stamps_ns, alarms)),
                    float(seconds[truth == 0].sum()), float(seconds.sum()))


class Timelines:
    """All sequences together, as metrics over time see them.

    Attributes:
        lines: of each sequence, in order.
        events: the true anomalies of all.
        nominal_s, total_s: seconds that are known to be nominal, and altogether.
    """

    def __init__(self, lines: Sequence[Timeline]) -> None:
        self.lines = tuple(lines)
        self.events = [event for line in lines for event in line.events]
        self.nominal_s = sum(line.nominal_s for line in lines)
        self.total_s = sum(line.total_s for line in lines)

    def false_alarms(self) -> int | None:
        """How many; None without nominal time."""
        return sum(len(line.false_alarms) for line in self.lines) if self.nominal_s else None

    def false_alarms_per_minute(self) -> float | None:
        """For each minute of nominal time."""
        false = self.false_alarms()
        return None if false is None else 60 * false / self.nominal_s

    def alarms_per_minute(self) -> float | None:
        """True or false, for each minute; None when no time passed."""
        return 60 * sum(len(line.alarms) for line in self.lines) / self.total_s if self.total_s else None

    def delays_s(self) -> list[float]:
        """Seconds until each noticed event was."""
        return [event.delay_s for event in self.events if event.delay_s is not None]

    def mean_delay_s(self) -> float | None:
        """Over the noticed events; None when there are none."""
        delays = self.delays_s()
        return float(np.mean(delays)) if delays else None

    def count(self, events: Sequence[object]) -> int | None:
        """How many of these; None where nothing is known of the truth."""
        return len(events) if self.events or self.nominal_s else None


def bootstrap(stretches: int, measure: Callable[[npt.NDArray[np.float64]], Mapping[str, float | None]],
              *, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, list[float] | None]:
    """95 % percentile intervals of metrics, drawing whole stretches of time with replacement.

    Args:
        stretches: how many there are.
        measure: metrics as a function of how often (stretches,) each one was drawn.
        resamples: how many draws.
        seed: the same seed, the same intervals.

    Returns:
        [low, high] for each metric; None where it is undefined in more than half of the
        draws, or where there are fewer than two stretches.
    """
    if stretches < 2:
        return dict.fromkeys(measure(np.ones(stretches)), None)
    random = np.random.default_rng(seed)
    drawn: dict[str, list[float]] = {}
    for _ in range(resamples):
        weights = np.bincount(random.integers(stretches, size=stretches), minlength=stretches).astype(np.float64)
        for name, value in measure(weights).items():
            drawn.setdefault(name, []).extend([] if value is None else [value])
    return {name: [float(q) for q in np.percentile(values, (2.5, 97.5))] if 2 * len(values) > resamples else None
            for name, values in drawn.items()}


class SequenceCounter:
    """Numbers the sequences and the stretches of time of a stream of frames.

    A sequence ends where stamps go backwards (a looped or joined recording). Stretches
    are STRETCH_S long and begin anew with each sequence.
    """

    def __init__(self, first_stretch: int = 0) -> None:
        self.sequence = -1
        self._stretch = first_stretch - 1
        self._start_ns = self._last_ns = 0

    def __call__(self, stamp_ns: int) -> tuple[int, int]:
        """Number of the sequence, from 0, and of the stretch, from `first_stretch`, of the next frame."""
        if self.sequence < 0 or stamp_ns < self._last_ns:
            self.sequence += 1
            self._stretch, self._start_ns = self._stretch + 1, stamp_ns
        elif stamp_ns - self._start_ns >= STRETCH_S * 1e9:
            passed = int((stamp_ns - self._start_ns) // (STRETCH_S * 1e9))
            self._stretch, self._start_ns = self._stretch + 1, self._start_ns + passed * int(STRETCH_S * 1e9)
        self._last_ns = stamp_ns
        return self.sequence, self._stretch
