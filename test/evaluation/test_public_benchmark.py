"""`semanom benchmark` on small sets in the public layouts, its figures computed anew from the pictures."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_curve

from semanom_ros.cli import main
from semanom_ros.core.frames import Frame
from semanom_ros.evaluation.components import THRESHOLDS
from semanom_ros.evaluation.detectors import Detectors
from semanom_ros.evaluation.public_benchmark import best_f1_bin
from semanom_ros.parameter_files import read_yaml
from semanom_ros.recordings.bags import BagReader
from semanom_ros.recordings.public_sets import SETS
from semanom_ros.ros.outputs import stepped
from semanom_ros.settings import Settings

from .conftest import HEIGHT, WIDTH, road
from .test_components import brute_overlaps

COUNT = 5


def scene(number: int) -> tuple[np.ndarray, np.ndarray]:
    """A road with a red thing that is bigger in every picture, none in the first, and its truth in 0, 1 and 255.

    A part of the sky is red as well: left out, or it would be the strongest false detection.
    """
    image, truth = road(100 + number, 7), np.zeros((HEIGHT, WIDTH), np.uint8)
    image[:20, :30] = (230, 20, 20)
    truth[:24, :34] = 255
    if number:
        bottom, right = 44 + 6 * number, 40 + 8 * number
        image[40:bottom, 36:right] = (200 - 20 * number, 60, 30)
        truth[40:bottom, 36:right] = 1
    return image, truth


def write(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[..., ::-1] if image.ndim == 3 else image)


def lay_out(key, folder):
    for number in range(COUNT):
        image, truth = scene(number)
        if key == 'road-anomaly-21':
            name = f'validation{number:04d}'
            write(folder / f'images/{name}.png', image)
            write(folder / f'labels_masks/{name}_labels_semantic.png', truth)
            write(folder / f'images/test{number:04d}.png', image[::-1])
        elif key == 'road-obstacle-21':
            write(folder / f'images/validation_{number}.bmp', image)
            write(folder / f'labels_masks/validation_{number}_labels_semantic.png', truth)
        elif key == 'fishyscapes-lost-and-found':
            name = f'04_Street_000000_{number:06d}'
            write(folder / f'leftImg8bit/train/04_Street/{name}_leftImg8bit.png', image)
            write(folder / f'fishyscapes_lostandfound/{number:04d}_{name}_labels.png', truth)
        else:
            write(folder / f'frames/animal{number}.png', image)
            write(folder / f'frames/animal{number}.labels/labels_semantic.png', np.where(truth == 1, 2, truth))


def computed(town, smallest_truth, smallest_report):
    """AP, FPR95, sIoU, PPV and mean F1 in per cent by the definitions, from the detector's maps of the pictures."""
    settings = Settings.of(read_yaml(town.config))
    detector = Detectors(settings.method, [town.databases['grid']], (), (False,))
    scenes = [scene(number) for number in range(COUNT)]
    maps = [detector.process(Frame(image, 0, still=True))[0].pixel_scores for image, _ in scenes]
    truths = np.stack([truth for _, truth in scenes])
    counted = truths < 255
    scores, truth = np.stack(maps)[counted], truths[counted] == 1
    false, true, _ = roc_curve(truth, scores, drop_intermediate=False)
    coarse = np.stack([stepped(one) for one in maps])
    precision, recall, levels = precision_recall_curve(truth, coarse[counted])
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    level = levels[f1[:-1].argmax()]
    siou, ppv = [], []
    for one, mask in zip(coarse, truths, strict=True):
        own = brute_overlaps(one >= level, np.array([0, 255, 128])[np.minimum(mask, 2)], smallest_truth,
                             smallest_report)
        siou += own[0]
        ppv += own[1]
    hits = (np.array(siou)[:, None] >= THRESHOLDS).sum(0)
    wrong = (np.array(ppv)[:, None] < THRESHOLDS).sum(0)
    mean_f1 = (2 * hits / (len(siou) + hits + wrong)).mean()
    return [100 * float(value) for value in (average_precision_score(truth, scores), false[true >= 0.95][0],
                                             np.mean(siou), np.mean(ppv), mean_f1)]


