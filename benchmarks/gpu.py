"""The pipeline on a GPU, without ROS: nothing is installed or compiled, a checkout and its Python packages suffice.

    pip install -r requirements/python.txt opencv-python-headless
    python benchmarks/gpu.py --output benchmarks/results/NAME

It takes less than eight minutes on one GPU and writes `gpu.json`, in the form of `semanom bench`'s bench.json. Each
encoder is measured in each precision: forward pass, pipeline, six cameras, stages, memory, synchronizations, and the
scores beside those of the CPU in fp32; then search. What does not fit into the time is null, and the log says so.
`--device cpu --quick` finds out in half a minute whether everything runs.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    from semanom_ros.benchmarks.figures import Found
    from semanom_ros.benchmarks.plan import Plan
    from semanom_ros.core.embedding.embedder import Embedder

log = logging.getLogger('gpu')

ENCODERS = (('open_clip:ViT-B-16', [448, 768]), ('timm:vit_small_patch14_dinov2.lvd142m', [588, 966]))
"""960x592 pictures, in whole patches of 14."""

PRECISIONS = ('bf16', 'fp16', 'fp32')
COMPARED = 4  # frames whose scores are computed on the CPU as well, every other one anomalous
ENGINES = (('compile', 'bf16'), ('tensorrt', 'fp16'))
BUDGET_S = 360.0


def main() -> None:
    """Measures and writes gpu.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--output', type=Path, required=True, metavar='DIR')
    parser.add_argument('--device', default='cuda', help='cuda, cuda:N or cpu (default cuda)')
    parser.add_argument('--sizes', nargs='+', type=int, default=None, metavar='N', help='default 1e5 1e6')
    parser.add_argument('--repeats', type=int, default=None, metavar='N', help='default 50')
    parser.add_argument('--budget', type=float, default=BUDGET_S, metavar='S',
                        help='seconds after which nothing new is begun (default %(default)g)')
    parser.add_argument('--quick', action='store_true', help='a tiny encoder: does it work, not how fast')
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format='%(message)s')
    with tempfile.TemporaryDirectory(prefix='semanom_gpu_') as scratch:
        _know_encoders(Path(scratch) / 'metadata')
        result = _measure(given, Path(scratch))
    given.output.mkdir(parents=True, exist_ok=True)
    file = given.output / 'gpu.json'
    file.write_text(json.dumps(result, indent=1) + '\n')
    from semanom_ros.benchmarks.bench_table import markdown

    print(markdown(result))
    print(file)


def _know_encoders(folder: Path) -> None:
    """Makes the package's entry points known where it is not installed, here and in the processes begun here."""
    if not entry_points(group='semanom_ros.encoders'):
        folder.mkdir()
        subprocess.run([sys.executable, 'setup.py', '-q', 'egg_info', '--egg-base', str(folder)], cwd=ROOT, check=True)
        sys.path.insert(0, str(folder))
    os.environ['PYTHONPATH'] = os.pathsep.join([*sys.path[:2], os.environ.get('PYTHONPATH', '')])


