"""`semanom record`: recordings of every kind into a database, killed and resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from semanom_ros.cli import main
from semanom_ros.core.curation import operations, publishing
from semanom_ros.core.curation.publishing import Learned, Recipe
from semanom_ros.core.database.nominal_database import NominalDatabase
from semanom_ros.core.embedding.embedder import Embedder
from semanom_ros.core.frames import Frame
from semanom_ros.core.plausibility.plausibility_model import Ensemble, PlausibilityModel, Projection, Trees, features
from semanom_ros.core.progress import SILENT
from semanom_ros.errors import BagError
from semanom_ros.recordings.bags import IMAGE, BagReader, BagWriter
from semanom_ros.recordings.mcap_file import McapFile
from semanom_ros.recordings.nominal_recording import BagRecording, record_bags
from semanom_ros.recordings.sqlite_file import SqliteFile
from semanom_ros.settings import Settings

SECOND = 10**9


class Counted:
    """Remembers (stage, total, done)."""

    def __init__(self) -> None:
        self.stages: list[list[Any]] = []

    def begin(self, what: str, total: int, unit: str) -> None:
        self.stages.append([what, total, 0])

    def advance(self, amount: int) -> None:
        self.stages[-1][2] += amount

    def end(self) -> None: ...


def record(bags: list[Path], database: Path, settings: Settings, **changes: Any) -> BagRecording:
    return record_bags(bags, database, settings.changed(changes), SILENT)


def content(path: Path) -> dict[tuple[str, int, bool], np.ndarray]:
    """Embeddings by topic, stamp and whether they are held out; fails on a frame that is there twice."""
    database = NominalDatabase.open(path)
    frames = [*database.frames(), *database.held_out()]
    result = {(f.record.topic, f.record.stamp_ns, f.record.held_out): np.array(f.vectors) for f in frames}
    assert len(result) == len(frames)
    return result


def assert_equal(one: Path, other: Path) -> None:
    ours, theirs = content(one), content(other)
    assert ours.keys() == theirs.keys()
    for key, vectors in ours.items():
        assert (vectors == theirs[key]).all()
    for name, array in NominalDatabase.open(one).calibration.items():
        np.testing.assert_array_equal(array, NominalDatabase.open(other).calibration[name])


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
@pytest.mark.parametrize('compress', [False, True])
def test_the_database_holds_what_the_detector_will_compute(
        tmp_path: Path, drives: Any, settings: Settings, embedder: Embedder, storage: str,
        compress: bool) -> None:
    bag = drives('drive', storage=storage, compress=compress)
    recording = record([bag], tmp_path / 'database', settings)
    database = NominalDatabase.open(tmp_path / 'database')
    stored = {frame.record.stamp_ns: frame for frame in [*database.frames(), *database.held_out()]}
    with BagReader(bag) as reader:
        read = list(reader.images())
        digest = reader.fingerprint()
    assert len(stored) == len(read) == 40
    for frame in read:
        queries = embedder.queries(embedder.embed([frame])[0])
        found = stored[frame.stamp_ns]
        assert (found.vectors == queries.vectors.numpy()).all()
        assert (found.boxes == queries.boxes).all()
        assert (found.positions == queries.positions).all()
        assert (found.record.source, found.record.source_sha256) == (str(bag), digest)
        assert (found.record.topic, found.record.image_size) == (frame.topic, (48, 64))
    assert recording.summary.frames == 40
    assert recording.summary.held_out == len(list(database.held_out())) == 0
    assert recording.summary.vectors == 40 * 12
    assert set(database.calibration) >= {'frame_scores', 'frame_stamps', 'frame_streams', 'region_deviation',
                                         'region_mean', 'settings'}
    assert len(database.calibration['frame_scores']) == 40


def test_evidence_is_the_picture_that_was_recorded(tmp_path: Path, drives: Any, settings: Settings,
                                                   embedder: Embedder) -> None:
    record([drives('drive')], tmp_path / 'database', settings, thumbnail_size=32)
    database = NominalDatabase.open(tmp_path / 'database')
    queries = embedder.queries(embedder.embed([Frame(drives.picture(3), 0)])[0])
    distances, indices = database.search(queries.vectors, 1)
    assert distances.max() < 1e-5
    example = database.example(int(indices[5, 0]), float(distances[5, 0]))
    assert (example.stamp_ns, example.topic, example.box) == (4 * SECOND, '/camera0/image_raw', (16, 16, 16, 16))
    picture = cv2.imdecode(np.frombuffer(example.thumbnail, np.uint8), cv2.IMREAD_COLOR_RGB)
    small = cv2.resize(drives.picture(3), (32, 24), interpolation=cv2.INTER_AREA)
    assert np.abs(picture.astype(int) - small).mean() < 6  # JPEG; another frame would differ by 60


def test_several_recordings_and_topics(tmp_path: Path, drives: Any, settings: Settings) -> None:
    bags = [drives('one', cameras=3), drives('two', cameras=3, first=100, storage='sqlite3')]
    progress = Counted()
    topics = ['/camera0/image_raw', '/camera2/image_raw']
    record_bags(bags, tmp_path / 'database', settings.changed({
        'image_topics': topics, 'every_n': 2, 'held_out_share': 0.2}), progress)
    found = content(tmp_path / 'database')
    assert {(topic, stamp) for topic, stamp, _ in found} == {
        (topic, (n + 1) * SECOND) for topic in topics for n in [*range(0, 40, 2), *range(100, 140, 2)]}
    first, second = ({stamp for topic, stamp, held_out in found if held_out and topic == name} for name in topics)
    assert first == second
    assert {stamp > 50 * SECOND for stamp in first} == {True, False}
    assert all(total == done for _, total, done in progress.stages)
    assert [what for what, _, _ in progress.stages][:2] == ['record one', 'record two']
    assert 'calibrate' in [what for what, _, _ in progress.stages]


@pytest.mark.parametrize('bag_time', [lambda stamp: 7 * SECOND, lambda stamp: 10**18 + stamp // 100])
def test_stretches_are_kept_aside_by_the_stamps_whatever_the_bag_time(
        tmp_path: Path, drives: Any, settings: Settings, bag_time: Callable[[int], int]) -> None:
    """All messages at one bag time, or at wall time a hundred times faster."""
    bag = drives('drive')
    with BagReader(bag) as reader, BagWriter(tmp_path / 'other') as writer:
        for topic, kind, time_ns, cdr in reader.raw():
            writer.write_cdr(topic, kind, cdr, bag_time(time_ns))
    aside = []
    for source in (bag, tmp_path / 'other'):
        database = tmp_path / f'database_of_{source.name}'
        record([source], database, settings, held_out_share=0.2)
        aside.append({stamp for _, stamp, held_out in content(database) if held_out})
    assert aside[0] == aside[1]
    assert len(aside[0]) == 8


def test_the_end_of_a_recording_says_what_its_calibration_supports(
        tmp_path: Path, drives: Any, given: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    chosen = [part for name, value in given.items() for part in ('--set', f'{name}={value}')]
    assert main(['record', str(drives('drive')), '--database', str(tmp_path / 'database'), *chosen,
                 '--set', 'false_alarm_rate=0.001']) == 0
    said = capsys.readouterr().out
    assert 'calibrated from 40 nominal frames' in said
    assert 'asked for a false alarm rate of 0.1 %, got the level for 0.62 %, the lowest that 40 nominal frames' in said
    assert main(['db', 'info', str(tmp_path / 'database')]) == 0
    shown = capsys.readouterr().out
    assert 'from 40 nominal frames, 0.7 min; supports false alarm rates down to 0.62 %' in shown
    assert '95 % interval' in shown


def test_what_is_known_is_not_embedded_again(tmp_path: Path, drives: Any, settings: Settings,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    bag = drives('drive')
    record([bag], tmp_path / 'database', settings, every_n=2)
    embed, embedded = Embedder.embed, []
    monkeypatch.setattr(
        Embedder, 'embed', lambda self, frames, *more: embedded.extend(frames) or embed(self, frames, *more))
    record([bag], tmp_path / 'database', settings, append=True)
    assert [frame.stamp_ns // SECOND for frame in embedded] == list(range(2, 41, 2))


def test_append_adds_what_is_new(tmp_path: Path, drives: Any, settings: Settings) -> None:
    one, two = drives('one'), drives('two', first=100)
    record([one], tmp_path / 'database', settings, every_n=4)
    again = record([one, two], tmp_path / 'database', settings, append=True)
    assert again.manifest is not None
    assert again.manifest.version == 2
    assert (again.summary.frames, again.summary.known) == (70, 10)
    assert len(content(tmp_path / 'database')) == 80
    nothing = record([one, two], tmp_path / 'database', settings, append=True)
    assert nothing.manifest is not None
    assert nothing.manifest.version == 2
    assert (nothing.summary.frames, nothing.summary.known) == (0, 80)


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_each_recording_is_opened_once_and_read_once(
        tmp_path: Path, drives: Any, settings: Settings, embedder: Embedder, monkeypatch: pytest.MonkeyPatch,
        storage: str) -> None:
    bags = [drives('one', frames=4, storage=storage), drives('two', frames=4, first=100, storage=storage)]
    opened, passes, read = [], [], []
    kind = {'mcap': McapFile, 'sqlite3': SqliteFile}[storage]
    init, messages, part = BagReader.__init__, BagReader.messages, kind.messages

    def opening(self: BagReader, path: Path) -> None:
        opened.append(path)
        init(self, path)

    def passing(self: BagReader, topics: Any = (), *span: Any) -> Any:
        passes.append(self.path)
        return messages(self, topics, *span)

    def reading(self: Any, topics: Any, *span: Any) -> Any:
        for row in part(self, topics, *span):
            read.append((self.name, row[2]))
            yield row

    monkeypatch.setattr(BagReader, '__init__', opening)
    monkeypatch.setattr(BagReader, 'messages', passing)
    monkeypatch.setattr(kind, 'messages', reading)
    record_bags(bags, tmp_path / 'database', settings, SILENT, embedder)
    assert opened == bags
    assert passes == bags
    suffix = {'mcap': '.mcap', 'sqlite3': '.db3'}[storage]
    assert read == [(bag.name + suffix, (number + 1) * SECOND) for bag, numbers in zip(
        bags, (range(4), range(100, 104)), strict=True) for number in numbers]


@pytest.mark.skipif(not Path('/proc/self/io').exists(), reason='needs /proc/self/io')
@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_the_bytes_of_a_recording_are_read_once(tmp_path: Path, settings: Settings, embedder: Embedder,
                                                storage: str) -> None:
    noise = np.random.default_rng(0)
    with BagWriter(tmp_path / 'drive', storage) as writer:
        for number in range(20):
            image = noise.integers(0, 256, (480, 640, 3), dtype=np.uint8)
            writer.write_image('/camera/image', image, 'bgr8', number + 1, 'optical')
    size = sum(file.stat().st_size for file in (tmp_path / 'drive').iterdir())
    assert size > 15e6

    def bytes_read() -> int:
        lines = Path('/proc/self/io').read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith('rchar'))

    before = bytes_read()
    record_bags([tmp_path / 'drive'], tmp_path / 'database', settings, SILENT, embedder)
    assert bytes_read() - before < 1.3 * size  # and 2 MiB to know it by, and the small database


def test_many_embeddings_get_an_index_for_the_cpu(tmp_path: Path, drives: Any, settings: Settings,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, 'INDEXED_FROM', 300)
    bag, more, many = drives('drive'), drives('more', frames=20, first=100), drives('many', frames=60, first=200)

    def index_of(recording: BagRecording) -> tuple[int, int] | None:
        manifest = recording.manifest
        assert manifest is not None
        return None if manifest.index is None else (manifest.index.vectors, manifest.vectors)

    exact = record([bag], tmp_path / 'exact', settings, index='exact')
    assert index_of(exact) is None
    indexed = record([bag], tmp_path / 'database', settings)
    assert index_of(indexed) == (480, 480)
    scores = [NominalDatabase.open(tmp_path / name).calibration['frame_scores'] for name in ('exact', 'database')]
    np.testing.assert_allclose(*scores, rtol=0.1)
    assert index_of(record([more], tmp_path / 'database', settings, append=True)) == (480, 480 + 240)  # few: exactly
    assert index_of(record([many], tmp_path / 'database', settings, append=True)) == (1440, 1440)  # built anew


def test_appending_keeps_what_the_database_has_learned(tmp_path: Path, drives: Any, settings: Settings) -> None:
    record([drives('drive')], tmp_path / 'database', settings)
    database = NominalDatabase.open(tmp_path / 'database')
    projection = Projection.of(np.concatenate([frame.vectors for frame in database.frames()]))
    known = features(np.ones((3, 4), np.float32), projection(np.ones((3, 4, 16), np.float32)))
    samples = np.random.default_rng(0).normal(size=(200, known.shape[1])).astype(np.float32)
    model = PlausibilityModel(projection, Ensemble(Trees.fit(samples, samples[:, 0] > 0), ()))
    operations.calibrate(tmp_path / 'database', Recipe.of(settings.method), Learned(model, 200, 0))
    record([drives('more', first=100)], tmp_path / 'database', settings, append=True)
    kept = NominalDatabase.open(tmp_path / 'database').learned
    for name, array in model.arrays().items():
        np.testing.assert_array_equal(kept[name], array)


def test_a_copy_of_a_recording_is_the_same_recording(tmp_path: Path, drives: Any, settings: Settings) -> None:
    bag = drives('drive')
    record([bag], tmp_path / 'database', settings)
    moved = bag.rename(tmp_path / 'moved')
    assert record([moved], tmp_path / 'database', settings, append=True).summary.known == 40


def test_what_a_damaged_recording_still_holds_is_recorded(tmp_path: Path, drives: Any,
                                                          settings: Settings) -> None:
    bag, whole = drives('cut', frames=400), drives('whole', first=1000)
    file = bag / 'cut.mcap'
    os.truncate(file, file.stat().st_size - 500_000)
    recording = record([bag, whole], tmp_path / 'database', settings)
    assert len(recording.damaged) == 1
    assert 'cut.mcap breaks off after' in recording.damaged[0]
    stamps = [stamp for _, stamp, _ in content(tmp_path / 'database')]
    assert len(stamps) > 100 + 40
    assert set(range(1001, 1041)) <= {stamp // SECOND for stamp in stamps}


def test_a_recording_that_will_not_do_is_refused_before_the_encoder_is_loaded(
        tmp_path: Path, drives: Any, settings: Settings) -> None:
    settings = settings.changed({'encoder': 'torchscript:/does/not/exist'})
    with pytest.raises(BagError, match='no topic /front'):
        record([drives('one')], tmp_path / 'database', settings, image_topics=['/front'])
    with pytest.raises(BagError, match='no such recording'):
        record([drives('two'), tmp_path / 'three'], tmp_path / 'database', settings)
    assert not (tmp_path / 'database').exists()


# -- the command


@pytest.fixture
def config(tmp_path: Path, given: dict[str, Any]) -> Path:
    path = tmp_path / 'recorder.yaml'
    path.write_text(yaml.safe_dump({'semanom_detector': {'ros__parameters': given}}))
    return path


def test_command(tmp_path: Path, drives: Any, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag = drives('drive', cameras=2)
    arguments = ['record', str(bag), '--database', str(tmp_path / 'database'), '--config', str(config)]
    assert main(arguments) == 2
    assert 'found image topics /camera0/image_raw (Image), /camera1/image_raw (Image)' in capsys.readouterr().err
    assert main([*arguments, '--image-topic', '/camera0/image_raw', '/camera1/image_raw', '--rate', '0.5',
                 '--set', 'held_out_share=0.5']) == 0
    said = capsys.readouterr().out
    assert '40 frames in' in said
    assert '18 of them held out' in said
    assert f'{bag} (22 frames, 18 held out)' in said
    assert main([*arguments, '--image-topic', '/camera0/image_raw']) == 2
    assert '--append' in capsys.readouterr().err
    assert main([*arguments, '--image-topic', '/camera0/image_raw', '--append']) == 0
    assert '20 frames were recorded already' in capsys.readouterr().out


@pytest.mark.parametrize(('arguments', 'said'), [
    (['nowhere', '--database', 'database'], 'nowhere: no such recording'),
    (['drive', '--set', "database=''"], 'parameter database'),
    (['drive', '--database', 'database', '--set', 'encoder=torchscript:/missing.ts'], '/missing.ts does not exist'),
    (['drive', '--database', 'database', '--set', 'no_such_name=3'], 'no_such_name'),
    (['drive', '--database', 'database', '--every', '0'], 'every_n'),
    (['drive', '--database', 'database', '--config', 'missing.yaml'], 'missing.yaml'),
    (['drive', '--database', 'drive'], 'expected a nominal database'),
    (['drive', '--database', 'database', '--every', '2', '--rate', '3'], 'not allowed with'),
    (['empty', '--database', 'database'], 'found no image topic, nor any other topic'),
])
def test_bad_use_gets_one_line(tmp_path: Path, drives: Any, config: Path, monkeypatch: pytest.MonkeyPatch,
                               capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    drives('drive')
    drives('empty', frames=0)
    monkeypatch.chdir(tmp_path)
    given = ['record', *arguments] + ([] if '--config' in arguments else ['--config', str(config)])
    try:
        status = main(given)
    except SystemExit as exit:
        status = exit.code
    error = capsys.readouterr().err
    assert status == 2
    assert said in error
    assert error.count('\n') == 1


KILL_AT = '''
import os, signal, sys
from semanom_ros.core.curation.writer import DatabaseWriter
from semanom_ros.cli import main

step, number = sys.argv.pop(1), int(sys.argv.pop(1))
method, calls = getattr(DatabaseWriter, step), 0

def dying(*arguments, **named):
    global calls
    calls += 1
    result = method(*arguments, **named) if number > 0 else None
    if calls == abs(number):
        os.kill(os.getpid(), getattr(signal, sys.argv[1]))
    return result

setattr(DatabaseWriter, step, dying)
sys.exit(main(sys.argv[2:]))
'''


@pytest.fixture
def interrupted(config: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `semanom record` until the n-th call of a method of DatabaseWriter (n < 0: until just before it)."""

    def run(bag: Path, database: Path, step: str, n: int, name: str = 'SIGKILL') -> subprocess.CompletedProcess[str]:
        command = [sys.executable, '-c', KILL_AT, step, str(n), name, 'record', bag, '--database', database,
                   '--config', config]
        return subprocess.run(command, check=False, text=True, capture_output=True)

    return run


