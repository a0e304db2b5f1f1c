"""Verdicts into a database: what people found nominal becomes reviewed nominal, and what it changes is shown."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from semanom_ros.core.database.storage import LOCK, FrameRecord, NominalAddition
from semanom_ros.core.frames import Frame
from semanom_ros.core.pipeline import CameraState, Judge, evidence_for
from semanom_ros.core.progress import Progress
from semanom_ros.core.results import FrameResult, Verdict
from semanom_ros.errors import BagError
from semanom_ros.finding.opening import Places
from semanom_ros.recordings.bags import BagReader
from semanom_ros.recordings.instance_masks import BagSegments, wanted_segments
from semanom_ros.review.verdict_files import Opinion, ReviewVerdict, Thing, agreed, disagree, standing

log = logging.getLogger(__name__)


@dataclass
class Gathered:
    """What verdicts come to.

    Attributes:
        additions: what is to become nominal.
        known: things that raise no alarm any more: applied before, or the database has learned them otherwise.
        unknown: things in frames that cannot be judged now; they are left out.
        gone: things whose frame or recording is not there any more; they are left out.
        disagreed: things on which authors differ; they are left out.
        missing: what is not there any more, a line each.
    """

    additions: list[NominalAddition] = field(default_factory=list)
    known: int = 0
    unknown: int = 0
    gone: int = 0
    disagreed: int = 0
    missing: list[str] = field(default_factory=list)


def gather(verdicts: Iterable[ReviewVerdict], judge: Judge, recordings: Sequence[Path], progress: Progress) -> Gathered:
    """Embeds what was found nominal, from the frames that were judged, as they are judged by the database now.

    Only what still raises an alarm is taken, and of the frame only what lies in the box that the verdict is about. The
    filter over time is off: a verdict is about one frame.

    Args:
        verdicts: of everybody.
        judge: of the database that they go into.
        recordings: where recordings lie now, if they were moved.
        progress: is told.

    Raises:
        BagError: one of `recordings` is none.
    """
    judge, found = judge.live({'filter_temporal': False}), Gathered()
    by_source: dict[str, dict[tuple[str, int], list[Thing]]] = {}
    paths: dict[str, str] = {}
    for thing, by_author in standing(verdicts).items():
        verdict = agreed(by_author)
        found.disagreed += disagree(by_author)
        if verdict is not None and verdict.opinion is Opinion.NOMINAL:
            paths[thing.recording_sha256] = verdict.recording
            frames = by_source.setdefault(thing.recording_sha256, {})
            frames.setdefault((thing.topic, thing.stamp_ns), []).append(thing)
    places = Places(recordings)
    progress.begin('judge again', sum(map(len, by_source.values())), 'frame')
    for sha256, frames in by_source.items():
        left = dict(frames)
        topic = next(iter(frames))[0]
        here = places.of(FrameRecord(paths[sha256], sha256, topic, 0, (0, 0)))
        for frame in _frames(here.path, left, judge) if here else ():
            things = left.pop((frame.topic, frame.stamp_ns))
            progress.advance(1)
            result = judge.process(frame, CameraState())
            if result.verdict is Verdict.UNKNOWN:
                found.unknown += len(things)
                log.warning('%s: %s at %d is unknown (%s); it is left out', frame.source, frame.topic, frame.stamp_ns,
                            result.explanation)
                continue
            for thing in things:
                addition = _inside(frame, result, thing) if result.anomalous else None
                if addition is None:
                    found.known += 1
                else:
                    found.additions.append(addition)
        if left:
            found.gone += sum(map(len, left.values()))
            if here:
                found.missing.append(f'{here.path}: {len(left)} of the frames that were judged are not in it')
    progress.end()
    found.missing += places.missing.values()
    return found


def _frames(path: Path, wanted: dict[tuple[str, int], list[Thing]], judge: Judge) -> Iterator[Frame]:
    """Those frames of a recording; what a damaged one has before its damage."""
    try:
        with BagReader(path) as reader:
            topics = sorted({topic for topic, _ in wanted} & reader.image_topics.keys())
            if not topics:
                return
            with BagSegments(reader, topics, wanted_segments(judge.settings.queries)) as segments:
                yield from reader.images(topics, lambda topic, stamp: (topic, stamp) in wanted, segments,
                                         judge.settings.encoder.bit_depth)
    except BagError as error:
        log.warning('%s; what came before is used', error)


def _inside(frame: Frame, result: FrameResult, thing: Thing) -> NominalAddition | None:
    """The evidence of a flagged frame that lies in a box; None where there is none."""
    evidence = evidence_for(frame, result)
    x, y, width, height = thing.box
    boxes = np.asarray(evidence.boxes)
    inside = ((boxes[:, 0] < x + width) & (x < boxes[:, 0] + boxes[:, 2])
              & (boxes[:, 1] < y + height) & (y < boxes[:, 1] + boxes[:, 3]))
    if not inside.any():
        return None
    record = replace(evidence.record, source_sha256=thing.recording_sha256)
    return NominalAddition(record, torch.as_tensor(evidence.vectors).cpu()[torch.from_numpy(inside)], boxes[inside],
                           np.asarray(evidence.positions)[inside], evidence.thumbnail)


@dataclass(frozen=True)
class Change:
    """A frame whose verdict is another one afterwards.

    Attributes:
        stamp_ns: of it.
        before, after: verdicts.
        score_before, score_after: calibrated; NaN where it is unknown.
    """

    stamp_ns: int
    before: Verdict
    after: Verdict
    score_before: float
    score_after: float


@dataclass
class Regression:
    """What a change of the database does to a recording.

    Attributes:
        frames: that were judged.
        before, after: how many frames got which verdict.
        changes: frames whose verdict differs.
        damage: what could not be read; '': nothing.
    """

    frames: int = 0
    before: Counter[Verdict] = field(default_factory=Counter)
    after: Counter[Verdict] = field(default_factory=Counter)
    changes: list[Change] = field(default_factory=list)
    damage: str = ''


def regression(recording: Path, image_topic: str, before: Judge, after: Judge, progress: Progress) -> Regression:
    """Replays a recording through both, every frame in order, with the filter as it is set.

    Args:
        recording: to replay.
        image_topic: '' where it has one.
        before, after: what judges.
        progress: is told.

    Raises:
        BagError: the recording or topic will not do.
    """
    found, states = Regression(), (CameraState(), CameraState())
    with BagReader(recording) as reader:
        topic = reader.image_topic(image_topic)
        progress.begin(f'replay {reader.path.name}', reader.counts[topic], 'frame')
        try:
            with BagSegments(reader, [topic], wanted_segments(before.settings.queries)) as segments:
                for frame in reader.images(topic, segments=segments, bit_depth=before.settings.encoder.bit_depth):
                    first, second = (judge.process(frame, state)
                                     for judge, state in zip((before, after), states, strict=True))
                    found.frames += 1
                    found.before[first.verdict] += 1
                    found.after[second.verdict] += 1
                    if first.verdict is not second.verdict:
                        found.changes.append(Change(frame.stamp_ns, first.verdict, second.verdict, first.score,
                                                    second.score))
                    progress.advance(1)
        except BagError as error:  # what came before counts
            found.damage = str(error)
        progress.end()
    return found


@contextmanager
def tried(judge: Judge, additions: list[NominalAddition]) -> Iterator[Judge]:
    """The judge that there would be with more in the database, which stays as it is.

    It is made by the same code on a copy beside the database, of links to the files of its versions: those never
    change.
    """
    path = judge.database.path.absolute()
    with tempfile.TemporaryDirectory(prefix=f'.{path.name}.trial.', dir=path.parent) as folder:
        trial = Path(folder) / path.name
        shutil.copytree(path, trial, copy_function=_link, ignore=shutil.ignore_patterns(LOCK, 'staging', '*.new'))
        yield judge.with_database(trial).accepting(additions)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # a file system without links
        shutil.copy2(source, target, follow_symlinks=False)
