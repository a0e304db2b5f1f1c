"""Masks found now and then, and moved with the picture in between."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt
import torch

from semanom_ros.core.embedding.segmenters.segmenter import Segmenter
from semanom_ros.core.frames import Frame, Segments
from semanom_ros.core.motion import Flow, Grey, small_grey

LONGEST_GAP_NS = 500_000_000  # between two pictures, for what is in them to be followed


@dataclass
class _Last:
    """The latest picture of a camera."""

    stamp_ns: int
    size: tuple[int, ...]
    grey: Grey
    segments: Segments
    age: int  # pictures since its masks were found


@dataclass
class MaskMemory:
    """What is remembered of the masks of one camera."""

    last: _Last | None = None
    flow: Flow = field(default_factory=Flow)


def refreshed(segmenter: Segmenter, every: int, frame: Frame, patches: torch.Tensor, memory: MaskMemory) -> Segments:
    """Segments found in every n-th picture of a camera; between, the last ones are moved by dense optical flow.

    New masks are found at once where that cannot work: stamps that go back, a gap, pictures of another size.

    Args:
        segmenter: that finds masks.
        every: in every so manieth picture.
        frame, patches: see `Segmenter.segment`.
        memory: of the frame's camera, changed here.
    """
    if every == 1:
        return segmenter.segment(frame, patches)
    grey, last, size = small_grey(frame.image), memory.last, frame.image.shape[:2]
    follows = last is not None and last.size == size and 0 <= frame.stamp_ns - last.stamp_ns <= LONGEST_GAP_NS
    if last is None or not follows or last.age + 1 >= every:
        found, age = segmenter.segment(frame, patches), 0
    else:
        found, age = moved(last.segments, memory.flow(grey, last.grey)), last.age + 1
    memory.last = _Last(frame.stamp_ns, size, grey, found, age)
    return found


def moved(segments: Segments, origin: npt.NDArray[np.float32]) -> Segments:
    """Segments in the next picture; those that leave it are gone.

    Args:
        segments: of the last picture.
        origin: (h, w, 2) by how much what is in the next picture lay elsewhere (x, y) in the last one, in pixels of
            this smaller size.
    """
    height, width = segments.labels.shape
    ratio = np.array([width / origin.shape[1], height / origin.shape[0]], np.float32)
    shift = cv2.resize(origin * ratio, (width, height), interpolation=cv2.INTER_LINEAR)
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    labels = cv2.remap(segments.labels.astype(np.float32), x + shift[..., 0], y + shift[..., 1], cv2.INTER_NEAREST,
                       borderMode=cv2.BORDER_CONSTANT, borderValue=0).astype(np.int32)
    visible = np.flatnonzero(np.bincount(labels.ravel(), minlength=len(segments.scores) + 1)[1:])
    place = np.zeros(len(segments.scores) + 1, np.int32)
    place[visible + 1] = np.arange(1, len(visible) + 1)
    return Segments(place[labels], segments.scores[visible], tuple(segments.names[number] for number in visible))
