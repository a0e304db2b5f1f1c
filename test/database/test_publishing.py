"""What a version is made for: one rule for its index, and a calibration in the view that detectors open."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from semanom_ros.core.curation import operations, publishing
from semanom_ros.core.curation.publishing import AUTO, EXACT, NPROBE, IndexSettings, Recipe, read_recipe
from semanom_ros.core.curation.selection import Selection
from semanom_ros.core.database import nominal_database
from semanom_ros.core.database.index import faiss
from semanom_ros.core.database.nominal_database import PLAIN, NominalDatabase
from semanom_ros.core.database.published import read_manifest
from semanom_ros.core.scoring.calibration import calibrate
from semanom_ros.errors import DatabaseError
from semanom_ros.settings import MethodSettings, ScoreSettings, SearchSettings

MANY = 60  # vectors from which on an index pays here; a frame of a drive has 6, three of four are compared with


@pytest.fixture(autouse=True)
def few_are_many(monkeypatch):
    for module in (publishing, nominal_database):
        monkeypatch.setattr(module, 'INDEXED_FROM', MANY)


def test_a_database_with_an_index_is_calibrated_in_the_space_of_its_detector(tmp_path, record, opened_as_calibrated):
    recipe = Recipe(SearchSettings(standardize=True), ScoreSettings(calibrate_by_region=False))
    record(tmp_path / 'database', {'a': 40}, recipe)
    database = opened_as_calibrated(tmp_path / 'database', recipe)
    assert database.settings.standardize
    assert not database.parts(), 'the index does not answer'
    plain = calibrate(NominalDatabase.open(database.path, PLAIN), PLAIN, recipe.score)
    assert np.abs(plain['frame_scores'] - database.calibration['frame_scores']).max() > 0.01, 'one space is as good'


@pytest.mark.parametrize('index', [IndexSettings(), IndexSettings(EXACT), IndexSettings('IVF3,Flat', 2)])
@pytest.mark.parametrize('frames', [8, 40])
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_where_a_version_is_made_makes_no_difference(tmp_path, record, index, frames):
    """A GPU, which searches without an index, makes one for the robots that have none."""
    recipe = Recipe(SearchSettings(), index=index)
    made = [record(tmp_path / name, {'a': frames}, replace(recipe, device=torch.device(name))).manifest
            for name in ('cpu', 'cuda')]
    assert made[0].index == made[1].index
    assert (made[0].index is None) == (index.factory == EXACT or (index.factory == AUTO and frames == 8))
    assert made[0].calibrated
    assert made[1].calibrated


def test_an_index_is_built_anew_when_as_many_vectors_as_want_one_are_not_in_it(tmp_path, record):
    path, recipe = tmp_path / 'database', Recipe(SearchSettings())
    first = record(path, {'a': 40}, recipe).manifest.index
    assert (first.file, first.vectors, first.nprobe) == ('v000001/index.faiss', 180, NPROBE)
    assert record(path, {'b': 12}, recipe, append=True).manifest.index == first  # 54 beside it
    grown = record(path, {'c': 1}, recipe, append=True).manifest  # 60
    assert (grown.index.file, grown.index.vectors) == ('v000003/index.faiss', 240)
    assert grown.vectors == 240


def test_an_index_keeps_what_was_asked_of_it(tmp_path, record):
    path = tmp_path / 'database'
    record(path, {'a': 40}, Recipe(SearchSettings()))
    own = operations.build_index(path, IndexSettings('IVF3,Flat', 2)).index
    assert (own.factory, own.nprobe) == ('IVF3,Flat', 2)
    appended = record(path, {'b': 4}, Recipe.of(MethodSettings.of({'device': 'cpu'})), append=True).manifest
    assert appended.index == own, 'a recording took a chosen index away'
    assert operations.calibrate(path).index == own
    # how many lists a search visits is no part of the index
    assert operations.build_index(path, IndexSettings('IVF3,Flat', 3)).index.file == own.file
    assert read_manifest(path).index.nprobe == 3
    recipe = Recipe(SearchSettings(), index=IndexSettings('IVF3,Flat'))
    removed = operations.remove(path, Selection(('a',)), recipe).index
    assert (removed.factory, removed.nprobe, removed.vectors) == ('IVF3,Flat', 3, 18)


def test_exact_stays_exact(tmp_path, record):
    path = tmp_path / 'database'
    exact = Recipe(SearchSettings(), index=IndexSettings(EXACT))
    assert record(path, {'a': 40}, exact).manifest.index is None
    assert operations.calibrate(path).index is None
    assert record(path, {'b': 40}, exact, append=True).manifest.index is None
    assert read_recipe(path).index.factory == EXACT
    assert operations.remove(path, Selection(('b',))).index is None
    assert not record(path, {'c': 4}, Recipe(SearchSettings()), append=True).manifest.index  # as it was
    asked = Recipe(SearchSettings(), index=IndexSettings())
    assert record(path, {'d': 4}, asked, append=True).manifest.index is not None


def test_a_recording_that_is_appended_leaves_an_exact_database_exact(tmp_path, record):
    path = tmp_path / 'database'
    method = MethodSettings.of({'device': 'cpu'})
    record(path, {'a': 40}, Recipe.of(method, EXACT))
    assert record(path, {'b': 40}, Recipe.of(method, AUTO), append=True).manifest.index is None
    assert record(tmp_path / 'new', {'a': 40}, Recipe.of(method, AUTO)).manifest.index is not None


def test_scores_that_are_not_finite_are_not_published(tmp_path, record, monkeypatch):
    path = tmp_path / 'database'
    before = record(path, {'a': 12}).manifest
    monkeypatch.setattr(publishing, 'calibrate', lambda *_: {'frame_scores': np.array([0.1, np.nan], np.float32)})
    with pytest.raises(DatabaseError, match='calibration: found scores that are not finite'):
        operations.calibrate(path, Recipe(SearchSettings()))
    assert read_manifest(path) == before


def test_another_space_gets_another_index(tmp_path, record, opened_as_calibrated):
    path = tmp_path / 'database'
    first = record(path, {'a': 40}, Recipe(SearchSettings())).manifest.index
    for search in (SearchSettings(position_weight=0.5), SearchSettings(scale_weight=0.1), PLAIN):
        recipe = Recipe(search)
        index = operations.calibrate(path, recipe).index
        assert index.search == search.values() != first.search
        assert index.file != first.file
        assert not opened_as_calibrated(path, recipe).parts()
        first = index


def test_an_index_of_a_database_without_calibration_says_what_space_it_is_for(tmp_path, record):
    path = tmp_path / 'database'
    record(path, {'a': 3})  # too short to be compared with itself
    operations.build_index(path, IndexSettings('IVF2,Flat'), Recipe(SearchSettings(position_weight=0.5)))
    assert read_recipe(path).search == SearchSettings(position_weight=0.5)
    assert not read_manifest(path).calibrated


def test_a_database_that_shrinks_needs_no_index_any_more(tmp_path, record, opened_as_calibrated):
    path = tmp_path / 'database'
    index = record(path, {'a': 400}, Recipe(SearchSettings())).manifest.index
    lists = faiss.read_index(str(path / index.file)).nlist
    assert lists > 40
    assert operations.compact(path, size=40).index is None
    assert not opened_as_calibrated(path, Recipe(SearchSettings())).manifest.index
    # one that somebody chose is asked for again, and refused where it cannot be
    operations.build_index(path, IndexSettings('IVF30,Flat'))
    with pytest.raises(DatabaseError, match='found 30 inverted lists in IVF30,Flat, expected at most 20'):
        operations.compact(path, size=20)
