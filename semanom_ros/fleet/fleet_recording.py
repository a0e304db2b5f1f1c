"""Recordings into a nominal database by many workers: the driver of `semanom record --engine`."""

from __future__ import annotations

import json
import logging
import re
import socket
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semanom_ros import __version__
from semanom_ros.core.curation.publishing import Recipe
from semanom_ros.core.curation.recorder import MOST_NAMED, RecordingSummary
from semanom_ros.core.curation.writer import DatabaseWriter
from semanom_ros.core.database.manifest import HELD_OUT, RECORDED
from semanom_ros.core.database.published import verify_file
from semanom_ros.core.database.storage import FILES, UNREADABLE, FileEntry, NominalAddition, Part
from semanom_ros.core.embedding.description import EmbeddingDescription, parse_description
from semanom_ros.core.fields import Fields, parse_json
from semanom_ros.core.progress import Progress
from semanom_ros.errors import DatabaseError, ParameterError, SemanomError
from semanom_ros.fleet.recording_plan import RecordingPlan
from semanom_ros.fleet.recording_work import DONE, PARTS, PLANS, parts_folder, plan_file
from semanom_ros.fleet.scheduling import Done, Failed, Fleet, Task, Workers
from semanom_ros.fleet.shared_storage import SharedStorage, StorageError
from semanom_ros.fleet.worker import ORDER
from semanom_ros.parameters import Affects
from semanom_ros.recordings.nominal_recording import BagRecording
from semanom_ros.settings import Settings

DESCRIPTION = 'description.json'
FRAMES_AT_ONCE = 480
"""Frames of a stretch: what is embedded again when a worker is lost."""

_FILE = re.compile(rf'({RECORDED}|{HELD_OUT})/({"|".join(map(re.escape, FILES))})')

log = logging.getLogger(__name__)


@dataclass
class FleetRecording(BagRecording):
    """What came of it.

    Attributes:
        lost: workers that ended on their own.
        taken_over: stretches that an earlier, interrupted call had embedded.
        embedded: stretches that were embedded now.
        stretches: all of them.
    """

    lost: int = 0
    taken_over: int = 0
    embedded: int = 0
    stretches: int = 0


def default_storage(database: Path) -> Path:
    """Beside the database."""
    return database.parent / f'.{database.name}.fleet'


def record_on_fleet(bags: Sequence[Path], database: Path, settings: Settings, progress: Progress, workers: Workers,
                    storage_url: str = '', frames_at_once: int = FRAMES_AT_ONCE) -> FleetRecording:
    """Embeds nominal recordings with many workers, and publishes the database in one step.

    The database is as that of `record_bags`: the same frames in the same order. Recordings and the shared storage must
    have one name on every machine. Killed at any moment, or without a worker left, what was embedded stays in the
    storage; called again, it goes on there. A recording that fails is left out, with all of its stretches, and the
    rest is published; what was embedded of it stays for the next call, with `append`.

    Args:
        bags: recordings, as BagReader takes them.
        database: folder; on the machine of the driver.
        settings: of the method and the recorder.
        progress: is told.
        workers: who work; they are opened and closed here.
        storage_url: of what they share; '': a folder beside the database.
        frames_at_once: of a stretch.

    Raises:
        SemanomError: the storage, the workers or the database will not do, or no recording could be embedded.
    """
    recipe = Recipe.of(settings.method, settings.recorder.index)  # before hours are spent
    storage = SharedStorage(storage_url or str(default_storage(database)))
    if storage.holds(database):
        raise ParameterError(f'--storage {storage.shown}: found it in the folder of the database or round it, expected '
                             'a place of its own; give another, or leave it out')
    result = FleetRecording()
    begun = time.monotonic()
    with ExitStack() as stack:
        order, fresh = _order(storage, database, settings, frames_at_once)
        stack.enter_context(_begun(storage, fresh, result))
        described: list[EmbeddingDescription] = []

        def welcome(about: Mapping[str, Any]) -> None:
            with Fields(json.loads(json.dumps(about['about']['description']))) as fields:
                found = parse_description(fields)
            if not described:
                described.append(found)
            _same(described[0], found, about['machine'])

        fleet = stack.enter_context(Fleet(workers, 'record', storage.url, order, welcome))
        fleet.first()
        _describe(storage, described[0])
        writer = stack.enter_context(DatabaseWriter.begin(database, described[0], append=settings.recorder.append))
        plans = _look_through(fleet, storage, bags, progress, result)
        wanted = _wanted(plans, writer, _stretch(settings, frames_at_once), result)
        gathering = stack.enter_context(_Gathering(writer, storage, plans, wanted, result))
        _embed(fleet, storage, plans, wanted, progress, result, gathering)
        result.lost = fleet.lost
        fleet.close()  # what follows needs no workers
        complete = [bag for bag in plans if bag not in result.failed]
        if not complete:
            raise SemanomError(f'no recording could be embedded: {next(iter(result.failed.values()))}')
        gathering.finish(progress)
        if not result.summary.frames and not result.summary.known:
            raise SemanomError(f'{", ".join(map(str, bags))}: found no frame that can be recorded, expected images; '
                               'see the messages above')
        result.manifest = writer.commit(recipe, progress)
    result.sources = [Path(plans[bag].path) for bag in complete]
    result.seconds = time.monotonic() - begun
    _clear(storage, [plans[bag] for bag in complete], bool(result.failed))
    return result


