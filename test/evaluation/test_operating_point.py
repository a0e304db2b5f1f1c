"""The operating point, and what was noticed by size and distance, against cases counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from semanom_ros.core.results import Verdict
from semanom_ros.evaluation.measurement import FRAME_TYPE, Measurement
from semanom_ros.evaluation.operating_point import level_for
from semanom_ros.evaluation.visibility import METRES, PATCHES, PIXELS, Bin, FirstReports, noticed_by

SECOND = 1_000_000_000


def frames(*rows, seconds=5.0, **more):
    """Frames of one sequence from (truth, score), `seconds` apart; above 1.0 they alarm, unless `alarm` says."""
    found = np.zeros(len(rows), FRAME_TYPE)
    for name in ('truth_patches', 'distance_m', 'reported_m', 'speed'):
        found[name] = np.nan
    found['stamp_ns'] = np.arange(len(rows)) * int(seconds * SECOND)
    found['truth'], found['score'] = np.array(rows).T
    found['threshold'], found['frame_score'], found['alarm'] = 1.0, found['score'], found['score'] > 1
    for name, values in more.items():
        found[name] = values
    found['verdict'] = np.where(found['alarm'], Verdict.ANOMALOUS, Verdict.NOMINAL)
    return found


def figures(*parts, asked=0.1):
    return Measurement(_frames=list(parts)).metrics(asked)['operating_point']


NOMINAL = [(0, score) for score in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.9)]


def test_stills_by_hand():
    """Ten nominal frames at 10 %: one may lie above the level, which is then the second highest, 0.9. Of the anomalies
    0.95, 1.05, 2.0 and 0.5 three lie above it, and two above the product's 1.0; one nominal frame of ten does."""
    point = figures(frames(*NOMINAL, (1, 0.95), (1, 1.05), (1, 2.0), (1, 0.5)))
    assert point == {'asked': 0.1, 'got': 0.1, 'anomalies': 4, 'noticed': 2, 'noticed_at_oracle': 3,
                     'oracle_level': 0.9, 'efficiency': pytest.approx(2 / 3), 'interval': point['interval']}
    # Clopper and Pearson for 1 of 10, from the tables
    assert point['interval'] == pytest.approx([0.0025, 0.4450], abs=1e-4)


def test_a_drive_counts_events_and_not_frames():
    """Twelve anomalous frames, half a second apart with a gap of 3.5 s, are two events; the second one is missed,
    though one of its frames would show at the level of the rate."""
    first = [(1, 0.2), (1, 3.0), (1, 3.0), (1, 3.0), (1, 3.0), (1, 3.0)]
    second = [(1, 0.2)] * 5 + [(1, 0.95)]
    between = [(0, 0.1)] * 6
    point = figures(frames(*NOMINAL, *first, *between, *second, seconds=0.5), asked=1 / 16)
    assert (point['anomalies'], point['noticed'], point['noticed_at_oracle']) == (2, 1, 2)
    assert point['efficiency'] == 0.5
    assert point['oracle_level'] == 0.9  # 16 nominal frames: one may lie above


def test_with_few_nominal_frames_the_level_is_the_highest_of_them():
    point = figures(frames((0, 0.3), (0, 0.7), (1, 0.6), (1, 0.8), (1, 1.2)), asked=0.01)
    assert (point['oracle_level'], point['noticed_at_oracle'], point['noticed']) == (0.7, 2, 1)
    assert point['got'] == 0
    assert point['interval'] == pytest.approx([0, 0.8419], abs=1e-4)  # 1 - 0.025 ** (1 / 2)


def test_more_false_alarms_than_asked_may_notice_more_than_is_possible():
    point = figures(frames((0, 1.5), (0, 1.6), (1, 1.1), (1, 1.7)), asked=0.01)
    assert (point['got'], point['efficiency']) == (1.0, 2.0)


def test_a_filter_is_held_to_what_shows_before_it():
    """What the filter took back is ranked at the threshold; the level is sought among the scores before."""
    rows = [*NOMINAL, (1, 1.5), (1, 2.0)]
    alarm = [False] * 11 + [True]
    point = figures(frames(*rows, alarm=alarm, score=[min(score, 1.0) for _, score in rows[:-1]] + [2.0]))
    assert (point['got'], point['noticed'], point['noticed_at_oracle'], point['efficiency']) == (0, 1, 2, 0.5)


