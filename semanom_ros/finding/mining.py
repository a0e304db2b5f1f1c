"""The frames of recordings that are most worth a label: most surprising first, no two of the same thing.

A frame is worth what it would still score if everything mined before were nominal: the greedy choice takes the frame of
the highest such score, and ends where what is left would raise no alarm any more. So the detector's own calibration
says when two things are the same, and no distance has to be chosen. Scores only fall as more is mined, so most need
not be computed again (lazy greedy, M. Minoux, 1978).
"""

from __future__ import annotations

import heapq
import itertools
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from semanom_ros.core.database.nominal_database import NominalDatabase
from semanom_ros.core.database.storage import NominalAddition, NominalFrame
from semanom_ros.core.embedding.places import places
from semanom_ros.core.frames import Frame
from semanom_ros.core.overlapping import ahead
from semanom_ros.core.pipeline import CameraState, Judge, evidence_for, evident_queries
from semanom_ros.core.progress import Progress
from semanom_ros.core.results import ALARM, Anomaly, FrameResult, Verdict
from semanom_ros.core.scoring.calibration import highest
from semanom_ros.errors import BagError
from semanom_ros.recordings.bags import BagReader
from semanom_ros.recordings.instance_masks import BagSegments, wanted_segments

COMPARED = 4096  # embeddings of what was mined that are compared at a time

log = logging.getLogger(__name__)


@dataclass
class Candidate:
    """A frame above the alarm level.

    Attributes:
        evidence: where it comes from, and the embeddings that make it one.
        score: of the frame, above 1.
        anomalies: what is outlined in it, the highest score first.
        worth: what it would score if all that was mined up to its choice were nominal.
        embedded: (n, d) its evidence in the space in which the database compares.
    """

    evidence: NominalAddition
    score: float
    anomalies: tuple[Anomaly, ...]
    embedded: torch.Tensor
    _scores: npt.NDArray[np.float32]
    _distances: npt.NDArray[np.float32]
    _pieces: int
    worth: float = field(init=False)
    _nearest: npt.NDArray[np.float32] = field(init=False)
    _compared: int = field(init=False)

    def __post_init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """What it was compared with."""
        self.worth, self._compared = self.score, 0
        self._nearest = np.full(len(self._scores), np.inf, np.float32)

    @classmethod
    def of(cls, frame: Frame, result: FrameResult, sha256: str, database: NominalDatabase, fraction: float
           ) -> Candidate:
        """Of a flagged frame.

        Args:
            frame: that was judged.
            result: what was said about it.
            sha256: which recording it comes from.
            database: that it was judged by.
            fraction: of the scores that the frame score is the mean of.
        """
        evidence = evidence_for(frame, result)
        evidence = evidence._replace(
            record=replace(evidence.record, source_sha256=sha256), vectors=torch.as_tensor(evidence.vectors).cpu())
        where = places(np.asarray(evidence.positions), np.asarray(evidence.boxes), evidence.record.image_size)
        assert result.scores is not None
        distances, _ = database.search(evidence.vectors, 1, where)
        return cls(evidence, result.score, result.anomalies, database.embed(evidence.vectors, where).cpu(),
                   result.scores.scores[evident_queries(result)], np.maximum(distances[:, 0], 1e-9),
                   highest(len(result.scores.scores), fraction))

    def revalue(self, mined: Mined) -> None:
        """Takes note of what was mined since the last time."""
        if self._compared == len(mined):
            return
        for other in mined.since(self._compared):
            near = torch.cdist(self.embedded, other).min(dim=1).values.square().numpy() / 2
            self._nearest = np.minimum(self._nearest, near)
        self._compared = len(mined)
        scores = self._scores * np.minimum(1, self._nearest / self._distances)
        top = np.sort(scores)[-self._pieces:]
        self.worth = min(self.worth, float(top.sum()) / self._pieces)


class Mined:
    """The embeddings of what was mined, in the space in which the database compares them."""

    def __init__(self, database: NominalDatabase, before: Iterable[NominalFrame] = ()) -> None:
        self._database = database
        self._blocks: list[torch.Tensor] = []
        self._size = 0
        for frame in before:
            self.add(database.embed(np.array(frame.vectors), frame.places).cpu())

    def add(self, embedded: torch.Tensor) -> None:
        """Adds (n, d) embeddings."""
        self._blocks.append(embedded)
        self._size += len(embedded)

    def take(self, candidate: Candidate) -> None:
        """Adds those of a candidate."""
        self.add(candidate.embedded)

    def __len__(self) -> int:
        return self._size

    def since(self, first: int) -> Iterator[torch.Tensor]:
        """The embeddings from an index on that blocks begin at, in pieces."""
        blocks, start = [], 0
        for block in self._blocks:
            if start >= first:
                blocks.append(block)
            start += len(block)
        yield from torch.cat(blocks).split(COMPARED)


