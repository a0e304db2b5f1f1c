"""Distances, positions, standardization, exclusion: against NumPy in double precision."""

from __future__ import annotations

import dataclasses
import logging
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from semanom_ros.core.curation import operations
from semanom_ros.core.curation.publishing import IndexSettings, Recipe, suggested_factory
from semanom_ros.core.curation.writer import DatabaseWriter
from semanom_ros.core.database import nominal_database
from semanom_ros.core.database.half_precision import HalfPrecisionVectors
from semanom_ros.core.database.index import NearestNeighbours, Space
from semanom_ros.core.database.nominal_database import NominalDatabase
from semanom_ros.core.database.storage import FrameRecord, NominalAddition, Statistics
from semanom_ros.core.embedding.description import EmbeddingDescription
from semanom_ros.errors import DatabaseError
from semanom_ros.settings import SearchSettings


def viewed(**weights):
    """Search settings without standardization, unless that is asked for."""
    return SearchSettings(**{'standardize': False, **weights})


def reference(queries, vectors, k, query_places=None, places=None, weight=0.0, standardize=False):
    """Distances (M, k) by the definition."""
    queries, vectors = queries.astype(np.float64), vectors.astype(np.float64)
    if standardize:
        mean, deviation = vectors.mean(axis=0), vectors.std(axis=0)
        queries, vectors = (queries - mean) / deviation, (vectors - mean) / deviation
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    distances = 1 - queries @ vectors.T
    if weight:
        distances = distances + weight * np.square(query_places[:, None] - places[None]).sum(axis=2)
    return np.sort(distances, axis=1)[:, :k]


def all_of(database):
    frames = list(database.frames())
    return np.concatenate([f.vectors for f in frames]), np.concatenate([f.positions for f in frames])


@pytest.mark.parametrize('standardize', [False, True])
@pytest.mark.parametrize('weight', [0.0, 0.3, 10.0])
@pytest.mark.parametrize('k', [1, 5])
def test_distances_are_those_of_the_definition(tmp_path, record, unit_vectors, k, weight, standardize):
    record(tmp_path / 'database', {'a': 20, 'b': 9})
    record(tmp_path / 'database', {'c': 8}, append=True)
    database = NominalDatabase.open(tmp_path / 'database', viewed(position_weight=weight, standardize=standardize))
    vectors, places = all_of(database)
    queries = np.concatenate([unit_vectors(40, 1), vectors[:3]])
    query_places = np.random.default_rng(2).random((43, 2), dtype=np.float32)
    query_places[40:] = places[:3]
    distances, indices = database.search(queries, k, query_places)
    expected = reference(queries, vectors, k, query_places, places, weight, standardize)
    assert distances.dtype == np.float32
    assert indices.dtype == np.int64
    np.testing.assert_allclose(distances, expected, atol=1e-4)
    assert indices[40:, 0].tolist() == [0, 1, 2]
    assert (np.diff(distances, axis=1) >= 0).all()
    # the index belongs to the distance
    for row, (found, index) in enumerate(zip(distances[:, -1], indices[:, -1], strict=True)):
        if not standardize:
            term = weight * np.square(query_places[row] - places[index]).sum()
            assert found == pytest.approx(1 - queries[row] @ vectors[index] + term, abs=1e-4)


@pytest.mark.parametrize('approximate', [False, True])
@pytest.mark.parametrize('position_weight', [0.0, 0.3])
def test_size_joins_the_distance(tmp_path, record, unit_vectors, position_weight, approximate):
    search = viewed(position_weight=position_weight, scale_weight=0.05)
    record(tmp_path / 'database', {'a': 20, 'b': 9})
    if approximate:
        operations.build_index(tmp_path / 'database', IndexSettings('IVF2,Flat', nprobe=2), Recipe(search))
    record(tmp_path / 'database', {'c': 8}, append=True)
    database = NominalDatabase.open(tmp_path / 'database', search)
    frames = list(database.frames())
    vectors, places = all_of(database)
    sizes = np.concatenate([
        [0.5 * np.log2(w / frame.record.image_size[1] * h / frame.record.image_size[0]) for _, _, w, h in frame.boxes]
        for frame in frames])
    assert len(np.unique(sizes)) > 1
    np.testing.assert_allclose(np.concatenate([frame.places for frame in frames])[:, 2], sizes, rtol=1e-5)
    queries, rng = unit_vectors(40, 1), np.random.default_rng(2)
    asked = np.column_stack([rng.random((40, 2)), rng.uniform(-6, 0, 40)]).astype(np.float32)
    distances = database.search(queries, 1, asked)[0][:, 0]
    expected = (1 - queries @ vectors.T + position_weight * np.square(asked[:, None, :2] - places[None]).sum(axis=2)
                + 0.05 * np.square(asked[:, None, 2] - sizes[None])).min(axis=1)
    np.testing.assert_allclose(distances, expected, atol=1e-4)


