"""What `semanom learn` has made is a file of its own, and outlives every other change of the database."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest

from semanom_ros.core.curation import operations
from semanom_ros.core.curation.operations import accept
from semanom_ros.core.curation.publishing import IndexSettings, Learned, Recipe, read_recipe
from semanom_ros.core.curation.recorder import NominalRecorder
from semanom_ros.core.curation.selection import Selection
from semanom_ros.core.curation.writer import DatabaseWriter
from semanom_ros.core.database.nominal_database import NominalDatabase
from semanom_ros.core.database.published import read_manifest
from semanom_ros.core.database.storage import NominalAddition, arrays_to_bytes
from semanom_ros.core.frames import Frame
from semanom_ros.core.plausibility.plausibility_model import Folds, PlausibilityModel
from semanom_ros.core.scoring.calibration import calibrate
from semanom_ros.errors import DatabaseError


@pytest.fixture
def settings(world):
    return world.settings(neighbours=2)


@pytest.fixture
def model(world, settings):
    """Learned from the frames of the drive `drive`."""
    database = world.database(settings, recorded=8, held_out=6)
    made, records = world.model(database), [frame.record for frame in database.frames()]
    return dataclasses.replace(made, folds=Folds.of(records, np.arange(len(records)) % 2, [made.ensemble] * 2))


@pytest.fixture
def path(world, model, settings):
    """A database that has learned."""
    path = world.folder / 'database'
    operations.calibrate(path, Recipe.of(settings), Learned(model, 7, 3))
    return path


def in_trees(pattern, replacement):
    """Changes the first place of that kind in the text of the trees."""
    def change(arrays):
        before = bytes(arrays['trees']).decode()
        text = re.sub(pattern, replacement, before, count=1)
        assert text != before
        arrays.update(trees=np.frombuffer(text.encode(), np.uint8))
    return change


@pytest.mark.parametrize('change', [
    in_trees(r'left_child=-?\d+', 'left_child=0'),  # round and round
    in_trees(r'right_child=-?\d+', 'right_child=999999'),
    in_trees(r'right_child=-?\d+', 'right_child=-999999'),
    in_trees(r'split_feature=\d+', 'split_feature=123456'),
    in_trees(r'leaf_value=[^ \n]+', 'leaf_value=nan'),
    in_trees(r'num_leaves=\d+', 'num_leaves=3000'),
    in_trees(r'num_leaves=\d+', 'num_leaves=1000000000'),
    in_trees(r'num_cat=0', 'num_cat=1'),
    in_trees(r'is_linear=0', 'is_linear=1'),
    in_trees(r'decision_type=\d+', 'decision_type=1'),
    in_trees(r'threshold=[^ \n]+', 'threshold=nan'),
    in_trees(r'max_feature_idx=\d+', 'max_feature_idx=3'),
    lambda arrays: arrays['network0.first.bias'].fill(np.nan),
    lambda arrays: arrays.update(axes=np.full_like(arrays['axes'], np.inf)),
    lambda arrays: arrays.update(mean=arrays['mean'][:-1]),
    lambda arrays: arrays.update(axes=arrays['axes'][:, :-1]),
    lambda arrays: arrays.update(scale=arrays['scale'].astype(np.int64)),
    lambda arrays: arrays.update(fold_frames=np.arange(3), fold_numbers=np.full(3, 7, np.uint8)),
    lambda arrays: arrays.pop('trees'),
    lambda arrays: arrays.update(trees=np.frombuffer(b'no trees', np.uint8)),
    lambda arrays: arrays.pop('network0.first.weight'),
    lambda arrays: arrays.update({'network0.first.bias': np.zeros(3, np.float32)}),
])
def test_what_is_no_model_is_one_line(path, model, trial, change):
    """It would not be noticed otherwise before a frame is unusual, and LightGBM reads where nodes point to."""
    arrays = {name: np.array(value) for name, value in model.arrays().items()}
    change(arrays)
    file = path / read_manifest(path).learned.file
    file.write_bytes(arrays_to_bytes(arrays))
    with trial('Database', 'a model of what belongs where that is none'), \
            pytest.raises(DatabaseError, match=f'{file}: holds no model .*; run semanom learn again') as caught:
        PlausibilityModel.of(NominalDatabase.open(path, verify=False))
    assert '\n' not in str(caught.value)


def append(world, path, settings):
    embedder = world.embedder(settings)
    with DatabaseWriter.begin(path, embedder.description, append=True) as writer:
        frames = [Frame(world.street(100 + i), i * 10**9, source='later', topic='/camera') for i in range(4)]
        for _ in NominalRecorder(embedder, writer).record(frames, 'e' * 64, lambda stamp: stamp >= 3 * 10**9):
            pass
        writer.commit(Recipe.of(settings))


def accept_one(world, path, settings):
    database = NominalDatabase.open(path, settings.search)
    frame = database.frames()[0]
    accept(database, [NominalAddition(*frame)])


def compact(world, path, settings):
    operations.compact(path, size=500)


def remove(world, path, settings):
    append(world, path, settings)
    operations.remove(path, Selection(('later',)))


def merge_more(world, path, settings):
    world.database(settings, 'other', recorded=3, held_out=1, picture=lambda i: world.street(300 + i))
    other = world.folder / 'other'
    assert operations.merge(path, [other]).version == 2, 'its frames are those of the same drive: nothing new'
    append(world, other, settings)
    operations.merge(path, [other])


@pytest.mark.parametrize('change', [
    append, accept_one, compact, remove, merge_more, lambda world, path, settings: operations.calibrate(path),
    lambda world, path, settings: operations.build_index(path, IndexSettings('IVF4,Flat')),
], ids=['append', 'accept', 'compact', 'remove', 'merge', 'calibrate', 'index'])
def test_what_was_learned_outlives_a_change(world, path, model, settings, change):
    before = read_manifest(path)
    assert (before.learned.file, before.learned.composites, before.learned.seed) == ('v000002/learned.npz', 7, 3)
    change(world, path, settings)
    manifest = operations.verify(path)
    assert manifest.version > before.version
    assert manifest.learned == before.learned
    assert manifest.files[manifest.learned.file] == before.files[before.learned.file]
    database = NominalDatabase.open(path, settings.search)
    expected = model.arrays()
    assert database.learned.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(database.learned[name], array)
    if change is not accept_one:  # that leaves the calibration as it was
        scores = calibrate(database, settings.search, settings.score, PlausibilityModel.of(database))['frame_scores']
        np.testing.assert_array_equal(database.calibration['frame_scores'], scores)


def test_what_was_learned_goes_with_what_it_was_learned_from(world, path, settings, caplog):
    """A drive past an accident, say: it is forgotten altogether, and that is said."""
    append(world, path, settings)
    assert read_manifest(path).learned
    manifest = operations.remove(path, Selection(('drive',)))
    assert manifest.learned is None
    assert not [name for name in manifest.files if 'learned' in name]
    assert manifest.change == 'removed drive, and what was learned from it'
    assert 'was learned from them, too, and goes with them; run semanom learn again' in caplog.text
    database = NominalDatabase.open(path, settings.search)
    scores = calibrate(database, settings.search, settings.score)['frame_scores']
    np.testing.assert_array_equal(database.calibration['frame_scores'], scores)
    assert operations.revert(path).learned


def test_a_database_merged_into_being_takes_over_what_the_first_has_learned(world, path, settings):
    merged = world.folder / 'merged'
    world.database(settings, 'other', recorded=3, held_out=1)
    append(world, world.folder / 'other', settings)
    operations.merge(merged, [path, world.folder / 'other'])
    learned = operations.verify(merged).learned
    assert (learned.file, learned.composites, learned.seed) == ('v000001/learned.npz', 7, 3)
    assert (merged / learned.file).read_bytes() == (path / 'v000002' / 'learned.npz').read_bytes()
    assert read_recipe(merged) == read_recipe(path)


def test_it_is_apart_from_the_calibration(world, path, model, settings):
    with np.load(path / read_manifest(path).calibration) as stored:
        assert not set(stored) & set(model.arrays())
        assert set(stored) >= {'settings', 'frame_scores', 'frame_stamps', 'frame_streams', 'region_mean',
                               'region_deviation'}
    # what a version was made for is known without it
    assert read_recipe(path).score.neighbours == 2
    (path / read_manifest(path).learned.file).unlink()
    assert read_recipe(path).score.neighbours == 2
    with pytest.raises(DatabaseError, match=r'learned\.npz: missing'):
        operations.calibrate(path)


def test_learning_anew_replaces_it(world, path, model, settings):
    manifest = operations.calibrate(path, learned=Learned(model, 9, 4))
    assert (manifest.learned.file, manifest.learned.composites) == ('v000003/learned.npz', 9)
    operations.calibrate(path)
    operations.calibrate(path)
    assert not (path / 'v000002').exists()
    assert read_manifest(path).learned == manifest.learned
    operations.verify(path)
