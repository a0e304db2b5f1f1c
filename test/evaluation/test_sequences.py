"""Alarms, events, delays and the bootstrap over stretches of time."""

import numpy as np
import pytest

from semanom_ros.core.scoring.timeline import durations_s, runs
from semanom_ros.evaluation.metric_table import TIME, measured
from semanom_ros.evaluation.metrics import Curve
from semanom_ros.evaluation.sequences import SequenceCounter, Timelines, bootstrap, timeline


def timeline_metrics(lines):
    return measured(TIME, Timelines(lines))


def drive(seconds, *, alarms=(), anomalies=(), localized=(), rate=10):
    """Stamps at `rate` Hz, verdicts and truth from lists of (start, stop) seconds."""
    stamps = (np.arange(int(seconds * rate)) * 1e9 / rate).astype(np.int64)

    def during(spans):
        inside = [(stamps >= start * 1e9) & (stamps < stop * 1e9) for start, stop in spans]
        return np.any([np.zeros(len(stamps), bool), *inside], axis=0)

    return stamps, during(alarms), during(anomalies).astype(np.int8), during(localized)


def test_worked_example():
    """A minute: one anomaly noticed after 0.5 s, one missed, two false alarms of several frames each."""
    line = timeline(*drive(60, anomalies=[(10, 14), (30, 33)],
                           alarms=[(10.5, 14.4), (20, 20.5), (21, 21.3), (50, 50.1)]))
    metrics = timeline_metrics([line])
    assert metrics['events'] == 2
    assert metrics['events_noticed'] == 1
    assert metrics['detection_delay_s'] == pytest.approx(0.5)
    assert metrics['false_alarms'] == 2
    assert metrics['false_alarms_per_minute'] == pytest.approx(2 / (60 - 7) * 60)
    assert metrics['alarms_per_minute'] == pytest.approx(3)


def test_alarm_long_before_an_anomaly_is_false_and_one_that_lingers_is_not():
    early = timeline(*drive(30, anomalies=[(20, 25)], alarms=[(10, 22)]))
    assert len(early.false_alarms) == 1
    assert early.events[0].delay_s == 0
    assert not timeline(*drive(30, anomalies=[(20, 25)], alarms=[(21, 25.9)])).false_alarms
    assert timeline(*drive(30, anomalies=[(20, 25)], alarms=[(21, 27)])).false_alarms


def test_unknown_frames_are_left_out():
    stamps, alarms, truth, localized = drive(20, alarms=[(5, 6), (15, 16)])
    truth[:100] = -1
    metrics = timeline_metrics([timeline(stamps, alarms, truth, localized)])
    assert metrics['false_alarms'] == 1
    assert metrics['false_alarms_per_minute'] == pytest.approx(6)
    truth[:] = -1
    metrics = timeline_metrics([timeline(stamps, alarms, truth, localized)])
    assert metrics['false_alarms_per_minute'] is metrics['detection_delay_s'] is metrics['events'] is None
    assert metrics['alarms_per_minute'] == pytest.approx(6)


def test_rates_add_up_over_sequences():
    lines = [timeline(*drive(30, alarms=[(3, 4)])), timeline(*drive(90, anomalies=[(5, 8)], alarms=[(7, 8)]))]
    metrics = timeline_metrics(lines)
    assert metrics['false_alarms_per_minute'] == pytest.approx(1 / (117 / 60))
    assert metrics['detection_delay_s'] == pytest.approx(2)
    assert timeline_metrics([])['false_alarms_per_minute'] is None


def test_runs_join_over_short_gaps_only():
    stamps = np.array([0, 1, 2, 4, 9, 10], np.int64) * 1_000_000_000
    assert runs(stamps, np.ones(6, bool)) == [(0, 3), (4, 5)]
    assert runs(stamps, np.zeros(6, bool)) == []


def test_pauses_in_a_recording_count_as_no_time():
    stamps = np.array([0, 1, 2, 3, 100, 101], np.int64) * 1_000_000_000
    assert durations_s(stamps).tolist() == [1, 1, 1, 3, 1, 1]
    assert durations_s(stamps[:1]).tolist() == [0]


def test_event_is_localized_only_in_an_alarmed_frame():
    line = timeline(*drive(40, anomalies=[(10, 14), (30, 34)], alarms=[(11, 12), (31, 32)],
                           localized=[(11.5, 11.6), (33, 34)]))
    assert [event.localized for event in line.events] == [True, False]
    assert timeline_metrics([line])['events_localized'] == 1


def test_stretches_of_ten_seconds():
    count = SequenceCounter(first_stretch=7)
    numbers = [count(second * 1_000_000_000) for second in (5, 14, 15, 34, 36, 44, 45, 2, 3)]
    assert numbers == [(0, 7), (0, 7), (0, 8), (0, 9), (0, 10), (0, 10), (0, 11), (1, 12), (1, 12)]


def test_bootstrap_draws_whole_stretches():
    """Frames of a stretch are copies of each other, so the interval is that of the stretches, not of the frames."""
    random = np.random.default_rng(1)
    copies = 50
    anomalous = np.repeat(random.random(40) < 0.5, copies)
    scores = np.repeat(random.normal(size=40), copies) + anomalous
    stretch = np.repeat(np.arange(40), copies)

    def measure(weights):
        return {'auroc': Curve.from_scores(scores, anomalous, weights[stretch]).auroc()}

    low, high = bootstrap(40, measure)['auroc']
    narrow_low, narrow_high = bootstrap(len(scores), lambda w: {
        'auroc': Curve.from_scores(scores, anomalous, w).auroc()}, resamples=100)['auroc']
    assert low < measure(np.ones(40))['auroc'] < high
    assert (high - low) > 3 * (narrow_high - narrow_low)
    assert bootstrap(40, measure)['auroc'] == [low, high]


def test_bootstrap_covers_the_true_value():
    """The interval of a mean over independent stretches holds the true mean about 95 times in 100."""
    covered = 0
    for seed in range(100):
        values = np.random.default_rng(seed).normal(size=60)
        low, high = bootstrap(60, lambda w, v=values: {'mean': float(w @ v / w.sum())}, resamples=200)['mean']
        covered += low <= 0 <= high
    assert 88 <= covered <= 100


def test_bootstrap_without_enough_data():
    assert bootstrap(1, lambda w: {'m': 1.0}) == {'m': None}
    assert bootstrap(5, lambda w: {'m': None}) == {'m': None}
