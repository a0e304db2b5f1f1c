"""What cannot be judged is unknown, what is held back is said to be, and nothing that hangs silences the node."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from sensor_msgs.msg import CompressedImage, Image
from std_srvs.srv import Trigger

from semanom_ros.core.embedding.encoders.network import NetworkEncoder
from semanom_ros.core.pipeline import Judge
from semanom_ros.core.progress import SILENT
from semanom_ros.core.results import Reason, Verdict
from semanom_ros.msg import AnomalyArray, AnomalyScore
from semanom_ros.nodes import detector
from semanom_ros.recordings.nominal_recording import record_bags
from semanom_ros.ros.messages import image_to_message
from semanom_ros.settings import Settings

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
WHITE, BLUE = (255, 255, 255), (0, 0, 255)


class Heard:
    """What a camera's topics say, from now on."""

    def __init__(self, bench: Any, *pictures: str) -> None:
        self._bench = bench
        self.scores: list[AnomalyScore] = bench.listen(AnomalyScore, 'camera/score')
        self.arrays: list[AnomalyArray] = bench.listen(AnomalyArray, 'camera/anomalies')
        self.pictures = {name: bench.listen(CompressedImage if 'compressed' in name else Image, f'camera/{name}')
                         for name in pictures}

    def said(self, count: int) -> tuple[Verdict, Reason]:
        """The last verdict once so many have come; score and array say the same."""
        self._bench.spin_until(lambda: min(len(self.scores), len(self.arrays)) >= count, what=f'{count} verdicts')
        score, array = self.scores[-1], self.arrays[-1]
        for name in ('header', 'verdict', 'reason', 'explanation', 'anomalous', 'held_back'):
            assert getattr(score, name) == getattr(array, name), name
        assert score.anomalous == (score.verdict == AnomalyScore.VERDICT_ANOMALOUS)
        if score.verdict == AnomalyScore.VERDICT_UNKNOWN:
            assert score.explanation
            assert not array.anomalies
            assert not score.held_back
        return Verdict(score.verdict), Reason(score.reason)

    def of(self, reason: Reason) -> list[int]:
        """Whole seconds of the stamps of the scores with that reason."""
        return [score.header.stamp.sec for score in self.scores if score.reason == reason]


