"""Recordings measured by many workers: the driver of `semanom evaluate --engine`."""

from __future__ import annotations

import json
import logging
import shutil
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from semanom_ros import __version__
from semanom_ros.core.database.published import verify_file
from semanom_ros.core.database.storage import FileEntry
from semanom_ros.core.fields import parse_json
from semanom_ros.core.progress import Progress
from semanom_ros.errors import DatabaseError
from semanom_ros.evaluation.detectors import Detectors, Row
from semanom_ros.evaluation.replay import Elsewhere, Topics, Unmeasured
from semanom_ros.fleet.evaluation_work import MEASURED, about
from semanom_ros.fleet.scheduling import Failed, Fleet, Task, Workers
from semanom_ros.fleet.shared_storage import SharedStorage, StorageError
from semanom_ros.fleet.worker import ORDER
from semanom_ros.recordings.instance_masks import wanted_segments
from semanom_ros.settings import Settings

log = logging.getLogger(__name__)


def measured_by(workers: Workers, storage_url: str, detectors: Detectors, shown: Row | None, topics: Topics,
                settings: Settings, progress: Progress) -> Elsewhere:
    """Who measures recordings in the place of this process, see `evaluate`.

    Recordings, databases and the shared storage must have one name on every machine. A recording that fails is left
    out, and named.

    Args:
        workers: who work; they are opened and closed here.
        storage_url: of what they share; nothing else may be in it.
        detectors: as this process has loaded them.
        shown: see `evaluate`.
        topics: see `evaluate`.
        settings: of the method, and of the detector's pictures.
        progress: is told.
    """
    rows = detectors.rows
    masks = wanted_segments(replace(settings.method.queries, variant=detectors.embedder.variant))
    order = {
        'version': __version__, 'driver': socket.gethostname(), 'parameters': settings.values(),
        'databases': [str(database.path.absolute()) for database in detectors.databases.values()],
        'variants': list(detectors.databases), 'filters': sorted({row.filtered for row in rows}),
        'shown': asdict(shown or rows[-1]),
        'topics': asdict(replace(topics, segments=tuple(masks), bit_depth=settings.method.encoder.bit_depth))}

    def welcome(said: Mapping[str, Any]) -> None:
        ours, theirs = json.loads(json.dumps(about(detectors))), json.loads(json.dumps(said['about']))
        for name, expected in ours.items():
            if theirs.get(name) != expected:
                raise DatabaseError(f'{said["machine"]}: {name}: found {theirs.get(name)}, expected {expected} as the '
                                    'driver has; give all machines the same encoder and databases')

    def measure(folder: Path, missing: Sequence[Unmeasured]) -> dict[str, str]:
        storage = SharedStorage(storage_url)
        before = storage.read(ORDER)
        if before is None and not storage.empty():
            raise StorageError(f'{storage.shown}: found other files in it, expected an empty folder; give another '
                               '--storage')
        if before is not None and not _of_evaluation(before):
            raise StorageError(f'{storage.shown}: found a recording that is not finished, or something else, expected '
                               'an empty folder; give another --storage')
        told = json.dumps(order)
        storage.write(ORDER, told.encode())
        failed: dict[str, str] = {}
        by_index = {str(one.index): one for one in missing}
        try:
            with Fleet(workers, 'evaluate', storage.url, told, welcome) as fleet:
                progress.begin('evaluate', len(missing), 'recording')
                tasks = [Task(f'evaluate {one.name}', 'measure', {
                    'index': one.index, 'bag': str(one.path.absolute()), 'camera': asdict(one.camera), 'name': one.name,
                    'stored': f'{MEASURED}/{one.stored.name}'}, str(one.index)) for one in missing]
                for outcome in fleet.run(tasks):
                    one = by_index[outcome.task.group]
                    if isinstance(outcome, Failed):
                        failed[one.name] = outcome.line
                        log.error('%s: is not among the figures: %s', one.path, outcome.line)
                    else:
                        _take(storage, outcome.result, folder, one)
                    progress.advance(1)
                progress.end()
        finally:
            storage.remove(MEASURED, ORDER)
        return failed

    return measure


def _of_evaluation(order: bytes) -> bool:
    try:
        told = parse_json(order)
    except ValueError:
        return False
    return isinstance(told, dict) and 'shown' in told


def _take(storage: SharedStorage, result: Mapping[str, Any], folder: Path, one: Unmeasured) -> None:
    """Brings what a worker has measured into place; what says that it is there comes last."""
    files: Mapping[str, tuple[int, str]] = result['files']
    try:
        with storage.here(result['folder'], list(files)) as source:
            for name, (size, sha256) in files.items():
                verify_file(source, name, FileEntry(size, sha256))
            shutil.rmtree(folder / 'bags' / one.name, ignore_errors=True)
            for name in sorted(files, key=lambda name: name.startswith(f'{MEASURED}/')):
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                beside = target.with_name(f'{target.name}.partial')
                shutil.copyfile(source / name, beside)
                beside.rename(target)
    except (FileNotFoundError, DatabaseError) as error:
        raise StorageError(f'{storage.shown}: found no whole result of {one.path} ({error}), expected one place that '
                           'all machines share; mount it on every machine under this name, or give a URL') from error
    storage.remove(result['folder'])
