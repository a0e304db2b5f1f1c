"""What filters cost and spare."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from semanom_ros.core.frames import Frame
from semanom_ros.core.localization.regions_of_map import Region
from semanom_ros.evaluation.sequences import Timelines, timeline
from tools.compare_filters import Persistence, line

STEP_NS = 100_000_000
TRUTH = np.array(100 * [0] + 10 * [1] + 100 * [0] + 10 * [1], np.int8)


def alarms(*frames: int) -> npt.NDArray[np.bool_]:
    return np.isin(np.arange(len(TRUTH)), frames)


def times(which: npt.NDArray[np.bool_]) -> Timelines:
    stamps = np.arange(len(TRUTH), dtype=np.int64) * STEP_NS
    return Timelines([timeline(stamps, which, TRUTH, np.zeros(len(TRUTH), np.bool_))])


def test_a_row_holds_what_each_filter_notices_how_much_later_and_its_false_alarms() -> None:
    """Twenty seconds of nominal driving with two anomalies, of which the filters notice one, 0.2 and 0.5 s later."""
    text = line(0.05, {'none': times(alarms(20, 102, 212)), 'persistence': times(alarms(104)),
                       'evidence': times(alarms(107))})
    assert text == '| 0.05 | 2 | 2 |  | 3.00 | 1 | 0.20 | 0.00 | 1 | 0.50 | 0.00 |'


def test_persistence_is_three_tenths_of_a_second_in_half_of_the_pictures() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    region = Region((40, 30, 20, 20), np.ones((20, 20), np.bool_), 400, (50, 40))

    def said(seen: list[bool]) -> list[bool]:
        rule = Persistence()
        return [rule.update(Frame(picture, (1 + number) * STEP_NS), (region,) if there else ())
                for number, there in enumerate(seen)]

    assert said(5 * [True]) == [False, False, False, True, True]
    assert not any(said(2 * [True] + 8 * [False]))
    assert said(8 * [True, False])[-2:] == [True, False], 'nothing is said of a frame that shows nothing'
