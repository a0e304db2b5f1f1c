"""What made embeddings, as a database remembers it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from semanom_ros.core.fields import Fields
from semanom_ros.errors import ParameterError
from semanom_ros.settings import MethodSettings

LARGEST_SIDE, LARGEST_DIMENSION = 1 << 16, 1 << 16
"""Pixels, and components of an embedding: beyond any encoder's."""


@dataclass(frozen=True)
class EmbeddingDescription:
    """What made embeddings; two databases with equal descriptions can be merged.

    Attributes:
        encoder: name, as in the parameter `encoder`.
        weights: what the weights are, for people; not compared.
        weights_sha256: SHA-256 over the weights.
        preprocessing_sha256: `Preprocessor.sha256`.
        input_size: (height, width) that the encoder sees, pixels.
        grid_size: (rows, columns) of its patches.
        dimension: length of an embedding.
        variant: `grid` or `instance`.
        settings: what else changes the embeddings (layer, features, segmenter, ...), JSON values.
        wants_standardizing, wants_calibration_by_place: what the encoder says of its distances, see `Encoder`.
        parameters: the parameters that affect embeddings, as they were asked for, so that nobody must repeat them;
            files with their whole path. Not compared; {} where they are not known.
    """

    encoder: str
    weights: str
    weights_sha256: str
    preprocessing_sha256: str
    input_size: tuple[int, int]
    grid_size: tuple[int, int]
    dimension: int
    variant: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    wants_standardizing: bool = True
    wants_calibration_by_place: bool = True
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def difference(self, other: EmbeddingDescription) -> tuple[str, Any, Any] | None:
        """The first field, with both values, in which two descriptions differ; None when they fit together."""
        names = [item.name for item in fields(self) if item.name not in ('weights', 'parameters')]
        names.sort(key='preprocessing_sha256'.__eq__)  # last: what people have set says more than a checksum
        for name in names:
            mine, theirs = _plain(getattr(self, name)), _plain(getattr(other, name))
            if mine == theirs:
                continue
            if isinstance(mine, dict):
                key = next(key for key in sorted({*mine, *theirs}) if mine.get(key) != theirs.get(key))
                return f'{name}: {key}', mine.get(key, 'unset'), theirs.get(key, 'unset')
            return name, mine, theirs
        return None


def _plain(value: Any) -> Any:
    """As it comes back from JSON."""
    return json.loads(json.dumps(value, sort_keys=True))


def parse_description(fields: Fields) -> EmbeddingDescription:
    """A description from the fields of its JSON object; ValueError when it is none."""
    parameters: Mapping[str, Any] = fields.optional('parameters', fields.mapping, {})
    try:
        MethodSettings.of(parameters)
    except ParameterError as error:
        fields.wrong('parameters', dict(parameters), f'parameters of the method ({error})')
    return EmbeddingDescription(
        encoder=fields.text('encoder'), weights=fields.text('weights'), weights_sha256=fields.text('weights_sha256'),
        preprocessing_sha256=fields.text('preprocessing_sha256'),
        input_size=fields.pair('input_size', LARGEST_SIDE), grid_size=fields.pair('grid_size', LARGEST_SIDE),
        dimension=fields.count('dimension', 1, LARGEST_DIMENSION),
        variant=fields.choice('variant', MethodSettings.table()['variant'].choices),
        settings=fields.mapping('settings'),
        wants_standardizing=fields.optional('wants_standardizing', fields.flag, True),
        wants_calibration_by_place=fields.optional('wants_calibration_by_place', fields.flag, True),
        parameters=parameters)
