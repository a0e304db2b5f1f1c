"""Frame and pixel metrics against scikit-learn, brute force and worked examples."""

import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score, roc_curve

from semanom_ros.evaluation.metric_table import PIXEL, measured
from semanom_ros.evaluation.metrics import (
    ANOMALOUS,
    BINS,
    IGNORE,
    Curve,
    PixelStatistics,
    bin_index,
    f1_of_verdicts,
    percentile,
)


def metrics(statistics):
    return measured(PIXEL, statistics.curves())


def drawn(statistics, stretches, weights):
    return measured(PIXEL, statistics.weighted(stretches)(weights))


def sklearn_fpr95(anomalous, scores):
    false_rate, true_rate, _ = roc_curve(anomalous, scores, drop_intermediate=False)
    return false_rate[np.argmax(true_rate >= 0.95)]


@pytest.mark.parametrize('seed', range(5))
@pytest.mark.parametrize('ties', [False, True])
def test_curve_agrees_with_scikit_learn(seed, ties):
    random = np.random.default_rng(seed)
    anomalous = random.random(400) < 0.2
    scores = random.normal(size=400) + 1.2 * anomalous
    if ties:
        scores = np.round(scores)
    curve = Curve.from_scores(scores, anomalous)
    assert curve.auroc() == pytest.approx(roc_auc_score(anomalous, scores), abs=1e-12)
    assert curve.average_precision() == pytest.approx(average_precision_score(anomalous, scores), abs=1e-12)
    assert curve.fpr95() == pytest.approx(sklearn_fpr95(anomalous, scores), abs=1e-12)
    assert curve.area_to(1.0) == pytest.approx(curve.auroc(), abs=1e-12)


def test_weights_count_items_more_often():
    random = np.random.default_rng(0)
    anomalous = random.random(60) < 0.3
    scores, weights = np.round(random.normal(size=60) + anomalous, 1), random.integers(0, 4, 60)
    once = Curve.from_scores(scores, anomalous, weights)
    often = Curve.from_scores(np.repeat(scores, weights), np.repeat(anomalous, weights))
    assert once.auroc() == pytest.approx(often.auroc())
    assert once.average_precision() == pytest.approx(often.average_precision())
    assert once.fpr95() == pytest.approx(often.fpr95())


def test_worked_example():
    """Four frames: the anomalous ones score 0.8 and 0.35, the nominal ones 0.4 and 0.1."""
    curve = Curve.from_scores([0.1, 0.4, 0.35, 0.8], [False, False, True, True])
    assert curve.auroc() == 0.75
    assert curve.average_precision() == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert curve.fpr95() == 0.5


@pytest.mark.parametrize('anomalous', [[], [True, True], [False, False]])
def test_metric_without_truth_is_none(anomalous):
    curve = Curve.from_scores(np.arange(len(anomalous)), anomalous)
    assert curve.auroc() is curve.average_precision() is curve.fpr95() is curve.area_to(0.3) is None


def test_f1_of_verdicts():
    alarms, anomalous = [True, True, False, False, True], [True, False, True, False, True]
    assert f1_of_verdicts(alarms, anomalous) == pytest.approx(f1_score(anomalous, alarms))
    assert f1_of_verdicts(alarms, [False] * 5) is None
    assert f1_of_verdicts([False] * 5, anomalous) == 0


def test_percentile():
    assert percentile(np.arange(101), 50) == 50
    assert percentile(np.arange(101), 99) == 99
    assert percentile([], 50) is None


def test_bins_keep_the_order_at_every_scale():
    scores = np.sort(np.concatenate([[0, 1e-30, 2e4, 1e30], np.geomspace(1e-6, 1e5, 50_000)])).astype(np.float32)
    bins = bin_index(scores)
    assert bins.min() == 0
    assert bins.max() == BINS - 1
    assert (np.diff(bins) >= 0).all()
    inside = (scores > 1e-4) & (scores < 1.6e4)
    apart = scores[inside][1:] / scores[inside][:-1] > 1.00013
    assert (np.diff(bins[inside]) > 0)[apart].all()
    assert bin_index(np.array([-0.0], np.float32)) == 0


