"""`semanom evaluate`: recordings through the detector's pipeline, measured."""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

from semanom_ros.commands.options import add_parameter_options, parameters_of
from semanom_ros.commands.progress_bars import Bars
from semanom_ros.errors import SemanomError
from semanom_ros.evaluation.baselines import DctBaseline, PatchCoreBaseline
from semanom_ros.evaluation.detectors import Detectors, Method
from semanom_ros.evaluation.replay import Topics
from semanom_ros.evaluation.runner import REPORT, check_output, evaluate
from semanom_ros.evaluation.vlm import VlmBaseline
from semanom_ros.parameters import METHOD, Value


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument('bags', nargs='+', type=Path, metavar='BAG', help='rosbag2 folder, .mcap or .db3 file')
    parser.add_argument('--database', type=Path, action='append', required=True, metavar='DIR',
                        help='nominal database; give one for each variant to compare both')
    parser.add_argument('--output', type=Path, required=True, metavar='DIR',
                        help='folder for metrics.json, report.html, scores.csv and result bags')
    parser.add_argument('--variant', choices=('grid', 'instance', 'all'), default='all',
                        help='all (default): every variant that there is a database of')
    parser.add_argument('--filter', choices=('on', 'off', 'all'), default='all',
                        help='with the filter, without it, or both (default)')
    parser.add_argument('--image-topic', default='', metavar='T', help='needed where a recording has several')
    parser.add_argument('--truth-topic', default='', metavar='T',
                        help='mono8 masks with the images\' stamps: 0 nominal, 128 ignore, 255 anomalous '
                             '(default: /ground_truth/anomaly_mask where there is one)')
    parser.add_argument('--truth-instances', nargs='+', default=(), metavar='CLASS[:ACTOR]',
                        help='the truth topic holds CARLA\'s instance segmentation, and these are anomalous: semantic '
                             'classes, or single actors, in numbers (14:231)')
    add_parameter_options(parser)
    baselines = parser.add_argument_group('baselines, for the same table')
    baselines.add_argument('--baseline', choices=('dct', 'patchcore', 'vlm'), action='append', default=[],
                           help='dct: nearest neighbours in colour and DCT features; patchcore: a coreset of the grid '
                                'database, scored as PatchCore does; vlm: a vision-language model')
    baselines.add_argument('--nominal', type=Path, action='append', default=[], metavar='BAG',
                           help='dct: the nominal recordings, where they are no longer where the database says')
    baselines.add_argument('--endpoint', default='', metavar='URL',
                           help='vlm: base address of an OpenAI-compatible server, e.g. https://api.openai.com/v1; its '
                                'key comes from the environment variable SEMANOM_VLM_API_KEY or OPENAI_API_KEY')
    baselines.add_argument('--model', default='', metavar='NAME', help='vlm: the model\'s name there')
    baselines.add_argument('--vlm-period', type=float, default=1.0, metavar='S',
                           help='vlm: seconds of the recording between questions (default 1; 0: every frame)')
    baselines.add_argument('--vlm-rate', type=float, default=60.0, metavar='N', help='vlm: most requests a minute')
    baselines.add_argument('--vlm-prices', type=float, nargs=2, default=(0.0, 0.0), metavar=('IN', 'OUT'),
                           help='vlm: price of a million prompt and completion tokens, to add up the cost')
    baselines.add_argument('--vlm-cache', type=Path, default=_cache(), metavar='DIR',
                           help='vlm: where answers are kept, so that another run costs nothing (default %(default)s)')


def run(arguments: argparse.Namespace) -> int:
    """Evaluates and says where the report is."""
    check_output(arguments.output)
    parameters = parameters_of(arguments, METHOD)
    variants = () if arguments.variant == 'all' else (arguments.variant,)
    filters = {'on': (True,), 'off': (False,), 'all': (False, True)}[arguments.filter]
    detectors = Detectors(parameters, arguments.database, variants, filters)
    with tempfile.TemporaryDirectory(prefix='semanom_baselines_') as scratch:
        baselines = _baselines(arguments, parameters, detectors, Path(scratch))
        topics = Topics(arguments.image_topic, arguments.truth_topic, tuple(arguments.truth_instances))
        content = evaluate(arguments.bags, detectors, arguments.output, topics, baselines=baselines,
                           parameters=parameters)
    for row in (*content['results'], *content['baselines']):
        print(_line(row))
    print(arguments.output / REPORT)
    return 0


def _baselines(arguments: argparse.Namespace, parameters: dict[str, Value], detectors: Detectors, scratch: Path
               ) -> list[Method]:
    """What `--baseline` asks for."""
    baselines: list[Method] = []
    if 'dct' in arguments.baseline:
        baselines.append(DctBaseline(parameters, arguments.database[0], scratch / 'dct', arguments.nominal, Bars()))
    if 'patchcore' in arguments.baseline:
        baselines.append(PatchCoreBaseline(parameters, arguments.database, detectors.embedder.encoder,
                                           scratch / 'patchcore', Bars()))
    if 'vlm' in arguments.baseline:
        if not arguments.endpoint or not arguments.model:
            raise SemanomError('--baseline vlm: expected --endpoint URL and --model NAME beside it')
        baselines.append(VlmBaseline(
            arguments.endpoint, arguments.model, arguments.vlm_cache, period_s=arguments.vlm_period,
            per_minute=arguments.vlm_rate, prices=tuple(arguments.vlm_prices)))
    return baselines


def _cache() -> Path:
    return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'semanom_ros' / 'vlm'


def _line(row: dict[str, Any]) -> str:
    """One row of the table in a terminal."""
    def text(value: float | None, digits: int = 3) -> str:
        return '  -  ' if value is None else f'{value:.{digits}f}'

    name = row.get('name') or row['variant'] + (' + filter' if row['filter'] else '')
    return (f'{name:18s} frame AUROC {text(row["frame"]["auroc"])}  AP {text(row["frame"]["ap"])}   '
            f'pixel AP {text(row["pixel"]["ap"])}  AUPRO {text(row["pixel"]["aupro"])}   '
            f'component F1 {text(row["component"]["f1"])}   '
            f'false alarms/min {text(row["false_alarms_per_minute"], 2)}   '
            f'delay {text(row["detection_delay_s"], 2)} s   {text(row["latency_ms"]["p50"], 0)} ms')
