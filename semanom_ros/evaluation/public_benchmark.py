"""A public set of road anomalies from its pictures to the field's table.

Pixel metrics are those of the evaluation. Component metrics are taken as SegmentMeIfYouCan takes them (Chan et al.,
NeurIPS 2021 Datasets and Benchmarks; github.com/SegmentMeIfYouCan/road-anomaly-benchmark): of the maps cut where the
pixels' F1 is best on the truth, without the components that the set's track leaves out. How the detector does without
knowing the truth, cut at its own alarm level, is a row beside it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from semanom_ros.core.progress import Progress
from semanom_ros.errors import SemanomError
from semanom_ros.evaluation.components import ComponentStatistics
from semanom_ros.evaluation.detectors import Detectors
from semanom_ros.evaluation.measurement import rounded
from semanom_ros.evaluation.metric_table import DASH
from semanom_ros.evaluation.metrics import PixelStatistics, bin_index
from semanom_ros.evaluation.result_bag import PREFIX
from semanom_ros.evaluation.runner import check_output, evaluate
from semanom_ros.evaluation.truth import TruthReader
from semanom_ros.recordings.bags import BagReader
from semanom_ros.recordings.images import labels_from_message, stamp_ns
from semanom_ros.recordings.importing import import_images, import_pictures
from semanom_ros.recordings.nominal_recording import record_bags
from semanom_ros.recordings.public_sets import SETS, Found
from semanom_ros.settings import Settings

RESULT = 'benchmark.json'
EVALUATION = 'evaluation'
_NOMINAL, _DATABASE = 'nominal', 'database'
_OURS = {RESULT, EVALUATION, _NOMINAL, _DATABASE, *(one.key for one in SETS)}


@dataclass(frozen=True)
class Line:
    """One row of the table; figures in per cent, None where there is none.

    Attributes:
        method: name.
        outliers: whether it saw outlier data in training.
        split: the part of the set that the figures are of.
        ap, fpr95: of pixels.
        siou, ppv, f1: of components.
    """

    method: str
    outliers: bool
    split: str
    ap: float | None
    fpr95: float | None
    siou: float | None
    ppv: float | None
    f1: float | None


def check_folder(output: Path) -> None:
    """Refuses a folder that holds anything but an earlier benchmark, or where none can be written.

    Raises:
        SemanomError: something else is there, or it is not writable.
    """
    if output.exists():
        held = {path.name for path in output.iterdir() if not path.name.startswith('.')} if output.is_dir() else {''}
        if others := held - _OURS:
            raise SemanomError(f'{output}: found something that is no benchmark ({min(others) or "a file"}), expected '
                               'an empty or new folder; give another --output')
    check_output(output / EVALUATION)


def record_nominal(sources: Sequence[Path], output: Path, settings: Settings, progress: Progress) -> Path:
    """A nominal database of folders of pictures, which have nothing to do with each other, and of recordings.

    It takes the place of the one that an earlier benchmark recorded into the same folder.

    Args:
        sources: each a folder of pictures, or what BagReader takes.
        output: of the benchmark.
        settings: of the method and the recorder.
        progress: is told.

    Returns:
        Its folder.

    Raises:
        SemanomError: a source, the encoder or a setting will not do.
    """
    for source in sources:
        if not source.exists() or output.resolve() in source.resolve().parents:
            where = 'it inside --output' if source.exists() else 'nothing there'
            raise SemanomError(f'{source}: found {where}, expected a folder of pictures or a recording; give another '
                               '--nominal')
    for name in (_NOMINAL, _DATABASE):
        shutil.rmtree(output / name, ignore_errors=True)
    bags = []
    for number, source in enumerate(sources):
        bag = source
        if source.is_dir() and not any(source.glob('*.mcap*')) and not any(source.glob('*.db3*')):
            bag = output / _NOMINAL / f'{number}_{source.resolve().name}'
            import_images(source, bag, stills=True, progress=progress)
        bags.append(bag)
    record_bags(bags, output / _DATABASE, settings, progress)
    return output / _DATABASE


def benchmark(found: Found, database: Path, output: Path, settings: Settings, progress: Progress) -> list[Line]:
    """Imports a public set, evaluates it, and sets the field's figures beside those of others.

    Args:
        found: the set.
        database: nominal database.
        output: folder, see `check_folder`.
        settings: of the method and the detector.
        progress: is told.

    Returns:
        The table, ours first; `benchmark.json` in `output` holds it too.

    Raises:
        SemanomError: a picture or mask, the database or the encoder will not do.
    """
    one, recording = found.set, output / found.set.key
    detectors = Detectors(settings.method, [database], (), (False,))
    shutil.rmtree(recording, ignore_errors=True)  # of an earlier benchmark
    import_pictures(one.name, found.pictures, recording, values=one.values, stills=True, progress=progress)
    content = evaluate([recording], detectors, output / EVALUATION, settings=settings)
    name = f'semanom, {detectors.rows[0].name}'
    best, own = component_metrics(recording, output / EVALUATION / 'bags' / one.key, one.smallest_truth,
                                  one.smallest_report, progress)
    pixels = content['results'][0]['pixel']
    lines = [Line(name, False, one.split, _percent(pixels['ap']), _percent(pixels['fpr95']), *best),
             Line(f'{name}, own level', False, one.split, None, None, *own)]
    lines += [Line(other.method, other.outliers, one.published_split, *other[3:]) for other in one.published]
    (output / RESULT).write_text(json.dumps(rounded({
        'set': one.name, 'split': one.split, 'pictures': len(found.pictures), 'complete': one.complete,
        'source': one.source, 'smallest_truth_px': one.smallest_truth, 'smallest_report_px': one.smallest_report,
        'papers': {other.method: other.paper for other in one.published},
        'lines': [asdict(line) for line in lines]}), indent=1) + '\n')
    return lines


Figures = tuple[float | None, float | None, float | None]


def component_metrics(recording: Path, results: Path, smallest_truth: int, smallest_report: int, progress: Progress
                      ) -> tuple[Figures, Figures]:
    """sIoU, PPV and mean F1 in per cent, of maps cut where the pixels' F1 is best and at the detector's own level.

    Args:
        recording: with ground truth.
        results: the result bag of its evaluation; its maps are in steps of 1/256 of the alarm level.
        smallest_truth: ground-truth components of fewer pixels are ignored.
        smallest_report: reported components of fewer pixels are dropped.
        progress: is told.
    """
    pixels = PixelStatistics()
    for number, (scores, _, truth) in enumerate(_judged(recording, results, 'find the best F1 of', progress)):
        pixels.add(scores, truth, number)
    level = best_f1_bin(pixels.anomalous, pixels.nominal)
    at_best, at_own = ComponentStatistics(), ComponentStatistics()
    for number, (scores, mask, truth) in enumerate(_judged(recording, results, 'measure components of', progress)):
        for statistics, reported in ((at_best, bin_index(scores) >= level), (at_own, mask)):
            statistics.add(reported, truth, number, smallest_truth=smallest_truth, smallest_prediction=smallest_report)
    best, own = ((_percent(sums.mean_siou()), _percent(sums.mean_ppv()), _percent(sums.mean_f1()))
                 for sums in (at_best.sums(), at_own.sums()))
    return best, own


def best_f1_bin(anomalous: npt.NDArray, nominal: npt.NDArray) -> int:
    """The lowest bin that counts as anomalous where the F1 of the pixels in histograms (B,) is best."""
    found, false = (np.cumsum(counts[::-1], dtype=np.float64)[::-1] for counts in (anomalous, nominal))
    return int(np.argmax(2 * found / np.maximum(found + false + found[0], 1)))


def _judged(recording: Path, results: Path, what: str, progress: Progress
            ) -> Iterator[tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_], npt.NDArray[np.uint8]]]:
    """Map, mask and truth, (H, W) each, of every frame that has ground truth."""
    masks, maps = PREFIX + 'mask', PREFIX + 'anomaly_map'
    with BagReader(results) as reader, TruthReader(BagReader(recording)) as truths:
        progress.begin(f'{what} {recording.name}', reader.counts[maps], 'frame')
        waiting: dict[str, Any] = {}
        for topic, _, message in reader.messages([masks, maps]):
            waiting[topic] = message
            if len(waiting) == 2:
                mask = labels_from_message(waiting[masks]) > 0
                scores = np.frombuffer(waiting[maps].data, '<f4').reshape(mask.shape)
                truth = truths.at(stamp_ns(message), (mask.shape[0], mask.shape[1]))
                if truth is not None:
                    yield scores, mask, truth
                waiting.clear()
                progress.advance(1)
        progress.end()


def table(found: Found, lines: Sequence[Line]) -> str:
    """For people."""
    one = found.set
    width = max(len(line.method) for line in lines) + 2
    text = [f'{one.name}, {one.split}: {len(found.pictures)} pictures; figures in per cent, components of fewer than '
            f'{one.smallest_truth} true or {one.smallest_report} reported pixels left out',
            '', f'{"":{width}s}{"of":12s}{"AP":>7s}{"FPR95":>7s}{"sIoU":>7s}{"PPV":>7s}{"F1":>7s}']
    for line in lines:
        figures = (line.ap, line.fpr95, line.siou, line.ppv, line.f1)
        text.append(f'{line.method + (" *" if line.outliers else ""):{width}s}{line.split:12s}'
                    + ''.join(f'{DASH if figure is None else format(figure, ".2f"):>7s}' for figure in figures))
    if one.published:
        text += ['', f'Others: {one.source}' + ('; * saw outlier data in training' if any(
            line.outliers for line in lines) else '') + '.']
        if one.published_split != one.split:
            text.append(f'Their figures are of the {one.published_split} split, whose truth is kept back, ours of the '
                        f'{one.split} split: other pictures.')
        elif len(found.pictures) != one.complete:
            text.append(f'Their figures are of all {one.complete} pictures, ours of {len(found.pictures)}.')
    return '\n'.join(text)


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value