@dataclass
class Survey:
    """What the recordings hold.

    Attributes:
        candidates: frames above the alarm level, none that another of the same recording makes superfluous.
        frames: that were looked at.
        flagged: of these, above the alarm level.
        unknown: frames that could not be judged, by reason; they are not taken for nominal.
        bad_images: messages that hold no picture.
        damaged: what could not be read, a line each.
    """

    candidates: list[Candidate] = field(default_factory=list)
    frames: int = 0
    flagged: int = 0
    unknown: Counter[str] = field(default_factory=Counter)
    bad_images: int = 0
    damaged: list[str] = field(default_factory=list)


def greedy(candidates: Iterable[Candidate], mined: Mined, count: int) -> list[Candidate]:
    """The candidates that are worth most, each seen what was chosen before it; `mined` has them afterwards.

    Args:
        candidates: to choose from.
        mined: what was mined before.
        count: to choose, at most.
    """
    order = itertools.count()
    heap = [(-one.worth, next(order), one) for one in candidates]
    heapq.heapify(heap)
    chosen: list[Candidate] = []
    while heap and len(chosen) < count:
        _, number, best = heapq.heappop(heap)
        best.revalue(mined)
        if best.worth <= ALARM:
            continue
        if heap and best.worth < -heap[0][0]:
            heapq.heappush(heap, (-best.worth, number, best))
            continue
        mined.take(best)
        chosen.append(best)
    return chosen


def survey(bags: Sequence[Path], judge: Judge, image_topic: str, per_bag: int, known: frozenset[tuple[str, str, int]],
           before: Sequence[NominalFrame], progress: Progress,
           told: Callable[[Candidate], object] = lambda candidate: None) -> Survey:
    """Looks at every frame of recordings, without the filter over time: a label helps where it would hold back, too.

    Memory grows with what one recording flags, and with `per_bag` frames of each.

    Args:
        bags: recordings.
        judge: what judges them.
        image_topic: '' where each has one.
        per_bag: frames to take from one recording, at most.
        known: frames that were mined before.
        before: what was mined before.
        progress: is told.
        told: is called with every frame above the alarm level.

    Raises:
        SemanomError: a recording or topic will not do.
    """
    judge = judge.live({'filter_temporal': False})
    found = Survey()
    for path in bags:  # before hours are spent
        with BagReader(path) as reader:
            reader.image_topic(image_topic)
    for path in bags:
        own = list(_flagged(path, judge, image_topic, known, found, progress))
        found.flagged += len(own)
        for one in own:
            told(one)
        found.candidates += greedy(own, Mined(judge.database, before), per_bag)
    for one in found.candidates:  # they are weighed against each other now, and not against those of their recording
        one.forget()
    return found


def _flagged(path: Path, judge: Judge, image_topic: str, known: frozenset[tuple[str, str, int]], found: Survey,
             progress: Progress) -> Iterator[Candidate]:
    """The frames of a recording that are above the alarm level and were not mined before."""
    settings, state = judge.settings, CameraState()
    with BagReader(path) as reader:
        topic, sha256 = reader.image_topic(image_topic), reader.fingerprint()
        progress.begin(f'judge {reader.path.name}', reader.counts[topic], 'frame')
        try:
            with BagSegments(reader, [topic], wanted_segments(settings.queries)) as segments, closing(ahead(
                    reader.images(topic, segments=segments, bit_depth=settings.encoder.bit_depth), 4)) as frames:
                for frame in frames:
                    result = judge.process(frame, state)
                    found.frames += 1
                    progress.advance(1)
                    if result.verdict is Verdict.UNKNOWN:
                        found.unknown[result.reason.words] += 1
                    elif result.anomalous and (sha256, frame.topic, frame.stamp_ns) not in known:
                        yield Candidate.of(frame, result, sha256, judge.database, settings.score.frame_score_fraction)
        except BagError as error:  # what came before counts
            found.damaged.append(str(error))
        progress.end()
        found.bad_images += reader.bad_images
