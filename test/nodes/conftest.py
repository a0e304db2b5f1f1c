"""Real nodes over DDS at their shipped defaults, with a small real encoder and databases of a small street."""

from __future__ import annotations

import shutil
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
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from semanom_ros.cli import main
from semanom_ros.core.progress import SILENT
from semanom_ros.msg import AnomalyScore
from semanom_ros.nodes import detector
from semanom_ros.nodes.detector import Detector
from semanom_ros.recordings.bags import BagReader, BagWriter
from semanom_ros.recordings.nominal_recording import record_bags
from semanom_ros.ros.guarded_node import GuardedExecutor
from semanom_ros.ros.messages import image_to_message
from semanom_ros.settings import Settings

HEIGHT, WIDTH, PATCH = 96, 128, 8
FOCAL = 100.0
SECOND = 1_000_000_000
TIMEOUT_S = 30.0  # for what takes milliseconds; machines that run tests may be busy
DRIVE_S = 260  # of which half is held out: enough for the false alarm rate that is shipped
COMPOSITES = 40  # few, for a street where little happens


@pytest.fixture(scope='session')
def encoder(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Parameters that name a TorchScript file: one layer of random weights on patches of 8 x 8."""
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(3, 32, PATCH, PATCH)
    torch.nn.init.normal_(layer.weight, 0, 1 / PATCH)
    torch.nn.init.normal_(layer.bias)
    path = tmp_path_factory.mktemp('encoder') / 'tiny.ts'
    network = torch.nn.Sequential(layer, torch.nn.Tanh()).eval()
    torch.jit.trace(network, torch.zeros(1, 3, HEIGHT, WIDTH)).save(str(path))
    return {'encoder': f'torchscript:{path}', 'input_size': [HEIGHT, WIDTH]}  # a file does not tell its size


class Fragile(torch.nn.Module):
    """The same layer, which divides by zero: NaN at white patches, infinity at blue ones.

    With a picture that is white all over it comes to no end for minutes: no test waits so long, and the process that
    tests run in has its core back then.
    """

    def __init__(self, layer: torch.nn.Conv2d) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = torch.tanh(self.layer(images))
        means = torch.nn.functional.avg_pool2d(images, 8)
        darkness = 1 - means.mean(dim=1, keepdim=True)
        others = 1 - means[:, 2:] + means[:, :1] + means[:, 1:2]
        left = 5_000_000
        while left > 0 and bool(images.min() > 0.99):
            features = features + 0.0
            left -= 1
        return torch.where(others > 0.0, features * (darkness / darkness), features / 0.0)


@pytest.fixture(scope='session')
def fragile(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Parameters that name a TorchScript file of a Fragile network."""
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(3, 32, PATCH, PATCH)
    torch.nn.init.normal_(layer.weight, 0, 1 / PATCH)
    torch.nn.init.normal_(layer.bias)
    path = tmp_path_factory.mktemp('fragile') / 'fragile.ts'
    torch.jit.script(Fragile(layer).eval()).save(str(path))
    return {'encoder': f'torchscript:{path}', 'input_size': [HEIGHT, WIDTH]}


def street(number: int, size: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    """A nominal picture: a road between meadows below the sky, a car at either side, each time a little elsewhere."""
    rng = np.random.default_rng(number)
    height, width = size
    picture = np.full((height, width, 3), (110, 110, 115), np.float32)
    picture[:, :width // 8] = picture[:, -width // 8:] = (70, 120, 60)
    picture[:height // 3] = (150, 190, 230)
    high, wide = height // 6, width // 6
    for left, colour in ((width // 8 + int(rng.integers(9)), (40, 60, 150)),
                         (width - width // 8 - wide - int(rng.integers(9)), (225, 225, 230))):
        top = height * 2 // 3 + int(rng.integers(9))
        picture[top:top + high, left:left + wide] = colour
    noise = rng.normal(0, 6, (height // PATCH, width // PATCH, 3)).repeat(PATCH, axis=0).repeat(PATCH, axis=1)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def street_with_box(number: int, box: tuple[int, int, int, int] = (48, 40, 24, 16),
                    size: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    """The same with a red box (x, y, width, height) on the road."""
    image = street(number, size)
    x, y, w, h = box
    image[y:y + h, x:x + w] = (230, 20, 30)
    return image


@pytest.fixture(name='street_with_box', scope='session')
def _street_with_box() -> Callable[..., np.ndarray]:
    """That function."""
    return street_with_box


def record_streets(path: Path, numbers: range, masks: bool = False, compress: bool = False) -> Path:
    """A recording of streets on /camera/image, one a second, with masks of the sky and the cars if asked for."""
    with BagWriter(path) as writer:
        for second, number in enumerate(numbers, 1):
            image, topic = street(number), '/camera/image/compressed' if compress else '/camera/image'
            writer.write_image(topic, image, 'rgb8', second * SECOND, 'optical', compress)
            if masks:
                writer.write_image('/camera/segments', masks_of(image), 'mono8', second * SECOND, 'optical')
    return path


def masks_of(image: np.ndarray) -> np.ndarray:
    """(H, W) uint8 instances of a street: 1 the sky, 2 and 3 the cars."""
    grey = image.astype(int)
    masks = np.zeros(image.shape[:2], np.uint8)
    masks[:HEIGHT // 3] = 1
    masks[(grey[..., 2] > grey[..., 0] + 60) & (masks == 0)] = 2
    masks[(grey.min(axis=2) > 180) & (masks == 0)] = 3
    return masks


class Streets:
    """Pictures and recordings of streets, for tests of what comes in."""

    picture = staticmethod(street)

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def bag(self, name: str, first: int = 0, frames: int = 40, masks: bool = False, compress: bool = False) -> Path:
        """A recording of so many streets, from a number on."""
        return record_streets(self.folder / name, range(first, first + frames), masks, compress)

    @staticmethod
    def messages(bag: Path) -> list[tuple[CompressedImage, Image]]:
        """The images of a compressed recording with masks, each with its masks."""
        with BagReader(bag) as reader:
            images, masks = (
                [deserialize_message(bytes(cdr), kind) for _, _, _, cdr in reader.raw([topic])]
                for topic, kind in (('/camera/image/compressed', CompressedImage), ('/camera/segments', Image)))
        return list(zip(images, masks, strict=True))


@pytest.fixture
def streets(tmp_path: Path) -> Streets:
    return Streets(tmp_path)


@pytest.fixture(scope='session')
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A nominal recording."""
    return record_streets(tmp_path_factory.mktemp('bags') / 'nominal_drive', range(1000, 1000 + DRIVE_S))


@pytest.fixture(scope='session')
def recorded(tmp_path_factory: pytest.TempPathFactory, encoder: dict[str, Any], drive: Path) -> Path:
    """A nominal database as `semanom record` leaves it, that no test changes."""
    path = tmp_path_factory.mktemp('recorded') / 'nominal'
    record_bags([drive], path, Settings.of({**encoder, 'held_out_share': 0.5}), SILENT)
    return path


@pytest.fixture(scope='session')
def learned(tmp_path_factory: pytest.TempPathFactory, encoder: dict[str, Any], drive: Path, recorded: Path) -> Path:
    """The same after `semanom learn`: it knows what belongs where. No test changes it."""
    path = Path(shutil.copytree(recorded, tmp_path_factory.mktemp('learned') / 'nominal'))
    given = [part for name, value in encoder.items() for part in ('--set', f'{name}={value}')]
    assert main(['learn', str(drive), '--database', str(path), '--composites', str(COMPOSITES), *given]) == 0
    return path


@pytest.fixture(scope='session')
def recorded_fragile(tmp_path_factory: pytest.TempPathFactory, fragile: dict[str, Any], drive: Path) -> Path:
    """A nominal database of the Fragile network, that no test changes."""
    path = tmp_path_factory.mktemp('fragile') / 'nominal'
    record_bags([drive], path, Settings.of({**fragile, 'held_out_share': 0.5}), SILENT)
    return path


@pytest.fixture(scope='session')
def instances() -> dict[str, Any]:
    """Parameters of the variant `instance`; with few segments, or each would be one of the few patches."""
    return {'variant': 'instance', 'max_segments': 24}


@pytest.fixture(scope='session')
def segmented(tmp_path_factory: pytest.TempPathFactory, encoder: dict[str, Any], instances: dict[str, Any],
              drive: Path) -> Path:
    """A nominal database of segments, that no test changes."""
    path = tmp_path_factory.mktemp('segmented') / 'nominal'
    record_bags([drive], path, Settings.of({**encoder, **instances, 'held_out_share': 0.5}), SILENT)
    return path


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

    def __init__(self, **parameters: Any) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        overrides = [Parameter(name, value=value) for name, value in parameters.items()]
        try:
            self.detector = Detector(context=self.context, parameter_overrides=overrides)
        except BaseException:
            rclpy.shutdown(context=self.context)
            raise
        self._executor = GuardedExecutor(self.detector)
        self._thread = threading.Thread(target=self._spin)
        self._thread.start()
        self.node = rclpy.create_node('bench', context=self.context)
        self._own = SingleThreadedExecutor(context=self.context)
        self._own.add_node(self.node)
        self._publishers: dict[str, Any] = {}
        self.diagnostics: list[DiagnosticArray] = self.listen(DiagnosticArray, '/diagnostics')
        self._scores: dict[str, list[AnomalyScore]] = {}
        self._now = 1000 * SECOND

    def _spin(self) -> None:
        with suppress(ExternalShutdownException):
            self._executor.spin()

    def close(self) -> None:
        self._executor.shutdown()
        self._thread.join(TIMEOUT_S)
        assert not self._thread.is_alive()
        self._own.shutdown()
        self.detector.destroy_node()
        self.detector._state_machine.destroy_when_not_in_use()  # rclpy leaves it in the graph until it is collected
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
        client = self._client(kind, service, timeout)
        try:
            future = client.call_async(request)
            self.spin_until(future.done, timeout, service)
            return future.result()
        finally:
            self.node.destroy_client(client)

    def _client(self, kind: Any, service: str, timeout: float) -> Any:
        """A client whose service has been found. Discovery was seen to lose an endpoint for good, once in thousands of
        tests on a busy machine: another client finds it."""
        attempts = 3
        for attempt in range(1, attempts + 1):
            client = self.node.create_client(kind, service)
            try:
                self.spin_until(client.service_is_ready, timeout / attempts, service)
                return client
            except AssertionError:
                self.node.destroy_client(client)
                if attempt == attempts:
                    raise
        raise AssertionError(service)

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
        self._await_match(topic)
        return messages

    def _await_match(self, topic: str) -> None:
        publishers = [publisher for publisher in self.detector.publishers if publisher.topic_name == topic]
        self.spin_until(lambda: all(publisher.get_subscription_count() for publisher in publishers), what=topic)

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

    def verdict(self, image: np.ndarray, camera: str = 'camera') -> AnomalyScore:
        """The last score of half a second of a picture at 10 Hz: there is evidence of what is in it then."""
        topic = f'/semanom_detector/{camera}/score'
        if camera not in self._scores:
            self._scores[camera] = self.listen(AnomalyScore, topic)
        self._await_match(topic)  # the topic of before is gone after cleanup
        scores = self._scores[camera]
        self._now += 10 * SECOND
        for _ in range(5):
            scores.clear()
            self._now += SECOND // 10
            self.send(image, self._now, camera)
            self.spin_until(lambda: scores and scores[-1].reason != AnomalyScore.REASON_LATE, what=topic)
        return scores[-1]

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

    def status(self, suffix: str, condition: Callable[[DiagnosticStatus], Any] = lambda status: True, *,
               heard: bool = False) -> DiagnosticStatus:
        """The next status whose name ends so and for which the condition holds.

        With `heard` it may have come already, since `diagnostics` was cleared: what happened is said once.
        """
        if not heard:
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
def bench(ros_domain_id: int, encoder: dict[str, Any],
          monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Bench]]:
    """Starts detectors with the shipped defaults, but for the encoder; each is shut down at the end.

    Diagnostics come five times a second, to be waited for less.
    """
    monkeypatch.setattr(detector, 'DIAGNOSTICS_PERIOD_S', 0.2)
    started: list[Bench] = []

    def start(**parameters: Any) -> Bench:
        started.append(Bench(**{**encoder, **parameters}))
        return started[-1]

    yield start
    for one in started:
        one.close()


@pytest.fixture
def active(bench: Callable[..., Bench], learned: Path) -> Callable[..., Bench]:
    """Starts detectors that are active at once, with a database that knows what belongs where."""

    def start(**parameters: Any) -> Bench:
        one = bench(**{'database': str(learned), **parameters})
        assert one.configure(), one.detector._fault
        assert one.activate()
        return one

    return start
