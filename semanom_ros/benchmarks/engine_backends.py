"""The encoder's backends and precisions, each against PyTorch as it is: speed, scores, verdicts."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from semanom_ros.benchmarks.figures import Found
from semanom_ros.benchmarks.nominal_drive import TOPIC, bag_of, judge_of, nominal_of
from semanom_ros.benchmarks.plan import Plan, forward_pass
from semanom_ros.benchmarks.timing import in_turn, interval, ratio, summary
from semanom_ros.core.embedding.embedder import Embedder
from semanom_ros.core.frames import Frame
from semanom_ros.core.pipeline import Judge
from semanom_ros.core.scoring.scorer import FrameScores
from semanom_ros.errors import SemanomError
from semanom_ros.recordings.bags import BagReader

log = logging.getLogger(__name__)

ENGINES = (('torch', 'bf16'), ('compile', 'fp32'), ('openvino', 'fp32'), ('openvino', 'bf16'), ('openvino', 'int8'),
           ('onnxruntime', 'fp32'), ('onnxruntime', 'int8'), ('tensorrt', 'fp16'))
"""Backend and precision; each in bench.json as `openvino-int8`."""

_FRAMES = 12  # that certificate and benchmark compare


def backends(plan: Plan, embedder: Embedder, found: Found, engines: Sequence[tuple[str, str]]) -> None:
    """Each engine's forward pass beside PyTorch's in fp32, and what it changes of scores and verdicts.

    `semanom export` makes the engine, for a database of the drive. Scores are those of frames of the drive, every
    other one with something in it that is not nominal, in alarm levels. What is not installed, or refused, is null.
    """
    original, frames = judge_of(plan, embedder), compared_frames(plan, _FRAMES)
    expected, forward = _scores(original, frames), forward_pass(embedder)
    for backend, precision in engines:
        name = f'{backend}-{precision}'
        try:
            judge = _judge(plan, nominal_of(plan, embedder), backend, precision)
        except SemanomError as error:
            log.info('backend %s: not measured (%s)', name, error)
            found.put(f'backends.{name}', None)
            continue
        times = in_turn({'torch': forward, name: forward_pass(judge.embedder)}, plan.few, name)
        scores = _scores(judge, frames)
        pairs = list(zip(scores, expected, strict=True))
        found.put(f'backends.{name}', {
            'speedup': ratio(times['torch'], times[name]), 'interval': interval(times['torch'], times[name]),
            'score_error': max(float(np.abs(theirs.scores - ours.scores).max()) for theirs, ours in pairs),
            'verdicts_equal': all((theirs.score > 1) == (ours.score > 1) for theirs, ours in pairs)})
        found.details.setdefault('backends', {})[name] = {key: summary(values) for key, values in times.items()} | {
            'frame_score_error': max(abs(theirs.score - ours.score) for theirs, ours in pairs),
            'frames': len(frames), 'above_the_level': sum(ours.score > 1 for ours in expected)}


def _judge(plan: Plan, database: Path, backend: str, precision: str) -> Judge:
    """With another engine.

    Raises:
        SemanomError: there is none, or it is refused.
    """
    changes = {'precision': precision, 'variant': 'grid'}
    if backend != 'torch':
        changes['backend'] = backend
        command = [sys.executable, '-m', 'semanom_ros.cli', 'export', '--database', str(database), '--backend', backend,
                   '--precision', precision, '--frames', str(_FRAMES)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()
            raise SemanomError(said[-1] if said else f'semanom export ended with status {done.returncode}')
    return Judge.load(plan.settings.method.changed(changes), database)


def compared_frames(plan: Plan, count: int) -> list[Frame]:
    """The first of the drive, every other one with something in it that is not nominal."""
    with BagReader(bag_of(plan)) as reader:
        frames = list(islice(reader.images(TOPIC), count))
    generator = np.random.default_rng(3)
    for frame in frames[1::2]:
        frame.image[300:420, 500:660] = generator.integers(0, 256, (120, 160, 3), np.uint8)
    return frames


def _scores(judge: Judge, frames: Sequence[Frame]) -> list[FrameScores]:
    return [judge.score(judge.embedder.embed([frame])[0]) for frame in frames]