def held(vectors):
    """As on a GPU: on one where there is one."""
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    result = HalfPrecisionVectors(*vectors.shape, device)
    if len(vectors):
        result.put(0, torch.from_numpy(vectors).to(device))
    return result


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_sizes_pieces_and_exclusions(unit_vectors, data):
    dimension = data.draw(st.integers(2, 40))
    sizes = data.draw(st.lists(st.integers(0, 60), min_size=1, max_size=4).filter(any))
    vectors = unit_vectors(sum(sizes), data.draw(st.integers(0, 99)), dimension)
    queries = unit_vectors(data.draw(st.integers(1, 40)), 1234, dimension)
    first = data.draw(st.integers(0, len(vectors)))
    end = data.draw(st.integers(first, len(vectors)))
    k = data.draw(st.integers(1, len(vectors)))
    pieces = np.split(vectors, np.cumsum(sizes)[:-1])
    arrays = [held(piece) for piece in pieces] if data.draw(st.booleans()) else pieces
    found, indices = NearestNeighbours(arrays).search(torch.from_numpy(queries), k, (first, end))
    left = np.concatenate([vectors[:first], vectors[end:]])
    expected = np.full((len(queries), k), np.inf)
    expected[:, :len(left)] = reference(queries, left, k)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert ((indices >= 0) == np.isfinite(expected)).all()
    assert not ((indices >= first) & (indices < end)).any()
    own = np.take_along_axis(1 - queries.astype(np.float64) @ vectors.T, np.maximum(indices, 0), 1)
    np.testing.assert_allclose(found[indices >= 0], own[indices >= 0], atol=1e-4)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 999), spread=st.sampled_from([0.0, 1e-6, 1e-4, 1e-3, 0.02, 1.0]), k=st.sampled_from([1, 3]),
       coordinate=st.sampled_from([0.0, 3.0]), dimension=st.sampled_from([4, 24, 700]))
def test_what_half_precision_is_certain_of_is_so(unit_vectors, seed, spread, k, coordinate, dimension):
    """Vectors that all but equal each other, and others: never nearer than the truth, and no farther where certain."""
    generator = np.random.default_rng(seed)
    centres = unit_vectors(3, seed, dimension)
    vectors = centres[generator.integers(0, 3, 300)] + spread * unit_vectors(300, seed + 1, dimension)
    queries = np.concatenate([centres + 0.5 * spread * unit_vectors(3, 7, dimension), unit_vectors(20, 8, dimension)])
    vectors, queries = (np.column_stack([rows / np.linalg.norm(rows, axis=1, keepdims=True),
                                         coordinate * generator.random(len(rows))]).astype(np.float32)
                        for rows in (vectors, queries))
    true = np.sort(np.square(queries[:, None].astype(np.float64) - vectors[None]).sum(axis=2) / 2, axis=1)[:, :k]
    neighbours = NearestNeighbours([held(vectors[:170]), held(vectors[170:])])
    bounds, indices, certain = neighbours.bounds(torch.from_numpy(queries), k)
    own = np.square(queries[:, None].astype(np.float64) - vectors[indices]).sum(axis=2) / 2
    np.testing.assert_allclose(bounds, own, atol=3e-6)
    assert (bounds >= true - 3e-6).all()
    np.testing.assert_allclose(bounds[certain], true[certain], atol=3e-6)
    if spread == 1.0 and dimension < 700:
        assert certain.mean() > 0.5
    np.testing.assert_allclose(neighbours.search(torch.from_numpy(queries), k)[0], true, atol=3e-6)


def test_what_is_not_finite_is_near_nothing(unit_vectors):
    vectors, queries = unit_vectors(50, 0), unit_vectors(4, 1)
    queries[1, 2], queries[2] = np.nan, np.inf
    for arrays in ([vectors[:20], vectors[20:]], [held(vectors[:20]), held(vectors[20:])]):
        distances, indices = NearestNeighbours(arrays).search(torch.from_numpy(queries), 2)
        assert np.isinf(distances[1:3]).all()
        assert (indices[1:3] == -1).all()
        assert np.isfinite(distances[[0, 3]]).all()