@pytest.mark.parametrize(('step', 'number'), [('add', 25), ('commit', -1)])
def test_killed_and_resumed_equals_uninterrupted(tmp_path: Path, drives: Any, config: Path, settings: Settings,
                                                 interrupted: Any, capsys: pytest.CaptureFixture[str],
                                                 step: str, number: int) -> None:
    bag = drives('drive')
    killed = interrupted(bag, tmp_path / 'resumed', step, number)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / 'resumed' / 'manifest.json').exists()
    assert main(['record', str(bag), '--database', str(tmp_path / 'resumed'), '--config', str(config)]) == 0
    assert f'{25 if step == "add" else 40} frames were recorded already' in capsys.readouterr().out
    record([bag], tmp_path / 'uninterrupted', settings)
    assert_equal(tmp_path / 'resumed', tmp_path / 'uninterrupted')
    manifests = [json.loads((tmp_path / name / 'manifest.json').read_text()) for name in ('resumed', 'uninterrupted')]
    assert manifests[0]['sources'] == manifests[1]['sources']


def test_ctrl_c_leaves_a_recording_that_goes_on(tmp_path: Path, drives: Any, settings: Settings,
                                                interrupted: Any) -> None:
    bag = drives('drive')
    stopped = interrupted(bag, tmp_path / 'database', 'add', 10, 'SIGINT')
    assert stopped.returncode == 130
    assert stopped.stderr.splitlines()[-1] == 'semanom record: interrupted'
    assert 'Traceback' not in stopped.stderr
    assert record([bag], tmp_path / 'database', settings).summary.known in (10, 11)


