"""Distances to the database, and PatchCore's re-weighting of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from semanom_ros.core.database.nominal_database import NominalDatabase
from semanom_ros.core.scoring.comparison import Comparison
from semanom_ros.settings import SearchSettings


def unit(count: int, seed: int, dimension: int) -> torch.Tensor:
    return F.normalize(torch.randn(count, dimension, generator=torch.Generator().manual_seed(seed)), dim=1)


@pytest.mark.parametrize('position_weight', [0.0, 0.5])
def test_reweighting_is_patchcores(world, position_weight):
    """Against eq. 7 written out: softmax over the neighbours of the nearest nominal embedding, itself the first."""
    database = NominalDatabase.open(world.database(recorded=4, held_out=2).path,
                                    SearchSettings(standardize=False, position_weight=position_weight))
    dimension = database.manifest.description.dimension
    queries = unit(20, 1, dimension)
    positions = np.random.default_rng(0).random((20, 2)).astype(np.float32)
    stored = torch.cat([torch.from_numpy(np.array(frame.vectors)) for frame in database.frames()])
    places = torch.cat([torch.from_numpy(np.array(frame.positions)) for frame in database.frames()])
    stored = torch.cat([stored, places * (2 * position_weight) ** 0.5], dim=1)
    asked = torch.cat([queries, torch.from_numpy(positions) * (2 * position_weight) ** 0.5], dim=1)

    plain, nearest = Comparison()(database, queries, positions)
    weighted, same = Comparison(density_neighbours=5)(database, queries, positions)
    np.testing.assert_array_equal(nearest, same)
    for i in range(20):
        to_all = torch.cdist(asked[i:i + 1].double(), stored.double())[0]
        assert plain[i] == pytest.approx(float(to_all.min() ** 2 / 2), abs=1e-5)
        support = torch.cdist(stored[nearest[i]][None].double(), stored.double())[0].argsort()[:5]
        others = [j for j in support.tolist() if j != nearest[i]]
        order = torch.tensor([int(nearest[i]), *others])
        weight = 1 - torch.softmax(to_all[order], 0)[0]
        assert weighted[i] == pytest.approx(float(plain[i] * weight), rel=1e-3, abs=1e-6)


def test_a_lonely_neighbour_counts_for_less(world):
    """The same distance to a nominal embedding in a crowd, whose neighbours are as near, and to one on its own."""
    database = world.database(recorded=3, held_out=2)
    queries = unit(50, 2, database.manifest.description.dimension)
    positions = np.zeros((50, 2), np.float32)
    plain, _ = Comparison()(database, queries, positions)
    weighted, _ = Comparison(density_neighbours=9)(database, queries, positions)
    assert (weighted <= plain + 1e-6).all()
    assert (weighted > 0).all()


def test_nothing_to_compare_with_stays_infinitely_far(world):
    database = world.database(recorded=2, held_out=1)
    queries = unit(3, 3, database.manifest.description.dimension)
    distances, nearest = Comparison(density_neighbours=5)(
        database, queries, np.zeros((3, 2), np.float32), (0, len(database.frames())))
    assert np.isinf(distances).all()
    assert (nearest == -1).all()
