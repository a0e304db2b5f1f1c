"""The family `timm`: its models without the library."""

from __future__ import annotations

from typing import Any

from semanom_ros.core.embedding.encoders.deferred import DeferredFamily, Known
from semanom_ros.core.embedding.registry import EncoderFamily

NAMES = ('timm',)
LIBRARY = 'timm'
WEIGHTS_FILES = ('model.safetensors', 'pytorch_model.bin')
CONFIG_FILE = 'config.json'
LICENCES = {
    'apache-2.0': 'Apache-2.0', 'mit': 'MIT', 'bsd-3-clause': 'BSD-3-Clause', 'cc-by-nc-4.0': 'CC-BY-NC-4.0',
    'dinov3-license': 'DINOv3 License'}
"""As timm writes them -> as SPDX does."""
RECOMMENDED = tuple(
    Known(model, tag, f'timm/{model}.{tag}', licence, dimension, (size, size))
    for model, tag, licence, dimension, size in (
        ('vit_small_patch14_dinov2', 'lvd142m', 'Apache-2.0', 384, 518),
        ('vit_base_patch14_dinov2', 'lvd142m', 'Apache-2.0', 768, 518),
        ('vit_small_patch14_reg4_dinov2', 'lvd142m', 'Apache-2.0', 384, 518),
        ('vit_small_patch16_dinov3', 'lvd1689m', 'DINOv3 License', 384, 256),
        ('vit_base_patch16_dinov3', 'lvd1689m', 'DINOv3 License', 768, 256)))
"""Known to work well as patch embeddings; every other model of timm can be named as well."""


def _described(config: dict[str, Any]) -> tuple[str, int, tuple[int, int]]:
    trained = config['pretrained_cfg']
    licence = trained.get('license') or ''
    _, height, width = trained['input_size']
    return LICENCES.get(licence, licence), int(config.get('num_features', 0)), (height, width)


FAMILY: EncoderFamily = DeferredFamily(
    'semanom_ros.core.embedding.encoders.timm_models', LIBRARY, RECOMMENDED, WEIGHTS_FILES, CONFIG_FILE,
    lambda model, tag: f'timm:{model}.{tag}', _described)
