"""The filter on made-up maps and moving pictures."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from semanom_ros.core.frames import Frame, Segments
from semanom_ros.core.localization.evidence import LOOK_S, Surprise
from semanom_ros.core.localization.filtering import TemporalFilter, objection
from semanom_ros.core.localization.regions_of_map import coarse_regions, regions
from semanom_ros.core.localization.tracking import Tracker, iou
from semanom_ros.settings import FilterSettings

HEIGHT, WIDTH, TENTH = 120, 160, 100_000_000
STRONG, WEAK = 5.0, 0.5  # decades of a look
IN_TENTH = TENTH / (LOOK_S * 1e9)  # looks


def odds(looks: float) -> float:
    """What so many weak looks pay."""
    return 10 ** (WEAK * looks)


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


def follow(temporal, boxes_of, steps, image_of=lambda step: STILL, start=0, surprise=WEAK, interval=TENTH, **given):
    """What the temporal filter reports at each step, as lists of (track id, box)."""
    reported = []
    for step in range(steps):
        boxes = [region.box for region in regions(hot(*boxes_of(step)), 1.0, 1.0)]
        frame = Frame(image_of(step), start + step * interval)
        tracks = temporal.update(frame, boxes, [surprise] * len(boxes), settings(**given))
        reported.append([(track.track_id, box) for track, box in zip(tracks, boxes, strict=True) if track.confirmed])
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


def test_strong_evidence_is_reported_at_once_and_weak_evidence_adds_up():
    box = (50, 50, 20, 20)
    assert follow(TemporalFilter(), lambda step: [box], 2, surprise=STRONG) == [[(1, box)]] * 2
    weak = follow(TemporalFilter(), lambda step: [box], 12, evidence=odds(1 + 5 * IN_TENTH))
    assert weak == [[]] * 5 + [[(1, box)]] * 7


def test_what_was_followed_below_the_alarm_level_is_reported_as_soon_as_it_is_above():
    """A second below: its history is evidence, without which the same look would not be enough."""
    def first_look(before):
        temporal = TemporalFilter()
        follow(temporal, lambda step: [(50, 50, 20, 20)], before, surprise=0.2,
               evidence=odds(1.5))
        return follow(temporal, lambda step: [(50, 50, 20, 20)], 1, start=before * TENTH, evidence=odds(1.5))[0]

    assert first_look(10)
    assert not first_look(0)


def test_flicker_is_suppressed():
    """Another place every time; and one place, but seldom."""
    jumping = follow(TemporalFilter(), lambda step: [(step * 37 % 130, step * 53 % 90, 15, 15)], 20, evidence=odds(1.5))
    assert jumping == [[]] * 20
    seldom = follow(TemporalFilter(), lambda step: [(50, 50, 20, 20)] if step % 15 == 0 else [], 60, evidence=odds(1.5))
    assert seldom == [[]] * 60


def test_evidence_leaks_away_while_nothing_is_seen():
    def again(pause):
        temporal = TemporalFilter()
        follow(temporal, lambda step: [(50, 50, 20, 20)], 8, evidence=odds(2))
        follow(temporal, lambda step: [], pause, start=8 * TENTH, evidence=odds(2))
        return follow(temporal, lambda step: [(50, 50, 20, 20)], 1, start=(8 + pause) * TENTH, evidence=odds(2))[0]

    assert again(2) == [(1, (50, 50, 20, 20))]
    assert again(60) == []


def test_a_confirmed_track_stays_so_while_it_is_seen():
    """Though each look of its own would not confirm it."""
    temporal = TemporalFilter()
    assert follow(temporal, lambda step: [(50, 50, 20, 20)], 1, surprise=STRONG)[0]
    assert all(follow(temporal, lambda step: [(50, 50, 20, 20)], 40, start=TENTH, surprise=0.0))


@pytest.mark.parametrize('surprise', [0.25, 0.5, 0.8])
def test_it_takes_about_as_long_at_every_frame_rate(surprise):
    """Seconds from the first look until it is reported."""
    def seconds(rate):
        interval = 10**9 // rate
        reported = follow(TemporalFilter(), lambda step: [(50, 50, 20, 20)], 5 * rate, surprise=surprise,
                          interval=interval, evidence=10.0)
        return [bool(kept) for kept in reported].index(True) / rate

    times = {rate: seconds(rate) for rate in (2, 5, 15, 30)}
    assert max(times.values()) - min(times.values()) <= 0.5, times  # one interval of the slowest
    assert abs(times[30] - times[5]) <= 0.2
    assert times[30] > 0


@pytest.mark.parametrize('interval', [1.0, 2.0, 10.0])
def test_long_intervals_are_no_pauses(interval):
    """One frame in so many seconds: strong evidence is reported in the first, weaker in the second or third."""
    def looks(surprise):
        reported = follow(TemporalFilter(), lambda step: [(20 + 4 * step, 50, 20, 20)], 4, surprise=surprise,
                          interval=round(interval * 1e9), evidence=10.0)
        return [bool(kept) for kept in reported].index(True) + 1

    assert looks(STRONG) == 1
    assert looks(0.6) == 2
    assert looks(0.4) == 3


@pytest.mark.parametrize('stamps', [[7.0] * 9, [0.0] * 9, [1.0, 1.1, 0.9, 1.2, 1.3, 1.25, 1.4, 1.5, 1.6]])
def test_bad_stamps_do_not_silence_it(stamps):
    """Standing, zero, and out of order; frames come at 10 Hz."""
    def update(temporal, step, stamp):
        frame = Frame(STILL, round(stamp * 1e9), received_ns=(step + 1) * TENTH)
        needed = settings(evidence=odds(1 + 3 * IN_TENTH))
        return temporal.update(frame, [(50, 50, 20, 20)], [WEAK], needed)[0].confirmed

    good, bad = TemporalFilter(), TemporalFilter()
    expected = [update(good, step, 1 + 0.1 * step) for step in range(9)]
    assert [update(bad, step, stamp) for step, stamp in enumerate(stamps)] == expected
    assert expected == [False] * 3 + [True] * 6


def test_a_short_gap_does_not_break_a_track():
    reported = follow(TemporalFilter(), lambda step: [] if step in (3, 6) else [(50, 50, 20, 20)], 9,
                      evidence=odds(1 + 2 * IN_TENTH))
    assert {number for kept in reported for number, _ in kept} == {1}
    assert reported[7]


def test_ids_stay_with_their_things():
    """Two things that come close and part; a third that comes later has a number of its own."""
    def boxes(step):
        both = [(10 + 5 * step, 30, 18, 18), (130 - 5 * step, 60, 18, 18)]
        return [*both, (70, 95, 18, 18)] if step >= 10 else both

    reported = follow(TemporalFilter(), boxes, 20, evidence=odds(1 + 2 * IN_TENTH))
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

    reported = follow(TemporalFilter(), boxes, 9, image, evidence=odds(1 + 3 * IN_TENTH))
    assert [bool(kept) for kept in reported] == [False] * 3 + [True] * 6
    assert {number for kept in reported for number, _ in kept} == {1}
    # without the picture's motion there is no overlap
    assert follow(TemporalFilter(), boxes, 9, evidence=odds(1 + 3 * IN_TENTH)) == [[]] * 9


def test_tracks_grow_with_what_comes_nearer():
    tracker = Tracker()
    far = texture(5, (HEIGHT, WIDTH))
    matrix = cv2.getRotationMatrix2D((WIDTH / 2, HEIGHT / 2), 0, 1.08)
    near = cv2.warpAffine(far, matrix, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REFLECT)
    box = np.array([[WIDTH / 2 - 30, HEIGHT / 2 - 30, 60, 60]], np.float32)
    tracker.update(far, None, box)
    tracker.update(near, TENTH, np.zeros((0, 4), np.float32))
    grown = np.array([[WIDTH / 2 - 32.4, HEIGHT / 2 - 32.4, 64.8, 64.8]], np.float32)
    predicted = tracker.tracks[0].box[None]
    assert iou(predicted, grown)[0, 0] > iou(box, grown)[0, 0]


def test_a_looped_recording_starts_anew():
    temporal, needed = TemporalFilter(), odds(1 + 3 * IN_TENTH)
    first = follow(temporal, lambda step: [(50, 50, 20, 20)], 5, start=10**10, evidence=needed)
    again = follow(temporal, lambda step: [(50, 50, 20, 20)], 5, start=10**9, evidence=needed)
    assert [bool(kept) for kept in again] == [bool(kept) for kept in first] == [False] * 3 + [True] * 2
    assert first[-1][0][0] != again[-1][0][0]


def test_a_pause_starts_anew():
    temporal, needed = TemporalFilter(), odds(1 + 3 * IN_TENTH)
    assert follow(temporal, lambda step: [(50, 50, 20, 20)], 5, evidence=needed)[-1]
    assert not follow(temporal, lambda step: [(50, 50, 20, 20)], 1, start=10 * 10**9, evidence=needed)[0]


def test_another_picture_size_in_mid_stream_is_no_failure():
    temporal = TemporalFilter()
    follow(temporal, lambda step: [(50, 50, 20, 20)], 3)
    large = cv2.resize(STILL, (WIDTH * 2, HEIGHT * 3))
    reported = follow(temporal, lambda step: [(50, 50, 20, 20)], 3, lambda step: large, start=3 * TENTH)
    assert len(reported) == 3


def test_followed_regions_are_found_on_a_smaller_map():
    large = hot((400, 240, 80, 60), size=(480, 1280))
    asked = []

    def map_at(size):
        asked.append(size)
        return cv2.resize(large, size[::-1], interpolation=cv2.INTER_AREA)

    (box, height), = coarse_regions(map_at, (480, 1280), 0.5)
    assert asked == [(120, 320)]
    assert np.abs(np.array(box) - [400, 240, 80, 60]).max() <= 8
    assert height == 2


def test_a_look_pays_by_its_p_value():
    surprise = Surprise(lambda score: 10 ** -score, level=2.0, rate=0.01)
    pays = [10 ** surprise(score) for score in (0.0, 0.5, 1.0, 2.0)]
    assert pays == pytest.approx([0.5, 0.5 * 10 ** 0.5, 5, 50])
    assert np.isfinite(Surprise(lambda score: 0.0 if score > 1 else 0.1, 1.0, 0.01)(2.0)), 'beyond the end of a tail'
    uniform = np.random.default_rng(0).uniform(size=100_000)
    chance = [10 ** Surprise(lambda score: score, 1.0, 1.0)(p) for p in uniform.tolist()]
    assert np.mean(chance) == pytest.approx(1, abs=0.05), 'by chance nobody wins'


def test_what_is_above_the_level_is_surprising_however_few_nominal_frames_are_known():
    surprise = Surprise(lambda score: 0.5, level=1.0, rate=0.01)
    assert 10 ** surprise(1.1) == pytest.approx(5)
    assert 10 ** surprise(0.9) == pytest.approx(0.5 * 2 ** 0.5)