@pytest.mark.parametrize('bad', [-0.1, np.nan])
def test_bad_score_is_refused(bad):
    with pytest.raises(ValueError, match='negative score or NaN'):
        bin_index(np.array([0.5, bad], np.float32))


def frames(seed, count=12, scale=1.0, shape=(60, 90)):
    """Smooth maps as detectors make them, and truth with anomalies of several sizes and an ignored band."""
    random = np.random.default_rng(seed)
    for index in range(count):
        truth = np.zeros(shape, np.uint8)
        anomaly = np.zeros(shape, np.float32)
        for _ in range(index % 4):
            y, x, size = random.integers(0, 50), random.integers(0, 80), random.integers(2, 14)
            truth[y:y + size, x:x + size] = ANOMALOUS
            anomaly[y:y + size, x:x + size] = random.uniform(0.2, 1.5)
        grown = ndimage.binary_dilation(truth == ANOMALOUS, iterations=2)
        truth[grown & (truth == 0)] = IGNORE
        noise = ndimage.zoom(random.random((6, 9)), 10, order=1)
        yield (scale * (noise + ndimage.gaussian_filter(anomaly, 1.5))).astype(np.float32), truth


def brute_aupro(pairs, limit=0.3):
    """Per-region overlap straight from its definition, at every distinct score."""
    regions, nominal = [], np.concatenate([m[t == 0] for m, t in pairs])
    for anomaly_map, truth in pairs:
        labels, count = ndimage.label(truth == ANOMALOUS, np.ones((3, 3)))
        regions += [np.sort(anomaly_map[labels == n + 1]) for n in range(count)]
    thresholds = np.unique(np.concatenate([nominal, *regions]))[::-1]
    nominal = np.sort(nominal)
    false_rate = 1 - np.searchsorted(nominal, thresholds) / len(nominal)
    overlap = np.mean([1 - np.searchsorted(r, thresholds) / len(r) for r in regions], axis=0)
    grid = np.unique(np.r_[np.linspace(0, limit, 20_001), false_rate[false_rate <= limit]])
    heights = np.interp(grid, np.r_[0, false_rate], np.r_[0, overlap])
    return np.sum(np.diff(grid) * (heights[1:] + heights[:-1]) / 2) / limit


