"""`semanom <command>`: the command line."""

from __future__ import annotations

import argparse
import errno
import importlib
import io
import keyword
import logging
import os
import signal
import sqlite3
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import suppress
from types import ModuleType

from semanom_ros import __version__
from semanom_ros.errors import SemanomError, printable
from semanom_ros.home import name_the_user

COMMANDS = {
    'import': 'turn a folder of pictures or a video into a rosbag2',
    'simulate': 'write a simulated drive as a rosbag2',
    'record': 'turn nominal bags into a nominal database',
    'learn': 'learn from nominal recordings what belongs where',
    'evaluate': 'replay a bag through the detector and measure it',
    'index': 'embed recordings, so that things can be found in them',
    'find': 'find things in recordings, by a picture or by words',
    'mine': 'choose the frames of recordings that are most worth a label',
    'review': 'judge what was flagged, on a local page',
    'benchmark': 'measure on a public set of road anomalies, beside published figures',
    'export': 'make an engine of a database\'s encoder, and certify it',
    'db': 'look after nominal databases',
    'demo': 'simulate, record, detect live over DDS, evaluate',
    'bench': 'measure speed, as ratios',
    'models': 'list, fetch and check encoders and segmenters',
    'doctor': 'say what is installed, what works, and what to do about the rest',
}


class _Parser(argparse.ArgumentParser):
    """One clear line on bad usage."""

    def error(self, message: str) -> None:  # type: ignore[override]
        self.exit(2, f'{self.prog}: {message}; see {self.prog} --help\n')


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Returns:
        0 on success, 2 on bad usage, bad input or a machine that has not what it takes, such as room on the disk (one
        line on stderr), 1 on an internal failure, 130 when interrupted.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    named = next((word for word in argv if not word.startswith('-')), '')
    name_the_user()
    for name in ('stdout', 'stderr'):
        if getattr(sys, name) is None:  # whoever started it has closed it (`>&-`)
            setattr(sys, name, open(os.devnull, 'w'))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors='backslashreplace')  # names of files may be anything
    with _Interruption() as interruption:
        try:
            try:
                return _run(argv, named)
            finally:
                sys.stdout.flush()  # so that a reader that is gone, or a full disk, is met here
        except BrokenPipeError:
            with suppress(io.UnsupportedOperation):  # the interpreter flushes once more
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except (Exception, KeyboardInterrupt) as error:
            program = f'semanom {named}'.strip()
            # Extension modules that are interrupted in their import make other errors of it.
            if interruption.came or isinstance(error, KeyboardInterrupt):
                print(f'{program}: interrupted', file=sys.stderr)
                return 130
            said = _said(error)
            if not said:
                traceback.print_exc()
                return 1
            print(f'{program}: {printable(said)}', file=sys.stderr)
            return 2


def parser_for(named: str) -> tuple[argparse.ArgumentParser, ModuleType | None]:
    """The command line, with the arguments of one command, and that command's module; None where it is none."""
    parser = _Parser(prog='semanom', description='Semantic anomaly detection for cameras on robots and vehicles.')
    parser.add_argument('--version', action='version', version=f'semanom {__version__}')
    subparsers = parser.add_subparsers(dest='command', metavar='COMMAND', required=True, parser_class=_Parser)
    module = None
    for name, text in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=text, description=text[0].upper() + text[1:] + '.')
        if name == named:  # only the command that runs pays for its imports
            # `import` is no name for a module, and `index` that of another one
            suffix = '_' if keyword.iskeyword(name) or name == 'index' else ''
            module = importlib.import_module(f'semanom_ros.commands.{name}{suffix}')
            module.configure(subparser)
    return parser, module


def _run(argv: list[str], named: str) -> int:
    parser, module = parser_for(named)
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format='%(message)s', stream=sys.stderr)
    logging.getLogger('faiss').setLevel(logging.WARNING)  # it tells which of its libraries it tries
    assert module is not None
    return module.run(arguments) or 0


class _Interruption:
    """Notes that Ctrl-C came, whatever becomes of the KeyboardInterrupt."""

    came = False

    def __enter__(self) -> _Interruption:
        self._before = signal.getsignal(signal.SIGINT)
        self._mine = self._before is signal.default_int_handler \
            and threading.current_thread() is threading.main_thread()
        if self._mine:
            signal.signal(signal.SIGINT, self._note)
        return self

    def _note(self, *_: object) -> None:
        self.came = True
        raise KeyboardInterrupt

    def __exit__(self, *_: object) -> None:
        if self._mine and signal.getsignal(signal.SIGINT) == self._note:
            signal.signal(signal.SIGINT, self._before)


def _said(error: BaseException) -> str:
    """What a user is told in one line; '' of a fault of ours, which wants its traceback."""
    if isinstance(error, SemanomError):
        return str(error)
    if isinstance(error, OSError):
        files = ' to '.join(str(name) for name in (error.filename, error.filename2) if name is not None)
        return f'{files or "a file or connection"}: {error.strerror or error}; {_remedy(error.errno)}'
    if isinstance(error, sqlite3.OperationalError):
        return f'{error}; make room on the disk, or see that the recording may be written'
    if isinstance(error, RecursionError):
        return 'found input that is nested too deep, expected none that is; correct it'
    if isinstance(error, ImportError) and (error.name or '').partition('.')[0] != 'semanom_ros':
        reason = str(error).strip().splitlines() or ['not found']
        return f'{error.name or "a library"}: cannot be imported ({reason[0]}); semanom doctor says what to install'
    # PyTorch's errors are told by their names: a command that did not import it has none.
    kind, text = type(error).__name__, str(error)
    if kind == 'OutOfMemoryError':
        return 'the memory of the GPU is full; take device=cpu, a smaller input_size or model, or end what else uses it'
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "can't allocate memory" in text):
        return f'the memory is full ({text.splitlines()[0][:120] if text else kind}); end what else uses it, or take ' \
               'less at once'
    return ''


def _remedy(number: int | None) -> str:
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return 'make room or give another folder, then try again'
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return 'give another folder, or the rights to this one'
    if number in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EEXIST, errno.ELOOP):
        return 'correct the path'
    if number in (errno.EMFILE, errno.ENFILE):
        return 'allow more open files (ulimit -n)'
    return 'try again, or see what is wrong with the disk or connection'


if __name__ == '__main__':
    sys.exit(main())
