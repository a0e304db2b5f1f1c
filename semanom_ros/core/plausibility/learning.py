"""What belongs where, learned from nominal recordings: transplants are made, encoded, compared and learned from."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from semanom_ros.core.database.nominal_database import NominalDatabase
from semanom_ros.core.embedding.embedder import Embedder
from semanom_ros.core.frames import Frame
from semanom_ros.core.plausibility.context_network import ContextNetwork, Lesson
from semanom_ros.core.plausibility.plausibility_model import (
    NETWORKS,
    PatchOwners,
    PlausibilityModel,
    Projection,
    Trees,
    features,
    lesson,
)
from semanom_ros.core.plausibility.transplanting import NominalPicture, Transplanter
from semanom_ros.core.progress import SILENT, Progress
from semanom_ros.core.scoring.comparison import Comparison
from semanom_ros.core.scoring.regions import STRETCH_SECONDS, recorded_regions
from semanom_ros.errors import DatabaseError
from semanom_ros.settings import ScoreSettings

log = logging.getLogger(__name__)

MOST_PICTURES = 400  # kept in memory, JPEG-compressed
JPEG_QUALITY = 95
PROJECTION_SAMPLE = 40_000  # embeddings that the projection is made from
BATCH = 4
DONORS = 2  # pictures of either sort that a composite may take things from


@dataclass(frozen=True)
class _Kept:
    """A recorded picture: JPEG bytes, its index among the database's frames, and its (rows, columns, C) patches.

    The patches are None where the database holds them.
    """

    jpeg: npt.NDArray[np.uint8]
    index: int
    patches: npt.NDArray[np.float32] | None


def learn_plausibility(database: NominalDatabase, embedder: Embedder, frames: Iterable[Frame],
                       score: ScoreSettings, composites: int, progress: Progress = SILENT, seed: int = 0
                       ) -> PlausibilityModel:
    """Learns a plausibility model from the recorded (never the held-out) frames of a database.

    A composite is compared with the database without what is near its picture in time. What stays in its place comes
    from there too, so that it does not find itself.

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
    rng = np.random.default_rng(seed)
    projection = _projection(database, rng)
    kept, held_out = _keep(database, frames, embedder, projection, progress)
    if not kept:
        raise DatabaseError(f'{database.path}: found none of the frames in it, expected the recordings that it was '
                            'made from; give those')
    compare = Comparison.of(score)
    regions = recorded_regions(database, compare)
    if regions is None:
        raise DatabaseError(f'{database.path}: found only one stretch of {STRETCH_SECONDS:g} s, expected a longer '
                            'drive to learn from; record more')
    transplanter = Transplanter(rng)
    found, verdicts = [], []
    lessons: list[Lesson] = []
    progress.begin('learn', composites, 'picture')
    for start in range(0, composites, BATCH):
        made, ranges = [], []
        for _ in range(min(BATCH, composites - start)):
            base = kept[int(rng.integers(len(kept)))]
            near = database.neighbourhood(base.index, STRETCH_SECONDS)
            neighbours_in_time = [k for k in kept if near[0] <= k.index < near[1]]
            picture, *donors = (_picture(database, projection, k) for k in (
                base, *_some(neighbours_in_time, rng), *_some(kept, rng)))
            made.append(transplanter.compose(picture, donors[:DONORS], donors[DONORS:]))
            ranges.append(near)
        for composite, near, embedding in zip(
                made, ranges, embedder.embed([Frame(one.image, 0) for one in made]), strict=True):
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
            chosen = rng.random(owners.size) < lessons[-1].weight.ravel()
            found.append(features(relative[owners], projected)[chosen])
            verdicts.append(lessons[-1].implausible.ravel()[chosen])
    progress.end()
    together = np.concatenate([np.zeros(0, bool), *verdicts])
    if not together.any() or together.all():
        raise DatabaseError(f'{database.path}: found no thing to transplant in {composites} pictures; learn from more')
    progress.begin('train', 1 + NETWORKS, 'model')
    trees = Trees.fit(np.concatenate(found), together, seed)
    progress.advance(1)
    networks = []
    for number in range(NETWORKS):
        networks.append(ContextNetwork.fit(lessons, embedder.encoder.device, seed + number))
        progress.advance(1)
    progress.end()
    return PlausibilityModel(projection, trees, tuple(networks), held_out)


def _some(kept: list[_Kept], rng: np.random.Generator) -> list[_Kept]:
    return [kept[int(i)] for i in rng.integers(len(kept), size=DONORS)]


def _keep(database: NominalDatabase, frames: Iterable[Frame], embedder: Embedder, projection: Projection,
          progress: Progress) -> tuple[list[_Kept], PatchOwners | None]:
    """At most MOST_PICTURES of the recorded frames, spread evenly, and the owners of the held-out ones.

    Where the database does not hold every patch (variant `instance`) the frames are embedded again.
    """
    again = database.manifest.description.variant == 'instance'
    recorded, held_out = database.frames(), {}
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
        if index not in chosen and record is None:
            continue
        progress.advance(1)
        embedding = embedder.embed([frame])[0] if again else None
        if record is not None and embedding is not None:
            records.append(record)
            owners.append(embedder.queries(embedding).owners)
        else:
            ok, jpeg = cv2.imencode('.jpg', cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR),
                                    [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
            if ok and index is not None:
                chosen.remove(index)
                patches = None if embedding is None else projection(embedding.patches.cpu().numpy())
                kept.append(_Kept(np.asarray(jpeg, np.uint8), index, patches))
    progress.end()
    return kept, PatchOwners.of(records, owners) if records else None


def _picture(database: NominalDatabase, projection: Projection, kept: _Kept) -> NominalPicture:
    decoded = cv2.imdecode(kept.jpeg, cv2.IMREAD_COLOR)
    assert decoded is not None
    image = np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.uint8)
    patches = kept.patches
    if patches is None:
        rows, columns = database.manifest.description.grid_size
        patches = projection(np.asarray(database.frames()[kept.index].vectors).reshape(rows, columns, -1))
    return NominalPicture(image, patches)


def _projection(database: NominalDatabase, rng: np.random.Generator) -> Projection:
    frames = database.frames()
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(len(frames), 200)).astype(int))
    share = PROJECTION_SAMPLE // len(chosen)
    vectors = [np.asarray(frames[int(index)].vectors) for index in chosen]
    return Projection.of(np.concatenate([v[rng.permutation(len(v))[:share]] for v in vectors]))
