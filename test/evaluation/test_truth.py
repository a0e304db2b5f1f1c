"""Ground truth finds its frame by stamp, wherever it lies in the recording."""

import cv2
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


@pytest.mark.parametrize(('pixels', 'encoding', 'said'), [
    (np.ones((6, 8), '<u2'), 'mono16', 'found the values 1, expected 0'),
    (np.full((6, 8), 100, '<u2'), '16UC1', 'found the values 100,'),
    (np.full((6, 8), 65535, '<u2'), 'mono16', 'found the values 65535,'),
    (np.full((6, 8), -1, '<i4'), '32SC1', 'found the values -1,'),
    (np.full((6, 8, 3), (0, 0, 255), 'u1'), 'rgb8', 'found colours, expected numbers'),
    (np.full((6, 8, 3), 2, 'u1'), 'bgr8', 'found the values 2,'),
    (np.zeros((6, 8, 3), '<u2'), 'rgb16', "found encoding 'rgb16', expected one of"),
    (np.ones((6, 8), 'u2'), 'png', 'found the values 1,'),
    (np.full((6, 8, 3), (255, 0, 0), 'u1'), 'png', 'found colours')])
def test_nothing_but_declared_numbers_is_truth(tmp_path, trial, pixels, encoding, said):
    """Sixteen bits scaled to eight, or the red of blue, would be nominal."""
    with BagWriter(tmp_path / 'bag') as writer:
        types = writer.typestore.types
        header = types['std_msgs/msg/Header'](types['builtin_interfaces/msg/Time'](0, 1), 'camera')
        if encoding == 'png':
            message = types['sensor_msgs/msg/CompressedImage'](header, 'png', cv2.imencode('.png', pixels)[1])
        else:
            message = types['sensor_msgs/msg/Image'](header, 6, 8, encoding, 0, pixels.nbytes // 6,
                                                     np.frombuffer(pixels.tobytes(), np.uint8))
        writer.write(ANOMALY_MASK, message, 1)
    with trial('Recordings', 'ground truth with values that were not declared'), pytest.raises(BagError) as caught:
        read(tmp_path / 'bag', [1])
    assert said in str(caught.value)


@pytest.mark.parametrize('encoding', ['mono16', '32SC1', 'rgb8'])
def test_truth_may_be_wide_or_grey_in_colours(tmp_path, encoding):
    mask = np.zeros((6, 8), {'mono16': '<u2', '32SC1': '<i4', 'rgb8': 'u1'}[encoding])
    mask[0, :3], mask[1] = 255, 128
    pixels = np.dstack([mask] * 3) if encoding == 'rgb8' else mask
    with BagWriter(tmp_path / 'bag') as writer:
        types = writer.typestore.types
        header = types['std_msgs/msg/Header'](types['builtin_interfaces/msg/Time'](0, 1), 'camera')
        writer.write(ANOMALY_MASK, types['sensor_msgs/msg/Image'](
            header, 6, 8, encoding, 0, pixels.nbytes // 6, np.frombuffer(pixels.tobytes(), np.uint8)), 1)
    assert read(tmp_path / 'bag', [1]) == [3]


def test_masks_that_are_none(tmp_path):
    path = write(tmp_path / 'bag', [1], value=1)
    with pytest.raises(BagError, match='found the values 1, expected 0'):
        read(path, [1])
    path = write(tmp_path / 'good', [1], value=128)
    with pytest.raises(BagError, match='found 8x6 pixels, expected the size of the image, 16x12'):
        read(path, [1], shape=(12, 16))
