"""Pictures of what was found, missed and falsely reported, taken from the result bags."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from semanom_ros.core.picture_decoder import decode_thumbnail
from semanom_ros.core.results import Reason
from semanom_ros.core.scoring.timeline import runs
from semanom_ros.errors import BagError
from semanom_ros.evaluation.measurement import Measurement
from semanom_ros.evaluation.metrics import ANOMALOUS, IGNORE
from semanom_ros.evaluation.replay import Recording, Replay
from semanom_ros.evaluation.result_bag import PREFIX
from semanom_ros.evaluation.truth import TruthReader
from semanom_ros.recordings import ground_truth
from semanom_ros.recordings.bags import BagReader
from semanom_ros.recordings.images import compress_pixels, image_from_compressed, stamp_ns
from semanom_ros.ros.outputs import ANOMALIES, ANOMALY_MAP, OVERLAY_JPEG

MOST = 6
"""Most pictures of each kind."""

MOST_HELD_BACK = 2

_WIDTH = 560  # pixels of a picture in the report
_TRUTH_COLOUR = (255, 196, 0)
_EPOCH_STAMPS = 100_000_000 * 10**9  # earlier stamps are no dates
Image = npt.NDArray[np.uint8]
T = TypeVar('T')


@dataclass
class Moment:
    """One frame worth showing.

    Attributes:
        recording: index of its recording.
        stamp_ns: its stamp.
        seconds: since the start of its recording.
        score, threshold, p_value: of the frame.
        delay_s: for a noticed event, seconds until the first alarm.
        overlay, truth, evidence: data URIs; '' where there is none.
        evidence_caption: what the evidence shows.
        label: text label of the strongest anomaly.
        reason: why it is held back, or unknown; '' where it is neither.
        staged: what a simulated drive has staged there: anomalies, or their nominal twins.
    """

    recording: int
    stamp_ns: int
    seconds: float
    score: float
    threshold: float
    p_value: float
    delay_s: float | None = None
    overlay: str = ''
    truth: str = ''
    evidence: str = ''
    evidence_caption: str = ''
    label: str = ''
    reason: str = ''
    staged: str = ''


@dataclass
class Gallery:
    """Moments by kind, the most telling first."""

    found: list[Moment] = field(default_factory=list)
    missed: list[Moment] = field(default_factory=list)
    false: list[Moment] = field(default_factory=list)
    held_back: list[Moment] = field(default_factory=list)

    def moments(self) -> Iterable[Moment]:
        """All of them."""
        return (*self.found, *self.missed, *self.false, *self.held_back)


def choose(found: Replay, measurement: Measurement) -> Gallery:
    """One frame for each noticed event, missed event, false alarm and stretch that was held back; without ground truth,
    the strongest alarms."""
    starts: dict[int, int] = {}
    at = 0
    gallery = Gallery()
    missed_size: dict[int, int] = {}
    for frames, line in measurement.timelines():
        recording = found.recording_of[at]
        at += len(frames)
        start = starts.setdefault(recording, int(frames['stamp_ns'][0]))

        def moment(index: int, delay: float | None = None, *, of: npt.NDArray = frames, in_: int = recording,
                   since: int = start) -> Moment:
            frame = of[index]
            why = Reason(frame['reason'])
            reason = '' if why is Reason.NONE else f'{"held back" if why.holds_back else "unknown"}, {why.words}'
            return Moment(in_, int(frame['stamp_ns']), (int(frame['stamp_ns']) - since) / 1e9, float(frame['score']),
                          float(frame['threshold']), float(frame['p_value']), delay, reason=reason)

        for event in line.events:
            part = np.arange(event.start, event.stop + 1)
            if event.delay_s is None:
                shown = moment(int(part[frames['truth_pixels'][part].argmax()]))
                missed_size[id(shown)] = int(frames['truth_pixels'][part].max())
                gallery.missed.append(shown)
            else:
                rank = frames['score'][part] * frames['alarm'][part] * np.where(frames['localized'][part], 1.0, 0.1)
                gallery.found.append(moment(int(part[rank.argmax()]), event.delay_s))
        unknown = bool((frames['truth'] < 0).all())
        for first, last in line.alarms if unknown else line.false_alarms:
            part = np.arange(first, last + 1)
            alarmed = part[frames['alarm'][part] & (frames['truth'][part] != 1)]
            strongest = int(alarmed[frames['score'][alarmed].argmax()])
            (gallery.found if unknown else gallery.false).append(moment(strongest))
        for first, last in runs(frames['stamp_ns'], frames['held_back']):
            part = np.arange(first, last + 1)
            part = part[frames['held_back'][part]]
            strongest = int(part[frames['p_value'][part].argmin()])  # their scores are ranked as the threshold
            gallery.held_back.append(moment(strongest))
    gallery.found = sorted(gallery.found, key=lambda m: -m.score)[:MOST]
    gallery.false = sorted(gallery.false, key=lambda m: -m.score)[:MOST]
    gallery.missed = sorted(gallery.missed, key=lambda m: -missed_size[id(m)])[:MOST]
    shown_already = {(m.recording, m.stamp_ns) for m in (*gallery.found, *gallery.missed, *gallery.false)}
    gallery.held_back = sorted((m for m in gallery.held_back if (m.recording, m.stamp_ns) not in shown_already),
                               key=lambda m: m.p_value)[:MOST_HELD_BACK]
    return gallery


def illustrate(gallery: Gallery, found: Replay) -> None:
    """Fills in the pictures, reading each recording and its result bag once."""
    for index, recording in enumerate(found.recordings):
        wanted = {moment.stamp_ns: moment for moment in gallery.moments() if moment.recording == index}
        if wanted:
            _illustrate_one(wanted, recording, found.folder / 'bags' / recording.name, found.topics.truth_instances,
                            found.topics.bit_depth)


def _illustrate_one(moments: dict[int, Moment], recording: Recording, results: Path,
                    truth_instances: Sequence[str], bit_depth: int) -> None:
    with BagReader(recording.path) as reader, \
            TruthReader(BagReader(recording.path), recording.truth_topic, truth_instances) as truths:
        for frame in _readable(reader.images(recording.topic, wanted=lambda _, stamp: stamp in moments,
                                             bit_depth=bit_depth)):
            size = frame.size
            mask = truths.at(frame.stamp_ns, size)
            mask = np.zeros(size, np.uint8) if mask is None else mask
            moments[frame.stamp_ns].truth = data_uri(truth_picture(frame.image, mask))
        if reader.topics.get(ground_truth.SCENARIO) == 'std_msgs/msg/String':
            for _, time_ns, message in _readable(reader.messages([ground_truth.SCENARIO])):
                if time_ns in moments:
                    moments[time_ns].staged = _staged(json.loads(message.data))
    with BagReader(results) as reader:
        for stamp, message in _by_stamp(reader, PREFIX + OVERLAY_JPEG.name, moments).items():
            moments[stamp].overlay = data_uri(image_from_compressed(message))
        maps = _by_stamp(reader, PREFIX + ANOMALY_MAP.name, moments)
        for stamp, message in _by_stamp(reader, PREFIX + ANOMALIES.name, moments).items():
            moment = moments[stamp]
            if message.anomalies:
                _evidence(moment, message)
            elif stamp in maps:
                moment.evidence = data_uri(heat_picture(maps[stamp]))
                moment.evidence_caption = 'anomaly map; white is the threshold'


def _readable(items: Iterator[T]) -> Iterator[T]:
    """What comes before a recording breaks off; that it does was said when it was replayed."""
    with suppress(BagError):
        yield from items


def _by_stamp(reader: BagReader, topic: str, stamps: Iterable[int]) -> dict[int, Any]:
    if topic not in reader.topics:  # no frame had any
        return {}
    wanted = set(stamps)
    messages = _readable(reader.messages([topic]))
    return {stamp: message for _, _, message in messages if (stamp := stamp_ns(message)) in wanted}


def _staged(scenario: dict[str, Any]) -> str:
    def names(kind: str) -> str:
        return ', '.join(str(item['name']).replace('_', ' ') for item in scenario.get(kind, []))

    return names('anomalies') or (f'in view, validly: {names("twins")}' if scenario.get('twins') else '')


def _evidence(moment: Moment, message: Any) -> None:
    strongest = message.anomalies[0]
    moment.label = strongest.label
    nearest = strongest.nearest
    picture: Any = decode_thumbnail(bytes(nearest.thumbnail.data))
    if picture is None:
        return
    height, width = picture.shape[:2]
    scale = max(1, round(_WIDTH / 2 / width))
    picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    ratio = width / message.image_width, height / message.image_height
    if abs(ratio[0] / ratio[1] - 1) < 0.03:  # the nominal camera has the shape of this one: so has its box
        box = nearest.box
        corner = [round(v * r * scale) for v, r in zip((box.x_offset, box.y_offset), ratio, strict=True)]
        end = [round((a + s) * r * scale) for a, s, r in
               zip((box.x_offset, box.y_offset), (box.width, box.height), ratio, strict=True)]
        cv2.rectangle(picture, corner, end, (0, 0, 0), 4)
        cv2.rectangle(picture, corner, end, (255, 255, 255), 2)
    moment.evidence = data_uri(picture)
    when = clock(nearest.stamp.sec * 1_000_000_000 + nearest.stamp.nanosec)
    moment.evidence_caption = f'nearest nominal, distance {nearest.distance:.2f}: {Path(nearest.source).name}, {when}'


def truth_picture(image: Image, mask: npt.NDArray[np.uint8]) -> Image:
    """The frame with what is truly anomalous outlined and what is ignored in grey."""
    picture = image.copy()
    ignored = mask == IGNORE
    picture[ignored] = picture[ignored] // 2 + 96
    anomalous = (mask == ANOMALOUS).astype(np.uint8)
    outlines, _ = cv2.findContours(anomalous, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    thickness = max(2, image.shape[1] // 240)
    cv2.drawContours(picture, outlines, -1, (0, 0, 0), 2 * thickness, cv2.LINE_AA)
    cv2.drawContours(picture, outlines, -1, _TRUTH_COLOUR, thickness, cv2.LINE_AA)
    return picture


def heat_picture(message: Any) -> Image:
    """An anomaly map (32FC1 Image) as a picture: grey up to white at the threshold, red above."""
    shown = np.frombuffer(message.data, np.float32).reshape(message.height, message.width)
    picture = np.repeat((np.clip(shown, 0, 1) * 255).astype(np.uint8)[..., None], 3, axis=2)
    above = np.clip(shown - 1, 0, 2) / 2
    picture[shown > 1] = (np.array([220, 38, 54]) * (0.4 + 0.6 * above[shown > 1, None])).astype(np.uint8)
    return picture


def clock(stamp: int) -> str:
    """A stamp in nanoseconds as people read it: time of day (UTC), or seconds where the clock starts with the drive."""
    if stamp < _EPOCH_STAMPS:
        return f'{stamp / 1e9:.1f} s'
    moment = datetime.fromtimestamp(stamp / 1e9, timezone.utc)
    return f'{moment:%H:%M:%S}.{moment.microsecond // 100_000}'


def data_uri(image: npt.NDArray[Any]) -> str:
    """A picture as a JPEG inside the page."""
    if image.shape[1] > _WIDTH:
        size = _WIDTH, round(image.shape[0] * _WIDTH / image.shape[1])
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return 'data:image/jpeg;base64,' + base64.b64encode(compress_pixels(image, quality=82).tobytes()).decode()
