"""The real detector, in a process of its own, under images over DDS; and the recorder that makes its database."""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from rclpy.node import Node
from sensor_msgs.msg import Image
from tqdm import tqdm

from semanom_ros.benchmarks.plan import Plan, drive, forward_pass, in_turn, ratio, summary
from semanom_ros.core.embedding.embedder import Embedder
from semanom_ros.core.progress import Progress
from semanom_ros.errors import SemanomError
from semanom_ros.evaluation.live_run import DetectorProcess
from semanom_ros.evaluation.result_bag import CAMERA, PREFIX
from semanom_ros.msg import AnomalyScore
from semanom_ros.recordings.bags import BagWriter
from semanom_ros.recordings.nominal_recording import record_bags
from semanom_ros.ros.background import background_node, private_domain
from semanom_ros.ros.messages import image_to_message
from semanom_ros.ros.outputs import SCORE
from semanom_ros.ros.qos import OUTPUT

TOPIC = '/camera/image_raw'
FRAME_PERIOD_NS = 500_000_000
_CONFIGURE_S, _ACTIVATE_S = 300.0, 60.0
_LOST_S = 5.0  # after which an image without a score counts as lost
_ATTEMPTS = 5  # images sent for each that is to be scored
_BURST_FRAMES = 8  # different pictures that a burst repeats


def record(plan: Plan, embedder: Embedder, progress: Progress) -> dict[str, Any]:
    """`semanom record` of a bag of 720p images, for each frame, over the forward pass.

    Reading, embedding, writing, and the calibration at the end.
    """
    bag = _bag(plan)
    forward = forward_pass(embedder)
    half = math.ceil(plan.repeats / 2)
    before = in_turn({'forward': forward}, half, 'forward')['forward']
    recording = record_bags([bag], _database(plan), plan.settings, progress, embedder)
    times = before + in_turn({'forward': forward}, half, 'forward')['forward']
    per_frame = recording.seconds * 1e3 / recording.summary.frames
    return {'record_over_forward': ratio([per_frame], times),
            'details': {'record': {'frames': recording.summary.frames, 'per_frame_ms': round(per_frame, 3),
                                   'forward': summary(times)}}}


@contextmanager
def detector(plan: Plan, embedder: Embedder, progress: Progress) -> Iterator[LiveDetector]:
    """The detector, active, on a ROS domain of its own; it has a small nominal database.

    Fast DDS has shared memory for large images, for this process and the detector's, unless a profile is set already.

    Raises:
        SemanomError: it does not start; with the end of its log.
    """
    if not _database(plan).exists():
        record_bags([_bag(plan)], _database(plan), plan.settings, progress, embedder)
    with private_domain() as domain, background_node('semanom_bench', domain) as node:
        process = DetectorProcess(domain, plan.scratch, TOPIC, plan.settings, _database(plan), _bag(plan))
        try:
            process.change_state(node, Transition.TRANSITION_CONFIGURE, _CONFIGURE_S)
            live = LiveDetector(node, process)
            process.change_state(node, Transition.TRANSITION_ACTIVATE, _ACTIVATE_S)
            live.wait_for_subscriber()
            yield live
        finally:
            process.stop()


