"""What belongs where, learned from nominal recordings: transplants are made, encoded, compared and learned from."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from semanom_ros.core.database.nominal_database import NominalDatabase
from semanom_ros.core.database.storage import FrameRecord
from semanom_ros.core.embedding.embedder import Embedder
from semanom_ros.core.frames import Frame
from semanom_ros.core.plausibility.context_network import Lesson
from semanom_ros.core.plausibility.plausibility_model import (
    Ensemble,
    Folds,
    PatchOwners,
    PlausibilityModel,
    Projection,
    features,
    lesson,
)
from semanom_ros.core.plausibility.transplanting import NominalPicture, Transplanter
from semanom_ros.core.progress import SILENT, Progress
from semanom_ros.core.scoring.calibration import distances_of, regions_of
from semanom_ros.core.scoring.comparison import Comparison
from semanom_ros.core.scoring.regions import STRETCH_SECONDS
from semanom_ros.errors import DatabaseError
from semanom_ros.settings import ScoreSettings

log = logging.getLogger(__name__)

MOST_PICTURES = 400  # kept in memory, JPEG-compressed
JPEG_QUALITY = 95
PROJECTION_SAMPLE = 40_000  # embeddings that the projection is made from
BATCH = 4
DONORS = 2  # pictures of either sort that a composite may take things from
REGION_FRAMES = 100  # that tell what is usual where in the picture
FOLDS, STRETCHES = 3, 4  # parts of the recordings, each of so many stretches; what is learned without one calibrates it


@dataclass(frozen=True)
class _Kept:
    """A recorded picture.

    Attributes:
        jpeg: its bytes.
        index: among the whole frames of the database.
        record: what it is.
        fold: the part of the recordings that it belongs to.
        patches: (rows, columns, C), projected; None where the database holds them.
    """

    jpeg: npt.NDArray[np.uint8]
    index: int
    record: FrameRecord
    fold: int
    patches: npt.NDArray[np.float32] | None


def learn_plausibility(database: NominalDatabase, embedder: Embedder, frames: Iterable[Frame],
                       score: ScoreSettings, composites: int, progress: Progress = SILENT, seed: int = 0
                       ) -> PlausibilityModel:
    """Learns a plausibility model from the recorded (never the held-out) frames of a database.

    A composite is compared with the database without what is near its picture in time. What stays in its place comes
    from there too, so that it does not find itself. A composite is made of pictures of one fold of the recordings; so
    what is learned from the other folds has not seen that one, and calibration can ask it about its frames.

    Args:
        database: as it will be viewed.
        embedder: what the database was made with.
        frames: the recordings that it was made from; frames that it does not hold are passed over.
        score: how distances are measured.
        composites: how many pictures with transplants to learn from.
        progress: is told.
        seed: of the choice of transplants.

    Raises:
        DatabaseError: masks come from a topic, which no transplant has, or none of the frames is in it.
    """
    if embedder.segmenter is not None and embedder.segmenter.needs_masks:
        raise DatabaseError(f'{database.path}: segmenter: found {embedder.segmenter.name}, which has no masks of '
                            'transplants, expected another; record a database of the variant grid to learn from')
    if not len(database.whole_frames()):
        raise DatabaseError(f'{database.path}: found no frame with all of its embeddings (it was compacted), expected '
                            'some to learn from; go back with semanom db revert, learn, then compact')
    rng = np.random.default_rng(seed)
    projection = projection_of(database, rng)
    folds = _folds(len(database.whole_frames()))
    kept, seen = _keep(database, frames, embedder, projection, folds, progress)
    if not kept:
        raise DatabaseError(f'{database.path}: found none of the frames in it, expected the recordings that it was '
                            'made from; give those')
    compare = Comparison.of(score)
    others = distances_of(database, compare, REGION_FRAMES)
    if not others:
        raise DatabaseError(f'{database.path}: found only one stretch of {STRETCH_SECONDS:g} s, expected a longer '
                            'drive to learn from; record more')
    regions, transplanter = regions_of(others), Transplanter(rng)
    found, verdicts, of_fold = [], [], []
    lessons: list[Lesson] = []
    progress.begin('learn', composites, 'picture')
    for start in range(0, composites, BATCH):
        made, ranges, numbers = [], [], []
        for _ in range(min(BATCH, composites - start)):
            base = kept[int(rng.integers(len(kept)))]
            near = database.neighbourhood(base.record, STRETCH_SECONDS)
            own = [k for k in kept if k.fold == base.fold]
            neighbours_in_time = [k for k in own if _near(k.record, base.record)]
            picture, *donors = (_picture(database, projection, k) for k in (
                base, *_some(neighbours_in_time, rng), *_some(own, rng)))
            numbers.append(base.fold)
            made.append(transplanter.compose(picture, donors[:DONORS], donors[DONORS:]))
            ranges.append(near)
        for composite, near, fold, embedding in zip(
                made, ranges, numbers, embedder.embed([Frame(one.image, 0) for one in made]), strict=True):
            if embedding.fault:  # of NaN nothing is learned
                progress.advance(1)
                continue
            queries = embedder.queries(embedding)
            distances, _ = compare(database, queries.vectors, queries.places, near)
            progress.advance(1)
            if not np.isfinite(distances).all():  # nothing far enough in time to compare it with
                continue
            relative, owners = regions.relative(distances, queries.positions), queries.owners
            projected = projection(queries.vectors.cpu().numpy()[owners])
            lessons.append(lesson(composite.labels, relative[owners], projected))
            of_fold.append(fold)
            chosen = rng.random(owners.size) < lessons[-1].weight.ravel()
            found.append(features(relative[owners], projected)[chosen])
            verdicts.append(lessons[-1].implausible.ravel()[chosen])
    progress.end()
    together = np.concatenate([np.zeros(0, bool), *verdicts])
    if not together.any() or together.all():
        raise DatabaseError(f'{database.path}: found no thing to transplant in {composites} pictures; learn from more')
    progress.begin('train', 1 + FOLDS, 'model')

    def fit(chosen: list[int]) -> Ensemble | None:
        """From some of the lessons; None where they hold no transplant."""
        implausible = np.concatenate([np.zeros(0, bool), *(verdicts[i] for i in chosen)])
        progress.advance(1)
        if not implausible.any() or implausible.all():
            return None
        return Ensemble.fit([lessons[i] for i in chosen], np.concatenate([found[i] for i in chosen]), implausible,
                            embedder.encoder.device, seed)

    whole = fit(list(range(len(lessons))))
    assert whole is not None
    parts = [fit([i for i, own in enumerate(of_fold) if own != fold]) for fold in range(FOLDS)]
    progress.end()
    records = [database.whole_frames().record(i) for i in range(len(folds))]
    # a fold without lessons of its own is judged by what has learned from all, which has none of it
    ensembles = [part or whole for part in parts]
    return PlausibilityModel(projection, whole, Folds.of(records, folds, ensembles), seen)


def _folds(count: int) -> npt.NDArray[np.int64]:
    """(count,) the fold of each of the database's frames: stretches of neighbours take turns."""
    return np.arange(count) * (FOLDS * STRETCHES) // max(count, 1) % FOLDS