@contextmanager
def _begun(storage: SharedStorage, fresh: bool, result: FleetRecording) -> Iterator[None]:
    """What fails before the first stretch is embedded leaves nothing in a storage that was empty."""
    try:
        yield
    except BaseException:
        if fresh and not result.embedded:
            storage.remove(PARTS, PLANS, DESCRIPTION, ORDER)
        raise


def _order(storage: SharedStorage, database: Path, settings: Settings, frames_at_once: int
           ) -> tuple[str, bool]:
    """Writes what all workers are told, and returns it, and whether the storage was empty.

    Raises:
        StorageError: an interrupted call for something else has left something there, or it holds other files.
    """
    recorder, method = settings.recorder.values(), settings.method
    needed = ('every_n', 'rate', 'held_out_share', 'thumbnail_size', 'image_topics')
    made_of = {**method.values(Affects.EMBEDDING), 'segments_topics': list(method.queries.segments_topics),
               **{name: recorder[name] for name in needed}, 'stretch': _stretch(settings, frames_at_once),
               'database': str(database.absolute())}
    order = {'version': __version__, 'driver': socket.gethostname(), 'database': str(database.absolute()),
             'parameters': settings.values(), 'made_of': made_of}
    content = storage.read(ORDER)
    if content is not None:
        try:
            before = json.loads(content)
            changed = next((name for name in made_of if before['made_of'].get(name) != made_of[name]), None)
            if before['version'] != __version__:
                changed, before['made_of'] = 'version', {'version': before['version']}
                made_of = {'version': __version__}
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise StorageError(f'{storage.shown}/{ORDER}: unreadable ({error}), expected what an interrupted recording '
                               'left; give another --storage') from error
        if changed:
            raise StorageError(f'{storage.shown}: {changed}: found a recording that is not finished, made with '
                               f'{before["made_of"].get(changed)}, expected {made_of[changed]} (asked for now); finish '
                               'it as it was begun, delete it, or give another --storage')
    elif not storage.empty():
        raise StorageError(f'{storage.shown}: found other files in it, expected an empty folder or a recording that is '
                           'not finished; give another --storage')
    told = json.dumps(order)
    storage.write(ORDER, told.encode())
    return told, content is None


def _stretch(settings: Settings, frames_at_once: int) -> int:
    """Frames of a stretch; 0: whole recordings, where a frame's masks come of those before it."""
    queries = settings.method.queries
    moved = queries.variant == 'instance' and queries.segmenter_every_n > 1
    return 0 if moved else frames_at_once


def _same(first: EmbeddingDescription, other: EmbeddingDescription, machine: str) -> None:
    difference = first.difference(other)
    if difference:
        name, expected, found = difference
        raise DatabaseError(f'{machine}: {name}: found {found}, expected {expected} as on the other machines; give all '
                            'of them the same encoder and weights')


def _describe(storage: SharedStorage, description: EmbeddingDescription) -> None:
    """Remembers what makes the embeddings; what lies there already must be made by the same."""
    content = storage.read(DESCRIPTION)
    if content is None:
        storage.write(DESCRIPTION, json.dumps(vars(description)).encode())
        return
    try:
        with Fields(parse_json(content)) as fields:
            before = parse_description(fields)
    except ValueError as error:
        raise StorageError(f'{storage.shown}/{DESCRIPTION}: unreadable ({error}), expected what an interrupted '
                           'recording left; delete the folder, or give another --storage') from error
    difference = before.difference(description)
    if difference:
        name, found, expected = difference
        raise DatabaseError(f'{storage.shown}: {name}: found embeddings made with {found}, expected {expected} as the '
                            'workers have now; give them the encoder of before, delete the folder, or give another '
                            '--storage')


