"""What many workers cost and save, beside one process: the table of docs/fleet.md.

    python -m tools.fleet_figures BAG... --workers 1 2 4 --every 4 --set input_size='[224, 224]'

Each build is made anew, one after the other, by the code of `semanom record`; one worker of the last build is killed
midway. Databases are compared byte by byte with that of one process. With --ray the workers are actors of a Ray cluster
that runs on this machine.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import tempfile
import time
from pathlib import Path

from semanom_ros.commands.options import add_parameter_options, settings_of
from semanom_ros.core.curation.recorder import folder_size
from semanom_ros.core.curation.writer import DatabaseWriter
from semanom_ros.core.database.engines import load_embedder
from semanom_ros.core.database.published import read_manifest
from semanom_ros.core.database.storage import NominalAddition
from semanom_ros.errors import SemanomError
from semanom_ros.fleet.fleet_recording import record_on_fleet
from semanom_ros.fleet.ray_actors import RayActors
from semanom_ros.fleet.scheduling import Workers
from semanom_ros.fleet.worker_processes import WorkerProcesses
from semanom_ros.parameter_files import RECORDER
from semanom_ros.recordings.nominal_recording import record_bags
from semanom_ros.settings import Settings


class Stages:
    """Progress that keeps the seconds of each stage; ends a process once it has seen half of the frames recorded."""

    def __init__(self, victims: WorkerProcesses | None = None) -> None:
        self.seconds: dict[str, float] = {}
        self.ready = 0.0
        self._victims, self._born = victims, time.monotonic()

    def begin(self, what: str, total: int, unit: str) -> None:
        self._stage, self._begun, self._total, self._done = what.split(' ')[0], time.monotonic(), total, 0
        if self._stage == 'record' and not self.ready:
            self.ready = self._begun - self._born

    def advance(self, amount: int) -> None:
        self._done += amount
        if self._victims is not None and self._stage == 'record' and 2 * self._done >= self._total:
            os.kill(self._victims.pids[0], signal.SIGKILL)
            self._victims = None

    def end(self) -> None:
        self.seconds[self._stage] = self.seconds.get(self._stage, 0.0) + time.monotonic() - self._begun


def processor_seconds() -> float:
    """That this process and those that it has waited for have computed."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def contents(database: Path) -> dict[str, bytes]:
    """The files of a database's part."""
    return {path.name: path.read_bytes() for path in sorted((database / 'v000001' / 'recorded').iterdir())}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('bags', nargs='+', type=Path, metavar='BAG')
    parser.add_argument('--workers', nargs='+', type=int, default=[1, 2, 4], metavar='N')
    parser.add_argument('--stretch', type=int, default=25, metavar='FRAMES')
    parser.add_argument('--every', type=int, default=1, metavar='N', help='take every n-th frame')
    parser.add_argument('--ray', metavar='ADDRESS', help='actors of this cluster, and no process is killed')
    add_parameter_options(parser, RECORDER)
    arguments = parser.parse_args()
    settings = settings_of(arguments).changed({'every_n': arguments.every})
    with tempfile.TemporaryDirectory(prefix='semanom_fleet_figures_') as scratch:
        measure(arguments, settings, Path(scratch))


def adding(source: Path, target: Path) -> float:
    """Seconds of the processor in which the driver adds a frame to the database that is being written."""
    manifest = read_manifest(source)
    with DatabaseWriter.begin(target, manifest.description) as writer:
        begun = time.process_time()
        for entry in manifest.parts:
            part = entry.open(source, manifest.description.dimension)
            for index in range(len(part.frames)):
                frame = part.frame(index, held_out=False)
                writer.add(NominalAddition(frame.record, frame.vectors, frame.boxes, frame.positions,
                                           part.thumbnail(index)))
        return (time.process_time() - begun) / writer.frames


def measure(arguments: argparse.Namespace, settings: Settings, scratch: Path) -> None:
    """Builds the databases, and prints a line for each."""
    load_embedder(settings.method)  # so that imports and caches are nobody's
    stages, begun, used = Stages(), time.monotonic(), processor_seconds()
    alone = record_bags(arguments.bags, scratch / 'one', settings, stages)
    total, used, frames = time.monotonic() - begun, processor_seconds() - used, alone.summary.frames
    expected = contents(scratch / 'one')
    print(f'{frames} frames, {len(os.sched_getaffinity(0))} cores; the embeddings take '
          f'{sum(map(len, expected.values())) / frames / 1e3:.0f} kB a frame, the database '
          f'{folder_size(scratch / "one") / frames / 1e3:.0f} kB; the driver adds a frame in '
          f'{adding(scratch / "one", scratch / "added") * 1e3:.1f} ms of the processor')
    print('| build | ready | embedded | gathered | published | in all, s | of one process | processor, s '
          '| of one process | the same bytes |')
    print('|---|--:|--:|--:|--:|--:|--:|--:|--:|---|')
    row('one process', stages, total, total, used, used, '')
    builds = [(count, False) for count in arguments.workers]
    builds += [] if arguments.ray else [(max(arguments.workers), True)]
    for count, kill in builds:
        database = scratch / f'{count}-{kill}'
        workers: Workers = RayActors(arguments.ray, count) if arguments.ray else WorkerProcesses(count)
        stages = Stages(workers if kill and isinstance(workers, WorkerProcesses) else None)
        begun, before = time.monotonic(), processor_seconds()
        found = record_on_fleet(arguments.bags, database, settings, stages, workers, frames_at_once=arguments.stretch)
        name = f'{count} worker{"s" if count > 1 else ""}{", one killed midway" if kill else ""}'
        if found.lost != kill:
            raise SemanomError(f'{name}: found {found.lost} workers lost, expected {int(kill)}')
        row(name, stages, time.monotonic() - begun, total, processor_seconds() - before, used,
            'yes' if contents(database) == expected else 'no')


def row(name: str, stages: Stages, seconds: float, alone: float, used: float, used_alone: float, same: str) -> None:
    """A line of the table."""
    told = [stages.seconds.get(stage, 0.0) for stage in ('record', 'gather')]
    published = seconds - stages.ready - sum(told)
    print(f'| {name} | {stages.ready:.1f} | {told[0]:.1f} | {told[1]:.1f} | {published:.1f} | {seconds:.1f} '
          f'| {seconds / alone:.2f} | {used:.1f} | {used / used_alone:.2f} | {same} |', flush=True)


if __name__ == '__main__':
    main()
