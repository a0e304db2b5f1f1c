"""Small databases with known content."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from semanom_ros.core.curation.publishing import Recipe
from semanom_ros.core.curation.writer import DatabaseWriter
from semanom_ros.core.database.nominal_database import NominalDatabase
from semanom_ros.core.database.storage import FrameRecord, NominalAddition, thumbnail
from semanom_ros.core.embedding.description import EmbeddingDescription
from semanom_ros.core.scoring.calibration import calibrate

DIMENSION = 16
SECOND = 1_000_000_000


@pytest.fixture
def description() -> EmbeddingDescription:
    return EmbeddingDescription(
        encoder='timm:small', weights='random:0', weights_sha256='a' * 64, preprocessing_sha256='b' * 64,
        input_size=(64, 96), grid_size=(4, 6), dimension=DIMENSION, variant='grid', settings={'layer': '-1'})


def unit(count: int, seed: int, dimension: int = DIMENSION) -> npt.NDArray[np.float32]:
    vectors = np.random.default_rng(seed).standard_normal((count, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def unit_vectors() -> Callable[..., npt.NDArray[np.float32]]:
    """(count, dimension) random float32 of unit length: unit_vectors(count, seed, dimension)."""
    return unit


@pytest.fixture
def drive() -> Callable[..., Iterator[NominalAddition]]:
    """A drive of so many frames; the same for the same bag."""

    def frames(bag: str, count: int, vectors: int = 6, topic: str = '/camera') -> Iterator[NominalAddition]:
        for i in range(count):
            seed = zlib.crc32(f'{bag} {topic} {i}'.encode())
            record = FrameRecord(f'/drives/{bag}', (bag * 64)[:64], topic, i * SECOND, (480, 640), i % 4 == 3)
            generator = np.random.default_rng(seed)
            boxes = generator.integers(0, 400, (vectors, 4)).astype(np.int32)
            positions = generator.random((vectors, 2), dtype=np.float32)
            picture = np.full((12, 16, 3), (10 * i % 256, 40, 200), np.uint8)
            yield NominalAddition(record, unit(vectors, seed), boxes, positions, thumbnail(picture, 160))

    return frames


@pytest.fixture
def record(description: EmbeddingDescription, drive: Callable[..., Iterator[NominalAddition]]
           ) -> Callable[..., NominalDatabase]:
    """Records drives into a database: record(path, {'bag': frames}, recipe, append=False)."""

    def made(path: Path, bags: dict[str, int], recipe: Recipe | None = None, append: bool = False) -> NominalDatabase:
        with DatabaseWriter.begin(path, description, append=append) as writer:
            for bag, count in bags.items():
                for frame in drive(bag, count):
                    if not writer.has(*frame.record.key):
                        writer.add(frame)
            writer.commit(recipe)
        return NominalDatabase.open(path, verify=False)

    return made


def content(database: NominalDatabase) -> dict[tuple, tuple]:
    """Everything that a database says about its frames, by frame; complains of frames that are there twice."""
    found: dict[tuple, tuple] = {}
    for frame in [*database.frames(), *database.held_out()]:
        assert frame.record not in found
        found[frame.record] = tuple(array.tobytes() for array in frame[1:])
    return found


@pytest.fixture
def content_of() -> Callable[[NominalDatabase], dict[tuple, tuple]]:
    return content


def check_calibration(path: Path, recipe: Recipe) -> NominalDatabase:
    """The database as a detector opens it; complains unless it holds the calibration that is made in that view."""
    database = NominalDatabase.open(path, recipe.search)
    expected = calibrate(database, recipe.search, recipe.score)
    assert expected.keys() == database.calibration.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(database.calibration[name], array, err_msg=name)
    return database


@pytest.fixture
def opened_as_calibrated() -> Callable[[Path, Recipe], NominalDatabase]:
    return check_calibration
