"""`semanom_detector`: the lifecycle node that watches cameras for semantic anomalies."""

from __future__ import annotations

import gc
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import rclpy
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.publisher import Publisher
from rclpy.task import Future
from sensor_msgs.msg import CameraInfo
from std_srvs.srv import Trigger

from semanom_ros.core.drift.drift_monitor import Drift, DriftState
from semanom_ros.core.frames import Frame
from semanom_ros.core.pipeline import CameraState, Judge, evidence_for
from semanom_ros.core.results import FrameResult
from semanom_ros.errors import CameraError, ImageError, ParameterError, SemanomError
from semanom_ros.geometry.camera_model import CameraModel
from semanom_ros.msg import DatabaseInfo
from semanom_ros.parameters import Affects, Value
from semanom_ros.ros import diagnostics, messages
from semanom_ros.ros.camera_input import CameraInput, Received
from semanom_ros.ros.diagnostics import CameraMonitor, Health
from semanom_ros.ros.mailbox import Mailbox
from semanom_ros.ros.node_parameters import NodeParameters, typed_parameters
from semanom_ros.ros.outputs import CameraOutputs, Judged, When
from semanom_ros.ros.qos import INPUT, LATCHED, OUTPUT
from semanom_ros.settings import CameraSettings, DetectorSettings, MethodSettings, Settings

DIAGNOSTICS_PERIOD_S = 1.0

LOG_PERIOD_S = 10.0
"""The same complaint about a camera is logged once in that time; diagnostics count all."""


class _Waiting(NamedTuple):
    """A frame that waits for the worker, or one whose overlay somebody waits for."""

    camera: _Camera
    what: Any