@pytest.mark.parametrize('scale', [1.0, 1e-3, 300.0])
def test_pixel_metrics_agree_with_exact_ones(scale):
    """The bins' error stays below a thousandth, whatever the scale of the scores."""
    pairs = list(frames(0, scale=scale))
    statistics = PixelStatistics()
    for index, (anomaly_map, truth) in enumerate(pairs):
        statistics.add(anomaly_map, truth, index // 3)
    valid = [t != IGNORE for _, t in pairs]
    scores = np.concatenate([m[v] for (m, _), v in zip(pairs, valid, strict=True)])
    anomalous = np.concatenate([t[v] == ANOMALOUS for (_, t), v in zip(pairs, valid, strict=True)])
    found = metrics(statistics)
    exact = {'auroc': roc_auc_score(anomalous, scores), 'ap': average_precision_score(anomalous, scores),
             'fpr95': sklearn_fpr95(anomalous, scores), 'aupro': brute_aupro(pairs)}
    assert found == pytest.approx(exact, abs=1e-3)
    coarse = drawn(statistics, sorted(statistics.stretches), np.ones(4))
    assert coarse == pytest.approx(exact, abs=1e-2)


def test_narrow_scores_keep_their_resolution():
    """Calibrated scores crowd round 1; a tenth of that range still has enough bins."""
    random = np.random.default_rng(3)
    truth = np.where(random.random((300, 400)) < 0.05, ANOMALOUS, 0).astype(np.uint8)
    anomaly_map = (1 + 0.02 * random.normal(size=truth.shape) + 0.03 * (truth > 0)).clip(0).astype(np.float32)
    statistics = PixelStatistics()
    statistics.add(anomaly_map, truth, 0)
    exact = roc_auc_score(truth.ravel() > 0, anomaly_map.ravel())
    assert metrics(statistics)['auroc'] == pytest.approx(exact, abs=1e-3)
    exact = average_precision_score(truth.ravel() > 0, anomaly_map.ravel())
    assert metrics(statistics)['ap'] == pytest.approx(exact, abs=1e-3)


def test_aupro_worked_example():
    """One region is found at once, one of a hundred times the area never below FPR 0.3: half."""
    truth = np.zeros((40, 100), np.uint8)
    truth[0, 0] = truth[10:20, 0:10] = ANOMALOUS
    anomaly_map = np.linspace(1, 2, truth.size, dtype=np.float32).reshape(truth.shape)
    anomaly_map[0, 0], anomaly_map[10:20, 0:10] = 9.0, 0.0
    statistics = PixelStatistics()
    statistics.add(anomaly_map, truth, 0)
    assert metrics(statistics)['aupro'] == pytest.approx(0.5, abs=1e-3)


def test_pixels_without_truth_have_no_metric():
    statistics = PixelStatistics()
    assert metrics(statistics) == {'auroc': None, 'ap': None, 'fpr95': None, 'aupro': None}
    statistics.add(np.ones((4, 4), np.float32), np.zeros((4, 4), np.uint8), 0)
    assert metrics(statistics) == {'auroc': None, 'ap': None, 'fpr95': None, 'aupro': None}


def test_ignored_pixels_change_nothing():
    anomaly_map, truth = list(frames(1))[3]
    one, other = PixelStatistics(), PixelStatistics()
    one.add(anomaly_map, truth, 0)
    changed = anomaly_map.copy()
    changed[truth == IGNORE] = 1000
    other.add(changed, truth, 0)
    assert metrics(one) == metrics(other)


def test_streams_merge_and_survive_storage():
    pairs = list(frames(2))
    whole, first, second = PixelStatistics(), PixelStatistics(), PixelStatistics()
    for index, (anomaly_map, truth) in enumerate(pairs):
        whole.add(anomaly_map, truth, index)
        (first if index < 5 else second).add(anomaly_map, truth, index)
    first = PixelStatistics.from_arrays(first.arrays())
    first.merge(PixelStatistics.from_arrays(second.arrays()))
    assert metrics(first) == metrics(whole)
    stretches = sorted(whole.stretches)
    weights = np.arange(len(stretches), dtype=float)
    assert drawn(first, stretches, weights) == drawn(whole, stretches, weights)


def test_weights_draw_stretches():
    pairs = list(frames(4))
    every, twice = PixelStatistics(), PixelStatistics()
    for index, (anomaly_map, truth) in enumerate(pairs):
        every.add(anomaly_map, truth, index)
        if index in (3, 7):
            twice.add(anomaly_map, truth, index)
    weights = np.zeros(len(pairs))
    weights[[3, 7]] = 1
    assert drawn(every, range(len(pairs)), weights) == pytest.approx(drawn(twice, [3, 7], np.ones(2)))


def test_shapes_must_agree():
    with pytest.raises(ValueError, match='found shape'):
        PixelStatistics().add(np.ones((4, 4), np.float32), np.zeros((4, 5), np.uint8), 0)


def test_an_hour_fits_in_memory():
    """Ten hertz for an hour, whatever the resolution: a few histograms for each of 360 stretches."""
    statistics = PixelStatistics()
    truth = np.zeros((8, 8), np.uint8)
    truth[:2, :2] = ANOMALOUS
    for stretch in range(360):
        statistics.add(np.full((8, 8), 1 + stretch / 100, np.float32), truth, stretch)
    assert sum(array.nbytes for array in statistics.arrays().values()) < 64e6
