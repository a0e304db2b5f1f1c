"""`nominal_recorder`: turns nominal recordings, or the live cameras, into a nominal database."""

from __future__ import annotations

import hashlib
import logging
import queue
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.impl.rcutils_logger import RcutilsLogger
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CompressedImage, Image
from std_srvs.srv import Trigger

from semanom_ros.core.curation.recorder import HeldOut, NominalRecorder, RecordingSummary, Thinning, describe
from semanom_ros.core.database import DatabaseWriter
from semanom_ros.core.embedding.embedder import Embedder
from semanom_ros.core.embedding.segmenters import segmenter_name
from semanom_ros.core.frames import Frame
from semanom_ros.errors import BagError, ImageError, SemanomError
from semanom_ros.parameters import METHOD, NODE, RECORDER
from semanom_ros.recordings.nominal_recording import commit, database_path, record_bags
from semanom_ros.ros import diagnostics
from semanom_ros.ros.diagnostics import Health
from semanom_ros.ros.masks_subscription import SegmentsSubscription
from semanom_ros.ros.messages import picture_of, stamp_of
from semanom_ros.ros.node_parameters import NodeParameters, typed_parameters
from semanom_ros.ros.qos import OUTPUT

LOG_PERIOD_S = 10.0
CAMERA = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
"""Matches every publisher; unlike the detector, the recorder wants the frames that came while it was busy."""


class _Received(NamedTuple):
    """A frame as it came."""

    camera: str
    topic: str
    serialized: bytes


