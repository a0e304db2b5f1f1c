"""The drift monitor: it promises what it says about false alarms, and finds changes, not things."""

from __future__ import annotations

import numpy as np
import pytest

from semanom_ros.core.drift.betting import EXPONENTS, Reference, Wealth
from semanom_ros.core.drift.drift_monitor import WHOLE, Drift, DriftMonitor, DriftState
from semanom_ros.core.drift.drift_reference import CELLS, SMALLEST, DriftReference, drift_arrays, sample_of

SECOND = 1_000_000_000
LEVEL = 0.05


def drive(rng: np.random.Generator, seconds: int, correlation: float = 0.5) -> np.ndarray:
    """(seconds, 50) samples whose cells have a common part and their own, each remembering the second before."""
    def process(columns: int) -> np.ndarray:
        noise = rng.standard_normal((seconds, columns))
        for now in range(1, seconds):
            noise[now] = correlation * noise[now - 1] + np.sqrt(1 - correlation ** 2) * noise[now]
        return noise

    samples = 0.6 * process(1) + 0.8 * process(CELLS + 2)
    samples[:, CELLS:] *= 0.02
    return samples.astype(np.float32)


def reference(rng: np.random.Generator, seconds: int = 600) -> DriftReference:
    made, doubt = DriftReference.from_arrays(
        drift_arrays(drive(rng, seconds), np.arange(seconds) * SECOND, np.zeros(seconds, int)))
    assert made is not None, doubt
    return made


def follow(nominal: DriftReference | None, samples: np.ndarray, start: int = 100, level: float = LEVEL,
           monitor: DriftMonitor | None = None) -> list[Drift]:
    """What is said at each sample, a second apart."""
    monitor = monitor or DriftMonitor()
    return [monitor.update(nominal, level, (start + second) * SECOND, lambda sample=sample: sample)
            for second, sample in enumerate(samples)]


def drifting(said: list[Drift]) -> list[int]:
    return [second for second, drift in enumerate(said) if drift.state is DriftState.DRIFTING]


def mean_payoffs(made: Reference) -> np.ndarray:
    """Means of the bets on uniform values, exactly: payoffs are constant between values of the reference."""
    edges = np.r_[0.0, made.values, 1.0]
    return made.payoffs((edges[:-1] + edges[1:]) / 2) @ np.diff(edges)


@pytest.mark.parametrize('size', [10, 40, 300])
def test_given_the_reference_no_bet_is_more_than_fair_but_for_a_share_delta(size):
    rng, delta, references = np.random.default_rng(size), 0.1, 400
    unfair = sum((mean_payoffs(Reference.of(rng.random(size), size, delta)) > 1 + 1e-9).any()
                 for _ in range(references))
    assert unfair / references <= delta + 2.5 * np.sqrt(delta * (1 - delta) / references)
    naive = sum(((mean_payoffs(made := Reference.of(rng.random(size), size, delta)) * made.prices) > 1).any()
                for _ in range(100))
    assert naive > 2 * delta * 100 or size < 100  # p-values alone would often favour him


def test_wealth_is_a_supermartingale_and_rarely_reaches_its_limit_under_the_null():
    rng, horizon, runs, alpha = np.random.default_rng(1), 60, 600, 0.05
    made = Reference.of(rng.random(80), 80, 0.01)
    assert (mean_payoffs(made) <= 1).all()  # a reference of the good share
    ends, reached = [], 0
    for _ in range(runs):
        wealth, highest = Wealth(1, horizon, 10), 0.0
        for second in range(horizon):
            wealth.bet(made.payoffs(rng.random(1)), second)
            highest = max(highest, float(wealth.total[0]))
        ends.append(float(wealth.total[0]))
        reached += highest >= 1 / alpha
    assert np.mean(ends) <= 1
    assert reached / runs <= alpha + 2.5 * np.sqrt(alpha * (1 - alpha) / runs)


