"""Nominal databases of any size, and queries for them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from semanom_ros.core.curation.operations import build_index
from semanom_ros.core.curation.publishing import IndexSettings, Recipe, suggested_factory
from semanom_ros.core.curation.writer import DatabaseWriter
from semanom_ros.core.database.nominal_database import INDEXED_FROM, PLAIN
from semanom_ros.core.database.published import read_manifest
from semanom_ros.core.database.storage import FrameRecord, NominalAddition
from semanom_ros.core.embedding.embedder import Embedder
from semanom_ros.core.embedding.preprocessing import PatchGrid
from semanom_ros.core.embedding.queries import patch_boxes

_CENTRES = 4096
_SPREAD, _SPREAD_SIGMA = 0.25, 0.5  # lognormal length of the noise on a centre of length 1: most patches are usual
_KEPT, _NEW = 0.9, 0.05  # from one frame to the next: what noise has in common, and the share of patches that are new
_FAR = 0.01  # share of the patches that are like nothing in the database


def key(size: int) -> str:
    """`1e5` for 100000, as in bench.json."""
    mantissa, exponent = f'{size:.15e}'.split('e')
    return f'{float(mantissa):g}e{int(exponent)}'


def database_of(scratch: Path, embedder: Embedder, size: int) -> Path:
    """A nominal database of `size` clustered vectors, made in a folder where it is not there yet.

    The vectors are clustered as patch embeddings are, but they are not real ones.
    """
    path = scratch / f'database-{embedder.encoder.dimension}-{key(size)}'
    if path.exists():
        return path
    grid = PatchGrid(*embedder.encoder.grid_size, 720, 1280)
    boxes, positions = patch_boxes(grid), grid.centres()
    frames = math.ceil(size / len(boxes))
    with DatabaseWriter.begin(path, embedder.description) as writer:
        for number, vectors in enumerate(tqdm(_clustered(embedder, frames), desc=f'database {key(size)}', total=frames,
                                              leave=False, disable=None)):
            kept = min(len(boxes), size - number * len(boxes))
            record = FrameRecord('benchmark', '0' * 64, '/camera/image_raw', number * 100_000_000, (720, 1280))
            writer.add(NominalAddition(record, vectors[:kept], boxes[:kept], positions[:kept]))
        writer.commit()
    return path


def indexed(path: Path) -> bool:
    """Gives a database the index that `semanom db index` would, and a calibration, where an index pays on a CPU.

    Returns:
        Whether it has one.
    """
    manifest = read_manifest(path)
    if manifest.index is None and manifest.vectors >= INDEXED_FROM:
        with tqdm(desc=f'index {key(manifest.vectors)}', total=1, leave=False, disable=None):
            manifest = build_index(path, IndexSettings(suggested_factory(manifest.vectors)), Recipe(PLAIN))
    return manifest.index is not None


def queries_of(embedder: Embedder) -> torch.Tensor:
    """(patches, D) one frame's queries, near the vectors of the databases but none of them."""
    return drive_of(embedder, 1, far=0.0)[0].flatten(0, 1)


def drive_of(embedder: Embedder, frames: int, far: float = _FAR) -> list[torch.Tensor]:
    """(rows, columns, D) patch embeddings of consecutive frames, on the encoder's device, for these databases.

    From one frame to the next a few patches show something else, and the others change a little; the share `far`
    of them is like nothing nominal.
    """
    encoder, generator = embedder.encoder, np.random.default_rng(1)
    (rows, columns), centres = encoder.grid_size, _centres(encoder.dimension)
    where = generator.integers(0, _CENTRES, rows * columns)
    spread, noise = _spread(generator, len(where)), _noise(generator, len(where), encoder.dimension)
    drive = []
    for _ in range(frames):
        vectors = centres[where] + noise * spread
        vectors[:round(far * len(vectors))] = noise[:round(far * len(vectors))]
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        drive.append(torch.from_numpy(vectors).reshape(rows, columns, -1).to(encoder.device))
        new = generator.random(len(where)) < _NEW
        where = np.where(new, generator.integers(0, _CENTRES, len(where)), where)
        spread = np.where(new[:, None], _spread(generator, len(where)), spread)
        fresh = _noise(generator, len(where), encoder.dimension)
        noise = np.where(new[:, None], fresh, _KEPT * noise + math.sqrt(1 - _KEPT ** 2) * fresh).astype(np.float32)
    return drive


def _clustered(embedder: Embedder, frames: int) -> Iterator[npt.NDArray[np.float32]]:
    """(patches, D) float32 of unit length for each frame: centres, the same for every database, with noise."""
    rows, columns = embedder.encoder.grid_size
    dimension = embedder.encoder.dimension
    centres, generator = _centres(dimension), np.random.default_rng(2)
    for _ in range(frames):
        where = generator.integers(0, _CENTRES, rows * columns)
        vectors = centres[where] + _noise(generator, len(where), dimension) * _spread(generator, len(where))
        yield vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _centres(dimension: int) -> npt.NDArray[np.float32]:
    centres = np.random.default_rng(0).standard_normal((_CENTRES, dimension), np.float32)
    return np.asarray(centres / np.linalg.norm(centres, axis=1, keepdims=True), np.float32)


def _noise(generator: np.random.Generator, count: int, dimension: int) -> npt.NDArray[np.float32]:
    """(count, dimension) of about unit length."""
    return generator.standard_normal((count, dimension), np.float32) / np.float32(math.sqrt(dimension))


def _spread(generator: np.random.Generator, count: int) -> npt.NDArray[np.float32]:
    return (_SPREAD * np.exp(_SPREAD_SIGMA * generator.standard_normal((count, 1), np.float32))).astype(np.float32)
