"""Crops round segments."""

from __future__ import annotations

import numpy as np
import pytest

from semanom_ros.core.embedding.crops import CONTEXT, SMALLEST, masked_crops


def pattern(height: int, width: int) -> np.ndarray:
    """(H, W, 3) uint8: stripes of 2 pixels."""
    stripes = (np.indices((height, width)).sum(axis=0) // 2 % 2 * 255).astype(np.uint8)
    return np.repeat(stripes[..., None], 3, axis=2)


def test_the_segment_stays_sharp_and_its_surroundings_are_blurred():
    labels = np.zeros((200, 300), np.int32)
    labels[80:120, 100:140] = 1
    crop, = masked_crops(pattern(200, 300), labels, np.array([[100, 80, 40, 40]], np.int32), (60, 60))
    assert crop.shape == (60, 60, 3)
    np.testing.assert_array_equal(crop[12:48, 12:48], pattern(200, 300)[82:118, 102:138])  # 1.5 * 40 = 60: not resized
    assert np.ptp(crop[:6].astype(int)) < 80


@pytest.mark.parametrize('size', [(64, 64), (64, 128)])
@pytest.mark.parametrize('box', [(40, 60, 200, 20), (60, 50, 20, 100), (150, 100, 9, 9), (100, 50, 90, 90)])
def test_a_crop_is_centred_on_its_box_and_keeps_the_aspect(box, size):
    x, y, w, h = box
    labels = np.zeros((200, 300), np.int32)
    labels[y:y + h, x:x + w] = 1
    image = np.full((200, 300, 3), 100, np.uint8)
    image[labels == 1] = 255
    crop, = masked_crops(image, labels, np.array([box], np.int32), size)
    assert crop.shape == (*size, 3)
    lit = np.argwhere(crop[..., 0] > 215)
    tall = max(CONTEXT * h, CONTEXT * w * size[0] / size[1], SMALLEST)
    np.testing.assert_allclose(np.ptp(lit, axis=0) + 1, np.array([h, w]) / tall * size[0], atol=4)
    np.testing.assert_allclose(lit.mean(axis=0), np.array(size) / 2, atol=6)


@pytest.mark.parametrize('box', [(0, 0, 300, 20), (290, 190, 10, 10), (150, 100, 1, 1), (0, 0, 300, 200), (0, 0, 1, 1)])
def test_beyond_the_image_its_edge_goes_on(box):
    x, y, w, h = box
    labels = np.zeros((200, 300), np.int32)
    labels[y:y + h, x:x + w] = 1
    image = np.random.default_rng(0).integers(90, 110, (200, 300, 3)).astype(np.uint8)
    crop, = masked_crops(image, labels, np.array([box], np.int32), (64, 64))
    assert crop.shape == (64, 64, 3)
    assert 90 <= crop.min() <= crop.max() < 110  # nothing black comes in


def test_no_segments_give_no_crops():
    assert masked_crops(pattern(20, 20), np.zeros((20, 20), np.int32), np.zeros((0, 4), np.int32), (32, 32)) == []
