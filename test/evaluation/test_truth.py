"""Ground truth finds its frame by stamp, wherever it lies in the recording."""

import numpy as np
import pytest

from semanom_ros.errors import BagError
from semanom_ros.evaluation.truth import TruthReader
from semanom_ros.recordings.bags import BagReader, BagWriter
from semanom_ros.recordings.ground_truth import ANOMALY_MASK
from semanom_ros.ros.messages import image_to_message, write_message


def write(path, stamps, topic=ANOMALY_MASK, value=255, shape=(6, 8)):
    """A bag of masks whose first pixel counts modulo the known values; its second row holds `value`."""
    with BagWriter(path) as writer:
        for index, stamp in enumerate(stamps):
            mask = np.zeros(shape, np.uint8)
            mask[0, :index % 5] = 255
            mask[1] = value
            write_message(writer, topic, image_to_message(mask, 'mono8', stamp, 'camera'), index)
    return path


def read(path, stamps, topic='', shape=(6, 8)):
    with TruthReader(BagReader(path), topic) as truth:
        return [None if (mask := truth.at(stamp, shape)) is None else int((mask[0] == 255).sum()) for stamp in stamps]


def test_masks_before_after_and_missing(tmp_path):
    path = write(tmp_path / 'bag', [10, 20, 40, 50])
    assert read(path, [10, 20, 30, 40, 50, 60]) == [0, 1, None, 2, 3, None]


def test_masks_without_a_frame_do_not_block(tmp_path):
    path = write(tmp_path / 'bag', range(1, 101))
    assert read(path, [1, 90, 95]) == [0, 89 % 5, 94 % 5]


def test_sparse_masks(tmp_path):
    path = write(tmp_path / 'bag', range(0, 1000, 10))
    assert [m is not None for m in read(path, range(1000))] == [s % 10 == 0 for s in range(1000)]


def test_looped_recording(tmp_path):
    path = write(tmp_path / 'bag', [10, 20, 30, 10, 20, 30])
    assert read(path, [10, 20, 30, 10, 20, 30]) == [0, 1, 2, 3, 4, 0]


def test_recording_without_truth(tmp_path):
    path = write(tmp_path / 'bag', [1], topic='/other')
    assert read(path, [1]) == [None]
    assert read(path, [1], topic='/other') == [0]
    with pytest.raises(BagError, match=r'no ground truth topic /nowhere, expected one of /other'):
        read(path, [1], topic='/nowhere')


def test_masks_that_are_none(tmp_path):
    path = write(tmp_path / 'bag', [1], value=1)
    with pytest.raises(BagError, match='found the value 1, expected 0'):
        read(path, [1])
    path = write(tmp_path / 'good', [1], value=128)
    with pytest.raises(BagError, match='found 8x6 pixels, expected the size of the image, 16x12'):
        read(path, [1], shape=(12, 16))
