"""Segmenters: image and patch embeddings in, instance masks out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from semanom_ros.core.embedding.segmenters.segmenter import Segmenter
from semanom_ros.errors import SegmenterError
from semanom_ros.parameters import SEGMENTERS, Value


def segmenter_name(parameters: Mapping[str, Value]) -> str:
    """The segmenter that the parameters ask for; '' for the grid variant."""
    return str(parameters['segmenter']) if parameters['variant'] == 'instance' else ''


def load_segmenter(parameters: Mapping[str, Value], device: torch.device) -> Segmenter:
    """The segmenter that the parameters (of the group `method`, resolved) name.

    Raises:
        SegmenterError: unknown, or its weights are unusable.
        ParameterError: a file that it needs is unusable.
    """
    segmenter, every = _load(parameters, device), int(parameters['segmenter_every_n'])  # type: ignore[arg-type]
    if every == 1:
        return segmenter
    from semanom_ros.core.embedding.segmenters.refreshed import RefreshedSegmenter
    return RefreshedSegmenter(segmenter, every)


def _load(parameters: Mapping[str, Value], device: torch.device) -> Segmenter:
    name, limit = str(parameters['segmenter']), int(parameters['max_segments'])  # type: ignore[arg-type]
    if name == 'embedding':
        from semanom_ros.core.embedding.segmenters.superpixels import EmbeddingSegmenter
        return EmbeddingSegmenter(limit)
    if name == 'torchvision':
        from semanom_ros.core.embedding.segmenters.mask_rcnn import MaskRCNN  # seconds to import
        return MaskRCNN(limit, str(parameters['segmenter_weights']), device)
    if name in ('sam', 'sam2'):
        from semanom_ros.core.embedding.segmenters.segment_anything import AnySegmenter
        return AnySegmenter(name, limit, str(parameters['segmenter_weights']), device)
    if name == 'owlv2+sam2':
        from semanom_ros.core.embedding.segmenters.segment_anything import PROMPTS, PromptedSegmenter
        prompts = str(parameters['segmenter_prompts'])
        return PromptedSegmenter(limit, str(parameters['segmenter_weights']), device,
                                 Path(prompts).expanduser() if prompts else PROMPTS)
    if name == 'topic':
        from semanom_ros.core.embedding.segmenters.given_masks import TopicSegmenter
        return TopicSegmenter(limit)
    raise SegmenterError(f'segmenter: found {name}, expected one of {", ".join(SEGMENTERS)}; correct it')