def test_dimensions_that_do_not_vary_stay_finite(unit_vectors):
    vectors = unit_vectors(50, 0)
    vectors[:, 3] = 0.25
    space = Space(SearchSettings(), Statistics.over(vectors))
    odd = vectors.copy()
    odd[:, 3] = 0.3
    embedded = space.embed(odd, None).numpy()
    assert np.isfinite(embedded).all()
    np.testing.assert_allclose(np.linalg.norm(embedded, axis=1), 1, atol=1e-5)
    # a small change of one dimension among many is a small distance
    assert (1 - (embedded * space.embed(vectors, None).numpy()).sum(axis=1)).max() < 0.01


@given(st.lists(st.integers(0, 30), min_size=1, max_size=5).filter(any))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_statistics_of_pieces_add_up(unit_vectors, sizes):
    vectors = unit_vectors(sum(sizes), 3)
    total = Statistics.over(vectors[:0])
    for piece in np.split(vectors, np.cumsum(sizes)[:-1]):
        total = total + Statistics.over(piece)
    assert total.count == len(vectors)
    np.testing.assert_allclose(total.mean, vectors.astype(np.float64).mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(total.squares, vectors.astype(np.float64).var(axis=0) * len(vectors), atol=1e-12)


def test_torch_and_numpy_queries_agree(tmp_path, record, unit_vectors):
    database = record(tmp_path / 'database', {'a': 10})
    queries = unit_vectors(9, 5)
    expected = database.search(queries, 2)
    read_only = queries.copy()
    read_only.flags.writeable = False
    for given_as in (torch.from_numpy(queries), torch.from_numpy(queries).double(), read_only, queries[::-1][::-1],
                     torch.from_numpy(queries).requires_grad_()):
        found = database.search(given_as, 2)
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])


def test_a_frame_is_at_distance_zero_from_itself(tmp_path, record):
    database = record(tmp_path / 'database', {'a': 10})
    for number, frame in enumerate(database.frames()):
        distances, indices = database.search(frame.vectors)
        assert distances.max() < 1e-6
        assert (database.frame_indices(indices[:, 0]) == number).all()


def test_what_cannot_be_answered_is_refused(tmp_path, record, unit_vectors):
    database = record(tmp_path / 'database', {'a': 3})  # 18 vectors
    assert len(database) == 18
    assert database.search(unit_vectors(2, 0), 18)[0].shape == (2, 18)
    with pytest.raises(DatabaseError, match=r'neighbours: found 19, expected 1 to 18'):
        database.search(unit_vectors(2, 0), 19)
    with pytest.raises(ValueError, match='shape'):
        database.search(unit_vectors(2, 0, 8))
    with pytest.raises(ValueError, match='places'):
        NominalDatabase.open(database.path, viewed(position_weight=1.0)).search(unit_vectors(2, 0))
    with pytest.raises(ValueError, match='places of 2 columns, expected 3'):
        NominalDatabase.open(database.path, viewed(scale_weight=1.0)).search(
            unit_vectors(2, 0), 1, np.zeros((2, 2), np.float32))


def test_no_queries_and_queries_that_are_not_finite(tmp_path, record, unit_vectors):
    database = record(tmp_path / 'database', {'a': 10})
    distances, indices = database.search(unit_vectors(0, 0), 3)
    assert distances.shape == indices.shape == (0, 3)
    queries = unit_vectors(30, 0)
    queries[7] = np.nan
    distances, indices = database.search(queries, 2)
    assert np.isinf(distances[7]).all()
    assert (indices[7] == -1).all()
    assert np.isfinite(np.delete(distances, 7, axis=0)).all()


def test_frames_can_be_passed_over(tmp_path, record):
    database = record(tmp_path / 'database', {'a': 20, 'b': 20})
    vectors, _ = all_of(database)
    frame = database.frames()[4]
    first, end = database.neighbourhood(frame.record, 2.0)
    times = [f.record.stamp_ns / 1e9 for f in database.frames()[first:end]]
    assert times[0] == pytest.approx(frame.record.stamp_ns / 1e9 - 2, abs=1)
    assert min(times) >= frame.record.stamp_ns / 1e9 - 2
    assert max(times) <= frame.record.stamp_ns / 1e9 + 2
    distances, indices = database.search_excluding(frame.vectors, 3, (first, end))
    left = np.concatenate([vectors[:6 * first], vectors[6 * end:]])
    np.testing.assert_allclose(distances, reference(frame.vectors, left, 3), atol=1e-4)
    found = database.frame_indices(indices)
    assert not ((found >= first) & (found < end)).any()
    everything, none = database.search_excluding(frame.vectors, 3, (0, len(database.frames())))
    assert np.isinf(everything).all()
    assert (none == -1).all()


