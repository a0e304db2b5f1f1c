"""`semanom simulate`: a simulated drive as a rosbag2."""

from __future__ import annotations

import argparse
import math
import re
import sys
from pathlib import Path

from tqdm import tqdm

from semanom_ros.commands.numbers import whole
from semanom_ros.errors import BagError, ParameterError
from semanom_ros.simulation import CATALOGUE, simulate
from semanom_ros.simulation.camera_faults import LARGEST_TURN, CameraFault
from semanom_ros.simulation.drive import RATE
from semanom_ros.simulation.drive_bag import CAMERA, IMAGE_TOPIC, write_rig_bag
from semanom_ros.simulation.weather import CHOICES


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument('bag', type=Path, metavar='OUT_BAG', help='folder of the recording to be made')
    parser.add_argument('--anomalies', action='store_true', help='let anomalies happen; else a nominal drive')
    parser.add_argument(
        '--seed',
        type=whole(0),
        default=0,
        metavar='N',
        help='town, route and traffic; the same seed gives the same bytes (default 0)',
    )
    parser.add_argument(
        '--town',
        type=whole(0),
        metavar='N',
        help='drive through the town of this seed, at another time: other traffic, weather and events (default: the '
        'one of --seed)',
    )
    parser.add_argument(
        '--frames',
        type=whole(1),
        default=600,
        metavar='N',
        help=f'pictures, {RATE:g} for a second of the drive (default 600)',
    )
    parser.add_argument(
        '--every',
        type=whole(1),
        default=1,
        metavar='N',
        help='draw every N-th frame of the drive only: more street in fewer pictures, for a database (default 1)',
    )
    parser.add_argument('--weather', choices=CHOICES, default='mixed', help='default: all of them in turn')
    parser.add_argument(
        '--camera-turn',
        type=float,
        default=0.0,
        metavar='DEG',
        help='turn the camera on its mount to the right by so many degrees (negative: to the left)',
    )
    parser.add_argument(
        '--camera',
        action='append',
        default=[],
        metavar='NAME=DEG',
        dest='cameras',
        help='record this camera, turned to the right by so many degrees, on /NAME/image_raw; once for each of several '
        '(default: camera=0)',
    )
    parser.add_argument(
        '--lens-dirt',
        type=float,
        default=0.0,
        metavar='SHARE',
        help='splash mud on the lens, over so much of the picture; where, is the seed\'s',
    )
    parser.add_argument(
        '--from',
        type=float,
        default=0.0,
        metavar='SECONDS',
        dest='fault_start',
        help='when the camera is turned or becomes dirty, in seconds of the drive (default 0)',
    )
    parser.add_argument(
        '--scenario',
        action='append',
        choices=[s.name for s in CATALOGUE],
        metavar='NAME',
        dest='scenarios',
        help='stage only this one (may be given again); default: all, in an order of the seed',
    )
    parser.add_argument(
        '--storage', choices=('mcap', 'sqlite3'), default='mcap', help='storage plugin of rosbag2 (default mcap)'
    )
    parser.add_argument(
        '--raw',
        action='store_true',
        help=f'bgr8 pictures on {IMAGE_TOPIC} instead of JPEG on {IMAGE_TOPIC}/compressed; 0.7 MB for each',
    )


def run(arguments: argparse.Namespace) -> None:
    """Drives and records."""
    if not arguments.frames:
        raise BagError(f'{arguments.bag}: found 0 frames, expected at least 1; give --frames')
    names = tuple(arguments.scenarios) if arguments.scenarios else None
    every = max(1, arguments.every)
    turns = dict(_camera(given) for given in arguments.cameras) or {CAMERA: 0.0}
    drives = [
        simulate(
            arguments.seed,
            arguments.frames,
            arguments.anomalies,
            weather=arguments.weather,
            scenarios=names,
            every=every,
            town=arguments.town,
            mount=turn,
            fault=CameraFault(arguments.camera_turn, arguments.lens_dirt, arguments.fault_start),
        )
        for turn in turns.values()
    ]
    moments = (dict(zip(turns, frames, strict=True)) for frames in zip(*drives, strict=True))
    bar = tqdm(moments, total=arguments.frames, unit='frame', desc='simulate', file=sys.stderr, disable=None)
    write_rig_bag(bar, arguments.bag, arguments.storage, arguments.raw)
    print(f'{arguments.bag}: {arguments.frames} frames, {arguments.frames * every / RATE:g} s')


def _camera(given: str) -> tuple[str, float]:
    """Name and degrees of a --camera.

    Raises:
        ParameterError: it is something else.
    """
    name, _, degrees = given.partition('=')
    try:
        turn = float(degrees or 0)
    except ValueError:
        turn = math.nan
    if not re.fullmatch('[a-z][a-z0-9_]*', name) or not abs(turn) <= LARGEST_TURN:
        raise ParameterError(f'--camera {given}: expected NAME=DEG, a name of small letters, digits and _, and '
                             f'{-LARGEST_TURN:g} to {LARGEST_TURN:g} degrees; correct it')
    return name, turn
