"""`semanom record` and `semanom evaluate`: the time of a frame, over the forward pass."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable

from tqdm import tqdm

from semanom_ros.benchmarks import nominal_drive
from semanom_ros.benchmarks.figures import Found
from semanom_ros.benchmarks.plan import Plan, bare_times
from semanom_ros.benchmarks.timing import summary
from semanom_ros.core.embedding.embedder import Embedder
from semanom_ros.evaluation.detectors import Detectors
from semanom_ros.evaluation.replay import Topics, replay

_PASSES = 2  # of the bare encoder, before each round and after the last


def record(plan: Plan, embedder: Embedder, found: Found) -> None:
    """`semanom record` of a bag of 720p images, for each frame: reading, embedding, writing, calibrating."""
    nominal_drive.bag_of(plan)
    path = plan.scratch / 'recorded'

    def once() -> tuple[float, int]:
        recording = nominal_drive.record(plan, embedder, path)
        shutil.rmtree(path)
        return recording.seconds, recording.summary.frames

    _measure('record', once, plan, embedder, found)


def evaluate(plan: Plan, embedder: Embedder, found: Found) -> None:
    """The replay of `semanom evaluate` of that bag, for each frame: reading, judging, metrics, the result bag.

    Without and with the filter, as by default. The report at the end, which takes the same for any recording, is not
    part of it.
    """
    bag, path = nominal_drive.bag_of(plan), plan.scratch / 'evaluated'
    nominal = nominal_drive.nominal_of(plan, embedder)
    detectors = Detectors(plan.settings.method, [nominal], ('grid',), (False, True), embedder)

    def once() -> tuple[float, int]:
        begin = time.perf_counter()
        replayed = replay([bag], [detectors], detectors.rows[-1], path, Topics())
        seconds = time.perf_counter() - begin
        shutil.rmtree(path)
        return seconds, len(replayed.recording_of)

    _measure('evaluate', once, plan, embedder, found)


def _measure(what: str, once: Callable[[], tuple[float, int]], plan: Plan, embedder: Embedder, found: Found) -> None:
    """Rounds of a command that tells its seconds and its frames, between passes of the bare encoder."""
    bare, medians = bare_times(embedder, _PASSES)
    each = []
    for _ in tqdm(range(min(3, plan.few)), desc=what, leave=False, disable=None):
        seconds, frames = once()
        each.append(seconds * 1e3 / frames)
        bare += bare_times(embedder, _PASSES)[0]
    found.put_ratio(f'{what}_over_forward', each, bare)
    found.details[what] = {'frames': frames, 'a_frame': summary(each), 'bare': summary(bare), **medians}
