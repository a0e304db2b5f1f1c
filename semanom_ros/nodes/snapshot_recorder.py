"""`snapshot_recorder`: keeps the seconds round alarms of the detector, where they show something new."""

from __future__ import annotations

import queue
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from functools import partial
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message

from semanom_ros.core.database.storage import Lock
from semanom_ros.core.pipeline import Judge
from semanom_ros.errors import BagError, ImageError, ParameterError, SemanomError
from semanom_ros.finding.novelty import Novelty
from semanom_ros.finding.snapshots import KEPT, SKIPPED, Message, Snapshot, Snapshots, Taken, size_of, write_snapshot
from semanom_ros.home import expanded
from semanom_ros.msg import AnomalyArray
from semanom_ros.parameter_files import SNAPSHOTS
from semanom_ros.recordings.definitions import typestore
from semanom_ros.ros import diagnostics
from semanom_ros.ros.camera_input import CameraInput, Received, names_of
from semanom_ros.ros.diagnostics import Health
from semanom_ros.ros.guarded_node import GuardedExecutor, GuardedNode
from semanom_ros.ros.library_log import library_log
from semanom_ros.ros.messages import stamp_of, type_name
from semanom_ros.ros.node_parameters import NodeParameters, typed_parameters
from semanom_ros.ros.player import message_class
from semanom_ros.ros.qos import OUTPUT
from semanom_ros.ros.starting_ros import running_ros
from semanom_ros.settings import CameraSettings, MethodSettings, SnapshotSettings

PERIOD_S = 0.1
"""How often it is looked whether a snapshot has its end."""

DIAGNOSTICS_PERIOD_S = 1.0

MEASURE_PERIOD_S = 10.0
"""How often it is looked what the folder takes: snapshots may be moved elsewhere."""

STOP_S = 15.0
"""So long the end of the node waits for what is being written."""

CAMERA = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
UNKNOWN = 'unknown verdicts'
ALONE = 'kept without comparison'
SHORT = 'kept, the beginning missing'