@pytest.mark.parametrize('one', SETS, ids=lambda one: one.key)
def test_a_set_is_one_command_from_folder_to_table(town, tmp_path, capsys, one):
    lay_out(one.key, tmp_path / 'set')
    arguments = ['benchmark', str(tmp_path / 'set'), '--output', str(tmp_path / 'out'), *town.arguments('grid')]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    result = json.loads((tmp_path / 'out/benchmark.json').read_text())
    assert (result['set'], result['pictures']) == (one.name, COUNT)
    ours, own_level, *others = result['lines']
    figures = [ours[name] for name in ('ap', 'fpr95', 'siou', 'ppv', 'f1')]
    expected = computed(town, one.smallest_truth, one.smallest_report)
    assert figures == pytest.approx(expected, abs=0.1)
    assert 20 < figures[0] < 100  # neither nothing nor everything would tell definitions apart
    assert 0 < figures[2] < 100
    assert own_level['ap'] is None
    assert own_level['siou'] != ours['siou']
    assert [(other['method'], other['ap'], other['f1']) for other in others] == [
        (other.method, other.ap, other.f1) for other in one.published]

    row = next(line for line in printed.splitlines() if line.startswith('semanom, grid '))
    assert row.split()[-5:] == [f'{figure:.2f}' for figure in figures]
    assert one.source in printed
    assert 'of the test split' in printed if one.published_split == 'test' else f'of all {one.complete}' in printed

    with BagReader(tmp_path / 'out' / one.key) as reader:
        assert reader.stills
    metrics = json.loads((tmp_path / 'out/evaluation/metrics.json').read_text())
    assert metrics['recordings'][0]['stills']
    assert (metrics['frames'], metrics['anomalous_frames'], metrics['results'][0]['events']) == (COUNT, COUNT - 1,
                                                                                               COUNT - 1)
    assert (tmp_path / 'out/evaluation/report.html').is_file()


def test_nominal_pictures_become_a_database_first(town, tmp_path, capsys):
    lay_out('road-anomaly-21', tmp_path / 'set')
    for number in range(30):
        write(tmp_path / f'nominal/{number}.png', road(number, 1))
    arguments = ['benchmark', str(tmp_path / 'set'), '--nominal', str(tmp_path / 'nominal'), '--output',
                 str(tmp_path / 'out'), '--config', str(town.config)]
    assert main(arguments) == 0
    first = capsys.readouterr().out
    assert 'semanom, grid' in first
    assert (tmp_path / 'out/database/manifest.json').is_file()
    assert main(arguments) == 0  # an earlier benchmark is replaced
    assert capsys.readouterr().out == first
    again = [*arguments[:2], '--database', str(tmp_path / 'out/database'), *arguments[4:]]
    assert main(again) == 0  # what it recorded serves again, in the same folder
    assert capsys.readouterr().out == first
    again[2:4] = ['--nominal', str(tmp_path / 'out/nominal/0_nominal')]
    assert main(again) == 2
    assert 'found it inside --output' in capsys.readouterr().err
    assert (tmp_path / 'out/nominal/0_nominal').is_dir()


def test_what_cannot_be_measured_is_one_line(town, tmp_path, capsys):
    def error(*arguments):
        assert main(['benchmark', *map(str, arguments), *town.arguments('grid')]) == 2
        lines = capsys.readouterr().err.splitlines()
        return next(line for line in lines if line.startswith('semanom benchmark: '))

    lay_out('road-anomaly', tmp_path / 'set')
    assert 'expected the layout of RoadAnomaly21' in error(tmp_path, '--dataset', 'road-anomaly-21', '--output',
                                                          tmp_path / 'out')
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine/thesis.tex').write_text('')
    assert 'found something that is no benchmark (thesis.tex)' in error(tmp_path / 'set', '--output', tmp_path / 'mine')
    assert (tmp_path / 'mine/thesis.tex').is_file()
    write(tmp_path / 'set/frames/animal2.labels/labels_semantic.png', np.full((HEIGHT, WIDTH), 3, np.uint8))
    assert 'found the values 3, of which 3 is not declared, expected 0/1 (nominal), 2 (anomalous), 255' in error(
        tmp_path / 'set', '--output', tmp_path / 'out')
    assert not (tmp_path / 'out/benchmark.json').exists()


@pytest.mark.parametrize('seed', range(4))
def test_best_f1(seed):
    random = np.random.default_rng(seed)
    anomalous, nominal = random.integers(0, 20, 30), random.integers(0, 90, 30)[::-1] * np.arange(30)[::-1]
    def f1(level):
        hits = anomalous[level:].sum()
        return 2 * hits / (hits + nominal[level:].sum() + anomalous.sum())

    assert f1(best_f1_bin(anomalous, nominal)) == max(f1(level) for level in range(30))
