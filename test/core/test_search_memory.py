"""Not searching for what is plainly nominal: against a search for everything, and against NumPy."""

from __future__ import annotations

import dataclasses
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from semanom_ros.core.curation.operations import build_index
from semanom_ros.core.curation.publishing import IndexSettings, Recipe
from semanom_ros.core.curation.writer import DatabaseWriter
from semanom_ros.core.database.half_precision import HalfPrecisionVectors
from semanom_ros.core.database.index import Space
from semanom_ros.core.database.nominal_database import PLAIN, NominalDatabase
from semanom_ros.core.database.storage import FrameRecord, NominalAddition
from semanom_ros.core.embedding.description import EmbeddingDescription
from semanom_ros.core.embedding.embedder import FrameEmbedding
from semanom_ros.core.embedding.preprocessing import PatchGrid
from semanom_ros.core.embedding.queries import patch_boxes, patch_queries
from semanom_ros.core.frames import Frame
from semanom_ros.core.pipeline import CameraState, Judge
from semanom_ros.core.scoring.calibration import Calibration, frame_statistic
from semanom_ros.core.scoring.regions import REGION_COLUMNS, REGION_ROWS, RegionStatistics
from semanom_ros.core.scoring.scorer import EXACT_ABOVE, Scorer
from semanom_ros.core.scoring.search_memory import SearchMemory
from semanom_ros.settings import ScoreSettings, SearchSettings

ROWS, COLUMNS, DIMENSION = 6, 8, 24
GRID = PatchGrid(ROWS, COLUMNS, 60, 80)
PATCHES = ROWS * COLUMNS


def clustered(generator, count, spread, centres):
    """(count, D) unit vectors about centres; a small spread: plainly nominal ones."""
    chosen = centres[torch.randint(len(centres), (count,), generator=generator)]
    return F.normalize(chosen + spread * torch.randn(count, DIMENSION, generator=generator), dim=1)


@pytest.fixture(scope='module')
def drives(tmp_path_factory):
    """A database, its centres, and the same with indices: one that visits all of its lists, and one that does not."""
    made = {}
    generator = torch.Generator().manual_seed(0)
    centres = F.normalize(torch.randn(40, DIMENSION, generator=generator), dim=1)
    for name in ('exact', 'all lists', 'few lists'):
        path = tmp_path_factory.mktemp('drives') / 'database'
        again = torch.Generator().manual_seed(1)
        description = EmbeddingDescription(
            encoder='timm:small', weights='random:0', weights_sha256='a' * 64, preprocessing_sha256='b' * 64,
            input_size=(60, 80), grid_size=(ROWS, COLUMNS), dimension=DIMENSION, variant='grid', settings={})
        with DatabaseWriter.begin(path, description) as writer:
            for number in range(20):
                record = FrameRecord('drive', '0' * 64, '/image', number * 10**9, (GRID.height, GRID.width))
                writer.add(NominalAddition(record, clustered(again, PATCHES, 0.05, centres), patch_boxes(GRID),
                                           GRID.centres()))
            writer.commit()
        if name != 'exact':
            build_index(path, IndexSettings('IVF16,SQfp16', nprobe=16 if name == 'all lists' else 1), Recipe(PLAIN))
        made[name] = path
    return made, centres


def opened(paths, name, search=PLAIN):
    """A database; `gpu`: on one, or where there is none on the CPU as there (simulated)."""
    if name != 'gpu' or torch.cuda.is_available():
        return NominalDatabase.open(paths['exact' if name == 'gpu' else name], search, verify=False,
                                    device='cuda' if name == 'gpu' else 'cpu')

    def embed_all(space, part, device):
        held = HalfPrecisionVectors(len(part.vectors), part.vectors.shape[1] + space.coordinates, device)
        for start, vectors in space.embedded(part, device):
            held.put(start, vectors)
        return held
    with mock.patch.object(Space, 'embed_all', embed_all):
        return NominalDatabase.open(paths['exact'], search, verify=False)


