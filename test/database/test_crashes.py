"""Whenever a writer is killed, readers see a whole version, and the next writer loses nothing and doubles nothing.

Writers run in forked processes that the kernel kills: at every single change of a file in
turn (by Python's audit events), and at random moments (by a timer).
"""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest

from semanom_ros.core.curation import operations
from semanom_ros.core.curation.publishing import Recipe
from semanom_ros.core.curation.selection import Selection
from semanom_ros.core.curation.writer import DatabaseWriter
from semanom_ros.core.database.nominal_database import NominalDatabase
from semanom_ros.core.database.published import kept_versions, read_manifest, read_version
from semanom_ros.core.database.storage import FrameRecord, NominalAddition
from semanom_ros.errors import DatabaseError
from semanom_ros.settings import SearchSettings

CHANGES = {'os.rename', 'os.remove', 'os.mkdir', 'os.rmdir', 'os.truncate'}  # audit events, beside open for writing
fork = multiprocessing.get_context('fork')


def run(work: Callable[[], object], kill_at: int | None = None) -> bool:
    """Runs `work` in a forked process; kills it at the n-th change of a file, or when its own timer rings.

    Returns whether it came to its end.
    """

    def child() -> None:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # instead of pytest-timeout's
        if kill_at is not None:
            count = 0

            def watch(event: str, arguments: tuple) -> None:
                nonlocal count
                if event in CHANGES or (event == 'open' and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
                    if count == kill_at:
                        os.kill(os.getpid(), signal.SIGKILL)
                    count += 1

            sys.addaudithook(watch)
        work()
        os._exit(0)  # not pytest's own end

    process = fork.Process(target=child)
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL, -signal.SIGALRM), 'the writer failed'
    return process.exitcode == 0


def kill_everywhere(work: Callable[[Path], object], start: Path | None, folder: Path,
                    check: Callable[[Path], None], trial: Callable[..., AbstractContextManager]) -> int:
    """Kills `work` on copies of a database at its first, second, ... change of a file until it comes to its end."""
    for n in range(1000):
        path = folder / f'killed at {n}'
        if start:
            shutil.copytree(start, path)
        with trial('Database', 'a writer killed at a change of a file'):
            ended = run(lambda path=path: work(path), kill_at=n)
            check(path)
        shutil.rmtree(path, ignore_errors=True)
        if ended:
            return n
    raise AssertionError('it never ends')


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """What a killed process wrote the kernel keeps; only a power cut, which cannot be tried here, needs fsync."""
    monkeypatch.setattr(os, 'fsync', lambda descriptor: None)


@pytest.fixture
def recording(description, drive) -> Callable[..., None]:
    """Records a drive, as the recorder does: what is there already is passed over."""

    def work(path: Path, bag: str = 'a', count: int = 5, append: bool = False,
             added: Callable[[int], object] = lambda count: None) -> None:
        with DatabaseWriter.begin(path, description, append=append) as writer:
            missing = (frame for frame in drive(bag, count, vectors=3) if not writer.has(*frame.record.key))
            for n, frame in enumerate(missing, 1):
                writer.add(frame)
                added(n)
            writer.commit(Recipe(SearchSettings()))

    return work


def test_a_first_recording_killed_at_every_change_of_a_file(tmp_path, recording, content_of, trial):
    recording(tmp_path / 'whole')
    expected = content_of(NominalDatabase.open(tmp_path / 'whole'))

    def check(path: Path) -> None:
        if not (path / 'manifest.json').exists():
            with pytest.raises(DatabaseError, match=r'found no folder|unfinished recording|json: missing'):
                NominalDatabase.open(path)
            recording(path)
        database = NominalDatabase.open(path)
        assert content_of(database) == expected
        assert database.manifest.version == 1
        assert len(database.calibration['frame_scores']) == 1
        assert not (path / 'staging').exists()

    assert kill_everywhere(recording, None, tmp_path, check, trial) > 20


