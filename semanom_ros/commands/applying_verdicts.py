"""`semanom db apply-verdicts`: what people found nominal becomes nominal."""

from __future__ import annotations

import argparse
import logging
import sys
from datetime import datetime, timezone

from semanom_ros.commands.options import settings_with
from semanom_ros.commands.progress_bars import Bars
from semanom_ros.core.pipeline import Judge
from semanom_ros.core.results import Verdict
from semanom_ros.errors import ParameterError, SemanomError, printable
from semanom_ros.recordings.bags import BagReader
from semanom_ros.review.applying import Regression, gather, regression, tried
from semanom_ros.review.verdict_files import VerdictFolder, beside

_MOST_SHOWN = 40  # changes that are printed


def apply_verdicts(arguments: argparse.Namespace) -> None:
    """Applies, and says what came of it.

    Raises:
        SemanomError: there are no verdicts, a recording will not do, or nobody can be asked.
    """
    path = arguments.database
    asks = arguments.regression is not None and not arguments.yes
    if asks and not sys.stdin.isatty():
        raise ParameterError('--regression: found nobody to ask (no terminal), expected one; give --yes')
    settings = settings_with([path], arguments).method
    verdicts = VerdictFolder(arguments.verdicts or beside(path))
    given = verdicts.read()
    if not given:
        raise SemanomError(f'{verdicts.path}: found no verdicts, expected some; give --verdicts DIR, or run semanom '
                           f'review DIR --database {path}')
    if arguments.regression is not None:
        with BagReader(arguments.regression) as reader:  # before the encoder is loaded
            reader.image_topic(arguments.image_topic)
    judge = Judge.load(settings, path)
    found = gather(given, judge, arguments.recordings, Bars())
    for line in found.missing:
        logging.warning('%s', line)
    for count, what in ((found.known, 'raise no alarm any more'), (found.gone, 'are of frames that are gone'),
                        (found.unknown, 'are in frames that cannot be judged now'),
                        (found.disagreed, 'are left out because authors differ')):
        if count:
            print(f'{count} things {what}')
    if not found.additions:
        print(f'{path}: nothing to apply; it stays as it is')
        return
    if arguments.regression is not None:
        with tried(judge, found.additions) as after:
            changed = regression(arguments.regression, arguments.image_topic, judge, after, Bars())
        print('\n'.join(map(printable, _described(changed))))
        if asks and input(f'make {len(found.additions)} things nominal? [y/N] ').strip().lower() not in ('y', 'yes'):
            print(f'{path}: stays as it is')
            return
    manifest = judge.accepting(found.additions).database.manifest
    print(f'{path}: version {manifest.version}, {len(found.additions)} things are nominal now; semanom db revert '
          f'{path} takes it back')


def _described(found: Regression) -> list[str]:
    lines = [f'{found.frames} frames replayed: ' + ', '.join(
        f'{verdict.words} {found.before[verdict]} -> {found.after[verdict]}' for verdict in reversed(Verdict))]
    lines += [f'  {_clock(one.stamp_ns)}  {one.before.words} ({one.score_before:.2f}) -> {one.after.words} '
              f'({one.score_after:.2f})' for one in found.changes[:_MOST_SHOWN]]
    if len(found.changes) > _MOST_SHOWN:
        lines.append(f'  and {len(found.changes) - _MOST_SHOWN} more')
    if not found.changes:
        lines.append('  no verdict changes')
    return [*lines, *([found.damage] if found.damage else [])]


def _clock(stamp_ns: int) -> str:
    seconds, rest = divmod(stamp_ns, 10**9)
    return f'{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%d %H:%M:%S}.{rest // 10**6:03d}'
