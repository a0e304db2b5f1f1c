"""Anomalous regions followed through a camera's pictures."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from semanom_ros.core.motion import Flow, Grey, small_grey

MIN_IOU = 0.1  # overlap from which two boxes can be the same thing


class CameraMotion:
    """Where what was at a place of the last picture is in the present one.

    Dense optical flow covers the camera's motion and that of the things themselves.
    """

    def __init__(self) -> None:
        self._flow = Flow()
        self._last: npt.NDArray[np.uint8] | None = None
        self._grey: Grey | None = None  # of the last one, where it was needed

    def advance(self, image: npt.NDArray[np.uint8], boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Takes the next picture; returns where boxes (N, 4) (x, y, width, height) of the last one are in it.

        Args:
            image: (H, W, 3) uint8 RGB.
            boxes: in pixels of the picture.
        """
        height, width = image.shape[:2]
        last, before = self._last, self._grey
        self._last, self._grey = image, None
        if last is None or last.shape != image.shape or not len(boxes):
            return boxes
        grey = self._grey = small_grey(image)
        flow = self._flow(small_grey(last) if before is None else before, grey)
        ratio = np.array([width / grey.shape[1], height / grey.shape[0]], np.float32)
        return np.stack([self._moved(box, flow, ratio) for box in boxes])

    @staticmethod
    def _moved(box: npt.NDArray[np.float32], flow: npt.NDArray[np.float32],
               ratio: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """One box moved by the median flow inside it and grown as the flow diverges there."""
        x, y = (int(v) for v in box[:2] / ratio)
        x, y = min(max(x, 0), flow.shape[1] - 1), min(max(y, 0), flow.shape[0] - 1)
        w, h = (max(1, int(np.ceil(v))) for v in box[2:] / ratio)
        inside = flow[y:y + h, x:x + w]
        shift = np.median(inside.reshape(-1, 2), axis=0) * ratio
        growth = 1.0
        if min(inside.shape[:2]) >= 4:
            across, down = inside.shape[1] // 2, inside.shape[0] // 2
            wider = np.median(inside[:, across:, 0]) - np.median(inside[:, :across, 0])
            taller = np.median(inside[down:, :, 1]) - np.median(inside[:down, :, 1])
            growth = float(np.clip(1 + (wider / across + taller / down) / 2, 0.8, 1.25))
        size = box[2:] * growth
        return np.concatenate([box[:2] + box[2:] / 2 + shift - size / 2, size]).astype(np.float32)


@dataclass
class Track:
    """One thing over time.

    Attributes:
        box: (4,) float32 (x, y, width, height) in the last picture, pixels.
        track_id: from 1, never given twice; 0 until it is confirmed.
        age_ns: from the first picture to the latest in which it was seen.
        unseen_ns: since then.
        seen, pictures: pictures in which it was seen, and that have passed since its first, that one included.
        evidence: that it is an anomaly; see `SequentialTest`.
    """

    box: npt.NDArray[np.float32]
    track_id: int = 0
    age_ns: int = 0
    unseen_ns: int = 0
    seen: int = 0
    pictures: int = 0
    evidence: float = 0.0

    @property
    def confirmed(self) -> bool:
        """Whether enough evidence has come."""
        return self.track_id > 0


@dataclass
class Tracker:
    """Tracks of one camera: boxes moved with the picture, assigned by overlap.

    Attributes:
        drift: image widths that things may move in a second beside what the flow says.
        tracks: that are remembered; whoever uses them takes out what is to be forgotten.
    """

    drift: float = 0.05
    tracks: list[Track] = field(default_factory=list)
    _size: tuple[int, ...] = ()
    _motion: CameraMotion = field(default_factory=CameraMotion)

    def update(self, image: npt.NDArray[np.uint8], elapsed_ns: int | None, boxes: npt.NDArray[np.float32]
               ) -> list[Track]:
        """Takes the regions of the next picture.

        A picture that does not follow the last one, and one of another size, forget all tracks. The longer the time
        between two pictures, the less the flow can tell: boxes may then lie farther from where they are expected.

        Args:
            image: (H, W, 3) uint8 RGB.
            elapsed_ns: since the last picture; None: it does not follow that.
            boxes: (N, 4) float32 (x, y, width, height), pixels.

        Returns:
            The track of each box; `tracks` holds them too, and those that were not seen.
        """
        if elapsed_ns is None or image.shape[:2] != self._size:
            self.tracks, self._motion, elapsed_ns = [], CameraMotion(), 0
        self._size = image.shape[:2]
        predicted = self._motion.advance(image, np.array([t.box for t in self.tracks], np.float32).reshape(-1, 4))
        for track, box in zip(self.tracks, predicted, strict=True):
            track.box = box
            track.pictures += 1
            track.unseen_ns += elapsed_ns
        margin = self.drift * image.shape[1] * elapsed_ns / 1e9 * np.array([-1, -1, 2, 2], np.float32)
        overlap = iou(predicted + margin, boxes + margin)
        known: dict[int, Track] = {}
        for old, new in zip(*linear_sum_assignment(-overlap), strict=True):
            if overlap[old, new] >= MIN_IOU:
                known[int(new)] = self.tracks[old]
        assigned = []
        for number, box in enumerate(boxes):
            if number not in known:
                known[number] = Track(box, pictures=1)
                self.tracks.append(known[number])
            track = known[number]
            track.box, track.seen = box, track.seen + 1
            track.age_ns, track.unseen_ns = track.age_ns + track.unseen_ns, 0
            assigned.append(track)
        return assigned


def iou(first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(N, M) overlap over union of boxes (N, 4) and (M, 4), (x, y, width, height)."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, :2] + first[:, None, 2:], second[None, :, :2] + second[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(axis=2)
    union = first[:, 2:].prod(axis=1)[:, None] + second[:, 2:].prod(axis=1)[None] - common
    return (common / np.maximum(union, 1e-9)).astype(np.float32)
