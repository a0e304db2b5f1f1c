"""Small databases with known content."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from semanom_ros.core.database import DatabaseDescription, DatabaseWriter, FrameRecord, NominalDatabase

DIMENSION = 16
SECOND = 1_000_000_000


@pytest.fixture
def description() -> DatabaseDescription:
    return DatabaseDescription(
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
def drive() -> Callable[..., Iterator[tuple]]:
    """A drive of so many frames, as arguments of DatabaseWriter.add; the same for the same bag."""

    def frames(bag: str, count: int, vectors: int = 6, topic: str = '/camera') -> Iterator[tuple]:
        for i in range(count):
            seed = zlib.crc32(f'{bag} {topic} {i}'.encode())
            record = FrameRecord(f'/drives/{bag}', (bag * 64)[:64], topic, i * SECOND, (480, 640), i % 4 == 3)
            generator = np.random.default_rng(seed)
            boxes = generator.integers(0, 400, (vectors, 4)).astype(np.int32)
            positions = generator.random((vectors, 2), dtype=np.float32)
            picture = np.full((12, 16, 3), (10 * i % 256, 40, 200), np.uint8)
            yield record, unit(vectors, seed), boxes, positions, picture

    return frames


@pytest.fixture
def record(description: DatabaseDescription, drive: Callable[..., Iterator[tuple]]) -> Callable[..., NominalDatabase]:
    """Records drives into a database: record(path, {'bag': frames}, append=False)."""

    def made(path: Path, bags: dict[str, int], append: bool = False, **commit: object) -> NominalDatabase:
        with DatabaseWriter.begin(path, description, append=append) as writer:
            for bag, count in bags.items():
                for frame in drive(bag, count):
                    if not writer.has(*frame[0].key):
                        writer.add(*frame)
            return writer.commit(**commit)  # type: ignore[arg-type]

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
