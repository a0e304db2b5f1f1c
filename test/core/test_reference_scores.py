"""Scores of the shipped encoder in fp32, held to numbers that were computed once, of single frames and of batches."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from semanom_ros.core.curation.publishing import Recipe
from semanom_ros.core.curation.recorder import NominalRecorder
from semanom_ros.core.curation.writer import DatabaseWriter
from semanom_ros.core.embedding.embedder import Embedder
from semanom_ros.core.frames import Frame, Segments
from semanom_ros.core.pipeline import Judge
from semanom_ros.core.scoring.scorer import FrameScores
from semanom_ros.settings import MethodSettings

REFERENCE = Path(__file__).with_name('reference_scores.json')
"""Of each variant and frame; to compute them anew where the method is meant to change: `python` on this file."""

SIZES = ((176, 320), (264, 480), (360, 640))
VARIANTS: dict[str, dict[str, Any]] = {'grid': {}, 'instance': {'variant': 'instance', 'segmenter': 'topic'}}
EVERY = 17  # of the distances, which are many
RECORDED = 8


def frame(number: int, size: tuple[int, int], strange: bool = False) -> Frame:
    """Grass, road and sky in bands, a car, and something that no nominal picture has; with masks of both."""
    rng = np.random.default_rng(number)
    height, width = size
    rows, columns = np.mgrid[0:height, 0:width] / np.array([height, width]).reshape(2, 1, 1)
    image = np.where(rows[..., None] < 0.4, (150.0, 190.0, 230.0), (110.0, 110.0, 115.0))
    image[(rows >= 0.4) & (np.abs(columns - 0.5) > rows - 0.2)] = (70, 120, 60)
    labels = np.zeros(size, np.int32)
    left = 0.2 + 0.1 * rng.random()
    labels[(np.abs(rows - 0.6) < 0.1) & (np.abs(columns - left) < 0.08)] = 1
    image[labels == 1] = (180, 40, 40)
    if strange:
        labels[(np.abs(rows - 0.7) < 0.12) & (np.abs(columns - 0.6) < 0.09)] = 2
        image[labels == 2] = np.where((columns * 40).astype(int)[labels == 2, None] % 2, (250, 0, 250), (0, 250, 0))
    count = int(labels.max())
    noisy = image + 12 * np.sin(40 * columns + number)[..., None]
    return Frame(np.clip(noisy, 0, 255).astype(np.uint8), (number + 1) * 10**9, source='drive', topic='/camera',
                 segments=Segments(labels, np.ones(count, np.float32), ('',) * count))


def shown() -> list[Frame]:
    """Three frames of three sizes, the second with something strange."""
    return [frame(100 + number, size, strange=number == 1) for number, size in enumerate(SIZES)]


def judge_of(variant: str, folder: Path) -> Judge:
    settings = MethodSettings.of({'device': 'cpu', 'precision': 'fp32', 'input_size': list(SIZES[0]),
                                  **VARIANTS[variant]})
    embedder = Embedder.load(settings)
    with DatabaseWriter.begin(folder, embedder.description) as writer:
        frames = [frame(number, SIZES[0]) for number in range(RECORDED)]
        for _ in NominalRecorder(embedder, writer, 0).record(frames, 'f' * 64, lambda stamp: False):
            pass
        writer.commit(Recipe.of(settings))
    return Judge.load(settings, folder, embedder)


def numbers(scores: FrameScores) -> dict[str, Any]:
    return {'raw_score': scores.raw_score, 'score': scores.score,
            'distances': np.round(scores.distances[::EVERY].astype(float), 7).tolist(),
            'scores': np.round(scores.scores[::EVERY].astype(float), 6).tolist()}


@pytest.fixture(scope='module', params=VARIANTS)
def judged(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
           ) -> Iterator[tuple[Judge, list[dict[str, Any]]]]:
    """A judge, and what is expected of it."""
    expected = json.loads(REFERENCE.read_text())[request.param]
    return judge_of(request.param, tmp_path_factory.mktemp('reference') / 'nominal'), expected


def assert_equal(found: list[FrameScores], expected: list[dict[str, Any]]) -> None:
    for one, before in zip(map(numbers, found), expected, strict=True):
        assert one['distances'] == pytest.approx(before['distances'], abs=1e-5)
        assert one['raw_score'] == pytest.approx(before['raw_score'], abs=1e-5)
        # in units of the alarm level, which is far below 1
        assert one['scores'] == pytest.approx(before['scores'], rel=1e-4, abs=1e-4)
        assert one['score'] == pytest.approx(before['score'], rel=1e-4)


def test_scores_of_single_frames_are_those_of_before(judged: tuple[Judge, list[dict[str, Any]]]) -> None:
    judge, expected = judged
    assert_equal([judge.score(judge.embedder.embed([one])[0]) for one in shown()], expected)


def test_scores_in_a_batch_of_several_sizes_are_those_of_before(judged: tuple[Judge, list[dict[str, Any]]]) -> None:
    judge, expected = judged
    assert_equal([judge.score(one) for one in judge.embedder.embed(shown())], expected)


if __name__ == '__main__':
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        made = {}
        for name in VARIANTS:
            one = judge_of(name, Path(folder) / name)
            made[name] = [numbers(one.score(one.embedder.embed([picture])[0])) for picture in shown()]
    REFERENCE.write_text(json.dumps(made) + '\n')
