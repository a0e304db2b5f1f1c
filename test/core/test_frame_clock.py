"""Time between frames, from stamps that are good and from stamps that are not."""

from __future__ import annotations

import pytest

from semanom_ros.core.localization.frame_clock import FrameClock

SECOND = 10**9


def elapsed(stamps, received=None):
    """Seconds that the clock tells for each frame, from stamps and reception in seconds; None: does not follow."""
    clock, found = FrameClock(), []
    for number, stamp in enumerate(stamps):
        came = round(received[number] * SECOND) if received else 0
        passed = clock.advance(round(stamp * SECOND), came)
        found.append(None if passed is None else round(passed / SECOND, 6))
    return found


@pytest.mark.parametrize('interval', [0.066, 0.1, 1.0, 2.5, 10.0])
def test_good_stamps_tell_the_time_at_any_rate(interval):
    found = elapsed([100 + interval * i for i in range(6)])
    assert found == [None, *[interval] * 5]


@pytest.mark.parametrize('stamp', [7.0, 0.0, -1.0])
def test_stamps_that_say_nothing_are_replaced_by_reception(stamp):
    assert elapsed([stamp] * 5, [50, 50.2, 50.3, 50.7, 51]) == [None, 0.2, 0.1, 0.4, 0.3]


def test_standing_stamps_without_reception_count_as_the_usual_interval():
    assert elapsed([1.0, 1.25, 1.5, 1.5, 1.5]) == [None, 0.25, 0.25, 0.25, 0.25]
    assert elapsed([1.0, 1.0, 1.0]) == [None, 0.1, 0.1]


def test_one_frame_out_of_order_costs_nothing():
    stamps, received = [1.0, 1.1, 0.9, 1.2, 1.3], [5.0, 5.1, 5.2, 5.3, 5.4]
    found = elapsed(stamps, received)
    assert found == [None, 0.1, 0.1, 0.1, 0.1]


def test_a_stamp_that_is_missing_once_costs_nothing():
    found = elapsed([1.0, 1.1, 0.0, 1.3], [5.0, 5.1, 5.2, 5.3])
    assert found == [None, 0.1, 0.1, 0.2]


def test_simulated_time_begins_with_zero():
    assert elapsed([0.0, 0.5, 1.0]) == [None, 0.5, 0.5]


def test_a_loop_starts_anew():
    found = elapsed([100.0, 100.1, 100.2, 10.0, 10.1])
    assert found == [None, 0.1, 0.1, None, 0.1]


def test_a_pause_is_what_is_long_for_this_camera():
    assert elapsed([0.1, 0.2, 0.3, 5.3, 5.4]) == [None, 0.1, 0.1, None, 0.1]
    assert elapsed([1, 2, 3, 5.5, 6.5]) == [None, 1, 1, 2.5, 1]
    assert elapsed([10, 20, 30, 50, 60]) == [None, 10, 10, 20, 10]
    assert elapsed([10, 20, 30, 70]) == [None, 10, 10, None]


def test_a_camera_that_becomes_slow_is_followed_again():
    """A few gaps, then that is its interval."""
    found = elapsed([0.1 * i for i in range(1, 6)] + [0.5 + 5.0 * i for i in range(1, 7)])
    assert found[5:] == [None, None, None, 5.0, 5.0, 5.0]
