"""Compaction for what a vehicle has: what is chosen fits, is what was measured, and leaves a database that holds."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from semanom_ros.core.curation import budget, operations
from semanom_ros.core.curation.budget import Budget, Fitting
from semanom_ros.core.curation.publishing import Recipe
from semanom_ros.core.curation.selection import Selection
from semanom_ros.core.curation.writer import DatabaseWriter
from semanom_ros.core.database.nominal_database import NominalDatabase
from semanom_ros.core.database.published import read_manifest, verify
from semanom_ros.core.scoring.calibration import STRETCH_SECONDS
from semanom_ros.errors import DatabaseError
from semanom_ros.settings import SearchSettings

CPU = torch.device('cpu')
AS_IT_IS = Recipe(SearchSettings(standardize=False))
STANDARDIZED = Recipe(SearchSettings(standardize=True))


def recorded(path, description, drive, recipe=AS_IT_IS, bags=('a', 'b'), append=False):
    """Frames of 60 vectors, all of them recorded; 20 a bag."""
    with DatabaseWriter.begin(path, replace(description, wants_standardizing=True), append=append) as writer:
        for bag in bags:
            for frame in drive(bag, 20, 60):
                writer.add(frame._replace(record=replace(frame.record, held_out=False)))
        writer.commit(recipe)
    return path


@pytest.fixture
def database(tmp_path, description, drive):
    return recorded(tmp_path / 'database', description, drive)


def fitted(path, megabytes=None, milliseconds=None, recipe=AS_IT_IS):
    fitting = Fitting(Budget(megabytes, milliseconds, CPU), recipe)
    size = fitting.most(read_manifest(path).vectors, 16)
    return fitting, operations.compact(path, size=size, fit=fitting, recipe=recipe)


def test_what_fits_is_kept_whole_and_exact(database):
    fitting, manifest = fitted(database, 100.0, 1e4)
    assert (manifest.vectors, manifest.index) == (2400, None)
    assert fitting.chosen.codes == 'fp32'
    assert fitting.chosen.error_p99 < 1e-5
    assert manifest.compaction.radius == 0


@pytest.mark.parametrize(('megabytes', 'codes'), [(0.12, {'fp32', 'fp16', 'int8'}), (0.08, {'int8', 'fp16'})])
def test_memory_decides_on_number_and_codes(database, megabytes, codes):
    fitting, manifest = fitted(database, megabytes)
    assert {one.codes for one in fitting.tried} == codes
    chosen = fitting.chosen
    assert chosen.error_mean == min(one.error_mean for one in fitting.tried)
    assert 1000 <= manifest.vectors == chosen.vectors < 2400
    assert all(one.megabytes <= megabytes for one in fitting.tried)
    assert fitting.patches == 60
    assert (manifest.index is None) == (chosen.codes == 'fp32')
    assert manifest.index is None or (manifest.index.factory, manifest.index.nprobe) == (
        chosen.index.factory, chosen.index.nprobe)
    assert manifest.calibrated
    verify(database)


def test_errors_are_those_of_the_distances(database):
    before = NominalDatabase.open(database, AS_IT_IS.search)
    fitting, _ = fitted(database, 0.12)
    after = NominalDatabase.open(database, AS_IT_IS.search)
    frames = before.whole_frames()
    grown = []
    for number in np.unique(np.linspace(0, len(frames) - 1, 8).astype(int)):
        frame = frames[int(number)]
        was, now = (one.search_excluding(frame.vectors, 1, one.neighbourhood(frame.record, STRETCH_SECONDS))[0]
                    for one in (before, after))
        grown.append(now - was)
    assert np.mean(grown) == pytest.approx(fitting.chosen.error_mean, abs=1e-5)


def test_as_many_are_kept_as_the_time_is_enough_for(database, monkeypatch):
    """A search that takes a millisecond for a thousand vectors, but once seemed to take ten times as long."""
    turns = []

    def time_of(neighbours, frames, k, device):
        turns.append(neighbours.size)
        return neighbours.size / (100 if len(turns) == 1 else 1000)

    monkeypatch.setattr(budget, '_time', time_of)
    fitting, manifest = fitted(database, milliseconds=1.8)
    exact = next(one for one in fitting.tried if one.codes == 'fp32')
    assert 1.8 / 1.3 * 1000 <= exact.vectors <= 1800
    assert all(one.milliseconds <= 1.8 for one in fitting.tried)
    assert manifest.vectors == fitting.chosen.vectors


@pytest.mark.parametrize('budgeted', [dict(megabytes=0.001), dict(milliseconds=1e-9)])
def test_what_cannot_be_met_says_the_nearest_that_can(database, budgeted):
    with pytest.raises(DatabaseError, match=r'^compact: found --budget-m[bs] .*, expected .* or more, which ') as error:
        fitted(database, **budgeted)
    assert '\n' not in str(error.value)
    assert read_manifest(database).version == 1
    assert not (database / 'v000002').exists()
    needed = float(str(error.value).split('expected ')[1].split()[0])
    if 'megabytes' in budgeted:
        assert 1000 <= fitted(database, needed)[1].vectors <= 1010


def test_a_budget_is_measured_with_nominal_frames(database):
    operations.compact(database, size=1500, recipe=AS_IT_IS)
    with pytest.raises(DatabaseError, match='found no nominal frame that can be compared with others, expected some'):
        fitted(database, 100.0)
    assert read_manifest(database).version == 2


def test_a_bound_over_several_compactions(database):
    everything = np.concatenate([frame.vectors for frame in NominalDatabase.open(database).frames()])
    for size in (1500, 700, 200):
        before = read_manifest(database).compaction
        found = operations.compact(database, size=size, recipe=AS_IT_IS).compaction
        left = np.concatenate([frame.vectors for frame in NominalDatabase.open(database).frames()])
        true = (1 - everything.astype(np.float64) @ left.T.astype(np.float64)).min(axis=1).max()
        assert true <= found.total + 1e-5
        assert found.total == pytest.approx(
            (math.sqrt(found.radius) + math.sqrt(before.total if before else 0)) ** 2)
        assert [(one.path, one.vectors) for one in found.sources] == [
            ('/drives/a', before.sources[0].kept if before else 1200),
            ('/drives/b', before.sources[1].kept if before else 1200)]
        assert sum(one.kept for one in found.sources) == size == found.kept
        assert max(one.farthest for one in found.sources) == pytest.approx(found.radius)
    operations.revert(database)
    assert read_manifest(database).compaction.kept == 700


@pytest.mark.parametrize(('recipe', 'after_appending'), [(AS_IT_IS, True), (STANDARDIZED, False)])
def test_a_bound_goes_with_what_it_is_about(tmp_path, description, drive, recipe, after_appending):
    path = recorded(tmp_path / 'database', description, drive, recipe)
    said = operations.compact(path, size=900, recipe=recipe).compaction
    assert operations.calibrate(path, recipe).compaction == said
    recorded(path, description, drive, recipe, ('c',), append=True)
    appended = read_manifest(path).compaction
    assert appended == (said if after_appending else None), 'more drives move the space that standardization makes'
    operations.remove(path, Selection(('b',)), recipe)
    assert read_manifest(path).compaction is None
    assert operations.compact(path, size=500, recipe=recipe).compaction.total is None