def test_appending_killed_at_every_change_of_a_file(tmp_path, recording, content_of, trial):
    recording(tmp_path / 'first')
    recording(tmp_path / 'both')
    recording(tmp_path / 'both', 'b', append=True)
    before, after = (content_of(NominalDatabase.open(tmp_path / name)) for name in ('first', 'both'))

    def check(path: Path) -> None:
        database = NominalDatabase.open(path)  # never anything but a whole version
        assert content_of(database) == (before if database.manifest.version == 1 else after)
        recording(path, 'b', append=True)
        database = NominalDatabase.open(path)
        assert content_of(database) == after
        assert database.manifest.version == 2

    assert kill_everywhere(lambda path: recording(path, 'b', append=True), tmp_path / 'first',
                           tmp_path, check, trial) > 20


def accept(path: Path) -> None:
    frame = FrameRecord('/drives/later', 'e' * 64, '/camera', 77, (480, 640))
    vectors = np.eye(16, dtype=np.float32)[:2]
    operations.accept(NominalDatabase.open(path),
                      [NominalAddition(frame, vectors, np.ones((2, 4)), np.zeros((2, 2)))])


def compact(path: Path) -> None:
    operations.compact(path, size=5)


@pytest.mark.parametrize(('change', 'vectors'), [(accept, 12 + 12 + 2 + 2), (compact, 5 + 2)])
def test_a_change_killed_at_every_change_of_a_file(tmp_path, recording, content_of, change, vectors, trial):
    start = tmp_path / 'start'
    recording(start)
    recording(start, 'b', append=True)
    accept(start)
    before = content_of(NominalDatabase.open(start))

    def check(path: Path) -> None:
        database = NominalDatabase.open(path)
        if database.manifest.version == 3:
            assert content_of(database) == before
            if change is accept and (path / 'v000004' / 'manifest.json').exists():
                # decided: the next writer completes it, so version 3, which is loaded, is no longer the current one
                with pytest.raises(DatabaseError, match=r'version: found 4, expected 3 \(loaded\); load it anew'):
                    change(path)
            else:
                change(path)
        database = NominalDatabase.open(path)
        assert database.manifest.version in (4, 5)
        assert database.manifest.vectors == vectors or database.manifest.version == 5
        folders = {p.name for p in path.iterdir() if p.is_dir()}
        assert folders <= {f'v{n:06d}' for n in range(1, database.manifest.version + 1)}
        operations.verify(path)

    assert kill_everywhere(change, start, tmp_path, check, trial) > 15


def test_going_back_and_keeping_less_killed_at_every_change_of_a_file(tmp_path, recording, content_of, trial):
    start = tmp_path / 'start'
    recording(start)
    operations.keep_versions(start, 10)
    recording(start, 'b', append=True)
    accept(start)
    states = {n: content_of(NominalDatabase(start, read_version(start, n))) for n in (1, 3, 4)}
    states |= {5: states[1], 6: states[1], 7: states[1]}  # gone back to, with less kept

    def change(path: Path) -> None:
        operations.revert(path, 1)
        operations.keep_versions(path, 1)

    def check(path: Path) -> None:
        database = NominalDatabase.open(path)
        assert database.manifest.version in (4, 5, 6)
        assert content_of(database) == states[database.manifest.version]
        assert all(content_of(NominalDatabase(path, one)) for one in kept_versions(path, database.manifest))
        operations.keep_versions(path, 2)
        manifest = operations.keep_versions(path, 1)  # settles what was left
        assert [one.version for one in kept_versions(path, manifest)] == [manifest.version - 1]
        assert {p.relative_to(path).as_posix() for p in path.rglob('*') if p.is_file()} <= {
            *manifest.files, *kept_versions(path, manifest)[0].files, 'manifest.json', 'manifest.json.new', 'lock',
            *(f'v{manifest.version - n:06d}/manifest.json' for n in (0, 1))}
        assert [past.version for past in manifest.versions] == list(range(1, manifest.version + 1))
        assert content_of(NominalDatabase.open(path)) in (states[4], states[5])
        operations.verify(path)

    assert kill_everywhere(change, start, tmp_path, check, trial) > 12


