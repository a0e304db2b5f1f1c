"""`semanom find`: things in recordings, by a picture or by words."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from tqdm.contrib.logging import logging_redirect_tqdm

from semanom_ros.commands.numbers import number, whole
from semanom_ros.commands.options import add_parameter_options, settings_with
from semanom_ros.commands.progress_bars import Bars
from semanom_ros.errors import ParameterError, printable


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument('--database', type=Path, nargs='+', action='extend', default=[], metavar='DIR',
                        help='nominal databases to search')
    parser.add_argument('--index', type=Path, nargs='+', action='extend', default=[], metavar='DIR',
                        help='recordings to search, embedded by semanom index')
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument('--like', metavar='PICTURE|BAG@STAMP[:X,Y,W,H]',
                       help='what resembles a picture, or a frame of a recording (stamp in seconds; +SECONDS: since '
                            'its start), or the part of it in a box of pixels')
    asked.add_argument('--text', metavar='WORDS', help='what fits words, where the encoder knows texts (CLIP)')
    parser.add_argument('--output', type=Path, default=Path('found'), metavar='DIR',
                        help='folder for find.html and find.json (default: found)')
    parser.add_argument('--count', type=whole(1), default=24, metavar='N', help='of clips, at most (default 24)')
    parser.add_argument('--recording', type=Path, nargs='+', action='extend', default=[], metavar='BAG',
                        help='where recordings lie now, if they were moved')
    parser.add_argument('--served-at', default='', metavar='URL',
                        help='address that the folders of the recordings are served at, for links that open Foxglove')
    parser.add_argument('--export', type=Path, metavar='DIR', help='write each clip as an MCAP bag into this folder')
    parser.add_argument('--topics', nargs='+', default=[], metavar='T', help='topics to export (default: all)')
    parser.add_argument('--margin', type=number('seconds, 0 or more', lambda value: value >= 0), default=2.0,
                        metavar='S', help='seconds to export before and behind each clip (default 2)')
    add_parameter_options(parser)


def run(arguments: argparse.Namespace) -> None:
    """Searches and says what was found."""
    if not arguments.database and not arguments.index:
        raise ParameterError('--database, --index: found neither, expected what to search; embed recordings with '
                             'semanom index BAG... --output DIR and give --index DIR')
    if arguments.topics and arguments.export is None:
        raise ParameterError('--topics: found without --export, expected with it; give --export DIR')
    from semanom_ros.finding import questions  # PyTorch: seconds to import
    from semanom_ros.finding.clip_page import PAGE
    from semanom_ros.finding.embedded_recordings import EmbeddedRecordings, embedder_for
    from semanom_ros.finding.opening import Places
    from semanom_ros.finding.searching import Export, search

    recordings = EmbeddedRecordings(arguments.database, arguments.index)
    places = Places(arguments.recording)
    embedder = embedder_for(settings_with([recordings.folders[0]], arguments).method)
    recordings.check_compatible(embedder.description)
    question: questions.Question
    if arguments.text is not None:
        question = questions.words(arguments.text, embedder, recordings.folders[0])
    else:
        question = questions.likeness(arguments.like, recordings, embedder)
    export = Export(arguments.export, arguments.topics, arguments.margin) if arguments.export else None
    with logging_redirect_tqdm():
        found, notes = search(recordings, question, arguments.count, arguments.output, Bars(), places,
                              arguments.served_at, export)
    for rank, one in enumerate(found, 1):
        where = '' if one.since_start_s is None else f' at {one.since_start_s:.1f} s'
        print(printable(f'{rank:3d}  {one.clip.similarity:.3f}  {one.recording}{where}, '
                        f'{(one.clip.end_ns - one.clip.start_ns) / 1e9:.1f} s'))
    for note in notes:
        logging.warning('%s', note)
    print(arguments.output / PAGE)