def test_a_neighbourhood_ends_at_the_recording(tmp_path, record):
    database = record(tmp_path / 'database', {'a': 4, 'b': 4})  # three frames each to compare with
    records = [frame.record for frame in database.frames()]
    assert database.neighbourhood(records[2], 100.0) == (0, 3)
    assert database.neighbourhood(records[3], 100.0) == (3, 6)
    assert database.neighbourhood(records[1], 0.5) == (1, 2)
    assert database.neighbourhood(dataclasses.replace(records[1], source_sha256='other'), 100.0) == (0, 0)


@pytest.mark.parametrize('factory', ['IVF4,Flat', 'IVF4,SQfp16', 'IVF4,SQ8'])
def test_an_approximate_index_and_what_came_after_it(tmp_path, record, unit_vectors, factory):
    path = tmp_path / 'database'
    record(path, {'a': 40, 'b': 20})
    operations.build_index(path, IndexSettings(factory, nprobe=4), Recipe(viewed()))
    record(path, {'c': 8}, append=True)  # beside the index, exactly
    database = NominalDatabase.open(path)
    assert database.manifest.index is not None
    assert database.manifest.index.vectors == 45 * 6
    vectors, _ = all_of(database)
    queries = np.concatenate([unit_vectors(20, 5), vectors[-2:]])
    distances, indices = database.search(queries, 3)
    np.testing.assert_allclose(distances, reference(queries, vectors, 3), atol=2e-2 if factory.endswith('8') else 1e-3)
    assert indices[-2:, 0].tolist() == [len(vectors) - 2, len(vectors) - 1]
    excluded, others = database.search_excluding(queries, 3, (2, 48))
    assert not ((others >= 12) & (others < 288)).any()
    left = np.concatenate([vectors[:12], vectors[288:]])
    np.testing.assert_allclose(excluded, reference(queries, left, 3), atol=2e-2 if factory.endswith('8') else 1e-3)


def test_an_index_finds_what_is_left_where_the_nearest_lists_are_passed_over(tmp_path, record, unit_vectors):
    """One list of an inverted file is visited, and the passed-over frames may fill it."""
    path = tmp_path / 'database'
    record(path, {'a': 40, 'b': 20})
    operations.build_index(path, IndexSettings('IVF32,Flat', nprobe=1), Recipe(viewed()))
    database = NominalDatabase.open(path)
    vectors, _ = all_of(database)
    queries = np.concatenate([unit_vectors(20, 5), vectors[20 * 6:30 * 6]])
    distances, indices = database.search_excluding(queries, 3, (4, 44))
    assert np.isfinite(distances).all()
    assert ((indices >= 0) & ((indices < 24) | (indices >= 264))).all()


def test_an_index_for_other_settings_is_not_used(tmp_path, record, unit_vectors, caplog, monkeypatch):
    path = tmp_path / 'database'
    record(path, {'a': 40})
    operations.build_index(path, IndexSettings('IVF4,SQ8', nprobe=1), Recipe(viewed(position_weight=0.5)))
    monkeypatch.setattr(nominal_database, 'INDEXED_FROM', 180)
    places = np.random.default_rng(0).random((20, 2), dtype=np.float32)
    queries = unit_vectors(20, 5)
    with caplog.at_level(logging.WARNING):
        exact = NominalDatabase.open(path, viewed(position_weight=0.2))
    assert ('found 180 vectors and an index for position_weight 0.5, scale_weight 0.0, standardize False, expected one '
            'for position_weight 0.2, scale_weight 0.0, standardize False' in caplog.text)
    vectors, own = all_of(exact)
    np.testing.assert_allclose(exact.search(queries, 1, places)[0],
                               reference(queries, vectors, 1, places, own, 0.2), atol=1e-4)
    caplog.clear()
    approximate = NominalDatabase.open(path, viewed(position_weight=0.5))
    assert not caplog.text
    found, _ = approximate.search(queries, 1, places)
    expected = reference(queries, vectors, 1, places, own, 0.5)
    assert (found > expected - 2e-2).all()
    assert found.max() > expected.max() or np.abs(found - expected).max() > 1e-4  # it is the index that answers


def test_a_large_database_without_an_index_is_pointed_out(tmp_path, record, caplog, monkeypatch):
    record(tmp_path / 'database', {'a': 8})
    with caplog.at_level(logging.WARNING):
        NominalDatabase.open(tmp_path / 'database')
        assert not caplog.text
        monkeypatch.setattr(nominal_database, 'INDEXED_FROM', 36)
        NominalDatabase.open(tmp_path / 'database')
        assert 'found 36 vectors and no index' in caplog.text