class SnapshotRecorder(GuardedNode):
    """Listens to cameras, to what the detector says of them and to other topics, and keeps what is round an alarm.

    The executor's thread receives serialized messages and decides by the limits; one worker compares alarms with what
    was kept, one picture of each, and writes. Nothing of it runs in the detector's process.
    """

    def __init__(self, **kwargs: Any) -> None:
        """Declares parameters, nothing more.

        Args:
            kwargs: for Node: `namespace`, `parameter_overrides`, `context`, ...

        Raises:
            ParameterError: a parameter that the node was started with is bad.
        """
        with typed_parameters():
            super().__init__(SNAPSHOTS, automatically_declare_parameters_from_overrides=True, **kwargs)
        declared = NodeParameters(self, MethodSettings, CameraSettings, SnapshotSettings, locked=lambda: True)
        self._settings = declared.settings()
        self._folder = expanded(self._settings.snapshots.folder)
        self._lock = threading.Lock()  # of the snapshots and the counts
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._worker = threading.Thread(target=self._work, name='semanom_snapshots', daemon=True)
        self._counts, self._reported = Counter[str](), Counter[str]()
        self._fault = ''  # why the last snapshot could not be written
        self._cameras: list[CameraInput] = []
        self._wanted: dict[str, str] = {}  # topics that are not listened to yet, and why
        self._writing: Lock | None = None

    def load(self) -> None:
        """Loads encoder and database, prepares the folder and listens.

        Raises:
            SemanomError: one line.
        """
        settings = self._settings
        names = names_of(settings.cameras)
        if not settings.snapshots.folder:
            raise ParameterError('parameter snapshot_folder: found nothing, expected a folder; name one, or leave the '
                                 'parameter out')
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._writing = Lock(self._folder)
            for unfinished in self._folder.glob('.*_*.*'):  # of a recorder that was killed
                if unfinished.is_dir() and not unfinished.is_symlink():
                    shutil.rmtree(unfinished, ignore_errors=True)
            self._snapshots = Snapshots(settings.snapshots, size_of(self._folder))
            judge = Judge.load(settings.method, expanded(settings.cameras.database))
            self._novelty = Novelty(judge, self._folder)
        except OSError as error:
            raise ParameterError(f'parameter snapshot_folder: {self._folder}: cannot be written ({error.strerror}); '
                                 'give another folder') from error
        own = set[str]()
        for name in names:
            camera = CameraInput(self, name, settings.cameras, settings.method, CAMERA)
            kind = 'sensor_msgs/msg/CompressedImage' if settings.cameras.image_transport == 'compressed' else \
                'sensor_msgs/msg/Image'
            camera.open(partial(self._on_image, camera.topic, kind))
            topic = self.resolve_topic_name(f'~/input/{name}/anomalies')
            self.create_subscription(AnomalyArray, topic, partial(self._on_anomalies, camera, topic), OUTPUT, raw=True)
            self._cameras.append(camera)
            own |= {camera.topic, topic}
        self._wanted = {topic: 'no publisher' for topic in settings.snapshots.topics if topic and topic not in own}
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', OUTPUT)
        # real time, because a paused recording stops the ROS clock
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(PERIOD_S, self._end_snapshots, clock=steady)
        self.create_timer(DIAGNOSTICS_PERIOD_S, self._once_a_second, clock=steady)
        self.create_timer(MEASURE_PERIOD_S, lambda: self._jobs.put(self._measure), clock=steady)
        self._worker.start()
        self.get_logger().info(f'watching {", ".join(names)}; snapshots go to {self._folder}, '
                               f'{self._novelty.known} are known from before')

    def close(self) -> None:
        """Writes what is new, though its time is not over, and ends."""
        for camera in self._cameras:
            camera.close()
        if self._worker.is_alive():
            self._jobs.put(lambda: self._end_snapshots(at_once=True))
            self._jobs.put(None)
            self._worker.join(STOP_S)
        if self._writing is not None:
            self._writing.release()
        self.destroy_node()

    # -- the executor's thread

    def _listen(self) -> None:
        """Subscribes to the topics that have a publisher by now."""
        types = dict(self.get_topic_names_and_types()) if self._wanted else {}
        for topic in list(self._wanted):
            publishers = self.get_publishers_info_by_topic(topic)
            if not publishers:
                continue
            type = types.get(topic, [''])[0]
            try:
                if type not in typestore().fielddefs:
                    raise ImportError('its definition is not known here')
                kind = message_class(type)
            except (ImportError, AttributeError, ValueError) as error:
                self._wanted[topic] = f'type {type} cannot be recorded, {error}'
                continue
            latched = all(one.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL for one in publishers)
            qos = QoSProfile(
                depth=100, reliability=ReliabilityPolicy.RELIABLE if latched else ReliabilityPolicy.BEST_EFFORT,
                durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE)
            del self._wanted[topic]
            self.create_subscription(kind, topic, partial(self._add, topic, type, latched=latched), qos, raw=True)

    def _add(self, topic: str, type: str, cdr: bytes, latched: bool = False) -> int:
        """Into the ring; returns when that was."""
        when, now = time.monotonic_ns(), self.get_clock().now().nanoseconds
        with self._lock:
            self._snapshots.ring.add(Message(topic, type, when, now, cdr), latched)
        return when

    def _on_image(self, topic: str, kind: str, received: Received) -> None:
        self._add(topic, kind, received.serialized)

    def _on_anomalies(self, camera: CameraInput, topic: str, cdr: bytes) -> None:
        when = self._add(topic, type_name(AnomalyArray), cdr)
        said = deserialize_message(cdr, AnomalyArray)
        if said.verdict == AnomalyArray.VERDICT_UNKNOWN:
            with self._lock:
                self._counts[UNKNOWN] += 1
        if said.verdict != AnomalyArray.VERDICT_ANOMALOUS:
            return
        stamp = said.header.stamp.sec * 10**9 + said.header.stamp.nanosec
        with self._lock:
            picture = self._snapshots.ring.newest(camera.topic, lambda image: _stamp(image) == stamp)
            when = picture.when_ns if picture else when
            moment = datetime.fromtimestamp(stamp / 1e9, timezone.utc)
            name = f'{camera.name}_{moment:%Y%m%dT%H%M%S}_{stamp % 10**9:09d}'
            if (self._folder / name).exists():  # stamps that come again, as of a simulation
                name += f'_{time.time_ns()}'
            snapshot = self._snapshots.alarm(camera.name, [one.track_id for one in said.anomalies], when, name)
        if snapshot is not None:
            self._jobs.put(partial(self._judge_alarm, camera, snapshot, picture))

    def _end_snapshots(self, at_once: bool = False) -> None:
        now = time.monotonic_ns()
        with self._lock:
            # what was received but not looked at yet belongs to it, too
            due = [one for one in self._snapshots.open if one.new] if at_once else self._snapshots.due(now)
            taken = [(one, self._snapshots.take(one)) for one in due]
        for snapshot, what in taken:
            job = partial(self._write, snapshot, what)
            if at_once:
                job()
            else:
                self._jobs.put(job)

    def _once_a_second(self) -> None:
        self._listen()
        self._publish_diagnostics()

    # -- the worker

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except Exception as error:
                self.failed('worker', error)

    def _measure(self) -> None:
        size = size_of(self._folder)
        with self._lock:
            self._snapshots.used = size

    def _judge_alarm(self, camera: CameraInput, snapshot: Snapshot, picture: Message | None) -> None:
        """Finds out whether an alarm is new; where that cannot be told it is kept: better twice than never."""
        candidate, new = None, True
        try:
            if picture is not None:
                frame = camera.decode(Received(picture.cdr, picture.when_ns / 1e9, 0)).frame
                candidate = self._novelty.evidence(frame)
        except ImageError as error:
            self.get_logger().warning(f'{snapshot.name}: {error}')
        finally:
            if candidate is not None:
                new = self._novelty.is_new(candidate)
            with self._lock:
                kept = self._snapshots.decide(snapshot, new)
                self._counts[ALONE] += kept and candidate is None
            if kept and candidate is not None:
                self._novelty.keep(snapshot.name, candidate)

    def _write(self, snapshot: Snapshot, taken: Taken | None) -> None:
        if taken is None:  # does not fit
            self._novelty.forget(snapshot.name)
            return
        path, size = self._folder / snapshot.name, 0
        try:
            size = write_snapshot(path, taken)
            self._novelty.store(snapshot.name)
            self._fault = ''
            self.get_logger().info(f'kept {path}: {size / 1e6:.1f} MB')
        except (BagError, OSError) as error:
            self._fault = str(error)
            self.get_logger().error(self._fault)
        finally:
            if not size:
                self._novelty.forget(snapshot.name)
            with self._lock:
                self._counts[SHORT] += bool(size) and taken.short
                self._snapshots.written(snapshot, taken, size)

    # -- diagnostics

    def _publish_diagnostics(self) -> None:
        with self._lock:
            counts = self._counts + self._snapshots.counts
            ring, used, open = self._snapshots.ring, self._snapshots.used, len(self._snapshots.open)
            values: dict[str, object] = {
                'snapshots kept': counts[KEPT], **{f'skipped: {reason}': counts[reason] for reason in SKIPPED},
                ALONE: counts[ALONE], SHORT: counts[SHORT], UNKNOWN: counts[UNKNOWN], 'snapshots open': open,
                'megabytes on the disk': f'{used / 1e6:.1f}', 'seconds in memory': f'{ring.seconds:.1f}',
                'megabytes in memory': f'{ring.bytes / 1e6:.1f}', 'known things': self._novelty.known,
                'embeddings left out': self._novelty.unusable}
        new, self._reported = counts - self._reported, counts
        health = Health()
        if self._fault:
            health.add(diagnostics.ERROR, self._fault)
        for fault in self.new_faults():
            health.add(diagnostics.ERROR, fault)
        for reason in SKIPPED[1:-1]:  # a known thing is no fault, and what failed was said
            if new[reason]:
                health.add(diagnostics.WARN, f'{new[reason]} alarms were not kept: {reason}')
        if new[SHORT]:
            health.add(diagnostics.WARN, f'{new[SHORT]} snapshots lack their beginning; raise snapshot_memory, or keep '
                                         'fewer topics')
        for topic, why in self._wanted.items():
            health.add(diagnostics.WARN, f'{topic} is not kept: {why}')
        array = DiagnosticArray()
        array.header.stamp = self.get_clock().now().to_msg()
        name = self.get_fully_qualified_name().lstrip('/')
        array.status = [health.status(f'{name}: snapshots', values)]
        self._diagnostics.publish(array)


def _stamp(cdr: bytes) -> int | None:
    """Of the header; None where the message is cut off."""
    try:
        return stamp_of(cdr)
    except ImageError:
        return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the node until Ctrl-C or shutdown; what is new is then written.

    Returns:
        0, or 2 on bad input.
    """
    try:
        with running_ros(arguments):
            node = SnapshotRecorder()
            try:
                node.load()
                with library_log(node):
                    GuardedExecutor(node).spin()
            except (ExternalShutdownException, KeyboardInterrupt):
                pass
            finally:
                node.close()
    except KeyboardInterrupt:
        pass
    except SemanomError as error:
        print(f'{SNAPSHOTS}: {error}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
