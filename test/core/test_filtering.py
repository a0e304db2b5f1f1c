"""The filter on made-up maps and moving pictures."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from semanom_ros.core.frames import Segments
from semanom_ros.core.localization.filtering import TemporalFilter, objection
from semanom_ros.core.localization.regions_of_map import regions
from semanom_ros.core.localization.tracking import Tracker, iou
from semanom_ros.settings import FilterSettings

HEIGHT, WIDTH, TENTH = 120, 160, 100_000_000


def settings(**given):
    return FilterSettings(**{'min_area': 0.0, **given})


def hot(*boxes, size=(HEIGHT, WIDTH)):
    """A map that is 2 in the boxes (x, y, w, h), else 0."""
    result = np.zeros(size, np.float32)
    for x, y, w, h in boxes:
        result[max(0, y):y + h, max(0, x):x + w] = 2
    return result


def texture(seed=0, size=(HEIGHT * 2, WIDTH * 2)):
    noise = np.random.default_rng(seed).integers(0, 255, (*size, 3)).astype(np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 4)


STILL = cv2.normalize(texture(size=(HEIGHT, WIDTH)), None, 0, 255, cv2.NORM_MINMAX)


def follow(temporal, boxes_of, steps, image_of=lambda step: STILL, start=0, **given):
    """What the temporal filter reports at each step, as lists of (track id, box)."""
    reported = []
    for step in range(steps):
        found = regions(hot(*boxes_of(step)), 1.0, 1.0)
        kept = temporal.update(image_of(step), start + step * TENTH, found, settings(**given))
        reported.append([(track.track_id, region.box) for region, track in kept])
    return reported


def test_regions_are_connected_parts_above_the_threshold():
    anomaly_map = hot((10, 20, 30, 10), (100, 50, 8, 8))
    anomaly_map[25, 33] = 5
    found = sorted(regions(anomaly_map, 1.0, 1.0), key=lambda region: region.box)
    assert [region.box for region in found] == [(10, 20, 30, 10), (100, 50, 8, 8)]
    assert [region.area for region in found] == [300, 64]
    assert found[0].peak == (33, 25)
    assert found[0].contour().min(axis=0).tolist() == [10, 20]
    assert found[0].contour().max(axis=0).tolist() == [39, 29]
    assert regions(anomaly_map, 6.0, 6.0) == []


def test_a_region_reaches_beyond_its_core_but_not_without_one():
    anomaly_map = hot((20, 20, 6, 6), (100, 20, 6, 6)) / 2.5  # 0.8: no core
    anomaly_map[16:30, 10:40] = np.maximum(anomaly_map[16:30, 10:40], 0.6)
    anomaly_map[22, 24] = 1.2
    assert [region.box for region in regions(anomaly_map, 1.0, 0.5)] == [(10, 16, 30, 14)]
    assert [region.box for region in regions(anomaly_map, 1.0, 0.7)] == [(20, 20, 6, 6)]
    assert [region.box for region in regions(anomaly_map, 1.0, 1.0)] == [(24, 22, 1, 1)]


@pytest.mark.parametrize(('given', 'kept'), [
    ({}, [0, 1, 2]), ({'min_area': 0.01}, [1]), ({'border': 0.1}, [0, 1]),
    ({'min_area': 0.01, 'border': 0.1, 'spatial': False}, [0, 1, 2])])
def test_small_and_border_regions_are_dropped(given, kept):
    anomaly_map = hot((20, 20, 6, 6), (60, 50, 20, 20), (152, 40, 6, 6))
    found = sorted(regions(anomaly_map, 1.0, 1.0), key=lambda region: region.box)
    assert [i for i, region in enumerate(found)
            if not objection(settings(**given), region, (HEIGHT, WIDTH), None)] == kept


def test_a_region_must_fill_its_segment():
    labels = np.zeros((HEIGHT, WIDTH), np.int32)
    labels[40:80, 40:80] = 1
    segments = Segments(labels, np.ones(1, np.float32), ('',))
    boxes = (50, 50, 8, 8), (42, 42, 36, 36), (100, 100, 8, 8)
    speck, most, outside = (regions(hot(box), 1.0, 1.0)[0] for box in boxes)
    strict = settings(agreement=0.5)
    half = Segments(labels[::2, ::2], segments.scores, segments.names)  # as found at a working resolution
    for known in (segments, half):
        assert [objection(strict, r, (HEIGHT, WIDTH), known) for r in (speck, most, outside)] == ['DISAGREES', '', '']
    assert not objection(strict, speck, (HEIGHT, WIDTH), None)


def test_what_persists_is_reported_after_its_time():
    reported = follow(TemporalFilter(), lambda step: [(50, 50, 20, 20)], 6)
    assert reported == [[], [], []] + [[(1, (50, 50, 20, 20))]] * 3


def test_flicker_is_suppressed():
    """Another place every time; and one place, but seldom."""
    jumping = follow(TemporalFilter(), lambda step: [(step * 37 % 130, step * 53 % 90, 15, 15)], 20)
    assert jumping == [[]] * 20
    seldom = follow(TemporalFilter(), lambda step: [(50, 50, 20, 20)] if step % 5 == 0 else [], 30, persistence=0.8)
    assert seldom == [[]] * 30


def test_a_short_gap_does_not_break_a_track():
    reported = follow(TemporalFilter(), lambda step: [] if step in (3, 6) else [(50, 50, 20, 20)], 9)
    assert {number for kept in reported for number, _ in kept} == {1}
    assert reported[7]


def test_ids_stay_with_their_things():
    """Two things that come close and part; a third that comes later has a number of its own."""
    def boxes(step):
        both = [(10 + 5 * step, 30, 18, 18), (130 - 5 * step, 60, 18, 18)]
        return [*both, (70, 95, 18, 18)] if step >= 10 else both

    reported = follow(TemporalFilter(), boxes, 20, persistence=0.2)
    ids = {box[1]: {number for kept in reported for number, b in kept if b[1] == box[1]} for box in boxes(10)}
    assert all(len(numbers) == 1 for numbers in ids.values())
    assert len(set.union(*ids.values())) == 3


def test_tracks_follow_a_panning_camera():
    """The thing leaps by more than its own width from picture to picture, with the picture."""
    world = texture(3, (HEIGHT, WIDTH * 3))
    step_width = 13

    def image(step):
        return np.ascontiguousarray(world[:, step * step_width:step * step_width + WIDTH])

    def boxes(step):
        return [(130 - step * step_width, 50, 12, 12)]

    reported = follow(TemporalFilter(), boxes, 9, image)
    assert [bool(kept) for kept in reported] == [False] * 3 + [True] * 6
    assert {number for kept in reported for number, _ in kept} == {1}
    assert follow(TemporalFilter(), boxes, 9) == [[]] * 9  # without the picture's motion there is no overlap


def test_tracks_grow_with_what_comes_nearer():
    tracker = Tracker(memory_ns=0)
    far = texture(5, (HEIGHT, WIDTH))
    matrix = cv2.getRotationMatrix2D((WIDTH / 2, HEIGHT / 2), 0, 1.08)
    near = cv2.warpAffine(far, matrix, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REFLECT)
    box = np.array([[WIDTH / 2 - 30, HEIGHT / 2 - 30, 60, 60]], np.float32)
    tracker.update(far, 0, box)
    tracker.update(near, TENTH, np.zeros((0, 4), np.float32))
    grown = np.array([[WIDTH / 2 - 32.4, HEIGHT / 2 - 32.4, 64.8, 64.8]], np.float32)
    predicted = tracker._tracks[0].box[None]
    assert iou(predicted, grown)[0, 0] > iou(box, grown)[0, 0]


def test_a_looped_recording_starts_anew():
    temporal = TemporalFilter()
    first = follow(temporal, lambda step: [(50, 50, 20, 20)], 5, start=10**10)
    again = follow(temporal, lambda step: [(50, 50, 20, 20)], 5, start=10**10)
    assert [bool(kept) for kept in again] == [bool(kept) for kept in first] == [False] * 3 + [True] * 2
    assert first[-1][0][0] != again[-1][0][0]


def test_a_pause_starts_anew():
    temporal = TemporalFilter()
    follow(temporal, lambda step: [(50, 50, 20, 20)], 5)
    assert not follow(temporal, lambda step: [(50, 50, 20, 20)], 1, start=10 * 10**9)[0]


def test_another_picture_size_in_mid_stream_is_no_failure():
    temporal = TemporalFilter()
    follow(temporal, lambda step: [(50, 50, 20, 20)], 3)
    large = cv2.resize(STILL, (WIDTH * 2, HEIGHT * 3))
    reported = follow(temporal, lambda step: [(50, 50, 20, 20)], 3, lambda step: large, start=3 * TENTH)
    assert len(reported) == 3
