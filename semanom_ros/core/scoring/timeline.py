"""Alarms as a person hears them: neighbouring frames of a drive are nearly the same picture."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

JOIN_S = 2.0
"""Alarmed (or truly anomalous) frames at most this many seconds apart belong to one alarm (or event)."""


def runs(stamps_ns: npt.NDArray[np.int64], flags: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """(first, last) index of each run of flagged frames; frames at most JOIN_S apart are one run."""
    flagged = np.flatnonzero(flags)
    if not len(flagged):
        return []
    breaks = np.flatnonzero(np.diff(stamps_ns[flagged]) > JOIN_S * 1e9)
    return [(int(first), int(last)) for first, last in
            zip(flagged[np.r_[0, breaks + 1]], flagged[np.r_[breaks, len(flagged) - 1]], strict=True)]


def durations_s(stamps_ns: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """(N,) seconds that each frame stands for: until the next one, at most three times the median interval.

    The cap leaves out pauses in a recording. A single frame stands for no time.
    """
    if len(stamps_ns) < 2:
        return np.zeros(len(stamps_ns))
    intervals = np.diff(stamps_ns) / 1e9
    median = float(np.median(intervals))
    return np.append(np.minimum(intervals, 3 * median), median)