def test_the_index_suggested_suits_the_number_of_vectors():
    assert suggested_factory(1_000_000) == 'IVF4096,SQfp16'
    assert suggested_factory(100_000) == 'IVF1024,SQfp16'
    assert suggested_factory(100) == 'IVF2,SQfp16'
    assert suggested_factory(1) == 'IVF1,SQfp16'


def test_indices_that_cannot_be_built(tmp_path, record):
    path = tmp_path / 'database'
    record(path, {'a': 4})
    for factory, message in (('nonsense', 'expected a FAISS factory string'), ('HNSW16', 'expected an inverted file'),
                             ('IVF64,Flat', 'expected at most 18')):
        with pytest.raises(DatabaseError, match=message):
            operations.build_index(path, IndexSettings(factory))
    assert NominalDatabase.open(path).manifest.version == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.parametrize('weight', [0.0, 0.3])
@pytest.mark.parametrize('standardize', [False, True])
def test_the_gpu_finds_the_same_distances(tmp_path, record, unit_vectors, weight, standardize):
    record(tmp_path / 'database', {'a': 40})
    search = viewed(position_weight=weight, standardize=standardize)
    cpu = NominalDatabase.open(tmp_path / 'database', search)
    gpu = NominalDatabase.open(tmp_path / 'database', search, device='cuda')
    queries, places = unit_vectors(50, 1), np.random.default_rng(0).random((50, 2), dtype=np.float32)
    for found in (lambda d: d.search(queries, 3, places), lambda d: d.search_excluding(queries, 3, (3, 9), places),
                  lambda d: d.search(torch.from_numpy(queries).cuda(), 1, torch.from_numpy(places).cuda())):
        np.testing.assert_allclose(found(gpu)[0], found(cpu)[0], atol=1e-4)


def test_faiss_takes_the_matrix_kernels_of_this_cpu():
    """In a process of its own: FAISS chooses once, when it is loaded."""
    if not re.search(r'\bavx2\b', Path('/proc/cpuinfo').read_text()):
        pytest.skip('a CPU without AVX2')
    code = textwrap.dedent("""
        import ctypes, os, re
        import semanom_ros.core.database.index
        loaded = set(re.findall(r'/\\S*faiss\\S*openblas\\S*', open('/proc/self/maps').read()))
        for library in map(ctypes.CDLL, loaded):
            library.openblas_get_corename.restype = ctypes.c_char_p
            print(library.openblas_get_corename().decode())
        assert 'OPENBLAS_CORETYPE' not in os.environ, 'child processes would inherit it'
        """)
    environment = {name: value for name, value in os.environ.items() if name != 'OPENBLAS_CORETYPE'}
    ran = subprocess.run([sys.executable, '-c', code], env=environment, text=True, capture_output=True, check=True,
                         cwd=Path(__file__).parents[2])
    if not ran.stdout:
        pytest.skip('this FAISS brings no OpenBLAS')
    assert ran.stdout.strip() not in ('Prescott', 'Core2', 'Nehalem'), 'SSE kernels: search takes several times as long'


def test_embeddings_without_length_are_refused(tmp_path: Path, description: EmbeddingDescription, unit_vectors):
    with DatabaseWriter.begin(tmp_path / 'database', description) as writer:
        for wrong in (np.nan, 0.0, 2.0):
            vectors = unit_vectors(3, 0)
            vectors[1] *= wrong
            with pytest.raises(DatabaseError, match=r'/camera 5: found an embedding of length .*, expected 1'):
                writer.add(NominalAddition(FrameRecord('/bag', '0' * 64, '/camera', 5, (8, 8)), vectors,
                                           np.zeros((3, 4), np.int32), np.zeros((3, 2), np.float32)))
        assert writer.frames == 0


class TestShippedEncoder:
    """Its training has shaped the distances of its embeddings."""

    @pytest.fixture
    def description(self, description):
        return dataclasses.replace(description, wants_standardizing=False)

    def test_its_embeddings_are_compared_as_they_are(self, tmp_path, record, unit_vectors):
        path = tmp_path / 'database'
        record(path, {'a': 20})
        vectors, _ = all_of(NominalDatabase.open(path))
        queries = unit_vectors(10, 1)
        expected = reference(queries, vectors, 3)
        asked = viewed(standardize=True)
        database = NominalDatabase.open(path, asked)
        assert not database.settings.standardize
        np.testing.assert_allclose(database.search(queries, 3)[0], expected, atol=1e-4)
        operations.build_index(path, IndexSettings('IVF2,Flat', 2), Recipe(asked))
        indexed = NominalDatabase.open(path, asked)
        assert not indexed.parts()  # all of them are in the index
        np.testing.assert_allclose(indexed.search(queries, 3)[0], expected, atol=1e-4)
