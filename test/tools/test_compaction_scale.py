"""The tool that measures compaction: what it reads is what lies in its file, and its picture shows every result."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from tools.compaction_scale import First, HalfPrecisionFile, compaction, draw


@pytest.fixture
def embeddings(tmp_path: Path) -> Path:
    """A thousand of 16 dimensions."""
    vectors = np.random.default_rng(0).standard_normal((1000, 16))
    path = tmp_path / 'embeddings.f16'
    path.write_bytes((vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16).tobytes())
    return path


def test_what_is_read_is_of_unit_length_and_as_many_as_asked_for(embeddings: Path) -> None:
    points = HalfPrecisionFile(embeddings, 16)
    assert points.shape == (1000, 16)
    read = torch.cat([block for _, block in points.blocks()])
    np.testing.assert_allclose(read.norm(dim=1).numpy(), 1, atol=1e-6)
    stored = np.fromfile(embeddings, np.float16).reshape(-1, 16).astype(np.float32)
    np.testing.assert_allclose(read.numpy(), stored, atol=2e-3)
    assert torch.equal(torch.cat([block for _, block in First(points, 300).blocks()]), read[:300])


def test_a_result_and_its_picture(embeddings: Path, tmp_path: Path) -> None:
    found = [compaction(embeddings, 16, count, 0.1, 1e-3) for count in (100, 1000)]
    assert [one['kept'] for one in found] == [10, 100]
    assert all(0 < one['mean'] < one['radius'] for one in found)
    (tmp_path / 'compaction_16.json').write_text(json.dumps({'dimension': 16, 'sizes': found}))
    draw(tmp_path)
    lines = [element.get('points', '').split() for element in
             ElementTree.parse(tmp_path / 'compaction.svg').iter('{http://www.w3.org/2000/svg}polyline')]
    assert [len(line) for line in lines] == [2] * 5
