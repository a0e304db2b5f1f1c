"""What is there to be reviewed: alarms in result bags and live recordings, frames that were mined, and their pictures.

Pictures are copied, as JPEG, to a folder for the time of a review: any of them can then be shown at once, in any order,
also when the recording goes away meanwhile.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from semanom_ros.core.progress import Progress
from semanom_ros.errors import BagError, SemanomError
from semanom_ros.finding.label_task import MINED
from semanom_ros.recordings.bags import BagReader
from semanom_ros.recordings.images import compress_pixels
from semanom_ros.review.verdict_files import Thing
from semanom_ros.small_files import read_small

_RESULTS = 'semanom_ros/msg/AnomalyArray'
_VERDICTS = ('unknown', 'nominal', 'anomalous')
_DEPTH = 3  # folders below the one that is named
_RECORDINGS = ('.mcap', '.db3', '.bag')

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Nearest:
    """The nominal example that a thing resembles most.

    Attributes:
        source, topic, stamp_ns: where it comes from.
        box: x, y, width, height in its picture.
        distance: cosine distance, 0 to 2.
        picture: JPEG; b'' where the database keeps none.
    """

    source: str
    topic: str
    stamp_ns: int
    box: tuple[int, int, int, int]
    distance: float
    picture: bytes


@dataclass(frozen=True)
class Outline:
    """A thing that is outlined in a frame.

    Attributes:
        track: number that it keeps over time; 0: none.
        score: calibrated, 1 is the alarm level.
        p_value: (0, 1]; NaN where it is not known.
        box: x, y, width, height in pixels.
        contour: (x, y) in pixels.
        label: zero-shot text label; '': none.
        nearest: None where it is not known.
    """

    track: int
    score: float
    p_value: float
    box: tuple[int, int, int, int]
    contour: tuple[tuple[float, float], ...]
    label: str
    nearest: Nearest | None


@dataclass
class Shown:
    """One frame.

    Attributes:
        stamp_ns: of it.
        size: (height, width) in pixels.
        picture: file with its JPEG.
        verdict: of the detector; '': it said nothing about this frame.
        score: calibrated; NaN where it is not known.
        said: in a line, why it is unknown or held back.
        outlines: what it found.
    """

    stamp_ns: int
    size: tuple[int, int]
    picture: Path
    verdict: str = ''
    score: float = math.nan
    said: str = ''
    outlines: tuple[Outline, ...] = ()


@dataclass
class Reviewed:
    """Frames of one recording and topic, in order.

    Attributes:
        path: of the recording.
        sha256: which one it is.
        topic: of the images.
        frames: of it.
    """

    path: str
    sha256: str
    topic: str
    frames: list[Shown] = field(default_factory=list)


@dataclass(frozen=True)
class Case:
    """A thing to be judged: of what was tracked, the frame in which it scores highest.

    Attributes:
        source: number of its recording.
        frame: number of its frame there.
        outline: of it.
        frames: in how many it was flagged.
    """

    source: int
    frame: int
    outline: Outline
    frames: int


class Cases:
    """What the folders hold.

    Attributes:
        sources: recordings with results, and mined ones.
        cases: things to be judged, recording by recording, in the order of time.
        notes: what was left out, a line each.
    """

    def __init__(self, folders: Sequence[Path], pictures: Path, progress: Progress) -> None:
        """
        Args:
            folders: result bags, folders of them, what `semanom evaluate` or `semanom mine` wrote.
            pictures: empty folder for the pictures.
            progress: is told.

        Raises:
            SemanomError: nothing is there to be reviewed.
        """
        self.sources: list[Reviewed] = []
        self.notes: list[str] = []
        self._pictures = pictures
        for folder in folders:
            before, notes = len(self.sources), len(self.notes)
            for path in _found(folder):
                if path.name == MINED:
                    self._add_mined(path)
                else:
                    self._add_recording(path, progress)
            if len(self.sources) == before:
                why = f' ({"; ".join(self.notes[notes:])})' if self.notes[notes:] else ''
                raise SemanomError(f'{folder}: found nothing to review{why}, expected result bags of semanom evaluate, '
                                   'recordings with the topic anomalies of a detector, or runs of semanom mine')
        self.cases = [case for number, source in enumerate(self.sources) for case in _cases(number, source)]

    def thing(self, case: Case) -> Thing:
        """What a verdict on a case is about."""
        source = self.sources[case.source]
        return Thing(source.sha256, source.topic, source.frames[case.frame].stamp_ns, case.outline.box)

    def _kept(self, jpeg: bytes) -> Path:
        path = self._pictures / f'{len(os.listdir(self._pictures)):07d}.jpg'
        path.write_bytes(jpeg)
        return path

    def _add_recording(self, path: Path, progress: Progress) -> None:
        try:
            with BagReader(path) as reader:
                results = [topic for topic, type in reader.topics.items() if type == _RESULTS and reader.counts[topic]]
                cameras = [topic for topic in reader.image_topics if reader.counts[topic]]
                if not results or not cameras:
                    self.notes.append(f'{path}: it has no {"pictures" if results else "results of a detector"}')
                    return
                said = self._said(reader, results)
                sha256 = reader.fingerprint()
                by_topic = {topic: Reviewed(str(reader.path), sha256, topic) for topic in cameras}
                progress.begin(f'read {reader.path.name}', sum(reader.counts[topic] for topic in cameras), 'frame')
                try:
                    for frame in reader.images(cameras):
                        jpeg = bytes(compress_pixels(frame.image))
                        shown = Shown(frame.stamp_ns, (frame.size[0], frame.size[1]), self._kept(jpeg))
                        _fill(shown, said.get(frame.stamp_ns, []), frame.topic, len(cameras) > 1)
                        by_topic[frame.topic].frames.append(shown)
                        progress.advance(1)
                except BagError as error:  # what came before is shown
                    self.notes.append(str(error))
                progress.end()
        except BagError as error:
            self.notes.append(str(error))
            return
        self.sources += [one for one in by_topic.values() if any(frame.verdict for frame in one.frames)]
        without = [topic for topic, one in by_topic.items() if not any(frame.verdict for frame in one.frames)]
        if without:
            self.notes.append(f'{path}: no result is of a picture on {", ".join(without)}')

    def _said(self, reader: BagReader, results: Sequence[str]) -> dict[int, list[Any]]:
        """Results by stamp."""
        said: dict[int, list[Any]] = {}
        try:
            for _, _, message in reader.messages(results):
                stamp = message.header.stamp
                said.setdefault(stamp.sec * 10**9 + stamp.nanosec, []).append(message)
        except BagError as error:
            self.notes.append(str(error))
        return said

    def _add_mined(self, path: Path) -> None:
        try:
            mined = json.loads(read_small(path))['mined']
            for one in mined:
                picture = _inside(path.parent, one['image'])
                if picture is None:
                    self.notes.append(f'{path}: {one["image"]} is not there')
                    continue
                outlines = tuple(Outline(0, float(thing['score']), float(thing['p_value']), _box(thing['box']), (), '',
                                         _mined_nearest(path.parent, thing['nearest'])) for thing in one['anomalies'])
                # The page is told the size by the picture itself.
                shown = Shown(int(one['stamp_ns']), (0, 0), picture, 'anomalous', float(one['score']), '', outlines)
                self.sources.append(Reviewed(one['recording'], one['recording_sha256'], one['topic'], [shown]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            self.notes.append(f'{path}: is none that semanom mine wrote ({error!r})')


def _found(folder: Path) -> Iterator[Path]:
    """Recordings and mined runs in a folder, sorted; of a run its list, and not its clips."""
    if not folder.exists():
        raise SemanomError(f'{folder}: found nothing there, expected a folder; correct the path')
    if folder.is_file():
        yield folder
        return
    if (folder / MINED).is_file():
        yield folder / MINED
        return
    if (folder / 'metadata.yaml').is_file() or any(path.suffix in _RECORDINGS for path in folder.iterdir()):
        yield folder
        return
    for below in _below(folder, _DEPTH):
        if (below / MINED).is_file():
            yield below / MINED
        else:
            yield below


def _below(folder: Path, depth: int) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if not path.is_dir() or path.name.startswith('.'):
            continue
        names = {one.name for one in path.iterdir()}
        if MINED in names or 'metadata.yaml' in names or any(Path(name).suffix in _RECORDINGS for name in names):
            yield path
        elif depth > 1:
            yield from _below(path, depth - 1)


def _fill(shown: Shown, results: Sequence[Any], topic: str, several: bool) -> None:
    """What the detector said about a frame; of several cameras with one stamp, the one whose name the topic holds."""
    fitting = [message for message in results if not several or message.camera in topic.split('/')]
    if not fitting:
        return
    message = fitting[0]
    shown.verdict = _VERDICTS[message.verdict] if message.verdict < len(_VERDICTS) else 'unknown'
    shown.score, shown.said = float(message.score), message.explanation
    shown.outlines = tuple(_outline(one) for one in message.anomalies)


def _outline(message: Any) -> Outline:
    near, nearest = message.nearest, None
    if near.source:
        stamp = near.stamp.sec * 10**9 + near.stamp.nanosec
        nearest = Nearest(near.source, near.topic, stamp, _region(near.box), float(near.distance),
                          bytes(near.thumbnail.data))
    return Outline(int(message.track_id), float(message.score), float(message.p_value), _region(message.box),
                   tuple((float(point.x), float(point.y)) for point in message.contour), message.label, nearest)


def _mined_nearest(run: Path, near: Any) -> Nearest | None:
    if near is None:
        return None
    picture = _inside(run, near['image'])
    return Nearest(near['recording'], near['topic'], int(near['stamp_ns']), _box(near['box']), float(near['distance']),
                   picture.read_bytes() if picture else b'')


def _inside(folder: Path, name: str) -> Path | None:
    """A file in a folder, wherever its name would lead; None where there is none."""
    path = (folder / name).resolve()
    return path if folder.resolve() in path.parents and path.is_file() else None


def _region(roi: Any) -> tuple[int, int, int, int]:
    return int(roi.x_offset), int(roi.y_offset), int(roi.width), int(roi.height)


def _box(values: Sequence[int]) -> tuple[int, int, int, int]:
    x, y, width, height = (int(value) for value in values)
    return x, y, width, height


def _cases(number: int, source: Reviewed) -> list[Case]:
    """One for each track, and for each thing outside tracks."""
    tracks: dict[int, list[tuple[int, Outline]]] = {}
    found: list[Case] = []
    for place, frame in enumerate(source.frames):
        for outline in frame.outlines:
            if outline.track:
                tracks.setdefault(outline.track, []).append((place, outline))
            else:
                found.append(Case(number, place, outline, 1))
    for seen in tracks.values():
        place, outline = max(seen, key=lambda one: one[1].score)
        found.append(Case(number, place, outline, len(seen)))
    return sorted(found, key=lambda case: (case.frame, case.outline.box))
