"""`semanom bench`: what the parts around the encoder cost, as multiples of its forward pass."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.contrib.logging import logging_redirect_tqdm

from semanom_ros.commands.numbers import whole
from semanom_ros.commands.options import add_parameter_options, settings_of
from semanom_ros.commands.progress_bars import Bars
from semanom_ros.errors import ParameterError

if TYPE_CHECKING:
    from semanom_ros.benchmarks.plan import Plan

BENCHMARKS = {
    'end_to_end': 'an image published until its score is received, over the forward pass',
    'overload': 'frames dropped, and the latency of the others, when the camera is three times too fast',
    'search': 'the search of one frame in databases of each size, over the forward pass',
    'record': 'semanom record, for each frame, over the forward pass',
    'anomalib': 'scoring a frame in anomalib (AnomalyDINO) over ours, features given; needs anomalib',
    'memory': 'peak memory with a recording four times as long, over that with a short one',
    'methods': 'AnomalyDINO and PatchCore through anomalib and through ours on a simulated drive: quality, latency '
               'and memory; needs anomalib for its rows',
    'received': '720p images that the detector receives in a second while it works',
}
SIZES = (100_000, 1_000_000)
QUICK_SIZES = (10_000,)


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument('--output', type=Path, required=True, metavar='DIR', help='folder for bench.json')
    parser.add_argument('--only', nargs='+', choices=BENCHMARKS, default=list(BENCHMARKS), metavar='BENCHMARK',
                        help='; '.join(f'{name}: {text}' for name, text in BENCHMARKS.items()))
    parser.add_argument('--sizes', nargs='+', type=whole(1), metavar='N',
                        help='vectors of the databases that are searched (default 1e5 1e6)')
    parser.add_argument('--repeats', type=int, metavar='N', help='how often each thing is timed (default 30)')
    parser.add_argument('--quick', action='store_true', help='small sizes and few repeats: does it work, not how fast')
    parser.add_argument('--scratch', type=Path, metavar='DIR',
                        help='where bags and databases go, several GB at 1e6 vectors (default: a temporary folder)')
    add_parameter_options(parser)


def run(arguments: argparse.Namespace) -> None:
    """Measures, prints, and writes bench.json."""
    from semanom_ros.benchmarks.plan import Plan  # PyTorch, which takes seconds to import
    from semanom_ros.evaluation.metric_table import shown_in_bench

    quick = arguments.quick
    repeats = arguments.repeats if arguments.repeats is not None else 3 if quick else 30
    if repeats < 1:
        raise ParameterError(f'--repeats {repeats}: expected at least 1')
    settings = settings_of(arguments).changed({'append': False})
    sizes = tuple(arguments.sizes or (QUICK_SIZES if quick else SIZES))
    with tempfile.TemporaryDirectory(prefix='semanom_', dir=arguments.scratch) as scratch, logging_redirect_tqdm():
        plan = Plan(settings, Path(scratch), sizes, repeats, frames=20 if quick else 100,
                    burst_s=4.0 if quick else 10.0)
        result = _measure(plan, arguments.only)
    arguments.output.mkdir(parents=True, exist_ok=True)
    file = arguments.output / 'bench.json'
    file.write_text(json.dumps(result, indent=2) + '\n')
    for name in ('end_to_end_over_forward', 'dropped_at_three_times_the_rate', 'search_over_forward',
                 'record_over_forward', 'anomalib_over_ours', 'received_fps_720p', 'memory_growth'):
        print(f'{name:34}{_shown(result[name])}')
    for name, row in result['details'].get('methods', {}).get('rows', {}).items():
        print(f'{name:34}' + _shown(shown_in_bench(row) | {'peak MB': row['peak_mb']}))
    print(f'{file}: with the times, and the machine that they were taken on')


def _measure(plan: Plan, wanted: list[str]) -> dict[str, Any]:
    from semanom_ros.benchmarks import anomalib_methods as methods
    from semanom_ros.benchmarks import live_detector as live
    from semanom_ros.benchmarks import memory, search
    from semanom_ros.benchmarks.plan import machine
    from semanom_ros.core.embedding.embedder import Embedder

    embedder = Embedder.load(plan.settings.method)
    embedder.encoder.warm_up()
    encoder = embedder.encoder
    result: dict[str, Any] = {
        'end_to_end_over_forward': None, 'search_over_forward': dict.fromkeys(map(search.key, SIZES)),
        'record_over_forward': None, 'anomalib_over_ours': dict.fromkeys(map(search.key, SIZES)),
        'received_fps_720p': None, 'dropped_at_three_times_the_rate': None,
        'memory_growth': {'record': None, 'evaluate': None}, 'machine': machine(encoder.device),
        'details': {'encoder': {
            'name': encoder.name, 'weights': encoder.weights, 'input_size': encoder.input_size,
            'grid_size': encoder.grid_size, 'dimension': encoder.dimension, 'device': str(encoder.device),
            'precision': str(encoder.dtype).removeprefix('torch.')}},
    }
    if 'record' in wanted:
        _merge(result, live.record(plan, embedder, Bars()))
    if {'end_to_end', 'overload', 'received'} & set(wanted):
        with live.detector(plan, embedder, Bars()) as detector:
            if 'end_to_end' in wanted:
                _merge(result, detector.end_to_end(plan, embedder))
            if 'overload' in wanted:
                _merge(result, detector.overload(plan))
            if 'received' in wanted:
                _merge(result, detector.received(plan))
    if 'search' in wanted:
        _merge(result, search.search(plan, embedder))
    if 'anomalib' in wanted:
        _merge(result, search.against_anomalib(plan, embedder))
    if 'memory' in wanted:
        _merge(result, memory.growth(plan))
    if 'methods' in wanted:
        _merge(result, methods.compare(plan))
    return result


def _merge(result: dict[str, Any], found: dict[str, Any]) -> None:
    """Puts figures into place, one level deep."""
    for name, value in found.items():
        if isinstance(value, dict):
            result[name] |= value
        else:
            result[name] = value


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return '  '.join(f'{size}: {_shown(ratio)}' for size, ratio in value.items())
    return 'not measured' if value is None else f'{value:g}'
