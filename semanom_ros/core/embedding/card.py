"""What is said about a model, encoder or segmenter, that can be used."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """One line of `semanom models list`.

    Attributes:
        kind: `encoder` or `segmenter`.
        name: as in the parameter of that name.
        weights: as in `encoder_weights`, or `segmenter_weights`.
        present: whether it can be used here and now.
        note: where its weights lie, or what is missing and how to get it.
        licence: of the weights, as SPDX has it, or a short name; '' where it is not known or there are none.
        dimension: of a patch embedding; 0 where that is no question.
        input_size: (height, width) in pixels when none is asked for.
    """

    kind: str
    name: str
    weights: str
    present: bool
    note: str
    licence: str = ''
    dimension: int = 0
    input_size: tuple[int, int] = (0, 0)
