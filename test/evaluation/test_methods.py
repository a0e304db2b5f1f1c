"""How the scores of a filtered result are ranked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from semanom_ros.core.localization.regions_of_map import Region
from semanom_ros.core.results import FrameResult, ScoreMap, Verdict
from semanom_ros.evaluation.detectors import ranked

SCORES = np.array([[0.2, 0.8, 1.7], [0.6, 3.0, 0.1]], np.float32)
RESULT = FrameResult(
    stamp_ns=1, camera='camera', image_size=(2, 3), score=3.0, raw_score=0.4, p_value=0.01, threshold=1.0,
    verdict=Verdict.ANOMALOUS, scores=ScoreMap.of_pixels(SCORES), pixel_threshold=0.5)
REPORTED = np.array([[False, False, False], [True, True, False]])
REGION = Region((0, 1, 2, 1), np.ones((1, 2), bool), 2, (1, 1))


def test_what_is_reported_ranks_above_all_else_and_each_part_keeps_its_order():
    pixels = ranked(replace(RESULT, regions=(REGION,)), True, 1.0).pixel_scores
    assert pixels[REPORTED].min() > pixels[~REPORTED].max()
    assert pixels[1, 1] > pixels[1, 0]
    np.testing.assert_allclose(pixels[~REPORTED], [0.2, 0.8, 1.0, 0.1])  # the alarm that was taken back: at its level


def test_a_frame_whose_alarm_was_taken_back_ranks_at_the_threshold():
    silent = replace(RESULT, verdict=Verdict.NOMINAL)
    assert ranked(silent, True, 1.0).score == 1.0
    assert ranked(silent, False, 1.0).score == 3.0
    np.testing.assert_array_equal(ranked(silent, False, 1.0).pixel_scores, SCORES)
    assert ranked(silent, True, 1.0).pixel_scores.max() == 1.0
