"""Peak memory of recording and of evaluating, against the length of the recording."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import ParamSpec, TypeVar

import cv2
import numpy as np
from tqdm import tqdm

from semanom_ros.benchmarks.figures import Found
from semanom_ros.benchmarks.plan import Plan, drive
from semanom_ros.core.database.published import read_manifest
from semanom_ros.core.embedding.embedder import Embedder
from semanom_ros.core.progress import SILENT
from semanom_ros.evaluation.detectors import Detectors
from semanom_ros.evaluation.runner import evaluate
from semanom_ros.recordings.bags import BagWriter
from semanom_ros.recordings.nominal_recording import record_bags
from semanom_ros.settings import Settings

TIMES_LONGER = 4
_IMAGE_SIZE = (640, 360)
_PERIOD_NS = 100_000_000
_TOPIC = '/camera/image_raw/compressed'

P = ParamSpec('P')
T = TypeVar('T')


def in_own_process(function: Callable[P, T], *arguments: P.args, **keywords: P.kwargs) -> T:
    """What the function returns in a fresh process, which has nothing of this one's memory."""
    with ProcessPoolExecutor(1, mp_context=get_context('spawn')) as pool:
        return pool.submit(function, *arguments, **keywords).result()


def peak_mb() -> float:
    """Most memory that this process has had so far (VmHWM: mapped files are part of it), MB.

    Not ru_maxrss: across fork and exec that one remembers the parent's.
    """
    lines = Path('/proc/self/status').read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith('VmHWM')) * 1024 / 1e6


def growth(plan: Plan, found: Found) -> None:
    """Peak memory with a recording that is four times as long, over that with the short one.

    Each is measured in a process of its own. Both recordings are evaluated against the database of the short one.
    What recording needs for each embedding, to calibrate at the end, is in the figures: the database is in memory then.
    """
    lengths = {1: plan.frames, TIMES_LONGER: TIMES_LONGER * plan.frames}
    bags = {times: _bag(plan.scratch / f'length-{times}', frames) for times, frames in lengths.items()}
    databases = {times: plan.scratch / f'recorded-{times}' for times in lengths}
    record = {times: in_own_process(_record, bags[times], databases[times], plan.settings) for times in lengths}
    watch = {times: in_own_process(
        _evaluate, bags[times], databases[1], plan.scratch / f'evaluated-{times}', plan.settings)
        for times in lengths}
    vectors = {times: read_manifest(path) for times, path in databases.items()}
    found.put('memory_growth.record', round(record[TIMES_LONGER] / record[1], 3))
    found.put('memory_growth.evaluate', round(watch[TIMES_LONGER] / watch[1], 3))
    found.details['memory'] = {
        'frames': list(lengths.values()), 'record_peak_mb': _values(record), 'evaluate_peak_mb': _values(watch),
        'embeddings_mb': [round(4e-6 * m.description.dimension * (m.vectors + m.held_out_vectors), 1)
                          for m in vectors.values()]}


def _record(bag: Path, database: Path, settings: Settings) -> float:
    record_bags([bag], database, settings, SILENT)
    return peak_mb()


def _evaluate(bag: Path, database: Path, output: Path, settings: Settings) -> float:
    embedder = Embedder.load(settings.method.changed({'variant': 'grid'}))
    evaluate([bag], Detectors(settings.method, [database], (), (False, True), embedder), output, settings=settings)
    return peak_mb()


def _values(peaks: Mapping[int, float]) -> list[float]:
    return [round(peak, 1) for peak in peaks.values()]


def _bag(path: Path, frames: int) -> Path:
    """A recording with ground truth: something lies in the picture a second of every four."""
    width, height = _IMAGE_SIZE
    with BagWriter(path) as writer:
        for number, image in enumerate(tqdm(drive(frames), desc='bag', total=frames, leave=False, disable=None)):
            picture = np.asarray(cv2.resize(image, _IMAGE_SIZE, interpolation=cv2.INTER_AREA), np.uint8)
            mask = np.zeros((height, width), np.uint8)
            if number % 40 >= 30:
                picture[200:260, 300:380], mask[200:260, 300:380] = (220, 30, 30), 255
            stamp = (number + 1) * _PERIOD_NS
            writer.write_image(_TOPIC, picture, 'bgr8', stamp, 'camera_optical', compress=True)
            writer.write_image('/ground_truth/anomaly_mask', mask, 'mono8', stamp, 'camera_optical')
    return path
