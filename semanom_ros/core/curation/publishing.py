"""The last steps of every change: approximate index, calibration, publication."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from semanom_ros.core.database.database import NominalDatabase
from semanom_ros.core.database.index import faiss
from semanom_ros.core.database.manifest import DatabaseDescription, IndexEntry, Manifest, PartEntry
from semanom_ros.core.database.storage import CHUNK, arrays_to_bytes
from semanom_ros.core.database.transaction import Transaction
from semanom_ros.core.progress import SILENT, Progress
from semanom_ros.errors import DatabaseError

Calibrate = Callable[[NominalDatabase], Mapping[str, npt.NDArray[Any]]]
"""Makes calibration arrays from a database that is about to be published."""

EXACT = 'Flat'
TRAINING = 64  # vectors for each inverted list; more took longer and found nothing nearer


@dataclass(frozen=True)
class IndexSettings:
    """How to search approximately.

    Attributes:
        factory: FAISS factory string of an inverted file, e.g. `IVF4096,SQfp16`; `Flat` for exact search.
        nprobe: inverted lists that a search visits.
        position_weight, scale_weight, standardize: the search settings that it is for; others search exactly.
    """

    factory: str
    nprobe: int = 8
    position_weight: float = 0.0
    standardize: bool = False
    scale_weight: float = 0.0


def suggested_factory(vectors: int) -> str:
    """An inverted file for so many vectors: about 4 sqrt(n) lists, halves of floats in them.

    Of the codes tried, 16-bit floats change the nearest distance least for their size; product
    quantization changed it too much.
    """
    lists = min(2 ** round(math.log2(4 * math.sqrt(vectors))), max(1, vectors // 39))  # 39: FAISS's least for k-means
    return f'IVF{lists},SQfp16'


def publish(transaction: Transaction, description: DatabaseDescription, parts: Iterable[PartEntry], change: str, *,
            calibrate: Calibrate | None = None, index: IndexSettings | None = None, progress: Progress = SILENT
            ) -> NominalDatabase:
    """Makes the next version of these parts, calibrates and publishes it.

    Args:
        transaction: with the files of the parts in place.
        description: what made the embeddings.
        parts: in the order that vectors are to be counted in.
        change: what was done, for people.
        calibrate: makes the calibration arrays; without it the version is not calibrated.
        index: None: as the current version has it, built anew where its vectors are no longer the same.
        progress: is told.

    Returns:
        The database, opened for exact or approximate search on the CPU, without further settings.
    """
    manifest = transaction.candidate(description, parts, change, progress)
    transaction.folder.mkdir(exist_ok=True)
    current = transaction.current
    if index is None and current is not None and current.index is not None:
        manifest = transaction.carry_index(manifest)
        old = current.index
        index = IndexSettings(old.factory, old.nprobe, old.position_weight, old.standardize, old.scale_weight)
    if index is not None and index.factory != EXACT and manifest.index is None:
        manifest = _build_index(transaction, manifest, index, progress)
    if calibrate is not None:
        database = NominalDatabase(transaction.root, manifest)
        arrays = dict(calibrate(database))
        database.close()
        if arrays:
            file = transaction.folder / 'calibration.npz'
            file.write_bytes(arrays_to_bytes(arrays))
            manifest = transaction.add_file(manifest, file).replace(calibration=transaction.relative(file))
    transaction.publish(manifest)
    return NominalDatabase(transaction.root, manifest)


def _build_index(transaction: Transaction, manifest: Manifest, settings: IndexSettings, progress: Progress) -> Manifest:
    """Builds an approximate index over all nominal vectors, in steps.

    Raises:
        DatabaseError: the factory string is none of FAISS, no inverted file, or wants more vectors.
    """
    database = NominalDatabase(transaction.root, manifest, position_weight=settings.position_weight,
                               scale_weight=settings.scale_weight, standardize=settings.standardize)
    arrays = [array for _, _, array in database.parts()]
    width = arrays[0].shape[1]
    try:
        index = faiss.index_factory(width, settings.factory, faiss.METRIC_L2)
    except RuntimeError as error:
        raise DatabaseError(f'{transaction.root}: index: found {settings.factory}, expected a FAISS factory string '
                            'such as IVF4096,SQfp16') from error
    if not isinstance(index, faiss.IndexIVF):
        raise DatabaseError(f'{transaction.root}: index: found {settings.factory}, expected an inverted file such as '
                            f'IVF4096,SQfp16, or {EXACT}')
    if manifest.vectors < index.nlist:
        raise DatabaseError(f'{transaction.root}: index: found {index.nlist} inverted lists in {settings.factory}, '
                            f'expected at most {manifest.vectors}, the number of vectors; ask for fewer')
    sample = np.sort(np.random.default_rng(0).permutation(manifest.vectors)[:TRAINING * index.nlist])
    starts = np.cumsum([0] + [len(array) for array in arrays])
    chosen = [array[sample[(sample >= start) & (sample < start + len(array))] - start]
              for array, start in zip(arrays, starts[:-1], strict=True)]
    progress.begin('train index', 1, 'index')
    index.train(np.concatenate(chosen))
    progress.advance(1)
    progress.end()
    progress.begin('fill index', manifest.vectors, 'vector')
    for array in arrays:
        for start in range(0, len(array), CHUNK):
            chunk = array[start:start + CHUNK]
            index.add(chunk)
            progress.advance(len(chunk))
    progress.end()
    database.close()
    file = transaction.folder / 'index.faiss'
    faiss.write_index(index, str(file))
    entry = IndexEntry(transaction.relative(file), settings.factory, settings.nprobe, settings.position_weight,
                       manifest.description.standardizes(settings.standardize), manifest.vectors,
                       settings.scale_weight)
    return transaction.add_file(manifest, file).replace(index=entry)
