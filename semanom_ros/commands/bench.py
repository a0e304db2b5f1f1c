"""`semanom bench`: what the parts around the encoder cost, as multiples of its forward pass."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm.contrib.logging import logging_redirect_tqdm

from semanom_ros.commands.numbers import whole
from semanom_ros.commands.options import add_parameter_options, given_parameters, settings_of
from semanom_ros.errors import ParameterError

if TYPE_CHECKING:
    from semanom_ros.parameters import Value
    from semanom_ros.settings import Settings

BENCHMARKS = {
    'stages': 'what each stage takes of a frame in the pipeline',
    'instance': 'a frame of the variant instance over one of the variant grid',
    'record': 'semanom record, for each frame, over the forward pass',
    'evaluate': 'semanom evaluate, for each frame, over the forward pass',
    'end_to_end': 'an image published until its score is received, over the forward pass',
    'throughput': 'images scored in a second when more come, over what the bare encoder takes',
    'six_cameras': 'the same with six cameras, over batches of six; and without ROS',
    'search': 'the search of one frame in databases of each size, over the forward pass',
    'overload': 'frames dropped, and the latency of the others, when the camera is three times too fast',
    'received': '720p images that the detector receives in a second while it works',
    'start': 'a detector started until it is configured, over imports and weights, with the largest database',
    'backends': 'each backend of the encoder: times as fast as PyTorch, error of the scores, verdicts',
    'anomalib': 'scoring a frame in anomalib (AnomalyDINO) over ours, features given; needs anomalib',
    'memory': 'peak memory with a recording four times as long, over that with a short one',
    'methods': 'AnomalyDINO and PatchCore through anomalib and through ours on a simulated drive: quality, latency '
               'and memory; needs anomalib for its rows',
}
ONCE = ('overload', 'received', 'start', 'backends', 'anomalib', 'memory', 'methods')
"""With the first encoder alone."""

ENCODERS: tuple[dict[str, Value], ...] = (
    {'encoder': 'timm:vit_small_patch14_dinov2.lvd142m', 'encoder_weights': 'random:0', 'input_size': [364, 644]},
    {'encoder': 'open_clip:ViT-B-16', 'encoder_weights': 'random:0', 'input_size': [448, 448]},
    {'encoder': 'semanom-tiny'},
)
"""What is measured unless an encoder is given; times do not depend on weights."""

SIZES = (100_000, 1_000_000)
QUICK_SIZES = (10_000,)


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument('--output', type=Path, required=True, metavar='DIR', help='folder for bench.json and bench.svg')
    parser.add_argument('--only', nargs='+', choices=BENCHMARKS, metavar='BENCHMARK',
                        default=[name for name in BENCHMARKS if name != 'methods'],
                        help='; '.join(f'{name}: {text}' for name, text in BENCHMARKS.items())
                        + ' (default: all but methods)')
    parser.add_argument('--sizes', nargs='+', type=whole(1), metavar='N',
                        help='vectors of the databases that are searched (default 1e5 1e6; with encoders after the '
                        'first the smallest alone)')
    parser.add_argument('--repeats', type=int, metavar='N', help='how often each thing is timed (default 20)')
    parser.add_argument('--quick', action='store_true', help='small sizes and few repeats: does it work, not how fast')
    parser.add_argument('--scratch', type=Path, metavar='DIR',
                        help='where bags and databases go, several GB at 1e6 vectors (default: a temporary folder)')
    add_parameter_options(parser)


def run(arguments: argparse.Namespace) -> None:
    """Measures, prints, and writes bench.json and bench.svg."""
    from semanom_ros.benchmarks.bench_chart import svg
    from semanom_ros.benchmarks.bench_table import markdown
    from semanom_ros.benchmarks.plan import Plan  # PyTorch, which takes seconds to import
    from semanom_ros.benchmarks.suite import measure
    from semanom_ros.evaluation.metric_table import shown_in_bench

    quick = arguments.quick
    repeats = arguments.repeats if arguments.repeats is not None else 3 if quick else 20
    if repeats < 1:
        raise ParameterError(f'--repeats {repeats}: expected at least 1')
    sizes = tuple(arguments.sizes or (QUICK_SIZES if quick else SIZES))
    file = arguments.output / 'bench.json'
    with tempfile.TemporaryDirectory(prefix='semanom_', dir=arguments.scratch) as scratch, logging_redirect_tqdm():
        plans = []
        for number, settings in enumerate(_chosen(arguments)):
            folder = Path(scratch) / str(number)
            folder.mkdir()
            plans.append(Plan(settings, folder, sizes if not number else (min(sizes),), repeats,
                              frames=20 if quick else 40, burst_s=3.0 if quick else 15.0))
        for result in measure(plans, arguments.only, ONCE):
            arguments.output.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(result, indent=1) + '\n')
            file.with_suffix('.svg').write_text(svg(result))
    print(markdown(result))
    for encoder in result['encoders'].values():
        for name, row in encoder['details'].get('methods', {}).get('rows', {}).items():
            print(f'{name:34}' + '  '.join(
                f'{key}: {value:g}' for key, value in (shown_in_bench(row) | {'peak MB': row['peak_mb']}).items()))
    print(f'{file}: with the times, and the machine that they were taken on; {file.with_suffix(".svg").name} shows it')


def _chosen(arguments: argparse.Namespace) -> list[Settings]:
    """What is measured: the encoder that is given, else those that are usual."""
    settings = settings_of(arguments).changed({'append': False})
    if 'encoder' in given_parameters(arguments):
        return [settings]
    return [settings.changed(encoder) for encoder in ENCODERS]
