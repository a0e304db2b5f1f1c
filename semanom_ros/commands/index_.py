"""`semanom index`: embeds recordings, so that things can be found in them."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from tqdm.contrib.logging import logging_redirect_tqdm

from semanom_ros.commands.options import add_parameter_options, given_parameters, settings_of, settings_with
from semanom_ros.commands.progress_bars import Bars
from semanom_ros.parameter_files import RECORDER

THUMBNAIL_SIZE = 320
"""Longer side of the pictures that an index keeps, unless the parameter says another: they are what people look at."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument('bags', nargs='+', type=Path, metavar='BAG', help='rosbag2 folder, .mcap, .db3 or .bag file')
    parser.add_argument('--output', type=Path, required=True, metavar='DIR',
                        help='folder of the index; what is in it already is kept, and not embedded again')
    parser.add_argument('--database', type=Path, metavar='DIR',
                        help='embed with what this nominal database was made with, so that both are searched together')
    parser.add_argument('--image-topic', nargs='+', action='extend', dest='image_topics', metavar='T',
                        help='needed where a recording has several; all that are named are embedded')
    thinning = parser.add_mutually_exclusive_group()
    thinning.add_argument('--every', type=int, dest='every_n', metavar='N', help='take every n-th frame of a camera')
    thinning.add_argument('--rate', type=float, metavar='HZ', help='take at most so many frames a second of a camera')
    add_parameter_options(parser, RECORDER)


def run(arguments: argparse.Namespace) -> None:
    """Embeds and says what came of it."""
    from semanom_ros.finding.embedded_recordings import index_recordings, indexed  # PyTorch: seconds to import

    given = {name: value for name in ('image_topics', 'every_n', 'rate')
             if (value := getattr(arguments, name)) is not None}
    made_with = [arguments.database] if arguments.database else indexed(arguments.output)[:1]
    settings = settings_with(made_with, arguments) if made_with else settings_of(arguments)
    if 'thumbnail_size' not in given_parameters(arguments):
        given['thumbnail_size'] = THUMBNAIL_SIZE
    with logging_redirect_tqdm():
        indexing = index_recordings(arguments.bags, arguments.output, settings.changed(given), Bars())
    for folder, recording in indexing.made.items():
        summary = recording.summary
        for line in recording.damaged:
            logging.warning('%s; what came before is indexed', line)
        rate = summary.frames / recording.seconds if recording.seconds else 0.0
        print(f'{folder}: {summary.frames} frames in {recording.seconds:.1f} s ({rate:.1f} frames/s), '
              f'{summary.vectors} vectors')
        for line in filter(None, (
                f'{recording.bad_images} images skipped: they hold no picture' if recording.bad_images else '',
                summary.not_finite_line)):
            print(f'  {line}')
    for bag in indexing.known:
        print(f'{bag}: is in the index already')
    print(f'{arguments.output}: {len(indexed(arguments.output))} recordings; search them with semanom find --index '
          f'{arguments.output}')