def test_what_is_not_known_is_not_bet_on():
    made = Reference.of(np.arange(50.0), 50, 0.01)
    assert (made.payoffs(np.nan) == 1).all()
    assert (made.payoffs(100.0) > made.payoffs(40.0)).all()
    assert made.payoffs(np.zeros(3)).shape == (len(EXPONENTS), 3)


def test_nominal_drives_with_serial_dependence_stay_nominal():
    rng = np.random.default_rng(2)
    false = sum(bool(drifting(follow(reference(rng), drive(rng, 900)))) for _ in range(30))
    assert false <= 1  # a quarter of an hour each, asked for 5 % in an hour


def test_a_change_of_the_whole_picture_is_found_and_dated_and_over_when_it_is_over():
    rng = np.random.default_rng(3)
    nominal, samples = reference(rng), drive(rng, 400)
    samples[120:180, :CELLS] += 2.5
    said = follow(nominal, samples)
    found = drifting(said)
    assert 120 <= found[0] < 150
    assert said[found[0]].what == WHOLE
    assert abs(said[found[0]].since_ns / SECOND - 100 - 120) <= 6
    assert said[found[0]].strength >= -np.log10(LEVEL)
    assert 170 < found[-1] < 240
    assert said[-1].state is DriftState.LIKE_NOMINAL
    assert said[-1].since_ns == 0
    assert said[0].state is DriftState.UNKNOWN


def test_a_drive_through_the_unknown_is_told_within_ten_seconds():
    rng = np.random.default_rng(4)
    nominal = reference(rng)
    for _ in range(5):
        samples = drive(rng, 20)
        samples[:, :CELLS] += 4
        assert drifting(follow(nominal, samples))[0] < 10


def test_a_dirty_part_of_the_lens_is_a_region_and_what_is_shifted_is_told_from_it():
    rng = np.random.default_rng(5)
    nominal = reference(rng)
    dirty, turned = drive(rng, 200), drive(rng, 200)
    dirty[50:].reshape(-1, CELLS + 2)[:, [0, 1, 8, 9]] += 4
    turned[50:, CELLS] += 0.08
    said = follow(nominal, dirty)
    assert 50 < drifting(said)[0] < 120
    assert {said[second].what for second in drifting(said)} == {'upper left'}
    said = follow(nominal, turned)
    assert 50 < drifting(said)[0] < 100
    assert said[drifting(said)[0]].what == f'{WHOLE}, shifted right'


def test_a_strange_thing_is_no_strange_drive():
    """Half of a region for four seconds, the whole picture for two, a tenth of it for a minute but never the same."""
    rng = np.random.default_rng(6)
    nominal, samples = reference(rng), drive(rng, 400)
    samples[60:64, :4] += 8
    samples[120:122, :CELLS] += 12
    for second in range(200, 260):
        samples[second, (second * 7) % (CELLS - 5):(second * 7) % (CELLS - 5) + 5] += 8
    assert not drifting(follow(nominal, samples))


def test_the_reference_is_not_contaminated_by_what_comes():
    rng = np.random.default_rng(7)
    nominal, samples = reference(rng), drive(rng, 600)
    samples[:, :CELLS] += 2.5
    assert drifting(follow(nominal, samples))[-1] == 599  # for as long as it lasts


def test_a_vehicle_that_stands_before_something_unusual_collects_no_evidence():
    rng = np.random.default_rng(8)
    nominal, samples = reference(rng), drive(rng, 300)
    view = samples[40] + 1.8
    samples[40:200] = view + 0.02 * rng.standard_normal((160, CELLS + 2)).astype(np.float32)
    assert not drifting(follow(nominal, samples))


def test_a_covered_lens_is_found_although_nothing_moves():
    rng = np.random.default_rng(12)
    nominal, samples = reference(rng), drive(rng, 200)
    samples[100:] = samples[100] + 4 + 0.02 * rng.standard_normal((100, CELLS + 2)).astype(np.float32)
    assert drifting(follow(nominal, samples))


