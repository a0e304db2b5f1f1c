"""`semanom mine`: the frames of recordings that are most worth a label."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from tqdm.contrib.logging import logging_redirect_tqdm

from semanom_ros.commands.numbers import whole
from semanom_ros.commands.options import add_parameter_options, settings_with
from semanom_ros.commands.progress_bars import Bars


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument('bags', nargs='+', type=Path, metavar='BAG', help='rosbag2 folder, .mcap, .db3 or .bag file')
    parser.add_argument('--database', type=Path, required=True, metavar='DIR', help='nominal database to judge by')
    parser.add_argument('--output', type=Path, required=True, metavar='DIR',
                        help='folder for the runs; what was mined into it before is not mined again')
    parser.add_argument('--budget', type=whole(1), default=200, metavar='N', help='of frames, at most (default 200)')
    parser.add_argument('--per-bag', type=whole(1), metavar='N',
                        help='of frames of one recording, at most (default: twice its share of the budget)')
    parser.add_argument('--image-topic', default='', metavar='T', help='needed where a recording has several')
    add_parameter_options(parser)


def run(arguments: argparse.Namespace) -> None:
    """Mines, and says what came of it."""
    settings = settings_with([arguments.database], arguments).method
    from semanom_ros.core.pipeline import Judge  # PyTorch: seconds to import
    from semanom_ros.finding.label_task import LabelTasks
    from semanom_ros.finding.mining import Mined, greedy, survey

    per_bag = arguments.per_bag or min(arguments.budget, -(-2 * arguments.budget // len(arguments.bags)))
    judge = Judge.load(settings, arguments.database)
    description = judge.embedder.description
    with logging_redirect_tqdm(), LabelTasks(arguments.output, description) as tasks:
        found = survey(arguments.bags, judge, arguments.image_topic, per_bag, tasks.known, tasks.before, Bars())
        chosen = greedy(found.candidates, Mined(judge.database, tasks.before), arguments.budget)
        for line in found.damaged:
            logging.warning('%s; what came before was looked at', line)
        print(f'{found.frames} frames looked at, {found.flagged} of them above the alarm level')
        if found.unknown:
            print(f'{found.unknown.total()} frames are unknown and were not mined: '
                  + ', '.join(f'{count} {reason}' for reason, count in found.unknown.most_common()))
        if found.bad_images:
            print(f'{found.bad_images} images skipped: they hold no picture')
        if not chosen:
            print('nothing to label: no frame shows something above the alarm level that was not mined before; a '
                  'higher false_alarm_rate (--set) lowers that level')
            return
        path, count = tasks.write(chosen, found, description)
    print(f'{path}: {count} frames of a budget of {arguments.budget}'
          + ('' if count == arguments.budget else '; what is left resembles them'))
