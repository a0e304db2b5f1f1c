"""`semanom review`: a local page on which people judge what was flagged."""

from __future__ import annotations

import argparse
import json
import logging
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm.contrib.logging import logging_redirect_tqdm

from semanom_ros.commands.numbers import whole
from semanom_ros.commands.progress_bars import Bars
from semanom_ros.errors import ParameterError, SemanomError, printable


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument('folders', nargs='*', type=Path, metavar='DIR',
                        help='result bags, folders of them, or what semanom evaluate or semanom mine wrote')
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument('--database', type=Path, metavar='DB',
                       help='nominal database: verdicts go to the folder DB_verdicts beside it')
    where.add_argument('--verdicts', type=Path, metavar='DIR', help='folder for the verdicts')
    parser.add_argument('--author', default='', metavar='NAME', help='who judges (default: the user)')
    parser.add_argument('--host', default='127.0.0.1', metavar='ADDRESS',
                        help='address to listen on (default 127.0.0.1); another needs --token-file')
    parser.add_argument('--port', type=whole(0), default=8765, metavar='N',
                        help='port to listen on (default 8765; 0: any that is free)')
    parser.add_argument('--token-file', type=Path, metavar='FILE', help='token that every request has to bring')
    parser.add_argument('--stats', action='store_true', help='print precision by day and kind, and serve nothing')
    parser.add_argument('--json', action='store_true', help='print --stats as JSON')


def run(arguments: argparse.Namespace) -> None:
    """Serves, or prints figures."""
    from semanom_ros.review.verdict_files import VerdictFolder, beside

    if arguments.database is not None:
        from semanom_ros.core.database.published import read_manifest

        read_manifest(arguments.database)  # a slip of the pen must not become a folder of verdicts
    verdicts = VerdictFolder(arguments.verdicts or beside(arguments.database), arguments.author)
    if arguments.json and not arguments.stats:
        raise ParameterError('--json: found without --stats, expected with it')
    if arguments.stats:
        _print_figures(verdicts, arguments.json)
        return
    if not arguments.folders:
        raise ParameterError('DIR: found none, expected what is to be reviewed; name result bags, or --stats')
    try:
        from semanom_ros.review.page import review_page
        from semanom_ros.review.serving import bound, read_token, server_on
    except ModuleNotFoundError as error:
        if error.name not in ('flask', 'werkzeug'):
            raise
        raise SemanomError(f'{error.name}: found it not installed, expected it for the page; apt install '
                           "python3-flask, or pip install 'semanom_ros[review]'") from error
    from semanom_ros.review.cases import Cases

    token = read_token(arguments.token_file) if arguments.token_file else ''
    verdicts.read()  # what is wrong with them is said before hours are spent
    with bound(arguments.host, arguments.port, token) as listener, _ended_by_sigterm(), logging_redirect_tqdm(), \
            tempfile.TemporaryDirectory(prefix='semanom_review_') as pictures:
        cases = Cases(arguments.folders, Path(pictures), Bars())
        for note in cases.notes:
            logging.warning('%s', note)
        server = server_on(listener, review_page(cases, verdicts, token))
        print(f'{len(cases.cases)} cases in {len(cases.sources)} recordings; verdicts of {verdicts.author} go to '
              f'{verdicts.own}', flush=True)
        host = f'[{arguments.host}]' if ':' in arguments.host else arguments.host
        print(f'http://{host}:{server.port}/{"?token=..." if token else ""} (Ctrl-C ends it)', flush=True)
        try:
            server.serve_forever()
        finally:
            server.server_close()


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends as Ctrl-C does, so that no pictures are left behind."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _print_figures(verdicts: Any, as_json: bool) -> None:
    from semanom_ros.review.precision import precision

    found = precision(verdicts.read())
    if as_json:
        print(json.dumps(found, indent=1))
        return
    print(f'{"":24}{"right":>8}{"false":>8}{"precision":>11}{"missed":>8}')
    rows = [('all', found), *found['days'].items(), *found['kinds'].items()]
    for name, figures in rows:
        share = '-' if figures['precision'] is None else f'{figures["precision"]:.0%}'
        print(printable(f'{name[:23]:24}{figures["anomaly"]:>8}{figures["nominal"]:>8}{share:>11}'
                        f'{figures["missed"]:>8}'))
    print(f'{found["skipped"]} skipped, {found["disagreed"]} on which authors differ')
