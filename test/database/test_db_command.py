"""`semanom db ...`: exit status and what is printed."""

from __future__ import annotations

import json
import re
import resource
import shutil
from dataclasses import replace

import numpy as np
import pytest

from semanom_ros import cli
from semanom_ros.core.curation.operations import accept
from semanom_ros.core.curation.publishing import Recipe, read_recipe
from semanom_ros.core.curation.writer import DatabaseWriter
from semanom_ros.core.database.nominal_database import NominalDatabase
from semanom_ros.core.database.published import read_manifest
from semanom_ros.core.database.storage import NominalAddition
from semanom_ros.core.scoring.calibration import stored_parameters
from semanom_ros.settings import MethodSettings


@pytest.fixture
def semanom(capsys):
    """Runs `semanom db` and returns its status, output and error lines."""

    def run(*arguments):
        capsys.readouterr()
        status = cli.main(['db', *map(str, arguments)])
        captured = capsys.readouterr()
        assert 'Traceback' not in captured.err
        return status, captured.out.strip(), captured.err.strip()

    return run


@pytest.fixture
def databases(tmp_path, record):
    """Two of them, calibrated for position_weight 0.5."""
    recipe = Recipe.of(MethodSettings.of({'position_weight': 0.5, 'neighbours': 2, 'device': 'cpu'}))
    for name, bags in (('a', {'a': 12, 'b': 8}), ('b', {'c': 9})):
        record(tmp_path / name, bags, recipe)
    return tmp_path / 'a', tmp_path / 'b'


def test_info(semanom, databases):
    a, b = databases
    status, out, err = semanom('info', a, b)
    assert (status, err) == (0, '')
    assert f'{a}: version 1, ' in out
    assert '90 of 16 dimensions, from 15 frames' in out
    assert 'calibrated   from 5 nominal frames, ' in out
    assert 'timm:small, weights random:0 (SHA-256 aaaaaaaaaaaa)' in out
    assert '/drives/b /camera: 6 frames and 2 held out, 1970-01-01 00:00:00 to 1970-01-01 00:00:07 UTC' in out
    status, out, _ = semanom('info', '--json', a, b)
    assert status == 0
    one, other = json.loads(out)
    assert one['path'] == str(a)
    assert one['vectors'] == 90
    assert other['sources'][0]['path'] == '/drives/c'


def test_verify(semanom, databases):
    a, b = databases
    status, out, _ = semanom('verify', a, b)
    assert status == 0
    assert len(out.splitlines()) == 2
    file = a / 'v000001' / 'recorded' / 'vectors.f32'
    changed = bytearray(file.read_bytes())
    changed[999] ^= 16
    file.write_bytes(changed)
    status, out, err = semanom('verify', a, b)
    assert status == 2
    assert out.startswith(f'{b}: version 1')
    assert len(err.splitlines()) == 1
    assert f'{file}: found SHA-256' in err


def test_merge_keeps_what_the_calibration_was_for(semanom, databases, tmp_path, opened_as_calibrated):
    a, b = databases
    status, out, err = semanom('merge', a, b, '--output', tmp_path / 'all')
    assert (status, err) == (0, '')
    assert 'version 1, 132 vectors, ' in out
    assert out.endswith('calibrated')
    recipe = read_recipe(tmp_path / 'all')
    assert recipe.search.position_weight == 0.5
    assert recipe.score.neighbours == 2
    assert opened_as_calibrated(tmp_path / 'all', recipe).manifest.vectors == 132
    status, out, _ = semanom('merge', b, '--output', a)
    assert status == 0
    assert 'version 2, 132 vectors (before: 90)' in out


def test_remove(semanom, databases):
    a, _ = databases
    status, _, err = semanom('remove', a, '--source', 'nothing')
    assert status == 2
    assert err == f'semanom db: {a}: source: found none that is nothing, expected one of /drives/a, /drives/b'
    status, out, _ = semanom('remove', a, '--source', 'b')
    assert status == 0
    assert f'{a}: version 2, 54 vectors (before: 90), ' in out
    assert NominalDatabase.open(a).manifest.calibrated


def test_extract(semanom, databases, tmp_path):
    a, _ = databases
    assert semanom('extract', a, '--output', tmp_path / 'new')[2] == (
        'semanom db: extract: found nothing to go by, expected --source or --topic; name some')
    assert semanom('remove', a)[0] == 2
    status, out, _ = semanom('extract', a, '--topic', '/camera', '--source', 'b', '--output', tmp_path / 'new')
    assert status == 0
    assert out.startswith(f'{tmp_path / "new"}: version 1, 36 vectors, ')
    recipe = read_recipe(tmp_path / 'new')
    assert (recipe.search.position_weight, recipe.score.neighbours) == (0.5, 2), 'as those that it was taken from'


