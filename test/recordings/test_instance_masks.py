"""Masks in messages, whatever numbers them."""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np
import pytest
from sensor_msgs.msg import CompressedImage, Image

from semanom_ros.errors import ImageError
from semanom_ros.recordings.instance_masks import segments_from_message
from semanom_ros.ros.messages import header, image_to_message

SIZE = 4, 6
NUMBERS = np.array([[0, 0, 7, 7, 7, 7], [0, 0, 7, 7, 7, 7], [300, 300, 0, 0, 0, 9], [300, 300, 0, 0, 0, 0]])


def message(numbers: np.ndarray, encoding: str, big: bool = False) -> Image:
    kind = {'mono8': 'u1', '8UC1': 'u1', 'mono16': 'u2', '16UC1': 'u2', '32SC1': 'i4'}[encoding]
    samples = numbers.astype(f'{">" if big else "<"}{kind}')
    return Image(header=header(1, 'camera'), height=SIZE[0], width=SIZE[1], encoding=encoding, is_bigendian=int(big),
                 step=SIZE[1] * samples.itemsize, data=array('B', samples.tobytes()))


@pytest.mark.parametrize('big', [False, True])
@pytest.mark.parametrize(('encoding', 'factor'), [('mono16', 1), ('16UC1', 1), ('32SC1', 1), ('32SC1', 1_000_000)])
def test_label_images_become_segments_the_largest_first(encoding: str, factor: int, big: bool) -> None:
    segments = segments_from_message(message(NUMBERS * factor, encoding, big), SIZE)
    assert len(segments.scores) == 3
    for label, number in ((1, 7), (2, 300), (3, 9)):
        np.testing.assert_array_equal(segments.labels == label, number == NUMBERS)
    assert segments.names == ('', '', '')


def test_eight_bits_and_no_instance_at_all() -> None:
    assert len(segments_from_message(message(NUMBERS % 256, 'mono8'), SIZE).scores) == 3
    none = segments_from_message(message(NUMBERS * 0, 'mono8'), SIZE)
    assert len(none.scores) == 0
    assert not none.labels.any()


@pytest.mark.parametrize('encoding', ['bgra8', 'rgba8', 'bgr8', 'rgb8'])
def test_carla_gives_things_their_class_and_leaves_the_rest_to_the_grid(encoding: str) -> None:
    rgba = np.zeros((*SIZE, 4), np.uint8)
    rgba[..., 0] = 1  # road
    rgba[2:, :2] = (14, 5, 1, 255)  # a car, actor 261
    rgba[2:, 2:4] = (14, 5, 0, 255)  # another, actor 5
    rgba[0, 0] = (12, 5, 1, 255)  # a pedestrian with the number of the first car
    rgb = image_to_message(np.ascontiguousarray(rgba[..., :3]), 'rgb8', 1, 'camera')
    if encoding != 'rgb8':
        pixels = rgba if encoding == 'rgba8' else rgba[..., [2, 1, 0, 3]][..., :len(encoding) - 1]
        rgb = Image(header=header(1, 'camera'), height=SIZE[0], width=SIZE[1], encoding=encoding,
                    step=SIZE[1] * pixels.shape[2], data=array('B', pixels.tobytes()))
    segments = segments_from_message(rgb, SIZE)
    assert segments.names == ('car', 'car', 'pedestrian')
    assert (segments.labels > 0).sum() == 9
    assert len({int(segments.labels[3, 0]), int(segments.labels[3, 3]), int(segments.labels[0, 0])}) == 3


@pytest.mark.parametrize(('bad', 'expected'), [
    (message(NUMBERS - 1, '32SC1'), 'instance -1'),
    (Image(height=4, width=6, encoding='yuv422', step=12, data=array('B', bytes(48))), 'yuv422'),
    (Image(height=2, width=6, encoding='mono8', step=6, data=array('B', bytes(12))), '6x2.*6x4'),
    (CompressedImage(format='png'), 'CompressedImage')])
def test_what_holds_no_masks_is_refused_in_one_line(bad: Any, expected: str) -> None:
    with pytest.raises(ImageError, match=expected) as caught:
        segments_from_message(bad, SIZE)
    assert '\n' not in str(caught.value)
