"""`semanom_detector`: the lifecycle node that watches cameras for semantic anomalies."""

from __future__ import annotations

import gc
import math
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rclpy
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.publisher import Publisher
from rclpy.task import Future
from sensor_msgs.msg import CameraInfo
from std_srvs.srv import Trigger

from semanom_ros.core.drift.drift_monitor import Drift, DriftState
from semanom_ros.core.embedding.preprocessing import Prepared
from semanom_ros.core.frames import Frame
from semanom_ros.core.localization.frame_clock import LONGEST_GAP_NS
from semanom_ros.core.pipeline import CameraState, Judge, evidence_for
from semanom_ros.core.results import FrameResult, Reason, Verdict
from semanom_ros.errors import CameraError, ImageError, MeasurementError, ParameterError, SemanomError, TransformError
from semanom_ros.geometry.camera_model import CameraModel
from semanom_ros.geometry.ground_plane import GroundPlane
from semanom_ros.geometry.measured_distance import Measurement
from semanom_ros.geometry.transform_tree import TransformTree
from semanom_ros.home import expanded
from semanom_ros.msg import DatabaseInfo
from semanom_ros.parameters import Affects, Value
from semanom_ros.ros import diagnostics, messages
from semanom_ros.ros.camera_input import CameraInput, Received, names_of
from semanom_ros.ros.diagnostics import CameraMonitor, Health
from semanom_ros.ros.guarded_node import SERVICE, GuardedExecutor, GuardedNode, transition
from semanom_ros.ros.library_log import library_log
from semanom_ros.ros.mailbox import Mailbox
from semanom_ros.ros.manager_bond import ManagerBond, check_period, manager_waits
from semanom_ros.ros.measurement_input import POINTS, MeasurementInput
from semanom_ros.ros.node_parameters import NodeParameters, typed_parameters
from semanom_ros.ros.outputs import CameraOutputs, Judged, When
from semanom_ros.ros.qos import INPUT, LATCHED, OUTPUT
from semanom_ros.ros.starting_ros import running_ros
from semanom_ros.ros.transform_input import TransformInput
from semanom_ros.settings import CameraSettings, DetectorSettings, MethodSettings, Settings

DIAGNOSTICS_PERIOD_S = 1.0

WATCH_PERIOD_S = 0.2
"""How often it is looked whether the worker answers in time."""

STOP_S = 3.0
"""So long a thread may take to end; whoever stops the node waits meanwhile."""

END_S = 15.0
"""So long after a signal the process is ended whatever hangs."""

NO_BOND = ('a lifecycle manager keeps bonds, and the package bond is not installed: it will take this node for dead; '
           'apt install ros-$ROS_DISTRO-bond, or set its bond_timeout to 0.0')

LOG_PERIOD_S = 10.0
"""The same complaint about a camera is logged once in that time; diagnostics count all."""


@dataclass
class _Waiting:
    """A frame that waits for the worker.

    Attributes:
        camera: that it is of.
        received: the frame.
        late: it was said that its verdict is late.
        answered: its verdict has come.
        prepared: it was decoded, or found to be none.
        decoded: the frame and its frame_id; None: there is a fault.
        picture: on its way to the encoder, where frames are prepared ahead.
        fault: why it is unknown, and in a line; None: nothing is known against it.
    """

    camera: _Camera
    received: Received
    late: bool = False
    answered: bool = False
    prepared: bool = False
    decoded: tuple[Frame, str] | None = None
    picture: Prepared | None = None
    fault: tuple[Reason, str] | None = None


@dataclass(frozen=True)
class _Flagged:
    """What was last flagged of a camera.

    Attributes:
        frame: the picture.
        result: what was said of it.
        when: it was received, monotonic seconds.
    """

    frame: Frame
    result: FrameResult
    when: float

    @property
    def age(self) -> float:
        """Seconds since it was received; stamps may be of a recording."""
        return time.monotonic() - self.when

    def __str__(self) -> str:
        return f'frame {self.result.stamp_ns / 1e9:.3f}, flagged {self.age:.1f} s ago'


@dataclass
class _Drawing:
    """A frame whose overlay somebody waits for."""

    camera: _Camera
    judged: Judged


