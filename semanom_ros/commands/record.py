"""`semanom record`: nominal recordings into a nominal database."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm.contrib.logging import logging_redirect_tqdm

from semanom_ros.commands.fleet_options import add_fleet_options, workers_of
from semanom_ros.commands.numbers import whole
from semanom_ros.commands.options import add_parameter_options, settings_of
from semanom_ros.commands.progress_bars import Bars
from semanom_ros.core.scoring.calibration import Calibration
from semanom_ros.parameter_files import RECORDER
from semanom_ros.settings import AlarmSettings

if TYPE_CHECKING:
    from semanom_ros.recordings.nominal_recording import BagRecording


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument('bags', nargs='+', type=Path, metavar='BAG', help='rosbag2 folder, .mcap, .db3 or .bag file')
    parser.add_argument('--database', metavar='DIR', help='folder of the nominal database to be made (default: as in '
                        '--config, else ~/semanom/nominal)')
    parser.add_argument('--image-topic', nargs='+', action='extend', dest='image_topics', metavar='T',
                        help='needed where a recording has several; all that are named are recorded')
    parser.add_argument('--append', action='store_true', default=None,
                        help='add to the database where it exists already')
    thinning = parser.add_mutually_exclusive_group()
    thinning.add_argument('--every', type=int, dest='every_n', metavar='N', help='take every n-th frame of a camera')
    thinning.add_argument('--rate', type=float, metavar='HZ', help='take at most so many frames a second of a camera')
    add_parameter_options(parser, RECORDER)
    add_fleet_options(parser).add_argument(
        '--stretch', type=whole(1), metavar='FRAMES', help='frames of a recording that a worker takes on at once; what '
        'a worker that is lost had begun is embedded again (default 480)')


def run(arguments: argparse.Namespace) -> int:
    """Records and says what came of it."""
    from semanom_ros.fleet.fleet_recording import FRAMES_AT_ONCE, FleetRecording, record_on_fleet
    from semanom_ros.recordings.nominal_recording import database_path, record_bags  # PyTorch: seconds to import

    options = {name: getattr(arguments, name) for name in ('database', 'image_topics', 'append', 'every_n', 'rate')}
    given = {name: value for name, value in options.items() if value is not None}
    settings = settings_of(arguments).changed(given)
    database = database_path(settings.cameras)
    workers = workers_of(arguments)
    with logging_redirect_tqdm():
        if workers is None:
            recording = record_bags(arguments.bags, database, settings, Bars())
        else:
            recording = record_on_fleet(arguments.bags, database, settings, Bars(), workers, arguments.storage or '',
                                        arguments.stretch or FRAMES_AT_ONCE)
    for line in recording.damaged:
        logging.warning('%s; what came before is recorded', line)
    print(summarize(recording, database, settings.method.alarm))
    if isinstance(recording, FleetRecording):
        print(f'{recording.stretches} stretches, {recording.taken_over} of them embedded before; '
              f'{recording.lost} workers lost')
    for bag, why in recording.failed.items():
        logging.error('%s: is not in the database: %s; mend it, then give the same command with --append', bag, why)
    return 2 if recording.failed else 0


def summarize(recording: BagRecording, database: Path, alarm: AlarmSettings) -> str:
    """What was recorded, for people, and what its calibration is worth for what will be asked of it."""
    from semanom_ros.core.curation.recorder import folder_size

    summary, manifest = recording.summary, recording.manifest
    rate = summary.frames / recording.seconds if recording.seconds else 0.0
    lines = [f'{database}: {summary.frames} frames in {recording.seconds:.1f} s ({rate:.1f} frames/s), '
             f'{summary.held_out} of them held out; {summary.vectors} vectors, '
             f'{folder_size(database) / 1e6:.1f} MB']
    if summary.known:
        lines.append(f'{summary.known} frames were recorded already')
    if summary.repeated:
        lines.append(f'{summary.repeated} frames not recorded: another frame of the recording has their stamp; check '
                     'whether it was looped')
    if recording.bad_images:
        lines.append(f'{recording.bad_images} images skipped: they hold no picture')
    if summary.not_finite:
        lines.append(summary.not_finite_line)
    if manifest is not None:
        lines.append(f'version {manifest.version}: {manifest.vectors} vectors of {manifest.description.encoder} from')
        lines += [f'  {source.path} ({source.frames} frames, {source.held_out_frames} held out)'
                  for source in manifest.sources]
        calibration = Calibration.stored(database, manifest)
        lines += [f'calibrated {line}' if number == 0 else f'  {line}'
                  for number, line in enumerate(calibration.describe())]
        doubt = calibration.level_for(alarm).doubt
        if doubt:
            lines.append(doubt)
    return '\n'.join(lines)
