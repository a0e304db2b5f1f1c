"""The table of operating points."""

from __future__ import annotations

import numpy as np
import pytest

from semanom_ros.core.scoring.calibration import Calibration
from tools.operating_points import Scored, line

SECOND = 10**9


def drive(nominal, anomalous):
    """Nominal scores, then an anomaly of two frames for each score, five seconds between anomalies."""
    stamps = [number * SECOND // 10 for number in range(len(nominal))]
    for _ in anomalous:
        begin = stamps[-1] + 5 * SECOND
        stamps += [begin, begin + SECOND // 10]
    scores = [*nominal, *(score for one in anomalous for score in (0.0, one))]
    return Scored(np.array(stamps), np.arange(len(stamps)) >= len(nominal), np.array(scores))


@pytest.mark.parametrize(('stills', 'anomalies'), [(False, 4), (True, 8)])
def test_a_row_counts_what_is_noticed_at_either_level(stills, anomalies):
    """The asked level is 9.6 (of a hundred frames from 0.1 to 10), the drive's own 4.75."""
    calibration = Calibration(np.arange(1, 101, dtype=np.float32) / 10)
    scored = [drive(np.arange(1, 101) / 20, [4.0, 5.0, 9.0, 9.7])] * 2
    text = line(scored, calibration, 0.05, stills)
    assert text.split(' | ') == ['5 %', '0.0 % [0.0, 1.8] of 200', f'2 of {2 * anomalies}', '6', '0.33']


def test_a_rate_that_is_not_supported_says_for_which_one_the_level_is():
    calibration = Calibration(np.arange(1, 11, dtype=np.float32))
    assert line([drive([0.0, 1.0], [9.0])], calibration, 0.001, False).startswith('0.1 % (level for 2.5 %) | ')
