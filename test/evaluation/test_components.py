"""Component metrics against the definition, pixel set by pixel set, and worked examples."""

import numpy as np
import pytest
from scipy import ndimage

from semanom_ros.evaluation.components import THRESHOLDS, ComponentStatistics, component_overlaps
from semanom_ros.evaluation.metric_table import COMPONENT, measured
from semanom_ros.evaluation.metrics import ANOMALOUS, IGNORE


def metrics(statistics):
    return measured(COMPONENT, statistics.sums())


def brute_overlaps(predicted, truth, smallest_truth, smallest_prediction):
    """The benchmark's definition with Python sets of pixels."""
    def parts(mask, smallest):
        labels, count = ndimage.label(mask, np.ones((3, 3)))
        sets = [set(map(tuple, np.argwhere(labels == n + 1))) for n in range(count)]
        return [s for s in sets if len(s) >= smallest], set().union(*[s for s in sets if len(s) < smallest])

    truths, dropped = parts(truth == ANOMALOUS, smallest_truth)
    reports, _ = parts(predicted & (truth != IGNORE), smallest_prediction)
    reports = [r - dropped for r in reports if r - dropped]
    siou = []
    for k in truths:
        touching = set().union(*[r for r in reports if r & k])
        others = set().union(*[t for t in truths if t is not k])
        siou.append(len(k & touching) / len((k | touching) - (touching & others)))
    everything = set().union(*truths)
    return siou, [len(r & everything) / len(r) for r in reports]


def scene(seed):
    random = np.random.default_rng(seed)
    truth, predicted = np.zeros((48, 64), np.uint8), np.zeros((48, 64), bool)
    for _ in range(4):
        y, x, h, w = random.integers(0, 40), random.integers(0, 56), *random.integers(2, 12, 2)
        truth[y:y + h, x:x + w] = ANOMALOUS
        y, x = np.clip([y + random.integers(-4, 5), x + random.integers(-4, 5)], 0, 60)
        predicted[y:y + h, x:x + random.integers(1, 20)] = True
    predicted |= ndimage.binary_opening(random.random(truth.shape) > 0.55)
    truth[:, :6][truth[:, :6] == 0] = IGNORE
    return predicted, truth


@pytest.mark.parametrize('seed', range(12))
def test_overlaps_agree_with_the_definition(seed):
    predicted, truth = scene(seed)
    siou, ppv = component_overlaps(predicted, truth, smallest_truth=6, smallest_prediction=8)
    expected_siou, expected_ppv = brute_overlaps(predicted, truth, 6, 8)
    assert sorted(siou) == pytest.approx(sorted(expected_siou))
    assert sorted(ppv) == pytest.approx(sorted(expected_ppv))


def test_one_report_over_two_anomalies_is_not_punished_twice():
    """Why the union is adjusted: a blob over two neighbours covers each fully."""
    truth = np.zeros((20, 40), np.uint8)
    truth[5:15, 2:12] = truth[5:15, 22:32] = ANOMALOUS  # 100 pixels each
    predicted = np.zeros(truth.shape, bool)
    predicted[5:15, 2:32] = True  # 300 pixels, 100 of them on nothing
    siou, ppv = component_overlaps(predicted, truth)
    assert siou == pytest.approx([100 / 200, 100 / 200])
    assert ppv == pytest.approx([200 / 300])


def test_diagonal_pixels_are_connected():
    truth = np.zeros((20, 20), np.uint8)
    truth[np.arange(20), np.arange(20)] = ANOMALOUS
    siou, _ = component_overlaps(truth == ANOMALOUS, truth, smallest_prediction=1)
    assert siou == pytest.approx([1.0])


def test_small_components_and_ignored_pixels():
    truth = np.zeros((30, 30), np.uint8)
    truth[0:3, 0:3] = ANOMALOUS  # 9 pixels: ignored
    truth[10:20, 10:20] = ANOMALOUS
    truth[20:25] = IGNORE
    predicted = np.zeros(truth.shape, bool)
    predicted[0:3, 0:3] = True
    predicted[10:25, 10:20] = True  # what lies on ignored pixels is dropped
    predicted[28, 0:10] = True  # 10 pixels: dropped
    siou, ppv = component_overlaps(predicted, truth)
    assert siou == pytest.approx([1.0])
    assert ppv == pytest.approx([1.0])


def test_f1_is_averaged_over_the_thresholds():
    truth = np.zeros((20, 40), np.uint8)
    truth[0:10, 0:10] = ANOMALOUS
    half = np.zeros(truth.shape, bool)
    half[0:10, 0:5] = True  # sIoU 0.5, PPV 1
    statistics = ComponentStatistics()
    statistics.add(half, truth, 0)
    assert metrics(statistics) == pytest.approx({'siou': 0.5, 'ppv': 1.0, 'f1': np.mean(THRESHOLDS <= 0.5)})


def test_nominal_frames_only_add_false_components():
    truth = np.zeros((20, 40), np.uint8)
    statistics = ComponentStatistics()
    assert metrics(statistics) == {'siou': None, 'ppv': None, 'f1': None}
    statistics.add(np.ones(truth.shape, bool), truth, 0)
    assert metrics(statistics) == {'siou': None, 'ppv': None, 'f1': None}
    truth[0:10, 0:10] = ANOMALOUS
    statistics.add(truth == ANOMALOUS, truth, 1)
    assert metrics(statistics) == pytest.approx({'siou': 1.0, 'ppv': 0.5, 'f1': 2 / 3})
    second_only = statistics.weighted([0, 1])(np.array([0.0, 1.0]))
    assert measured(COMPONENT, second_only) == pytest.approx({'siou': 1.0, 'ppv': 1.0, 'f1': 1.0})


def test_streams_merge_and_survive_storage():
    whole, first, second = ComponentStatistics(), ComponentStatistics(), ComponentStatistics()
    for seed in range(6):
        predicted, truth = scene(seed)
        whole.add(predicted, truth, seed)
        (first if seed < 3 else second).add(predicted, truth, seed)
    first = ComponentStatistics.from_arrays(first.arrays())
    first.merge(ComponentStatistics.from_arrays(second.arrays()))
    assert metrics(first) == pytest.approx(metrics(whole))