def test_what_is_not_calibrated_says_so_and_what_to_do(semanom, tmp_path, record, description, drive):
    short, thin = tmp_path / 'short', tmp_path / 'thin'
    record(short, {'a': 1}, Recipe.of(MethodSettings()))
    assert f'calibrated   no: no frame can be judged\n               run semanom db calibrate {short}' in semanom(
        'info', short)[1]
    with DatabaseWriter.begin(thin, description) as writer:
        for frame in [*drive('a', 9), *drive('b', 9)]:
            writer.add(frame._replace(record=replace(frame.record, held_out=False)))
        writer.commit(Recipe.of(MethodSettings()))
    assert semanom('compact', thin, '--share', '0.5')[1].splitlines()[0].endswith(', calibrated')
    assert semanom('remove', thin, '--source', 'b')[1].endswith(
        ', not calibrated, so that every frame will be unknown: see semanom db info')
    info = semanom('info', thin)[1]
    assert 'no: no frame can be judged\n' in info
    assert '               its frames were compacted, so none can be compared anew: ' in info
    assert 'versions     3; 1 earlier one keeps its files, ' in info


def test_compact(semanom, databases):
    a, b = databases
    assert semanom('compact', a)[0] == 2
    status, out, _ = semanom('compact', a, '--share', '0.5')
    assert status == 0
    assert 'version 2, 45 vectors (before: 90)' in out
    assert '\n  90 vectors to 45; each is within ' in out
    assert '\n  /drives/a: ' in out
    assert re.search(r'\n  nominal frames: \d of 5 above the alarm level before, \d after, \d verdicts differ; ', out)
    assert semanom('compact', b, '--distance', '0.5', '--size', '20')[0] == 0
    assert NominalDatabase.open(b).manifest.vectors <= 20


def test_the_bound_is_told_as_long_as_it_holds(semanom, databases, tmp_path, record):
    a, b = databases
    semanom('compact', a, '--size', '40')
    info = semanom('info', a)[1]
    found = read_manifest(a).compaction
    assert f'compacted    90 vectors to 40; each is within {found.radius:.3g} of one that was kept (mean ' in info
    assert f'; of all that was recorded within {found.total:.3g}\n' in info
    assert f'a distance d is now (sqrt(d) + sqrt({found.radius:.3g}))^2 at most, where searched with ' in info
    semanom('remove', a, '--source', 'b')
    assert 'compacted    yes; how far what was dropped is from what was kept is not known any more' in semanom(
        'info', a)[1]
    assert 'compacted' not in semanom('info', b)[1]


def test_compact_for_a_budget(semanom, databases):
    a, b = databases
    status, _, err = semanom('compact', a, '--budget-mb', '0.001')
    told = re.fullmatch('semanom db: compact: found --budget-mb 0.001, expected (.*) or more, which 90 vectors take, '
                        'the fewest that are offered; raise it', err)
    assert status == 2
    status, _, err = semanom('compact', a, '--budget-ms', '1e-6')
    assert status == 2
    assert err.startswith('semanom db: compact: found --budget-ms 1e-06, expected ')
    assert 'or more, which the search for 6 patches in 90 vectors of ' in err
    assert len(err.splitlines()) == 1
    assert read_manifest(a).version == 1
    status, out, _ = semanom('compact', a, '--budget-mb', told[1], '--budget-ms', '1e4')
    assert status == 0
    assert '-> int8 ' in out
    assert '\n  search for all 6 patches of a frame, on this machine; ' in out
    assert semanom('compact', b, '--size', '5', '--device', 'cuda')[2] == (
        'semanom db: compact: found --device cuda and no budget, expected --budget-mb or --budget-ms beside it; give '
        'one, or leave --device out')
    assert semanom('compact', b, '--size', '5', '--truth-topic', '/truth')[2] == (
        'semanom db: compact: found --truth-topic /truth and no recording, expected --check-bag beside it; give one, '
        'or leave --truth-topic out')


def test_calibrate_for_other_parameters(semanom, databases):
    a, _ = databases
    assert semanom('calibrate', a, '--set', 'position_weight=0.1')[0] == 0
    database = NominalDatabase.open(a)
    assert database.manifest.version == 2
    assert stored_parameters(database.calibration)['position_weight'] == 0.1
    status, _, err = semanom('calibrate', a, '--set', 'position_weight=-1')
    assert status == 2
    assert 'position_weight' in err


def test_index_and_revert(semanom, databases, unit_vectors):
    a, _ = databases
    status, _, err = semanom('index', a, '--factory', 'IVF4096,SQfp16')
    assert status == 2
    assert 'found 4096 inverted lists in IVF4096,SQfp16, expected at most 90' in err
    assert semanom('index', a, '--factory', 'IVF4,SQfp16', '--nprobe', '4')[0] == 0
    assert ('IVF4,SQfp16, nprobe 4, position_weight 0.5, scale_weight 0.0, standardize true, over 90 vectors'
            in semanom('info', a)[1])
    database = NominalDatabase.open(a, read_recipe(a).search)
    accept(database, [NominalAddition(
        database.frames()[0].record, unit_vectors(1, 5), np.zeros((1, 4)), np.zeros((1, 2)))])
    status, out, _ = semanom('revert', a)
    assert status == 0
    assert out.startswith(f'{a}: version 4, 90 vectors, as version 2: index IVF4,SQfp16')


