"""`semanom demo`: the whole way, from a nominal drive to a report, with the real detector in the middle."""

from __future__ import annotations

import argparse
from pathlib import Path

from semanom_ros.commands.numbers import number
from semanom_ros.commands.options import add_parameter_options

_SECONDS = number('1 or more', lambda seconds: seconds >= 1)


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument('--output', type=Path, required=True, metavar='DIR',
                        help='folder for report.html, metrics.json, overlay.mp4, pictures and recordings')
    parser.add_argument('--seed', type=int, default=1, metavar='N', help='of the simulated drives (default 1)')
    parser.add_argument('--nominal-seconds', type=_SECONDS, default=360.0, metavar='S',
                        help='length of the nominal drive, of which one picture a second is drawn (default 360)')
    parser.add_argument('--seconds', type=_SECONDS, default=25.0, metavar='S',
                        help='length of the drive with anomalies (default 25)')
    parser.add_argument('--cameras', type=int, choices=(1, 2, 3), default=1, metavar='N',
                        help='of the vehicle, 1 to 3: front, left and right, in one database and watched by one '
                             'detector (default 1)')
    add_parameter_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Simulates, records, detects live, evaluates, and says where the report is."""
    from semanom_ros.commands import demo_steps  # seconds to import

    return demo_steps.run(arguments)
