"""What the drift monitor said of each recording."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from semanom_ros.core.drift.drift_monitor import DriftState


def drift_summary(frames: npt.NDArray) -> dict[str, Any]:
    """Figures of one recording.

    Args:
        frames: (N,) of FRAME_TYPE, in order, at least one.

    Returns:
        `state` at the end; `drifting` and `unknown`: shares of the frames; `said_after_s`: from the first frame until
        drifting was said first, `since_s`: when it had begun, as far as that could be told then, and `what` was, all
        None when it was never said; `strength`: the largest; `alarms_unsaid`: share of the frames without an anomaly
        (of all where that is not known) that alarmed while drifting was not said.
    """
    seconds = (frames['stamp_ns'] - frames['stamp_ns'][0]) / 1e9
    drifting = frames['drift'] == DriftState.DRIFTING
    first = int(drifting.argmax()) if drifting.any() else None
    nominal = frames['truth'] != 1
    return {
        'state': DriftState(int(frames['drift'][-1])).name.lower(), 'drifting': float(drifting.mean()),
        'unknown': float((frames['drift'] == DriftState.UNKNOWN).mean()),
        'said_after_s': None if first is None else float(seconds[first]),
        'since_s': None if first is None else float(frames['drift_since_ns'][first] - frames['stamp_ns'][0]) / 1e9,
        'what': None if first is None else str(frames['drift_what'][first]),
        'strength': float(frames['drift_strength'].max()),
        'alarms_unsaid': float((frames['alarm'] & ~drifting)[nominal].mean()) if nominal.any() else None}


def drift_sentence(summary: dict[str, Any]) -> str:
    """The same in a sentence."""
    if summary['said_after_s'] is None:
        return ('not compared with the nominal drives' if summary['unknown'] == 1 else
                f'like the nominal drives (evidence against that at most 10^{summary["strength"]:.1f})')
    return (f'unlike the nominal drives from {summary["since_s"]:.1f} s on, said at {summary["said_after_s"]:.1f} s '
            f'({summary["what"]}, evidence up to 10^{summary["strength"]:.1f}), for {summary["drifting"]:.0%} of the '
            'frames: p-values and the asked false-alarm rate do not hold there')