def test_reviewed_frames_can_be_taken_out(semanom, databases, unit_vectors):
    a, _ = databases
    database = NominalDatabase.open(a)
    accept(database, [NominalAddition(
        database.frames()[0].record, unit_vectors(1, 5), np.zeros((1, 4)), np.zeros((1, 2)))])
    assert 'reviewed:/drives/a' in semanom('info', a)[1]
    assert semanom('remove', a, '--source', 'reviewed:*')[0] == 0
    assert NominalDatabase.open(a).manifest.vectors == 90


@pytest.mark.parametrize('arguments', [
    ['info', 'nowhere'], ['verify', 'nowhere'], ['merge', 'nowhere', '--output', 'all'], ['calibrate', 'nowhere'],
    ['remove', 'nowhere', '--source', 'a'], ['compact', 'nowhere', '--size', '9'], ['index', 'nowhere'],
    ['revert', 'nowhere'], ['history', 'nowhere'], ['history', 'nowhere', '--keep', '3'], ['diff', 'nowhere'],
    ['extract', 'nowhere', '--source', 'a', '--output', 'all']])
def test_no_database_is_one_line_and_leaves_nothing(semanom, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    status, out, err = semanom(*arguments)
    assert (status, out) == (2, '')
    assert err == ('semanom db: nowhere: found no folder, expected a nominal database; make one with semanom record, '
                   'or ros2 launch semanom_ros record_nominal.launch.py')
    assert not list(tmp_path.iterdir())


CHANGES = (['merge', 'B', '--output', 'A'], ['merge', 'A', 'B', '--output', 'ALL'], ['remove', 'A', '--source', 'b'],
           ['compact', 'A', '--size', '30'], ['calibrate', 'A', '--set', 'position_weight=0.1'],
           ['index', 'A', '--factory', 'IVF4,SQfp16'], ['revert', 'A'], ['history', 'A', '--keep', '3'],
           ['extract', 'A', '--source', 'b', '--output', 'ALL'])


def with_paths(arguments, a, b):
    known = {'A': str(a), 'B': str(b), 'ALL': str(a.parent / 'all')}
    return [known.get(argument, argument) for argument in arguments]


def everything(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


@pytest.mark.parametrize('arguments', [['info', 'A'], ['verify', 'A'], ['coverage', 'A'], ['diff', 'A'], *CHANGES])
def test_a_damaged_database_is_one_line_in_every_command(semanom, databases, arguments, trial):
    """Whatever is damaged: the commands open before, or while, they verify."""
    a, b = databases
    assert semanom('index', a, '--factory', 'IVF4,SQfp16')[0] == 0
    names = ['manifest.json', 'v000001/recorded/frames.npy', 'v000001/recorded/vectors.f32',
             'v000001/recorded/statistics.npz', 'v000002/calibration.npz', 'v000002/index.faiss']
    with trial('Database', 'a damaged file, and each `semanom db` command', times=2 * len(names)):
        for name in names:
            original = (a / name).read_bytes()
            for damage in (original[:len(original) // 2], bytes(len(original))):
                (a / name).write_bytes(damage)
                before = everything(a)
                status, _, err = semanom(*with_paths(arguments, a, b))
                assert status in (0, 2), 'nothing fails inside'
                assert status == 2 or arguments[0] in ('info', 'coverage', 'revert', 'history')
                assert len(err.splitlines()) == (1 if status else 0)
                if status:
                    assert everything(a) == before
                else:
                    shutil.rmtree(a / 'v000003', ignore_errors=True)
            (a / name).write_bytes(original)


@pytest.mark.parametrize('arguments', CHANGES)
@pytest.mark.parametrize('room', [100, 1300])
def test_a_full_disk_is_one_line_in_every_command(semanom, databases, arguments, room, trial):
    """The kernel lets no file grow beyond that."""
    a, b = databases
    assert semanom('calibrate', a)[0] == 0
    before = [everything(path) for path in (a, b)]
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limit[1]))
    try:
        status, _, err = semanom(*with_paths(arguments, a, b))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    with trial('Database', 'a full disk, and each `semanom db` command') as tally:
        assert (status, len(err.splitlines())) == (2, 1)
        assert 'File too large' in err
        for path, old in zip((a, b), before, strict=True):
            tally.lost += sum((path / name).read_bytes() != content for name, content in old.items()
                              if name.name not in ('lock', 'manifest.json.new'))
            assert semanom('verify', path)[0] == 0
        assert semanom(*with_paths(arguments, a, b))[0] == 0, 'with room it goes on'


@pytest.mark.parametrize('arguments', [
    [], ['nonsense'], ['info'], ['merge', 'a'], ['extract', 'a', '--source', 'b'], ['compact', 'a', '--size', '0'],
    ['compact', 'a', '--share', '1.5'], ['compact', 'a', '--distance', '-1'], ['index', 'a', '--nprobe', 'x'],
    ['compact', 'a', '--size', '3', '--share', '0.5'], ['history', 'a', '--keep', '0'],
    ['revert', 'a', '--version', 'x'], ['diff', 'a', '--from', '0']])
def test_bad_usage_is_one_line(capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        cli.main(['db', *arguments])
    assert caught.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
