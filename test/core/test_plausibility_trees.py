"""The trees of the plausibility model: those of scikit-learn, as arrays."""

from __future__ import annotations

import numpy as np

from semanom_ros.core.plausibility.plausibility_model import (
    DEPTH,
    LEAVES,
    TREES,
    PlausibilityModel,
    Projection,
    Trees,
    features,
)


def test_trees_give_the_log_odds_of_scikit_learn():
    from sklearn.ensemble import HistGradientBoostingClassifier
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(3000, 6)).astype(np.float32)
    verdicts = samples[:, 0] * samples[:, 1] + samples[:, 2] > 0.5
    trees = Trees.fit(samples, verdicts, seed=3)
    reference = HistGradientBoostingClassifier(
        max_iter=TREES, learning_rate=0.08, max_leaf_nodes=LEAVES, max_depth=DEPTH, min_samples_leaf=40,
        l2_regularization=5.0, max_features=0.5, early_stopping=False, random_state=3).fit(samples, verdicts)
    unseen = rng.normal(size=(500, 6)).astype(np.float32)
    np.testing.assert_allclose(trees(unseen), reference.decision_function(unseen), rtol=1e-4, atol=1e-4)


def test_trees_survive_storage():
    rng = np.random.default_rng(0)
    patches = rng.normal(size=(12, 16, 32)).astype(np.float32)
    projection = Projection.of(patches.reshape(-1, 32))
    relative = rng.random((12, 16)).astype(np.float32)
    known = features(relative, projection(patches))
    trees = Trees.fit(np.tile(known, (5, 1)), np.tile(relative.ravel() > 0.7, 5))
    model = PlausibilityModel(projection, trees, ())
    again = PlausibilityModel.from_arrays(model.arrays())
    assert again is not None
    np.testing.assert_array_equal(trees(known), again.trees(known))
    assert np.ptp(trees(known)) > 1
    np.testing.assert_array_equal(model(relative, patches), again(relative, patches))