@pytest.mark.parametrize(('rows', 'asked', 'missing'), [
    (NOMINAL, 0.1, {'anomalies', 'noticed', 'noticed_at_oracle', 'efficiency'}),
    ([(1, 2.0)], 0.1, {'got', 'interval', 'oracle_level', 'noticed_at_oracle', 'efficiency'}),
    ([*NOMINAL, (1, 2.0)], None, {'asked', 'oracle_level', 'noticed_at_oracle', 'efficiency'}),
    ([*NOMINAL, (1, 0.1)], 0.1, {'efficiency'}),
    ([(-1, 2.0)], None, {'asked', 'got', 'interval', 'anomalies', 'noticed', 'oracle_level', 'noticed_at_oracle',
                         'efficiency'})])
def test_what_is_not_known_is_none(rows, asked, missing):
    point = figures(frames(*rows), asked=asked)
    assert {name for name, value in point.items() if value is None} == missing


def test_level_leaves_the_asked_share_above_it_and_no_lower_one_does():
    random = np.random.default_rng(0)
    for count in (1, 7, 40, 71, 1000):
        scores = np.round(random.exponential(size=count), 2)
        for asked in (0.01, 0.02, 0.05, 0.3):
            level = level_for(scores, asked)
            assert (scores > level).mean() <= asked
            lower = scores[scores < level]
            assert not len(lower) or (scores > lower.max()).mean() > asked


def test_the_bootstrap_of_the_rate_is_of_stretches():
    """Two of eight stretches alarm throughout: their frames are one another's copies, and the interval knows it."""
    rows = [(0, 2.0 if stretch % 4 == 0 else 0.5) for stretch in range(8) for _ in range(50)]
    measured = Measurement(_frames=[frames(*rows, seconds=0.2, stretch=np.repeat(np.arange(8), 50))]).metrics(0.1)
    binomial, stretches = measured['operating_point']['interval'], measured['intervals']['operating_point']['got']
    assert measured['operating_point']['got'] == 0.25
    assert stretches[0] < binomial[0] < 0.25 < binomial[1] < stretches[1]


def parts(*sequences):
    return Measurement(_frames=list(sequences)).timelines()


def test_by_size_by_hand():
    """An anomaly of a drive is in every bin that it passes; noticed where an alarm was while it was that large."""
    grows = frames((1, 0.5), (1, 0.5), (1, 2.0), (1, 0.5), seconds=0.5, truth_pixels=[20, 60, 70, 300],
                   truth_patches=[0.1, 0.3, 0.35, 1.5])
    still = frames((1, 2.0), (0, 2.0), truth_pixels=[255, 0], truth_patches=[1.0, 0.0], sequence=1)
    assert noticed_by(PIXELS, parts(grows, still)) == [
        Bin(PIXELS, 16, 64, 1, 0), Bin(PIXELS, 64, 256, 2, 2), Bin(PIXELS, 256, 1024, 1, 0)]
    assert noticed_by(PATCHES, parts(grows, still)) == [
        Bin(PATCHES, 0, 0.25, 1, 0), Bin(PATCHES, 0.25, 1, 1, 1), Bin(PATCHES, 1, 4, 2, 1)]
    assert noticed_by(METRES, parts(grows, still)) == []
    assert Bin(PIXELS, 1, None, 4, 3).figures() == {
        'unit': 'pixels', 'begin': 1, 'end': None, 'anomalies': 4, 'noticed': 3, 'share': 0.75}
    assert Bin(PIXELS, 1, 16, 0, 0).share is None


def test_first_report_is_the_first_alarm_that_lies_on_the_anomaly():
    """At 40 m an alarm elsewhere; at 30 m one on it, at 10 m/s: 3 s ahead. The other anomaly is seen from a standstill
    at 8 m, a third one never."""
    nan = np.nan
    near = frames((1, 2.0), (1, 2.0), (1, 2.0), seconds=1, distance_m=[40, 30, 20], reported_m=[nan, 30, 20], speed=10)
    stands = frames((1, 2.0), seconds=1, distance_m=8, reported_m=8, speed=0, sequence=1)
    missed = frames((1, 0.5), seconds=1, distance_m=5, speed=10, sequence=2)
    reports = FirstReports.of(parts(near, stands, missed))
    assert reports == FirstReports((30.0, 8.0), (3.0,))
    assert (reports.median_distance(), reports.median_seconds()) == (19.0, 3.0)
    assert noticed_by(METRES, parts(near, stands, missed)) == [
        Bin(METRES, 5, 10, 2, 1), Bin(METRES, 10, 15, 0, 0), Bin(METRES, 15, 20, 0, 0), Bin(METRES, 20, 30, 1, 1),
        Bin(METRES, 30, 40, 1, 1), Bin(METRES, 40, 60, 1, 1)]
    assert FirstReports().median_distance() is FirstReports().median_seconds() is None