def patch(image: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """The picture with one patch of a colour."""
    image = image.copy()
    image[40:48, 48:56] = colour
    return image


def is_error(status: DiagnosticStatus, words: str) -> bool:
    return status.level == ERROR and words in status.message


# -- unknown


def test_without_calibration_nothing_is_nominal_nor_anomalous(
        active: Callable[..., Any], encoder: dict[str, Any], streets: Any, tmp_path: Path) -> None:
    """Two seconds of a drive hold nothing that one could be compared with."""
    database = tmp_path / 'uncalibrated'
    record_bags([streets.bag('short', frames=3)], database, Settings.of(encoder), SILENT)
    one = active(database=str(database))
    heard = Heard(one, 'mask', 'anomaly_map', 'overlay', 'overlay/compressed')
    for number, image in enumerate((one.street(1), one.street_with_box(2)), 1):
        one.send(image, number * one.second)
        assert heard.said(number) == (Verdict.UNKNOWN, Reason.NOT_CALIBRATED)
    assert [math.isnan(value) for value in (heard.scores[1].score, heard.scores[1].p_value)] == [True, True]
    assert 0 < heard.scores[0].raw_score < heard.scores[1].raw_score < 2, 'what can be said is said'
    overlays = heard.pictures['overlay'], heard.pictures['overlay/compressed']
    one.spin_until(lambda: all(overlay and overlay[-1].header.stamp.sec == 2 for overlay in overlays))
    assert not heard.pictures['mask']
    assert not heard.pictures['anomaly_map'], 'zeros would say that nothing is there'
    status = one.status('camera', lambda s: one.values(s).get('verdict') == 'unknown')
    assert one.values(status)['unknown frames: not calibrated'] == '2'
    one.send(one.street(3), 3 * one.second)
    assert one.status('camera', lambda s: is_error(s, 'frames unknown, not calibrated: '))
    answer = one.call(Trigger, '/semanom_detector/accept_as_nominal', Trigger.Request())
    assert not answer.success, 'nothing was flagged'


@pytest.mark.parametrize('variant', ['grid', 'instance'])
@pytest.mark.parametrize('colour', [WHITE, BLUE], ids=['NaN', 'infinity'])
def test_what_is_not_finite_is_never_a_score(
        active: Callable[..., Any], fragile: dict[str, Any], recorded_fragile: Path, drive: Path, tmp_path: Path,
        variant: str, colour: tuple[int, int, int], capfd: pytest.CaptureFixture[str]) -> None:
    """One patch of the picture is enough: what stands there is not known."""
    database = recorded_fragile
    if variant == 'instance':
        database = tmp_path / 'segments'
        record_bags([drive], database, Settings.of({
            **fragile, 'variant': 'instance', 'max_segments': 24, 'held_out_share': 0.5}), SILENT)
    segments = {'max_segments': 24} if variant == 'instance' else {}
    one = active(database=str(database), variant=variant, **fragile, **segments)
    heard = Heard(one, 'mask', 'overlay')
    one.send(one.street(1), one.second)
    assert heard.said(1) == (Verdict.NOMINAL, Reason.NONE)
    one.send(patch(one.street(2), colour), 2 * one.second)
    assert heard.said(2) == (Verdict.UNKNOWN, Reason.NOT_FINITE)
    unknown = heard.scores[1]
    assert all(math.isnan(value) for value in (unknown.score, unknown.raw_score, unknown.p_value))
    one.spin_until(lambda: any(overlay.header.stamp.sec == 2 for overlay in heard.pictures['overlay']),
                   what='there is a picture to draw on')
    assert heard.scores[1].explanation.startswith('1 of 192 embeddings of the encoder hold NaN or infinity')
    status = one.status('camera', lambda s: one.values(s)['unknown frames: not finite'] == '1')
    assert one.values(status)['frames processed'] == '2'
    one.send(patch(one.street(3), colour), 3 * one.second)
    assert one.status('camera', lambda s: is_error(s, '1 frames unknown, not finite: 1 of 192'))
    one.send(one.street(4), 4 * one.second)
    assert heard.said(4) == (Verdict.NOMINAL, Reason.NONE)
    one.spin_until(lambda: [mask.header.stamp.sec for mask in heard.pictures['mask']] == [1, 4])
    lines = [line for line in capfd.readouterr().err.splitlines() if 'NaN' in line]
    assert len(lines) == 1
    assert 'frame 2000000000 is unknown, not finite' in lines[0]
    assert one.status('camera', lambda s: s.level != ERROR)


def test_a_stale_frame_is_unknown_and_costs_nothing(
        active: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its picture is not even decoded: the node's clock is that of the system, and the stamp of 1970."""
    one = active(max_age=5.0)
    heard = Heard(one, 'overlay')
    with monkeypatch.context() as patched:
        patched.setattr('semanom_ros.ros.camera_input.picture_of', lambda *_: 1 / 0)
        one.send(one.street(0), one.second, frame_id='lens')
        assert heard.said(1) == (Verdict.UNKNOWN, Reason.STALE)
    assert (heard.scores[0].header.stamp.sec, heard.scores[0].header.frame_id) == (1, 'lens')
    assert (heard.arrays[0].image_height, heard.arrays[0].image_width) == (0, 0)
    assert 'expected at most 5 s' in heard.scores[0].explanation
    one.send(one.street(0), one.second)
    assert one.status('camera', lambda s: is_error(s, 'frames unknown, stale: found it'))
    assert one.status('camera', lambda s: one.values(s)['unknown frames: stale'] == '2')
    one.send(one.street(1), time.time_ns())
    assert heard.said(3) == (Verdict.NOMINAL, Reason.NONE)
    one.spin_until(lambda: heard.pictures['overlay'])
    assert len(heard.pictures['overlay']) == 1


def test_a_frame_without_a_picture_is_unknown(active: Callable[..., Any]) -> None:
    one = active()
    heard = Heard(one, 'overlay')
    message = image_to_message(one.street(0), 'rgb8', 7 * one.second, 'lens')
    one.send_raw(header=message.header, height=8, width=8, encoding='infrared', step=24, data=bytes(192))
    assert heard.said(1) == (Verdict.UNKNOWN, Reason.INVALID_IMAGE)
    assert (heard.scores[0].header.stamp.sec, heard.scores[0].header.frame_id) == (7, 'lens')
    assert "found encoding 'infrared'" in heard.scores[0].explanation
    assert not heard.pictures['overlay'], 'there is nothing to draw on'


def test_a_frame_that_fails_is_unknown(active: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Provoked by a judge that raises, as a GPU does that runs out of memory."""
    one = active()
    heard = Heard(one, 'overlay', 'mask')
    with monkeypatch.context() as patched:
        patched.setattr(Judge, 'process_batch', lambda *_: 1 / 0)
        one.send(one.street(0), one.second)
        assert heard.said(1) == (Verdict.UNKNOWN, Reason.FAILED)
    assert 'division by zero' in heard.scores[0].explanation
    one.spin_until(lambda: heard.pictures['overlay'], what='there is a picture to draw on')
    one.send(one.street(1), 2 * one.second)
    assert heard.said(2) == (Verdict.NOMINAL, Reason.NONE)
    one.spin_until(lambda: heard.pictures['mask'])
    assert [mask.header.stamp.sec for mask in heard.pictures['mask']] == [2]


# -- stamps


def test_where_stamps_stand_still_only_alarms_are_believed(
        active: Callable[..., Any], capfd: pytest.CaptureFixture[str]) -> None:
    one = active(filter_temporal=False)  # verdicts on single frames
    heard = Heard(one)
    for number in range(1, 4):
        one.send(one.street(number), one.second)
        assert heard.said(number) == ((Verdict.NOMINAL, Reason.NONE) if number == 1
                                      else (Verdict.UNKNOWN, Reason.STANDING_STAMPS))
    assert heard.scores[-1].score > 0, 'it was compared'
    one.send(one.street_with_box(4), one.second)
    assert heard.said(4) == (Verdict.ANOMALOUS, Reason.NONE)
    assert len(heard.arrays[-1].anomalies) == 1
    one.send(one.street_with_box(4), one.second)
    assert heard.said(5) == (Verdict.ANOMALOUS, Reason.NONE)
    assert one.status('camera', lambda s: is_error(s, 'have the stamp of the frame before'), heard=True)
    one.diagnostics.clear()
    one.send(one.street(5), one.second)
    assert heard.said(6) == (Verdict.UNKNOWN, Reason.STANDING_STAMPS)
    assert one.status('camera', lambda s: is_error(s, 'frames unknown, standing stamps: '), heard=True)
    one.send(one.street(6), 2 * one.second)
    assert heard.said(7) == (Verdict.NOMINAL, Reason.NONE)
    assert one.status('camera', lambda s: s.level != ERROR)
    assert sum('stamps stand still' in line for line in capfd.readouterr().err.splitlines()) == 1


def test_a_camera_without_stamps_is_judged(active: Callable[..., Any], capfd: pytest.CaptureFixture[str]) -> None:
    """Its frames are as old as their reception says, however strict max_age is."""
    one = active(filter_temporal=False, max_age=2.0)  # verdicts on single frames
    heard = Heard(one)
    for number, image in enumerate((one.street(1), one.street(2), one.street_with_box(3), one.street(4)), 1):
        one.send(image, 0)
        assert heard.said(number) == (Verdict.of(number == 3), Reason.NONE)
    status = one.status('camera', lambda s: 'age of the last result (ms)' not in one.values(s))
    assert status.level != ERROR
    one.diagnostics.clear()
    one.send(one.street(5), 0)
    assert one.status('camera', lambda s: s.level == WARN and 'frames have no stamp' in s.message, heard=True)
    assert one.monitor().count('restarted') == 0
    assert sum('no stamp' in line for line in capfd.readouterr().err.splitlines()) == 1


# -- held back


def test_what_the_filter_holds_back_is_said_to_be(active: Callable[..., Any], recorded: Path) -> None:
    one = active(database=str(recorded))
    heard = Heard(one, 'mask')
    one.send(one.street(1), one.second)
    assert heard.said(1) == (Verdict.NOMINAL, Reason.NONE)
    assert not heard.scores[0].held_back
    faint = 0.25 * one.street_with_box(2) + 0.75 * one.street(2)
    one.send(faint.astype(np.uint8), one.second + one.second // 10)
    assert heard.said(2) == (Verdict.NOMINAL, Reason.UNCONFIRMED)
    assert heard.scores[1].held_back
    assert heard.scores[1].explanation
    assert heard.scores[1].score > heard.scores[1].threshold
    status = one.status('camera', lambda s: one.values(s).get('held back') == 'True')
    assert (one.values(status)['verdict'], one.values(status)['reason']) == ('nominal', 'unconfirmed')
    assert status.level != ERROR
    one.spin_until(lambda: len(heard.pictures['mask']) == 2)
    assert not any(heard.pictures['mask'][1].data), 'it is nominal'


def test_a_region_that_is_too_small_is_held_back_for_that(active: Callable[..., Any]) -> None:
    one = active(filter_min_area=0.5)
    heard = Heard(one)
    one.send(one.street_with_box(2), one.second)
    assert heard.said(1) == (Verdict.NOMINAL, Reason.TOO_SMALL)
    assert heard.scores[0].held_back
    assert 'filter_min_area' in heard.scores[0].explanation


# -- late


@contextmanager
def blocked(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[threading.Semaphore, threading.Semaphore]]:
    """An encoder that stands still in the middle of a frame, as a GPU's driver was seen to.

    A stand-in: the real encoder, held up on an event, which it can be let go on. Yields a semaphore that is released
    when it has begun, and one to let it encode a frame; at the end it encodes all.
    """
    begun, gate, real = threading.Semaphore(0), threading.Semaphore(0), NetworkEncoder.encode
    over = threading.Event()

    def encode(self: NetworkEncoder, images: Any) -> Any:
        begun.release()
        while not over.is_set() and not gate.acquire(timeout=0.01):
            pass
        return real(self, images)

    monkeypatch.setattr(NetworkEncoder, 'encode', encode)
    try:
        yield begun, gate
    finally:
        over.set()


def test_a_worker_that_hangs_is_an_error_within_a_second(
        active: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detector, 'DIAGNOSTICS_PERIOD_S', 60.0)  # it does not wait for these
    one = active()
    limit = one.detector._settings.detector.latency_limit
    heard = Heard(one)
    with blocked(monkeypatch) as (_, gate):
        begin = time.monotonic()
        one.send(one.street(1), one.second, frame_id='lens')
        assert one.status('camera', lambda s: is_error(s, 'no answer of the worker for'))
        passed = time.monotonic() - begin
        assert limit <= passed < limit + 1.0, passed
        assert heard.said(1) == (Verdict.UNKNOWN, Reason.LATE)
        assert heard.scores[0].header.frame_id == 'lens'
        for number in (2, 3):  # the camera goes on, and hears that nobody looks
            one.send(one.street(number), number * one.second)
            assert heard.said(number) == (Verdict.UNKNOWN, Reason.LATE)
        assert heard.of(Reason.LATE) == [1, 2, 3], 'once for each'
        gate.release()
        assert heard.said(4) == (Verdict.NOMINAL, Reason.NONE), 'what comes after all is published'
        assert heard.scores[-1].header.stamp.sec == 1
        gate.release()
        assert heard.said(5) == (Verdict.NOMINAL, Reason.NONE)
        assert heard.scores[-1].header.stamp.sec == 3, 'the latest'
    one.send(one.street(4), 4 * one.second)
    assert heard.said(6) == (Verdict.NOMINAL, Reason.NONE)


def test_an_encoder_that_is_too_slow_still_alarms(active: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every frame takes longer than latency_limit: the node says so all the time, and its verdicts come."""
    one = active(filter_temporal=False)  # frames come that far apart
    heard = Heard(one)
    with blocked(monkeypatch) as (_, gate):
        for number, image in enumerate((one.street(1), one.street_with_box(2)), 1):
            one.send(image, 3 * number * one.second)
            assert heard.said(2 * number - 1) == (Verdict.UNKNOWN, Reason.LATE)
            assert one.status('camera', lambda s: is_error(s, 'no answer of the worker for'))
            gate.release()
            assert heard.said(2 * number) == (Verdict.of(number == 2), Reason.NONE)
            assert one.status('camera', lambda s: is_error(s, 'the last answer took'))
    one.send(one.street(3), 20 * one.second)
    assert heard.said(5) == (Verdict.NOMINAL, Reason.NONE)
    assert one.status('camera', lambda s: s.level != ERROR)


def test_another_camera_that_waits_behind_a_hanging_worker_hears_of_it(
        active: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    one = active(camera_names=['front', 'rear'])
    rear: list[AnomalyScore] = one.listen(AnomalyScore, 'rear/score')
    with blocked(monkeypatch) as (begun, _):
        one.send(one.street(1), one.second, camera='front')
        one.spin_until(lambda: begun.acquire(blocking=False))
        one.send(one.street(2), 2 * one.second, camera='rear')
        one.spin_until(rear.__len__)
        assert (rear[0].reason, rear[0].header.stamp.sec) == (AnomalyScore.REASON_LATE, 2)
        assert one.status('rear', lambda s: is_error(s, 'no answer of the worker for'))
    one.spin_until(lambda: len(rear) == 2)
    assert rear[1].verdict == AnomalyScore.VERDICT_NOMINAL


# -- stopping


def test_a_hanging_worker_blocks_neither_parameters_nor_services(
        active: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detector, 'STOP_S', 0.3)
    one = active()
    heard = Heard(one)
    with blocked(monkeypatch) as (begun, _):
        one.send(one.street(1), one.second)
        one.spin_until(lambda: begun.acquire(blocking=False))
        value = ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=0.05)
        request = SetParameters.Request(parameters=[Parameter(name='false_alarm_rate', value=value)])
        assert one.call(SetParameters, '/semanom_detector/set_parameters', request).results[0].successful
        assert not one.deactivate()
        assert one.state == 'active'
        assert one.status('detector', lambda s: is_error(s, 'cannot stop: semanom_worker still at work after 0.3 s'))
        assert not one.deactivate()
    one.spin_until(heard.scores.__len__)
    assert one.deactivate()
    assert one.state == 'inactive'
    assert one.status('detector', lambda s: s.level == OK)
    assert one.activate()
    one.send(one.street(2), 2 * one.second)
    one.spin_until(lambda: heard.scores[-1].header.stamp.sec == 2)


def test_a_database_that_never_loads_keeps_cleanup_from_nothing_but_itself(
        active: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for a file system that hangs."""
    monkeypatch.setattr(detector, 'STOP_S', 0.3)
    one = active()
    gate, begun = threading.Event(), threading.Event()
    monkeypatch.setattr(Judge, 'with_database', lambda self, path: (begun.set(), gate.wait(60), self)[2])
    client = one._client(Trigger, '/semanom_detector/reload_database', 30)
    try:
        future = client.call_async(Trigger.Request())
        one.spin_until(begun.is_set)
        assert one.deactivate()
        assert not one.cleanup()
        assert one.state == 'inactive'
        assert one.status('detector', lambda s: is_error(s, 'cannot stop: semanom_service still at work'))
        gate.set()
        one.spin_until(future.done)
        assert one.cleanup()
    finally:
        gate.set()
        one.node.destroy_client(client)


def test_shutdown_leaves_a_hanging_worker_behind(active: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detector, 'STOP_S', 0.3)
    one = active()
    with blocked(monkeypatch) as (begun, _):
        one.send(one.street(1), one.second)
        one.spin_until(lambda: begun.acquire(blocking=False))
        assert one.change(Transition.TRANSITION_ACTIVE_SHUTDOWN)
        assert one.state == 'finalized'
        assert one.detector.hanging == ['semanom_worker']
    one.spin_until(lambda: not one.detector.hanging)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_process_though_the_encoder_hangs(
        bench: Callable[..., Any], fragile: dict[str, Any], recorded_fragile: Path, number: signal.Signals) -> None:
    """A real network that never comes to an end with a white picture."""
    observer = bench()
    scores: list[AnomalyScore] = []
    observer.node.create_subscription(AnomalyScore, '/other/camera/score', scores.append, 10)
    process = subprocess.Popen(
        [sys.executable, '-m', 'semanom_ros.nodes.detector', '--ros-args', '-r', '__node:=other', '-p',
         f'database:={recorded_fragile}', '-p', f'encoder:={fragile["encoder"]}', '-p',
         f'input_size:={fragile["input_size"]}'], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
            request = ChangeState.Request(transition=Transition(id=transition))
            assert observer.call(ChangeState, '/other/change_state', request, timeout=90).success
        publisher = observer.node.create_publisher(Image, '/other/input/camera/image', 10)
        observer.spin_until(publisher.get_subscription_count, 90)
        white = np.full((observer.height, observer.width, 3), 255, np.uint8)
        stamps = iter(range(1, 10**6))

        def heard() -> bool:
            # again and again: nobody tells when the other side is ready to receive
            publisher.publish(image_to_message(white, 'rgb8', next(stamps) * observer.second, 'lens'))
            return len(scores) > 0

        observer.spin_until(heard, 90)
        assert {score.reason for score in scores} == {AnomalyScore.REASON_LATE}
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 1, output
    assert 'Traceback' not in output
    assert 'semanom_detector: semanom_worker does not end' in output
