"""The tests with the distributions of ROS 2 that PyPI has, and with every Python of this machine.

    python tools/distros.py [--fast] [--list] [NAME ...] [-- PYTEST ARGUMENTS]

`make test-distros` runs it: Kilted on every Python, Jazzy on this one. Each combination has a virtual environment of
its own, `.venv-NAME`, which stays for the next time (6 GB, most of it PyTorch), and a log, `out/distros/NAME.log`.
Launch files are not tested here: launch is not on PyPI. Distributions without wheels are tested in their containers,
see .github/workflows.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parent.parent
REQUIREMENTS = {'kilted': 'requirements/ros-pypi.txt', 'jazzy': 'requirements/ros-pypi-jazzy.txt'}
OLDEST = (3, 10)
LOGS = REPOSITORY / 'out' / 'distros'
LEFT_OUT = ('test/launch', 'test/packaging/test_build.py')
"""What needs launch, and what builds the package anew, which the set-up does."""

OF_ROS = ('ROS_DISTRO', 'AMENT_PREFIX_PATH', 'CMAKE_PREFIX_PATH', 'COLCON_PREFIX_PATH', 'PYTHONPATH', 'LD_LIBRARY_PATH',
          'RMW_IMPLEMENTATION', '_ROS_WHEELS_BOOTSTRAP_COMPLETE')
"""Variables of a sourced installation, which is none of those that are tested."""


class Combination(NamedTuple):
    """A distribution on a Python."""

    distribution: str
    version: tuple[int, int]
    python: str

    @property
    def name(self) -> str:
        """E.g. `jazzy-py3.12`."""
        return f'{self.distribution}-py{self.version[0]}.{self.version[1]}'


def version_of(python: str) -> tuple[int, int] | None:
    """(major, minor) of an interpreter; None where it does not run."""
    try:
        done = subprocess.run([python, '-c', 'import sys; print(*sys.version_info[:2])'], capture_output=True,
                              text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.fullmatch(r'(\d+) (\d+)\s*', done.stdout)
    return (int(found[1]), int(found[2])) if found else None


def pythons() -> dict[tuple[int, int], str]:
    """Every Python from OLDEST on, on the path and of pyenv, by version; this one for its own."""
    candidates = [sys.executable]
    for folder in os.environ.get('PATH', '').split(os.pathsep):
        candidates += map(str, sorted(Path(folder or '.').glob('python3.[0-9]*')))
    candidates += map(str, sorted(Path(os.environ.get('PYENV_ROOT', Path.home() / '.pyenv')).glob(
        'versions/3.*/bin/python3')))
    found: dict[tuple[int, int], str] = {}
    for candidate in candidates:
        if candidate.endswith('-config'):
            continue
        version = version_of(candidate)
        if version is not None and version >= OLDEST:
            found.setdefault(version, candidate)
    return dict(sorted(found.items()))


def combinations() -> list[Combination]:
    """Kilted with every Python, the others with this one; whether there are wheels for both, pip will tell."""
    own = (sys.version_info[0], sys.version_info[1])
    return [Combination(distribution, version, python) for distribution in REQUIREMENTS
            for version, python in pythons().items() if distribution == 'kilted' or version == own]


def run(one: Combination, fast: bool, arguments: Sequence[str]) -> str:
    """Sets it up and runs the tests; what came of it, in a few words: `passed` where all is well."""
    environment = {name: value for name, value in os.environ.items() if name not in OF_ROS}
    venv, log = REPOSITORY / f'.venv-{one.name}', LOGS / f'{one.name}.log'
    LOGS.mkdir(parents=True, exist_ok=True)
    setup = ['make', 'setup', f'PYTHON={one.python}', f'VENV={venv}',
             f'ROS_REQUIREMENTS={REQUIREMENTS[one.distribution]}']
    ignored = [f'--ignore={path}' for path in LEFT_OUT]
    tests = [str(venv / 'bin' / 'python'), '-m', 'pytest', '--numprocesses', '2', '--dist', 'loadfile', *ignored,
             *(['-m', 'not slow'] if fast else []), *arguments]
    with open(log, 'w') as file:

        def failed(command: Sequence[str]) -> bool:
            return bool(subprocess.run(command, cwd=REPOSITORY, env=environment, stdout=file,
                                       stderr=subprocess.STDOUT).returncode)

        if failed(setup):
            text = log.read_text(errors='replace')
            return 'no wheels' if 'No matching distribution found for ros-' in text else f'set-up failed, see {log}'
        environment['AMENT_PREFIX_PATH'] = str(venv)
        return f'failed, see {log}' if failed(tests) else 'passed'


def main() -> int:
    """0 when every combination that has wheels has passed, and one has."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition('\n')[0])
    parser.add_argument('--fast', action='store_true', help='without the slow tests, as make test-fast')
    parser.add_argument('--list', action='store_true', help='only name the combinations')
    parser.add_argument('names', nargs='*', metavar='NAME', help='some, e.g. jazzy or kilted-py3.12; default: all')
    own, arguments = sys.argv[1:], list[str]()
    if '--' in own:
        own, arguments = own[:own.index('--')], own[own.index('--') + 1:]
    given = parser.parse_args(own)
    wanted = [one for one in combinations()
              if not given.names or one.name in given.names or one.distribution in given.names]
    if not wanted:
        parser.error(f'found no combination {", ".join(given.names)}, expected some of those that --list names')
    results = []
    for one in wanted:
        if given.list:
            print(f'{one.name:16}{one.python}')
            continue
        results.append(run(one, given.fast, arguments))
        print(f'{one.name:16}{results[-1]}', flush=True)
    return 0 if given.list or ('passed' in results and set(results) <= {'passed', 'no wheels'}) else 1


if __name__ == '__main__':
    sys.exit(main())
