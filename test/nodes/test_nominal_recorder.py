"""The node, with real publishers over DDS and as a process."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
import yaml
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import CompressedImage, Image
from std_srvs.srv import Trigger

from semanom_ros.cli import main
from semanom_ros.core.database.nominal_database import NominalDatabase
from semanom_ros.core.embedding.embedder import Embedder
from semanom_ros.core.progress import SILENT
from semanom_ros.nodes.nominal_recorder import NominalRecorderNode
from semanom_ros.recordings.bags import BagWriter
from semanom_ros.recordings.nominal_recording import record_bags
from semanom_ros.ros.messages import image_to_compressed, image_to_message
from semanom_ros.settings import Settings

SECOND = 10**9
PATIENCE_S = 60.0


class Stage:
    """The node, running, and a vehicle's node beside it."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.vehicle = Node('vehicle', context=context)
        self.executor = SingleThreadedExecutor(context=context)
        self.executor.add_node(self.vehicle)
        self.status = 0
        self.said: list[str] = []
        self.values: dict[str, str] = {}
        self.vehicle.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, 10)

    def start(self, given: dict[str, Any], **more: Any) -> None:
        overrides = [Parameter(name, value=value) for name, value in {**given, **more}.items()]
        self.node = NominalRecorderNode(context=self.context, parameter_overrides=overrides)
        self.executor.add_node(self.node)
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        self.status = self.node.run()

    def _on_diagnostics(self, array: DiagnosticArray) -> None:
        for status in array.status:
            assert status.name == 'nominal_recorder: recorder'
            self.said.append(status.message)
            self.values = {item.key: item.value for item in status.values}

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = self.vehicle.get_clock().now().nanoseconds + PATIENCE_S * SECOND
        while not condition():
            assert self.vehicle.get_clock().now().nanoseconds < deadline, (self.said, self.values)
            self.executor.spin_once(0.05)

    def publish(self, topic: str, messages: Iterator[Any], qos: QoSProfile = qos_profile_sensor_data) -> None:
        """Publishes messages, each after the one before has been received."""
        first = next(messages)
        publisher = self.vehicle.create_publisher(type(first), topic, qos)
        self.until(lambda: publisher.get_subscription_count() > 0)
        received = self.node.counts['received']
        for number, message in enumerate([first, *messages], received + 1):
            publisher.publish(message)
            self.until(lambda number=number: self.node.counts['received'] >= number)  # type: ignore[misc]

    def stop(self) -> None:
        client = self.vehicle.create_client(Trigger, '/nominal_recorder/stop')
        self.until(client.service_is_ready)
        future = client.call_async(Trigger.Request())
        self.until(future.done)
        assert future.result().success

    def finish(self) -> int:
        self.until(lambda: not self.thread.is_alive())
        self.thread.join()
        return self.status

    def close(self) -> None:
        if hasattr(self, 'node'):
            self.node.stop()
            self.thread.join()
            self.node.destroy_node()
        self.executor.shutdown()
        self.vehicle.destroy_node()


@pytest.fixture
def stage(ros_domain_id: int) -> Iterator[Stage]:
    context = Context()
    rclpy.init(context=context, domain_id=ros_domain_id)
    built = Stage(context)
    yield built
    built.close()
    context.try_shutdown()


def with_white_patch(picture: np.ndarray) -> np.ndarray:
    """Which the network of the fixture `fragile` divides by zero at."""
    picture = picture.copy()
    picture[40:48, 48:56] = 255
    return picture


def images(streets: Any, count: int, hertz: float = 1.0) -> Iterator[Image]:
    for number in range(count):
        yield image_to_message(streets.picture(number), 'rgb8', round((1 + number / hertz) * SECOND), 'optical')


def recorded(path: Path) -> list[Any]:
    database = NominalDatabase.open(path)
    return sorted((f.record for f in [*database.frames(), *database.held_out()]), key=lambda r: (r.topic, r.stamp_ns))


