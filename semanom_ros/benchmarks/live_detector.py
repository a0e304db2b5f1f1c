"""The real detector, in a process of its own, under images over DDS."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from rclpy.node import Node
from sensor_msgs.msg import Image
from tqdm import tqdm

from semanom_ros.benchmarks.figures import Found
from semanom_ros.benchmarks.nominal_drive import FRAME_PERIOD_NS, TOPIC, bag_of, nominal_of
from semanom_ros.benchmarks.plan import CAMERAS, Plan, bare_times, camera, forward_pass
from semanom_ros.benchmarks.timing import in_turn, ratio, summary
from semanom_ros.core.embedding.embedder import Embedder
from semanom_ros.errors import SemanomError
from semanom_ros.evaluation.live_run import DetectorProcess
from semanom_ros.evaluation.result_bag import CAMERA, NODE
from semanom_ros.msg import AnomalyScore
from semanom_ros.ros.background import background_node, private_domain
from semanom_ros.ros.messages import image_to_message
from semanom_ros.ros.outputs import SCORE
from semanom_ros.ros.qos import OUTPUT

_CONFIGURE_S, _ACTIVATE_S = 300.0, 60.0
_LOST_S = 5.0  # after which an image without a score counts as lost
_OVERLOAD = 1.5  # times as many images as can be scored one by one saturate the detector
_DRAIN_S, _DRAIN_PERIODS = 2.0, 4  # the least, or so many periods: how long a burst's last scores are waited for
_ATTEMPTS = 5  # images sent for each that is to be scored
_SINGLE = 4  # images sent one by one to find out how long one takes
_BURST_FRAMES = 8  # different pictures that a burst repeats
_SETTLING = 2  # scores of each camera at the beginning of a burst that do not count
_ROUNDS = 3  # of bursts, between passes of the bare encoder
_PASSES = 2  # of those, each time


@contextmanager
def detector(plan: Plan, embedder: Embedder, cameras: int = 1) -> Iterator[LiveDetector]:
    """The detector, active, on a ROS domain of its own; it has a small nominal database.

    Fast DDS has shared memory for large images, for this process and the detector's, unless a profile is set already.

    Raises:
        SemanomError: it does not start; with the end of its log.
    """
    nominal = nominal_of(plan, embedder)
    names = (CAMERA, *(f'{CAMERA}_{number}' for number in range(2, cameras + 1)))
    with private_domain() as domain, background_node('semanom_bench', domain) as node:
        topics = {name: TOPIC if name == CAMERA else f'{NODE}/input/{name}/image' for name in names}
        process = DetectorProcess(domain, plan.scratch, topics, plan.settings, nominal, bag_of(plan))
        try:
            process.change_state(node, Transition.TRANSITION_CONFIGURE, _CONFIGURE_S)
            live = LiveDetector(node, process, names)
            process.change_state(node, Transition.TRANSITION_ACTIVATE, _ACTIVATE_S)
            live.wait_for_subscribers()
            yield live
        finally:
            process.stop()


@dataclass(frozen=True)
class _Score:
    """That came back.

    Attributes:
        camera: its name.
        sent, received: when the image was published, and its score received; seconds.
    """

    camera: str
    sent: float
    received: float

    @property
    def latency_ms(self) -> float:
        """From one to the other."""
        return (self.received - self.sent) * 1e3


class LiveDetector:
    """Sends images to a running detector and sees what comes back."""

    def __init__(self, node: Node, process: DetectorProcess, cameras: Sequence[str]) -> None:
        self._process, self._cameras = process, tuple(cameras)
        topics = [TOPIC, *(f'{NODE}/input/{name}/image' for name in self._cameras[1:])]
        self._publishers = [node.create_publisher(Image, topic, OUTPUT) for topic in topics]
        self._changed = threading.Condition()
        self._scored_at: dict[tuple[str, int], float] = {}
        self._counts: list[tuple[float, int]] = []
        self._status: dict[str, str] = {}
        self._stamp_ns = 0
        for name in self._cameras:
            node.create_subscription(AnomalyScore, f'{NODE}/{name}/{SCORE.name}', partial(self._on_score, name), OUTPUT)
        node.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, OUTPUT)

    def wait_for_subscribers(self) -> None:
        """Until the detector listens.

        Raises:
            SemanomError: it does not.
        """
        end = time.monotonic() + _ACTIVATE_S
        while not all(publisher.get_subscription_count() for publisher in self._publishers):
            self._process.check_alive()
            if time.monotonic() > end:
                raise self._process.failure(f'does not listen to {TOPIC}')
            time.sleep(0.05)

    def end_to_end(self, plan: Plan, embedder: Embedder, found: Found) -> None:
        """An image published until its score is received, over the forward pass; the two in turn, so neither waits.

        Images that the middleware loses are counted and left out.
        """
        forward = forward_pass(embedder)
        times: dict[str, list[float]] = {'end_to_end': [], 'forward': []}
        lost = 0
        images = camera((plan.repeats + 1) * _ATTEMPTS)
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
        found.put_ratio('end_to_end_over_forward', scored['end_to_end'], scored['forward'])
        found.details['end_to_end'] = {**{name: summary(values) for name, values in scored.items()}, 'lost': lost}

    def saturated(self, plan: Plan, embedder: Embedder, found: Found) -> None:
        """Images scored in a second when more come than can be, over what the bare encoder takes in a second.

        With one camera, or with all of them, each of which sends half as much again as its share. Bursts and passes of
        the bare encoder in turn, so that neither waits for the other.
        """
        several = len(self._cameras) > 1
        what = 'six_cameras' if several else 'throughput'

        def bare() -> list[float]:
            if several:
                times = in_turn({'six': forward_pass(embedder, CAMERAS)}, _PASSES, 'forward')['six']
                return [milliseconds / CAMERAS for milliseconds in times]
            return bare_times(embedder, _PASSES)[0]

        rates, scores, encoder_ms, sent = list[float](), list[_Score](), bare(), 0
        for _ in range(_ROUNDS):
            period = self._alone() * len(self._cameras) / _OVERLOAD
            published, burst = self._burst(max(4 + _SETTLING, round(plan.burst_s / _ROUNDS / period)), period, what)
            sent, settled = sent + published, sorted(burst, key=lambda score: score.received)
            settled = settled[_SETTLING * len(self._cameras):]
            if len(settled) < 2:
                raise self._process.failure(f'scored {len(burst)} of {published} images')
            rates.append((len(settled) - 1) / (settled[-1].received - settled[0].received))
            scores += settled
            encoder_ms += bare()
        found.put_ratio(f'{what}_over_forward', rates, [1e3 / milliseconds for milliseconds in encoder_ms])
        found.details[what] = {
            'sent': sent, 'images_a_second': round(statistics.median(rates), 2),
            'bare_images_a_second': round(1e3 / statistics.median(encoder_ms), 2),
            'latency': {name: summary([score.latency_ms for score in scores if score.camera == name])
                        | {'scored': sum(score.camera == name for score in scores)}
                        for name in self._cameras if any(score.camera == name for score in scores)}}

    def _score_one(self, message: Image) -> float | None:
        """Milliseconds from publishing an image to receiving its score; None where it was lost."""
        stamp = message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec
        begin = time.perf_counter()
        self._publishers[0].publish(message)
        scored = self._wait_for(stamp, _LOST_S, self._cameras[:1])
        self._process.check_alive()
        return (time.perf_counter() - begin) * 1e3 if scored else None

    def _alone(self) -> float:
        """Seconds from publishing an image that comes alone to receiving its score."""
        times = map(self._score_one, map(self._message, camera(_SINGLE)))
        alone = [time for time in times if time is not None]
        if not alone:
            raise self._process.failure('scored no image')
        return statistics.median(alone) / 1e3

    def _burst(self, count: int, period: float, what: str) -> tuple[int, list[_Score]]:
        """Publishes an image of every camera so often, at a period in seconds.

        Returns:
            How many images were published, and the scores that came back.
        """
        messages = [self._message(image) for image in camera(_BURST_FRAMES)]
        sent: dict[tuple[str, int], float] = {}
        begin = time.perf_counter()
        for number in tqdm(range(count), desc=what, leave=False, disable=None):
            time.sleep(max(0.0, begin + number * period - time.perf_counter()))
            message = self._stamped(messages[number % len(messages)])
            for name, publisher in zip(self._cameras, self._publishers, strict=True):
                sent[name, self._stamp_ns] = time.perf_counter()
                publisher.publish(message)
        # the last ones are scored, whatever was dropped, unless they are lost
        self._wait_for(self._stamp_ns, max(_DRAIN_S, _DRAIN_PERIODS * period), self._cameras)
        with self._changed:
            scores = [_Score(key[0], when, self._scored_at[key]) for key, when in sent.items()
                      if key in self._scored_at]
        return len(sent), scores

    def _wait_for(self, stamp: int, timeout_s: float, cameras: Sequence[str]) -> bool:
        """Whether the image of a stamp of each of these cameras is scored in time."""
        with self._changed:
            return self._changed.wait_for(
                lambda: all((name, stamp) in self._scored_at for name in cameras), timeout_s)

    def overload(self, plan: Plan, found: Found) -> None:
        """A camera that sends three times as fast as images are scored one by one: what becomes of them.

        The latency of the last third of the scores over that of the first third tells whether anything queues.
        """
        period = self._alone() / 3
        before = self._drops_after(time.monotonic())
        sent, scores = self._burst(max(30, round(plan.burst_s / period)), period, 'overload')
        after = self._drops_after(time.monotonic())
        dropped = {reason: after[reason] - before.get(reason, 0) for reason in after}
        unseen = sent - len(scores) - sum(dropped.values())  # lost with none after them that would tell the node
        latencies = [score.latency_ms for score in scores]
        third = max(1, len(latencies) // 3)
        found.put('dropped_at_three_times_the_rate', round(1 - len(scores) / sent, 3))
        found.details['overload'] = {
            'sent': sent, 'sent_fps': round(1 / period, 1), 'scored': len(scores),
            'dropped': dropped | {'lost last': unseen}, 'latency': summary(latencies),
            'last_over_first_latency': ratio(latencies[-third:], latencies[:third])}

    def _drops_after(self, when: float) -> dict[str, int]:
        """Dropped frames by reason, as the next diagnostics count them."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._counts and self._counts[-1][0] > when, _LOST_S):
                raise self._process.failure('publishes no diagnostics')
            return {key.removeprefix('dropped: '): int(value) for key, value in self._status.items()
                    if key.startswith('dropped: ')}

    def received(self, plan: Plan, found: Found) -> None:
        """720p images that the working detector receives in a second, from one publisher that makes no pause."""
        messages = [self._message(image) for image in camera(_BURST_FRAMES)]
        published, begin = 0, time.monotonic()
        with tqdm(desc='burst', leave=False, disable=None, unit='frame') as bar:
            while (spent := time.monotonic() - begin) < plan.burst_s:
                self._publishers[0].publish(self._stamped(messages[published % len(messages)]))
                published += 1
                bar.update()
        with self._changed:
            counts = [(when, count) for when, count in self._counts if begin <= when <= begin + spent]
        if len(counts) < 2:
            raise SemanomError(f'the detector reported {len(counts)} times within a burst of {spent:.1f} s, expected '
                               'at least 2 diagnostics; make the burst longer')
        (first, before), (last, after) = counts[0], counts[-1]
        found.put('received_fps_720p', round((after - before) / (last - first), 1))
        found.details['received'] = {'published_fps': round(published / spent, 1), 'seconds': round(last - first, 2)}

    def _message(self, image: npt.NDArray[np.uint8]) -> Image:
        self._stamp_ns += FRAME_PERIOD_NS
        return image_to_message(image, 'bgr8', self._stamp_ns, 'camera_optical')

    def _stamped(self, message: Image) -> Image:
        """The message with the next stamp."""
        self._stamp_ns += 1_000_000
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(self._stamp_ns, 1_000_000_000)
        return message

    def _on_score(self, camera: str, message: AnomalyScore) -> None:
        now = time.perf_counter()
        if message.reason == AnomalyScore.REASON_LATE:  # the score is still to come
            return
        with self._changed:
            self._scored_at[camera, message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec] = now
            self._changed.notify_all()

    def _on_diagnostics(self, array: DiagnosticArray) -> None:
        for status in array.status:
            values: dict[str, Any] = {item.key: item.value for item in status.values}
            if status.hardware_id == CAMERA and 'frames received' in values:
                with self._changed:
                    self._counts.append((time.monotonic(), int(values['frames received'])))
                    self._status = values
                    self._changed.notify_all()
