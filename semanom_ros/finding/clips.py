"""The stretches of recordings that hold what is looked for, the best first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from semanom_ros.core.database.storage import FrameRecord
from semanom_ros.core.progress import SILENT, Progress
from semanom_ros.finding.embedded_recordings import EmbeddedRecordings, Stored
from semanom_ros.finding.questions import Box, Question

SCANNED = 1 << 15  # embeddings that are compared at a time
SAMPLED = 64  # frames, evenly spread, that tell what is usual
JOIN_NS = 2_000_000_000
"""Nanoseconds: frames of a recording that are no farther apart are neighbours, and show one thing."""
LEAST = 0.5
"""Of how much the best frame of a clip stands out, what the others of it must."""


@dataclass(frozen=True)
class Clip:
    """A stretch of one recording.

    Attributes:
        record: of the frame that fits best.
        similarity: of that frame; of words beyond common phrases, of a picture the cosine, 1: the same.
        start_ns, end_ns: stamps of its first and last frame.
        frames: that it holds.
        box: (x, y, width, height) of what fits in that frame, in pixels of its picture.
        thumbnail: JPEG of that frame; empty where none is stored.
        nominal: whether it comes from what a nominal database holds.
    """

    record: FrameRecord
    similarity: float
    start_ns: int
    end_ns: int
    frames: int
    box: Box
    thumbnail: bytes
    nominal: bool


@dataclass(frozen=True)
class _Scan:
    """The frames of all recordings, each once, in their order of time within each stream.

    Attributes:
        scores: (F,) similarity.
        stamps: (F,) nanoseconds.
        streams: (F,) which recording and topic.
        places: (F, 2) part and frame in it.
    """

    scores: npt.NDArray[np.float32]
    stamps: npt.NDArray[np.int64]
    streams: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64]


def find(recordings: EmbeddedRecordings, question: Question, count: int, progress: Progress = SILENT) -> list[Clip]:
    """The clips that fit best, no two of them neighbours in one recording.

    Every embedding is compared; an approximate index would find the nearest patches and not the best of each stretch.
    Memory does not grow with the embeddings.

    Args:
        recordings: to search.
        question: what is looked for.
        count: of clips, at most.
        progress: is told.
    """
    usual = _usual(recordings, question)
    scan = _scan(recordings, question, usual, progress)
    return [_clip(recordings, question, usual, scan, *found) for found, _ in
            zip(_peaks(scan), range(count), strict=False)]


def _usual(recordings: EmbeddedRecordings, question: Question) -> npt.NDArray[np.float32]:
    """(Q,) how similar the most similar patch of a frame usually is to each piece of what is looked for, of SAMPLED."""
    step = max(1, recordings.frames // SAMPLED)
    best = []
    for one in recordings.stored:
        for index in range(0, len(one.part.frames), step):
            vectors = np.asarray(one.part.frame(index, held_out=False).vectors)
            if len(vectors):
                best.append(question.similarities(vectors).max(axis=0))
    return np.mean(best, axis=0) if best else np.zeros(0, np.float32)


def _weights(usual: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(Q,) what each piece counts: that a street has asphalt and sky tells less than what few of them have."""
    rare = np.maximum(1 - usual, 1e-3)
    return rare / rare.sum()


