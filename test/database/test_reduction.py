"""Near duplicates and coresets of points that are gone through in blocks: what is promised holds, however they lie."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from semanom_ros.core.curation import reduction
from semanom_ros.core.curation.reduction import distinct, farthest_first, measured, ranking
from semanom_ros.core.database.points import ArrayPoints
from semanom_ros.errors import DatabaseError


class Blocks:
    """Points in blocks of a size, which counts what is held of them at once and how often they are gone through."""

    def __init__(self, array, size=100):
        self.array, self.size, self.passes = array, size, 0
        self.shape = array.shape

    def blocks(self):
        self.passes += 1
        for start in range(0, len(self.array), self.size):
            yield start, torch.from_numpy(self.array[start:start + self.size].copy())


def clustered(count, dimension, seed, clusters=5, spread=0.3):
    generator = np.random.default_rng(seed)
    centres = generator.standard_normal((clusters, dimension))
    vectors = centres[generator.integers(0, clusters, count)] + spread * generator.standard_normal((count, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def greedy(points, size):
    """Farthest-first traversal as its definition says, from the first point."""
    chosen = [0]
    distance = np.square(points - points[0]).sum(axis=1) / 2
    while len(chosen) < size:
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.square(points - points[chosen[-1]]).sum(axis=1) / 2)
    return chosen, distance.max()


def nearest(points, others):
    points, others = points.astype(np.float64), others.astype(np.float64)
    return np.square(points[:, None] - others[None]).sum(axis=2).min(axis=1) / 2


@pytest.fixture
def many_cells(monkeypatch):
    """As where there are millions: cells of few points, a few of which are in memory at once."""
    monkeypatch.setattr(reduction, 'WHOLE', 0)
    monkeypatch.setattr(reduction, 'CELL', 40)
    monkeypatch.setattr(reduction, 'BLOCK', 32)


@pytest.mark.parametrize(('count', 'size'), [(500, 40), (5000, 300), (50, 50), (9, 1)])
def test_a_coreset_is_that_of_the_plain_algorithm(count, size):
    points = clustered(count, 8, 0, spread=2.0)
    expected, radius = greedy(points.astype(np.float64), size)
    found, steps = farthest_first(torch.from_numpy(points), size)
    assert found.tolist() == expected
    assert (np.diff(steps) <= 1e-6).all()
    ranked = ranking(ArrayPoints(points), size=size)
    kept = ranked.first(size)
    assert kept.tolist() == sorted(expected)
    assert measured(ArrayPoints(points), ranked, kept).max() == pytest.approx(radius, abs=1e-6)


def test_a_coreset_of_points_that_are_all_the_same():
    found, steps = farthest_first(torch.ones((30, 4)), 7)
    assert len(set(found.tolist())) == 7
    assert steps[1:].max() == 0


def test_distinct_points_are_apart_and_cover_the_rest():
    points = clustered(5000, 4, 1)
    found = distinct(torch.from_numpy(points), 0.02)
    assert 10 < len(found) < 2500
    kept = points[found].astype(np.float64)
    apart = 1 - kept @ kept.T
    np.fill_diagonal(apart, np.inf)
    assert apart.min() > 0.02 - 1e-6
    assert nearest(points, kept).max() <= 0.02 + 1e-6
    assert found[0] == 0
    assert (np.diff(found) > 0).all()


@given(count=st.integers(1, 400), dimension=st.integers(2, 24), clusters=st.integers(1, 30),
       spread=st.sampled_from([0.0, 0.01, 0.3, 3.0]), seed=st.integers(0, 10**6), copies=st.integers(1, 4),
       size=st.one_of(st.none(), st.integers(1, 500)), distance=st.sampled_from([0.0, 1e-3, 0.1, 2.0]),
       memory=st.integers(1, 1 << 16), whole=st.sampled_from([0, 1000]))
def test_no_distance_grows_beyond_what_is_measured(count, dimension, clusters, spread, seed, copies, size, distance,
                                                   memory, whole):
    array = np.repeat(clustered(count, dimension, seed, clusters, spread), copies, axis=0)[:400]
    points = Blocks(array, 1 + seed % 97)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (('WHOLE', whole), ('CELL', 40), ('BLOCK', 32)):
            patch.setattr(reduction, name, value)
        ranked = ranking(points, distance, size, memory=memory)
        kept = ranked.first(size)
        near = measured(points, ranked, kept, memory=memory)
    assert 1 <= len(kept) <= min(len(array), size or len(array))
    assert (np.diff(kept) > 0).all()
    assert (ranked.worth[1:] <= ranked.worth[:-1]).all()
    true = nearest(array, array[kept])
    assert (near >= true - 1e-6).all(), 'something is said to be nearer than anything that was kept'
    assert (near[kept] == 0).all()
    if size is None:
        assert near.max() <= distance + 1e-6
    # and so for a query: before and after
    queries = clustered(50, dimension, seed + 1, clusters, 1.0)
    was, now = nearest(queries, array), nearest(queries, array[kept])
    assert (now <= (np.sqrt(was) + np.sqrt(near.max())) ** 2 + 1e-5).all()


def test_a_size_beyond_what_there_is_keeps_all(many_cells):
    points = clustered(300, 8, 3, spread=1.0)
    ranked = ranking(ArrayPoints(points), size=10**6)
    assert ranked.first(10**6).tolist() == list(range(300))
    assert measured(ArrayPoints(points), ranked, ranked.first(None)).max() == 0


def test_nothing_is_kept_of_nothing():
    points = ArrayPoints(np.zeros((0, 4), np.float32))
    ranked = ranking(points, size=5)
    assert len(ranked) == 0
    assert len(measured(points, ranked, ranked.first(5))) == 0


@pytest.mark.parametrize('whole', [0, 1000])
@pytest.mark.parametrize('what', [np.nan, np.inf])
def test_numbers_that_are_none_are_refused(what, whole, many_cells, monkeypatch):
    monkeypatch.setattr(reduction, 'WHOLE', whole)
    array = clustered(200, 8, 0)
    array[150, 3] = what
    with pytest.raises(DatabaseError, match=r'embeddings from .* on: found a number that is not finite, expected'):
        ranking(Blocks(array, 50), size=9)


def test_cells_are_nearly_as_good_as_the_plain_algorithm(many_cells):
    points = clustered(1500, 12, 5, clusters=40, spread=0.2)
    _, radius = greedy(points.astype(np.float64), 150)
    ranked = ranking(ArrayPoints(points), size=150)
    assert ranked.cell_of.max() > 5
    found = nearest(points, points[ranked.first(150)]).max()
    assert radius - 1e-6 <= found <= 2 * radius


def test_memory_is_bounded_whatever_the_number(many_cells, monkeypatch):
    """What is in memory at once is counted where it is taken, with ten thousand points of which a hundred fit."""
    held, points = [], Blocks(clustered(10_000, 8, 7, clusters=3), 64)
    gathered = reduction.gathered

    def counted(source, rows):
        held.append(len(rows))
        return gathered(source, rows)

    monkeypatch.setattr(reduction, 'gathered', counted)
    monkeypatch.setattr(reduction, '_SAMPLE', 4)
    ranked = ranking(points, size=200, memory=4 * 8 * 1000)
    kept = ranked.first(200)
    sample, *groups = held
    assert sample <= 4 * 12
    assert len(groups) >= 10
    assert max(groups) <= 1000
    assert sum(groups) == 10_000, 'each of them once'
    assert points.passes == 2 + len(groups)
    measured(points, ranked, kept, memory=4 * 8 * 1000)
    assert held[-1] == 200
    assert points.passes <= 4 + len(groups)


def test_points_that_are_all_the_same_are_cut_into_what_fits(many_cells):
    points = Blocks(np.repeat(clustered(1, 8, 0), 5000, axis=0), 64)
    ranked = ranking(points, size=100, memory=4 * 8 * 500)
    assert np.bincount(ranked.cell_of).max() <= 500
    assert len(ranked) <= 100
    assert measured(points, ranked, ranked.first(3), memory=4 * 8 * 500).max() == 0
