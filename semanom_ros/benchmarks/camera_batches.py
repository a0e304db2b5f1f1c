"""Frames through the pipeline without ROS: stage by stage, instance beside grid, six cameras at once."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count, cycle, islice
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from semanom_ros.benchmarks.figures import Found
from semanom_ros.benchmarks.nominal_drive import judge_of
from semanom_ros.benchmarks.plan import CAMERAS, IMAGE_SIZE, Plan, drive, forward_pass
from semanom_ros.benchmarks.timing import in_turn, ratio, summary
from semanom_ros.core.embedding.embedder import Embedder
from semanom_ros.core.embedding.preprocessing import Prepared
from semanom_ros.core.frames import Frame
from semanom_ros.core.pipeline import CameraState, Judge
from semanom_ros.core.results import FrameResult, Reason
from semanom_ros.errors import SemanomError
from semanom_ros.recordings.images import ImageMessage, encode_pixels, image_from_message

_PERIOD_NS = 100_000_000
_PICTURES = 8  # different ones, over and over


def stages(plan: Plan, embedder: Embedder, found: Found) -> None:
    """What each stage takes of a frame that comes alone, from the message to the verdict, over the forward pass."""
    one = OneByOne(judge_of(plan, embedder))
    times = in_turn({'forward': forward_pass(embedder), 'pipeline': one}, plan.repeats, 'stages')
    spent = {stage: values[1:] for stage, values in one.spent.items()}
    found.put_ratio('pipeline_over_forward', times['pipeline'], times['forward'])
    found.details['stages'] = {
        'forward': summary(times['forward']), 'pipeline': summary(times['pipeline']),
        'of_forward': {stage: ratio(values, times['forward']) for stage, values in spent.items()}}


def instance(plan: Plan, embedder: Embedder, found: Found) -> None:
    """The variant `instance`, its segments from the patch embeddings, over the variant `grid`: a frame, end to end."""
    segmenting = Embedder.load(plan.settings.method.changed({'variant': 'instance', 'segmenter': 'embedding'}))
    variants = {'grid': OneByOne(judge_of(plan, embedder)), 'instance': OneByOne(judge_of(plan, segmenting))}
    times = in_turn(variants, plan.repeats, 'instance')
    found.put_ratio('instance_over_grid', times['instance'], times['grid'])
    found.details['instance'] = {name: summary(values) for name, values in times.items()} | {
        'segment': summary(variants['instance'].spent['segment'][1:])}


def six_cameras(plan: Plan, embedder: Embedder, found: Found) -> None:
    """Six cameras whose frames are there together: images a second, over those of a bare pass over six at once."""
    judge, states = judge_of(plan, embedder), [CameraState() for _ in range(CAMERAS)]
    pictures, number = _pictures(), count(1)

    def batch() -> tuple[list[Frame], list[Prepared] | None]:
        stamp = next(number) * _PERIOD_NS
        frames = [Frame(picture, stamp, f'camera_{index}') for index, picture in enumerate(islice(pictures, CAMERAS))]
        return frames, [embedder.prepare(frame) for frame in frames] if embedder.prepares_ahead else None

    with ThreadPoolExecutor(1) as ahead:  # as in the detector
        waiting = ahead.submit(batch)

        def together() -> None:
            nonlocal waiting
            (frames, prepared), waiting = waiting.result(), ahead.submit(batch)
            for result in judge.process_batch(frames, states, prepared):
                _check(result)

        times = in_turn({'bare': forward_pass(embedder, CAMERAS), 'six': together}, plan.few, 'six cameras')
    found.put_ratio('six_cameras_in_process_over_forward', times['bare'], times['six'])
    found.details['six_cameras_in_process'] = {name: summary(values) for name, values in times.items()} | {
        'images_a_second': round(CAMERAS * 1e3 / float(np.median(times['six'])), 2)}


class OneByOne:
    """A camera's frames through the pipeline, one a call, from the message on; `spent` are milliseconds by stage."""

    def __init__(self, judge: Judge) -> None:
        self._judge, self._state, self._number = judge, CameraState(), count(1)
        self._messages = cycle([_message(picture) for picture in drive(_PICTURES, between=True)])
        self.spent: dict[str, list[float]] = defaultdict(list)

    def __call__(self) -> None:
        begin = time.perf_counter()
        image = image_from_message(next(self._messages))
        self.spent['decode'].append((time.perf_counter() - begin) * 1e3)
        result = self._judge.process(Frame(image, next(self._number) * _PERIOD_NS), self._state)
        _check(result)
        for stage, milliseconds in result.timings_ms.items():
            if stage != 'total':
                self.spent[stage].append(milliseconds)


def _check(result: FrameResult) -> None:
    """What fails is quick.

    Raises:
        SemanomError: the frame could not be judged.
    """
    if result.reason in (Reason.FAILED, Reason.NOT_FINITE, Reason.NOT_CALIBRATED):
        raise SemanomError(f'benchmark: found a frame that is unknown, {result.reason.words} ({result.explanation}), '
                           'expected a verdict; see the log')


def _pictures() -> Iterator[npt.NDArray[np.uint8]]:
    return cycle(list(drive(_PICTURES, between=True)))


def _message(picture: npt.NDArray[np.uint8]) -> ImageMessage:
    """As it comes from a camera driver, without ROS."""
    height, width = IMAGE_SIZE
    fields: dict[str, Any] = {'height': height, 'width': width, 'encoding': 'bgr8', 'is_bigendian': 0,
                              'step': 3 * width, 'data': np.frombuffer(encode_pixels(picture, 'bgr8'), np.uint8)}
    return cast('ImageMessage', SimpleNamespace(**fields))
