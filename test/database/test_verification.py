"""What is wrong with a database is said in one line: what, found, expected, what to do."""

from __future__ import annotations

import dataclasses
import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from semanom_ros.core.curation import operations
from semanom_ros.core.curation.publishing import IndexSettings, Recipe
from semanom_ros.core.curation.selection import Selection
from semanom_ros.core.curation.writer import DatabaseWriter
from semanom_ros.core.database import nominal_database, published, storage
from semanom_ros.core.database.manifest import SCHEMA_VERSION, Manifest
from semanom_ros.core.database.nominal_database import PLAIN, NominalDatabase
from semanom_ros.core.database.published import read_manifest
from semanom_ros.core.database.storage import sha256_of
from semanom_ros.errors import DatabaseError
from semanom_ros.settings import SearchSettings


@pytest.fixture
def database(tmp_path, record) -> Path:
    path = tmp_path / 'database'
    record(path, {'a': 12, 'b': 5}, Recipe(SearchSettings()))
    return path


def complaint(path: Path, verify: bool = True) -> str:
    with pytest.raises(DatabaseError) as caught:
        NominalDatabase.open(path, verify=verify)
    message = str(caught.value)
    assert '\n' not in message
    assert ';' in message, 'what to do is missing'
    return message


def files(path: Path) -> list[Path]:
    return [path / name for name in read_manifest(path).files]


def test_every_file_is_in_the_manifest(database):
    listed = {*files(database), database / 'manifest.json', database / 'v000001' / 'manifest.json', database / 'lock'}
    assert {file for file in database.rglob('*') if file.is_file()} == listed
    assert {file.name for file in files(database)} >= {'vectors.f32', 'boxes.i32', 'positions.f32', 'frames.npy',
                                                       'thumbnails.bin', 'statistics.npz', 'calibration.npz'}