class Detector(LifecycleNode):
    """Scores every camera's latest frame against the nominal database.

    Three threads. The executor's receives serialized frames, answers services and
    publishes diagnostics; it waits for the other two only to stop them or to change the pipeline. One
    worker takes the latest frame of each camera in turn, runs the pipeline and publishes
    for machines. One more draws overlays, so that somebody who looks on does not slow
    the detector down.
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
        self._judging = threading.Lock()  # held for one frame: nobody takes the judge away meanwhile
        self._judge: Judge | None = None
        self._cameras: list[_Camera] = []
        self._frames: Mailbox[_Waiting] = Mailbox()
        self._renderings: Mailbox[_Waiting] = Mailbox()
        self._threads: list[threading.Thread] = []
        self._service: threading.Thread | None = None  # that answers a service, while it does
        self._database_info: Publisher[DatabaseInfo] | None = None
        self._loaded = Time()
        self._state = 'unconfigured'
        self._fault = ''  # why the last configure failed
        self._reload_fault = ''
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
        group = MutuallyExclusiveCallbackGroup()  # of its own: it is held while a database loads in the background
        self.create_service(Trigger, '~/reload_database', self._on_reload, callback_group=group)
        self.create_service(Trigger, '~/accept_as_nominal', self._on_accept, callback_group=group)

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
            names = _camera_names(self._settings.cameras.camera_names)
            if not self._settings.cameras.database:
                raise ParameterError('parameter database: found nothing, expected the folder of a nominal database; '
                                     'record one with `semanom record`')
            self._judge = Judge.load(self._settings.method, self._database_path)
        except SemanomError as error:
            self._fault = str(error)
            self.get_logger().error(f'cannot configure: {error}')
            self._release()
            self._publish_diagnostics()
            return TransitionCallbackReturn.FAILURE
        except Exception as error:
            self._fault = f'internal failure: {error!r}'
            self.get_logger().fatal(f'cannot configure: {traceback.format_exc()}')
            return TransitionCallbackReturn.ERROR
        self._database_info = self.create_publisher(DatabaseInfo, '~/database_info', LATCHED)
        self._cameras = [_Camera(self, name, self._settings) for name in names]
        self._state = 'inactive'
        self.get_logger().info(f'{self._announce_database()}; encoder {self._settings.method.encoder.name}')
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribes to the cameras and starts the threads.

        :return: The state machine either invokes a transition to the "active" state or stays
            in "inactive" depending on the return value.
            TransitionCallbackReturn.SUCCESS transitions to "active".
            TransitionCallbackReturn.FAILURE transitions to "inactive".
            TransitionCallbackReturn.ERROR or any uncaught exceptions to "errorprocessing".
        """
        result = super().on_activate(state)
        self._frames, self._renderings = Mailbox(), Mailbox()
        self._threads = [threading.Thread(target=self._work, name='semanom_worker', args=(self._frames,)),
                         threading.Thread(target=self._render, name='semanom_overlay', args=(self._renderings,))]
        for thread in self._threads:
            thread.start()
        for camera in self._cameras:
            camera.open(self._frames)
        self._state = 'active'
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stops after the frame that is being worked on; what is loaded stays loaded.

        :return: The state machine either invokes a transition to the "inactive" state or stays
            in "active" depending on the return value.
            TransitionCallbackReturn.SUCCESS transitions to "inactive".
            TransitionCallbackReturn.FAILURE transitions to "active".
            TransitionCallbackReturn.ERROR or any uncaught exceptions to "errorprocessing".
        """
        self._stop()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Takes the topics away and frees the memory, the GPU's too.

        :return: The state machine either invokes a transition to the "unconfigured" state or stays
            in "inactive" depending on the return value.
            TransitionCallbackReturn.SUCCESS transitions to "unconfigured".
            TransitionCallbackReturn.FAILURE transitions to "inactive".
            TransitionCallbackReturn.ERROR or any uncaught exceptions to "errorprocessing".
        """
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stops and frees everything, from whatever state.

        :return: The state machine invokes a transition to the "finalized" state
            TransitionCallbackReturn.SUCCESS transitions to "finalized".
            TransitionCallbackReturn.FAILURE remains in the current state.
            TransitionCallbackReturn.ERROR or any uncaught exceptions to "errorprocessing".
        """
        self._release()
        self._state = 'finalized'
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stops and frees everything, so that the node can be configured again.

        :return: The state machine either invokes a transition to the "unconfigured" or the
            "finalized" state depending on the return value.
            TransitionCallbackReturn.SUCCESS transitions to "unconfigured".
            TransitionCallbackReturn.FAILURE or any uncaught exceptions to "finalized".
        """
        self._release()
        self._publish_diagnostics()
        return TransitionCallbackReturn.SUCCESS

    def destroy_node(self) -> None:
        """Stops the threads first; then as every node."""
        self._release()
        super().destroy_node()

    @property
    def _database_path(self) -> Path:
        return Path(self._settings.cameras.database).expanduser()

    def _stop(self) -> None:
        """Ends subscriptions and threads; forgets what was seen."""
        for camera in self._cameras:
            camera.close()
        self._frames.close()
        self._renderings.close()
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        if self._judge is not None:
            self._state = 'inactive'

    def _release(self) -> None:
        """Back to where the node was before configure."""
        self._stop()
        if self._service is not None:
            self._service.join()
            self._service = None
        for camera in self._cameras:
            camera.destroy()
        self._cameras = []
        if self._database_info is not None:
            self.destroy_publisher(self._database_info)
            self._database_info = None
        if self._judge is not None:
            device, self._judge = self._judge.embedder.encoder.device, None
            gc.collect()
            diagnostics.free_gpu_memory(device)
        self._state = 'unconfigured'

    def _on_live_parameters(self, changed: dict[str, Value]) -> None:
        with self._judging:
            settings = self._settings.live(changed)
            of_method = {name: value for name, value in changed.items() if name in MethodSettings.table()}
            if self._judge is not None and of_method:
                self._judge = self._judge.live(of_method)
            self._settings = settings

    # -- the worker

    def _work(self, frames: Mailbox[_Waiting]) -> None:
        while (waiting := frames.take()) is not None:
            camera = waiting.camera
            try:
                self._process(camera, waiting.what)
            except ImageError as error:
                camera.monitor.dropped(diagnostics.INVALID, str(error))
                camera.log.warning(str(error), throttle_duration_sec=LOG_PERIOD_S)
            except Exception as error:
                if not self.context.ok():  # shut down while a frame was on its way: nobody is there to be told
                    return
                camera.monitor.dropped(diagnostics.FAILED, f'frame failed: {error!r}')
                camera.log.error(f'frame failed: {traceback.format_exc()}', throttle_duration_sec=LOG_PERIOD_S)

    def _process(self, camera: _Camera, received: Received) -> None:
        age = self._age(received.stamp_ns)
        limit = self._settings.detector.max_age
        if age is not None and limit and age > limit:
            camera.monitor.dropped(diagnostics.STALE)
            camera.log.warning(f'frame dropped: found it {age:.3f} s old, expected at most {limit:g} s; synchronize '
                               'the clocks, set use_sim_time, or raise max_age', throttle_duration_sec=LOG_PERIOD_S)
            return
        frame, frame_id = camera.decode(received)
        with self._judging:
            assert self._judge is not None
            result, settings = self._judge.process(frame, camera.state), self._settings.detector
            turned = camera.drifts(result.drift)
        judged = Judged(frame, result, frame_id, camera.model_of(result.image_size), settings)
        camera.outputs.publish(When.AT_ONCE, judged)
        camera.monitor.processed(result, time.monotonic() - received.when, self._age(frame.stamp_ns))
        if result.anomalous:
            camera.flagged = frame, result
        if turned:
            self._publish_database_info()
        camera.outputs.publish(When.NEXT, judged)
        if camera.outputs.wanted(When.DRAWN):
            self._renderings.put(camera.name, _Waiting(camera, judged))

    def _age(self, stamp_ns: int) -> float | None:
        """Seconds since a stamp, by the node's clock; None before the first /clock of a simulation."""
        now = self.get_clock().now().nanoseconds
        return (now - stamp_ns) / 1e9 if now else None

    def _render(self, renderings: Mailbox[_Waiting]) -> None:
        while (waiting := renderings.take()) is not None:
            camera = waiting.camera
            try:
                camera.outputs.publish(When.DRAWN, waiting.what)
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

        self._service = threading.Thread(target=run, name='semanom_service')
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
        with self._judging:
            self._judge = replacement.live(self._settings.method.values(Affects.LIVE))  # what was set meanwhile
        self._reload_fault = ''
        return self._announce_database()

    def _accept(self, judge: Judge) -> str:
        flagged = {camera: camera.flagged for camera in self._cameras if camera.flagged is not None}
        if not flagged:
            raise SemanomError('nothing was flagged since the node was configured or since the last call; call this '
                               'after a false alarm')
        additions = [evidence_for(frame, result) for frame, result in flagged.values()]
        replacement = judge.accepting(additions)
        with self._judging:
            self._judge = replacement.live(self._settings.method.values(Affects.LIVE))
        for camera, accepted in flagged.items():
            if camera.flagged is accepted:
                camera.flagged = None
        count = sum(len(addition.vectors) for addition in additions)
        return f'{count} embeddings accepted as nominal; {self._announce_database()}'

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
        if self._reload_fault:
            health.add(diagnostics.WARN, self._reload_fault)
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
            array.status += [camera.status(f'{name}: {camera.name}', settings.detector) for camera in self._cameras]
        self._diagnostics.publish(array)


