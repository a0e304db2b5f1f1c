"""Thresholds and p-values hold on nominal data."""

from __future__ import annotations

import numpy as np
import pytest

from semanom_ros.core.curation import operations
from semanom_ros.core.curation.publishing import Recipe
from semanom_ros.core.database.nominal_database import NominalDatabase
from semanom_ros.core.frames import Frame
from semanom_ros.core.pipeline import CameraState
from semanom_ros.core.scoring.calibration import Calibration, calibrate, frame_statistic
from semanom_ros.core.scoring.regions import STRETCH_SECONDS, RegionStatistics


@pytest.mark.parametrize('rate', [0.02, 0.05, 0.1, 0.3])
def test_p_values_and_thresholds_keep_the_asked_rate(rate):
    """Over many calibrations of exchangeable scores, the share below the rate is at most it plus sampling error."""
    rng = np.random.default_rng(0)
    below = alarms = 0
    runs, unseen = 300, 20
    for _ in range(runs):
        scores = rng.gamma(2, 1, 99 + unseen).astype(np.float32)
        calibration = Calibration(np.sort(scores[:99]))
        alarm = calibration.alarm_level(rate)
        assert (alarm.rate, alarm.doubt) == (rate, '')
        below += sum(calibration.p_value(float(score)) <= rate for score in scores[99:])
        alarms += (scores[99:] > alarm.level).sum()
    error = 3 * (rate * (1 - rate) * (1 / 99 + 1 / unseen) / runs) ** 0.5
    assert below / (runs * unseen) == pytest.approx(rate, abs=error)  # valid, and not wasteful either
    assert alarms / (runs * unseen) <= rate + error


def test_alarms_and_p_values_agree():
    calibration = Calibration(np.arange(1, 100, dtype=np.float32))
    level = calibration.alarm_level(0.05).level
    for score in np.arange(90, 102, 0.5):
        assert (score > level) == (calibration.p_value(float(score)) <= 0.05)
    assert calibration.p_value(1000.0) == pytest.approx(0.01)
    assert calibration.p_value(0.0) == 1
    assert calibration.p_value(50.0) == pytest.approx(51 / 100)  # ties count as at least as high


@pytest.mark.parametrize('frames', [20, 60, 222])
def test_rates_beyond_what_the_frames_carry_come_from_their_tail(frames):
    """Over many drives the asked rate is what comes out, also where less than one frame of the drive lies above."""
    rng = np.random.default_rng(0)
    levels = [Calibration(np.sort(rng.exponential(1, frames).astype(np.float32))).alarm_level(0.02).level
              for _ in range(300)]
    assert np.median(np.exp(-np.array(levels))) == pytest.approx(0.02, rel=0.25)


def test_a_rate_below_what_the_frames_support_gives_the_lowest_that_they_do():
    calibration = Calibration(np.sort(np.random.default_rng(0).exponential(1, 60).astype(np.float32)))
    lowest = calibration.lowest_rate
    assert lowest == pytest.approx(1 / 240)
    least, beyond = calibration.alarm_level(lowest), calibration.alarm_level(0.001)
    assert (least.rate, least.doubt) == (lowest, '')
    assert (beyond.level, beyond.rate) == (least.level, lowest)
    assert '60 nominal frames' in beyond.doubt
    assert 'record 250 frames' in beyond.doubt
    assert '\n' not in beyond.doubt
    assert Calibration(np.ones(3, np.float32)).alarm_level(0.01).level >= 1