class LiveDetector:
    """Sends images to a running detector and sees what comes back."""

    def __init__(self, node: Node, process: DetectorProcess) -> None:
        self._process = process
        self._publisher = node.create_publisher(Image, TOPIC, OUTPUT)
        self._changed = threading.Condition()
        self._scored = -1
        self._scored_at: dict[int, float] = {}
        self._counts: list[tuple[float, int]] = []
        self._status: dict[str, str] = {}
        self._stamp_ns = 0
        node.create_subscription(AnomalyScore, PREFIX + SCORE.name, self._on_score, OUTPUT)
        node.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, OUTPUT)

    def wait_for_subscriber(self) -> None:
        """Until the detector listens.

        Raises:
            SemanomError: it does not.
        """
        end = time.monotonic() + _ACTIVATE_S
        while not self._publisher.get_subscription_count():
            self._process.check_alive()
            if time.monotonic() > end:
                raise self._process.failure(f'does not listen to {TOPIC}')
            time.sleep(0.05)

    def end_to_end(self, plan: Plan, embedder: Embedder) -> dict[str, Any]:
        """An image published until its score is received, over the forward pass; the two in turn, so neither waits.

        Images that the middleware loses are counted and left out.
        """
        forward = forward_pass(embedder)
        times: dict[str, list[float]] = {'end_to_end': [], 'forward': []}
        lost = 0
        images = drive((plan.repeats + 1) * _ATTEMPTS)
        with tqdm(total=plan.repeats, desc='end to end', leave=False, disable=None) as bar:
            for message in map(self._message, images):
                milliseconds = self._score_one(message)
                if milliseconds is None:
                    lost += 1
                    continue
                times['end_to_end'].append(milliseconds)
                times['forward'] += in_turn({'forward': forward}, 1, 'forward')['forward']
                bar.update()
                if len(times['end_to_end']) > plan.repeats:
                    break
        scored = {name: values[1:] for name, values in times.items()}  # the first warms up
        if len(scored['end_to_end']) < plan.repeats:
            raise self._process.failure(f'scored {len(times["end_to_end"])} images, {lost} were lost')
        return {'end_to_end_over_forward': ratio(scored['end_to_end'], scored['forward']),
                'details': {'end_to_end': {**{name: summary(values) for name, values in scored.items()}, 'lost': lost}}}

    def _score_one(self, message: Image) -> float | None:
        """Milliseconds from publishing an image to receiving its score; None where it was lost."""
        stamp = message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec
        begin = time.perf_counter()
        self._publisher.publish(message)
        with self._changed:
            scored = self._changed.wait_for(lambda: self._scored >= stamp, _LOST_S)
        self._process.check_alive()
        return (time.perf_counter() - begin) * 1e3 if scored else None

    def overload(self, plan: Plan) -> dict[str, Any]:
        """A camera that sends three times as fast as images are scored one by one: what becomes of them.

        The latency of the last third of the scores over that of the first third tells whether anything queues.
        """
        messages = [self._message(image) for image in drive(_BURST_FRAMES)]
        alone = [time for time in map(self._score_one, messages) if time is not None]
        if not alone:
            raise self._process.failure('scored no image')
        period = statistics.median(alone) / 1e3 / 3
        before = self._drops_after(time.monotonic())
        sent: dict[int, float] = {}
        begin = time.perf_counter()
        for number in tqdm(range(max(30, round(plan.burst_s / period))), desc='overload', leave=False, disable=None):
            time.sleep(max(0.0, begin + number * period - time.perf_counter()))
            message = self._stamped(messages[number % len(messages)])
            sent[self._stamp_ns] = time.perf_counter()
            self._publisher.publish(message)
        with self._changed:  # the last one is scored, whatever was dropped, unless the middleware has lost it
            self._changed.wait_for(lambda: self._scored >= self._stamp_ns, _LOST_S)
            scored = [stamp for stamp in sent if stamp in self._scored_at]
            latencies = [(self._scored_at[stamp] - sent[stamp]) * 1e3 for stamp in scored]
        last = max(scored, default=0)
        unseen = sum(stamp > last for stamp in sent)  # lost with none after them that would tell the node
        after = self._drops_after(time.monotonic())
        third = max(1, len(latencies) // 3)
        return {'dropped_at_three_times_the_rate': round(1 - len(latencies) / len(sent), 3), 'details': {'overload': {
            'sent': len(sent), 'sent_fps': round(1 / period, 1), 'scored': len(latencies),
            'dropped': {reason: after[reason] - before.get(reason, 0) for reason in after} | {'lost last': unseen},
            'latency': summary(latencies), 'last_over_first_latency': ratio(latencies[-third:], latencies[:third])}}}

    def _drops_after(self, when: float) -> dict[str, int]:
        """Dropped frames by reason, as the next diagnostics count them."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._counts and self._counts[-1][0] > when, _LOST_S):
                raise self._process.failure('publishes no diagnostics')
            return {key.removeprefix('dropped: '): int(value) for key, value in self._status.items()
                    if key.startswith('dropped: ')}

    def received(self, plan: Plan) -> dict[str, Any]:
        """720p images that the working detector receives in a second, from one publisher that makes no pause."""
        messages = [self._message(image) for image in drive(_BURST_FRAMES)]
        published, begin = 0, time.monotonic()
        with tqdm(desc='burst', leave=False, disable=None, unit='frame') as bar:
            while (spent := time.monotonic() - begin) < plan.burst_s:
                self._publisher.publish(self._stamped(messages[published % len(messages)]))
                published += 1
                bar.update()
        with self._changed:
            counts = [(when, count) for when, count in self._counts if begin <= when <= begin + spent]
        if len(counts) < 2:
            raise SemanomError(f'the detector reported {len(counts)} times within a burst of {spent:.1f} s, expected '
                               'at least 2 diagnostics; make the burst longer')
        (first, before), (last, after) = counts[0], counts[-1]
        sent = {'published_fps': round(published / spent, 1), 'seconds': round(last - first, 2)}
        return {'received_fps_720p': round((after - before) / (last - first), 1), 'details': {'received': sent}}

    def _message(self, image: npt.NDArray[np.uint8]) -> Image:
        self._stamp_ns += FRAME_PERIOD_NS
        return image_to_message(image, 'bgr8', self._stamp_ns, 'camera_optical')

    def _stamped(self, message: Image) -> Image:
        """The message with the next stamp."""
        self._stamp_ns += 1_000_000
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(self._stamp_ns, 1_000_000_000)
        return message

    def _on_score(self, message: AnomalyScore) -> None:
        now = time.perf_counter()
        if message.reason == AnomalyScore.REASON_LATE:  # the score is still to come
            return
        with self._changed:
            self._scored = message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec
            self._scored_at[self._scored] = now
            self._changed.notify_all()

    def _on_diagnostics(self, array: DiagnosticArray) -> None:
        for status in array.status:
            values = {item.key: item.value for item in status.values}
            if status.hardware_id == CAMERA and 'frames received' in values:
                with self._changed:
                    self._counts.append((time.monotonic(), int(values['frames received'])))
                    self._status = values
                    self._changed.notify_all()


def _database(plan: Plan) -> Path:
    return plan.scratch / 'nominal'


def _bag(plan: Plan) -> Path:
    """A bag of 720p images, made where it is not there yet."""
    path = plan.scratch / 'bag'
    if not path.exists():
        with BagWriter(path) as writer:
            frames = tqdm(drive(plan.frames), desc='bag', total=plan.frames, leave=False, disable=None)
            for number, image in enumerate(frames):
                writer.write_image(TOPIC, image, 'bgr8', (number + 1) * FRAME_PERIOD_NS, 'camera_optical')
    return path
