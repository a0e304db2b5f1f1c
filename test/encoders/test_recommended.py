"""What a listing tells without the libraries is what the libraries say."""

from __future__ import annotations

import open_clip
import pytest
import timm
import torch
from timm.models import get_arch_pretrained_cfgs, split_model_name_tag
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_V2_Weights

from semanom_ros.core.embedding.encoders import open_clip as clip_family
from semanom_ros.core.embedding.encoders import timm as timm_family
from semanom_ros.core.embedding.encoders import timm_models, tiny
from semanom_ros.core.embedding.segmenters.mask_rcnn import _TorchvisionWeights


@pytest.mark.parametrize('known', timm_family.RECOMMENDED, ids=lambda known: known.model)
def test_timm(known):
    configs = {split_model_name_tag(name)[1]: config for name, config in get_arch_pretrained_cfgs(known.model).items()}
    config = configs[known.tag]
    assert known.repository == config.hf_hub_id
    assert known.licence == timm_family.LICENCES[config.license]
    with torch.device('meta'):
        network = timm.create_model(known.model, pretrained=False)
    assert (known.dimension, known.input_size) == (network.num_features, config.input_size[1:])
    assert next(iter(configs)) == known.tag, 'the one that is found without a tag'


@pytest.mark.parametrize('known', clip_family.RECOMMENDED, ids=lambda known: f'{known.model} {known.tag}')
def test_open_clip(known):
    assert known.repository == open_clip.get_pretrained_cfg(known.model, known.tag)['hf_hub'].rstrip('/')
    vision = open_clip.get_model_config(known.model)['vision_cfg']
    tower = vision.get('timm_model_name')
    assert known.input_size == (vision['image_size'],) * 2
    assert known.dimension == (timm_models.describe(tower)[0] if tower else vision['width'])


def test_what_is_shipped_and_torchvision():
    assert timm_models.describe('xcit_nano_12_p16_224')[0] == tiny.DIMENSION
    assert MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1.url == _TorchvisionWeights.url
