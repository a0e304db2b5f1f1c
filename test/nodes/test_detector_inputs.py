"""What cameras send, the good and the bad, over DDS."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.serialization import serialize_message
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from semanom_ros.core.pipeline import Judge
from semanom_ros.core.progress import SILENT
from semanom_ros.core.results import Reason
from semanom_ros.msg import AnomalyArray, AnomalyScore
from semanom_ros.recordings.nominal_recording import record_bags
from semanom_ros.ros import diagnostics
from semanom_ros.ros.messages import image_to_compressed, image_to_message
from semanom_ros.settings import Settings

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


def stamps(scores: list[AnomalyScore]) -> list[int]:
    """Whole seconds of the stamps."""
    return [score.header.stamp.sec for score in scores]


@contextmanager
def held_up(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], bool]]:
    """A judge that stands still within the block; yields a test of whether it has begun to work on a frame.

    The real one, made as slow as it must be for the test.
    """
    gate, begun, real = threading.Event(), threading.Event(), Judge.process_batch

    def process(self: Judge, *arguments: Any) -> Any:
        begun.set()
        assert gate.wait(60)
        return real(self, *arguments)

    monkeypatch.setattr(Judge, 'process_batch', process)
    try:
        yield begun.is_set
    finally:
        gate.set()


def test_a_camera_three_times_too_fast_gets_its_latest_frame_scored(
        active: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    one = active()
    scores = one.listen(AnomalyScore, 'camera/score')
    monitor = one.monitor()
    sent = 12
    with held_up(monkeypatch) as begun:
        one.send(one.street(0), one.second)
        one.spin_until(begun)
        for number in range(2, sent + 1):
            one.send(one.street(number), number * one.second)
            one.spin_until(
                lambda count=number: monitor.count('received') + monitor.count(diagnostics.LOST) == count)
        assert len(one.detector._frames._items) == 1
    one.spin_until(lambda: len(scores) == 2)
    assert stamps(scores) == [1, sent]
    dropped = monitor.count(diagnostics.SUPERSEDED) + monitor.count(diagnostics.LOST)
    assert monitor.count('processed') + dropped == sent
    assert monitor.count(diagnostics.SUPERSEDED) > 0
    status = one.status('camera', lambda s: one.values(s)['frames processed'] == '2')
    counted = one.values(status)
    assert counted['frames received'] == str(monitor.count('received'))
    assert counted['dropped: superseded by a newer one'] == str(monitor.count(diagnostics.SUPERSEDED))


def test_two_cameras_take_turns(active: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    one = active(camera_names=['front', 'rear'], filter_temporal=False)  # verdicts on single frames
    heard = {name: one.listen(AnomalyScore, f'{name}/score') for name in ('front', 'rear')}
    with held_up(monkeypatch) as begun:
        one.send(one.street(0), one.second, camera='front')
        one.spin_until(begun)
        for number in range(2, 8):
            one.send(one.street(number), number * one.second, camera='front')
        one.send(one.street_with_box(3), 3 * one.second, camera='rear', frame_id='rear_optical')
        front, rear = one.monitor('front'), one.monitor('rear')
        one.spin_until(
            lambda: front.count('received') + front.count(diagnostics.LOST) == 7 and rear.count('received') == 1)
    one.spin_until(lambda: len(heard['front']) == 2 and len(heard['rear']) == 1)
    assert stamps(heard['front']) == [1, 7]
    assert stamps(heard['rear']) == [3]
    assert heard['rear'][0].header.frame_id == 'rear_optical'
    assert heard['rear'][0].anomalous
    assert not heard['front'][1].anomalous
    assert rear.count(diagnostics.SUPERSEDED) == 0
    one.status('front')
    assert one.status('rear').hardware_id == 'rear'


@pytest.mark.parametrize('format', ['jpeg', 'png'])
def test_compressed_images(active: Callable[..., Any], format: str) -> None:
    one = active(image_transport='compressed', filter_temporal=False)  # verdicts on single frames
    scores = one.listen(AnomalyScore, 'camera/score')
    publisher = one.publisher(CompressedImage, 'camera/image/compressed')
    for number, image in enumerate((one.street(3), one.street_with_box(3))):
        publisher.publish(image_to_compressed(image, (number + 1) * one.second, 'lens', format, quality=98))
        one.spin_until(lambda count=number + 1: len(scores) == count)
    assert [score.anomalous for score in scores] == [False, True]
    assert [(score.header.stamp.sec, score.header.frame_id) for score in scores] == [(1, 'lens'), (2, 'lens')]
    publisher.publish(CompressedImage(format='jpeg', data=b'\xff\xd8 no picture'))
    assert one.status('camera', lambda s: 'compressed image: found 13 bytes' in s.message)


def test_masks_beside_compressed_images(
        active: Callable[..., Any], encoder: dict[str, Any], streets: Any, tmp_path: Path) -> None:
    """The segment that was recorded is found again: the detector embeds what the recorder did."""
    given = {'variant': 'instance', 'segmenter': 'topic'}
    bag, database = streets.bag('masked', frames=3, masks=True, compress=True), tmp_path / 'database'
    record_bags([bag], database, Settings.of({
        **encoder, **given, 'image_topics': ['/camera/image'],
        'segments_topics': ['/camera/segments'], 'held_out_share': 0.0}), SILENT)
    one = active(database=str(database), image_transport='compressed', **given)
    scores = one.listen(AnomalyScore, 'camera/score')
    images = one.publisher(CompressedImage, 'camera/image/compressed')
    masks = one.publisher(Image, 'camera/segments')
    sent = streets.messages(bag)
    for count, (image, mask) in enumerate(sent, 1):
        for publisher, message in ((masks, mask), (images, image)) if count % 2 else ((images, image), (masks, mask)):
            publisher.publish(message)  # in either order
        one.spin_until(lambda count=count: len(scores) == count)
    assert [score.raw_score for score in scores] == pytest.approx([0.0] * len(sent), abs=1e-5)
    assert one.status('camera', lambda s: 'no masks' not in s.message)
    late = CompressedImage(header=sent[0][0].header, format=sent[0][0].format, data=sent[0][0].data)
    late.header.stamp.sec += 100
    images.publish(late)
    one.spin_until(lambda: len(scores) == len(sent) + 1, what='after segments_wait it is compared patch by patch')
    assert scores[-1].raw_score > 1e-3, 'patches, not segments, were recorded only where no segment was'
    assert 'no masks on /semanom_detector/input/camera/segments' in one.status(
        'camera', lambda s: s.level == WARN and 'no masks' in s.message).message


BAD = {
    'no pixels': {'height': 0, 'width': 0, 'encoding': 'rgb8', 'step': 0},
    'step too small': {'height': 8, 'width': 8, 'encoding': 'rgb8', 'step': 23, 'data': bytes(192)},
    'too few bytes': {'height': 8, 'width': 8, 'encoding': 'rgb8', 'step': 24, 'data': bytes(100)},
    'too many bytes': {'height': 8, 'width': 8, 'encoding': 'rgb8', 'step': 24, 'data': bytes(1000)},
    'unknown encoding': {'height': 8, 'width': 8, 'encoding': 'infrared', 'step': 24, 'data': bytes(192)},
    'no encoding': {'height': 8, 'width': 8, 'encoding': '', 'step': 24, 'data': bytes(192)},
    'empty message': {},
}


@pytest.mark.parametrize('fault', BAD)
def test_a_bad_image_is_reported_and_the_next_good_one_is_scored(
        active: Callable[..., Any], fault: str, trial: Any) -> None:
    with trial('Nodes', 'images that are none'):
        one = active()
        scores = one.listen(AnomalyScore, 'camera/score')
        one.send_raw(**BAD[fault])
        status = one.status('camera', lambda s: one.values(s)['unknown frames: invalid image'] == '1')
        assert status.level == ERROR
        assert status.message.split('; ')[0].startswith('1 frames unknown, invalid image: image: found')
        assert 'expected' in status.message
        assert '\n' not in status.message
        one.send(one.street(0), one.second)
        one.spin_until(lambda: len(scores) == 2)
        assert stamps(scores) == [0, 1]
        assert [score.verdict for score in scores] == [AnomalyScore.VERDICT_UNKNOWN, AnomalyScore.VERDICT_NOMINAL]
        assert one.status('camera', lambda s: s.level != ERROR)


def test_bytes_that_are_no_image_are_reported(active: Callable[..., Any], trial: Any) -> None:
    """A publisher with a broken serialization: the type fits, the bytes do not."""
    with trial('Nodes', 'images that are none', times=3):
        one = active()
        scores = one.listen(AnomalyScore, 'camera/score')
        whole = serialize_message(image_to_message(one.street(0), 'rgb8', one.second, 'lens'))
        publisher = one.publisher(Image, 'camera/image')
        for number, broken in enumerate((whole[:6], whole[:40], whole[:500])):
            publisher.publish(broken)
            one.spin_until(lambda count=number + 1: one.monitor().count(Reason.INVALID_IMAGE.words) == count)
        publisher.publish(whole)
        one.spin_until(lambda: len(scores) == 3, what='where the header can be read')
        assert [(score.verdict, score.header.stamp.sec, score.header.frame_id) for score in scores] == [
            (0, 1, 'lens'), (0, 1, 'lens'), (1, 1, 'lens')]


def test_bad_images_are_logged_once_in_a_while(active: Callable[..., Any], capfd: pytest.CaptureFixture[str]) -> None:
    one = active()
    for number in range(5):
        one.send_raw(**BAD['unknown encoding'])
        one.spin_until(lambda count=number + 1: one.monitor().count(Reason.INVALID_IMAGE.words) == count)
    lines = [line for line in capfd.readouterr().err.splitlines() if 'infrared' in line]
    assert len(lines) == 1
    assert 'semanom_detector.camera' in lines[0]


def test_the_resolution_may_change_in_mid_stream(active: Callable[..., Any]) -> None:
    one = active()
    arrays, masks = one.listen(AnomalyArray, 'camera/anomalies'), one.listen(Image, 'camera/mask')
    tenths = iter(range(1, 100))

    def look(size: tuple[int, int]) -> int:
        """The number of the anomaly that is always at the same pixels."""
        image = one.street(number := next(tenths), size)
        image[32:64, 40:72] = (230, 20, 30)
        arrays.clear()
        masks.clear()
        one.send(image, number * one.second // 10)
        one.spin_until(lambda: arrays and masks)
        assert (masks[0].height, masks[0].width) == size
        (there,) = [anomaly for anomaly in arrays[0].anomalies if 0 <= 56 - anomaly.box.x_offset < anomaly.box.width
                    and 0 <= 48 - anomaly.box.y_offset < anomaly.box.height]
        return there.track_id

    numbers = [{look(size) for _ in range(4)} for size in ((96, 128), (192, 256), (64, 200))]
    assert [len(same) for same in numbers] == [1, 1, 1]
    assert len(set.union(*numbers)) == 3, 'pixels elsewhere in the world: another thing'


def test_a_recording_that_starts_again_forgets_what_was_tracked(active: Callable[..., Any]) -> None:
    one = active()
    arrays = one.listen(AnomalyArray, 'camera/anomalies')
    tenth = one.second // 10

    def play(start: int) -> list[int]:
        """Seconds that the anomaly has been followed for, in tenths; with its number at the end."""
        ages = []
        for number in range(5):
            arrays.clear()
            one.send(one.street_with_box(50), start * one.second + number * tenth)
            one.spin_until(arrays.__len__)
            (anomaly,) = arrays[0].anomalies
            ages.append(round((anomaly.age.sec * 10**9 + anomaly.age.nanosec) / tenth))
        return [*ages, anomaly.track_id]

    assert play(100) == [0, 1, 2, 3, 4, 1]
    assert play(10) == [0, 1, 2, 3, 4, 2], 'the second round is as the first, with another thing'
    assert one.monitor().count('restarted') == 1


@pytest.mark.parametrize('stamps', ['rising', 'slow', 'standing', 'zero'])
def test_a_strong_anomaly_is_anomalous_in_its_first_frame_whatever_the_stamps(
        active: Callable[..., Any], stamps: str, capfd: pytest.CaptureFixture[str]) -> None:
    """At the defaults; `slow`: a frame in ten seconds."""
    one = active()
    arrays = one.listen(AnomalyArray, 'camera/anomalies')
    stamp_of = {'rising': lambda n: 100 * one.second + n * one.second // 10, 'slow': lambda n: n * 10 * one.second,
                'standing': lambda n: 100 * one.second, 'zero': lambda n: 0}[stamps]

    def look(number: int, image: Any) -> AnomalyArray:
        arrays.clear()
        one.send(image, stamp_of(number))
        one.spin_until(arrays.__len__)
        return arrays[0]

    assert not look(1, one.street(1)).anomalous
    for number in range(2, 6):
        array = look(number, one.street_with_box(number))
        assert array.anomalous
        assert array.anomalies[0].track_id == 1
    assert (array.anomalies[0].age.sec, array.anomalies[0].age.nanosec) > (0, 0)
    warnings = [line for line in capfd.readouterr().err.splitlines() if 'time is taken from reception' in line]
    assert len(warnings) == (stamps in ('standing', 'zero')), warnings


def test_without_camera_info_there_are_no_bearings_and_a_warning(active: Callable[..., Any]) -> None:
    one = active(filter_temporal=False)  # single frames are sent
    arrays = one.listen(AnomalyArray, 'camera/anomalies')

    def bearing(number: int) -> bool:
        arrays.clear()
        one.send(one.street_with_box(50), number * one.second)
        one.spin_until(arrays.__len__)
        (anomaly,) = arrays[0].anomalies
        assert anomaly.has_bearing == any((anomaly.bearing.x, anomaly.bearing.y, anomaly.bearing.z))
        return anomaly.has_bearing

    assert not bearing(1)
    assert 'no CameraInfo on /semanom_detector/input/camera/camera_info' in one.status(
        'camera', lambda s: s.level == WARN).message
    one.send_info(one.camera_info())
    assert bearing(2)
    assert one.status('camera', lambda s: s.level == OK)
    for info, words in ((one.camera_info(height=128), '128x128'), (CameraInfo(height=96, width=128), 'calibrate'),
                        (one.camera_info(d=[0.1] * 5, distortion_model='division'), 'division')):
        one.send_info(info)
        assert not bearing(3)
        assert words in one.status('camera', lambda s: s.level == WARN).message
    one.send_info(one.camera_info())
    assert bearing(4)


def test_camera_info_that_came_before_activate_is_remembered(bench: Callable[..., Any], recorded: Any) -> None:
    one = bench(database=str(recorded), filter_temporal=False)  # a single frame is sent
    assert one.configure()
    one.send_info(one.camera_info())
    assert one.activate()
    arrays = one.listen(AnomalyArray, 'camera/anomalies')
    one.send(one.street_with_box(50), one.second)
    one.spin_until(arrays.__len__)
    assert arrays[0].anomalies[0].has_bearing


def test_frames_older_than_max_age_are_unknown_by_the_clock_of_the_simulation(active: Callable[..., Any]) -> None:
    one = active(use_sim_time=True, max_age=0.5)
    scores = one.listen(AnomalyScore, 'camera/score')
    monitor = one.monitor()
    one.send(one.street(0), 50 * one.second)
    one.spin_until(lambda: len(scores) == 1, what='before the first /clock there is no age')
    clock = one.node.create_publisher(Clock, '/clock', 10)
    one.spin_until(clock.get_subscription_count)

    def set_clock(tenths: int) -> None:
        message = Clock()
        message.clock.sec, message.clock.nanosec = tenths // 10, tenths % 10 * 100_000_000
        clock.publish(message)
        one.spin_until(lambda: one.detector.get_clock().now().nanoseconds == tenths * one.second // 10)

    set_clock(1004)
    one.send(one.street(1), 100 * one.second)
    one.spin_until(lambda: len(scores) == 2, what='0.4 s old')
    set_clock(1006)
    one.send(one.street(2), 100 * one.second)
    one.spin_until(lambda: len(scores) == 3, what='0.6 s old')
    assert one.status('camera', lambda s: one.values(s)['unknown frames: stale'] == '1')
    assert monitor.count('processed') == 2
    set_clock(50)  # the recording begins again
    one.send(one.street(3), 5 * one.second)
    one.spin_until(lambda: len(scores) == 4)
    assert stamps(scores) == [50, 100, 100, 5]
    assert [score.verdict for score in scores] == [AnomalyScore.VERDICT_NOMINAL] * 2 + [
        AnomalyScore.VERDICT_UNKNOWN, AnomalyScore.VERDICT_NOMINAL]


def test_a_camera_that_sends_nothing_is_an_error(active: Callable[..., Any]) -> None:
    one = active(image_timeout=0.3)
    status = one.status('camera', lambda s: s.level == ERROR)
    assert 'no image on /semanom_detector/input/camera/image' in status.message
    assert '(0 publishers)' in status.message


def test_a_frame_that_fails_does_not_end_the_node(
        active: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, trial: Any) -> None:
    """Provoked by a judge that raises, as a GPU does that runs out of memory."""
    with trial('Nodes', 'a frame that fails in the pipeline'):
        one = active()
        scores = one.listen(AnomalyScore, 'camera/score')
        with monkeypatch.context() as patch:
            patch.setattr(Judge, 'process_batch', lambda *_: 1 / 0)
            one.send(one.street(0), one.second)
            assert one.status('camera', lambda s: 'division by zero' in s.message).level == ERROR
            assert one.monitor().count(Reason.FAILED.words) == 1
        one.send(one.street(1), 2 * one.second)
        one.spin_until(lambda: len(scores) == 2)
        assert stamps(scores) == [1, 2]


def test_a_fast_camera_is_never_waited_for_at_deactivate(
        active: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    one = active()
    scores = one.listen(AnomalyScore, 'camera/score')
    with held_up(monkeypatch) as begun:
        one.send(one.street(0), one.second)
        one.spin_until(begun)
        one.send(one.street(1), 2 * one.second)
        one.spin_until(lambda: one.monitor().count('received') == 2)
    assert one.deactivate()
    assert stamps(scores)[:1] in ([], [1])
    assert one.activate()
    one.send(one.street(2), 3 * one.second)
    one.spin_until(lambda: 3 in stamps(scores))
