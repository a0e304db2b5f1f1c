"""`nominal_recorder`: turns nominal recordings, or the live cameras, into a nominal database."""

from __future__ import annotations

import hashlib
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException
from rclpy.impl.rcutils_logger import RcutilsLogger
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from std_srvs.srv import Trigger

from semanom_ros.core.curation.publishing import Recipe
from semanom_ros.core.curation.recorder import HeldOut, NominalRecorder, RecordingSummary, Thinning
from semanom_ros.core.curation.writer import DatabaseWriter
from semanom_ros.core.database.engines import load_embedder
from semanom_ros.core.database.published import read_manifest
from semanom_ros.core.frames import Frame
from semanom_ros.core.scoring.calibration import Calibration
from semanom_ros.errors import BagError, ImageError, SemanomError
from semanom_ros.home import expanded
from semanom_ros.recordings.nominal_recording import database_path, record_bags
from semanom_ros.ros import diagnostics
from semanom_ros.ros.camera_input import CameraInput, Received, names_of
from semanom_ros.ros.diagnostics import Health
from semanom_ros.ros.guarded_node import SERVICE, GuardedExecutor, GuardedNode
from semanom_ros.ros.library_log import library_log
from semanom_ros.ros.node_parameters import NodeParameters, typed_parameters
from semanom_ros.ros.qos import OUTPUT
from semanom_ros.ros.starting_ros import start_ros
from semanom_ros.settings import CameraSettings, MethodSettings, RecorderSettings

LOG_PERIOD_S = 10.0
CAMERA = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
"""Matches every publisher; unlike the detector, the recorder wants the frames that came while it was busy."""