def _measure(given: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """The content of gpu.json; the figures at the top are those of the first encoder in the first precision."""
    from semanom_ros.benchmarks.encoder_results import about, label, nothing
    from semanom_ros.benchmarks.engine_backends import backends
    from semanom_ros.benchmarks.figures import Found
    from semanom_ros.benchmarks.machine import machine
    from semanom_ros.benchmarks.plan import Plan
    from semanom_ros.benchmarks.search import search
    from semanom_ros.core.embedding.embedder import Embedder
    from semanom_ros.settings import Settings

    begun, quick = time.monotonic(), given.quick
    repeats = given.repeats or (3 if quick else 50)
    sizes = tuple(given.sizes or ([10_000] if quick else [100_000, 1_000_000]))
    result = nothing()

    def within(name: str, benchmark: Callable[..., None], *arguments: Any) -> None:
        spent = time.monotonic() - begun
        if spent > given.budget:
            log.info('%s: not measured, %.0f s are over', name, spent)
            return
        benchmark(*arguments)
        log.info('%s: measured, %.0f s after the start', name, time.monotonic() - begun)

    encoders = [('timm:test_vit', [160, 160])] if quick else ENCODERS
    precisions = ('fp32',) if quick else PRECISIONS

    def measured(name: str, size: list[int], precision: str) -> tuple[str, Plan, Embedder, Found]:
        settings = Settings().changed({'encoder': name, 'encoder_weights': 'random:0', 'input_size': size,
                                       'device': given.device, 'precision': precision})
        folder = scratch / f'{name.replace(":", "-")}-{precision}'
        folder.mkdir()
        plan = Plan(settings, folder, sizes, repeats, frames=20, burst_s=0.0)
        held = _allocated()
        embedder, found = Embedder.load(settings.method), Found()
        embedder.encoder.warm_up()
        found.details['encoder'] = about(embedder.encoder)
        title = f'{label(embedder.encoder)} {precision}'
        result['machine'] = machine(embedder.encoder.device)
        result['encoders'][title] = found
        within(title, _one, plan, embedder, found, held)
        return title, plan, embedder, found

    # what matters most comes first: the time may not last
    whole = [measured(name, size, precisions[0]) for name, size in encoders]
    for title, plan, embedder, found in reversed(whole):  # the smaller embeddings first
        within(f'{title} search', search, plan, embedder, found)
    for title, plan, embedder, found in whole:
        if embedder.encoder.device.type == 'cuda':
            within(f'{title} backends', backends, plan, embedder, found, ENGINES)
    for precision in precisions[1:]:
        for name, size in encoders:
            if time.monotonic() - begun <= given.budget:
                measured(name, size, precision)
    first = whole[0][-1]
    first.onto(result)
    result['encoders'] = {title: found.content() for title, found in result['encoders'].items()}
    result['seconds'] = round(time.monotonic() - begun, 1)
    return result


def _allocated() -> int:
    """Bytes of the GPU's memory that are in use here."""
    import torch

    return torch.cuda.memory_allocated() if torch.cuda.is_available() else 0


def _one(plan: Plan, embedder: Embedder, found: Found, held: int) -> None:
    """Everything but search, of one encoder in one precision; `held` bytes of the GPU were in use before."""
    import torch

    from semanom_ros.benchmarks.camera_batches import six_cameras, stages
    from semanom_ros.benchmarks.engine_backends import compared_frames
    from semanom_ros.benchmarks.nominal_drive import judge_of
    from semanom_ros.benchmarks.plan import forward_pass
    from semanom_ros.core.pipeline import CameraState

    cuda = embedder.encoder.device.type == 'cuda'
    judge = judge_of(plan, embedder)
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    stages(plan, embedder, found)
    six_cameras(plan, embedder, found)
    details: dict[str, Any] = {'pipeline_hz': round(1e3 / found.details['stages']['pipeline']['median_ms'], 1)}
    if cuda:
        details['peak_memory_mb'] = round((torch.cuda.max_memory_allocated() - held) / 1e6, 1)
        details['forward_on_the_gpu_ms'] = _by_events(forward_pass(embedder), plan.repeats)
        state, frames = CameraState(), compared_frames(plan, 3)
        judge.process(frames[0], state)
        details['synchronizations'] = _synchronizations(lambda: judge.process(frames[2], state))
    details |= _beside_cpu(plan, embedder)
    found.details['gpu'] = details


def _by_events(run: Callable[[], None], repeats: int) -> float:
    """Median milliseconds of what a function has the GPU do, by events in its stream."""
    import statistics

    import torch

    spent = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        end.synchronize()
        spent.append(start.elapsed_time(end))
    return round(statistics.median(spent), 3)


def _synchronizations(process: Callable[[], object]) -> dict[str, int]:
    """How often the CPU waits for the GPU in one frame: in operations that need a result, and explicitly.

    What FAISS waits for is not seen.
    """
    import torch

    explicit = 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal explicit
            explicit += 1
            return function(*arguments, **named)
        return call

    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode('warn')
    try:
        with warnings.catch_warnings(record=True) as seen, \
                mock.patch.object(torch.cuda, 'synchronize', counted(torch.cuda.synchronize)), \
                mock.patch.object(torch.cuda.Event, 'synchronize', counted(torch.cuda.Event.synchronize)), \
                mock.patch.object(torch.cuda.Stream, 'synchronize', counted(torch.cuda.Stream.synchronize)):
            warnings.simplefilter('always')
            process()
    finally:
        torch.cuda.set_sync_debug_mode(before)
    return {'for_results': sum('synchroniz' in str(warning.message) for warning in seen), 'explicit': explicit}


def _beside_cpu(plan: Plan, embedder: Embedder) -> dict[str, Any]:
    """How far scores are from those of the CPU in fp32, in alarm levels, with the same weights and database."""
    import numpy as np

    from semanom_ros.benchmarks.engine_backends import compared_frames
    from semanom_ros.benchmarks.nominal_drive import judge_of
    from semanom_ros.core.embedding.embedder import Embedder
    from semanom_ros.core.pipeline import Judge

    settings = plan.settings.method.changed({'device': 'cpu', 'precision': 'fp32', 'variant': 'grid'})
    here, cpu = judge_of(plan, embedder), Embedder.load(settings)
    beside = Judge.load(settings, here.database.path, cpu)
    errors, equal, highest = [], True, 0.0
    for frame in compared_frames(plan, COMPARED):
        ours, theirs = (judge.score(judge.embedder.embed([frame])[0]) for judge in (here, beside))
        errors.append(float(np.abs(ours.scores - theirs.scores).max()))
        highest = max(highest, float(theirs.scores.max()))
        equal &= (ours.score > 1) == (theirs.score > 1)
    return {'score_error_to_cpu': max(errors), 'highest_score_there': highest, 'verdicts_equal_to_cpu': equal,
            'same_weights': cpu.encoder.weights_sha256 == embedder.encoder.weights_sha256}


if __name__ == '__main__':
    main()
