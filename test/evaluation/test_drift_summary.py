"""What is said of a recording's drift."""

from __future__ import annotations

import numpy as np
import pytest

from semanom_ros.core.drift.drift_monitor import DriftState
from semanom_ros.evaluation.drift_summary import drift_sentence, drift_summary
from semanom_ros.evaluation.measurement import FRAME_TYPE

SECOND = 1_000_000_000


def frames(states: list[DriftState]) -> np.ndarray:
    """Nominal frames, a second apart; every other one alarms; a drift began two seconds before it is said."""
    rows = np.zeros(len(states), FRAME_TYPE)
    rows['stamp_ns'] = (100 + np.arange(len(states))) * SECOND
    rows['drift'] = states
    rows['alarm'] = np.arange(len(states)) % 2 == 0
    drifting = rows['drift'] == DriftState.DRIFTING
    rows['drift_since_ns'][drifting] = rows['stamp_ns'][drifting.argmax()] - 2 * SECOND
    rows['drift_what'][drifting] = 'whole picture, shifted right'
    rows['drift_strength'] = np.where(drifting, 3.5, -1)
    return rows


def test_a_drift_is_dated_and_alarms_without_the_word_are_counted():
    states = [DriftState.UNKNOWN] * 2 + [DriftState.LIKE_NOMINAL] * 4 + [DriftState.DRIFTING] * 4
    summary = drift_summary(frames(states))
    assert summary == {
        'state': 'drifting', 'drifting': pytest.approx(0.4), 'unknown': pytest.approx(0.2), 'said_after_s': 6.0,
        'since_s': 4.0, 'what': 'whole picture, shifted right', 'strength': 3.5, 'alarms_unsaid': pytest.approx(0.3)}
    assert 'from 4.0 s on, said at 6.0 s (whole picture, shifted right' in drift_sentence(summary)


def test_a_nominal_drive_and_one_without_reference_say_so():
    nominal = drift_summary(frames([DriftState.UNKNOWN] * 2 + [DriftState.LIKE_NOMINAL] * 8))
    assert (nominal['said_after_s'], nominal['since_s'], nominal['what']) == (None, None, None)
    assert drift_sentence(nominal).startswith('like the nominal drives')
    assert 'not compared' in drift_sentence(drift_summary(frames([DriftState.UNKNOWN] * 3)))