def test_a_flipped_bit_in_any_file(database, trial):
    with trial('Database', 'a flipped bit in a file', times=3 * len(files(database))):
        for file in [file for file in files(database) if file.stat().st_size]:
            original = file.read_bytes()
            for place in (0, len(original) // 2, len(original) - 1):
                changed = bytearray(original)
                changed[place] ^= 1 << (place % 8)
                file.write_bytes(changed)
                message = complaint(database)
                assert f'{file}: found SHA-256 ' in message
                assert 'expected ' in message
            file.write_bytes(original)
        NominalDatabase.open(database)


def test_a_flipped_bit_anywhere_in_the_manifest(database, trial):
    file = database / 'manifest.json'
    original = file.read_bytes()
    with trial('Database', 'a flipped bit in the manifest', times=(len(original) + 96) // 97):
        for place in range(0, len(original), 97):
            changed = bytearray(original)
            changed[place] ^= 1 << (place % 8)
            file.write_bytes(changed)
            assert str(file) in complaint(database)


def test_a_file_that_is_missing_or_cut(database, trial):
    with trial('Database', 'a file that is missing or cut short', times=2 * len(files(database))):
        for file in files(database):
            original = file.read_bytes()
            file.unlink()
            message = complaint(database)
            assert f'{file}: missing, expected {len(original)} bytes' in message
            if original:
                file.write_bytes(original[:-1])
                assert f'{file}: found {len(original) - 1} bytes, expected {len(original)}' in complaint(database)
            file.write_bytes(original)


def test_without_verification_what_cannot_be_read_is_still_said(database):
    for file in files(database):
        original = file.read_bytes()
        if file.name in ('thumbnails.bin',):
            continue
        file.unlink()
        assert str(file.parent) in complaint(database, verify=False)
        file.write_bytes(b'\x93NUMPY no more')
        assert str(file.parent) in complaint(database, verify=False)
        file.write_bytes(original)


def test_no_folder_no_database_and_a_recording_that_was_not_finished(tmp_path, description, drive):
    assert 'found no folder, expected a nominal database' in complaint(tmp_path / 'nowhere')
    (tmp_path / 'pictures').mkdir()
    (tmp_path / 'pictures' / 'one.png').write_bytes(b'')
    assert f'{tmp_path / "pictures" / "manifest.json"}: missing' in complaint(tmp_path / 'pictures')
    with DatabaseWriter.begin(tmp_path / 'half', description) as writer:
        writer.add(next(drive('a', 1)))
    assert 'found an unfinished recording' in complaint(tmp_path / 'half')
    with pytest.raises(DatabaseError, match=r'pictures: found one.png in it, expected'):
        DatabaseWriter.begin(tmp_path / 'pictures', description)
    with pytest.raises(DatabaseError, match='found no folder'):
        operations.remove(tmp_path / 'nowhere', Selection(('a',)))
    assert not (tmp_path / 'nowhere').exists()


def test_a_manifest_that_is_none(database):
    file = database / 'manifest.json'
    for content, expected in (('{', 'unreadable'), ('[]', 'not the manifest'), ('{"format": "x"}', 'not the manifest')):
        file.write_text(content)
        assert expected in complaint(database)


def test_a_newer_schema(database):
    file = database / 'manifest.json'
    manifest = dataclasses.replace(Manifest.read(file), schema_version=SCHEMA_VERSION + 1)
    file.write_text(manifest.dumps())
    message = complaint(database)
    assert f'schema_version: found {SCHEMA_VERSION + 1}, expected {SCHEMA_VERSION}' in message


def test_an_empty_database_and_counts_that_lie(database):
    file = database / 'manifest.json'
    manifest = Manifest.read(file)
    file.write_text(manifest.replace(vectors=0).dumps())
    assert 'vectors: found 0, expected a whole number, 1 to ' in complaint(database)
    file.write_text(manifest.replace(vectors=manifest.vectors + 1).dumps())
    assert f'vectors: found {manifest.vectors + 1}, expected {manifest.vectors}, as many as' in complaint(database)


def test_a_manifest_survives_its_file(database):
    manifest = read_manifest(database)
    assert json.loads(manifest.dumps())['description']['settings'] == {'layer': '-1'}
    (database / 'copy.json').write_text(manifest.dumps())
    assert Manifest.read(database / 'copy.json') == manifest
    assert manifest.frames == 9 + 4
    assert manifest.held_out_frames == 3 + 1
    assert [(source.path, source.frames, source.held_out_frames) for source in manifest.sources] == [
        ('/drives/a', 9, 3), ('/drives/b', 4, 1)]
    assert manifest.sources[0].first_stamp_ns == 0
    assert manifest.sources[0].last_stamp_ns == 11 * 10**9
    assert manifest.sources[0].topics == ('/camera',)


def test_a_database_can_be_copied_and_read_from_a_read_only_folder(database, tmp_path, unit_vectors):
    copy = tmp_path / 'copy'
    shutil.copytree(database, copy)
    for entry in [copy, *copy.rglob('*')]:
        entry.chmod(0o555 if entry.is_dir() else 0o444)
    opened = NominalDatabase.open(copy)
    assert opened.search(unit_vectors(1, 0))[1][0, 0] == NominalDatabase.open(database).search(unit_vectors(1, 0))[1]
    for entry in [copy, *copy.rglob('*')]:
        entry.chmod(0o755)


@pytest.mark.parametrize(('field', 'value', 'found', 'expected'), [
    ('encoder', 'timm:large', 'timm:small', 'timm:large'),
    ('weights_sha256', 'c' * 64, 'a' * 64, 'c' * 64),
    ('settings: layer', {'layer': '3'}, '-1', '3'),
    ('settings: features', {'layer': '-1', 'features': 'maskclip'}, 'unset', 'maskclip'),
    ('settings: layer', {}, '-1', 'unset'),
    ('input_size', (32, 96), '[64, 96]', '[32, 96]'),
    ('grid_size', (2, 6), '[4, 6]', '[2, 6]'),
    ('dimension', 32, '16', '32'),
    ('preprocessing_sha256', 'd' * 64, 'b' * 64, 'd' * 64),
    ('variant', 'instance', 'grid', 'instance'),
    ('wants_standardizing', False, 'True', 'False'),
    ('wants_calibration_by_place', False, 'True', 'False'),
])
def test_another_encoder_preprocessing_or_variant_is_refused(database, description, field, value, found, expected):
    opened = NominalDatabase.open(database)
    with pytest.raises(DatabaseError) as caught:
        opened.check_compatible(dataclasses.replace(description, **{field.partition(':')[0]: value}))
    assert f'{database}: {field}: found {found}, expected {expected} (loaded now); ' in str(caught.value)
    opened.check_compatible(dataclasses.replace(description, weights='another label'))


def test_what_people_have_set_is_named_before_a_checksum_of_it(database, description):
    other = dataclasses.replace(description, input_size=(32, 96), preprocessing_sha256='d' * 64)
    with pytest.raises(DatabaseError, match=r': input_size: found \[64, 96\], expected \[32, 96\]'):
        NominalDatabase.open(database).check_compatible(other)


@pytest.mark.parametrize('name', ['calibration.npz', 'statistics.npz'])
@pytest.mark.parametrize('left', [0, 200])
def test_an_archive_that_is_cut_is_one_line_in_every_command(database, name, left, trial):
    with trial('Database', 'a file that is missing or cut short', times=2):
        (file,) = [file for file in files(database) if file.name == name and 'held_out' not in str(file)]
        file.write_bytes(file.read_bytes()[:left])
        for change in (operations.calibrate, lambda path: operations.compact(path, size=20)):
            with pytest.raises(DatabaseError, match=f'{name}|{file.parent}') as caught:
                change(database)
            assert '\n' not in str(caught.value)


@pytest.mark.parametrize('interrupted', [False, True])
def test_a_database_whose_manifest_is_gone_is_not_recorded_over(database, drive, description, interrupted, trial):
    with trial('Database', 'a manifest that is gone', times=2):
        operations.calibrate(database)
        if interrupted:
            with DatabaseWriter.begin(database, description, append=True) as writer:
                writer.add(next(iter(drive('c', 1))))
            assert (database / 'staging').is_dir()
        before = {path: path.read_bytes() for path in database.rglob('*') if path.is_file()}
        newest = database / 'v000002' / 'manifest.json'
        (database / 'manifest.json').unlink()
        for append in (False, True):
            with pytest.raises(DatabaseError, match=rf'manifest.json: missing, expected .*; copy {newest} there'):
                DatabaseWriter.begin(database, description, append=append)
        shutil.copy(newest, database / 'manifest.json')
        assert {path: path.read_bytes() for path in database.rglob('*') if path.is_file()} == before
        operations.verify(database)


# -- a start that does not wait for what it does not read


@pytest.fixture
def indexed(database, monkeypatch) -> Path:
    """Its vectors are many for what a start waits for, and an index stands for them."""
    operations.build_index(database, IndexSettings('IVF2,Flat', 2), Recipe(PLAIN))
    monkeypatch.setattr(nominal_database, 'READ_LATER', 100)
    return database


def damaged(file: Path) -> Path:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)
    return file


def test_vectors_that_an_index_stands_for_are_compared_before_they_are_used(indexed, unit_vectors, trial):
    expected = NominalDatabase.open(indexed).search(unit_vectors(5, 0))
    file = damaged(indexed / 'v000001' / 'recorded' / 'vectors.f32')
    with trial('Database', 'a flipped bit in vectors that are read late', times=4):
        opened = NominalDatabase.open(indexed)
        for found, wanted in zip(opened.search(unit_vectors(5, 0)), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)  # the index has its own
        assert opened.example(3, 0.1).thumbnail
        for use in (lambda: opened.frames()[0], lambda: opened.neighbours_of(np.array([3]), 1),
                    lambda: opened.successor(opened.manifest).frames()[0], lambda: operations.calibrate(indexed)):
            for _ in range(2):  # also the second time
                with pytest.raises(DatabaseError, match=f'{file}: found SHA-256 .*, expected .*; it was changed'):
                    use()


def test_sound_vectors_are_compared_once(indexed, monkeypatch):
    opened, seen = NominalDatabase.open(indexed), []
    monkeypatch.setattr(storage, 'sha256_of', lambda file: seen.append(file) or sha256_of(file))
    assert len(opened.frames()[0].vectors) == 6
    list(opened.frames())
    assert len(seen) == 1


@pytest.mark.parametrize('file', ['boxes.i32', 'thumbnails.bin', 'index.faiss', 'calibration.npz'])
def test_all_else_is_still_compared_when_it_is_opened(indexed, file):
    (found,) = [path for path in files(indexed) if path.name == file and 'held_out' not in str(path)]
    damaged(found)
    assert f'{found}: found SHA-256' in complaint(indexed)


def test_where_vectors_are_searched_they_are_compared_when_they_are_opened(indexed):
    file = damaged(indexed / 'v000001' / 'recorded' / 'vectors.f32')
    with pytest.raises(DatabaseError, match=f'{file}: found SHA-256'):
        NominalDatabase.open(indexed, SearchSettings(position_weight=0.5))  # the index is for another space


def test_vectors_that_are_read_late_and_were_cut(indexed):
    file = indexed / 'v000001' / 'recorded' / 'vectors.f32'
    file.write_bytes(file.read_bytes()[:-64])
    assert f'{file}: found ' in complaint(indexed)


def test_a_fault_does_not_wait_for_the_rest_of_other_files(database, monkeypatch):
    """Files are verified side by side; the first fault ends it."""
    others = threading.Event()

    def verified(path, name, entry, advance, content):
        if name == next(iter(read_manifest(database).files)):
            others.wait(30)
            raise DatabaseError(f'{name}: wrong; do something')
        others.set()
        while True:  # a file without an end
            advance(1)

    monkeypatch.setattr(published, 'verify_file', verified)
    with pytest.raises(DatabaseError, match='wrong'):
        published.verify_files(database, read_manifest(database))
