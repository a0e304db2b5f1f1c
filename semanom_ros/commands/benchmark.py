"""`semanom benchmark`: a public set of road anomalies, from its folder to the field's table."""

from __future__ import annotations

import argparse
from pathlib import Path

from semanom_ros.commands.options import add_parameter_options, settings_of, settings_with
from semanom_ros.commands.progress_bars import Bars
from semanom_ros.recordings.public_sets import SETS, recognise


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument('folder', type=Path, metavar='DIR', help='the set as unpacked: '
                        + '; '.join(f'{one.name} ({one.site})' for one in SETS))
    nominal = parser.add_mutually_exclusive_group(required=True)
    nominal.add_argument('--database', type=Path, metavar='DIR', help='nominal database')
    nominal.add_argument('--nominal', type=Path, nargs='+', metavar='FOLDER|BAG',
                         help='record a database of these first: folders of pictures that have nothing to do with each '
                              'other, or recordings')
    parser.add_argument('--output', type=Path, required=True, metavar='DIR',
                        help='folder for benchmark.json, the recording, the evaluation and its report')
    parser.add_argument('--dataset', choices=[one.key for one in SETS], default='',
                        help='which set it is (default: recognised by its files)')
    add_parameter_options(parser)


def run(arguments: argparse.Namespace) -> None:
    """Measures, prints the table and says where the report is."""
    from semanom_ros.evaluation import public_benchmark  # PyTorch, which takes seconds to import
    from semanom_ros.evaluation.runner import REPORT

    found = recognise(arguments.folder, arguments.dataset)
    settings = settings_with([arguments.database], arguments) if arguments.database else settings_of(arguments)
    public_benchmark.check_folder(arguments.output)
    database = arguments.database or public_benchmark.record_nominal(
        arguments.nominal, arguments.output, settings, Bars())
    lines = public_benchmark.benchmark(found, database, arguments.output, settings, Bars())
    print(public_benchmark.table(found, lines))
    print(arguments.output / public_benchmark.EVALUATION / REPORT)
