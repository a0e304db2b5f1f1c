"""What the status of a camera says, from what happened to its frames."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus

from semanom_ros.core.results import FrameResult, Reason, ScoreMap, Verdict
from semanom_ros.ros import diagnostics
from semanom_ros.ros.diagnostics import CameraMonitor

RESULT = FrameResult(0, 'front', (4, 4), 1.5, 0.2, 0.01, 1.0, Verdict.ANOMALOUS,
                     ScoreMap.of_pixels(np.ones((2, 2), np.float32)), 1.0, timings_ms={'encode': 12.0})


def status(monitor: CameraMonitor, image_timeout: float = 60.0, latency_limit: float = 1.0) -> DiagnosticStatus:
    return monitor.status('detector: front', 'front', '/front/image', 1, image_timeout, latency_limit)


def values(of: DiagnosticStatus) -> dict[str, str]:
    return {item.key: item.value for item in of.values}


def test_a_camera_that_keeps_up_is_ok() -> None:
    monitor = CameraMonitor()
    monitor.start()
    for latency in np.linspace(0.001, 0.1, 100):
        monitor.received(lost=0)
        monitor.processed(RESULT, float(latency), age=0.25)
    found = status(monitor)
    assert found.level == DiagnosticStatus.OK
    assert found.message == 'ok'
    assert (found.name, found.hardware_id) == ('detector: front', 'front')
    counted = values(found)
    assert counted['frames received'] == counted['frames processed'] == '100'
    assert float(counted['latency p50 (ms)']) == 50.5
    assert 99 <= float(counted['latency p99 (ms)']) <= 100
    assert counted['age of the last result (ms)'] == '250.0'
    assert (counted['score'], counted['threshold'], counted['p-value']) == ('1.5', '1', '0.01')
    assert counted['encode (ms)'] == '12.00'


def test_every_drop_is_counted_by_its_reason() -> None:
    monitor = CameraMonitor()
    monitor.received(lost=3)
    monitor.dropped(diagnostics.SUPERSEDED)
    for number, reason in enumerate(diagnostics.UNKNOWN):
        for _ in range(number + 1):
            monitor.unknown(reason, f'because {number}')
    found = status(monitor)
    counted = values(found)
    assert [counted[f'dropped: {reason}'] for reason in diagnostics.DROPS] == ['3', '1']
    assert len(diagnostics.UNKNOWN) == 7
    assert [int(counted[f'unknown frames: {reason.words}']) for reason in diagnostics.UNKNOWN] == [1, 2, 3, 4, 5, 6, 7]
    assert found.level == DiagnosticStatus.ERROR
    assert '5 frames unknown, late: because 4' in found.message.split('; ')
    assert 'unknown' not in status(monitor).message, 'since the last report there was none'


def test_a_superseded_frame_is_no_fault() -> None:
    monitor = CameraMonitor()
    monitor.received(lost=0)
    monitor.dropped(diagnostics.SUPERSEDED)
    assert status(monitor).level == DiagnosticStatus.OK


def test_images_that_get_lost_on_their_way_are_a_warning_that_says_what_to_do() -> None:
    monitor = CameraMonitor()
    for number in range(20):
        monitor.received(lost=int(number == 7))
    assert status(monitor).level == DiagnosticStatus.OK  # one in twenty
    for _ in range(9):
        monitor.received(lost=1)
    found = status(monitor)
    assert found.level == DiagnosticStatus.WARN
    assert '9 images were lost' in found.message
    assert 'FASTDDS_DEFAULT_PROFILES_FILE' in found.message
    assert status(monitor).level == DiagnosticStatus.OK


def test_a_frame_that_could_not_be_judged_is_an_error_until_it_is_over() -> None:
    monitor = CameraMonitor()
    monitor.processed(RESULT, 0.01, None)
    monitor.unknown(Reason.INVALID_IMAGE, 'image: found nonsense')
    found = status(monitor)
    assert found.level == DiagnosticStatus.ERROR
    assert found.message == '1 frames unknown, invalid image: image: found nonsense'
    monitor.processed(RESULT, 0.01, None)
    assert status(monitor).level == DiagnosticStatus.OK
    monitor.processed(FrameResult.unknown(0, 'front', Reason.NOT_FINITE), 0.01, None)
    found = status(monitor)
    assert found.level == DiagnosticStatus.ERROR
    assert 'not finite' in found.message
    assert (values(found)['verdict'], values(found)['reason']) == ('unknown', 'not finite')


def test_the_verdict_and_what_is_held_back_are_values() -> None:
    monitor = CameraMonitor()
    monitor.processed(RESULT, 0.01, None)
    assert (values(status(monitor))['verdict'], values(status(monitor))['held back']) == ('anomalous', 'False')
    monitor.processed(replace(RESULT, verdict=Verdict.NOMINAL, reason=Reason.UNCONFIRMED), 0.01, None)
    found = status(monitor)
    assert found.level == DiagnosticStatus.OK
    assert {**values(found), 'verdict': 'nominal', 'held back': 'True', 'reason': 'unconfirmed'} == values(found)


def test_a_late_answer_is_an_error_until_one_comes_in_time() -> None:
    monitor = CameraMonitor()
    assert monitor.late(time.monotonic() - 3)
    assert not monitor.late(time.monotonic() - 2), 'no news'
    found = status(monitor)
    assert found.level == DiagnosticStatus.ERROR
    assert found.message.startswith('no answer of the worker for 3.')
    monitor.answered(3.5, limit=1.0)
    found = status(monitor)
    assert found.level == DiagnosticStatus.ERROR
    assert found.message.startswith('the last answer took 3.5 s, expected at most 1 s')
    monitor.answered(0.5, limit=1.0)
    assert status(monitor).level == DiagnosticStatus.OK
    assert monitor.late(time.monotonic() - 2)


def test_stamps_that_stand_still_are_an_error_and_missing_ones_a_warning() -> None:
    monitor = CameraMonitor()
    monitor.unstamped()
    found = status(monitor)
    assert found.level == DiagnosticStatus.WARN
    assert '1 frames have no stamp' in found.message
    monitor.standing()
    found = status(monitor)
    assert found.level == DiagnosticStatus.ERROR
    assert 'have the stamp of the frame before' in found.message
    monitor.standing()
    monitor.processed(FrameResult.unknown(0, 'front', Reason.STANDING_STAMPS), 0.01, None)
    assert status(monitor).message.startswith('1 frames unknown, standing stamps: ')


def test_latency_silence_and_missing_calibration_are_told_together() -> None:
    monitor = CameraMonitor()
    for _ in range(5):
        monitor.processed(RESULT, 0.4, None)
    monitor.bearings('no CameraInfo')
    assert status(monitor).message == 'no CameraInfo'
    found = status(monitor, image_timeout=0.0, latency_limit=0.3)
    assert found.level == DiagnosticStatus.ERROR
    reasons = found.message.split('; ')
    assert any(reason.startswith('no image on /front/image') for reason in reasons)
    assert any(reason.startswith('latency 0.40 s, expected at most 0.3 s') for reason in reasons)
    assert 'no CameraInfo' in reasons
    monitor.bearings('')
    assert status(monitor).level == DiagnosticStatus.OK


def test_stamps_that_go_back_are_a_warning_once() -> None:
    monitor = CameraMonitor()
    monitor.restarted()
    assert 'stamps went back' in status(monitor).message
    assert status(monitor).level == DiagnosticStatus.OK


def test_stamps_of_another_clock_have_no_age() -> None:
    monitor = CameraMonitor()
    for age, words in ((95790202.356, '1108.7 days behind'), (-90000.0, '1.0 days ahead of')):
        monitor.processed(RESULT, 0.01, age=age)
        assert values(status(monitor))['age of the last result (ms)'] == (
            f'unknown, the stamps are {words} the node\'s clock')
    monitor.processed(RESULT, 0.01, age=diagnostics.CLOCKS_APART_S)
    assert values(status(monitor))['age of the last result (ms)'] == '600000.0'


def verdict(monitor: CameraMonitor, image_timeout: float = 60.0) -> tuple[bytes, str]:
    found = monitor.verdict('detector: front verdict', 'front', image_timeout)
    return found.level, found.message


def test_the_verdict_is_the_worst_since_the_last_one() -> None:
    """As levels, for monitors that know nothing of anomalies."""
    nominal = replace(RESULT, verdict=Verdict.NOMINAL, score=0.5)
    held_back = replace(RESULT, verdict=Verdict.NOMINAL, reason=Reason.TOO_SMALL)
    monitor = CameraMonitor()
    monitor.start()
    assert verdict(monitor) == (DiagnosticStatus.OK, 'no frame yet')
    monitor.processed(nominal, 0.1, None)
    assert not monitor.turned()
    assert verdict(monitor) == (DiagnosticStatus.OK, 'nominal')
    monitor.processed(held_back, 0.1, None)
    assert verdict(monitor) == (DiagnosticStatus.OK, 'held back, too small')

    monitor.processed(RESULT, 0.1, None, nearest=14.2)
    assert monitor.turned()
    monitor.processed(nominal, 0.1, None)
    assert verdict(monitor) == (DiagnosticStatus.WARN, 'anomalous, 1 of 2 frames')
    assert verdict(monitor) == (DiagnosticStatus.OK, 'nominal')
    monitor.processed(RESULT, 0.1, None, nearest=14.2)
    found = monitor.verdict('detector: front verdict', 'front', 60.0)
    assert (found.name, found.hardware_id, values(found)['nearest (m)']) == ('detector: front verdict', 'front', '14.2')
    monitor.processed(RESULT, 0.1, None)
    assert not monitor.turned()  # monitors know already
    assert verdict(monitor)[0] == DiagnosticStatus.WARN
    assert verdict(monitor) == (DiagnosticStatus.WARN, 'anomalous')  # no frame since, and the last one was

    monitor.unknown(Reason.STALE, 'too old')
    monitor.processed(RESULT, 0.1, None)
    assert verdict(monitor) == (DiagnosticStatus.ERROR, 'unknown, stale: too old; anomalous, 1 of 1 frames')
    monitor.processed(nominal, 0.1, None)
    monitor.unknown(Reason.STALE, 'too old')
    for _ in range(2):  # the last one is not nominal because nothing came after it
        assert verdict(monitor) == (DiagnosticStatus.ERROR, 'unknown, stale: too old')
    monitor.processed(nominal, 0.1, None)
    assert verdict(monitor) == (DiagnosticStatus.OK, 'nominal')


def test_silence_is_no_verdict() -> None:
    monitor = CameraMonitor()
    monitor.start()
    level, message = verdict(monitor, image_timeout=-1.0)
    assert level == DiagnosticStatus.ERROR
    assert 'unknown, no verdict for 0.0 s' in message
    monitor.processed(replace(RESULT, verdict=Verdict.NOMINAL), 0.1, None)
    assert verdict(monitor, image_timeout=-1.0)[0] == DiagnosticStatus.ERROR
    assert not monitor.turned()
