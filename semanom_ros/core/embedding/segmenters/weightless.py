"""What the families of segmenters without weights share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from semanom_ros.core.embedding.card import Card
from semanom_ros.core.embedding.segmenters.segmenter import Segmenter
from semanom_ros.errors import SegmenterError
from semanom_ros.settings import QuerySettings

if TYPE_CHECKING:
    import torch


class WeightlessFamily:
    """See SegmenterFamily: one segmenter that needs nothing but its limit.

    Args:
        name: its name.
        make: max_segments -> segmenter.
        note: for its card.
        needs_masks: see SegmenterFamily.
    """

    def __init__(self, name: str, make: Callable[[int], Segmenter], note: str, *, needs_masks: bool = False) -> None:
        self.needs_masks = needs_masks
        self._name, self._make, self._note = name, make, note

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
        return [Card('segmenter', self._name, '', True, self._note)]
