"""The network judges a patch by what surrounds it, and what it learned survives storage."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from semanom_ros.core.plausibility.context_network import ContextNetwork, Lesson

CPU = torch.device('cpu')


def lesson(seed: int) -> Lesson:
    """Boxes of one kind on two grounds, both everywhere: a box is implausible on the second."""
    rng = np.random.default_rng(seed)
    kinds = np.full((16, 20), int(rng.integers(2)))
    kinds[:, int(rng.integers(6, 14)):] = 1 - kinds[0, 0]
    implausible = np.zeros(kinds.shape, bool)
    for _ in range(4):
        y, x = int(rng.integers(13)), int(rng.integers(17))
        implausible[y:y + 3, x:x + 3] = kinds[max(0, y - 1), max(0, x - 1)] == 1
        kinds[y:y + 3, x:x + 3] = 2
    projected = np.eye(3, 6, dtype=np.float32)[kinds] + rng.normal(0, 0.1, (16, 20, 6)).astype(np.float32)
    relative = rng.random(kinds.shape).astype(np.float32)
    weight = np.where(kinds == 2, 1, 0.25).astype(np.float32)
    return Lesson(relative, projected.astype(np.float16), implausible & (kinds == 2), weight)


@pytest.fixture(scope='module')
def network() -> ContextNetwork:
    return ContextNetwork.fit([lesson(seed) for seed in range(300)], CPU)


def test_alike_patches_are_told_apart_by_their_surroundings(network):
    truth, judged = [], []
    for seed in range(1000, 1030):
        one = lesson(seed)
        boxes = one.weight == 1
        truth.append(one.implausible[boxes])
        judged.append(network.log_odds(one.relative, one.projected)[boxes])
    assert roc_auc_score(np.concatenate(truth), np.concatenate(judged)) > 0.9


def test_training_is_deterministic_and_leaves_other_random_numbers_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    lessons = [lesson(seed) for seed in range(8)]
    first, again, other = (ContextNetwork.fit(lessons, CPU, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    judged = [one.log_odds(lessons[0].relative, lessons[0].projected) for one in (first, again, other)]
    np.testing.assert_array_equal(judged[0], judged[1])
    assert not np.array_equal(judged[0], judged[2])


def test_a_network_survives_storage(network):
    one = lesson(5)
    again = ContextNetwork.from_arrays(network.arrays())
    np.testing.assert_array_equal(network.log_odds(one.relative, one.projected),
                                  again.log_odds(one.relative, one.projected))
    assert network.log_odds(one.relative, one.projected).shape == (16, 20)
