"""`semanom record --engine`: the database of one process, whatever happens to workers, storage and recordings."""

from __future__ import annotations

import json
import logging
import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from semanom_ros.cli import main
from semanom_ros.core.database.nominal_database import NominalDatabase
from semanom_ros.core.database.published import verify
from semanom_ros.core.progress import SILENT
from semanom_ros.errors import DatabaseError, ParameterError, SemanomError
from semanom_ros.fleet.fleet_recording import default_storage, record_on_fleet
from semanom_ros.fleet.recording_plan import RecordingPlan
from semanom_ros.fleet.shared_storage import SharedStorage, StorageError
from semanom_ros.fleet.worker_processes import WorkerProcesses
from semanom_ros.recordings.bags import BagReader, BagWriter
from semanom_ros.settings import Settings

from .conftest import SECOND, TOPICS, Watched, WorkersHere, assert_same, one_process, save_encoder

Drive = Callable[..., Path]


def left(folder: Path) -> list[str]:
    """Files of a folder."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob('*') if path.is_file())


@pytest.fixture(scope='module', autouse=True)
def _memory() -> None:
    fsspec.filesystem('memory').store.clear()


def test_processes_one_killed_and_one_with_a_full_disk_make_the_database_of_one_process(
        tmp_path: Path, settings: Settings, drive: Drive, caplog: pytest.LogCaptureFixture) -> None:
    settings = settings.changed({'image_topics': TOPICS, 'every_n': 2, 'held_out_share': 0.2})
    bags = [drive('a'), drive('b', 50, first=100, storage='sqlite3')]
    expected = one_process(bags, tmp_path / 'one', settings)
    workers = WorkerProcesses(2, threads=1)

    def hurt(stage: str, done: int) -> None:
        if (stage, done) == ('record', 0):
            full, killed = workers.pids
            resource.prlimit(full, resource.RLIMIT_FSIZE, (2000, 2000))
            os.kill(killed, signal.SIGKILL)

    result = record_on_fleet(bags, tmp_path / 'fleet', settings, Watched(hurt), workers, frames_at_once=7)
    assert result.lost == 1
    [line] = [record.getMessage() for record in caplog.records if 'taken out' in record.getMessage()]
    assert 'File too large; make room on its disk, or point TMPDIR to another' in line
    assert (result.stretches, result.taken_over, result.failed) == (13, 0, {})
    assert (result.summary.frames, result.summary.held_out) == (80, 16)
    assert_same(tmp_path / 'fleet', expected)
    verify(tmp_path / 'fleet')
    assert not workers.pids
    assert not default_storage(tmp_path / 'fleet').exists()


def test_a_recording_that_always_fails_is_named_and_the_rest_is_published(
        tmp_path: Path, settings: Settings, drive: Drive) -> None:
    settings = settings.changed({'image_topics': TOPICS})
    good, white, gone = drive('good'), drive('white', 8, white=True), drive('gone', 12, first=50)

    def remove(stage: str, done: int) -> None:
        if (stage, done) == ('record', 0):
            gone.rename(tmp_path / 'moved')

    workers = WorkersHere()
    result = record_on_fleet([white, good, gone], tmp_path / 'fleet', settings, Watched(remove), workers,
                             frames_at_once=8)
    assert result.failed.keys() == {white, gone}
    assert 'a white picture' in result.failed[white]
    assert 'gone: no such recording' in result.failed[gone]
    assert sum(name == 'embed gone [0:8]' for name in workers.asked) == 3
    assert_same(tmp_path / 'fleet', one_process([good], tmp_path / 'one', settings))

    (tmp_path / 'moved').rename(gone)
    again = record_on_fleet([good, gone], tmp_path / 'fleet', settings.changed({'append': True}), SILENT, WorkersHere(),
                            frames_at_once=8)
    assert (again.failed, again.summary.known, again.summary.frames) == ({}, 60, 24)
    assert again.manifest is not None
    assert (again.manifest.version, again.manifest.frames) == (2, 84)
    assert not default_storage(tmp_path / 'fleet').exists()


def test_the_command_names_what_failed_and_its_exit_status_tells(
        tmp_path: Path, settings: Settings, drive: Drive, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr('semanom_ros.fleet.worker_processes.WorkerProcesses', WorkersHere)
    good, white = drive('good', 5), drive('white', 4, white=True)
    encoder = [word for name in ('encoder', 'input_size', 'device')
               for word in ('--set', f'{name}={settings.values()[name]}')]
    arguments = ['record', str(good), str(white), '--database', str(tmp_path / 'fleet'), '--image-topic', TOPICS[0],
                 '--engine', 'processes', '--workers', '1', *encoder]
    with caplog.at_level(logging.ERROR, 'root'):
        assert main(arguments) == 2
    [line] = [record.getMessage() for record in caplog.records if 'is not in the database' in record.getMessage()]
    assert line.startswith(f'{white}: is not in the database: ')
    assert 'a white picture' in line
    assert '5 frames in' in capsys.readouterr().out
    assert verify(tmp_path / 'fleet').frames == 5


@pytest.mark.parametrize(('options', 'said'), [
    (['--workers', '2'], '--workers: found it without --engine'),
    (['--stretch', '20'], '--stretch: found it without --engine'),
    (['--engine', 'processes', '--address', 'auto'], '--address auto: found it with --engine processes'),
    (['--engine', 'processes', '--storage', 'nonsense://x'], 'a protocol that cannot be used here'),
])
def test_options_that_do_not_fit(options: list[str], said: str, tmp_path: Path, drive: Drive,
                                 capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['record', str(drive('a', 2)), '--database', str(tmp_path / 'fleet'), *options]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / 'fleet').exists()


def test_without_ray_it_is_one_line(tmp_path: Path, drive: Drive, monkeypatch: pytest.MonkeyPatch,
                                    capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, 'ray', None)
    assert main(['record', str(drive('a', 2)), '--database', str(tmp_path / 'fleet'), '--engine', 'ray']) == 2
    assert '--engine ray: found no Ray' in capsys.readouterr().err
    assert not (tmp_path / 'fleet').exists()


@pytest.mark.parametrize('url', ['', 'memory://bucket/fleet'])
def test_interrupted_it_goes_on_after_what_is_done(url: str, tmp_path: Path, settings: Settings, drive: Drive) -> None:
    settings = settings.changed({'image_topics': TOPICS})
    bags = [drive('a'), drive('b', 10, first=40)]

    def interrupt(stage: str, done: int) -> None:
        if stage == 'record' and done >= 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record_on_fleet(bags, tmp_path / 'fleet', settings, Watched(interrupt), WorkersHere(), url, 10)
    assert not (tmp_path / 'fleet').exists()

    with pytest.raises(StorageError, match='every_n: found a recording that is not finished, made with 1, expected 3'):
        record_on_fleet(bags, tmp_path / 'fleet', settings.changed({'every_n': 3}), SILENT, WorkersHere(), url, 10)

    workers = WorkersHere()
    result = record_on_fleet(bags, tmp_path / 'fleet', settings, SILENT, workers, url, 10)
    assert (result.stretches, result.taken_over) == (8, 4)
    assert len([name for name in workers.asked if name.startswith('embed')]) == 4
    assert_same(tmp_path / 'fleet', one_process(bags, tmp_path / 'one', settings))
    assert not default_storage(tmp_path / 'fleet').exists()
    assert not fsspec.filesystem('memory').store


def test_a_stretch_that_was_changed_in_the_storage_is_embedded_again(tmp_path: Path, settings: Settings, drive: Drive
                                                                     ) -> None:
    settings = settings.changed({'image_topics': TOPICS})
    bags = [drive('a', 10)]

    def flip(stage: str, done: int) -> None:
        if (stage, done) == ('record', 20):
            path = min(default_storage(tmp_path / 'fleet').rglob('vectors.f32'))
            content = bytearray(path.read_bytes())
            content[5] ^= 1
            path.write_bytes(content)

    with pytest.raises(StorageError, match=r'is not as it was written .*found SHA-256'):
        record_on_fleet(bags, tmp_path / 'fleet', settings, Watched(flip), WorkersHere(), frames_at_once=10)
    assert not (tmp_path / 'fleet' / 'manifest.json').exists()
    result = record_on_fleet(bags, tmp_path / 'fleet', settings, SILENT, WorkersHere(), frames_at_once=10)
    assert (result.stretches, result.taken_over) == (2, 1)
    assert_same(tmp_path / 'fleet', one_process(bags, tmp_path / 'one', settings))


@pytest.mark.parametrize('changed', [b'', b'[]', b'{"folder": "../../elsewhere", "files": {}}', {
    'files': {'recorded/../../../manifest.json': [1, '0']}}, {'folder': '../0-10'}])
def test_what_is_no_account_of_a_stretch_is_embedded_again(changed: bytes | dict[str, Any], tmp_path: Path,
                                                           settings: Settings, drive: Drive) -> None:
    settings, bags = settings.changed({'image_topics': TOPICS}), [drive('a', 10)]

    def interrupt(stage: str, done: int) -> None:
        if (stage, done) == ('record', 20):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record_on_fleet(bags, tmp_path / 'fleet', settings, Watched(interrupt), WorkersHere(), frames_at_once=10)
    path = min(default_storage(tmp_path / 'fleet').rglob('done.json'))
    path.write_bytes(changed if isinstance(changed, bytes) else json.dumps(
        {**json.loads(path.read_bytes()), **changed}).encode())
    result = record_on_fleet(bags, tmp_path / 'fleet', settings, SILENT, WorkersHere(), frames_at_once=10)
    assert (result.stretches, result.taken_over, result.embedded) == (2, 1, 1)


def test_machines_must_share_the_storage(tmp_path: Path, settings: Settings, drive: Drive) -> None:
    """What one process holds in memory no other one sees, as a folder that is not mounted everywhere."""
    workers = WorkerProcesses(1, threads=1)
    with pytest.raises(SemanomError, match=r'no worker is left: .*does not find there what the driver wrote'):
        record_on_fleet([drive('a', 2)], tmp_path / 'fleet', settings, SILENT, workers, 'memory://bucket/alone')
    assert not (tmp_path / 'fleet').exists()
    assert not fsspec.filesystem('memory').store


def test_a_storage_out_of_reach_or_something_else(tmp_path: Path, settings: Settings, drive: Drive) -> None:
    bags = [drive('a', 2)]
    (tmp_path / 'file').write_text('mine')
    with pytest.raises(StorageError, match=r'not read.*Not a directory|not written'):
        record_on_fleet(bags, tmp_path / 'fleet', settings, SILENT, WorkersHere(), str(tmp_path / 'file' / 'below'))
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full' / 'plans').write_text('mine')
    with pytest.raises(StorageError, match='found other files in it, expected an empty folder'):
        record_on_fleet(bags, tmp_path / 'fleet', settings, SILENT, WorkersHere(), str(tmp_path / 'full'))
    assert left(tmp_path / 'full') == ['plans']
    assert not (tmp_path / 'fleet').exists()


@pytest.mark.parametrize('place', ['fleet', 'fleet/shared', '.'])
def test_a_storage_in_the_folder_of_the_database_or_round_it(place: str, tmp_path: Path, settings: Settings,
                                                            drive: Drive) -> None:
    with pytest.raises(ParameterError, match='found it in the folder of the database or round it, expected a place of'):
        record_on_fleet([drive('a', 2)], tmp_path / 'in' / 'fleet', settings, SILENT, WorkersHere(),
                        str(tmp_path / 'in' / place))
    assert not (tmp_path / 'in').exists()


def test_a_storage_that_is_gone_midway_leaves_nothing_half_written(tmp_path: Path, settings: Settings, drive: Drive,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings.changed({'image_topics': TOPICS})
    bags = [drive('a', 20)]
    memory = type(fsspec.filesystem('memory'))

    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError('Could not connect to the endpoint')

    def cut(stage: str, done: int) -> None:
        if stage == 'record' and done == 20:
            monkeypatch.setattr(memory, 'put_file', refuse)

    with pytest.raises(SemanomError, match=r'no worker is left: memory://bucket/gone: not written \(Could not connect'):
        record_on_fleet(bags, tmp_path / 'fleet', settings, Watched(cut), WorkersHere(), 'memory://bucket/gone', 10)
    assert not (tmp_path / 'fleet').exists()
    monkeypatch.undo()

    refusals = iter([True, False, True, False])
    put_file = memory.put_file

    def flicker(self: Any, *arguments: Any, **named: Any) -> None:
        refuse() if next(refusals, False) else put_file(self, *arguments, **named)

    monkeypatch.setattr(memory, 'put_file', flicker)
    result = record_on_fleet(bags, tmp_path / 'fleet', settings, SILENT, WorkersHere(), 'memory://bucket/gone', 10)
    assert result.failed == {}
    assert result.taken_over >= 2
    assert_same(tmp_path / 'fleet', one_process(bags, tmp_path / 'one', settings))


def test_encoders_that_differ(tmp_path: Path, settings: Settings, drive: Drive) -> None:
    settings = settings.changed({'image_topics': TOPICS})
    bags = [drive('a', 10)]
    encoder = tmp_path / 'tiny.ts'

    def other(number: int) -> None:
        if number == 2:
            save_encoder(encoder, 4)

    with pytest.raises(DatabaseError, match=r'weights_sha256: found .*, expected .* as on the other machines'):
        record_on_fleet(bags, tmp_path / 'fleet', settings, SILENT, WorkersHere(2, other))
    assert not default_storage(tmp_path / 'fleet').exists()

    def interrupt(stage: str, done: int) -> None:
        if stage == 'record' and done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record_on_fleet(bags, tmp_path / 'fleet', settings, Watched(interrupt), WorkersHere(), frames_at_once=10)
    save_encoder(encoder, 5)
    with pytest.raises(DatabaseError, match=r'weights_sha256: found embeddings made with .* as the workers have now'):
        record_on_fleet(bags, tmp_path / 'fleet', settings, SILENT, WorkersHere(), frames_at_once=10)
    assert not (tmp_path / 'fleet').exists()


def test_a_finished_database_is_refused_without_append(tmp_path: Path, settings: Settings, drive: Drive) -> None:
    settings = settings.changed({'image_topics': TOPICS})
    one_process([drive('a', 3)], tmp_path / 'fleet', settings)
    with pytest.raises(DatabaseError, match='found a finished database'):
        record_on_fleet([drive('b', 3)], tmp_path / 'fleet', settings, SILENT, WorkersHere())
    assert not default_storage(tmp_path / 'fleet').exists()


def test_damaged_repeated_and_bad_pictures_count_as_in_one_process(tmp_path: Path, settings: Settings, drive: Drive
                                                                   ) -> None:
    """A recording with stamps that say nothing is read from its beginning; one without its end as far as it goes."""
    with BagWriter(tmp_path / 'stamps', 'mcap') as writer:
        for number in range(24):
            image = np.random.default_rng(number).integers(0, 256, (48, 64, 3), np.uint8)
            types = writer.typestore.types
            header = types['std_msgs/msg/Header'](types['builtin_interfaces/msg/Time'](7, 0), 'o')  # type: ignore[arg-type]
            data = np.zeros(3, np.uint8) if number == 5 else image.ravel()
            writer.write('/camera0/image_raw', types['sensor_msgs/msg/Image'](  # type: ignore[arg-type]
                header, 48, 64, 'bgr8', 0, 192, data), (number + 1) * SECOND)
    cut = drive('cut', 40, storage='sqlite3')
    [file] = cut.glob('*.db3')
    os.truncate(file, file.stat().st_size * 2 // 3)
    bags, settings = [tmp_path / 'stamps', cut], settings.changed({'image_topics': TOPICS[:1]})
    result = record_on_fleet(bags, tmp_path / 'fleet', settings, SILENT, WorkersHere(), frames_at_once=5)
    assert result.bad_images == 1
    assert len(result.damaged) == 1
    assert result.failed == {}
    assert_same(tmp_path / 'fleet', one_process(bags, tmp_path / 'one', settings))


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_a_stretch_is_read_alone(storage: str, tmp_path: Path, drive: Drive, settings: Settings) -> None:
    bag = drive('a', 40, storage=storage)
    plan = RecordingPlan.make(bag, settings.changed({'image_topics': TOPICS, 'every_n': 3}).recorder)
    (tmp_path / 'plan.npz').write_bytes(plan.dumps())
    plan = RecordingPlan.load(tmp_path, 'plan.npz')
    stretches = list(plan.stretches(9))
    assert [row for rows in stretches for row in rows] == list(range(28))
    many = replace(plan, stamp_ns=np.arange(500))
    assert [rows.start for rows in many.stretches(100)] == [0, 96, 192, 288, 384, 480], 'whole batches'
    with BagReader(bag) as reader:
        every = [(frame.topic, frame.stamp_ns) for frame in reader.images(TOPICS)]
    for rows in stretches:
        with BagReader(bag) as reader:
            read = [(frame.topic, frame.stamp_ns) for frame in reader.images(TOPICS, span=plan.span(rows))]
        keys = [plan.key(row) for row in rows]
        assert read == every[every.index(keys[0]):every.index(keys[-1]) + 1]


def test_secrets_in_a_url_are_not_shown(tmp_path: Path) -> None:
    with pytest.raises(ParameterError) as told:
        SharedStorage('nonsense://me:word@host/path')
    assert 'word' not in str(told.value)


def test_a_write_that_fails_leaves_the_file_of_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = SharedStorage(str(tmp_path / 'shared'))
    storage.write('a/b.json', json.dumps(1).encode())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(StorageError, match='not written'):
            storage.write('a/b.json', bytes(1000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert storage.read('a/b.json') == b'1'
    assert left(tmp_path / 'shared') == ['a/b.json']
    shutil.rmtree(tmp_path / 'shared')
    assert storage.read('a/b.json') is None


def test_the_database_says_nothing_of_workers(tmp_path: Path, settings: Settings, drive: Drive) -> None:
    bag = drive('a', 6)
    record_on_fleet([bag, bag], tmp_path / 'fleet', settings.changed({'image_topics': TOPICS}), SILENT, WorkersHere())
    manifest = NominalDatabase.open(tmp_path / 'fleet').manifest
    assert manifest.change == 'recorded 12 frames, 0 held out, of a'
    assert [part.kind for part in manifest.parts] == ['recorded']