def _look_through(fleet: Fleet, storage: SharedStorage, bags: Sequence[Path], progress: Progress,
                  result: FleetRecording) -> dict[Path, RecordingPlan]:
    """The plan of each recording that can be read, in the order given; of the same recording twice one."""
    progress.begin('look through', len(bags), 'recording')
    tasks = [Task(f'look through {bag.name}', 'plan', {'bag': str(bag.absolute())}, str(bag))
             for bag in dict.fromkeys(bags)]
    found: dict[Path, str] = {}
    for outcome in fleet.run(tasks):
        bag = Path(outcome.task.group)
        if isinstance(outcome, Failed):
            result.failed[bag] = outcome.line
        else:
            found[bag] = outcome.result['sha256']
        progress.advance(1)
    progress.end()
    plans: dict[Path, RecordingPlan] = {}
    seen: dict[str, Path] = {}
    for bag in dict.fromkeys(bags):
        if bag not in found:
            continue
        sha256 = found[bag]
        name = plan_file(sha256)
        try:
            with storage.here('', [name]) as root:
                plan = RecordingPlan.load(root, name)
        except UNREADABLE as error:
            raise StorageError(f'{storage.shown}/{name}: unreadable ({error}), expected what a worker wrote there; see '
                               'that all machines share that place, delete it, and try again') from error
        if sha256 in seen:
            result.summary.known += len(plan)
            log.warning('%s: is the same recording as %s, which is recorded', bag, seen[sha256])
            continue
        seen[sha256] = bag
        plans[bag] = plan
        result.summary.repeated += plan.repeated
        result.bad_images += plan.bad_messages
        if plan.damage:
            result.damaged.append(plan.damage)
    return plans


def _wanted(plans: Mapping[Path, RecordingPlan], writer: DatabaseWriter, stretch: int, result: FleetRecording
            ) -> dict[Path, list[range]]:
    """Stretches of each recording with a frame that the database does not hold."""
    wanted: dict[Path, list[range]] = {}
    for bag, plan in plans.items():
        wanted[bag] = []
        for rows in plan.stretches(stretch or max(1, len(plan))):
            known = sum(writer.has(plan.sha256, *plan.key(row)) for row in rows)
            result.summary.known += known
            if known < len(rows):
                wanted[bag].append(rows)
    return wanted


def _embed(fleet: Fleet, storage: SharedStorage, plans: Mapping[Path, RecordingPlan],
           wanted: Mapping[Path, Sequence[range]], progress: Progress, result: FleetRecording,
           gathering: _Gathering) -> None:
    """Has stretches embedded that are not yet, and notes the recordings that fail."""
    tasks = []
    frames = sum(len(rows) for all_rows in wanted.values() for rows in all_rows)
    result.stretches = sum(map(len, wanted.values()))
    progress.begin('record', frames, 'frame')
    for bag, all_rows in wanted.items():
        for rows in all_rows:
            if _parts(storage, plans[bag], rows) is not None:
                result.taken_over += 1
                progress.advance(len(rows))
                gathering.embedded(bag)
                continue
            arguments = {'bag': plans[bag].path, 'sha256': plans[bag].sha256, 'first': rows.start, 'stop': rows.stop}
            tasks.append(Task(f'embed {bag.name} [{rows.start}:{rows.stop}]', 'embed', arguments, str(bag), len(rows)))
    for outcome in fleet.run(tasks):
        bag = Path(outcome.task.group)
        if isinstance(outcome, Done):
            result.embedded += 1
            progress.advance(outcome.task.weight)
            gathering.embedded(bag)
        else:
            result.failed[bag] = outcome.line
            gathering.go_on()
    progress.end()


def _parts(storage: SharedStorage, plan: RecordingPlan, rows: range) -> dict[str, Any] | None:
    """What a worker said of a stretch that it has stored; None where none has, or what is there cannot be that."""
    place = parts_folder(plan.sha256, rows)
    content = storage.read(f'{place}/{DONE}')
    if content is None:
        return None
    try:
        with Fields(parse_json(content)) as fields:
            done: dict[str, Any] = {name: fields.count(name) for name in ('bad_images', 'repeated', 'not_finite')}
            done['not_finite_frames'] = fields.texts('not_finite_frames')
            folder = fields.matching('folder', r'[0-9a-f]{12}', 'a folder of the stretch')
            files = fields.mapping('files')
            for name, entry in files.items():
                if not _FILE.fullmatch(name) or not isinstance(entry, list) or len(entry) != 2:
                    fields.wrong('files', {name: entry}, 'files of parts, with size and SHA-256')
        return {**done, 'folder': f'{place}/{folder}', 'files': files}
    except ValueError as error:
        log.warning('%s/%s: %s; the stretch is embedded again', storage.shown, place, error)
        return None


