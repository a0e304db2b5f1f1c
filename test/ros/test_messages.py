"""Serialized images and CameraInfo, read for what they say."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CameraInfo, Image, RegionOfInterest

from semanom_ros.core.localization.regions_of_map import Region
from semanom_ros.core.results import Anomaly, FrameResult, Reason, Verdict
from semanom_ros.errors import CameraError, ImageError
from semanom_ros.msg import AnomalyArray, AnomalyScore
from semanom_ros.recordings.images import BitDepth
from semanom_ros.rendering.overlay import AMBER
from semanom_ros.ros.markers import marker_array
from semanom_ros.ros.messages import (
    anomaly_array,
    anomaly_score,
    camera_model,
    frame_id_of,
    header,
    image_to_compressed,
    image_to_message,
    picture_of,
    stamp_of,
)

IMAGE = np.random.default_rng(0).integers(0, 255, (12, 16, 3), np.uint8)
STAMP = 1_764_000_000_123_456_789


def test_a_serialized_image_is_read_as_it_was_written() -> None:
    for encoding in ('rgb8', 'bgr8'):
        serialized = serialize_message(image_to_message(IMAGE, encoding, STAMP, 'lens'))
        assert stamp_of(serialized) == STAMP
        image, stamp, frame_id = picture_of(serialized, compressed=False)
        assert (image == IMAGE).all()
        assert (stamp, frame_id) == (STAMP, 'lens')
    serialized = serialize_message(image_to_compressed(IMAGE, STAMP, 'lens', 'png'))
    image, stamp, frame_id = picture_of(serialized, compressed=True)
    assert (image == IMAGE).all()
    assert (stamp, frame_id) == (STAMP, 'lens')


def test_sixteen_bits_are_read_with_their_bit_depth() -> None:
    sent = Image(height=1, width=2, encoding='mono16', step=4, data=np.array([0, 4095], '<u2').tobytes())
    image, _, _ = picture_of(serialize_message(sent), False, BitDepth(12))
    assert image[0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize('kind', [AnomalyScore, AnomalyArray])
@pytest.mark.parametrize('enumeration', [Verdict, Reason])
def test_the_constants_of_the_messages_are_those_of_the_method(kind: Any, enumeration: Any) -> None:
    prefix = f'{enumeration.__name__.upper()}_'
    constants = {name.removeprefix(prefix): getattr(kind, name) for name in dir(kind) if name.startswith(prefix)}
    assert constants == {member.name: int(member) for member in enumeration}


def test_an_unknown_frame_has_no_numbers() -> None:
    result = FrameResult.unknown(STAMP, 'front', Reason.STALE, 'too old')
    for message in (anomaly_score(result, header(STAMP, 'lens')), anomaly_array(result, header(STAMP, 'lens'), None)):
        assert all(math.isnan(value) for value in (message.score, message.raw_score, message.p_value))
        assert (message.verdict, message.reason, message.explanation) == (0, 18, 'too old')
        assert not message.anomalous
        assert not message.held_back
        assert message.threshold == 1.0


def test_the_frame_id_is_read_as_far_as_it_is_there() -> None:
    whole = serialize_message(image_to_message(IMAGE, 'rgb8', STAMP, 'camera/lens \u00f6'))
    assert frame_id_of(whole) == 'camera/lens \u00f6'
    assert frame_id_of(whole[:20]) == frame_id_of(whole[:14]) == frame_id_of(b'') == ''
    assert frame_id_of(serialize_message(image_to_message(IMAGE, 'rgb8', STAMP, ''))) == ''


def test_a_big_endian_stamp_is_read() -> None:
    assert stamp_of(bytes([0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 7]) + bytes(9)) == 5_000_000_007
    assert stamp_of(bytes([0, 1, 0, 0, 5, 0, 0, 0, 7, 0, 0, 0]) + bytes(9)) == 5_000_000_007
    assert stamp_of(bytes([0, 1, 0, 0, 255, 255, 255, 255, 7, 0, 0, 0])) == -1_000_000_000 + 7, 'int32'


def test_bytes_that_are_no_message_are_refused() -> None:
    whole = serialize_message(image_to_message(IMAGE, 'rgb8', STAMP, 'lens'))
    for length in (0, 3, 11):
        with pytest.raises(ImageError, match=f'found a message of {length} bytes'):
            stamp_of(whole[:length])
    for length in range(12, len(whole), 37):
        with pytest.raises(ImageError):
            picture_of(whole[:length], compressed=False)
    with pytest.raises(ImageError):
        picture_of(whole, compressed=True)


def stereo_right() -> CameraInfo:
    info = CameraInfo(height=480, width=640, distortion_model='plumb_bob', d=[-0.3, 0.1, 0.0, 0.0, 0.0])
    info.k = [500.0, 0.0, 310.0, 0.0, 505.0, 230.0, 0.0, 0.0, 1.0]
    info.p = [450.0, 0.0, 320.0, -54.0, 0.0, 450.0, 240.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    return info


def test_raw_images_are_looked_through_k_and_rectified_ones_through_p() -> None:
    raw = camera_model(stereo_right())
    assert raw.bearings([(310, 230)], (480, 640))[0] == pytest.approx([0, 0, 1])
    assert raw.distortion.any()
    assert raw.origin == (0, 0, 0)
    rectified = camera_model(stereo_right(), rectified=True)
    assert rectified.bearings([(320 + 450, 240)], (480, 640))[0] == pytest.approx([np.sqrt(0.5), 0, np.sqrt(0.5)])
    assert rectified.origin == pytest.approx((0.12, 0, 0)), '12 cm right of the left camera, whose frame it is'


def test_a_region_of_interest_is_that_of_the_full_image() -> None:
    info = stereo_right()
    info.d = []
    info.roi = RegionOfInterest(x_offset=100, y_offset=50, width=320, height=240)
    model = camera_model(info)
    assert model.bearings([(210, 180)], (240, 320))[0] == pytest.approx([0, 0, 1])


def test_an_uncalibrated_camera_is_refused() -> None:
    with pytest.raises(CameraError, match='calibrate the camera'):
        camera_model(CameraInfo(height=480, width=640))
    with pytest.raises(CameraError, match='calibrate the camera'):
        camera_model(CameraInfo(height=480, width=640), rectified=True)
    info = stereo_right()
    info.k = [0.0] * 9
    with pytest.raises(CameraError, match=r'found K all zero and P with the focal length 450.*set image_rectified'):
        camera_model(info)
    camera_model(info, rectified=True)


def test_binning_and_a_region_of_interest_together() -> None:
    """CameraInfo names both in pixels of the full image; the picture has a quarter of the region's."""
    info = stereo_right()
    info.d, info.binning_x, info.binning_y = [], 2, 2
    info.roi = RegionOfInterest(x_offset=100, y_offset=50, width=320, height=240)
    whole = camera_model(stereo_right()).intrinsics
    ray, = camera_model(info).bearings([(20, 30)], (120, 160))
    x, y = ((20.5 * 2 - 0.5 + 100) - whole[0, 2]) / whole[0, 0], ((30.5 * 2 - 0.5 + 50) - whole[1, 2]) / whole[1, 1]
    assert ray == pytest.approx(np.array([x, y, 1]) / np.linalg.norm([x, y, 1]))