def _scan(recordings: EmbeddedRecordings, question: Question, usual: npt.NDArray[np.float32], progress: Progress
          ) -> _Scan:
    """Compares every frame: the mean over what is looked for, see `_weights`, of how similar its best patch is."""
    scores, stamps, streams, places = [], [], [], []
    weights = _weights(usual)
    known: dict[tuple[str, str], int] = {}
    progress.begin('search', recordings.frames, 'frame')
    for number, one in enumerate(recordings.stored):
        frames = one.part.frames
        for stretch in one.stretches(SCANNED):
            chosen = frames[stretch]
            first = int(chosen['first'][0])
            vectors = one.part.vectors[first:first + int(chosen['count'].sum())]
            filled = np.flatnonzero(chosen['count'] > 0)
            if len(filled):
                similar = question.similarities(vectors)
                best = np.maximum.reduceat(similar, chosen['first'][filled] - first, axis=0)
                scores.append(best @ weights)
                stamps.append(chosen['stamp_ns'][filled])
                places.append(np.stack([np.full(len(filled), number), filled + stretch.start], axis=1))
                for index in filled + stretch.start:
                    record = one.record(int(index))
                    streams.append(known.setdefault((record.source_sha256 or record.source, record.topic), len(known)))
            progress.advance(len(chosen))
    progress.end()
    if not scores:
        return _Scan(np.zeros(0, np.float32), np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 2), np.int64))
    scan = _Scan(np.concatenate(scores), np.concatenate(stamps), np.array(streams), np.concatenate(places))
    order = np.lexsort((-scan.scores, scan.stamps, scan.streams))  # of one that lies in two folders the better first
    same = (np.diff(scan.streams[order]) == 0) & (np.diff(scan.stamps[order]) == 0)
    order = order[np.r_[True, ~same]]
    return _Scan(scan.scores[order], scan.stamps[order], scan.streams[order], scan.places[order])


def _peaks(scan: _Scan) -> Iterator[tuple[int, int, int]]:
    """(best, first, last) frame of each clip, the best first.

    A clip goes on as long as its frames stand out at least LEAST as much as the best one from the median of all, and
    follow each other by JOIN_NS at most. What is within that time of a clip is no other one.
    """
    usual = float(np.median(scan.scores)) if len(scan.scores) else 0.0
    taken = np.zeros(len(scan.scores), bool)
    for best in np.argsort(-scan.scores, kind='stable'):
        if taken[best]:
            continue
        level = usual + LEAST * (scan.scores[best] - usual)
        ends = []
        for step in (-1, 1):
            end = at = int(best)
            while 0 <= at + step < len(scan.scores) and scan.streams[at + step] == scan.streams[best] \
                    and abs(scan.stamps[at + step] - scan.stamps[end]) <= JOIN_NS:
                at += step
                if scan.scores[at] >= level and not taken[at]:
                    end = at
            ends.append(end)
        first, last = ends
        own = scan.streams == scan.streams[best]
        taken |= own & (scan.stamps >= scan.stamps[first] - JOIN_NS) & (scan.stamps <= scan.stamps[last] + JOIN_NS)
        yield int(best), first, last


def _clip(recordings: EmbeddedRecordings, question: Question, usual: npt.NDArray[np.float32], scan: _Scan, best: int,
          first: int, last: int) -> Clip:
    number, index = (int(value) for value in scan.places[best])
    one = recordings.stored[number]
    return Clip(one.record(index), float(scan.scores[best]), int(scan.stamps[first]), int(scan.stamps[last]),
                last - first + 1, _found_box(one, index, question, usual), one.part.thumbnail(index), one.nominal)


def _found_box(one: Stored, index: int, question: Question, usual: npt.NDArray[np.float32]) -> Box:
    """Where in a frame what is looked for is: the patches round the most similar one that stand out half as much."""
    frame = one.part.frame(index, held_out=False)
    weights = _weights(usual)
    # what resembles a rare piece, and not what resembles one that is everywhere still more
    similar = (question.similarities(np.asarray(frame.vectors)) * (weights / weights.max())).max(axis=1)
    peak = int(similar.argmax())
    above = similar >= (np.median(similar) + similar[peak]) / 2
    boxes = frame.boxes
    near = np.zeros(len(boxes), bool)
    near[peak] = True
    while True:
        x, y = boxes[near, :2].min(axis=0)
        right, bottom = (boxes[near, :2] + boxes[near, 2:]).max(axis=0)
        touching = (boxes[:, 0] <= right) & (boxes[:, 0] + boxes[:, 2] >= x) & (boxes[:, 1] <= bottom) & (
            boxes[:, 1] + boxes[:, 3] >= y)
        grown = near | (above & touching)
        if (grown == near).all():
            return int(x), int(y), int(right - x), int(bottom - y)
        near = grown
