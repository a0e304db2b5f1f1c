"""Looking after nominal databases. Each change is a new version, made in one step; the one before is kept."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from zlib import crc32

import numpy as np
import numpy.typing as npt

from semanom_ros.core.curation.publishing import IndexSettings, Learned, Recipe, publish, read_recipe
from semanom_ros.core.curation.reduction import Ranking, measured, ranking
from semanom_ros.core.curation.selection import Selection
from semanom_ros.core.database.manifest import (
    HELD_OUT,
    LARGEST_VERSION,
    RECORDED,
    REVIEWED,
    CompactionEntry,
    KeptOf,
    Manifest,
    PartEntry,
)
from semanom_ros.core.database.nominal_database import NominalDatabase, effective_settings
from semanom_ros.core.database.published import read_manifest, verify, verify_files
from semanom_ros.core.database.storage import NominalAddition, Part, PartWriter, Statistics, checked
from semanom_ros.core.database.streamed import StreamedDatabase, StreamedVectors
from semanom_ros.core.database.transaction import LEARNED, Transaction, exists
from semanom_ros.core.plausibility.plausibility_model import PlausibilityModel
from semanom_ros.core.progress import SILENT, Progress
from semanom_ros.errors import DatabaseError

logger = logging.getLogger(__name__)


def merge(path: Path, others: Sequence[Path], recipe: Recipe | None = None, progress: Progress = SILENT) -> Manifest:
    """Adds the frames of other databases to one, which is made where there is none.

    A frame that is in several of them is taken once; where there is nothing new, no version is made.

    Args:
        path: the database that grows.
        others: those to take from; they stay as they are.
        recipe: what the result is for; None: for what it was made for before.
        progress: is told.

    Raises:
        DatabaseError: one of them is unusable, or was made with another encoder, preprocessing or variant.
    """
    path = Path(path)
    if not others or path.resolve() in {Path(other).resolve() for other in others}:
        raise DatabaseError(f'{path}: found it among the databases to merge, expected other ones; leave it out')
    manifests = [verify(other, progress) for other in others]
    leading = path if exists(path) else Path(others[0])
    before = read_recipe(leading)
    recipe = before if recipe is None else replace(recipe, index=recipe.index or before.index)
    with _changing(path, progress, must_exist=False) as transaction:
        current = transaction.current
        description = current.description if current else manifests[0].description
        for other, manifest in zip(others, manifests, strict=True):
            difference = description.difference(manifest.description)
            if difference:
                field, expected, found = difference
                raise DatabaseError(f'{other}: {field}: found {found}, expected {expected} as in '
                                    f'{path if current else others[0]}; merge databases of one encoder and variant')
        entries = list(current.parts) if current else []
        known: set[tuple] = set()
        for entry in entries:
            part = entry.open(path, description.dimension)
            known.update(_keys(part, entry))
        progress.begin('merge', sum(len(manifest.parts) for manifest in manifests), 'part')
        for other, manifest in zip(others, manifests, strict=True):
            for entry in manifest.parts:
                part = entry.open(Path(other), description.dimension)
                keys = _keys(part, entry)
                new = [key not in known for key in keys]
                known.update(keys)
                folder = transaction.folder / f'{entry.kind}-{len(entries)}'
                if all(new):
                    entries.append(transaction.copy_part(Path(other), manifest, entry, folder))
                else:
                    entries += _rewrite(transaction, part, entry, folder, np.array(new, bool))
                progress.advance(1)
        progress.end()
        if current and tuple(entries) == current.parts:
            return current
        learned = manifests[0].learned if current is None else None
        if learned is not None:
            learned = replace(learned, file=transaction.copy_file(leading, manifests[0], learned.file, LEARNED))
        names = ', '.join(Path(other).name for other in others)
        return publish(transaction, description, entries, f'merged {names}', recipe, learned=learned,
                       progress=progress)


def _keys(part: Part, entry: PartEntry) -> list[tuple]:
    """What tells the frames of a part from others; a frame may be reviewed twice, so then its embeddings, too."""
    keys: list[tuple] = []
    for index in range(len(part.frames)):
        frame = part.frame(index, entry.kind == HELD_OUT)
        content = crc32(frame.vectors.tobytes()) if entry.kind == REVIEWED else None
        keys.append((entry.kind == REVIEWED, *frame.record.key, content))
    return keys


def remove(path: Path, chosen: Selection, recipe: Recipe | None = None, progress: Progress = SILENT) -> Manifest:
    """Takes some frames out of a database.

    What `semanom learn` has learned from one of those frames goes with them. Of a compacted database the calibration
    goes, too: it cannot be made anew, and the distances that it is of were to what is gone.

    Args:
        path: the database.
        chosen: which.
        recipe: what the result is for; None: for what it was made for before.
        progress: is told.

    Raises:
        DatabaseError: nothing matches, or nothing would be left.
    """
    path = Path(path)
    recipe = recipe or read_recipe(path)
    with _changing(path, progress) as transaction:
        current = _current(transaction)
        goes = chosen.of(path, current)
        model = PlausibilityModel.stored(path, current)
        entries: list[PartEntry] = []
        forget = False
        for number, entry in enumerate(current.parts):
            part = entry.open(path, current.description.dimension)
            records = [part.record(index, False) for index in range(len(part.frames))]
            stays = np.array([not goes(record) for record in records], bool)
            forget |= model is not None and any(model.learned_from(records[gone]) for gone in np.flatnonzero(~stays))
            if stays.all():
                entries.append(entry)
            elif stays.any():
                entries += _rewrite(transaction, part, entry, transaction.folder / f'{entry.kind}-{number}', stays)
        if tuple(entries) == current.parts:
            raise _none_of(path, chosen)
        if not sum(entry.vectors for entry in entries if entry.kind != HELD_OUT):
            raise DatabaseError(f'{path}: found all of its vectors in {chosen}, expected some to be left; name fewer, '
                                'or delete the folder')
        change = f'removed {chosen}'
        if forget:
            change += ', and what was learned from it'
            logger.warning('%s: what semanom learn has learned was learned from them, too, and goes with them; run '
                           'semanom learn again', path)
        return publish(transaction, current.description, entries, change, recipe, progress=progress,
                       forget=forget)


def extract(path: Path, output: Path, chosen: Selection, recipe: Recipe | None = None, progress: Progress = SILENT
            ) -> Manifest:
    """Makes a database of some frames of another, such as what one camera recorded.

    It is calibrated with those frames alone, each compared with the others among them. What `semanom learn` has learned
    stays behind: it was learned from all.

    Args:
        path: the database, which stays as it is.
        output: where there is none yet.
        chosen: which frames.
        recipe: what the result is for; None: for what `path` is for.
        progress: is told.

    Raises:
        DatabaseError: nothing matches, there is a database already, or `path` is unusable.
    """
    path = Path(path)
    manifest = verify(path, progress)
    before = read_recipe(path)
    recipe = before if recipe is None else replace(recipe, index=recipe.index or before.index)
    wanted = chosen.of(path, manifest)
    with _changing(output, progress, must_exist=False) as transaction:
        if transaction.current is not None:
            raise DatabaseError(f'{output}: found a database (version {transaction.current.version}), expected none; '
                                'give another folder, or add to it with semanom db merge')
        entries: list[PartEntry] = []
        progress.begin('extract', len(manifest.parts), 'part')
        for number, entry in enumerate(manifest.parts):
            part = entry.open(path, manifest.description.dimension)
            frames = np.array([wanted(part.record(index, False)) for index in range(len(part.frames))], bool)
            entries += _rewrite(transaction, part, entry, transaction.folder / f'{entry.kind}-{number}', frames)
            progress.advance(1)
        progress.end()
        if not sum(entry.vectors for entry in entries if entry.kind != HELD_OUT):
            raise _none_of(path, chosen)
        change = f'{chosen} of {path.name}'
        return publish(transaction, manifest.description, entries, change, recipe, progress=progress)


def _none_of(path: Path, chosen: Selection) -> DatabaseError:
    return DatabaseError(f'{path}: found no vector of {chosen} in it, expected some; see semanom db info')


def _rewrite(transaction: Transaction, part: Part, entry: PartEntry, folder: Path, frames: npt.NDArray[np.bool_]
             ) -> list[PartEntry]:
    """A part with some frames of another; none where no frame is left."""
    if not frames.any():
        return []
    writer = PartWriter(folder, part.vectors.shape[1])
    for index in np.flatnonzero(frames):
        writer.append(part.frame(int(index), entry.kind == HELD_OUT), part.thumbnail(int(index)))
    return [transaction.add_part(writer, entry.kind, whole=entry.whole)]


Fit = Callable[[StreamedDatabase, Ranking], tuple[int, IndexSettings]]
"""Says how many of the ranked vectors are to be kept, and how they are to be searched."""


def compact(path: Path, *, distance: float = 0.0, size: int | None = None, fit: Fit | None = None,
            recipe: Recipe | None = None, progress: Progress = SILENT) -> Manifest:
    """Keeps fewer vectors that stand for all, and joins the parts into one.

    What was reviewed and what is held out stays whole, and so do the statistics that
    standardization uses: they are of the drive, not of the choice made here. The calibration is made with the whole
    frames, as they were before, and the vectors that are kept; it cannot be made anew later, unless some frames were
    held out. In memory are `reduction.MEMORY` bytes of vectors and those that are kept, however many there are. Frames
    without vectors stay known, so that appending the same bag again does not bring them back.

    How far each dropped vector lies from one that is kept is measured, and stored in the manifest.

    Args:
        path: the database.
        distance: vectors within this distance of one that is kept are dropped first.
        size: afterwards, at most so many vectors, as a coreset, see `reduction.ranking`.
        fit: decides on a smaller number, and on the index, when the ranking is there.
        recipe: what the result, and the distances, are for; None: for what it was made for before.
        progress: is told.
    """
    path = Path(path)
    recipe = recipe or read_recipe(path)
    with _changing(path, progress) as transaction:
        current = _current(transaction)
        database = StreamedDatabase(path, current, recipe.search)
        points = database.recorded()
        ranked = ranking(points, distance, None if size is None else max(1, size), progress=progress)
        if fit is not None:
            size, index = fit(database, ranked)
            recipe = replace(recipe, index=index)
        kept = ranked.first(size)
        entries = [entry for entry in current.parts if entry.kind != RECORDED]
        compaction = None
        if points.parts:
            near = measured(points, ranked, kept, progress=progress)
            part = _kept_part(transaction, points, kept, database.statistics, current, progress)
            entries.insert(0, part)
            compaction = _said(current, part, points, kept, near, recipe)
        change = f'compacted {len(ranked.cell_of)} vectors to {len(kept)}'
        return publish(transaction, current.description, entries, change, recipe, progress=progress,
                       frames=database.calibrating(), compaction=compaction)


def _kept_part(transaction: Transaction, points: StreamedVectors, kept: npt.NDArray[np.int64], statistics: Statistics,
               current: Manifest, progress: Progress) -> PartEntry:
    """The recorded parts as one, with some of their vectors."""
    writer = PartWriter(transaction.folder / RECORDED, current.description.dimension)
    offset = 0
    progress.begin('write', sum(len(part.frames) for part in points.parts), 'frame')
    for part in points.parts:
        for index in range(len(part.frames)):
            row = part.frames[index]
            first = offset + int(row['first'])
            low, high = np.searchsorted(kept, (first, first + int(row['count'])))
            frame = part.frame(index, held_out=False, only=kept[low:high] - first)
            writer.append(frame, part.thumbnail(index) if high > low else b'')
            progress.advance(1)
        offset += len(part.vectors)
    progress.end()
    whole = len(kept) == offset and all(entry.whole for entry in current.parts if entry.kind == RECORDED)
    return transaction.add_part(writer, RECORDED, statistics, whole)


def _said(current: Manifest, part: PartEntry, points: StreamedVectors, kept: npt.NDArray[np.int64],
          near: npt.NDArray[np.float32], recipe: Recipe) -> CompactionEntry:
    """What the manifest says of a compaction, from the distance of every vector to one that is kept."""
    search = effective_settings(recipe.search, current.description).values()
    before = current.compaction
    radius, total = float(near.max(initial=0)), None
    if all(entry.whole for entry in current.parts if entry.kind == RECORDED):
        total = radius
    elif before is not None and before.total is not None and dict(before.search) == search and all(
            entry.whole or entry.name == before.part for entry in current.parts if entry.kind == RECORDED):
        total = (math.sqrt(radius) + math.sqrt(before.total)) ** 2
    of: dict[tuple[str, str], KeptOf] = {}
    stays = np.zeros(len(near), bool)
    stays[kept] = True
    first = 0
    for one in points.parts:
        for path, sha256, rows in one.vectors_by_source():
            old = of.get((path, sha256)) or KeptOf(path, sha256, 0, 0, 0.0)
            own = first + rows
            of[path, sha256] = replace(
                old, vectors=old.vectors + len(own), kept=old.kept + int(stays[own].sum()),
                farthest=max(old.farthest, float(near[own].max(initial=0))))
        first += len(one.vectors)
    return CompactionEntry(part.name, len(near), len(kept), radius, float(near.mean(dtype=np.float64)), total, search,
                           tuple(of.values()))


def calibrate(path: Path, recipe: Recipe | None = None, learned: Learned | None = None, progress: Progress = SILENT
              ) -> Manifest:
    """Makes the calibration anew, and the index where the recipe wants another.

    Args:
        path: the database.
        recipe: what the result is for; None: for what it was made for before.
        learned: what belongs where; None: as it is.
        progress: is told.

    Raises:
        DatabaseError: the index that is asked for cannot be made.
    """
    recipe = recipe or read_recipe(path)
    with _changing(Path(path), progress) as transaction:
        current = _current(transaction)
        change = 'calibrated' if learned is None else f'learned from {learned.composites} pictures with transplants'
        return publish(transaction, current.description, current.parts, change, recipe, learned=learned,
                       progress=progress)


def build_index(path: Path, index: IndexSettings, recipe: Recipe | None = None, progress: Progress = SILENT
                ) -> Manifest:
    """Gives a database another approximate index, or takes it away, and calibrates for it.

    Later changes keep it: appended vectors are searched exactly beside it, and what
    rewrites vectors builds it anew.

    Raises:
        DatabaseError: not a factory string of an inverted file, or more lists than vectors.
    """
    recipe = replace(recipe or read_recipe(path), index=index)
    with _changing(Path(path), progress) as transaction:
        current = _current(transaction)
        return publish(transaction, current.description, current.parts, f'index {index.factory}', recipe,
                       progress=progress)


def accept(database: NominalDatabase, additions: Iterable[NominalAddition]) -> NominalDatabase:
    """Adds what a person reviewed and found nominal, as a new version; the one before is kept.

    Quick, whatever the size of the database: only what was ever reviewed is written. The
    calibration stays as it is: with more to compare with, nominal distances only get smaller,
    so it errs on the side of fewer alarms.

    Args:
        database: the current version, opened; it stays as it is.
        additions: what was reviewed.

    Returns:
        The new version, viewed likewise.

    Raises:
        DatabaseError: another writer is at work or has made a newer version.
    """
    before = database.manifest
    with Transaction(database.path) as transaction:
        found = transaction.current
        if found is None or found.identity != before.identity:
            other = 'none' if found is None else f'{found.version}' if found.version != before.version else (
                f'another version {found.version} ({found.change}, {found.created})')
            raise DatabaseError(f'{database.path}: version: found {other}, expected {before.version} (loaded); '
                                'load it anew and accept again')
        entries = list(before.parts)
        writer = PartWriter(transaction.folder / REVIEWED, before.description.dimension)
        # One part holds all that was reviewed since the last recording, or index: that one covers whole parts.
        for part, last, _ in database.parts()[-1:]:
            if last.kind == REVIEWED:
                for index in range(len(part.frames)):
                    writer.append(part.frame(index, held_out=False), part.thumbnail(index))
                entries.remove(last)
        count = writer.frames
        for addition in additions:
            frame = checked(addition.record, addition.vectors, addition.boxes, addition.positions,
                            before.description.dimension)
            source = frame.record.source
            source = source if source.startswith('reviewed:') else f'reviewed:{source}'
            record = replace(frame.record, source=source, held_out=False)
            writer.append(frame._replace(record=record), addition.thumbnail)
        entries.append(transaction.add_part(writer, REVIEWED))
        manifest = publish(transaction, before.description, entries, f'accepted {writer.frames - count} frames', None)
    return database.successor(manifest)


def revert(path: Path, version: int | None = None, progress: Progress = SILENT) -> Manifest:
    """Makes a new version that is as an earlier one, calibration and index included; the current one may be corrupt.

    Args:
        path: the database.
        version: which, of those that keep their files; None: the one before the current one.
        progress: is told.

    Raises:
        DatabaseError: there is none, or it is corrupt, too.
    """
    read_manifest(path)
    with Transaction(Path(path)) as transaction:
        before = transaction.earlier(version)
        verify_files(transaction.root, before, progress)
        change = before.change if before.change.startswith('as version ') else (
            f'as version {before.version}: {before.change}')
        manifest = transaction.again(before, change)
        transaction.publish(manifest)
        return manifest


def keep_versions(path: Path, count: int) -> Manifest:
    """Says how many versions before the current one keep their files from now on, in a new version.

    Those of older ones are removed at once; where as many are kept already, no version is made.

    Args:
        path: the database.
        count: 1 or more.
    """
    read_manifest(path)
    with Transaction(Path(path)) as transaction:
        current, count = _current(transaction), min(count, LARGEST_VERSION)
        if count == current.kept:
            return current
        transaction.publish(transaction.again(current, f'earlier versions kept: {count}', count))
        return _current(transaction)


def _changing(path: Path, progress: Progress, must_exist: bool = True) -> Transaction:
    """The right to change a database whose files are sound: a copy of a corrupt one would pass for sound afterwards."""
    if must_exist:
        read_manifest(path)  # a path with a slip of the pen must not become a folder
    transaction = Transaction(path)
    try:
        if transaction.current is not None:
            verify_files(path, transaction.current, progress)
    except BaseException:
        transaction.close()
        raise
    return transaction


def _current(transaction: Transaction) -> Manifest:
    assert transaction.current is not None
    return transaction.current
