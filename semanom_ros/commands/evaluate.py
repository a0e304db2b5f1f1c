"""`semanom evaluate`: recordings through the detector's pipeline, measured."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from semanom_ros.commands.options import add_parameter_options, parameters_of
from semanom_ros.parameters import METHOD


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
    add_parameter_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Evaluates and says where the report is."""
    from semanom_ros.evaluation.evaluate import REPORT, check_output, evaluate
    from semanom_ros.evaluation.methods import Detectors

    check_output(arguments.output)
    parameters = parameters_of(arguments, METHOD)
    variants = () if arguments.variant == 'all' else (arguments.variant,)
    filters = {'on': (True,), 'off': (False,), 'all': (False, True)}[arguments.filter]
    detectors = Detectors(parameters, arguments.database, variants, filters)
    content = evaluate(arguments.bags, detectors, arguments.output, image_topic=arguments.image_topic,
                       truth_topic=arguments.truth_topic, parameters=parameters)
    for row in content['results']:
        print(_line(row))
    print(arguments.output / REPORT)
    return 0


def _line(row: dict[str, Any]) -> str:
    """One row of the table in a terminal."""
    def text(value: float | None, digits: int = 3) -> str:
        return '  -  ' if value is None else f'{value:.{digits}f}'

    name = row['variant'] + (' + filter' if row['filter'] else '')
    return (f'{name:18s} frame AUROC {text(row["frame"]["auroc"])}  AP {text(row["frame"]["ap"])}   '
            f'pixel AP {text(row["pixel"]["ap"])}  AUPRO {text(row["pixel"]["aupro"])}   '
            f'component F1 {text(row["component"]["f1"])}   '
            f'false alarms/min {text(row["false_alarms_per_minute"], 2)}   '
            f'delay {text(row["detection_delay_s"], 2)} s   {text(row["latency_ms"]["p50"], 0)} ms')
