"""Merge, remove, compact, accept, revert: what is in the database afterwards, and that versions are kept."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from semanom_ros.core.curation import operations
from semanom_ros.core.curation.operations import accept
from semanom_ros.core.curation.publishing import EXACT, IndexSettings, Recipe, read_recipe
from semanom_ros.core.curation.selection import Selection
from semanom_ros.core.curation.writer import DatabaseWriter
from semanom_ros.core.database.manifest import Manifest
from semanom_ros.core.database.nominal_database import PLAIN, NominalDatabase
from semanom_ros.core.database.published import read_manifest
from semanom_ros.core.database.storage import FrameRecord, NominalAddition, thumbnail
from semanom_ros.core.scoring.calibration import Calibration, stored_parameters
from semanom_ros.core.scoring.comparison import Comparison
from semanom_ros.errors import DatabaseError
from semanom_ros.settings import AlarmSettings, ScoreSettings, SearchSettings

AS_IT_IS = Recipe(PLAIN)


# -- merge


def test_merging_takes_every_frame_once(tmp_path, record, content_of, unit_vectors, opened_as_calibrated):
    a, b = record(tmp_path / 'a', {'a': 9, 'b': 5}, AS_IT_IS), record(tmp_path / 'b', {'b': 8, 'c': 4})
    manifest = operations.merge(tmp_path / 'all', [tmp_path / 'a', tmp_path / 'b'])
    merged = opened_as_calibrated(tmp_path / 'all', AS_IT_IS)  # what the first was made for
    assert content_of(merged) == {**content_of(a), **content_of(b)}
    assert merged.manifest == manifest
    assert manifest.version == 1
    assert len(merged.calibration['frame_scores']) == 2 + 2 + 1
    assert [source.path for source in merged.manifest.sources] == ['/drives/a', '/drives/b', '/drives/c']
    queries = unit_vectors(20, 0)
    best = np.minimum(a.search(queries)[0], b.search(queries)[0])
    np.testing.assert_allclose(merged.search(queries)[0], best, atol=1e-6)
    operations.verify(tmp_path / 'all')
    # the databases that it was taken from are their own
    for file in (tmp_path / 'a').rglob('*.*'):
        assert file.is_dir() or file.stat().st_nlink == 1


def test_merging_into_a_database_makes_a_version_of_it(tmp_path, record, content_of):
    a = record(tmp_path / 'a', {'a': 9})
    b = record(tmp_path / 'b', {'b': 5})
    assert operations.merge(tmp_path / 'a', [tmp_path / 'b']).version == 2
    assert content_of(NominalDatabase.open(tmp_path / 'a')) == {**content_of(a), **content_of(b)}
    assert operations.merge(tmp_path / 'a', [tmp_path / 'b']).version == 2  # nothing new


def test_what_does_not_fit_is_not_merged(tmp_path, record, description):
    record(tmp_path / 'a', {'a': 4})
    with DatabaseWriter.begin(tmp_path / 'b', replace(description, variant='instance')) as writer:
        writer.add(NominalAddition(
            FrameRecord('/bag', '', '/camera', 0, (4, 4)), np.eye(16), np.zeros((16, 4)), np.zeros((16, 2))))
        writer.commit()
    with pytest.raises(DatabaseError, match=r'/b: variant: found instance, expected grid as in /.*/a;'):
        operations.merge(tmp_path / 'all', [tmp_path / 'a', tmp_path / 'b'])
    assert not (tmp_path / 'all' / 'manifest.json').exists()
    with pytest.raises(DatabaseError, match='found no folder'):
        operations.merge(tmp_path / 'all', [tmp_path / 'nowhere'])
    with pytest.raises(DatabaseError, match='found it among the databases to merge'):
        operations.merge(tmp_path / 'a', [tmp_path / 'a'])
    file = next((tmp_path / 'a').rglob('vectors.f32'))
    file.write_bytes(file.read_bytes()[:-1] + b'!')
    with pytest.raises(DatabaseError, match='found SHA-256'):
        operations.merge(tmp_path / 'all', [tmp_path / 'a'])


# -- remove


@pytest.mark.parametrize('name', ['/drives/b', 'b', 'b/', 'b' * 12, '/drives/[b]'])
def test_removing_a_recording(tmp_path, record, content_of, name, opened_as_calibrated):
    record(tmp_path / 'database', {'a': 9, 'b': 5})
    record(tmp_path / 'database', {'c': 4}, append=True)
    operations.remove(tmp_path / 'database', Selection((name,)))
    removed = opened_as_calibrated(tmp_path / 'database', Recipe(SearchSettings()))
    without = record(tmp_path / 'without', {'a': 9, 'c': 4}, Recipe(SearchSettings()))
    assert content_of(removed) == content_of(without)
    assert removed.manifest.version == 3
    np.testing.assert_allclose(removed.calibration['frame_scores'], without.calibration['frame_scores'], atol=1e-5)
    np.testing.assert_allclose(removed.statistics.mean, without.statistics.mean, atol=1e-12)
    example = removed.example(len(removed) - 1, 0.0)
    assert example.source == '/drives/c'
    assert example.thumbnail
    assert 'v000002/recorded' in {part.name for part in removed.manifest.parts}, 'a part without it was written again'
    operations.verify(tmp_path / 'database')


def test_removing_what_is_not_there_or_everything(tmp_path, record):
    record(tmp_path / 'database', {'a': 4})
    with pytest.raises(DatabaseError, match=r'source: found none that is b, expected one of /drives/a'):
        operations.remove(tmp_path / 'database', Selection(('a', 'b')))
    with pytest.raises(DatabaseError, match='found all of its vectors in a, expected some to be left'):
        operations.remove(tmp_path / 'database', Selection(('a',)))
    assert NominalDatabase.open(tmp_path / 'database').manifest.version == 1
    assert not (tmp_path / 'database' / 'v000002').exists()
    record(tmp_path / 'database', {'b': 4}, append=True)
    assert operations.remove(tmp_path / 'database', Selection(('a',))).version == 3


def test_a_removed_recording_can_be_recorded_again(tmp_path, record, content_of):
    before = content_of(record(tmp_path / 'database', {'a': 9, 'b': 5}))
    operations.remove(tmp_path / 'database', Selection(('b',)))
    assert content_of(record(tmp_path / 'database', {'b': 5}, append=True)) == before


def test_removing_from_a_compacted_database_leaves_no_calibration(tmp_path, description, drive):
    """It cannot be made anew, and that of before was of distances to what is gone: unknown, not nominal."""
    path = tmp_path / 'database'
    with DatabaseWriter.begin(path, description) as writer:
        for frame in [*drive('a', 9), *drive('b', 9)]:
            writer.add(frame._replace(record=replace(frame.record, held_out=False)))
        writer.commit(AS_IT_IS)
    operations.compact(path, size=30)
    assert read_manifest(path).calibrated
    assert operations.calibrate(path).calibrated, 'nothing went'
    assert not operations.compact(path, size=20).calibrated, 'distances may have grown'
    assert operations.revert(path).calibrated
    assert not operations.merge(tmp_path / 'merged', [path]).calibrated
    manifest = operations.remove(path, Selection(('b',)))
    assert not manifest.calibrated
    assert not [name for name in manifest.files if 'calibration' in name]
    opened = NominalDatabase.open(path)
    assert not opened.calibration
    assert 'so no frame can be judged' in Calibration.stored(path, manifest).level_for(AlarmSettings()).doubt
    assert operations.revert(path).calibrated


# -- extract


@pytest.fixture
def two_cameras(tmp_path, description, drive):
    path = tmp_path / 'database'
    with DatabaseWriter.begin(path, description) as writer:
        for bag, topic, count in (('a', '/front', 12), ('a', '/rear', 8), ('b', '/front', 8)):
            for frame in drive(bag, count, topic=topic):
                writer.add(frame)
        writer.commit(AS_IT_IS)
    return path


def test_a_database_of_one_camera(two_cameras, tmp_path, content_of, opened_as_calibrated):
    before, output = NominalDatabase.open(two_cameras), tmp_path / 'front'
    manifest = operations.extract(two_cameras, output, Selection(topics=('/front',)))
    assert (manifest.version, manifest.change) == (1, '/front of database')
    assert {topic for source in manifest.sources for topic in source.topics} == {'/front'}
    front = opened_as_calibrated(output, AS_IT_IS)  # with its own frames, compared with its own
    assert content_of(front) == {record: content for record, content in content_of(before).items()
                                 if record.topic == '/front'}
    assert len(front.calibration['frame_scores']) == 3 + 2
    assert operations.extract(two_cameras, tmp_path / 'b', Selection(('b',), ('/fr*',))).frames == 6
    operations.verify(output)
    assert NominalDatabase.open(two_cameras).manifest == before.manifest


def test_what_cannot_be_extracted_leaves_nothing(two_cameras, tmp_path, record):
    output = tmp_path / 'output'
    for chosen, complaint in (
            (Selection(topics=('/left',)), r'topic: found none that is /left, expected one of /front, /rear$'),
            (Selection(('c',)), r'source: found none that is c'),
            (Selection(('b',), ('/rear',)), r'found no vector of b, /rear in it, expected some')):
        with pytest.raises(DatabaseError, match=complaint):
            operations.extract(two_cameras, output, chosen)
        assert not output.exists()
    with pytest.raises(DatabaseError, match='found no vector of b, /rear in it'):
        operations.remove(two_cameras, Selection(('b',), ('/rear',)))
    record(output, {'a': 4})
    with pytest.raises(DatabaseError, match=r'found a database \(version 1\), expected none; give another folder'):
        operations.extract(two_cameras, output, Selection(topics=('/front',)))
    assert read_manifest(output).version == 1


def test_a_camera_is_taken_out(two_cameras, content_of):
    before = content_of(NominalDatabase.open(two_cameras))
    operations.remove(two_cameras, Selection(topics=('/rear',)))
    assert content_of(NominalDatabase.open(two_cameras)) == {
        record: content for record, content in before.items() if record.topic == '/front'}


# -- compact


def test_compacting_bounds_what_distances_change(tmp_path, record, unit_vectors, opened_as_calibrated):
    record(tmp_path / 'database', {'a': 40, 'b': 30})
    before = record(tmp_path / 'database', {'c': 12}, append=True)
    # queries near to nominal vectors, as runtime frames have them
    frames = np.concatenate([frame.vectors for frame in before.frames()])
    queries = frames + 0.1 * unit_vectors(len(frames), 9)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    was, _ = before.search(queries)
    operations.compact(tmp_path / 'database', distance=0.4, recipe=AS_IT_IS)
    after = opened_as_calibrated(tmp_path / 'database', AS_IT_IS)
    assert len(after) < 0.8 * len(before)
    now, _ = after.search(queries)
    assert (now >= was - 1e-6).all()
    assert (np.sqrt(2 * now) <= np.sqrt(2 * was) + np.sqrt(2 * 0.4) + 1e-4).all()
    assert after.manifest.held_out_vectors == before.manifest.held_out_vectors
    assert len([part for part in after.manifest.parts if part.kind == 'recorded']) == 1


def test_what_is_left_after_compacting_is_as_it_was(tmp_path, record):
    before = record(tmp_path / 'database', {'a': 20, 'b': 9})
    operations.compact(tmp_path / 'database', size=30, recipe=AS_IT_IS)
    after = NominalDatabase.open(tmp_path / 'database')
    assert len(after) == 30
    frames = {frame.record: frame for frame in before.frames()}
    assert [frame.record for frame in after.frames()] == list(frames)
    for frame in after.frames():
        was = frames[frame.record]
        rows = [int(np.flatnonzero((was.vectors == vector).all(axis=1))[0]) for vector in frame.vectors]
        assert rows == sorted(rows)
        np.testing.assert_array_equal(frame.boxes, was.boxes[rows])
        np.testing.assert_array_equal(frame.positions, was.positions[rows])
    for index in range(30):
        assert after.example(index, 0.0).thumbnail
    # the space that standardization makes stays that of the drive
    np.testing.assert_array_equal(after.statistics.mean, before.statistics.mean)
    np.testing.assert_array_equal(after.statistics.scale, before.statistics.scale)
    # frames of which nothing is left stay known
    assert min(len(frame.vectors) for frame in after.frames()) == 0
    assert record(tmp_path / 'database', {'a': 20, 'b': 9}, append=True).manifest.version == 2


def test_compacting_with_positions_keeps_equal_vectors_at_different_places(tmp_path, description):
    vectors = np.repeat(np.eye(16, dtype=np.float32)[:1], 4, axis=0)
    positions = np.array([[0.1, 0.1], [0.1, 0.1], [0.9, 0.1], [0.1, 0.9]], np.float32)
    for name, weight, left in (('without', 0.0, 1), ('with', 1.0, 3)):
        with DatabaseWriter.begin(tmp_path / name, description) as writer:
            writer.add(NominalAddition(
                FrameRecord('/bag', '', '/camera', 0, (4, 4)), vectors, np.zeros((4, 4)), positions))
            writer.commit()
        recipe = Recipe(SearchSettings(standardize=False, position_weight=weight))
        assert operations.compact(tmp_path / name, distance=0.1, recipe=recipe).vectors == left


# -- accept


def addition(vectors, stamp=0, **changes):
    fields = dict(source='/drives/later', source_sha256='e' * 64, topic='/camera', stamp_ns=stamp, image_size=(48, 64))
    return NominalAddition(FrameRecord(**{**fields, **changes}), vectors, np.full((len(vectors), 4), 7, np.int32),
                           np.full((len(vectors), 2), 0.5, np.float32),
                           thumbnail(np.full((6, 8, 3), 90, np.uint8), 8))


def test_what_was_accepted_is_found(tmp_path, record, unit_vectors, content_of):
    path = tmp_path / 'database'
    search = SearchSettings(standardize=True, position_weight=0.2)
    record(path, {'a': 9, 'b': 5}, Recipe(search))
    database = NominalDatabase.open(path, search)
    odd, place = unit_vectors(3, 77), np.full((3, 2), 0.5, np.float32)
    queries, places = unit_vectors(30, 5), np.random.default_rng(0).random((30, 2), dtype=np.float32)
    before, indices = database.search(queries, 1, places)
    statistics, calibration = database.statistics, database.calibration
    assert database.search(odd, 1, place)[0].min() > 0.01
    successor = accept(database, [addition(odd[:2], 1), addition(odd[2:], 2, topic='/other')])
    for opened in (successor, NominalDatabase.open(path, search)):
        assert opened.search(odd, 1, place)[0].max() < 1e-6
        example = opened.example(int(opened.search(odd, 1, place)[1][2, 0]), 0.0)
        assert (example.source, example.topic, example.stamp_ns) == ('reviewed:/drives/later', '/other', 2)
        assert example.box == (7, 7, 7, 7)
        assert example.thumbnail
        assert opened.manifest.version == 2
        assert opened.manifest.calibrated
        for name, array in calibration.items():  # as it was
            np.testing.assert_array_equal(opened.calibration[name], array)
        # the space has not moved, and indices are what they were
        np.testing.assert_array_equal(opened.statistics.mean, statistics.mean)
        after, same = opened.search(queries, 1, places)
        unchanged = after == before
        assert unchanged.any()
        assert (after <= before).all()
        np.testing.assert_array_equal(same[unchanged], indices[unchanged])
    assert database.search(odd, 1, place)[0].min() > 0.01  # a version that is open stays as it is
    assert content_of(NominalDatabase(path, Manifest.read(path / 'v000001' / 'manifest.json')))


def test_accepting_again_and_again_stays_small(tmp_path, record, unit_vectors):
    path = tmp_path / 'database'
    database = record(path, {'a': 9})
    recorded = {file: file.stat().st_mtime_ns for file in (path / 'v000001').glob('*/*')}
    for number in range(5):
        database = accept(database, [addition(unit_vectors(2, 100 + number), number)])
    assert [part.kind for part in database.manifest.parts] == ['recorded', 'held_out', 'reviewed']
    for number in range(5):
        distances, indices = database.search(unit_vectors(2, 100 + number))
        assert distances.max() < 1e-6
        assert indices[:, 0].tolist() == [42 + 2 * number, 43 + 2 * number]
        assert database.example(int(indices[1, 0]), 0.0).stamp_ns == number
    assert {file: file.stat().st_mtime_ns for file in recorded} == recorded
    folders = {folder.name for folder in path.iterdir() if folder.is_dir()}
    assert folders == {'v000001', 'v000005', 'v000006'}
    record(path, {'b': 5}, append=True)
    reopened = NominalDatabase.open(path)
    assert reopened.search(unit_vectors(2, 104))[1][:, 0].tolist() == [50, 51]
    assert operations.remove(path, Selection(('reviewed:*',))).vectors == 42 + 24


def test_accepting_into_a_database_that_has_moved_on(tmp_path, record, unit_vectors, description):
    path = tmp_path / 'database'
    old = record(path, {'a': 9})
    record(path, {'b': 5}, append=True)
    with pytest.raises(DatabaseError, match=r'version: found 2, expected 1 \(loaded\); load it anew'):
        accept(old, [addition(unit_vectors(1, 0))])
    new = NominalDatabase.open(path)
    with DatabaseWriter.begin(path, description, append=True), \
            pytest.raises(DatabaseError, match='found a writer at work'):
        accept(new, [addition(unit_vectors(1, 0))])
    assert accept(new, [addition(unit_vectors(1, 0))]).manifest.version == 3


def test_accepting_beside_an_approximate_index(tmp_path, record, unit_vectors):
    path = tmp_path / 'database'
    record(path, {'a': 40})
    operations.build_index(path, IndexSettings('IVF4,SQ8', nprobe=1), AS_IT_IS)
    database = NominalDatabase.open(path)
    for number in range(3):
        odd = unit_vectors(2, 100 + number)
        database = accept(database, [addition(odd, number)])
        assert database.search(odd)[0].max() < 1e-6
    assert database.manifest.index is not None
    assert database.manifest.index.file == 'v000002/index.faiss'
    operations.verify(path)
    # what rewrites vectors builds the index anew
    compacted = operations.compact(path, size=100)
    assert compacted.index is not None
    assert (compacted.index.factory, compacted.index.nprobe, compacted.index.vectors) == ('IVF4,SQ8', 1, 106)
    assert NominalDatabase.open(path).search(unit_vectors(2, 102))[0].max() < 0.01
    assert operations.build_index(path, IndexSettings(EXACT)).index is None


def test_a_version_stays_as_it_is_while_frames_are_accepted(tmp_path, record, unit_vectors):
    """The re-weighting by density searches twice: both times in the version that the thread holds."""
    first = record(tmp_path / 'database', {'a': 20})
    additions = [addition(unit_vectors(4, 200 + number), number) for number in range(10)]
    queries = np.concatenate([unit_vectors(10, 0), *(one.vectors for one in additions)])  # accepting changes theirs
    places = np.full((len(queries), 3), 0.5, np.float32)
    compare = Comparison(neighbours=2, density_neighbours=5)
    expected = compare(first, queries, places)
    evidence = [first.example(int(index), 0.0) for index in expected[1]]
    faults, searched, done = [], threading.Semaphore(0), threading.Event()

    def search():
        while not done.is_set():
            found = compare(first, queries, places)
            same = all(np.array_equal(*pair) for pair in zip(found, expected, strict=True))
            if not same or [first.example(int(index), 0.0) for index in found[1]] != evidence:
                faults.append(found)
            searched.release()

    thread = threading.Thread(target=search)
    thread.start()
    latest = first
    try:
        for one in additions:
            latest = accept(latest, [one])
            while searched.acquire(blocking=False):
                pass
            searched.acquire(timeout=60)  # one that was under way, and one that began afterwards
            searched.acquire(timeout=60)
    finally:
        done.set()
        thread.join()
    assert not faults
    assert (first.manifest.version, latest.manifest.version) == (1, 11)
    assert expected[0][10:].min() > 0.01
    assert latest.search(queries[10:])[0].max() < 1e-6
    assert (latest.search(queries)[0] <= first.search(queries)[0] + 1e-6).all()


# -- versions


@pytest.mark.parametrize('change', [
    lambda path: operations.remove(path, Selection(('b',))), lambda path: operations.compact(path, size=9),
    lambda path: operations.calibrate(path), lambda path: operations.merge(path, [path.parent / 'other']),
    lambda path: operations.build_index(path, IndexSettings('IVF2,Flat')),
], ids=['remove', 'compact', 'calibrate', 'merge', 'index'])
def test_a_corrupt_database_is_not_made_to_look_sound(tmp_path, record, change):
    path = tmp_path / 'database'
    record(path, {'a': 9, 'b': 5})
    record(tmp_path / 'other', {'c': 4})
    file = path / 'v000001' / 'recorded' / 'vectors.f32'
    changed = bytearray(file.read_bytes())
    changed[600] ^= 1
    file.write_bytes(changed)
    with pytest.raises(DatabaseError, match=r'vectors\.f32: found SHA-256'):
        change(path)
    assert read_manifest(path).version == 1
    record(path, {'b': 8}, append=True)  # leaves it alone, and still says so
    with pytest.raises(DatabaseError, match=r'vectors\.f32: found SHA-256'):
        NominalDatabase.open(path)


def test_going_back(tmp_path, record, unit_vectors, content_of):
    path = tmp_path / 'database'
    first = content_of(record(path, {'a': 9}, Recipe(SearchSettings())))
    with pytest.raises(DatabaseError, match='found no version before 1'):
        operations.revert(path)
    accept(NominalDatabase.open(path), [addition(unit_vectors(2, 0))])
    manifest = operations.revert(path)
    assert manifest.version == 3
    database = NominalDatabase.open(path)
    assert content_of(database) == first
    assert len(database.calibration['frame_scores']) == 2
    assert operations.revert(path).vectors == 44  # and forth
    operations.verify(path)


def test_going_back_from_a_corrupt_version(tmp_path, record, content_of):
    path = tmp_path / 'database'
    first = content_of(record(path, {'a': 9}))
    record(path, {'b': 5}, append=True)
    (path / 'v000002' / 'recorded' / 'boxes.i32').unlink()
    with pytest.raises(DatabaseError, match=r'boxes\.i32: missing'):
        operations.verify(path)
    operations.revert(path)
    assert content_of(NominalDatabase.open(path)) == first
    (path / 'v000001' / 'recorded' / 'boxes.i32').unlink()
    with pytest.raises(DatabaseError, match=r'boxes\.i32: missing'):
        operations.revert(path)


def test_old_versions_go(tmp_path, record):
    path = tmp_path / 'database'
    record(path, {'a': 9})
    for number in range(4):
        operations.calibrate(path, Recipe(SearchSettings(), ScoreSettings(neighbours=1 + number)))
    names = {file.relative_to(path).as_posix() for file in path.rglob('*') if file.is_file()}
    assert names == {*read_manifest(path).files, 'manifest.json', 'lock', 'v000005/manifest.json',
                     'v000004/manifest.json', 'v000004/calibration.npz'}
    assert stored_parameters(NominalDatabase.open(path).calibration)['neighbours'] == 4
    assert read_recipe(path).score.neighbours == 4


def test_a_change_is_dated(tmp_path, record):
    before = time.time()
    manifest = record(tmp_path / 'database', {'a': 9}).manifest
    from datetime import datetime
    assert before - 2 <= datetime.fromisoformat(manifest.created).timestamp() <= time.time() + 1
    assert manifest.change == 'recorded 7 frames, 2 held out, of a'