class _Camera:
    """One camera: its topics, and what is remembered of it."""

    def __init__(self, node: Detector, name: str, settings: Settings) -> None:
        self.name = name
        self.log = node.get_logger().get_child(name)
        self.monitor = CameraMonitor()
        self.outputs = CameraOutputs(node, name)
        self.state = CameraState()
        self.flagged: tuple[Frame, FrameResult] | None = None
        self.drifting = False
        self._node = node
        self._input = CameraInput(node, name, settings.cameras, settings.method.queries, INPUT)
        self._rectified = settings.detector.image_rectified
        # from configure on, so that the first frame after activate finds it
        self._infos = node.create_subscription(CameraInfo, f'~/input/{name}/camera_info', self._on_info, INPUT)
        self._model: CameraModel | CameraError = CameraError(
            f'no CameraInfo on {self._infos.topic_name}: bearings and markers are left out; publish or remap it')
        self._last_stamp_ns = -1
        self._last_size: tuple[int, int] | None = None

    def open(self, mailbox: Mailbox[_Waiting]) -> None:
        """Lets images in."""
        self._last_stamp_ns, self._last_size = -1, None
        self.state, self.drifting = CameraState(), False
        self.monitor.start()

        def receive(received: Received) -> None:
            self.monitor.received(received.lost)
            if mailbox.put(self.name, _Waiting(self, received)):
                self.monitor.dropped(diagnostics.SUPERSEDED)

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
        stamp, last_stamp, self._last_stamp_ns = frame.stamp_ns, self._last_stamp_ns, frame.stamp_ns
        size, last_size, self._last_size = frame.image.shape[:2], self._last_size, frame.image.shape[:2]
        if stamp < last_stamp:
            self.monitor.restarted()
            self.log.warning(f'stamps went back from {last_stamp / 1e9:.3f} to {stamp / 1e9:.3f}: what was tracked is '
                             'forgotten', throttle_duration_sec=LOG_PERIOD_S)
        if last_size is not None and size != last_size:
            self.log.warning(f'images changed from {last_size[1]}x{last_size[0]} to {size[1]}x{size[0]}: what was '
                             'tracked is forgotten', throttle_duration_sec=LOG_PERIOD_S)
        return frame, frame_id

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

    def status(self, name: str, settings: DetectorSettings) -> DiagnosticStatus:
        """For `/diagnostics`."""
        topic = self._input.topic
        return self.monitor.status(name, self.name, topic, self._node.count_publishers(topic),
                                   settings.image_timeout, settings.latency_limit)

    def _on_info(self, info: CameraInfo) -> None:
        try:
            self._model = messages.camera_model(info, self._rectified)
        except CameraError as error:
            self._model = error


def _camera_names(names: Sequence[str]) -> list[str]:
    """Checks that every name can be part of a topic.

    Raises:
        ParameterError: it cannot, or comes twice.
    """
    for name in names:
        if not re.fullmatch('[A-Za-z][A-Za-z0-9_]*', name) or '__' in name:
            raise ParameterError(f'parameter camera_names: found {name!r}, expected letters, digits and single '
                                 'underscores, a letter first; correct it')
    if len(set(names)) < len(names):
        raise ParameterError(f'parameter camera_names: found {list(names)!r}, expected every name once; correct it')
    return list(names)


def _run() -> None:
    node = Detector()
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        executor.spin()
    finally:
        node.destroy_node()


def main(args: Sequence[str] | None = None) -> int:
    """Runs the node until Ctrl-C or shutdown; its transitions are left to whoever manages it.

    Returns:
        0, or 2 when a parameter is bad.
    """
    try:
        with rclpy.init(args=args):  # type: ignore[arg-type]
            try:
                _run()
            except Exception:
                if rclpy.ok():  # else a signal came, and what fails then, also while starting, fails because of it
                    raise
    except KeyboardInterrupt:
        pass
    except ParameterError as error:
        print(f'semanom_detector: {error}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
