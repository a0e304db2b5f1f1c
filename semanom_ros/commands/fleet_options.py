"""Options of the commands that many workers can run."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from semanom_ros.commands.numbers import whole
from semanom_ros.errors import ParameterError

if TYPE_CHECKING:
    from semanom_ros.fleet.scheduling import Workers

PROCESSES, RAY = 'processes', 'ray'


def add_fleet_options(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Adds `--engine` and what belongs to it."""
    group = parser.add_argument_group('many workers, see docs/fleet.md')
    group.add_argument('--engine', choices=(PROCESSES, RAY),
                       help='processes of this machine, or actors of a Ray cluster (default: this process alone)')
    group.add_argument('--workers', type=whole(1), metavar='N',
                       help='how many (default: 2 processes; with Ray one for each GPU, else for every 4 cores)')
    group.add_argument('--address', metavar='A',
                       help='of the Ray cluster: auto, HOST:6379 or ray://HOST:10001 (default: RAY_ADDRESS, else a '
                            'cluster of this machine alone)')
    group.add_argument('--storage', metavar='URL',
                       help='where workers put what they made: a folder that all machines have, or a URL as fsspec '
                            'knows it (s3://, gs://, sftp://) (default: a hidden folder beside the result)')
    return group


def workers_of(arguments: argparse.Namespace) -> Workers | None:
    """What the options ask for; None: this process alone.

    Raises:
        ParameterError: an option is of no use without another, or Ray is not installed.
    """
    if arguments.engine is None:
        for name in ('workers', 'address', 'storage', 'stretch'):
            if getattr(arguments, name, None) is not None:
                raise ParameterError(f'--{name}: found it without --engine, expected --engine {PROCESSES} or {RAY}; '
                                     'give one, or leave it out')
        return None
    if arguments.engine == PROCESSES:
        if arguments.address is not None:
            raise ParameterError(f'--address {arguments.address}: found it with --engine {PROCESSES}, expected '
                                 f'--engine {RAY}; correct one of them')
        from semanom_ros.fleet.worker_processes import WorkerProcesses

        return WorkerProcesses(arguments.workers or 2)
    from semanom_ros.fleet.ray_actors import RayActors

    return RayActors(arguments.address or '', arguments.workers or 0)