class NominalRecorderNode(GuardedNode):
    """Records once and is done: from the parameter `bags`, or from the live cameras until it is stopped.

    The executor's thread receives frames, answers `~/stop` and publishes diagnostics; the
    thread that calls `run` embeds, and does not end while the encoder hangs. In between is a queue of `queue_size`
    frames; what does not fit is dropped, counted, logged and reported.

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
        declared = NodeParameters(self, MethodSettings, CameraSettings, RecorderSettings, locked=lambda: True)
        self._settings = declared.settings()
        asked = self._settings.recorder
        self._bags = [expanded(bag) for bag in asked.bags if bag]
        self._state = 'starting'
        self._progress = _Progress(self.get_logger())
        self._summary = RecordingSummary()
        self.counts = Counter[str]()
        self._counted = Counter[str]()
        self._stopping = threading.Event()
        self._frames: queue.Queue[tuple[CameraInput, Received]] = queue.Queue(asked.queue_size)
        self._thinning = Thinning(asked.every_n, asked.rate)
        self._deadline: float | None = None
        self._cameras: list[CameraInput] = []
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', OUTPUT)
        # real time, because a paused recording stops the ROS clock
        self._timer = self.create_timer(1.0, self._publish_diagnostics, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self.create_service(Trigger, '~/stop', self._on_stop, qos_profile=SERVICE)

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
        if self._state == 'recording':
            self._state = 'stopping'

    # -- from recordings

    def _record_bags(self) -> bool:
        database = database_path(self._settings.cameras)
        self._state = 'reading recordings'
        recording = record_bags(self._bags, database, self._settings, self._progress, stop=self._stopping.is_set)
        self._summary = recording.summary
        for line in recording.damaged:
            self.get_logger().warning(f'{line}; what came before is recorded')
        if recording.manifest is None:
            self._state = 'stopped'
            self.get_logger().warning(f'{database}: stopped after {recording.summary.frames} frames; '
                                      'start with the same bags to go on')
            return False
        self._finished(database)
        return True

    # -- from live cameras

    def _record_cameras(self) -> bool:
        settings = self._settings
        database = database_path(settings.cameras)
        self._state = 'loading'
        embedder = load_embedder(settings.method, database)
        embedder.encoder.warm_up()
        with DatabaseWriter.begin(database, embedder.description, append=settings.recorder.append) as writer:
            recorder = NominalRecorder(embedder, writer, settings.recorder.thumbnail_size)
            self._summary = recorder.summary
            self._record_frames(recorder)
            self._state = 'writing the database'
            writer.commit(Recipe.of(settings.method, settings.recorder.index), self._progress)
        self._finished(database)
        return True

    def _record_frames(self, recorder: NominalRecorder) -> None:
        settings = self._settings
        for name in names_of(settings.cameras):
            camera = CameraInput(self, name, settings.cameras, settings.method, CAMERA)
            self._cameras.append(camera)
            camera.open(partial(self._receive, camera))
        self._state = 'recording'
        stretches: HeldOut | None = None

        def held_out(stamp_ns: int) -> bool:
            nonlocal stretches
            stretches = stretches or HeldOut.of_live(stamp_ns, settings.recorder.held_out_share)
            return stamp_ns in stretches

        # a stamp may come again in another drive, in simulation: every live recording is a source of its own
        source = hashlib.sha256(f'live {time.time_ns()}'.encode()).hexdigest()
        for _ in recorder.record(self._received(), source, held_out):
            self.get_logger().info(f'{recorder.summary.frames} frames recorded, {self.counts["dropped"]} dropped',
                                   throttle_duration_sec=LOG_PERIOD_S)
        if not recorder.summary.frames:
            raise BagError(f'{self._topics}: found no image, expected a camera; start it or remap the topic')

    @property
    def _topics(self) -> str:
        return ', '.join(camera.topic for camera in self._cameras)

    def _receive(self, camera: CameraInput, received: Received) -> None:
        if self._stopping.is_set():
            return
        duration = self._settings.recorder.duration
        if duration and self._deadline is None:
            self._deadline = time.monotonic() + duration
        self.counts['received'] += 1
        try:
            if not self._thinning(camera.name, received.stamp_ns or round(received.when * 1e9)):
                return
            self._frames.put_nowait((camera, received))
        except ImageError as error:
            self._refuse(error)
        except queue.Full:
            self.counts['dropped'] += 1
            self.get_logger().warning(
                f'{self.counts["dropped"]} frames dropped: the encoder is slower than the cameras; set rate or '
                'every_n, or choose a smaller encoder', throttle_duration_sec=LOG_PERIOD_S)

    def _received(self) -> Iterator[Frame]:
        """The frames that come, decoded, until the recording is stopped and the queue is empty."""
        begun = time.monotonic()
        while True:
            try:
                camera, received = self._frames.get(timeout=0.1)
            except queue.Empty:
                if self._stopping.is_set() or not self.context.ok():
                    return
                if self._deadline is not None and time.monotonic() >= self._deadline:
                    self._stopping.set()
                if not self.counts['received'] and time.monotonic() - begun > LOG_PERIOD_S:
                    self.get_logger().warning(f'waiting for images on {self._topics}',
                                              throttle_duration_sec=LOG_PERIOD_S)
                continue
            if self._deadline is not None and time.monotonic() >= self._deadline:
                self._stopping.set()
            try:
                frame, _, without_masks = camera.decode(received)
            except ImageError as error:
                self._refuse(error)
                continue
            if without_masks:
                self.counts['without masks'] += 1
                self.get_logger().warning(without_masks, throttle_duration_sec=LOG_PERIOD_S)
            if not frame.stamp_ns:
                self.counts['unstamped'] += 1
                self.get_logger().warning('images have no stamp: time is taken from their reception; mend the camera '
                                          'driver', once=True)
                frame = replace(frame, stamp_ns=frame.received_ns)
            yield frame

    def _refuse(self, error: ImageError) -> None:
        self.counts['invalid'] += 1
        self.get_logger().warning(str(error), throttle_duration_sec=LOG_PERIOD_S)

    def _finished(self, database: Path) -> None:
        self._state, summary = 'finished', self._summary
        self.get_logger().info(f'{database}: {summary.frames} frames added, {summary.held_out} of them held out; '
                               f'{summary.known} were there already; {summary.vectors} vectors')
        calibration = Calibration.stored(database, read_manifest(database))
        doubt = calibration.level_for(self._settings.method.alarm).doubt
        if doubt:
            self.get_logger().warning(f'{database}: {doubt}')
        if summary.not_finite:
            self.get_logger().error(summary.not_finite_line)

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
        if self._summary.not_finite:
            health.add(diagnostics.ERROR, self._summary.not_finite_line)
        for fault in self.new_faults():
            health.add(diagnostics.ERROR, fault)
        if new['dropped']:
            health.add(diagnostics.WARN, f'{new["dropped"]} frames dropped: the encoder is slower than the cameras')
        if new['without masks']:
            health.add(diagnostics.WARN, f'{new["without masks"]} images came without masks')
        if new['unstamped']:
            health.add(diagnostics.WARN, f'{new["unstamped"]} images have no stamp: time is taken from their reception')
        if new['invalid']:
            health.add(diagnostics.WARN, f'{new["invalid"]} images hold no picture')
        values = {'state': self._state, 'progress': self._progress.text, 'frames recorded': self._summary.frames,
                  'frames held out': self._summary.held_out, 'vectors': self._summary.vectors,
                  'frames not finite': self._summary.not_finite}
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
    """Runs the node until it is done; the first Ctrl-C stops the recording, the second ends the process.

    The second ends it also where the encoder hangs. What was recorded by then the next run finds again.
    """
    nodes: list[NominalRecorderNode] = []
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def stop(number: int, frame: object) -> None:
        if not nodes:  # nothing is begun
            os._exit(130)
        nodes[0].stop()
        for number, handler in previous.items():
            signal.signal(number, handler)

    for number in previous:
        signal.signal(number, stop)
    # rclpy's own handlers would end the context, and with it the recording, before the frames are in the database
    try:
        start_ros(arguments, SignalHandlerOptions.NO)
        nodes.append(NominalRecorderNode())
    except SemanomError as error:
        print(f'nominal_recorder: {error}', file=sys.stderr)
        rclpy.try_shutdown()
        return 2
    try:
        with library_log(nodes[0]):
            return _run(nodes[0])
    except KeyboardInterrupt:
        os._exit(130)


def _run(node: NominalRecorderNode) -> int:
    """Spins the node while it records; its exit status."""
    executor = GuardedExecutor(node)
    broken = threading.Event()
    spinning = threading.Thread(target=_spin, args=(node, executor, broken), name='executor')
    spinning.start()
    status: list[int] = []
    # beside this thread, which has signals to attend to: a library that hangs would keep it from that
    recording = threading.Thread(target=lambda: status.append(node.run()), name='semanom_recording', daemon=True)
    recording.start()
    recording.join()
    executor.shutdown()
    spinning.join()
    node.destroy_node()
    rclpy.try_shutdown()
    return status[0] if status and not broken.is_set() else 1


def _spin(node: NominalRecorderNode, executor: GuardedExecutor, broken: threading.Event) -> None:
    try:
        executor.spin()
    except ExternalShutdownException:
        pass
    except Exception:
        node.get_logger().fatal(f'no more frames can be received: {traceback.format_exc()}')
        broken.set()
    node.stop()  # nothing comes in any more


if __name__ == '__main__':
    sys.exit(main())
