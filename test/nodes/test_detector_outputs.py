"""What the detector publishes, over DDS."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from sensor_msgs.msg import CompressedImage, Image
from visualization_msgs.msg import Marker, MarkerArray

from semanom_ros.core.frames import Frame
from semanom_ros.core.pipeline import CameraState, Judge
from semanom_ros.msg import AnomalyArray, AnomalyScore
from semanom_ros.ros import messages, outputs
from semanom_ros.settings import MethodSettings

BOX = (48, 40, 24, 16)
STAMP_NS = 1_764_000_000_999_999_999
FRAMES, TENTH_NS = 5, 100_000_000
FRAME_ID = 'front/camera_optical_frame'
TOPICS = {'score': AnomalyScore, 'anomalies': AnomalyArray, 'mask': Image, 'anomaly_map': Image, 'overlay': Image,
          'overlay/compressed': CompressedImage, 'markers': MarkerArray}


@pytest.fixture(params=['recorded', 'learned'])
def published(active: Callable[..., Any], request: pytest.FixtureRequest) -> dict[str, Any]:
    """Everything that comes of one anomalous frame, with CameraInfo; by topic."""
    one = active(database=str(request.getfixturevalue(request.param)),
                 marker_distance=20.0, marker_lifetime=0.7)  # not the defaults, to be found in the markers
    heard = {topic: one.listen(kind, f'camera/{topic}') for topic, kind in TOPICS.items()}
    one.send_info(one.camera_info())
    for number in range(FRAMES):
        one.send(one.street_with_box(100, BOX), STAMP_NS - (FRAMES - 1 - number) * TENTH_NS, frame_id=FRAME_ID)
        one.spin_until(lambda count=number + 1: all(len(messages) >= count for messages in heard.values()),
                       what=str(list(heard)))
    assert [len(received) for received in heard.values()] == [FRAMES] * len(heard)
    return {topic: received[-1] for topic, received in heard.items()}


def headers(message: Any) -> list[Any]:
    if isinstance(message, MarkerArray):
        return [marker.header for marker in message.markers]
    return [message.header]


def test_every_output_carries_stamp_and_frame_id_of_the_image(published: dict[str, Any]) -> None:
    for topic, message in published.items():
        for header in headers(message):
            assert header.stamp.sec * 1_000_000_000 + header.stamp.nanosec == STAMP_NS, topic
            assert header.frame_id == FRAME_ID, topic


def test_the_box_is_found_where_it_is(published: dict[str, Any]) -> None:
    array = published['anomalies']
    assert (array.camera, array.image_height, array.image_width) == ('camera', 96, 128)
    assert array.anomalous
    assert array.score > array.threshold
    assert 0 < array.p_value <= 0.01
    (anomaly,) = array.anomalies
    found = anomaly.box
    assert abs(found.x_offset - BOX[0]) <= 8
    assert abs(found.y_offset - BOX[1]) <= 8
    assert abs(found.width - BOX[2]) <= 16
    assert abs(found.height - BOX[3]) <= 16
    contour = np.array([(point.x, point.y) for point in anomaly.contour])
    assert (contour.min(axis=0) == (found.x_offset, found.y_offset)).all()
    assert (contour.max(axis=0) == (found.x_offset + found.width - 1, found.y_offset + found.height - 1)).all()
    assert anomaly.score > 1
    assert 0 < anomaly.raw_score <= 2
    assert Path(anomaly.nearest.source).name == 'nominal_drive'
    assert anomaly.nearest.topic == '/camera/image'
    assert anomaly.nearest.distance == pytest.approx(anomaly.raw_score)
    thumbnail = cv2.imdecode(np.array(anomaly.nearest.thumbnail.data), cv2.IMREAD_COLOR)
    assert thumbnail.shape[0] / thumbnail.shape[1] == pytest.approx(96 / 128, abs=0.02)


def test_score_and_array_say_the_same(published: dict[str, Any]) -> None:
    for name in ('score', 'raw_score', 'p_value', 'threshold', 'anomalous'):
        assert getattr(published['score'], name) == getattr(published['anomalies'], name)


def test_mask_and_map_have_the_resolution_of_the_image(published: dict[str, Any]) -> None:
    mask, score = published['mask'], published['anomaly_map']
    assert (mask.encoding, mask.height, mask.width, mask.step) == ('mono8', 96, 128, 128)
    assert (score.encoding, score.height, score.width, score.step, score.is_bigendian) == ('32FC1', 96, 128, 512, 0)
    pixels = np.array(mask.data, np.uint8).reshape(96, 128)
    values = np.frombuffer(score.data, '<f4').reshape(96, 128)
    assert set(np.unique(pixels)) == {0, 255}
    inside = pixels[BOX[1] + 4:BOX[1] + BOX[3] - 4, BOX[0] + 4:BOX[0] + BOX[2] - 4]
    assert (inside == 255).all()
    assert (values[BOX[1] + 4:BOX[1] + BOX[3] - 4, BOX[0] + 4:BOX[0] + BOX[2] - 4] > 1).all(), 'the core'
    assert (values[pixels == 255] >= 0.5).all(), 'the shipped pixel_threshold'
    assert (pixels == 255).sum() == published['anomalies'].anomalies[0].area


def test_the_overlays_are_pictures_of_the_frame(published: dict[str, Any]) -> None:
    overlay, compressed = published['overlay'], published['overlay/compressed']
    assert (overlay.encoding, overlay.height, overlay.width, overlay.step) == ('bgr8', 96, 128, 384)
    pixels = np.array(overlay.data, np.uint8).reshape(96, 128, 3)
    decoded = cv2.imdecode(np.array(compressed.data), cv2.IMREAD_COLOR)
    assert decoded.shape == pixels.shape
    assert np.abs(decoded.astype(int) - pixels).mean() < 12
    assert pixels[2, 2, 2] > pixels[2, 2, 0] + 100, 'the banner is red, in BGR'


def test_the_bearing_is_the_ray_through_the_centre_of_the_box(published: dict[str, Any]) -> None:
    (anomaly,) = published['anomalies'].anomalies
    assert anomaly.has_bearing
    x = anomaly.box.x_offset + (anomaly.box.width - 1) / 2
    y = anomaly.box.y_offset + (anomaly.box.height - 1) / 2
    ray = np.array([(x - 63.5) / 100, (y - 47.5) / 100, 1.0])
    assert [anomaly.bearing.x, anomaly.bearing.y, anomaly.bearing.z] == pytest.approx(ray / np.linalg.norm(ray))


def test_the_markers_stand_in_the_optical_frame(published: dict[str, Any]) -> None:
    first, *markers = published['markers'].markers
    assert first.action == Marker.DELETEALL
    assert {marker.ns: marker.type for marker in markers} == {
        'frusta': Marker.LINE_LIST, 'outlines': Marker.LINE_STRIP, 'labels': Marker.TEXT_VIEW_FACING}
    named = {marker.ns: marker for marker in markers}
    for marker in markers:
        assert (marker.lifetime.sec, marker.lifetime.nanosec) == (0, 700_000_000)
        assert marker.action == Marker.ADD
        assert marker.color.a == 1.0
        assert marker.pose.orientation.w == 1.0
    outline = np.array([(p.x, p.y, p.z) for p in named['outlines'].points])
    assert np.linalg.norm(outline, axis=1) == pytest.approx(np.full(len(outline), 20.0))
    assert (outline[0] == outline[-1]).all()
    contour = {(p.x, p.y) for p in published['anomalies'].anomalies[0].contour}
    for u, v in outline[:, :2] / outline[:, 2:] * 100 + (63.5, 47.5):
        assert (round(u), round(v)) in contour
    lines = np.array([(p.x, p.y, p.z) for p in named['frusta'].points]).reshape(-1, 2, 3)
    assert len(lines) == 8
    assert (lines[::2, 0] == 0).all(), 'from the camera'
    box = published['anomalies'].anomalies[0].box
    corners = sorted(tuple(corner) for corner in lines[::2, 1, :2] / lines[::2, 1, 2:] * 100 + (64, 48))
    assert corners[0] == pytest.approx((box.x_offset, box.y_offset))
    assert corners[-1] == pytest.approx((box.x_offset + box.width, box.y_offset + box.height))
    label = named['labels'].pose.position
    assert label.y < outline[:, 1].min(), 'above the outline, and up is negative y'
    (anomaly,) = published['anomalies'].anomalies
    assert named['labels'].text == f'#{anomaly.track_id} {anomaly.score:.2f}'


def test_markers_go_when_the_anomaly_goes(active: Callable[..., Any]) -> None:
    one = active()
    markers = one.listen(MarkerArray, 'camera/markers')
    one.send_info(one.camera_info())
    for image, kinds in ((one.street_with_box(100), 4), (one.street(101), 1)):
        markers.clear()
        one.verdict(image)
        one.spin_until(lambda: len(markers) == FRAMES)
        assert len(markers[-1].markers) == kinds
        assert markers[-1].markers[0].action == Marker.DELETEALL


@pytest.mark.parametrize('name', ['recorded', 'learned'])
def test_the_score_is_that_of_the_pipeline(
        active: Callable[..., Any], encoder: dict[str, Any], request: pytest.FixtureRequest, name: str) -> None:
    database = request.getfixturevalue(name)
    one = active(database=str(database))
    scores = one.listen(AnomalyScore, 'camera/score')
    image = one.street_with_box(7)
    one.send(image, one.second, encoding='bgr8')
    one.spin_until(scores.__len__)
    judge = Judge.load(MethodSettings.of(encoder), database)
    expected = judge.process(Frame(image, one.second), CameraState())
    assert scores[0].score == pytest.approx(expected.score, rel=1e-6)
    assert scores[0].raw_score == pytest.approx(expected.raw_score, rel=1e-6)


def test_nothing_is_rendered_or_converted_that_nobody_wants(
        active: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The real functions work on; they are only counted."""
    calls: list[str] = []
    for module, names in ((outputs, ('render_overlay', 'image_to_message', 'image_to_compressed', 'marker_array')),
                          (messages, ('anomaly_array',))):
        for name in names:
            real = getattr(module, name)
            monkeypatch.setattr(
                module, name, lambda *a, _real=real, _name=name, **k: (calls.append(_name), _real(*a, **k))[1])
    one = active()
    scores = one.listen(AnomalyScore, 'camera/score')

    def send(number: int, *heard: list[Any]) -> None:
        one.send(one.street_with_box(100), number * one.second)
        one.spin_until(lambda: all(received and received[-1].header.stamp.sec == number for received in heard))

    send(1, scores)
    send(2, scores)
    assert calls == [], 'the first frame is done, of the second nobody wants more either'
    masks = one.listen(Image, 'camera/mask')
    send(3, masks)  # by its end the detector knows of the subscription
    calls.clear()
    send(4, masks)
    assert calls == ['image_to_message']
    overlays = one.listen(CompressedImage, 'camera/overlay/compressed')
    send(5, masks, overlays)
    calls.clear()
    send(6, masks, overlays)
    assert sorted(calls) == ['image_to_compressed', 'image_to_message', 'render_overlay']