def test_a_real_drive(tmp_path: Path, driving_data: Path) -> None:
    encoder = driving_data / 'models' / 'deeplab_edgetpu_cityscapes_features.pt'
    settings = Settings.of({'encoder': f'torchscript:{encoder}', 'input_size': [180, 240], 'every_n': 55})
    embedder = Embedder.load(settings.method)
    for name in ('camvid_nominal', 'camvid_nominal_raw'):
        recording = record_bags([driving_data / 'bags' / name], tmp_path / name, settings, SILENT, embedder)
        assert recording.damaged == []
        database = NominalDatabase.open(tmp_path / name)
        distances, _ = database.search(next(iter(database.frames())).vectors, 1)
        assert distances.max() < 1e-5
        example = database.example(0, 0.0)
        assert cv2.imdecode(np.frombuffer(example.thumbnail, np.uint8), cv2.IMREAD_COLOR).shape == (120, 160, 3)


@pytest.mark.parametrize('fault', ['no picture in it', 'Ctrl-C before the first frame'])
def test_a_recording_that_fails_leaves_nothing(tmp_path: Path, settings: Settings, drives: Any, trial: Any,
                                               monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """Not an unfinished database that asks for the same command again."""
    with BagWriter(tmp_path / 'bad') as writer:
        writer.write_cdr('/camera0/image_raw', IMAGE, b'\0\1\0\0', SECOND)
    record([drives('drive')], tmp_path / 'finished', settings)
    before = sorted(path.name for path in (tmp_path / 'finished').rglob('*'))
    if fault != 'no picture in it':
        def interrupt(*_: Any) -> None:
            raise KeyboardInterrupt
        monkeypatch.setattr(BagReader, 'images', interrupt)
    with trial('Recordings', 'a nominal recording that fails or is interrupted', 2):
        for database in ('new', 'finished'):
            with pytest.raises(BagError if fault == 'no picture in it' else KeyboardInterrupt):
                record([tmp_path / 'bad'], tmp_path / database, settings, append=True)
        assert sorted(path.name for path in tmp_path.iterdir()) == ['bad', 'drive', 'finished']
        assert sorted(path.name for path in (tmp_path / 'finished').rglob('*')) == before


def test_frames_of_one_stamp_are_recorded_and_loops_are_told_from_what_is_known(
        tmp_path: Path, settings: Settings, drives: Any, trial: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with BagWriter(tmp_path / 'drive') as writer:
        types = writer.typestore.types
        for number, stamp in enumerate((1, 1, 2, 2, 1, 2)):  # each twice, and all of it again
            header = types['std_msgs/msg/Header'](types['builtin_interfaces/msg/Time'](stamp, 0), 'optical')
            message = types[IMAGE](header, 48, 64, 'rgb8', 0, 192, drives.picture(number).ravel())
            writer.write('/camera0/image_raw', message, (number + 1) * SECOND)
    with trial('Recordings', 'stamps that are zero, negative, equal, backwards or large'):
        summary = record([tmp_path / 'drive'], tmp_path / 'database', settings).summary
        assert (summary.frames, summary.known, summary.repeated) == (4, 0, 2)
        assert sorted(stamp for _, stamp, _ in content(tmp_path / 'database')) == [
            SECOND, SECOND + 1, 2 * SECOND, 2 * SECOND + 1]
