"""Masks that somebody else makes: another node, or a simulator."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from semanom_ros.core.embedding.registry import SegmenterFamily
from semanom_ros.core.embedding.segmenters.segmenter import Segmenter
from semanom_ros.core.embedding.segmenters.weightless import WeightlessFamily
from semanom_ros.core.frames import Frame, Segments

if TYPE_CHECKING:
    import torch

NAMES = ('topic',)


class TopicSegmenter(Segmenter):
    """The masks that came with the frame; a frame that came without any has none, and is all grid."""

    name, needs_masks = 'topic', True

    def __init__(self, max_segments: int) -> None:
        self.max_segments = max_segments

    def segment(self, frame: Frame, patches: torch.Tensor) -> Segments:
        found = frame.segments
        if found is None:
            return Segments(np.zeros(frame.image.shape[:2], np.int32), np.zeros(0, np.float32), ())
        if len(found.scores) <= self.max_segments:
            return found
        kept = np.sort(np.argsort(-found.scores, kind='stable')[:self.max_segments])
        numbers = np.zeros(len(found.scores) + 1, np.int32)
        numbers[kept + 1] = np.arange(1, len(kept) + 1)
        return Segments(numbers[found.labels], found.scores[kept], tuple(found.names[number] for number in kept))


FAMILY: SegmenterFamily = WeightlessFamily(
    TopicSegmenter.name, TopicSegmenter, 'masks come with the images, from another node or a simulator',
    needs_masks=TopicSegmenter.needs_masks)