def test_the_overlay_is_limited_in_width_at_once(active: Callable[..., Any]) -> None:
    one = active(overlay_max_width=64)
    overlays, masks = one.listen(Image, 'camera/overlay'), one.listen(Image, 'camera/mask')
    one.send(one.street(1), one.second)
    one.spin_until(lambda: overlays and masks)
    assert (overlays[0].height, overlays[0].width) == (48, 64)
    assert (masks[0].height, masks[0].width) == (96, 128)


@pytest.mark.skipif(messages.Detection2DArray is None, reason='vision_msgs is not installed')
def test_detections_for_what_knows_vision_msgs(active: Callable[..., Any]) -> None:
    one = active(filter_temporal=False)  # one frame is sent, in which nothing can persist
    heard = one.listen(messages.Detection2DArray, 'camera/detections')
    arrays = one.listen(AnomalyArray, 'camera/anomalies')
    one.send(one.street_with_box(100, BOX), STAMP_NS, frame_id=FRAME_ID)
    one.spin_until(lambda: heard and arrays)
    (anomaly,), (detection,) = arrays[0].anomalies, heard[0].detections
    assert heard[0].header == detection.header == arrays[0].header
    assert detection.bbox.size_x == anomaly.box.width
    assert detection.bbox.center.position.x == anomaly.box.x_offset + (anomaly.box.width - 1) / 2
    assert detection.results[0].hypothesis.class_id == 'anomaly'
    assert detection.results[0].hypothesis.score == pytest.approx(anomaly.score)


@pytest.mark.skipif(messages.ImageAnnotations is None, reason='foxglove_msgs is not installed')
def test_annotations_for_foxglove(active: Callable[..., Any]) -> None:
    one = active(filter_temporal=False)  # one frame is sent, in which nothing can persist
    heard = one.listen(messages.ImageAnnotations, 'camera/annotations')
    arrays = one.listen(AnomalyArray, 'camera/anomalies')
    one.send(one.street_with_box(100, BOX), STAMP_NS, frame_id=FRAME_ID)
    one.spin_until(lambda: heard and arrays)
    (outline,), (text,), (anomaly,) = heard[0].points, heard[0].texts, arrays[0].anomalies
    assert outline.timestamp == text.timestamp == arrays[0].header.stamp
    assert outline.type == outline.LINE_LOOP
    assert [(p.x - 0.5, p.y - 0.5) for p in outline.points] == [(p.x, p.y) for p in anomaly.contour]
    assert text.text == f'{anomaly.score:.2f}'
