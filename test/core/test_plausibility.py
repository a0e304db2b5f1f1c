"""Transplants, what is learned from them, and what it is worth."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from semanom_ros.core.curation import operations
from semanom_ros.core.curation.publishing import Learned, Recipe
from semanom_ros.core.database.storage import FrameRecord
from semanom_ros.core.frames import Frame
from semanom_ros.core.pipeline import CameraState, Judge
from semanom_ros.core.plausibility.context_network import Lesson
from semanom_ros.core.plausibility.learning import learn_plausibility
from semanom_ros.core.plausibility.plausibility_model import (
    Ensemble,
    Folds,
    PlausibilityModel,
    Projection,
    Trees,
    features,
)
from semanom_ros.core.plausibility.transplanting import IMPLAUSIBLE, VALID, NominalPicture, Transplanter
from semanom_ros.core.scoring.calibration import calibrate
from semanom_ros.errors import DatabaseError


def learnable(seed, count=3000):
    """Samples, and verdicts that no single feature gives."""
    samples = np.random.default_rng(seed).normal(size=(count, 6)).astype(np.float32)
    return samples, samples[:, 0] * samples[:, 1] + samples[:, 2] > 0.5


def test_trees_give_log_odds():
    trees = Trees.fit(*learnable(0), seed=3)
    unseen, truth = learnable(1)
    odds = trees(unseen)
    assert odds.shape == (3000,)
    assert odds.dtype == np.float32
    assert roc_auc_score(truth, odds) > 0.97
    assert ((odds > 0) == truth).mean() > 0.9  # an odds of 1 is where it is as likely as not


def test_trees_are_the_same_every_time_for_a_seed():
    samples, verdicts = learnable(0)
    assert Trees.fit(samples, verdicts, 3) == Trees.fit(samples, verdicts, 3)
    assert Trees.fit(samples, verdicts, 3) != Trees.fit(samples, verdicts, 4)


def test_a_model_survives_storage():
    rng = np.random.default_rng(0)
    patches = rng.normal(size=(12, 16, 32)).astype(np.float32)
    patches /= np.linalg.norm(patches, axis=-1, keepdims=True)
    projection = Projection.of(patches.reshape(-1, 32))
    relative = rng.random((12, 16)).astype(np.float32)
    known = features(relative, projection(patches))
    taught = Lesson(relative, projection(patches), relative > 0.7, np.ones_like(relative))
    def ensemble(seed, above):
        wrong = np.tile(relative.ravel() > above, 5)
        return Ensemble.fit([taught] * 3, np.tile(known, (5, 1)), wrong, torch.device('cpu'), seed)

    seen, unseen = (FrameRecord('drive', 'f' * 64, '/camera', stamp, (96, 128)) for stamp in (1, 2))
    folds = Folds.of([seen], np.array([1]), [ensemble(2, 0.6), ensemble(3, 0.5)])
    model = PlausibilityModel(projection, ensemble(0, 0.7), folds)
    again = PlausibilityModel.from_arrays(model.arrays())
    assert again is not None
    np.testing.assert_array_equal(model(relative, patches), again(relative, patches))
    others = [one.without(seen)(relative, patches) for one in (model, again)]
    np.testing.assert_array_equal(*others)
    assert not np.array_equal(others[0], model(relative, patches))
    assert again.without(unseen) is again  # it has never learned from that
    assert model(relative, patches).min() >= 0
    assert model(relative, patches).max() > 0
    assert model(np.zeros_like(relative), patches).max() == 0  # the database holds it: accepted as nominal
    assert PlausibilityModel.from_arrays({}) is None


def test_features_look_where_they_say():
    """One hot patch shows up below, above and beside where it is, and nowhere else."""
    projected = np.zeros((33, 43, 8), np.float32)
    projected[16, 21, 0] = 1
    known = features(np.zeros((33, 43), np.float32), projected).reshape(33, 43, -1)
    five_down = known[..., 6 + 8]  # first component, five patches below
    rows, columns = np.nonzero(five_down)
    assert set(rows) == {10, 11, 12}
    assert set(columns) == {20, 21, 22}


def test_transplants_change_only_what_they_label():
    rng = np.random.default_rng(1)
    image = np.full((120, 160, 3), 90, np.uint8)
    image[50:74, 60:92] = rng.integers(150, 250, (24, 32, 3))  # the only thing there is
    patches = np.zeros((15, 20, 4), np.float32)
    patches[..., 0] = 1
    patches[6:10, 7:12] = [0, 1, 0, 0]
    picture = NominalPicture(image, patches)
    seen = set()
    for seed in range(12):
        composite = Transplanter(np.random.default_rng(seed)).compose(picture, [picture], [picture])
        changed = (composite.image.astype(int) != image).any(axis=-1)
        far = np.ones((120, 160), bool)
        labelled = np.argwhere(composite.labels > 0)
        for y, x in labelled:
            far[max(0, y - 3):y + 4, max(0, x - 3):x + 4] = False
        assert not (changed & far).any()
        seen |= set(np.unique(composite.labels).tolist())
    assert {IMPLAUSIBLE, VALID} <= seen


def scene(world, seed):
    """A street with a red box that always stands on the same line, at another place each time."""
    image = world.street(seed)
    x = 12 + seed * 37 % 100
    image[72:96, x:x + 32] = [230, 40, 40]
    image[78:84, x + 6:x + 26] = [40, 40, 230]
    return image


@pytest.mark.parametrize('variant', ['grid', 'instance'])
def test_a_familiar_thing_in_the_wrong_place_stands_out_more(world, variant):
    settings = world.settings(filter_temporal=False, variant=variant)
    database = world.database(settings, recorded=40, held_out=30, picture=lambda i: scene(world, i))
    embedder, recipe = world.embedder(settings), Recipe.of(settings)
    plain = Judge.load(settings, database.path, embedder)
    frames = [Frame(scene(world, i), i * 10**9, topic='/camera') for i in range(70)]
    model = learn_plausibility(database, embedder, frames, settings.score, composites=60)
    operations.calibrate(database.path, recipe, Learned(model, 60, 0))
    learned = Judge.load(settings, database.path, embedder)

    misplaced = world.street(500)
    misplaced[10:34, 60:92] = scene(world, 0)[72:96, 12:44]
    proper = scene(world, 501)

    def gap(judge):
        wrong, right = (judge.process(Frame(image, 0), CameraState()) for image in (misplaced, proper))
        return wrong.score, right.score

    wrong, right = gap(learned)
    assert wrong > 1 > right
    assert wrong / right > gap(plain)[0] / max(gap(plain)[1], 1e-6) or right == 0
    off = Judge.load(settings.changed({'plausibility': False}), database.path, embedder)
    assert gap(off) == pytest.approx(gap(plain), rel=1e-5)
    # what was learned outlives the next calibration
    operations.calibrate(database.path)
    again = Judge.load(settings, database.path, embedder)
    assert len(again.database.calibration['frame_scores']) == 30
    assert again.database.calibration['frame_scores'].max() > 0
    for name, array in learned.database.calibration.items():
        np.testing.assert_array_equal(again.database.calibration[name], array)
    assert gap(again) == gap(learned)


def test_frames_without_owners_do_not_calibrate(world, caplog):
    caplog.set_level('INFO')
    settings = world.settings(variant='instance')
    database = world.database(settings, recorded=20, held_out=10, picture=lambda i: scene(world, i))
    frames = [Frame(scene(world, i), i * 10**9, topic='/camera') for i in range(26)]  # the last four are gone
    model = learn_plausibility(database, world.embedder(settings), frames, settings.score, composites=20)
    assert len(calibrate(database, settings.search, settings.score, model)['frame_scores']) == 6
    assert '4 of 10 nominal frames were not looked at by `semanom learn`' in caplog.text


def test_a_segment_scores_as_the_mean_of_its_patches():
    model = PlausibilityModel(
        Projection(np.zeros(2, np.float32), np.ones(2, np.float32), np.eye(2, dtype=np.float32)),
        Ensemble(lambda samples: np.full(len(samples), 3.0, np.float32), ()))
    owners = np.array([[0, 0, 1], [0, 2, 1]])
    relative = np.array([0.5, 2.0, 0.0, 0.25], np.float32)
    vectors = np.tile(np.array([[1, 0]], np.float32), (4, 1))
    positions = np.array([[0, 0], [0, 0], [0, 0], [0.4, 0.9]], np.float32)  # the last lies in a patch of 2
    scores = model.of_queries(relative, vectors, positions, owners)
    np.testing.assert_allclose(scores, np.logaddexp(0, 3) * np.array([0.5, 1, 0, 0]), rtol=1e-6)


def test_learning_needs_the_recordings_of_the_database(world):
    settings = world.settings()
    database = world.database(settings)
    elsewhere = [Frame(world.street(0), 5, topic='/other')]
    with pytest.raises(DatabaseError, match='none of the frames'):
        learn_plausibility(database, world.embedder(settings), elsewhere, settings.score, 4)
    topic = world.settings(variant='instance', segmenter='topic')
    with pytest.raises(DatabaseError, match='segmenter: found topic'):
        learn_plausibility(world.database(topic, 'topic'), world.embedder(topic), [], topic.score, 4)
