"""The one way in which a version of a database comes about: parts and a recipe in; index, calibration, publication."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from semanom_ros.core.database.index_file import faiss
from semanom_ros.core.database.manifest import (
    AUTO,
    EXACT,
    NPROBE,
    CompactionEntry,
    IndexEntry,
    LearnedEntry,
    Manifest,
    PartEntry,
)
from semanom_ros.core.database.nominal_database import INDEXED_FROM, NominalDatabase, effective_settings
from semanom_ros.core.database.points import Points, gathered
from semanom_ros.core.database.published import read_calibration, read_manifest
from semanom_ros.core.database.storage import NominalFrame, arrays_to_bytes
from semanom_ros.core.database.streamed import StreamedDatabase
from semanom_ros.core.database.transaction import CALIBRATION, INDEX, LEARNED, Transaction
from semanom_ros.core.embedding.description import EmbeddingDescription
from semanom_ros.core.embedding.device import resolve_device
from semanom_ros.core.plausibility.plausibility_model import PlausibilityModel
from semanom_ros.core.progress import SILENT, Progress
from semanom_ros.core.scoring.calibration import calibrate, parameters_of, stored_parameters
from semanom_ros.errors import DatabaseError
from semanom_ros.settings import MethodSettings, ScoreSettings, SearchSettings

TRAINING = 64  # vectors for each inverted list; more took longer and found nothing nearer
LEAST_TRAINING = 39  # FAISS's least for k-means


@dataclass(frozen=True)
class IndexSettings:
    """How to search approximately.

    Attributes:
        factory: FAISS factory string of an inverted file, e.g. `IVF4096,SQfp16`; `auto`: one that suits the number of
            vectors, where an index pays; `exact`: none.
        nprobe: inverted lists that a search visits; 0: as many as before, or NPROBE.
    """

    factory: str = AUTO
    nprobe: int = 0


@dataclass(frozen=True)
class Recipe:
    """What a version is made for.

    Attributes:
        search, score: settings of those who will use it.
        index: how CPUs are to search it; None: as the current version was to be searched. The rule is the same
            wherever it is made: a GPU, which needs no index, may make a database for a robot without one.
        device: where calibration searches.
    """

    search: SearchSettings
    score: ScoreSettings = field(default_factory=ScoreSettings)
    index: IndexSettings | None = None
    device: torch.device = field(default_factory=lambda: torch.device('cpu'))

    @classmethod
    def of(cls, method: MethodSettings, index: str | None = None) -> Recipe:
        """For detectors with these settings.

        `index` is the parameter of that name; `auto`, and None, leave as it was how an earlier version was to be
        searched.

        Raises:
            ParameterError: their device is not here.
        """
        how = None if index in (None, AUTO) else IndexSettings(index)
        return cls(method.search, method.score, how, resolve_device(method.encoder.device))

    @classmethod
    def as_before(cls, manifest: Manifest, stored: Mapping[str, Any]) -> Recipe:
        """What a version was made for.

        Args:
            manifest: of the version.
            stored: parameters that its calibration was made for; {} where it is not calibrated.
        """
        method = MethodSettings().changed({**(manifest.index.search if manifest.index else {}), **stored})
        return cls(method.search, method.score, _asked_before(manifest))


@dataclass(frozen=True)
class Learned:
    """What `semanom learn` has made.

    Attributes:
        model: what belongs where.
        composites, seed: see LearnedEntry.
    """

    model: PlausibilityModel
    composites: int
    seed: int


def suggested_factory(vectors: int) -> str:
    """An inverted file for so many vectors: about 4 sqrt(n) lists, halves of floats in them.

    Of the codes tried, 16-bit floats change the nearest distance least for their size; product
    quantization changed it too much.
    """
    return f'IVF{suggested_lists(vectors)},SQfp16'


def suggested_lists(vectors: int) -> int:
    """Inverted lists for so many vectors."""
    return min(2 ** round(math.log2(4 * math.sqrt(vectors))), max(1, vectors // LEAST_TRAINING))


def publish(transaction: Transaction, description: EmbeddingDescription, parts: Iterable[PartEntry], change: str,
            recipe: Recipe | None, *, learned: Learned | LearnedEntry | None = None, progress: Progress = SILENT,
            frames: Sequence[NominalFrame] | None = None, forget: bool = False,
            compaction: CompactionEntry | None = None) -> Manifest:
    """Makes the next version of these parts: view, index, calibration; and puts it into place in one step.

    Args:
        transaction: with the files of the parts in place.
        description: what made the embeddings.
        parts: in the order that vectors are to be counted in.
        change: what was done, for people.
        recipe: what it is for; None: for the same as the current version, whose index and calibration it takes over.
        learned: what belongs where: fresh, or that of another database whose file was copied here; None: as in the
            current version.
        progress: is told.
        frames: to calibrate with; None: those of the parts.
        forget: what was learned is not taken over from the current version.
        compaction: what stands for what is gone, where that is new.

    Returns:
        The manifest of the version, which is the current one now.

    Raises:
        DatabaseError: there would be no nominal embedding in it, or the index that is asked for cannot be made.
    """
    manifest = transaction.candidate(description, parts, change)
    if compaction is not None:
        manifest = manifest.replace(compaction=compaction)
    if not forget:
        manifest = _with_learned(transaction, manifest, learned)
    current = transaction.current
    if recipe is None:
        manifest = transaction.carry_index(manifest)
        if current is not None and current.calibration:
            manifest = transaction.carry(manifest, current.calibration).replace(calibration=current.calibration)
    else:
        manifest = _with_index(transaction, manifest, recipe, progress)
        manifest = _with_calibration(transaction, manifest, recipe, progress, frames)
    transaction.publish(manifest)
    return manifest


def _with_learned(transaction: Transaction, manifest: Manifest, learned: Learned | LearnedEntry | None) -> Manifest:
    current = transaction.current
    if isinstance(learned, Learned):
        file = transaction.new_file(LEARNED)
        file.write(arrays_to_bytes(learned.model.arrays()))
        manifest, name = transaction.add_file(manifest, LEARNED, file)
        return manifest.replace(learned=LearnedEntry(name, learned.composites, learned.seed))
    if learned is not None:
        return manifest.replace(learned=learned, files={**manifest.files, **transaction.written(learned.file)})
    if current is not None and current.learned is not None:
        return transaction.carry(manifest, current.learned.file).replace(learned=current.learned)
    return manifest


def _with_index(transaction: Transaction, manifest: Manifest, recipe: Recipe, progress: Progress) -> Manifest:
    """The current index while it serves, a new one from where one pays.

    It serves as long as fewer than INDEXED_FROM vectors have come after those that it covers, in the space asked for.
    """
    current = transaction.current
    asked = recipe.index or (_asked_before(current) if current is not None else IndexSettings())
    if asked.factory == EXACT:
        return manifest
    nprobe = asked.nprobe or (current.index.nprobe if current is not None and current.index is not None else NPROBE)
    kept = transaction.carry_index(manifest)
    entry = kept.index
    if entry is not None and dict(entry.search) == effective_settings(recipe.search, manifest.description).values() \
            and asked.factory in (AUTO, entry.factory) and manifest.vectors - entry.vectors < INDEXED_FROM:
        return kept.replace(index=replace(entry, nprobe=nprobe))
    if asked.factory == AUTO and manifest.vectors < INDEXED_FROM:
        return manifest
    factory = suggested_factory(manifest.vectors) if asked.factory == AUTO else asked.factory
    return _build_index(transaction, manifest, recipe.search, IndexSettings(factory, nprobe), progress)


def _asked_before(manifest: Manifest) -> IndexSettings:
    """How a version was to be searched.

    An index as `auto` would have it was asked for as that: more or fewer vectors want another. A version that is large
    enough for one and has none was to have none.
    """
    index = manifest.index
    if index is None:
        return IndexSettings(EXACT if manifest.vectors >= INDEXED_FROM else AUTO)
    automatic = index.factory == suggested_factory(index.vectors)
    return IndexSettings(AUTO if automatic else index.factory, index.nprobe)


def _build_index(transaction: Transaction, manifest: Manifest, search: SearchSettings, how: IndexSettings,
                 progress: Progress) -> Manifest:
    """Builds an approximate index over all nominal vectors, in steps.

    Raises:
        DatabaseError: the factory string is none of FAISS, no inverted file, or wants more vectors.
    """
    points, factory = StreamedDatabase(transaction.root, manifest, search).all(), how.factory
    try:
        index = faiss.index_factory(points.shape[1], factory, faiss.METRIC_L2)
    except RuntimeError as error:
        raise DatabaseError(f'{transaction.root}: index: found {factory}, expected a FAISS factory string '
                            'such as IVF4096,SQfp16') from error
    if not isinstance(index, faiss.IndexIVF):
        raise DatabaseError(f'{transaction.root}: index: found {factory}, expected an inverted file such as '
                            f'IVF4096,SQfp16, {AUTO} or {EXACT}')
    if manifest.vectors < index.nlist:
        raise DatabaseError(f'{transaction.root}: index: found {index.nlist} inverted lists in {factory}, '
                            f'expected at most {manifest.vectors}, the number of vectors; ask for fewer')
    fill_index(index, points, progress)
    file = transaction.new_file(INDEX)
    faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))
    made, name = transaction.add_file(manifest, INDEX, file)
    return made.replace(index=IndexEntry(
        name, factory, how.nprobe, effective_settings(search, manifest.description).values(), manifest.vectors))


def fill_index(index: Any, points: Points, progress: Progress = SILENT) -> None:
    """Trains an inverted file with some of the vectors and adds all, in blocks."""
    count = points.shape[0]
    sample = np.sort(np.random.default_rng(0).permutation(count)[:TRAINING * index.nlist])
    progress.begin('train index', 1, 'index')
    index.train(gathered(points, sample).numpy())
    progress.advance(1)
    progress.end()
    progress.begin('fill index', count, 'vector')
    for _, block in points.blocks():
        index.add(block.numpy())
        progress.advance(len(block))
    progress.end()


def _with_calibration(transaction: Transaction, manifest: Manifest, recipe: Recipe, progress: Progress,
                      frames: Sequence[NominalFrame] | None) -> Manifest:
    """A new calibration.

    Where no frame is whole any more none can be made. The current one stays true as long as it was made for the same
    and nothing is gone: with more to compare with, nominal distances only get smaller.
    """
    database = NominalDatabase(transaction.root, manifest, recipe.search, device=recipe.device)
    current = transaction.current
    if frames is None and not database.held_out() and not database.whole_frames() and current and current.calibration:
        stored = stored_parameters(read_calibration(transaction.root, current))
        if stored == parameters_of(recipe.search, recipe.score) and set(current.parts) <= set(manifest.parts):
            return transaction.carry(manifest, current.calibration).replace(calibration=current.calibration)
    arrays = calibrate(database, recipe.search, recipe.score, PlausibilityModel.of(database), progress, frames)
    if not arrays:
        return manifest
    if any(array.dtype.kind == 'f' and not np.isfinite(array).all() for array in arrays.values()):
        raise DatabaseError(f'{transaction.root}: calibration: found scores that are not finite, expected finite ones; '
                            'run semanom learn anew, or record the database anew')
    file = transaction.new_file(CALIBRATION)
    file.write(arrays_to_bytes(arrays))
    made, name = transaction.add_file(manifest, CALIBRATION, file)
    return made.replace(calibration=name)


def read_recipe(path: Path) -> Recipe:
    """What the current version of a database was made for.

    Raises:
        DatabaseError: no database, or an unreadable one.
    """
    manifest = read_manifest(path)
    return Recipe.as_before(manifest, stored_parameters(read_calibration(path, manifest)))
