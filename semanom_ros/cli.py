"""`semanom <command>`: the command line."""

from __future__ import annotations

import argparse
import importlib
import keyword
import logging
import sys
import traceback
from collections.abc import Sequence

from semanom_ros import __version__
from semanom_ros.errors import SemanomError

COMMANDS = {
    'import': 'turn a folder of pictures or a video into a rosbag2',
    'simulate': 'write a simulated drive as a rosbag2',
    'record': 'turn nominal bags into a nominal database',
    'learn': 'learn from nominal recordings what belongs where',
    'evaluate': 'replay a bag through the detector and measure it',
    'benchmark': 'measure on a public set of road anomalies, beside published figures',
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
        0 on success, 2 on bad usage or bad input (one line on stderr), 1 on an internal
        failure, 130 when interrupted.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = _Parser(prog='semanom', description='Semantic anomaly detection for cameras on robots and vehicles.')
    parser.add_argument('--version', action='version', version=f'semanom {__version__}')
    subparsers = parser.add_subparsers(dest='command', metavar='COMMAND', required=True, parser_class=_Parser)
    named = next((word for word in argv if not word.startswith('-')), None)
    module = None
    for name, text in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=text, description=text[0].upper() + text[1:] + '.')
        if name == named:  # only the command that runs pays for its imports
            suffix = '_' if keyword.iskeyword(name) else ''  # `import` is no name for a module
            module = importlib.import_module(f'semanom_ros.commands.{name}{suffix}')
            module.configure(subparser)
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format='%(message)s', stream=sys.stderr)
    logging.getLogger('faiss').setLevel(logging.WARNING)  # it tells which of its libraries it tries
    assert module is not None
    try:
        return module.run(arguments) or 0
    except SemanomError as error:
        print(f'semanom {arguments.command}: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f'semanom {arguments.command}: interrupted', file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0
    except Exception:
        traceback.print_exc()
        return 1


if __name__ == '__main__':
    sys.exit(main())