def test_one_frame_a_second_is_looked_at_whatever_the_rate():
    rng = np.random.default_rng(9)
    nominal, monitor, looked = reference(rng), DriftMonitor(), []
    for frame in range(100):
        monitor.update(nominal, LEVEL, frame * SECOND // 10, lambda frame=frame: looked.append(frame) or
                       np.zeros(CELLS + 2, np.float32) + frame)
    assert 10 <= len(looked) <= 12


@pytest.mark.parametrize('interval', [2, 5])
def test_a_camera_that_is_slower_than_the_nominal_one_is_watched_all_the_same(interval):
    rng = np.random.default_rng(13)
    nominal, samples, monitor = reference(rng), drive(rng, 120, correlation=0.2), DriftMonitor()
    samples[60:, :CELLS] += 3
    said = [monitor.update(nominal, LEVEL, second * interval * SECOND, lambda sample=sample: sample)
            for second, sample in enumerate(samples)]
    assert 60 < drifting(said)[0] < 90


def test_stamps_that_go_back_and_another_reference_begin_anew():
    rng = np.random.default_rng(10)
    nominal, strange, monitor = reference(rng), drive(rng, 30), DriftMonitor()
    strange[:, :CELLS] += 5
    assert drifting(follow(nominal, strange, monitor=monitor))
    assert follow(nominal, strange[:1], start=50, monitor=monitor)[0] == Drift(strength=np.log10(0.5))
    assert drifting(follow(nominal, strange, start=60, monitor=monitor))
    assert follow(reference(rng), strange[:1], start=100, monitor=monitor)[0].state is DriftState.UNKNOWN


def test_without_a_reference_it_is_unknown_and_the_reason_is_told():
    rng = np.random.default_rng(11)
    assert follow(None, drive(rng, 20))[-1] == Drift()
    few = drift_arrays(drive(rng, SMALLEST - 1), np.arange(SMALLEST - 1) * SECOND, np.zeros(SMALLEST - 1))
    stills = drift_arrays(drive(rng, 100), np.arange(100) * 60 * SECOND, np.zeros(100))
    pieces = drift_arrays(drive(rng, 100), np.arange(100) * SECOND, np.arange(100) // 4)
    for arrays, words in (({}, 'semanom db calibrate'), (few, f'found {SMALLEST - 1} nominal frames'),
                          (stills, '60 s apart'), (pieces, 'stretches of 6 s')):
        made, doubt = DriftReference.from_arrays(arrays)
        assert made is None
        assert words in doubt
        assert '\n' not in doubt


def test_the_reference_thins_frames_to_one_a_second_and_drops_what_had_nothing_to_be_compared_with():
    samples = np.zeros((100, CELLS + 2), np.float32)
    samples[50] = np.nan
    arrays = drift_arrays(samples, np.arange(100) * SECOND // 10, np.repeat([0, 1], 50))
    assert len(arrays['drift_samples']) == 12  # every ninth: stamps are never quite even
    assert np.isfinite(arrays['drift_samples']).all()
    assert (np.diff(arrays['drift_stamps'][arrays['drift_streams'] == 1]) >= 0.9 * SECOND).all()


def test_a_sample_says_where_distances_are_and_which_way_the_matches_lie():
    y, x = np.mgrid[0.5 / 12:1:1 / 12, 0.5 / 16:1:1 / 16]
    positions = np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)
    distances = np.where(positions[:, 0] < 0.125, 0.5, 0.1).astype(np.float32)
    sample = sample_of(distances, positions, positions - np.float32([0.05, -0.02]))
    cells = sample[:CELLS].reshape(6, 8)
    assert np.allclose(cells[:, 0], np.log(0.5001), atol=1e-3)
    assert np.allclose(cells[:, 1:], np.log(0.1001), atol=1e-3)
    assert np.allclose(sample[CELLS:], [0.05, -0.02], atol=1e-6)
    assert np.isnan(sample_of(np.full(192, np.inf, np.float32), positions, positions)).all()
    half = sample_of(distances[:96], positions[:96], positions[:96])[:CELLS].reshape(6, 8)
    assert np.isfinite(half[:3]).all()
    assert np.isnan(half[3:]).all()
