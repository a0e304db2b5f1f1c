"""A small random encoder, a street that never changes, and databases made of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from semanom_ros.core.curation.publishing import Recipe
from semanom_ros.core.curation.recorder import NominalRecorder
from semanom_ros.core.curation.writer import DatabaseWriter
from semanom_ros.core.database.nominal_database import NominalDatabase
from semanom_ros.core.embedding.embedder import Embedder
from semanom_ros.core.embedding.encoders.encoder import TextAlignedEncoder
from semanom_ros.core.embedding.registry import load_segmenter
from semanom_ros.core.embedding.segmenters.segmenter import Segmenter
from semanom_ros.core.frames import Frame
from semanom_ros.core.pipeline import Judge
from semanom_ros.core.plausibility.context_network import ContextNetwork
from semanom_ros.core.plausibility.plausibility_model import Ensemble, PlausibilityModel, Projection, Trees, features
from semanom_ros.parameters import Value
from semanom_ros.settings import MethodSettings


class RandomEncoder(TextAlignedEncoder):
    """Random filters over 8 x 8 patches; texts are embedded as seeded noise, patches project as they are."""

    name, weights, weights_sha256, settings = 'random-patches', 'random:0', '0' * 64, {}
    input_size, grid_size, dimension = (96, 128), (12, 16), 32
    device, dtype = torch.device('cpu'), torch.float32

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self._filters = torch.randn(self.dimension, 3, 8, 8, generator=generator)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        responses = F.conv2d(images - 0.5, self._filters, stride=8).permute(0, 2, 3, 1)
        return F.normalize(responses + 0.1, dim=-1)

    def encode_text(self, texts: list[str]) -> torch.Tensor:
        generators = [torch.Generator().manual_seed(sum(text.encode())) for text in texts]
        return F.normalize(torch.stack([torch.randn(self.dimension, generator=g) for g in generators]), dim=1)

    def project_to_text(self, embeddings: torch.Tensor) -> torch.Tensor:
        return F.normalize(embeddings, dim=1)


class World:
    """A street, a camera that sees it, and nominal databases of it."""

    height, width = 120, 160

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.encoder = RandomEncoder()

    def street(self, seed: int) -> np.ndarray:
        """(H, W, 3) uint8: always the same blurred pattern under other noise."""
        pattern = np.random.default_rng(0).integers(30, 220, (9, 12, 3)).astype(np.uint8)
        noise = np.random.default_rng(seed + 1).normal(0, 5, (self.height, self.width, 3))
        smooth = cv2.resize(pattern, (self.width, self.height), interpolation=cv2.INTER_CUBIC)
        return np.clip(smooth + noise, 0, 255).astype(np.uint8)

    def with_thing(self, image: np.ndarray, x: int, y: int, size: int = 32) -> np.ndarray:
        """A checkered square that no street has."""
        result = image.copy()
        squares = np.indices((size, size)).sum(axis=0) // 4 % 2
        result[y:y + size, x:x + size] = np.where(squares[..., None] > 0, [255, 0, 255], [0, 255, 0])
        return result

    def settings(self, **given: Value) -> MethodSettings:
        return MethodSettings.of({'false_alarm_rate': 0.05, 'device': 'cpu', **given})

    def embedder(self, settings: MethodSettings, segmenter: Segmenter | None = None) -> Embedder:
        """With the world's encoder; with another segmenter than that of the settings, if given."""
        asked = settings.queries
        if asked.variant == 'instance' and segmenter is None:
            segmenter = load_segmenter(asked, self.encoder.device)
        return Embedder(self.encoder, segmenter, asked.segment_embedding, asked.segmenter_every_n)

    def database(self, settings: MethodSettings | None = None, name: str = 'database', recorded: int = 30,
                 held_out: int = 40, picture: Callable[[int], np.ndarray] | None = None,
                 frame: Callable[[int], Frame] | None = None, embedder: Embedder | None = None) -> NominalDatabase:
        """Records pictures, or whole frames, one a second, the held-out ones last."""
        settings = settings or self.settings()
        embedder = embedder or self.embedder(settings)
        made = frame or (lambda i: Frame((picture or self.street)(i), i * 10**9))
        frames = [replace(made(i), source='drive', topic='/camera') for i in range(recorded + held_out)]
        with DatabaseWriter.begin(self.folder / name, embedder.description) as writer:
            recorder = NominalRecorder(embedder, writer, 80)
            for _ in recorder.record(frames, 'f' * 64, lambda stamp: stamp >= recorded * 10**9):
                pass
            writer.commit(Recipe.of(settings))
        return NominalDatabase.open(self.folder / name, settings.search)

    def model(self, database: NominalDatabase) -> PlausibilityModel:
        """What belongs where, as if learned: taught nonsense about one frame, of the variant `grid`."""
        vectors = np.asarray(database.frames()[0].vectors)
        projection, relative = Projection.of(vectors), np.random.default_rng(0).random((12, 16), np.float32)
        projected = projection(vectors.reshape(12, 16, -1))
        wrong = relative > 0.7
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = ContextNetwork(projected.shape[-1]).eval()
        trees = Trees.fit(features(relative, projected), wrong.ravel())
        return PlausibilityModel(projection, Ensemble(trees, (network,)))

    def judge(self, settings: MethodSettings | None = None, embedder: Embedder | None = None, **database: Any) -> Judge:
        """Of a database made for it."""
        settings = settings or self.settings()
        embedder = embedder or self.embedder(settings)
        return Judge.load(settings, self.database(settings, embedder=embedder, **database).path, embedder)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture(scope='session')
def make_world() -> Callable[[Path], World]:
    """Worlds in folders that outlive a test."""
    return World