class _Gathering:
    """Adds what workers have embedded to the database that is being written, while they embed what follows.

    Recordings are added when they are complete, and in the order of one process: of one that fails nothing is added.
    """

    def __init__(self, writer: DatabaseWriter, storage: SharedStorage, plans: Mapping[Path, RecordingPlan],
                 wanted: Mapping[Path, Sequence[range]], result: FleetRecording) -> None:
        self._writer, self._storage, self._plans, self._wanted = writer, storage, plans, wanted
        self._result = result
        self._missing = {bag: len(wanted[bag]) for bag in plans}
        self._order = deque(plans)
        self._added: deque[tuple[Path, Future[None]]] = deque()
        self._pool = ThreadPoolExecutor(1, 'gather')

    def __enter__(self) -> _Gathering:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def embedded(self, bag: Path) -> None:
        """One more stretch of a recording is in the storage."""
        self._missing[bag] -= 1
        self.go_on()

    def go_on(self) -> None:
        """Has recordings added that are complete, up to the first that may still become it.

        Raises:
            SemanomError: one before could not be added.
        """
        while self._order and (self._order[0] in self._result.failed or not self._missing[self._order[0]]):
            bag = self._order.popleft()
            if bag not in self._result.failed:
                self._added.append((bag, self._pool.submit(self._add, bag)))
        for _, added in self._added:
            if added.done():
                added.result()

    def finish(self, progress: Progress) -> None:
        """Waits until all are added."""
        self.go_on()
        progress.begin('gather', sum(len(rows) for bag, _ in self._added for rows in self._wanted[bag]), 'frame')
        for bag, added in self._added:
            added.result()
            progress.advance(sum(map(len, self._wanted[bag])))
        progress.end()

    def _add(self, bag: Path) -> None:
        summary = self._result.summary
        for rows in self._wanted[bag]:
            done = _parts(self._storage, self._plans[bag], rows)
            if done is None:
                raise StorageError(f'{self._storage.shown}: found nothing of {bag} from frame {rows.start} on, which a '
                                   'worker has stored, expected one place that all machines share; mount it on '
                                   'every machine under this name, or give a URL')
            for addition in _additions(self._storage, done, self._writer.description.dimension):
                if self._writer.add(addition):
                    summary.frames += 1
                    summary.held_out += addition.record.held_out
                    summary.vectors += len(addition.vectors)
            _count(done, self._result)


def _count(done: Mapping[str, Any], result: FleetRecording) -> None:
    summary: RecordingSummary = result.summary
    result.bad_images += done['bad_images']
    summary.repeated += done['repeated']
    summary.not_finite += done['not_finite']
    summary.not_finite_frames += list(done['not_finite_frames'])[:MOST_NAMED - len(summary.not_finite_frames)]


def _additions(storage: SharedStorage, done: Mapping[str, Any], dimension: int) -> Iterator[NominalAddition]:
    """The frames of a stretch, whose files are as they were written."""
    try:
        with storage.here(done['folder'], list(done['files'])) as folder:
            for name, (size, sha256) in done['files'].items():
                verify_file(folder, name, FileEntry(size, sha256))
            for kind in (RECORDED, HELD_OUT):
                if any(name.startswith(f'{kind}/') for name in done['files']):
                    part = Part(folder, kind, dimension)
                    for index in range(len(part.frames)):
                        frame = part.frame(index, kind == HELD_OUT)
                        yield NominalAddition(frame.record, frame.vectors, frame.boxes, frame.positions,
                                              part.thumbnail(index))
    except (FileNotFoundError, DatabaseError) as error:
        storage.remove(done['folder'].rpartition('/')[0])
        raise StorageError(f'{storage.shown}: found a stretch that is not as it was written ({error}), expected the '
                           'files that a worker stored; give the same command again: it is embedded again') from error


def _clear(storage: SharedStorage, published: Sequence[RecordingPlan], failed: bool) -> None:
    """Removes what is published; what was embedded of recordings that failed stays for the next call."""
    if failed:
        storage.remove(*(f'{PARTS}/{plan.sha256[:32]}' for plan in published))
    else:
        storage.remove(PARTS, PLANS, DESCRIPTION, ORDER)