def embedded(vectors):
    patches = vectors.reshape(ROWS, COLUMNS, DIMENSION)
    embedding = FrameEmbedding(Frame(np.zeros((GRID.height, GRID.width, 3), np.uint8), 0), GRID, patches)
    return embedding, patch_queries(patches, GRID)


def calibration(by_region, seed):
    """Of some nominal frames, with places that are unlike each other."""
    rng = np.random.default_rng(seed)
    regions = None
    if by_region:
        mean, deviation = rng.uniform(0, 0.05, (2, REGION_ROWS, REGION_COLUMNS)).astype(np.float32)
        regions = RegionStatistics(mean, deviation + np.float32(0.01))
    return Calibration(np.sort(rng.random(50).astype(np.float32)), regions=regions)


def check(scores, reference, level, fraction, exact_above=EXACT_ABOVE, tolerance=1e-5):
    """What is promised."""
    scale = max(1.0, float(reference.scores.max()))
    assert scores.score == pytest.approx(reference.score, abs=tolerance * scale)
    assert scores.raw_score == pytest.approx(reference.raw_score, abs=tolerance)
    assert scores.p_value == reference.p_value
    certain = scores.exact
    np.testing.assert_allclose(scores.distances[certain], reference.distances[certain], atol=tolerance)
    np.testing.assert_allclose(scores.scores[certain], reference.scores[certain], atol=tolerance * scale)
    assert (scores.distances >= reference.distances - tolerance).all()
    assert (scores.scores >= reference.scores - tolerance * scale).all()
    assert (scores.scores[~certain] <= exact_above).all()
    above = (reference.scores > exact_above + tolerance * scale).reshape(ROWS, COLUMNS)
    near = np.zeros((ROWS + 2, COLUMNS + 2), bool)
    for down in range(3):
        for right in range(3):
            near[down:down + ROWS, right:right + COLUMNS] |= above
    assert certain.reshape(ROWS, COLUMNS)[near[1:-1, 1:-1]].all()


