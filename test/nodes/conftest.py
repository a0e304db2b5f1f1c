"""A real lifecycle detector over DDS, with a small encoder and a small nominal database."""

from __future__ import annotations

import threading
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
import torch
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo, Image

from semanom_ros.core.curation.recorder import NominalRecorder, describe
from semanom_ros.core.database import DatabaseWriter
from semanom_ros.core.embedding.embedder import Embedder
from semanom_ros.core.frames import Frame
from semanom_ros.core.scoring.calibration import calibrate
from semanom_ros.nodes import detector
from semanom_ros.nodes.detector import Detector
from semanom_ros.parameters import METHOD, resolve
from semanom_ros.recordings.images import image_to_message

HEIGHT, WIDTH, PATCH = 96, 128, 8
FOCAL = 100.0
SECOND = 1_000_000_000
TIMEOUT_S = 30.0  # for what takes milliseconds; machines that run tests may be busy


class Colours(torch.nn.Module):
    """The mean colour of each patch: the least encoder that tells a red box from a grey road."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) in 0..1 to (B, 4, H / 8, W / 8)."""
        means = torch.nn.functional.avg_pool2d(images, 8) - 0.5
        return torch.cat([means, torch.full_like(means[:, :1], 0.5)], dim=1)


@pytest.fixture(scope='session')
def encoder_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TorchScript file with the encoder."""
    path = tmp_path_factory.mktemp('encoder') / 'colours.ts'
    torch.jit.script(Colours()).save(str(path))
    return path


def street(number: int, size: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    """A nominal picture: grey, darker downwards, its patches a little coloured, differently for each number."""
    rng = np.random.default_rng(number)
    patches = rng.normal(0, 6, (size[0] // PATCH, size[1] // PATCH, 3)).repeat(PATCH, axis=0).repeat(PATCH, axis=1)
    grey = np.linspace(200, 90, size[0])[:, None, None] + patches
    return np.clip(grey, 0, 255).astype(np.uint8)


def street_with_box(number: int, box: tuple[int, int, int, int] = (48, 40, 24, 16)) -> np.ndarray:
    """The same with a red box (x, y, width, height) on it."""
    image = street(number)
    x, y, w, h = box
    image[y:y + h, x:x + w] = (230, 20, 30)
    return image


@pytest.fixture(scope='session')
def method(encoder_file: Path) -> dict[str, Any]:
    """Parameters of the method: no temporal filter, so that every frame stands for itself."""
    return {'encoder': f'torchscript:{encoder_file}', 'input_size': [HEIGHT, WIDTH], 'device': 'cpu',
            'precision': 'fp32', 'false_alarm_rate': 0.1, 'filter_temporal': False, 'filter_min_area': 0.015,
            'calibrate_by_region': False, 'standardize': False, 'plausibility': False}


def record(path: Path, method: dict[str, Any], numbers: range = range(40)) -> Path:
    """Makes a nominal database of streets; every second one is held out."""
    parameters = resolve(method, METHOD)
    embedder = Embedder.load(parameters)
    frames = (Frame(street(number), number * SECOND, 'camera', 'nominal_drive', '/camera/image') for number in numbers)
    with DatabaseWriter.begin(path, describe(embedder)) as writer:
        recorder = NominalRecorder(embedder, writer)
        for _ in recorder.record(frames, 'a' * 64, lambda stamp: stamp // SECOND % 2 == 1):
            pass
        writer.commit(lambda database: calibrate(database, parameters)).close()
    return path


@pytest.fixture(scope='session')
def recorded(tmp_path_factory: pytest.TempPathFactory, method: dict[str, Any]) -> Path:
    """A nominal database that no test changes."""
    return record(tmp_path_factory.mktemp('database') / 'nominal', method)


def camera_info(**changes: Any) -> CameraInfo:
    """The CameraInfo of the test camera: principal point in the middle, no distortion."""
    info = CameraInfo(height=HEIGHT, width=WIDTH, distortion_model='plumb_bob', d=[0.0] * 5)
    info.k = [FOCAL, 0.0, (WIDTH - 1) / 2, 0.0, FOCAL, (HEIGHT - 1) / 2, 0.0, 0.0, 1.0]
    info.p = [FOCAL, 0.0, (WIDTH - 1) / 2, 0.0, 0.0, FOCAL, (HEIGHT - 1) / 2, 0.0, 0.0, 0.0, 1.0, 0.0]
    for name, value in changes.items():
        setattr(info, name, value)
    return info


class Bench:
    """A detector in this process, and a node that plays cameras and listeners."""

    height, width, focal, second = HEIGHT, WIDTH, FOCAL, SECOND
    street = staticmethod(street)
    street_with_box = staticmethod(street_with_box)
    camera_info = staticmethod(camera_info)
    record = staticmethod(record)

    def __init__(self, **parameters: Any) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        overrides = [Parameter(name, value=value) for name, value in parameters.items()]
        try:
            self.detector = Detector(context=self.context, parameter_overrides=overrides)
        except BaseException:
            rclpy.shutdown(context=self.context)
            raise
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.detector)
        self._thread = threading.Thread(target=self._spin)
        self._thread.start()
        self.node = rclpy.create_node('bench', context=self.context)
        self._own = SingleThreadedExecutor(context=self.context)
        self._own.add_node(self.node)
        self._publishers: dict[str, Any] = {}
        self.diagnostics: list[DiagnosticArray] = self.listen(DiagnosticArray, '/diagnostics')

    def _spin(self) -> None:
        with suppress(ExternalShutdownException):
            self._executor.spin()

    def close(self) -> None:
        self._executor.shutdown()
        self._thread.join(TIMEOUT_S)
        assert not self._thread.is_alive()
        self._own.shutdown()
        self.detector.destroy_node()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)

    # -- waiting

    def spin_until(self, condition: Callable[[], Any], timeout: float = TIMEOUT_S, what: str = '') -> Any:
        """Handles events until the condition holds, and returns what it returned."""
        end = time.monotonic() + timeout
        while not (found := condition()):
            assert time.monotonic() < end, f'{what or condition}: not within {timeout:g} s'
            self._own.spin_once(timeout_sec=0.05)
        return found

    def call(self, kind: Any, service: str, request: Any, timeout: float = TIMEOUT_S) -> Any:
        client = self.node.create_client(kind, service)
        try:
            self.spin_until(client.service_is_ready, timeout, service)
            future = client.call_async(request)
            self.spin_until(future.done, timeout, service)
            return future.result()
        finally:
            self.node.destroy_client(client)

    # -- the lifecycle

    def change(self, transition: int) -> bool:
        request = ChangeState.Request(transition=Transition(id=transition))
        return self.call(ChangeState, '/semanom_detector/change_state', request).success

    def configure(self) -> bool:
        return self.change(Transition.TRANSITION_CONFIGURE)

    def activate(self) -> bool:
        return self.change(Transition.TRANSITION_ACTIVATE)

    def deactivate(self) -> bool:
        return self.change(Transition.TRANSITION_DEACTIVATE)

    def cleanup(self) -> bool:
        return self.change(Transition.TRANSITION_CLEANUP)

    @property
    def state(self) -> str:
        return self.call(GetState, '/semanom_detector/get_state', GetState.Request()).current_state.label

    # -- topics

    def listen(self, kind: Any, topic: str, latched: bool = False) -> list[Any]:
        """Subscribes, and waits until the publisher knows; returns the list that messages are added to."""
        messages: list[Any] = []
        durability = DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
        qos = QoSProfile(depth=50, durability=durability)
        if not topic.startswith('/'):
            topic = f'/semanom_detector/{topic}'
        self.node.create_subscription(kind, topic, messages.append, qos)
        publishers = [publisher for publisher in self.detector.publishers if publisher.topic == topic]
        self.spin_until(lambda: all(publisher.get_subscription_count() for publisher in publishers), what=topic)
        return messages

    def publisher(self, kind: Any, topic: str) -> Any:
        """A publisher that the active detector listens to."""
        if topic not in self._publishers:
            self._publishers[topic] = self.node.create_publisher(kind, f'/semanom_detector/input/{topic}', 10)
        publisher = self._publishers[topic]
        self.spin_until(publisher.get_subscription_count, what=topic)
        return publisher

    def send(self, image: np.ndarray, stamp_ns: int, camera: str = 'camera', frame_id: str = 'camera_optical',
             encoding: str = 'rgb8') -> None:
        self.publisher(Image, f'{camera}/image').publish(image_to_message(image, encoding, stamp_ns, frame_id))

    def send_raw(self, camera: str = 'camera', **fields: Any) -> None:
        """An Image message with whatever fields."""
        message = Image(**{**fields, 'data': array('B', fields.get('data', b''))})
        self.publisher(Image, f'{camera}/image').publish(message)

    def send_info(self, info: CameraInfo, camera: str = 'camera') -> None:
        """A CameraInfo, and waits until the detector has taken note of it."""
        found = next(c for c in self.detector._cameras if c.name == camera)
        before = found._model
        self.publisher(CameraInfo, f'{camera}/camera_info').publish(info)
        self.spin_until(lambda: found._model is not before, what='camera_info')

    def status(self, suffix: str,
               condition: Callable[[DiagnosticStatus], Any] = lambda status: True) -> DiagnosticStatus:
        """The next status whose name ends so and for which the condition holds."""
        self.diagnostics.clear()
        return self.spin_until(lambda: next(
            (status for message in self.diagnostics for status in message.status
             if status.name.endswith(suffix) and condition(status)), None), what=f'diagnostics of {suffix}')

    @staticmethod
    def values(status: DiagnosticStatus) -> dict[str, str]:
        """The key-value pairs of a status."""
        return {item.key: item.value for item in status.values}

    def monitor(self, camera: str = 'camera') -> Any:
        """The detector's own counts."""
        return next(c for c in self.detector._cameras if c.name == camera).monitor


@pytest.fixture
def bench(ros_domain_id: int, method: dict[str, Any],
          monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Bench]]:
    """Starts detectors; each is shut down at the end. Diagnostics come five times a second, to be waited for less."""
    monkeypatch.setattr(detector, 'DIAGNOSTICS_PERIOD_S', 0.2)
    started: list[Bench] = []

    def start(**parameters: Any) -> Bench:
        started.append(Bench(**{**method, **parameters}))
        return started[-1]

    yield start
    for one in started:
        one.close()


@pytest.fixture
def active(bench: Callable[..., Bench], recorded: Path) -> Callable[..., Bench]:
    """Starts detectors that are active at once."""

    def start(**parameters: Any) -> Bench:
        one = bench(**{'database': str(recorded), **parameters})
        assert one.configure(), one.detector._fault
        assert one.activate()
        return one

    return start
