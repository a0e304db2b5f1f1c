"""Segmenters of other libraries, with random weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from semanom_ros.core.segmenters import load_segmenter
from semanom_ros.core.segmenters.torchvision import MaskRCNN
from semanom_ros.errors import SegmenterError


def test_mask_rcnn_gives_masks_that_do_not_overlap():
    segmenter = MaskRCNN(8, 'random:0', torch.device('cpu'), min_score=0.0, image_size=96)
    image = np.random.default_rng(0).integers(0, 255, (72, 96, 3)).astype(np.uint8)
    segments = segmenter.segment(image, torch.zeros(1, 1, 1))
    assert segments.labels.shape == (72, 96)
    assert 1 <= len(segments.scores) == len(segments.names) <= 8
    assert sorted(set(np.unique(segments.labels)) - {0}) == list(range(1, len(segments.scores) + 1))
    assert (np.diff(segments.scores) <= 0).all()
    assert all(segments.names)


def test_mask_rcnn_without_weights_says_where_it_looked(world, tmp_path):
    missing = tmp_path / 'none.pth'
    given = world.parameters(variant='instance', segmenter='torchvision', segmenter_weights=str(missing))
    with pytest.raises(SegmenterError, match=r'none\.pth.*maskrcnn_resnet50_fpn_v2') as caught:
        load_segmenter(given, torch.device('cpu'))
    assert '\n' not in str(caught.value)
    torch.save({'some.weight': torch.zeros(1)}, missing)
    with pytest.raises(SegmenterError, match='other weights'):
        load_segmenter(given, torch.device('cpu'))
    missing.write_bytes(b'no weights')
    with pytest.raises(SegmenterError, match='unreadable'):
        load_segmenter(given, torch.device('cpu'))