@settings(max_examples=90, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_what_is_remembered_changes_nothing_that_counts(drives, data):
    """Frames in any order, with anything strange in them, by any level: against a search for all, and NumPy."""
    paths, centres = drives
    name = data.draw(st.sampled_from(['exact', 'all lists', 'gpu']))
    weight = data.draw(st.sampled_from([0.0, 0.5])) if name != 'all lists' else 0.0
    database = opened(paths, name, SearchSettings(standardize=False, position_weight=weight))
    fraction = data.draw(st.sampled_from([0.0, 0.02, 0.1, 1.0]))
    neighbours = data.draw(st.sampled_from([1, 1, 3]))
    exact_above = data.draw(st.sampled_from([EXACT_ABOVE, 0.1]))
    known = calibration(data.draw(st.booleans()), data.draw(st.integers(0, 9)))
    scorer = Scorer(database, known, ScoreSettings(frame_score_fraction=fraction, neighbours=neighbours), exact_above)
    stored = np.concatenate([frame.vectors for frame in database.frames()]).astype(np.float64)
    where = np.concatenate([frame.positions for frame in database.frames()]).astype(np.float64)
    level = data.draw(st.sampled_from([0.02, 0.1, 0.5, 3.0]))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    base = clustered(generator, PATCHES, 0.05, centres)
    memories = [SearchMemory(), SearchMemory()]
    for strange in data.draw(st.lists(st.integers(0, PATCHES), min_size=2, max_size=4)):
        frames = []
        for _ in memories:
            vectors = F.normalize(base + 0.02 * torch.randn(PATCHES, DIMENSION, generator=generator), dim=1)
            rows = torch.randperm(PATCHES, generator=generator)[:strange]
            vectors[rows] = F.normalize(torch.randn(strange, DIMENSION, generator=generator), dim=1)
            frames.append(embedded(vectors))
        found = scorer.score_batch(*zip(*frames, strict=True), level, memories)
        for (embedding, queries), scores in zip(frames, found, strict=True):
            reference = scorer.score(embedding, queries, level)
            assert reference.exact.all()
            true = 1 - queries.vectors.numpy().astype(np.float64) @ stored.T
            true += weight * np.square(queries.positions[:, None] - where[None]).sum(axis=2)
            true = np.sort(true, axis=1)[:, :neighbours].mean(axis=1)
            np.testing.assert_allclose(reference.distances, true, atol=1e-3 if name == 'all lists' else 1e-5)
            assert reference.raw_score == pytest.approx(frame_statistic(true.astype(np.float32), fraction), abs=1e-3)
            check(scores, reference, level, fraction, exact_above)


def test_what_is_plainly_nominal_is_not_searched_for(drives, monkeypatch):
    paths, centres = drives
    database = NominalDatabase.open(paths['few lists'], PLAIN, verify=False)
    scorer, memory = Scorer(database, calibration(False, 0), ScoreSettings()), SearchMemory()
    asked = []
    search = NominalDatabase.search
    monkeypatch.setattr(NominalDatabase, 'search', lambda self, queries, *rest: asked.append(len(queries)) or search(
        self, queries, *rest))
    generator = torch.Generator().manual_seed(3)
    vectors = clustered(generator, PATCHES, 0.05, centres)
    assert scorer.score(*embedded(vectors), 0.5, memory).exact.all()
    assert asked == [PATCHES]
    vectors[11] = F.normalize(torch.randn(DIMENSION, generator=generator), dim=0)
    scores = scorer.score(*embedded(vectors), 0.5, memory)
    assert sum(asked[1:]) == scores.exact.sum() < PATCHES / 3
    assert scores.exact[[2, 3, 4, 10, 11, 12, 18, 19, 20]].all()  # with what is beside it
    np.testing.assert_array_equal(scorer.searched(scores, memory)[0],
                                  scorer.score(*embedded(vectors), 0.5).distances)
    # two cameras, one search
    asked.clear()
    scorer.score_batch(*zip(*[embedded(vectors)] * 2, strict=True), 0.5, [SearchMemory(), SearchMemory()])
    assert asked == [2 * PATCHES]


def test_a_gpu_measures_again_what_may_have_been_missed_above_half_the_level_alone(drives, monkeypatch):
    """Nominal embeddings that all but equal each other: in half precision none is the nearest for certain."""
    paths, _ = drives
    database = opened(paths, 'gpu')
    asked = []
    measured = HalfPrecisionVectors.measured
    monkeypatch.setattr(HalfPrecisionVectors, 'measured', lambda self, queries, *rest: asked.append(len(queries))
                        or measured(self, queries, *rest))
    held = database._neighbours._on_gpu[0][1]
    stored = torch.from_numpy(np.concatenate([frame.vectors for frame in database.frames()])).to(held.device)
    alike = F.normalize(stored[:1] + 1e-5 * torch.randn(stored.shape, generator=torch.Generator().manual_seed(8)).to(
        held.device), dim=1)
    held.put(0, alike)
    held._left.zero_()  # what the vectors before left is no more
    held.put(0, alike)
    frame = embedded(F.normalize(alike[:PATCHES].cpu() + 0.01, dim=1))
    scorer = Scorer(database, calibration(False, 0), ScoreSettings())
    truth = (1 - frame[1].vectors.double() @ alike.cpu().double().T).amin(dim=1).numpy()
    for level, times in ((1e-9, 1), (1.0, 2)):
        asked.clear()
        scores = scorer.score(*frame, level, SearchMemory())
        assert 0 < sum(asked) <= PATCHES
        assert len(asked) <= times
        np.testing.assert_allclose(scores.distances[scores.exact], truth[scores.exact], atol=1e-6)
        assert (scores.distances >= truth - 1e-6).all()
        assert scores.exact.all() or times > 1


def test_an_index_that_misses_is_not_mixed_with_what_is_remembered(drives):
    """What is searched for is as without a memory, whatever is remembered; the rest is between the truth and half."""
    paths, centres = drives
    truth = Scorer(NominalDatabase.open(paths['exact'], PLAIN, verify=False), calibration(False, 0), ScoreSettings())
    scorer = Scorer(NominalDatabase.open(paths['few lists'], PLAIN, verify=False), calibration(False, 0),
                    ScoreSettings())
    memory, generator, missed, level = SearchMemory(), torch.Generator().manual_seed(4), 0, 0.25
    for _ in range(6):
        vectors = clustered(generator, PATCHES, 0.15, centres)
        vectors[:5] = F.normalize(torch.randn(5, DIMENSION, generator=generator), dim=1)
        frame = embedded(vectors)
        scores, alone, true = (one.score(*frame, level, remembered) for one, remembered in (
            (scorer, memory), (scorer, None), (truth, None)))
        missed += int((alone.distances[scores.exact] > true.distances[scores.exact] + 1e-3).sum())
        np.testing.assert_allclose(scores.distances[scores.exact], alone.distances[scores.exact], atol=1e-6)
        assert scores.score == pytest.approx(alone.score, abs=1e-5)
        assert (scores.distances >= true.distances - 1e-3).all()
        assert (scores.scores[~scores.exact] <= EXACT_ABOVE).all()
    assert missed


@pytest.mark.parametrize('name', ['exact', 'gpu'])
@pytest.mark.parametrize('more', [{'density_neighbours': 5}, {'plausible': True}])
def test_what_is_not_monotone_is_searched_for(drives, more, name):
    paths, centres = drives
    known, more = calibration(True, 0), dict(more)
    if more.pop('plausible', False):
        class Halves:
            def of_queries(self, relative, vectors, positions, owners):
                return relative / 2
        known = dataclasses.replace(known, judge=Halves())
    scorer, memory = Scorer(opened(paths, name), known, ScoreSettings(**more)), SearchMemory()
    frame = embedded(clustered(torch.Generator().manual_seed(5), PATCHES, 0.05, centres))
    for _ in range(2):
        assert scorer.score(*frame, 5.0, memory).exact.all()


def test_another_version_forgets(drives):
    """What was remembered of one database says nothing about another, however its embeddings are counted."""
    paths, centres = drives
    frame = embedded(clustered(torch.Generator().manual_seed(6), PATCHES, 0.05, centres))
    memory = SearchMemory()
    for name in ('exact', 'few lists', 'exact'):
        scorer = Scorer(NominalDatabase.open(paths[name], PLAIN, verify=False), calibration(False, 0), ScoreSettings())
        assert scorer.score(*frame, 0.5, memory).exact.all()
        assert not scorer.score(*frame, 0.5, memory).exact.all()


def test_results_are_the_same_in_a_drive(world):
    """Frames with a thing that comes and goes: verdicts, anomalies and drift, with and without what is remembered."""
    judge = world.judge(world.settings())

    class Forgetful(Judge):
        def score(self, embedding, memory=None):
            return super().score(embedding)

    forgetful = Forgetful(judge.embedder, judge.database, judge.settings)
    states, searched = (CameraState(), CameraState()), []
    for number in range(12):
        image = world.street(2000 + number)
        if 3 <= number < 9:
            image = world.with_thing(image, 96, 40)
        frame = Frame(image, number * 3 * 10**8)
        one, other = (each.process(frame, state) for each, state in zip((judge, forgetful), states, strict=True))
        assert (one.verdict, one.reason, one.drift) == (other.verdict, other.reason, other.drift)
        assert one.score == pytest.approx(other.score, rel=1e-5, abs=1e-5)
        assert one.p_value == other.p_value
        assert len(one.anomalies) == len(other.anomalies)
        for mine, theirs in zip(one.anomalies, other.anomalies, strict=True):
            assert (mine.box, mine.area, mine.track_id) == (theirs.box, theirs.area, theirs.track_id)
            assert mine.score == pytest.approx(theirs.score, rel=1e-4)
            assert mine.nearest == theirs.nearest or mine.raw_score == pytest.approx(theirs.raw_score, abs=1e-5)
        np.testing.assert_array_equal(one.mask, other.mask)
        searched.append(judge.score(judge.embedder.embed([frame])[0], states[0].search).exact.mean())
    assert min(searched) < 1
