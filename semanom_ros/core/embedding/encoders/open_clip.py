"""The family `open_clip`: its models without the library."""

from __future__ import annotations

from typing import Any

from semanom_ros.core.embedding.encoders.deferred import DeferredFamily, Known
from semanom_ros.core.embedding.registry import EncoderFamily

NAMES = ('open_clip',)
LIBRARY = 'open_clip'
CONFIG_FILE = 'open_clip_config.json'
WEIGHTS_FILES = ('open_clip_model.safetensors', 'open_clip_pytorch_model.bin')
RECOMMENDED = (
    Known('ViT-B-16', 'openai', 'timm/vit_base_patch16_clip_224.openai', 'MIT', 768, (224, 224)),
    Known('ViT-B-16', 'datacomp_xl_s13b_b90k', 'laion/CLIP-ViT-B-16-DataComp.XL-s13B-b90K', 'MIT', 768, (224, 224)),
    Known('ViT-L-14', 'openai', 'timm/vit_large_patch14_clip_224.openai', 'MIT', 1024, (224, 224)),
    Known('ViT-B-16-SigLIP', 'webli', 'timm/ViT-B-16-SigLIP', 'Apache-2.0', 768, (224, 224)),
)
"""Known to work well as patch embeddings; every other model can be named as well."""


def describe(model_cfg: dict[str, Any]) -> tuple[int, tuple[int, int]]:
    """(dimension, own input size) of a model's patch tokens; 0 where its tower is of timm, which only that knows."""
    vision = model_cfg['vision_cfg']
    size = vision.get('image_size', 224)
    height, width = (size, size) if isinstance(size, int) else size
    return 0 if 'timm_model_name' in vision else vision.get('width', 768), (height, width)


FAMILY: EncoderFamily = DeferredFamily(
    'semanom_ros.core.embedding.encoders.open_clip_models', LIBRARY, RECOMMENDED, WEIGHTS_FILES, CONFIG_FILE,
    lambda model, tag: f'open_clip:{model}', lambda config: ('', *describe(config['model_cfg'])))