class NominalRecorderNode(Node):
    """Records once and is done: from the parameter `bags`, or from the live cameras until it is stopped.

    The executor's thread receives frames, answers `~/stop` and publishes diagnostics; the
    thread that calls `run` embeds. In between is a queue of `queue_size` frames; what does
    not fit is dropped, counted, logged and reported.

    Attributes:
        counts: live frames `received`, `dropped` and `invalid`.
    """

    def __init__(self, **kwargs: Any) -> None:
        """Declares parameters, topics and the service.

        Args:
            kwargs: for Node: `namespace`, `parameter_overrides`, `context`, ...

        Raises:
            ParameterError: a parameter that the node was started with is bad.
        """
        with typed_parameters():
            super().__init__('nominal_recorder', automatically_declare_parameters_from_overrides=True, **kwargs)
        values = NodeParameters(self, METHOD, NODE, RECORDER, locked=lambda: True).values()
        self._settings: dict[str, Any] = dict(values)
        self._bags = [Path(bag).expanduser() for bag in self._settings['bags'] if bag]
        self._state = 'starting'
        self._progress = _Progress(self.get_logger())
        self._summary = RecordingSummary()
        self.counts = Counter[str]()
        self._counted = Counter[str]()
        self._stopping = threading.Event()
        self._frames: queue.Queue[_Received] = queue.Queue(self._settings['queue_size'])
        self._thinning = Thinning(self._settings['every_n'], self._settings['rate'])
        self._deadline: float | None = None
        self._topics: list[str] = []
        self._masks: dict[str, SegmentsSubscription] = {}
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', OUTPUT)
        # real time, because a paused recording stops the ROS clock
        self._timer = self.create_timer(1.0, self._publish_diagnostics, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self.create_service(Trigger, '~/stop', self._on_stop)

    def run(self) -> int:
        """Records; meanwhile somebody spins the node.

        Returns:
            0 when the database is in its place, 2 on bad input, 1 on an internal failure,
            130 when the reading of recordings was stopped; the next run then goes on.
        """
        try:
            done = self._record_bags() if self._bags else self._record_cameras()
        except SemanomError as error:
            self._state = f'failed: {error}'
            self.get_logger().error(str(error))
            return 2
        except Exception:
            self._state = 'failed'
            self.get_logger().fatal(traceback.format_exc())
            return 1
        finally:
            self._publish_diagnostics()
        return 0 if done else 130

    def stop(self) -> None:
        """Ends the recording; a live one is then brought into the database."""
        self._stopping.set()

    # -- from recordings

    def _record_bags(self) -> bool:
        database = database_path(self._settings)
        self._state = 'reading recordings'
        recording = record_bags(self._bags, database, self._settings, self._progress, stop=self._stopping.is_set)
        self._summary = recording.summary
        for line in recording.damaged:
            self.get_logger().warning(f'{line}; what came before is recorded')
        if recording.database is None:
            self._state = 'stopped'
            self.get_logger().warning(f'{database}: stopped after {recording.summary.frames} frames; '
                                      'start with the same bags to go on')
            return False
        self._finished(database)
        return True

    # -- from live cameras

    def _record_cameras(self) -> bool:
        settings = self._settings
        database = database_path(settings)
        self._state = 'loading'
        embedder = Embedder.load(settings)
        embedder.encoder.warm_up()
        with DatabaseWriter.begin(database, describe(embedder), append=settings['append']) as writer:
            recorder = NominalRecorder(embedder, writer, settings['thumbnail_size'])
            self._summary = recorder.summary
            self._record_frames(recorder, settings['image_transport'] == 'compressed')
            self._state = 'writing the database'
            commit(writer, settings, embedder.encoder.device, self._progress)
        self._finished(database)
        return True

    def _record_frames(self, recorder: NominalRecorder, compressed: bool) -> None:
        for camera in self._settings['camera_names']:
            self._subscribe(camera, compressed)
        self._state = 'recording'
        stretches: HeldOut | None = None

        def held_out(stamp_ns: int) -> bool:
            nonlocal stretches
            stretches = stretches or HeldOut.of_live(stamp_ns, self._settings['held_out_share'])
            return stamp_ns in stretches

        # a stamp may come again in another drive, in simulation: every live recording is a source of its own
        source = hashlib.sha256(f'live {time.time_ns()}'.encode()).hexdigest()
        for _ in recorder.record(self._received(compressed), source, held_out):
            self.get_logger().info(f'{recorder.summary.frames} frames recorded, {self.counts["dropped"]} dropped',
                                   throttle_duration_sec=LOG_PERIOD_S)
        if not recorder.summary.frames:
            raise BagError(f'{", ".join(self._topics)}: found no image, expected a camera; start it or remap the topic')

    def _subscribe(self, camera: str, compressed: bool) -> None:
        kind, topic = (CompressedImage, f'~/input/{camera}/image/compressed') if compressed else (
            Image, f'~/input/{camera}/image')
        resolved = self.resolve_topic_name(topic)
        self._topics.append(resolved)
        if segmenter_name(self._settings) == 'topic':
            self._masks[camera] = SegmentsSubscription(self, camera, self._settings['segments_wait'])
            self._masks[camera].open()
        self.create_subscription(
            kind, topic, lambda serialized: self._receive(_Received(camera, resolved, serialized)), CAMERA, raw=True)

    def _receive(self, received: _Received) -> None:
        if self._stopping.is_set():
            return
        if self._settings['duration'] and self._deadline is None:
            self._deadline = time.monotonic() + self._settings['duration']
        self.counts['received'] += 1
        try:
            if not self._thinning(received.camera, stamp_of(received.serialized)):
                return
            self._frames.put_nowait(received)
        except ImageError as error:
            self._refuse(error)
        except queue.Full:
            self.counts['dropped'] += 1
            self.get_logger().warning(
                f'{self.counts["dropped"]} frames dropped: the encoder is slower than the cameras; set rate or '
                'every_n, or choose a smaller encoder', throttle_duration_sec=LOG_PERIOD_S)

    def _received(self, compressed: bool) -> Iterator[Frame]:
        """The frames that come, decoded, until the recording is stopped and the queue is empty."""
        begun = time.monotonic()
        while True:
            try:
                received = self._frames.get(timeout=0.1)
            except queue.Empty:
                if self._stopping.is_set() or not self.context.ok():
                    return
                if self._deadline is not None and time.monotonic() >= self._deadline:
                    self._stopping.set()
                if not self.counts['received'] and time.monotonic() - begun > LOG_PERIOD_S:
                    self.get_logger().warning(f'waiting for images on {", ".join(self._topics)}',
                                              throttle_duration_sec=LOG_PERIOD_S)
                continue
            if self._deadline is not None and time.monotonic() >= self._deadline:
                self._stopping.set()
            try:
                image, stamp, _ = picture_of(received.serialized, compressed)
            except ImageError as error:
                self._refuse(error)
                continue
            segments = None
            if received.camera in self._masks:
                segments, fault = self._masks[received.camera].take(stamp, image.shape[:2])
                if fault:
                    self.counts['without masks'] += 1
                    self.get_logger().warning(fault, throttle_duration_sec=LOG_PERIOD_S)
            yield Frame(image, stamp, received.camera, f'live:{received.topic}', received.topic, segments)

    def _refuse(self, error: ImageError) -> None:
        self.counts['invalid'] += 1
        self.get_logger().warning(str(error), throttle_duration_sec=LOG_PERIOD_S)

    def _finished(self, database: Path) -> None:
        self._state, summary = 'finished', self._summary
        self.get_logger().info(f'{database}: {summary.frames} frames added, {summary.held_out} of them held out; '
                               f'{summary.known} were there already; {summary.vectors} vectors')

    # -- services and diagnostics

    def _on_stop(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self.stop()
        response.success = True
        response.message = f'stopping after {self._summary.frames} frames'
        return response

    def _publish_diagnostics(self) -> None:
        new, self._counted = self.counts - self._counted, self.counts.copy()
        health = Health()
        if self._state.startswith('failed'):
            health.add(diagnostics.ERROR, self._state)
        if new['dropped']:
            health.add(diagnostics.WARN, f'{new["dropped"]} frames dropped: the encoder is slower than the cameras')
        if new['without masks']:
            health.add(diagnostics.WARN, f'{new["without masks"]} images came without masks')
        if new['invalid']:
            health.add(diagnostics.WARN, f'{new["invalid"]} images hold no picture')
        values = {'state': self._state, 'progress': self._progress.text, 'frames recorded': self._summary.frames,
                  'frames held out': self._summary.held_out, 'vectors': self._summary.vectors}
        if not self._bags:
            values |= {'frames received': self.counts['received'], 'frames dropped': self.counts['dropped'],
                       'images without picture': self.counts['invalid'], 'frames waiting': self._frames.qsize()}
        array = DiagnosticArray()
        array.header.stamp = self.get_clock().now().to_msg()
        name = self.get_fully_qualified_name().lstrip('/')
        array.status = [health.status(f'{name}: recorder', values, fine=self._state)]
        if self.context.ok():
            self._diagnostics.publish(array)


class _Progress:
    """Logs how far the reading of recordings is.

    Attributes:
        text: for diagnostics.
    """

    def __init__(self, log: RcutilsLogger) -> None:
        self.text = ''
        self._log = log

    def begin(self, what: str, total: int, unit: str) -> None:
        self._what, self._total, self._unit, self._done = what, total, unit, 0
        self._begun = self._logged = time.monotonic()

    def advance(self, amount: int) -> None:
        self._done += amount
        now = time.monotonic()
        rate = self._done / max(now - self._begun, 1e-9)
        scale, unit = (1e6, 'MB') if self._unit == 'B' else (1, self._unit)
        left = f'{(self._total - self._done) / rate:.0f} s left' if rate else 'time left unknown'
        self.text = (f'{self._what}: {self._done / scale:.0f} of {self._total / scale:.0f} {unit}, '
                     f'{rate / scale:.1f} {unit}/s, {left}')
        if now - self._logged >= LOG_PERIOD_S:
            self._logged = now
            self._log.info(self.text)

    def end(self) -> None:
        self._log.info(f'{self._what}: done in {time.monotonic() - self._begun:.1f} s')
        self.text = ''


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the node until it is done; the first Ctrl-C stops the recording, the second ends the process."""
    logging.basicConfig(level=logging.INFO, format='%(message)s')
    # rclpy's own handlers would end the context, and with it the recording, before the frames are in the database
    rclpy.init(args=None if arguments is None else list(arguments), signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = NominalRecorderNode()
    except SemanomError as error:
        print(f'nominal_recorder: {error}', file=sys.stderr)
        rclpy.try_shutdown()
        return 2
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    spinning = threading.Thread(target=_spin, args=(executor,), name='executor')
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def stop(number: int, frame: object) -> None:
        node.stop()
        for number, handler in previous.items():
            signal.signal(number, handler)

    for number in previous:
        signal.signal(number, stop)
    spinning.start()
    try:
        return node.run()
    except KeyboardInterrupt:
        return 130
    finally:
        executor.shutdown()
        spinning.join()
        node.destroy_node()
        rclpy.try_shutdown()


def _spin(executor: SingleThreadedExecutor) -> None:
    with suppress(ExternalShutdownException):
        executor.spin()


if __name__ == '__main__':
    sys.exit(main())