def test_a_recording_killed_at_random_moments_until_it_is_done(tmp_path, recording, content_of, trial):
    begun = time.monotonic()
    assert run(lambda: recording(tmp_path / 'whole', count=60))
    frame = (time.monotonic() - begun) / 60
    chance, path = random.Random(0), tmp_path / 'killed'
    for _ in range(10):
        after, delay = chance.randrange(1, 5), chance.uniform(1e-6, frame)

        def kill(n: int, after: int = after, delay: float = delay) -> None:
            if n == after:
                signal.setitimer(signal.ITIMER_REAL, delay)
            elif n > after:  # the frame took less time than the ones before: this moment, then
                os.kill(os.getpid(), signal.SIGALRM)

        with trial('Database', 'a recording killed at a random moment'):
            assert not run(lambda kill=kill: recording(path, count=60, added=kill))
    assert run(lambda: recording(path, count=60))
    database = NominalDatabase.open(path)
    assert content_of(database) == content_of(NominalDatabase.open(tmp_path / 'whole'))


def test_an_interrupted_recording_waits_while_others_change_the_database(tmp_path, recording, content_of, description,
                                                                         drive):
    path = tmp_path / 'database'
    recording(path)
    with DatabaseWriter.begin(path, description, append=True) as writer:
        for frame in list(drive('b', 5, vectors=3))[:3]:
            writer.add(frame)
    accept(path)
    recording(path, 'b', append=True)
    database = NominalDatabase.open(path)
    assert database.manifest.version == 3
    assert [source.path for source in database.manifest.sources] == [
        '/drives/a', 'reviewed:/drives/later', '/drives/b']
    recording(tmp_path / 'whole')
    recording(tmp_path / 'whole', 'b', append=True)
    assert content_of(NominalDatabase.open(tmp_path / 'whole')).items() <= content_of(database).items()


def test_readers_beside_a_writer_see_whole_versions_only(tmp_path, recording):
    path = tmp_path / 'database'
    recording(path)

    def write() -> None:
        for n in range(12):
            recording(path, f'bag {n}', append=True)
            if n % 4 == 3:
                operations.compact(path, distance=1e-9)
                operations.remove(path, Selection((f'bag {n}',)))

    process = fork.Process(target=write)
    process.start()
    versions = []
    while process.is_alive():
        database = NominalDatabase.open(path)
        manifest = database.manifest
        assert sum(len(frame.vectors) for frame in database.frames()) == manifest.vectors
        vectors = database.frames()[-1].vectors
        assert database.search(vectors)[0].max() < 1e-5
        database.example(manifest.vectors - 1, 0.0)
        versions.append(manifest.version)
    process.join()
    assert process.exitcode == 0
    assert versions == sorted(versions)
    assert len(set(versions)) > 1, 'the reader hardly ran'
    assert read_manifest(path).version == 1 + 12 + 3 * 2


def test_a_killed_writer_gives_the_lock_back(tmp_path, description, drive):
    reading, writing = os.pipe()

    def hold() -> None:
        writer = DatabaseWriter.begin(tmp_path / 'database', description)
        writer.add(next(drive('a', 1)))
        os.write(writing, b'.')
        signal.pause()

    process = fork.Process(target=hold)
    process.start()
    os.read(reading, 1)
    with pytest.raises(DatabaseError, match=rf'found a writer at work \(process {process.pid}\)'):
        DatabaseWriter.begin(tmp_path / 'database', description)
    process.kill()
    process.join()
    with DatabaseWriter.begin(tmp_path / 'database', description) as writer:
        assert writer.frames == 1
