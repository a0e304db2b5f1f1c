"""Segmenters of other libraries, with random weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from semanom_ros.core.embedding.registry import load_segmenter
from semanom_ros.core.embedding.segmenters.mask_rcnn import MaskRCNN, find
from semanom_ros.core.frames import Frame, Segments
from semanom_ros.errors import SegmenterError
from semanom_ros.settings import QuerySettings


def test_mask_rcnn_gives_masks_that_do_not_overlap():
    segmenter = MaskRCNN(8, find('random:0'), torch.device('cpu'), min_score=0.0, image_size=96)
    image = np.random.default_rng(0).integers(0, 255, (72, 96, 3)).astype(np.uint8)
    segments = segmenter.segment(Frame(image, 0), torch.zeros(1, 1, 1))
    assert segments.labels.shape == (72, 96)
    assert 1 <= len(segments.scores) == len(segments.names) <= 8
    assert sorted(set(np.unique(segments.labels)) - {0}) == list(range(1, len(segments.scores) + 1))
    assert (np.diff(segments.scores) <= 0).all()
    assert all(segments.names)


def test_mask_rcnn_without_weights_says_where_it_looked(tmp_path):
    missing = tmp_path / 'none.pth'
    given = QuerySettings('instance', 'torchvision', segmenter_weights=str(missing))
    with pytest.raises(SegmenterError, match=r'weights file .*none\.pth does not exist') as caught:
        load_segmenter(given, torch.device('cpu'))
    assert '\n' not in str(caught.value)
    torch.save({'some.weight': torch.zeros(1)}, missing)
    with pytest.raises(SegmenterError, match='other weights'):
        load_segmenter(given, torch.device('cpu'))
    missing.write_bytes(b'no weights')
    with pytest.raises(SegmenterError, match='unreadable'):
        load_segmenter(given, torch.device('cpu'))


def test_masks_that_came_with_the_frame_are_bounded_by_their_scores():
    labels = np.arange(20, dtype=np.int32).reshape(4, 5) // 4  # 0 to 4: four segments
    given = Segments(labels, np.array([0.2, 0.9, 0.5, 0.4], np.float32), ('a', 'b', 'c', 'd'))
    frame = Frame(np.zeros((4, 5, 3), np.uint8), 0, segments=given)
    patches = torch.zeros(1, 1, 1)
    asked = QuerySettings('instance', 'topic', max_segments=2)
    kept = load_segmenter(asked, torch.device('cpu')).segment(frame, patches)
    assert kept.names == ('b', 'c')
    np.testing.assert_array_equal(kept.labels, np.select([labels == 2, labels == 3], [1, 2], 0))
    none = load_segmenter(asked, torch.device('cpu')).segment(Frame(frame.image, 0), patches)
    assert len(none.scores) == 0
    assert none.labels.shape == (4, 5)