class Detector(GuardedNode, LifecycleNode):
    """Scores every camera's latest frame against the nominal database.

    Three threads. The executor's receives serialized frames, answers services, publishes
    diagnostics and watches whether the worker answers in time; it waits for the others only to stop them, and never
    for longer than STOP_S. One worker takes the latest frames of the cameras that wait, in turn, as many together as
    suit the encoder's device, runs the pipeline and publishes for machines. One more draws overlays, so that somebody
    who looks on does not slow the detector down.

    Where a GPU computes there is a fourth, which decodes and uploads the latest frames while the worker is at those
    before: a second mailbox is between the two, so frames stay the latest. On a CPU it would take from the encoder
    what it gains.

    Every frame whose header can be read gets an AnomalyScore and an AnomalyArray, but for those that a newer one
    replaces: where it cannot be judged their verdict is unknown.
    """

    def __init__(self, **kwargs: Any) -> None:
        """Declares parameters and services, nothing more.

        Args:
            kwargs: for LifecycleNode: `namespace`, `parameter_overrides`, `context`, ...

        Raises:
            ParameterError: a parameter that the node was started with is bad.
        """
        with typed_parameters():
            super().__init__('semanom_detector', automatically_declare_parameters_from_overrides=True, **kwargs)
        self._changing = threading.Lock()  # of the judge and the settings, together
        self._answering = threading.Lock()  # so that nothing is called late after its verdict
        self._judge: Judge | None = None
        self._cameras: list[_Camera] = []
        self._transforms: TransformInput | None = None
        self._bond: ManagerBond | None = None
        self._frames: Mailbox[_Waiting] = Mailbox()
        self._prepared: Mailbox[_Waiting] = Mailbox()
        self._renderings: Mailbox[_Drawing] = Mailbox()
        self._working: list[_Waiting] = []  # what the worker is at
        self._preparing: list[_Waiting] = []  # what is decoded ahead of it
        self._threads: list[threading.Thread] = []
        self._abandoned: list[threading.Thread] = []  # that did not end
        self._service: threading.Thread | None = None  # that answers a service, while it does
        self._database_info: Publisher[DatabaseInfo] | None = None
        self._loaded = Time()
        self._state = 'unconfigured'
        self._fault = ''  # why the last configure failed
        self._reload_fault = ''
        self._stop_fault = ''  # why the node cannot be stopped
        try:
            self._declared = NodeParameters(
                self, MethodSettings, CameraSettings, DetectorSettings, locked=lambda: self._judge is not None,
                changed=self._on_live_parameters)
        except ParameterError:
            self.destroy_node()
            raise
        self._settings = self._declared.settings()
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', OUTPUT)
        # real time, because a paused recording stops the ROS clock
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(DIAGNOSTICS_PERIOD_S, self._publish_diagnostics, clock=steady)
        self.create_timer(WATCH_PERIOD_S, self._watch, clock=steady)
        group = MutuallyExclusiveCallbackGroup()  # of its own: it is held while a database loads in the background
        self.create_service(Trigger, '~/reload_database', self._on_reload, qos_profile=SERVICE, callback_group=group)
        self.create_service(Trigger, '~/accept_as_nominal', self._on_accept, qos_profile=SERVICE, callback_group=group)

    @transition
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Loads encoder and database, warms up, and offers the topics.

        :return: The state machine either invokes a transition to the "inactive" state or stays
            in "unconfigured" depending on the return value.
            TransitionCallbackReturn.SUCCESS transitions to "inactive".
            TransitionCallbackReturn.FAILURE transitions to "unconfigured": the reason, one line,
            is in the log and in /diagnostics, nothing stays loaded, and configure can be tried
            again once the cause is mended.
            TransitionCallbackReturn.ERROR or any uncaught exceptions to "errorprocessing".
        """
        self._fault = self._reload_fault = ''
        self._state = 'configuring'
        self._publish_diagnostics()  # loading may take long, and the executor waits for it
        try:
            self._settings = self._declared.settings()
            names = names_of(self._settings.cameras)
            if not self._settings.cameras.database:
                raise ParameterError('parameter database: found nothing, expected the folder of a nominal database; '
                                     'name one, or leave the parameter out')
            check_period(self._settings.detector.bond_heartbeat_period)
            self._judge = Judge.load(self._settings.method, self._database_path)
            self._database_info = self.create_publisher(DatabaseInfo, '~/database_info', LATCHED)
            if self._settings.detector.ground_frame:
                self._transforms = TransformInput(self, 'ground_frame')
            elif self._settings.detector.distance_sensor == POINTS:
                self._transforms = TransformInput(self, 'distance_sensor')
            tree = self._transforms.tree if self._transforms else None
            self._cameras = [_Camera(self, name, self._settings, tree) for name in names]
        except (SemanomError, OSError) as error:  # the other: a name that is too long, a disk that fails
            self._fault = str(error)
            self.get_logger().error(f'cannot configure: {error}')
            self._release(force=True)
            self._publish_diagnostics()
            return TransitionCallbackReturn.FAILURE
        except Exception as error:
            self._fault = f'internal failure: {error!r}'
            self.get_logger().fatal(f'cannot configure: {traceback.format_exc()}')
            return TransitionCallbackReturn.ERROR
        self._state = 'inactive'
        self.get_logger().info(f'{self._announce_database()}; encoder {self._settings.method.encoder.name}')
        return super().on_configure(state)

    @transition
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribes to the cameras and starts the threads.

        :return: The state machine either invokes a transition to the "active" state or stays
            in "inactive" depending on the return value.
            TransitionCallbackReturn.SUCCESS transitions to "active".
            TransitionCallbackReturn.FAILURE transitions to "inactive".
            TransitionCallbackReturn.ERROR or any uncaught exceptions to "errorprocessing".
        """
        result = super().on_activate(state)
        judge = self._judge
        assert judge is not None
        self._frames, self._prepared, self._renderings = Mailbox(), Mailbox(), Mailbox()
        ahead = judge.embedder.prepares_ahead
        # daemons: a library that hangs must not keep the process from ending
        self._threads = [
            threading.Thread(target=self._work, name='semanom_worker',
                             args=(self._prepared if ahead else self._frames,), daemon=True),
            threading.Thread(target=self._render, name='semanom_overlay', args=(self._renderings,), daemon=True)]
        if ahead:
            self._threads.append(threading.Thread(
                target=self._prepare_ahead, name='semanom_preparing', args=(self._frames, self._prepared), daemon=True))
        for thread in self._threads:
            thread.start()
        for camera in self._cameras:
            camera.open(self._frames)
        if self._settings.detector.bond_heartbeat_period:
            with suppress(ImportError):  # diagnostics say so where it matters
                self._bond = ManagerBond(self, self._settings.detector.bond_heartbeat_period)
        self._state = 'active'
        self.get_logger().info(
            f'active: watching {", ".join(f"{camera.name} ({camera.topic})" for camera in self._cameras)}, alarm level '
            f'{judge.level:.4g} of database version {judge.database.manifest.version}')
        return result

    @transition
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stops after the frame that is being worked on; what is loaded stays loaded.

        :return: The state machine either invokes a transition to the "inactive" state or stays
            in "active" depending on the return value.
            TransitionCallbackReturn.SUCCESS transitions to "inactive".
            TransitionCallbackReturn.FAILURE transitions to "active": the worker has not ended within STOP_S, as it does
            when the encoder hangs. No frames are taken any more; deactivate can be tried again.
            TransitionCallbackReturn.ERROR or any uncaught exceptions to "errorprocessing".
        """
        if not self._stop():
            return TransitionCallbackReturn.FAILURE
        self._end_bond()
        return super().on_deactivate(state)

    @transition
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Takes the topics away and frees the memory, the GPU's too.

        :return: The state machine either invokes a transition to the "unconfigured" state or stays
            in "inactive" depending on the return value.
            TransitionCallbackReturn.SUCCESS transitions to "unconfigured".
            TransitionCallbackReturn.FAILURE transitions to "inactive": a service is still at work after STOP_S, as it
            is when loading a database hangs; cleanup can be tried again.
            TransitionCallbackReturn.ERROR or any uncaught exceptions to "errorprocessing".
        """
        return TransitionCallbackReturn.SUCCESS if self._release() else TransitionCallbackReturn.FAILURE

    @transition
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stops and frees everything, from whatever state; a thread that hangs is left behind.

        :return: The state machine invokes a transition to the "finalized" state
            TransitionCallbackReturn.SUCCESS transitions to "finalized".
            TransitionCallbackReturn.FAILURE remains in the current state.
            TransitionCallbackReturn.ERROR or any uncaught exceptions to "errorprocessing".
        """
        self._release(force=True)
        self._state = 'finalized'
        return TransitionCallbackReturn.SUCCESS

    @transition
    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stops and frees everything, so that the node can be configured again.

        :return: The state machine either invokes a transition to the "unconfigured" or the
            "finalized" state depending on the return value.
            TransitionCallbackReturn.SUCCESS transitions to "unconfigured".
            TransitionCallbackReturn.FAILURE or any uncaught exceptions to "finalized": a thread hangs.
        """
        ended = self._release(force=True)
        self._publish_diagnostics()
        return TransitionCallbackReturn.SUCCESS if ended else TransitionCallbackReturn.FAILURE

    def destroy_node(self) -> None:
        """Stops the threads first; then as every node."""
        self._release(force=True)
        super().destroy_node()

    @property
    def hanging(self) -> list[str]:
        """Names of the threads that were left behind because they do not end."""
        return [thread.name for thread in self._abandoned if thread.is_alive()]

    @property
    def _database_path(self) -> Path:
        return expanded(self._settings.cameras.database)

    def _stop(self) -> bool:
        """Ends subscriptions and threads, and forgets what was seen; returns whether all threads have ended."""
        for camera in self._cameras:
            camera.close()
        self._frames.close()
        self._prepared.close()
        self._renderings.close()
        self._threads = self._still_at_work(self._threads)
        if self._threads:
            self._state = 'stopping'
            return False
        if self._judge is not None:
            self._state = 'inactive'
        return True

    def _still_at_work(self, threads: Sequence[threading.Thread]) -> list[threading.Thread]:
        """Waits for threads to end, for STOP_S at most; those that have not, which are complained of."""
        end = time.monotonic() + STOP_S
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
        hanging = [thread for thread in threads if thread.is_alive()]
        self._stop_fault = ''
        if hanging:
            names = ' and '.join(thread.name for thread in hanging)
            self._stop_fault = (f'cannot stop: {names} still at work after {STOP_S:g} s, expected to end; try again, '
                                'or end the process if the encoder hangs')
            self.get_logger().error(self._stop_fault)
            if self.context.ok():
                self._publish_diagnostics()
        return hanging

    def _end_bond(self) -> None:
        if self._bond is not None:
            self._bond.end()
            self._bond = None

    def _release(self, force: bool = False) -> bool:
        """Back to where the node was before configure; returns whether all threads have ended.

        Args:
            force: leave behind those that have not; otherwise nothing is released.
        """
        self._stop()
        if not self._threads and self._service is not None:
            self._threads = self._still_at_work([self._service])
        if self._threads and not force:
            return False
        ended = not self._threads
        self._end_bond()
        self._abandoned += self._threads
        self._threads, self._service = [], None
        for camera in self._cameras:
            camera.destroy()
        self._cameras = []
        if self._transforms is not None:
            self._transforms.destroy()
            self._transforms = None
        if self._database_info is not None:
            self.destroy_publisher(self._database_info)
            self._database_info = None
        if self._judge is not None:
            device, self._judge = self._judge.embedder.encoder.device, None
            gc.collect()
            diagnostics.free_gpu_memory(device)
        self._state = 'unconfigured'
        return ended

    def _on_live_parameters(self, changed: dict[str, Value]) -> None:
        with self._changing:
            settings = self._settings.live(changed)
            of_method = {name: value for name, value in changed.items() if name in MethodSettings.table()}
            if self._judge is not None and of_method:
                self._judge = self._judge.live(of_method)
            self._settings = settings

    # -- the worker

    def _work(self, frames: Mailbox[_Waiting]) -> None:
        while (taken := frames.take(self._largest_batch)) is not None:
            self._working = taken
            try:
                judged = self._judged(taken)
                if threading.current_thread() in self._abandoned:  # the topics are gone
                    return
                with self._answering:
                    for waiting in taken:
                        waiting.answered = True
                for waiting, one in zip(taken, judged, strict=True):
                    self._answer(waiting, one)
            except Exception as error:
                if not self.context.ok():  # shut down while a frame was on its way: nobody is there to be told
                    return
                for waiting in taken:
                    waiting.camera.monitor.unknown(*waiting.camera.failed(error))
            finally:
                self._working = []

    @property
    def _largest_batch(self) -> int:
        judge = self._judge
        return 1 if judge is None else judge.embedder.largest_batch

    def _answer(self, waiting: _Waiting, judged: Judged | None) -> None:
        camera = waiting.camera
        try:
            camera.monitor.answered(time.monotonic() - waiting.received.when, self._settings.detector.latency_limit)
            if judged is not None:
                self._publish(camera, judged, waiting.received)
        except Exception as error:  # what is to be said of the other cameras is said all the same
            if not self.context.ok():
                raise
            camera.monitor.unknown(*camera.failed(error))

    def _judged(self, taken: Sequence[_Waiting]) -> list[Judged | None]:
        """What is said about frames; None where not even the header can be read."""
        with self._changing:
            judge, settings = self._judge, self._settings.detector
        assert judge is not None
        for waiting in taken:
            if not waiting.prepared:
                self._prepare(waiting, judge)
        ready = [waiting for waiting in taken if waiting.decoded is not None]
        results = self._results(ready, judge) if ready else {}
        judged: list[Judged | None] = []
        for waiting in taken:
            camera = waiting.camera
            frame, frame_id = waiting.decoded or (None, '')
            if (result := results.get(camera.name)) is not None and result.reason in (
                    Reason.FAILED, Reason.INVALID_IMAGE):
                waiting.fault = result.reason, result.explanation
            if waiting.fault is not None:
                judged.append(camera.unknown(waiting.received, *waiting.fault, settings, frame))
            else:
                assert result is not None
                model = camera.model_of(result.image_size)
                ground, measurement = None, None
                if model is not None:
                    ground = camera.ground_of(frame_id, result.stamp_ns)
                    measurement = camera.measurement_of(frame_id, result, model, settings)
                judged.append(Judged(frame, result, frame_id, model, settings, ground, measurement))
        return judged

    def _results(self, ready: Sequence[_Waiting], judge: Judge) -> dict[str, FrameResult]:
        """Of decoded frames, by camera."""
        frames = [waiting.decoded[0] for waiting in ready if waiting.decoded is not None]
        pictures = [waiting.picture for waiting in ready if waiting.picture is not None]
        try:
            results = judge.process_batch(frames, [waiting.camera.state for waiting in ready],
                                          pictures if len(pictures) == len(frames) else None)
            return {waiting.camera.name: result for waiting, result in zip(ready, results, strict=True)}
        except Exception as error:
            for waiting in ready:
                waiting.fault = waiting.camera.failed(error)
            return {}

    # -- what comes before it

    def _prepare_ahead(self, frames: Mailbox[_Waiting], prepared: Mailbox[_Waiting]) -> None:
        """Decodes and uploads frames before the worker asks for them; a newer one replaces what it has not taken."""
        while (taken := frames.take()) is not None:
            self._preparing = taken
            judge = self._judge
            if judge is None:  # this thread was left behind
                return
            for waiting in taken:
                self._prepare(waiting, judge)
                if prepared.put(waiting.camera.name, waiting):
                    waiting.camera.monitor.dropped(diagnostics.SUPERSEDED)
            self._preparing = []

    def _prepare(self, waiting: _Waiting, judge: Judge) -> None:
        """Decodes a frame that is not too old; or finds out why it is unknown."""
        camera, received, settings = waiting.camera, waiting.received, self._settings.detector
        waiting.prepared = True
        try:
            age = self._age(received.stamp_ns)
            if age is not None and settings.max_age and age > settings.max_age:
                waiting.fault = Reason.STALE, (
                    f'found it {age:.3f} s old, expected at most {settings.max_age:g} s; synchronize the clocks, set '
                    'use_sim_time, or raise max_age')
                return
            decoded = camera.decode(received)
            if judge.embedder.prepares_ahead:
                waiting.picture = judge.embedder.prepare(decoded[0])
            waiting.decoded = decoded
        except ImageError as error:
            waiting.fault = Reason.INVALID_IMAGE, str(error)
        except Exception as error:
            waiting.fault = camera.failed(error)

    # -- what comes after

    def _publish(self, camera: _Camera, judged: Judged, received: Received) -> None:
        result, frame = judged.result, judged.frame
        turned = result.verdict is not Verdict.UNKNOWN and camera.drifts(result.drift)
        if result.anomalous and frame is not None:  # before anybody hears of it, who may accept it at once
            camera.flagged = _Flagged(frame, result, received.when)
        camera.outputs.publish(When.AT_ONCE, judged)
        if result.timings_ms:  # it went through the pipeline, whatever came of it
            age = self._age(result.stamp_ns)
            camera.monitor.processed(result, time.monotonic() - received.when, age, judged.nearest)
            apart = diagnostics.clocks_apart(age) if age is not None else ''
            if apart:
                camera.log.warning(f'{apart}: ages are unknown; for a recording play its time (--clock) and set '
                                   'use_sim_time, on a vehicle synchronize the clocks', once=True)
        if result.reason is Reason.NOT_FINITE:
            camera.log.error(f'frame {result.stamp_ns} is unknown, {result.reason.words}: {result.explanation}',
                             throttle_duration_sec=LOG_PERIOD_S)
        if turned:
            self._publish_database_info()
        camera.outputs.publish(When.NEXT, judged)
        if camera.outputs.wanted(When.DRAWN):
            self._renderings.put(camera.name, _Drawing(camera, judged))

    def _age(self, stamp_ns: int) -> float | None:
        """Seconds since a stamp, by the node's clock; None without a stamp, or before a simulation's first /clock."""
        now = self.get_clock().now().nanoseconds
        return (now - stamp_ns) / 1e9 if now and stamp_ns else None

    def _watch(self) -> None:
        """Says of frames for whose verdict somebody waits too long that it is late; and at once what is anomalous."""
        if self._state != 'active':
            return
        now, settings, working = time.monotonic(), self._settings.detector, list(self._working)
        frames = [*working, *self._preparing, *self._prepared.waiting(), *self._frames.waiting()]
        # who waits behind a late one is late as well, or a camera that goes on would never hear of it
        begun = min((waiting.received.when for waiting in working), default=now)
        stuck = now - begun > settings.latency_limit
        news = any(camera.monitor.turned() for camera in self._cameras)
        for waiting in frames:
            since = begun if stuck else waiting.received.when
            if not waiting.late and now - since > settings.latency_limit:
                with self._answering:
                    if not waiting.answered:
                        waiting.late = True
                        news |= waiting.camera.late(waiting.received, since, settings)
        if news:
            self._publish_diagnostics()  # at once

    def _render(self, renderings: Mailbox[_Drawing]) -> None:
        while (taken := renderings.take()) is not None:
            (drawing,) = taken
            camera = drawing.camera
            try:
                camera.outputs.publish(When.DRAWN, drawing.judged)
            except Exception:
                if not self.context.ok():
                    return
                camera.log.error(f'overlay failed: {traceback.format_exc()}', throttle_duration_sec=LOG_PERIOD_S)

    # -- services

    async def _on_reload(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Loads the database anew while the old one is in use."""
        return await self._in_background(self._reload, response)

    async def _on_accept(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Adds what was last flagged to the database."""
        return await self._in_background(self._accept, response)

    async def _in_background(self, work: Callable[[Judge], str], response: Trigger.Response) -> Trigger.Response:
        """Answers with what `work` returns, or why it failed; the executor goes on meanwhile."""
        judge, executor = self._judge, self.executor
        assert executor is not None  # it called this
        if judge is None:
            response.message = 'no database is loaded; configure the node first'
            return response
        done: Future[tuple[bool, str]] = Future(executor=executor)

        def run() -> None:
            try:
                done.set_result((True, work(judge)))
            except SemanomError as error:
                done.set_result((False, str(error)))
            except Exception as error:
                self.get_logger().error(traceback.format_exc())
                done.set_result((False, f'internal failure: {error!r}'))
            executor.wake()  # a future that is awaited does not

        self._service = threading.Thread(target=run, name='semanom_service', daemon=True)
        self._service.start()
        answer = await done
        assert answer is not None
        response.success, response.message = answer
        if response.success:
            self.get_logger().info(response.message)
        else:
            self.get_logger().error(response.message)
        return response

    def _reload(self, judge: Judge) -> str:
        try:
            replacement = judge.with_database(self._database_path)
        except SemanomError as error:
            version = judge.database.manifest.version
            self._reload_fault = f'reload failed, version {version} stays in use: {error}'
            raise
        with self._changing:
            self._judge = replacement.live(self._settings.method.values(Affects.LIVE))  # what was set meanwhile
        self._reload_fault = ''
        return self._announce_database()

    def _accept(self, judge: Judge) -> str:
        if self._settings.detector.read_only:
            raise SemanomError('refused: parameter read_only: found true, expected false where services may write to '
                               'the disk; start the node with read_only:=false')
        flagged = {camera: camera.flagged for camera in self._cameras if camera.flagged is not None}
        if not flagged:
            raise SemanomError('nothing was flagged since the node was configured or since the last call; call this '
                               'after a false alarm')
        limit = self._settings.detector.accept_max_age or math.inf
        flagged, old = ({camera: one for camera, one in flagged.items() if (one.age <= limit) is fresh}
                        for fresh in (True, False))
        left_out = ', '.join(f'{camera.name}: {one}' for camera, one in old.items())
        if not flagged:
            raise SemanomError(f'too old: found {left_out}, expected at most {limit:g} s; call this right after a '
                               'false alarm, or raise accept_max_age')
        what = ', '.join(f'{camera.name}: {one}' for camera, one in flagged.items())
        additions = [evidence_for(one.frame, one.result) for one in flagged.values()]
        replacement = judge.accepting(additions)
        with self._changing:
            self._judge = replacement.live(self._settings.method.values(Affects.LIVE))
        for camera, accepted in flagged.items():
            if camera.flagged is accepted:
                camera.flagged = None
        count = sum(len(addition.vectors) for addition in additions)
        left_out = f' (left out as too old: {left_out})' if left_out else ''
        return f'{count} embeddings accepted as nominal, of {what}{left_out}; {self._announce_database()}'

    def _announce_database(self) -> str:
        assert self._judge is not None
        assert self._database_info is not None
        database, self._loaded = self._judge.database, self.get_clock().now().to_msg()
        self._publish_database_info()
        return f'database {database.path} version {database.manifest.version}, {database.manifest.vectors} vectors'

    def _publish_database_info(self) -> None:
        judge, publisher = self._judge, self._database_info
        if judge is not None and publisher is not None:
            publisher.publish(messages.database_info(
                judge.database, self._loaded, judge.drift_reference,
                [camera.name for camera in self._cameras if camera.drifting]))

    # -- diagnostics

    def _publish_diagnostics(self) -> None:
        array = DiagnosticArray()
        array.header.stamp = self.get_clock().now().to_msg()
        name, settings = self.get_fully_qualified_name().lstrip('/'), self._settings
        health = Health()
        values: dict[str, object] = {
            'state': self._state, 'encoder': settings.method.encoder.name, 'variant': settings.method.queries.variant,
            'database': settings.cameras.database}
        if self._fault:
            health.add(diagnostics.ERROR, f'cannot configure: {self._fault}')
        if self._stop_fault:
            health.add(diagnostics.ERROR, self._stop_fault)
        if self._reload_fault:
            health.add(diagnostics.WARN, self._reload_fault)
        for fault in self.new_faults():
            health.add(diagnostics.ERROR, fault)
        if (self._state == 'active' and settings.detector.bond_heartbeat_period and self._bond is None
                and manager_waits(self)):
            health.add(diagnostics.WARN, NO_BOND)
            self.get_logger().warning(NO_BOND, once=True)
        judge = self._judge
        if judge is not None:
            for warning in judge.warnings:
                health.add(diagnostics.WARN, warning)
            manifest, encoder = judge.database.manifest, judge.embedder.encoder
            values |= {'database version': manifest.version, 'database vectors': manifest.vectors,
                       'encoder weights': encoder.weights, 'device': encoder.device, 'precision': encoder.dtype}
            values |= diagnostics.gpu_memory(encoder.device)
        array.status = [health.status(f'{name}: detector', values, fine=self._state)]
        if self._state == 'active':
            for camera in self._cameras:
                array.status += [camera.status(f'{name}: {camera.name}', settings.detector),
                                 camera.verdict(f'{name}: {camera.name} verdict', settings.detector)]
        self._diagnostics.publish(array)


class _Camera:
    """One camera: its topics, and what is remembered of it."""

    def __init__(self, node: Detector, name: str, settings: Settings, transforms: TransformTree | None) -> None:
        self.name = name
        self.log = node.get_logger().get_child(name)
        self.monitor = CameraMonitor()
        self.outputs = CameraOutputs(node, name)
        self.state = CameraState()
        self.flagged: _Flagged | None = None
        self.drifting = False
        self._node = node
        self._input = CameraInput(node, name, settings.cameras, settings.method, INPUT)
        self._rectified = settings.detector.image_rectified
        self._transforms, self._ground_frame = transforms, settings.detector.ground_frame
        sensor = settings.detector.distance_sensor
        self._sensor = None if sensor == 'none' else MeasurementInput(node, name, sensor, transforms)
        # from configure on, so that the first frame after activate finds it
        self._infos = node.create_subscription(CameraInfo, f'~/input/{name}/camera_info', self._on_info, INPUT)
        self._model: CameraModel | CameraError = CameraError(
            f'no CameraInfo on {self._infos.topic_name}: bearings and markers are left out; publish or remap it')
        self._last_stamp_ns = -1
        self._last_size: tuple[int, int] | None = None

    @property
    def topic(self) -> str:
        """Of its images."""
        return self._input.topic

    def open(self, mailbox: Mailbox[_Waiting]) -> None:
        """Lets images in."""
        self._last_stamp_ns, self._last_size = -1, None
        self.state, self.drifting = CameraState(), False
        self.monitor.start()

        def receive(received: Received) -> None:
            self.monitor.received(received.lost)
            if mailbox.put(self.name, _Waiting(self, received)):
                self.monitor.dropped(diagnostics.SUPERSEDED)

        if self._sensor is not None:
            self._sensor.open()
        self._input.open(receive)

    def drifts(self, drift: Drift) -> bool:
        """Takes note of the drift, and says so in the log; whether it has begun or ended."""
        drifting = drift.state is DriftState.DRIFTING
        if drifting == self.drifting:
            return False
        self.drifting = drifting
        self.log.warning(f'driving is {drift}')
        return True

    def close(self) -> None:
        """Lets no more images in."""
        self._input.close()
        if self._sensor is not None:
            self._sensor.close()

    def destroy(self) -> None:
        """Takes all topics away."""
        self.close()
        self._node.destroy_subscription(self._infos)
        self.outputs.destroy()

    def decode(self, received: Received) -> tuple[Frame, str]:
        """The frame in a message, and its frame_id.

        Says so where it lacks masks, or does not follow the one before, whereupon what was tracked is forgotten.

        Raises:
            ImageError: it holds no picture.
        """
        frame, frame_id, without_masks = self._input.decode(received)
        self.monitor.masks(without_masks)
        if without_masks:
            self.log.warning(without_masks, throttle_duration_sec=LOG_PERIOD_S)
        stamp, last_stamp = frame.stamp_ns, self._last_stamp_ns
        if not stamp:
            self.monitor.unstamped()
            self.log.warning('images have no stamp: time is taken from reception; mend the camera driver',
                             once=True)
        else:
            self._last_stamp_ns = stamp
        size, last_size, self._last_size = frame.image.shape[:2], self._last_size, frame.image.shape[:2]
        if stamp and stamp == last_stamp:
            self.monitor.standing()
            self.log.warning(f'stamps stand still at {stamp / 1e9:.3f}: time is taken from reception, and a frame that '
                             'is not anomalous is unknown; mend the camera driver', throttle_duration_sec=LOG_PERIOD_S)
        if 0 < stamp < last_stamp - LONGEST_GAP_NS:
            self.monitor.restarted()
            self.log.warning(f'stamps went back from {last_stamp / 1e9:.3f} to {stamp / 1e9:.3f}: what was tracked is '
                             'forgotten', throttle_duration_sec=LOG_PERIOD_S)
        elif 0 < stamp < last_stamp:
            self.log.warning(f'stamps are out of order: found {stamp / 1e9:.3f} after {last_stamp / 1e9:.3f}; time is '
                             'taken from reception', throttle_duration_sec=LOG_PERIOD_S)
        if last_size is not None and size != last_size:
            self.log.warning(f'images changed from {last_size[1]}x{last_size[0]} to {size[1]}x{size[0]}: what was '
                             'tracked is forgotten', throttle_duration_sec=LOG_PERIOD_S)
        return frame, frame_id

    def unknown(self, received: Received, reason: Reason, explanation: str, settings: DetectorSettings,
                frame: Frame | None = None) -> Judged | None:
        """Counts and logs a frame that cannot be judged; what is said about it, None where its header is unreadable."""
        self.monitor.unknown(reason, explanation)
        if reason is not Reason.FAILED:  # whose traceback is in the log
            self.log.warning(f'frame is unknown, {reason.words}: {explanation}', throttle_duration_sec=LOG_PERIOD_S)
        try:
            stamp = received.stamp_ns
        except ImageError:
            return None
        size = (0, 0) if frame is None else frame.size
        result = FrameResult.unknown(stamp, self.name, reason, explanation, size)
        return Judged(frame, result, received.frame_id, None, settings)

    def failed(self, error: Exception) -> tuple[Reason, str]:
        """Logs what failed with a frame, now and then; why it is unknown."""
        if self._node.context.ok():
            self.log.error(f'frame failed: {"".join(traceback.format_exception(error))}',
                           throttle_duration_sec=LOG_PERIOD_S)
        return Reason.FAILED, f'frame failed: {error!r}'

    def late(self, received: Received, since: float, settings: DetectorSettings) -> bool:
        """Says of a frame that its verdict is late; returns whether that is news.

        Args:
            received: the frame.
            since: monotonic seconds; when the frame came that the worker is at.
            settings: what late is.
        """
        explanation = (f'no answer for {time.monotonic() - since:.1f} s, expected within {settings.latency_limit:g} s; '
                       'choose a smaller encoder or input_size')
        judged = self.unknown(received, Reason.LATE, explanation, settings)
        if judged is not None:
            self.outputs.publish(When.AT_ONCE, judged)
            self.outputs.publish(When.NEXT, judged)
        return self.monitor.late(since)

    def model_of(self, image_size: tuple[int, int]) -> CameraModel | None:
        """The camera of images of this (height, width); None, and diagnostics warn, where there is none."""
        model = self._model
        fault = ''
        if isinstance(model, CameraModel):
            try:
                model.scale(image_size)
            except CameraError as error:
                fault = str(error)
        else:
            fault = str(model)
        self.monitor.bearings(fault)
        if fault:
            self.log.warning(fault, throttle_duration_sec=LOG_PERIOD_S)
            return None
        assert isinstance(model, CameraModel)
        return model

    def ground_of(self, frame_id: str, stamp_ns: int) -> GroundPlane | None:
        """The ground below the camera of an image; None, and diagnostics warn, where that is not known."""
        if self._transforms is None or not self._ground_frame:
            return None
        try:
            ground = GroundPlane(self._ground_frame, self._transforms.lookup(self._ground_frame, frame_id, stamp_ns))
        except TransformError as error:
            self.monitor.distances(str(error))
            self.log.warning(f'distances are left out: {error}', throttle_duration_sec=LOG_PERIOD_S)
            return None
        self.monitor.distances('')
        return ground

    def measurement_of(self, frame_id: str, result: FrameResult, model: CameraModel, settings: DetectorSettings
                       ) -> Measurement | None:
        """What was measured at the time of an image; None, and diagnostics warn, where there is nothing of use."""
        if self._sensor is None:
            return None
        try:
            measurement = self._sensor.at(
                result.stamp_ns, settings.distance_max_gap, model, result.image_size, frame_id)
        except (MeasurementError, TransformError) as error:
            self.monitor.measurements(str(error))
            self.log.warning(f'distances are not measured: {error}', throttle_duration_sec=LOG_PERIOD_S)
            return None
        self.monitor.measurements('')
        return measurement

    def status(self, name: str, settings: DetectorSettings) -> DiagnosticStatus:
        """For `/diagnostics`."""
        return self.monitor.status(name, self.name, self.topic, self._node.count_publishers(self.topic),
                                   settings.image_timeout, settings.latency_limit)

    def verdict(self, name: str, settings: DetectorSettings) -> DiagnosticStatus:
        """For `/diagnostics`."""
        return self.monitor.verdict(name, self.name, settings.image_timeout)

    def _on_info(self, info: CameraInfo) -> None:
        try:
            self._model = messages.camera_model(info, self._rectified)
        except CameraError as error:
            self._model = error


def _run(hanging: list[str]) -> None:
    node = Detector()
    executor = GuardedExecutor(node)
    try:
        with library_log(node):
            executor.spin()
    finally:
        node.destroy_node()
        hanging += node.hanging


def _end(what: str) -> None:
    """Ends the process though a thread hangs, for which the interpreter, or a library of its, might wait for ever."""
    print(f'semanom_detector: {what} does not end, expected it to; the process ends without it', file=sys.stderr)
    sys.stderr.flush()
    os._exit(1)


def _end_in_time(done: threading.Event) -> None:
    """Ends the process END_S after a signal, unless it is done by then: the main thread may hang as well."""
    while rclpy.ok():
        if done.wait(1.0):
            return
    if not done.wait(END_S):
        _end('the main thread')


def main(args: Sequence[str] | None = None) -> int:
    """Runs the node until Ctrl-C or shutdown; its transitions are left to whoever manages it.

    Returns:
        0, or 2 when a parameter or another argument is bad. Where a thread hangs the process ends with 1.
    """
    done, hanging = threading.Event(), list[str]()
    try:
        with running_ros(args):
            threading.Thread(target=_end_in_time, name='semanom_end', args=(done,), daemon=True).start()
            try:
                _run(hanging)
            except Exception:
                if rclpy.ok():  # else a signal came, and what fails then, also while starting, fails because of it
                    raise
    except KeyboardInterrupt:
        pass
    except ParameterError as error:
        print(f'semanom_detector: {error}', file=sys.stderr)
        return 2
    finally:
        done.set()
    if hanging:
        _end(' and '.join(hanging))
    return 0


if __name__ == '__main__':
    sys.exit(main())
