"""What the families of segmenters without weights share."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch

from semanom_ros.core.embedding.card import Card
from semanom_ros.core.embedding.segmenters.segmenter import Segmenter
from semanom_ros.errors import SegmenterError
from semanom_ros.settings import QuerySettings


class _Make(Protocol):
    """A class of segmenters that need nothing but their limit."""

    name: str
    needs_masks: bool

    def __call__(self, max_segments: int) -> Segmenter:
        """A segmenter."""


class WeightlessFamily:
    """See SegmenterFamily: the one segmenter of a class.

    Args:
        make: the class.
        note: for its card.
    """

    def __init__(self, make: _Make, note: str) -> None:
        self.needs_masks = make.needs_masks
        self._make, self._note = make, note

    def load(self, settings: QuerySettings, device: torch.device) -> Segmenter:
        """See SegmenterFamily.load."""
        if settings.segmenter_weights:
            raise SegmenterError(f'segmenter {settings.segmenter}: segmenter_weights {settings.segmenter_weights!r}, '
                                 'but it has none; leave them empty')
        return self._make(settings.max_segments)

    def fetch(self, name: str, weights: str, store: Path) -> str:
        """See SegmenterFamily.fetch."""
        raise SegmenterError(f'segmenter {name}: there is nothing to fetch, it has no weights; use it as it is')

    def cards(self) -> list[Card]:
        """See SegmenterFamily.cards."""
        return [Card('segmenter', self._make.name, '', True, self._note)]