def test_a_matrix_r_of_zeros_does_no_harm() -> None:
    info = stereo_right()
    info.r = [0.0] * 9
    assert camera_model(info).bearings([(310, 230)], (480, 640))[0] == pytest.approx([0, 0, 1])


def test_what_is_seen_where_there_are_no_bearings_has_none(trial) -> None:
    info = stereo_right()
    info.d = [-0.36]
    camera = camera_model(info)
    boxes = [(0, 0, 20, 20), (300, 220, 20, 20)]
    found = [Anomaly(1, box=box, area=50, contour=np.array([box[:2], (box[0] + 9, box[1]), (box[0] + 9, box[1] + 9)]),
                     score=2.0, raw_score=0.5, p_value=0.01) for box in boxes]
    result = replace(FrameResult.unknown(STAMP, 'front', Reason.STALE, '', (480, 640)), anomalies=tuple(found))
    with trial('Cameras', 'anomalies where the calibration knows no direction'):
        first, second = anomaly_array(result, header(STAMP, 'lens'), camera).anomalies
        assert not first.has_bearing
        assert first.bearing.x == first.bearing.z == 0
        assert second.has_bearing
        markers = marker_array(result, header(STAMP, 'lens'), camera, 10.0, 1.0).markers
        assert [marker.id for marker in markers[1:] if marker.ns != 'state'] == [1, 1, 1]
        assert all(math.isfinite(point.x) for marker in markers for point in (*marker.points, marker.pose.position))


def test_markers_say_what_is_held_back_and_what_is_unknown() -> None:
    info = stereo_right()
    camera = camera_model(info)
    region = Region((300, 220, 20, 10), np.ones((10, 20), bool), 200, (305, 225))
    unknown = FrameResult.unknown(STAMP, 'front', Reason.STALE, '', (480, 640))
    held_back = replace(unknown, verdict=Verdict.NOMINAL, reason=Reason.UNCONFIRMED, held_back_regions=(region,))
    first, text = marker_array(unknown, header(STAMP, 'lens'), camera, 10.0, 1.0).markers
    assert first.action == first.DELETEALL
    assert (text.ns, text.text) == ('state', 'UNKNOWN, stale')
    _, outline, text = marker_array(held_back, header(STAMP, 'lens'), camera, 10.0, 1.0).markers
    assert (outline.ns, outline.type, text.text) == ('held_back', outline.LINE_STRIP, 'HELD BACK, unconfirmed')
    assert (outline.color.r, outline.color.g) == pytest.approx((AMBER[0] / 255, AMBER[1] / 255))
    assert marker_array(replace(unknown, image_size=(0, 0)), header(STAMP, ''), camera, 10.0, 1.0).markers[1:] == []
