"""A nominal drive whose pictures are all the same."""

from __future__ import annotations

import numpy as np
import pytest

from semanom_ros.core.scoring.calibration import SMALLEST_LEVEL, Calibration


@pytest.mark.parametrize('rate', [0.2, 0.001])
def test_alarm_level_of_scores_that_are_all_zero_can_be_divided_by(rate):
    level = Calibration(np.zeros(20, np.float32)).alarm_level(rate).level
    assert level == SMALLEST_LEVEL
