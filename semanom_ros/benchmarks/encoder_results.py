"""What bench.json says of an encoder, and a bench.json in which nothing is measured."""

from __future__ import annotations

from typing import Any

from semanom_ros.benchmarks.figures import OVERALL, PER_ENCODER
from semanom_ros.core.embedding.encoders.encoder import Encoder


def nothing() -> dict[str, Any]:
    """A bench.json in which nothing is measured."""
    result: dict[str, Any] = {}
    for figure in (*PER_ENCODER, *OVERALL):
        name, _, within = figure.key.partition('.')
        if within:
            result.setdefault(name, {})[within] = None
        else:
            result[name] = None
    return {**result, 'backends': {}, 'machine': {}, 'encoders': {}}


def label(encoder: Encoder) -> str:
    """Name and input size of an encoder."""
    return f'{encoder.name} {encoder.input_size[0]}x{encoder.input_size[1]}'


def about(encoder: Encoder) -> dict[str, Any]:
    """What was measured."""
    return {'name': encoder.name, 'weights': encoder.weights, 'input_size': list(encoder.input_size),
            'grid_size': list(encoder.grid_size), 'dimension': encoder.dimension, 'device': str(encoder.device),
            'precision': str(encoder.dtype).removeprefix('torch.')}