def test_live_cameras_are_recorded_until_stopped(stage: Stage, tmp_path: Path, streets: Any,
                                                 encoder: dict[str, Any]) -> None:
    stage.start(encoder, database=str(tmp_path / 'database'), camera_names=['front', 'rear'], queue_size=100,
                held_out_share=0.2)
    stage.publish('/nominal_recorder/input/front/image', images(streets, 40))
    stage.publish('/nominal_recorder/input/rear/image', images(streets, 10))
    stage.stop()
    assert stage.finish() == 0
    records = recorded(tmp_path / 'database')
    assert [(r.topic, r.stamp_ns // SECOND) for r in records] == (
        [('/nominal_recorder/input/front/image', n) for n in range(1, 41)]
        + [('/nominal_recorder/input/rear/image', n) for n in range(1, 11)])
    assert {r.source for r in records} == {f'live:{r.topic}' for r in records}
    assert sum(r.held_out for r in records) == 10  # 5 s in the middle of 25 s
    assert NominalDatabase.open(tmp_path / 'database').manifest.calibrated


def test_compressed_images_are_thinned_by_rate(stage: Stage, tmp_path: Path, streets: Any,
                                               encoder: dict[str, Any]) -> None:
    stage.start(encoder, database=str(tmp_path / 'database'), image_transport='compressed', rate=2.0,
                held_out_share=0.0)
    stage.publish('/nominal_recorder/input/camera/image/compressed', (
        image_to_compressed(streets.picture(n), SECOND + n * SECOND // 10, 'optical') for n in range(41)))
    stage.stop()
    assert stage.finish() == 0
    assert [r.stamp_ns for r in recorded(tmp_path / 'database')] == [SECOND + n * SECOND // 2 for n in range(9)]


def test_masks_beside_compressed_images(stage: Stage, tmp_path: Path, streets: Any, encoder: dict[str, Any]) -> None:
    """Live cameras give the database that a recording of them gives."""
    given = {**encoder, 'variant': 'instance', 'segmenter': 'topic', 'held_out_share': 0.0}
    bag = streets.bag('masked', frames=3, masks=True, compress=True)
    record_bags([bag], tmp_path / 'offline', Settings.of({
        **given, 'image_topics': ['/camera/image'], 'segments_topics': ['/camera/segments']}), SILENT)
    # it waits for masks that come after their image, as long as a slow machine may take
    stage.start(given, database=str(tmp_path / 'live'), image_transport='compressed', segments_wait=10.0)
    masks = stage.vehicle.create_publisher(Image, '/nominal_recorder/input/camera/segments', 10)
    stage.until(lambda: masks.get_subscription_count() > 0)
    sent = streets.messages(bag)
    for _, mask in sent:
        masks.publish(mask)
    stage.publish('/nominal_recorder/input/camera/image/compressed', (image for image, _ in sent))
    stage.stop()
    assert stage.finish() == 0
    assert stage.node.counts['without masks'] == 0
    live, offline = (NominalDatabase.open(tmp_path / name) for name in ('live', 'offline'))
    assert live.manifest.description == offline.manifest.description
    for ours, theirs in zip(live.frames(), offline.frames(), strict=True):
        assert ours.record.stamp_ns == theirs.record.stamp_ns
        assert len(ours.vectors) < 12 * 16, 'a segment stands for several patches'
        np.testing.assert_array_equal(ours.vectors, theirs.vectors)
        np.testing.assert_array_equal(ours.boxes, theirs.boxes)


def test_bad_images_are_counted_and_the_rest_is_recorded(stage: Stage, tmp_path: Path, streets: Any,
                                                         encoder: dict[str, Any]) -> None:
    stage.start(encoder, database=str(tmp_path / 'database'), held_out_share=0.0)
    good, bad = list(images(streets, 3)), next(images(streets, 1))
    bad.step = 1
    bad.header.stamp.sec = 100
    stage.publish('/nominal_recorder/input/camera/image', iter([good[0], bad, Image(), *good[1:]]))
    stage.until(lambda: '2 images hold no picture' in stage.said)
    stage.stop()
    assert stage.finish() == 0
    assert [r.stamp_ns // SECOND for r in recorded(tmp_path / 'database')] == [1, 2, 3]


def test_frames_that_do_not_fit_the_queue_are_counted(stage: Stage, tmp_path: Path, streets: Any,
                                                      encoder: dict[str, Any],
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    busy = threading.Event()
    embed = Embedder.embed
    monkeypatch.setattr(Embedder, 'embed', lambda self, *given: busy.wait(PATIENCE_S) and embed(self, *given))
    stage.start(encoder, database=str(tmp_path / 'database'), queue_size=2, held_out_share=0.0)
    stage.publish('/nominal_recorder/input/camera/image', images(streets, 12))
    stage.until(lambda: any('frames dropped' in message for message in stage.said))
    busy.set()
    stage.stop()
    assert stage.finish() == 0
    stored, dropped = len(recorded(tmp_path / 'database')), stage.node.counts['dropped']
    assert dropped > 0
    assert stored + dropped == 12


def test_recording_ends_by_itself(stage: Stage, tmp_path: Path, streets: Any, encoder: dict[str, Any]) -> None:
    stage.start(encoder, database=str(tmp_path / 'database'), duration=0.5, held_out_share=0.0)
    stage.publish('/nominal_recorder/input/camera/image', images(streets, 1))
    assert stage.finish() == 0
    assert len(recorded(tmp_path / 'database')) == 1


def test_live_recordings_are_appended_even_with_the_same_stamps(stage: Stage, tmp_path: Path, streets: Any,
                                                                encoder: dict[str, Any]) -> None:
    given = {**encoder, 'database': str(tmp_path / 'database'), 'held_out_share': 0.0}
    for append in (False, True):
        stage.start(given, append=append)
        stage.publish('/nominal_recorder/input/camera/image', images(streets, 2))
        stage.stop()
        assert stage.finish() == 0
        stage.executor.remove_node(stage.node)
        stage.node.destroy_node()
    assert [r.stamp_ns // SECOND for r in recorded(tmp_path / 'database')] == [1, 1, 2, 2]


def test_no_image_is_an_error(stage: Stage, tmp_path: Path, encoder: dict[str, Any]) -> None:
    stage.start(encoder, database=str(tmp_path / 'database'))
    stage.stop()
    assert stage.finish() == 2
    stage.until(lambda: any('/nominal_recorder/input/camera/image: found no image' in said for said in stage.said))


def test_wrong_encoder_is_an_error_in_the_diagnostics(stage: Stage, tmp_path: Path, encoder: dict[str, Any]) -> None:
    stage.start({**encoder, 'encoder': 'torchscript:/missing.ts'}, database=str(tmp_path / 'database'))
    assert stage.finish() == 2
    stage.until(lambda: any('/missing.ts' in said for said in stage.said))


def test_a_corrupt_compressed_image_costs_one_frame(stage: Stage, tmp_path: Path, streets: Any,
                                                                encoder: dict[str, Any]) -> None:
    stage.start(encoder, database=str(tmp_path / 'database'), image_transport='compressed', held_out_share=0.0)
    junk = CompressedImage(format='jpeg', data=[1, 2, 3])
    good = image_to_compressed(streets.picture(1), SECOND, 'optical', 'png')
    stage.publish('/nominal_recorder/input/camera/image/compressed', iter([junk, good]))
    stage.stop()
    assert stage.finish() == 0
    assert len(recorded(tmp_path / 'database')) == 1


# -- as a process


@pytest.fixture
def parameter_file(tmp_path: Path, encoder: dict[str, Any]) -> Callable[..., Path]:
    def write(**more: Any) -> Path:
        path = tmp_path / 'recorder.yaml'
        path.write_text(yaml.safe_dump({'nominal_recorder': {'ros__parameters': {**encoder, **more}}}))
        return path
    return write


def command(parameter_file: Path) -> list[str]:
    module = 'semanom_ros.nodes.nominal_recorder'
    return [sys.executable, '-m', module, '--ros-args', '--params-file', str(parameter_file)]


def test_recordings_are_read_and_the_process_ends(ros_domain_id: int, tmp_path: Path, streets: Any,
                                                  parameter_file: Callable[..., Path]) -> None:
    bags = [str(streets.bag('one')), str(streets.bag('two', first=50))]
    file = parameter_file(bags=bags, database=str(tmp_path / 'database'), every_n=10)
    done = subprocess.run(command(file), check=False, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    assert '8 frames added' in done.stderr
    assert len(recorded(tmp_path / 'database')) == 8
    again = subprocess.run(command(file), check=False, capture_output=True, text=True, timeout=PATIENCE_S)
    assert again.returncode == 2
    assert 'found a finished database' in again.stderr


def test_a_bad_parameter_ends_the_process_with_one_line(ros_domain_id: int,
                                                        parameter_file: Callable[..., Path]) -> None:
    done = subprocess.run(command(parameter_file(every_n=0)), check=False, capture_output=True, text=True,
                          timeout=PATIENCE_S)
    assert done.returncode == 2
    assert 'parameter every_n: found 0' in done.stderr
    assert 'Traceback' not in done.stderr


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_brings_a_live_recording_into_the_database(stage: Stage, tmp_path: Path, streets: Any,
                                                          parameter_file: Callable[..., Path], number: int,
                                                          trial: Any) -> None:
    with trial('Nodes', 'a signal while a node works'):
        file = parameter_file(database=str(tmp_path / 'database'), held_out_share=0.0)
        topic = '/nominal_recorder/input/camera/image'
        publisher = stage.vehicle.create_publisher(Image, topic, qos_profile_sensor_data)
        process = subprocess.Popen(command(file), stderr=subprocess.PIPE, text=True)
        try:
            for message in images(streets, 3):
                expected = str(message.header.stamp.sec)

                def arrived(message: Image = message, expected: str = expected) -> bool:
                    publisher.publish(message)  # again and again: nobody tells when the other side is ready to receive
                    return stage.values.get('frames recorded') == expected

                stage.until(arrived)
            process.send_signal(number)
            _, said = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
            process.wait()
        assert process.returncode == 0, said
        assert '3 frames added' in said
        assert 'Traceback' not in said
        assert len(recorded(tmp_path / 'database')) == 3


@pytest.mark.parametrize('second', [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_the_process_though_the_encoder_hangs(
        stage: Stage, tmp_path: Path, fragile: dict[str, Any], streets: Any, second: signal.Signals,
        trial: Any) -> None:
    """A real network that never comes to an end with a white picture."""
    with trial('Nodes', 'a signal while the encoder hangs'):
        file = tmp_path / 'parameters.yaml'
        file.write_text(yaml.safe_dump({'/**': {'ros__parameters': {
            **fragile, 'database': str(tmp_path / 'database'), 'held_out_share': 0.0}}}))
        topic = '/nominal_recorder/input/camera/image'
        publisher = stage.vehicle.create_publisher(Image, topic, qos_profile_sensor_data)
        process = subprocess.Popen(command(file), stderr=subprocess.PIPE, text=True)
        try:
            white = image_to_message(np.full_like(streets.picture(0), 255), 'rgb8', SECOND, 'optical')

            def arrived() -> bool:
                publisher.publish(white)
                return int(stage.values.get('frames received', 0)) > 2

            stage.until(arrived)
            process.send_signal(signal.SIGINT)
            stage.until(lambda: stage.values['state'] == 'stopping')
            process.send_signal(second)
            _, said = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
            process.wait()
        assert process.returncode == (130 if second == signal.SIGINT else -signal.SIGTERM), said
        assert 'Traceback' not in said


def test_live_frames_that_are_not_finite_are_counted_and_named_and_not_recorded(
        stage: Stage, tmp_path: Path, streets: Any, fragile: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> None:
    stage.start(fragile, database=str(tmp_path / 'database'), queue_size=100)

    def some_bad() -> Iterator[Image]:
        for number in range(30):
            picture = streets.picture(number)
            yield image_to_message(with_white_patch(picture) if number in (3, 17) else picture, 'rgb8',
                                   (1 + number) * SECOND, 'optical')

    stage.publish('/nominal_recorder/input/camera/image', some_bad())
    stage.until(lambda: stage.values.get('frames not finite') == '2')
    assert '2 frames not recorded, of which the encoder gave NaN or infinity' in stage.said[-1]
    stage.stop()
    assert stage.finish() == 0
    assert [r.stamp_ns // SECOND for r in recorded(tmp_path / 'database')] == [
        n for n in range(1, 31) if n not in (4, 18)]
    database = NominalDatabase.open(tmp_path / 'database')
    assert all(np.isfinite(frame.vectors).all() for frame in [*database.frames(), *database.held_out()])
    topic = '/nominal_recorder/input/camera/image'
    (line,) = [line for line in capfd.readouterr().err.splitlines() if 'frames not recorded' in line]
    assert f'{topic} at 4.000000000, {topic} at 18.000000000; choose precision' in line


def test_recorded_frames_that_are_not_finite_are_counted_and_named(
        tmp_path: Path, streets: Any, fragile: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    bag = tmp_path / 'drive'
    with BagWriter(bag) as writer:
        for number in range(40):
            picture = streets.picture(number)
            picture = with_white_patch(picture) if number % 4 == 1 else picture
            writer.write_image('/camera/image', picture, 'rgb8', (1 + number) * SECOND, 'optical')
    given = [part for name, value in fragile.items() for part in ('--set', f'{name}={value}')]
    assert main(['record', str(bag), '--database', str(tmp_path / 'database'), *given]) == 0
    said = capsys.readouterr().out
    names = ', '.join(f'/camera/image at {2 + 4 * number}.000000000' for number in range(5))
    assert f'10 frames not recorded, of which the encoder gave NaN or infinity: {names} and 5 more; choose' in said
    assert '30 frames in ' in said
    assert len(recorded(tmp_path / 'database')) == 30


def test_frames_without_stamps_are_recorded_by_the_time_of_their_reception(
        stage: Stage, tmp_path: Path, streets: Any, encoder: dict[str, Any]) -> None:
    stage.start(encoder, database=str(tmp_path / 'database'), queue_size=100, held_out_share=0.0)
    stage.publish('/nominal_recorder/input/camera/image', (
        image_to_message(streets.picture(number), 'rgb8', 0, 'optical') for number in range(8)))
    stage.until(lambda: any('images have no stamp' in line for line in stage.said))
    stage.stop()
    assert stage.finish() == 0
    stamps = [r.stamp_ns for r in recorded(tmp_path / 'database')]
    assert len(stamps) == 8
    assert 0 < stamps[0] < stamps[-1]