@pytest.mark.parametrize('rate', [0.005, 0.01, 0.02, 0.05])
@pytest.mark.parametrize('frames', [40, 100, 222])
def test_one_unusual_nominal_frame_does_not_decide(rate, frames):
    scores = np.sort(np.random.default_rng(1).exponential(1, frames).astype(np.float32))
    usual = Calibration(scores).alarm_level(max(rate, 1 / (4 * frames))).level
    unusual = Calibration(np.append(scores[:-1], np.float32(1000))).alarm_level(max(rate, 1 / (4 * frames))).level
    assert unusual == pytest.approx(usual, rel=1e-6)
    assert scores[frames // 2] < usual < 3 * scores[-1]


def test_the_interval_of_a_level_narrows_with_the_drive():
    def width(frames):
        scores = np.random.default_rng(2).exponential(1, frames).astype(np.float32)
        arrays = {'frame_scores': scores, 'frame_stamps': np.arange(frames) * 1_000_000_000,
                  'frame_streams': np.zeros(frames, np.int32)}
        calibration = Calibration.from_arrays(arrays)
        low, high = calibration.level_interval(0.02)
        assert low <= calibration.alarm_level(0.02).level <= high
        return high - low

    assert width(2000) < 0.6 * width(200)


def test_alarms_per_minute_count_runs_of_frames():
    """A hundred minutes at 1 Hz with sixty bursts of different heights and lengths, in two recordings."""
    scores = np.full(6000, 0.1, np.float32)
    for number in range(60):
        scores[100 * number + 20:100 * number + 25 + number] = 1 + number
    stamps = np.arange(6000, dtype=np.int64) * 1_000_000_000
    arrays = {'frame_scores': scores, 'frame_stamps': stamps, 'frame_streams': np.repeat([0, 1], 3000)}
    shuffled = np.random.default_rng(0).permutation(6000)
    calibration = Calibration.from_arrays({name: array[shuffled] for name, array in arrays.items()})
    for asked, level in ((0.1, 50), (0.31, 29), (0.59, 1), (0.61, 0.1)):
        alarm = calibration.alarm_level(0.01, asked)
        assert (alarm.level, alarm.doubt) == (pytest.approx(level), '')
    few, beyond = calibration.alarm_level(0.01, 0.01), calibration.alarm_level(0.01, 0.001)
    assert beyond.level > few.level > 50
    assert few.doubt == ''
    assert '100.0 nominal minutes' in beyond.doubt
    assert 'does not know how long' in Calibration(np.ones(5, np.float32)).alarm_level(0.01, 1.0).doubt


def test_an_empty_calibration_says_so():
    calibration = Calibration.from_arrays({})
    alarm = calibration.alarm_level(0.01)
    assert (alarm.level, alarm.rate) == (1, None)
    assert 'not calibrated' in alarm.doubt
    assert not calibration.calibrated
    assert calibration.p_value(5.0) == 1
    np.testing.assert_array_equal(calibration.relative(np.ones(3, np.float32), np.zeros((3, 2), np.float32)), 1)


def test_distances_are_judged_by_their_place():
    """The left half is always twice as far from the database: what is usual there is not on the right."""
    rng = np.random.default_rng(0)
    positions = rng.random((20_000, 2)).astype(np.float32)
    distances = (np.where(positions[:, 0] < 0.5, 0.4, 0.2) + rng.normal(0, 0.02, 20_000)).astype(np.float32)
    regions = RegionStatistics.gather(distances, positions)
    left, right = regions.relative(np.array([0.4, 0.4], np.float32), np.array([[0.2, 0.5], [0.8, 0.5]], np.float32))
    assert left < 1
    assert right == pytest.approx(10, rel=0.2)
    assert regions.relative(np.array([0.0], np.float32), np.array([[0.2, 0.5]], np.float32))[0] == 0


def test_regions_that_nothing_was_seen_in_are_the_average_place():
    rng = np.random.default_rng(0)
    positions = np.stack([rng.random(5000), rng.uniform(0, 0.3, 5000)], axis=-1).astype(np.float32)
    regions = RegionStatistics.gather(rng.normal(0.3, 0.05, 5000).astype(np.float32), positions)
    assert np.isfinite(regions.mean).all()
    assert regions.mean[-1, 0] == pytest.approx(0.3, abs=0.01)
    constant = RegionStatistics.gather(np.zeros(5000, np.float32), positions)
    assert np.isfinite(constant.relative(np.zeros(5000, np.float32), positions)).all()


def test_the_frame_score_is_the_mean_of_the_highest():
    scores = np.arange(1, 201, dtype=np.float32)
    assert frame_statistic(scores, 0.0) == 200
    assert frame_statistic(scores, 0.01) == pytest.approx(199.5)
    assert frame_statistic(scores, 1.0) == pytest.approx(scores.mean())
    assert frame_statistic(np.zeros(0, np.float32), 0.01) == 0


def test_a_drive_raises_the_asked_share_of_false_alarms(world):
    judge = world.judge(world.settings(filter_temporal=False, filter_spatial=False, false_alarm_rate=0.1), held_out=59)
    state = CameraState()
    p_values = np.array([judge.process(Frame(world.street(10_000 + i), i), state).p_value for i in range(100)])
    for rate in (0.05, 0.1, 0.25, 0.5):  # 59 held-out and 100 unseen frames: three standard errors
        assert (p_values <= rate).mean() <= rate + 3 * (rate * (1 - rate) * (1 / 59 + 1 / 100)) ** 0.5
    assert p_values.min() >= 1 / 60


@pytest.mark.parametrize('by_place', [False, True])
def test_distances_of_an_encoder_that_says_so_are_not_judged_by_their_place(world, by_place):
    world.encoder.wants_calibration_by_place = by_place
    settings = world.settings()
    database = world.database(settings)
    assert ('region_mean' in database.calibration) == by_place
    assert len(database.calibration['frame_scores']) == 40
    # what was learned is of distances by their place, and switches that on
    learned = calibrate(database, settings.search, settings.score, world.model(database))
    assert 'region_mean' in learned


def alike_in_time(world, second):
    """Every two seconds of the drive look alike, and like no others."""
    image = world.street(0)
    image[40:80, 40:120] = np.random.default_rng(second // 2).integers(0, 255, (5, 10, 3)).astype(np.uint8).repeat(
        8, axis=0).repeat(8, axis=1)
    return image


def test_every_recorded_frame_calibrates_without_its_own_stretch_of_time(world):
    """Its neighbours, which look the same, are not what it is compared with."""
    settings = world.settings(calibrate_by_region=False, frame_score_fraction=0.0)
    database = world.database(settings, recorded=60, held_out=0, picture=lambda i: alike_in_time(world, i))
    expected, with_neighbours = [], []
    for index, frame in enumerate(database.frames()):
        without = max(0, index - 2), min(60, index + 3)
        assert database.neighbourhood(frame.record, STRETCH_SECONDS) == without
        expected.append(database.search_excluding(frame.vectors, 1, without, frame.places)[0].max())
        itself = index, index + 1
        with_neighbours.append(database.search_excluding(frame.vectors, 1, itself, frame.places)[0].max())
    np.testing.assert_allclose(database.calibration['frame_scores'], expected, rtol=1e-5)
    assert database.manifest.held_out_frames == 0
    assert max(with_neighbours) < 1e-4 < min(expected)


def test_a_recorded_drive_raises_the_asked_share_of_false_alarms(world):
    """Nothing is held out, and unseen frames of the same street alarm as often as asked."""
    rate, recorded, unseen = 0.1, 100, 150
    settings = world.settings(filter_temporal=False, filter_spatial=False, false_alarm_rate=rate)
    judge = world.judge(settings, recorded=recorded, held_out=0)
    state = CameraState()
    alarms = [judge.process(Frame(world.street(10_000 + i), i), state).anomalous for i in range(unseen)]
    assert np.mean(alarms) == pytest.approx(rate, abs=3 * (rate * (1 - rate) * (1 / recorded + 1 / unseen)) ** 0.5)


def test_a_drive_too_short_to_be_compared_with_itself_stays_uncalibrated(world, caplog):
    database = world.database(recorded=3, held_out=0)
    assert not database.manifest.calibrated
    assert 'stays uncalibrated' in caplog.text


def test_a_compacted_database_keeps_the_calibration_of_its_whole_frames(world):
    settings = world.settings(calibrate_by_region=False)
    whole = world.database(settings, recorded=40, held_out=0)
    recipe = Recipe.of(settings)
    manifest = operations.compact(whole.path, size=len(whole) // 4, recipe=recipe)
    compacted = NominalDatabase.open(whole.path, settings.search)
    assert len(compacted) == len(whole) // 4
    assert len(compacted.calibration['frame_scores']) == 40
    assert not compacted.whole_frames()
    # fewer to be compared with: no nominal score falls
    assert (compacted.calibration['frame_scores'] >= whole.calibration['frame_scores'] - 1e-6).all()
    again = operations.calibrate(whole.path, recipe)
    assert again.version > manifest.version
    stored = NominalDatabase.open(whole.path, settings.search).calibration
    np.testing.assert_array_equal(stored['frame_scores'], compacted.calibration['frame_scores'])
