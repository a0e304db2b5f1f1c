"""History: every version is told of, as many as asked for keep their files, and any of those can be gone back to."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from semanom_ros.core.curation import operations
from semanom_ros.core.curation.publishing import Recipe
from semanom_ros.core.curation.selection import Selection
from semanom_ros.core.database import manifest as manifests
from semanom_ros.core.database.manifest import Manifest
from semanom_ros.core.database.nominal_database import NominalDatabase
from semanom_ros.core.database.published import kept_versions, own_bytes, read_manifest, read_version
from semanom_ros.errors import DatabaseError
from semanom_ros.settings import SearchSettings


@pytest.fixture
def database(tmp_path, record) -> Path:
    """Versions: a; a and b; a, b and c; a and c."""
    path = tmp_path / 'database'
    record(path, {'a': 9}, Recipe(SearchSettings()))
    operations.keep_versions(path, 10)
    for bag in ('b', 'c'):
        record(path, {bag: 5}, Recipe(SearchSettings()), append=True)
    operations.remove(path, Selection(('b',)))
    return path


def files(path: Path) -> set[str]:
    return {file.relative_to(path).as_posix() for file in path.rglob('*') if file.is_file()}


def test_each_version_is_told_of(database):
    manifest = read_manifest(database)
    assert [(past.version, past.change, past.vectors, past.calibrated) for past in manifest.versions] == [
        (1, 'recorded 7 frames, 2 held out, of a', 42, True), (2, 'earlier versions kept: 10', 42, True),
        (3, 'recorded 4 frames, 1 held out, of b', 66, True), (4, 'recorded 4 frames, 1 held out, of c', 90, True),
        (5, 'removed b', 66, True)]
    assert manifest.versions[-1].created == manifest.created
    assert [one.version for one in kept_versions(database, manifest)] == [4, 3, 2, 1]
    assert Manifest.read(database / 'manifest.json') == manifest


def test_any_kept_version_can_be_gone_back_to(database, content_of, record, tmp_path):
    for number, bags in ((3, {'a': 9, 'b': 5}), (1, {'a': 9}), (4, {'a': 9, 'b': 5, 'c': 5})):
        manifest = operations.revert(database, number)
        assert manifest.change == f'as version {number}: {read_version(database, number).change}'
        assert content_of(NominalDatabase.open(database)) == content_of(record(tmp_path / f'{number}', bags))
        assert NominalDatabase.open(database).calibration.keys() == \
            NominalDatabase(database, read_version(database, number)).calibration.keys()
    assert read_manifest(database).version == 8
    assert len(read_manifest(database).versions) == 8
    with pytest.raises(DatabaseError, match=r'version: found 99, expected one before 8 that keeps its files '
                                            r'\(7, 6, 5, 4, 3, 2, 1\); see semanom db history'):
        operations.revert(database, 99)
    assert read_manifest(database).version == 8


def test_what_is_kept_no_more_goes_and_is_still_told_of(database):
    first = {name for name in files(database) if name.startswith('v000003/')}
    assert first
    manifest = operations.keep_versions(database, 1)
    assert [one.version for one in kept_versions(database, manifest)] == [5]
    assert files(database) == {*manifest.files, *kept_versions(database, manifest)[0].files, 'manifest.json', 'lock',
                               'v000005/manifest.json', 'v000006/manifest.json'}
    assert len(manifest.versions) == 6
    with pytest.raises(DatabaseError, match=r'found 3, expected one before 6 that keeps its files \(5\)'):
        operations.revert(database, 3)
    operations.verify(database)
    assert operations.keep_versions(database, 1) == manifest, 'nothing changes, so no version is made'


def test_what_keeping_costs(database):
    manifest = read_manifest(database)
    versions = [manifest, *kept_versions(database, manifest)]
    before = sum((database / name).stat().st_size for name in files(database) if not name.endswith(('.json', 'lock')))
    names = sum((database / name).stat().st_size for name in files(database) if name.endswith('names.json'))
    assert sum(own_bytes(versions)) == before + names
    assert own_bytes(versions)[0] == manifest.size
    assert own_bytes(versions)[2] > own_bytes(versions)[3], 'version 4 has b alone, with version 3; 2 is as 1'


def test_the_history_has_an_end(database, monkeypatch):
    monkeypatch.setattr('semanom_ros.core.database.transaction.LONGEST_HISTORY', 3)
    operations.calibrate(database)
    assert [past.version for past in operations.calibrate(database).versions] == [4, 5, 6, 7]


def test_a_manifest_without_a_history_keeps_its_identity(tmp_path, record):
    """Those of databases that were made before there was one."""
    manifest = record(tmp_path / 'database', {'a': 9}).manifest
    content = json.loads(manifest.dumps())
    assert not {'history', 'kept'} & content.keys()
    assert content['sha256'] == manifest.identity


@pytest.mark.parametrize(('field', 'value', 'complaint'), [
    ('kept', 0, 'kept: found 0, expected a whole number, 1 to'),
    ('history', [{'version': 5}], r'history\[0\]\.change: found None'),
    ('history', 'all', 'history: found'), ('history', [[]], r'history\[0\]'),
])
def test_a_history_that_is_none_is_refused(database, field, value, complaint):
    content = {**json.loads((database / 'manifest.json').read_text()), field: value}
    content['sha256'] = manifests._checksum(content)
    (database / 'manifest.json').write_text(json.dumps(content))
    with pytest.raises(DatabaseError, match=complaint):
        read_manifest(database)


def test_versions_count_up(database):
    manifest = read_manifest(database)
    (database / 'manifest.json').write_text(manifest.replace(history=manifest.history[::-1]).dumps())
    with pytest.raises(DatabaseError, match='expected versions that count up to this one'):
        read_manifest(database)


def test_a_version_of_another_database_is_none_of_the_history(database, tmp_path, record):
    record(tmp_path / 'other', {'z': 9})
    shutil.copy(tmp_path / 'other' / 'v000001' / 'manifest.json', database / 'v000003' / 'manifest.json')
    assert [one.version for one in kept_versions(database, read_manifest(database))] == [4]
    with pytest.raises(DatabaseError, match='found 3, expected one before 5'):
        operations.revert(database, 3)


# -- on the command line


def test_the_list(database, capsys):
    from semanom_ros import cli
    assert cli.main(['db', 'history', str(database)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:6]] == ['5', '4', '3', '2', '1']
    assert lines[1].endswith('removed b')
    assert '4 earlier ones keep their files' in lines[-1]
    assert cli.main(['db', 'history', str(database), '--keep', '2']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1 if 'gone' not in line else 0] for line in lines[4:7]] == ['3', '2', '1']
    assert sum('gone' in line for line in lines) == 3
    assert cli.main(['db', 'history', str(database), '--json']) == 0
    told = json.loads(capsys.readouterr().out)
    assert [(one['version'], one['kept']) for one in told] == [
        (1, False), (2, False), (3, False), (4, True), (5, True), (6, True)]
    assert told[-1]['bytes'] == read_manifest(database).size
    assert cli.main(['db', 'revert', str(database), '--version', '4']) == 0
    assert 'version 7, 90 vectors, as version 4: recorded 4 frames, 1 held out, of c' in capsys.readouterr().out
    assert cli.main(['db', 'revert', str(database), '--version', '1']) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