def _near(one: FrameRecord, other: FrameRecord) -> bool:
    return (one.source_sha256, one.source) == (other.source_sha256, other.source) \
        and abs(one.stamp_ns - other.stamp_ns) <= STRETCH_SECONDS * 1e9


def _some(kept: list[_Kept], rng: np.random.Generator) -> list[_Kept]:
    return [kept[int(i)] for i in rng.integers(len(kept), size=DONORS)]


def _keep(database: NominalDatabase, frames: Iterable[Frame], embedder: Embedder, projection: Projection,
          folds: npt.NDArray[np.int64], progress: Progress) -> tuple[list[_Kept], PatchOwners | None]:
    """At most MOST_PICTURES of the recorded frames, spread evenly, and the owners of these and the held-out ones.

    Where the database does not hold every patch (variant `instance`) the frames are embedded again.
    """
    again = database.manifest.description.variant == 'instance'
    recorded, held_out = database.whole_frames(), {}
    known = {(record.topic, record.stamp_ns): index
             for index, record in ((i, recorded.record(i)) for i in range(len(recorded)))}
    if again:
        aside = database.held_out()
        held_out = {(record.topic, record.stamp_ns): record for record in map(aside.record, range(len(aside)))}
    wanted = set(np.unique(np.linspace(0, len(known) - 1, min(len(known), MOST_PICTURES)).astype(int)).tolist())
    chosen = {index for number, index in enumerate(sorted(known.values())) if number in wanted}
    kept, records, owners = [], [], []
    progress.begin('look at the recordings', len(chosen) + len(held_out), 'frame')
    for frame in frames:
        index, record = known.get((frame.topic, frame.stamp_ns)), held_out.pop((frame.topic, frame.stamp_ns), None)
        if index in chosen:
            record = recorded.record(index)
        elif record is None:
            continue
        progress.advance(1)
        embedding = embedder.embed([frame])[0] if again else None
        if embedding is not None:
            records.append(record)
            owners.append(embedder.queries(embedding).owners)
        if index in chosen:
            ok, jpeg = cv2.imencode('.jpg', cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR),
                                    [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
            if ok:
                chosen.remove(index)
                patches = None if embedding is None else projection(embedding.patches.cpu().numpy())
                kept.append(_Kept(np.asarray(jpeg, np.uint8), index, record, int(folds[index]), patches))
    progress.end()
    return kept, PatchOwners.of(records, owners) if records else None


def _picture(database: NominalDatabase, projection: Projection, kept: _Kept) -> NominalPicture:
    decoded = cv2.imdecode(kept.jpeg, cv2.IMREAD_COLOR)
    assert decoded is not None
    image = np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.uint8)
    patches = kept.patches
    if patches is None:
        rows, columns = database.manifest.description.grid_size
        patches = projection(np.asarray(database.whole_frames()[kept.index].vectors).reshape(rows, columns, -1))
    return NominalPicture(image, patches)


def projection_of(database: NominalDatabase, rng: np.random.Generator) -> Projection:
    """Of a sample of the recorded embeddings: things are told from what surrounds them by projected patches."""
    frames = database.whole_frames() or database.frames()
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(len(frames), 200)).astype(int))
    share = PROJECTION_SAMPLE // len(chosen)
    vectors = [np.asarray(frames[int(index)].vectors) for index in chosen]
    return Projection.of(np.concatenate([v[rng.permutation(len(v))[:share]] for v in vectors]))
