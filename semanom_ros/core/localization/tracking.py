"""Anomalous regions followed through a camera's pictures."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from semanom_ros.core.motion import Flow, Grey, small_grey

MIN_IOU = 0.1  # overlap from which two boxes can be the same thing
MAX_GAP_NS = 2_000_000_000  # after a longer pause nothing can be recognized by its place


class CameraMotion:
    """Where what was at a place of the last picture is in the present one.

    Dense optical flow covers the camera's motion and that of the things themselves.
    """

    def __init__(self) -> None:
        self._flow = Flow()
        self._last: Grey | None = None

    def advance(self, image: npt.NDArray[np.uint8], boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Takes the next picture; returns where boxes (N, 4) (x, y, width, height) of the last one are in it.

        Args:
            image: (H, W, 3) uint8 RGB.
            boxes: in pixels of the picture.
        """
        height, width = image.shape[:2]
        grey = small_grey(image)
        last, self._last = self._last, grey
        if last is None or last.shape != grey.shape or not len(boxes):
            return boxes
        flow = self._flow(last, grey)
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
        track_id: from 1, never given twice.
        box: (4,) float32 (x, y, width, height) in the last picture, pixels.
        first_ns, last_ns: stamps of the first and the latest picture in which it was seen.
        seen, pictures: pictures in which it was seen, and that have passed since its first, that one included.
    """

    track_id: int
    box: npt.NDArray[np.float32]
    first_ns: int
    last_ns: int
    seen: int = 1
    pictures: int = 1

    def persists(self, duration_ns: int) -> bool:
        """Whether it was seen over that long, in at least half of the pictures."""
        return self.last_ns - self.first_ns >= duration_ns and 2 * self.seen >= self.pictures


@dataclass
class Tracker:
    """Tracks of one camera: boxes moved with the picture, assigned by overlap.

    Attributes:
        memory_ns: for how long a thing may go unseen before it is forgotten (at least one picture).
    """

    memory_ns: int
    _tracks: list[Track] = field(default_factory=list)
    _next_id: int = 1
    _stamp_ns: int | None = None
    _size: tuple[int, ...] = ()
    _motion: CameraMotion = field(default_factory=CameraMotion)

    def update(self, image: npt.NDArray[np.uint8], stamp_ns: int, boxes: npt.NDArray[np.float32]) -> list[Track]:
        """Takes the regions of the next picture.

        Stamps that go backwards (a looped recording) or pause for more than two seconds, and pictures of another size,
        forget all tracks.

        Args:
            image: (H, W, 3) uint8 RGB.
            stamp_ns: its stamp.
            boxes: (N, 4) float32 (x, y, width, height), pixels.

        Returns:
            The track of each box.
        """
        follows = self._stamp_ns is not None and 0 <= stamp_ns - self._stamp_ns <= MAX_GAP_NS
        if not follows or image.shape[:2] != self._size:
            self._tracks, self._motion = [], CameraMotion()
        self._stamp_ns, self._size = stamp_ns, image.shape[:2]
        predicted = self._motion.advance(image, np.array([t.box for t in self._tracks], np.float32).reshape(-1, 4))
        for track, box in zip(self._tracks, predicted, strict=True):
            track.box = box
            track.pictures += 1
        overlap = iou(predicted, boxes)
        result: list[Track | None] = [None] * len(boxes)
        for old, new in zip(*linear_sum_assignment(-overlap), strict=True):
            if overlap[old, new] >= MIN_IOU:
                track = self._tracks[old]
                track.box, track.last_ns, track.seen = boxes[new], stamp_ns, track.seen + 1
                result[new] = track
        assigned = []
        for box, found in zip(boxes, result, strict=True):
            if found is None:
                found = Track(self._next_id, box, stamp_ns, stamp_ns)
                self._next_id += 1
                self._tracks.append(found)
            assigned.append(found)
        self._tracks = [t for t in self._tracks
                        if t.last_ns == stamp_ns or t.pictures - t.seen <= 1 or stamp_ns - t.last_ns <= self.memory_ns]
        return assigned


def iou(first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(N, M) overlap over union of boxes (N, 4) and (M, 4), (x, y, width, height)."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, :2] + first[:, None, 2:], second[None, :, :2] + second[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(axis=2)
    union = first[:, 2:].prod(axis=1)[:, None] + second[:, 2:].prod(axis=1)[None] - common
    return (common / np.maximum(union, 1e-9)).astype(np.float32)
