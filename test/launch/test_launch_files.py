"""The launch files, run by launch itself: real processes, real transitions, real topics.

`launch_ros` comes with a ROS 2 installation, not from PyPI; without it these tests are skipped.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
import torch
import yaml
from lifecycle_msgs.msg import Transition, TransitionEvent
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import Image

from semanom_ros import cli
from semanom_ros.msg import AnomalyScore
from semanom_ros.recordings.bags import BagWriter
from semanom_ros.ros.messages import image_to_message

pytest.importorskip('launch_ros', reason='launch_ros is not installed: source a ROS 2 installation')

from launch import LaunchContext
from launch.logging import launch_config

from semanom_ros.ros.launching import LaunchedNode

LAUNCH = Path(__file__).resolve().parents[2] / 'launch'
SECOND = 10**9
TIMEOUT_S = 90.0
# What `ros2 launch` does, without its command line.
RUNNER = """
import signal, sys
from launch import LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background begins with it ignored
arguments = [tuple(argument.split(':=', 1)) for argument in sys.argv[2:]]
source = PythonLaunchDescriptionSource(sys.argv[1])
service = LaunchService(argv=sys.argv[2:], noninteractive=True)
service.include_launch_description(IncludeLaunchDescription(source, launch_arguments=arguments))
sys.exit(service.run())
"""
# Stands in for rosbag2's player, which is C++ and not everywhere.
PLAYER = """#!{python}
import os, sys, time
import rclpy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image
from semanom_ros.recordings.bags import BagReader

assert sys.argv[1:3] == ['bag', 'play'] and '--clock' in sys.argv, sys.argv
rclpy.init()
node = rclpy.create_node('player')
clock = node.create_publisher(Clock, '/clock', 10)
images = node.create_publisher(Image, '/front/image_raw', 10)
while not images.get_subscription_count():
    rclpy.spin_once(node, timeout_sec=0.1)
print('begun', flush=True)
if os.environ.get('PLAYER_DIES'):
    sys.exit(7)
with BagReader(sys.argv[3]) as bag:
    for topic, kind, stamp, cdr in bag.raw():
        now = Clock()
        now.clock.sec, now.clock.nanosec = divmod(stamp, 10**9)
        clock.publish(now)
        images.publish(cdr)
        rclpy.spin_once(node, timeout_sec=0.2)
print('played')
"""


def picture(number: int) -> np.ndarray:
    """(48, 64, 3) uint8 RGB, another for each number."""
    return np.random.default_rng(number).integers(0, 256, (48, 64, 3), dtype=np.uint8)


@pytest.fixture(scope='module')
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A parameter file that chooses a tiny encoder."""
    folder = tmp_path_factory.mktemp('config')
    torch.manual_seed(3)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 16, 16), torch.nn.Tanh(), torch.nn.Conv2d(16, 16, 1)).eval()
    torch.jit.trace(network, torch.zeros(1, 3, 48, 64)).save(str(folder / 'tiny.ts'))
    parameters = {'encoder': f'torchscript:{folder / "tiny.ts"}', 'input_size': [48, 64], 'device': 'cpu'}
    (folder / 'parameters.yaml').write_text(yaml.safe_dump({'/**': {'ros__parameters': parameters}}))
    return folder / 'parameters.yaml'


@pytest.fixture(scope='module')
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A nominal drive of one camera."""
    path = tmp_path_factory.mktemp('bags') / 'drive'
    with BagWriter(path, 'mcap') as writer:
        for number in range(30):
            writer.write_image('/front/image_raw', picture(number), 'bgr8', (number + 1) * SECOND, 'optical')
    return path


@pytest.fixture(scope='module')
def database(tmp_path_factory: pytest.TempPathFactory, config: Path, bag: Path) -> Path:
    path = tmp_path_factory.mktemp('database') / 'nominal'
    assert cli.main(['record', str(bag), '--database', str(path), '--config', str(config)]) == 0
    return path


class Launched:
    """A launch file at work in a process of its own, and its output."""

    def __init__(self, name: str, **arguments: object) -> None:
        given = [f'{key}:={value}' for key, value in arguments.items()]
        self.process = subprocess.Popen(
            [sys.executable, '-c', RUNNER, str(LAUNCH / name), *given],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self._lines.append(line)
                self._changed.notify_all()

    @property
    def output(self) -> str:
        return ''.join(self._lines)

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Waits until the output holds the pattern."""
        with self._changed:
            self._changed.wait_for(lambda: re.search(pattern, self.output), TIMEOUT_S)
        found = re.search(pattern, self.output)
        assert found, f'{pattern}: not in\n{self.output}'
        return found

    def end(self) -> int:
        """Waits for the end; the exit status."""
        status = self.process.wait(TIMEOUT_S)
        self._reader.join()
        return status

    def interrupt(self) -> int:
        """Ctrl-C, as a service manager sends it; the exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.end()


@pytest.fixture
def launch(ros_domain_id: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., Launched]]:
    monkeypatch.setenv('ROS_LOG_DIR', str(tmp_path / 'log'))
    started: list[Launched] = []

    def start(name: str, **arguments: object) -> Launched:
        started.append(Launched(name, **arguments))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.interrupt()


class Watcher:
    """A node that plays cameras and watches a detector."""

    def __init__(self, detector: str = '/semanom_detector') -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node('watcher', context=self.context)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._detector = detector
        self.transitions: list[tuple[str, str]] = []
        self.node.create_subscription(
            TransitionEvent,
            f'{detector}/transition_event',
            lambda event: self.transitions.append((event.start_state.label, event.goal_state.label)),
            20,
        )

    def close(self) -> None:
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)

    def spin_until(self, condition: Callable[[], Any], what: str) -> Any:
        end = time.monotonic() + TIMEOUT_S
        while not (found := condition()):
            assert time.monotonic() < end, f'{what}: not within {TIMEOUT_S:g} s; transitions {self.transitions}'
            self._executor.spin_once(timeout_sec=0.05)
        return found

    def call(self, kind: Any, service: str, request: Any) -> Any:
        client = self.node.create_client(kind, f'{self._detector}/{service}')
        self.spin_until(client.service_is_ready, service)
        future = client.call_async(request)
        self.spin_until(future.done, service)
        return future.result()

    @property
    def state(self) -> str:
        client = self.node.create_client(GetState, f'{self._detector}/get_state')
        self.spin_until(client.service_is_ready, 'get_state')
        futures = []

        def answers() -> list[Any]:  # asked again: an answer is lost where the server has not found this client yet
            futures.append(client.call_async(GetState.Request()))
            self._executor.spin_until_future_complete(futures[-1], 5)
            return [future.result() for future in futures if future.done()]

        return self.spin_until(answers, 'get_state')[-1].current_state.label

    def wait_until_active(self) -> None:
        self.spin_until(lambda: self.state == 'active', 'active')

    def score(self, camera: str, image_topic: str) -> AnomalyScore:
        """Publishes pictures until the detector answers."""
        scores: list[AnomalyScore] = []
        self.node.create_subscription(AnomalyScore, f'{self._detector}/{camera}/score', scores.append, 10)
        publisher = self.node.create_publisher(Image, image_topic, 10)
        self.spin_until(publisher.get_subscription_count, image_topic)

        def publish() -> list[AnomalyScore]:
            publisher.publish(image_to_message(picture(0), 'rgb8', 5 * SECOND, 'optical'))
            return scores

        return self.spin_until(publish, f'score of {camera}')[0]


@pytest.fixture
def watch(ros_domain_id: int) -> Iterator[Callable[..., Watcher]]:
    started: list[Watcher] = []

    def start(*arguments: str) -> Watcher:
        started.append(Watcher(*arguments))
        return started[-1]

    yield start
    for one in started:
        one.close()


def test_detector_as_the_readme_has_it(
    launch: Callable[..., Launched], watch: Callable[..., Watcher], database: Path, config: Path
) -> None:
    launched = launch('detector.launch.py', database=database, image_topic='/camera/image_raw', config=config)
    watcher = watch()
    watcher.wait_until_active()
    score = watcher.score('camera', '/camera/image_raw')
    assert (score.header.stamp.sec, score.header.frame_id) == (5, 'optical')
    assert watcher.node.count_subscribers('/camera/camera_info') == 1
    assert launched.interrupt() == 0
    assert 'process has finished cleanly' in launched.output
    assert 'ERROR' not in launched.output


def test_a_detector_that_is_killed_comes_back_active(
    launch: Callable[..., Launched], watch: Callable[..., Watcher], database: Path, config: Path
) -> None:
    launched = launch('detector.launch.py', database=database, config=config, image_topic='/camera/image_raw',
                      respawn='true')  # fmt: skip
    watcher = watch()
    watcher.wait_until_active()
    (first,) = re.findall(r'detector-1\]: process started with pid \[([0-9]+)\]', launched.output)
    os.kill(int(first), signal.SIGKILL)
    launched.wait_for(r'process has died.*exit code -9')
    watcher.spin_until(lambda: launched.output.count('active: watching') == 2, 'active again')
    assert watcher.score('camera', '/camera/image_raw').header.stamp.sec == 5
    assert launched.interrupt() == 0
    assert launched.output.count('process started with pid') == 2


def test_as_typed_both_launch_files_meet(
    launch: Callable[..., Launched], watch: Callable[..., Watcher], config: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch
) -> None:
    """No argument but the encoder's: the only camera in the graph, the default database."""
    monkeypatch.setenv('HOME', str(tmp_path))
    watcher = watch()
    publisher = watcher.node.create_publisher(Image, '/front/image_raw', 10)
    detector = launch('detector.launch.py', config=config)
    detector.wait_for(r'cannot configure: .*semanom/nominal: found no folder.*record_nominal\.launch\.py')
    assert detector.interrupt() == 0

    recorder = launch('record_nominal.launch.py', config=config)
    recorder.wait_for('image topic: /front/image_raw, the only camera')
    numbers = itertools.count()

    def publish() -> object:
        number = next(numbers)
        publisher.publish(image_to_message(picture(number), 'rgb8', (number + 1) * SECOND, 'optical'))
        return number > 20 and re.search('[1-9][0-9]* frames recorded', recorder.output)

    watcher.spin_until(publish, 'frames recorded')
    assert recorder.interrupt() == 0
    assert (tmp_path / 'semanom' / 'nominal' / 'manifest.json').is_file()

    launch('detector.launch.py', config=config)
    watcher.wait_until_active()
    assert watcher.score('camera', '/front/image_raw').header.frame_id == 'optical'


def test_cameras_in_one_line(
    launch: Callable[..., Launched], watch: Callable[..., Watcher], database: Path, config: Path, tmp_path: Path
) -> None:
    """With what measures their distances, and the recorder of snapshots beside the detector."""
    launched = launch(
        'detector.launch.py', database=database, config=config, cameras='front:=/a/image_raw,left:=/b/image_raw',
        depth_topic='[/a/depth,/b/depth]', snapshots='true', snapshot_folder=tmp_path / 'kept'
    )  # fmt: skip
    watcher = watch()
    watcher.wait_until_active()
    assert watcher.score('left', '/b/image_raw').header.stamp.sec == 5
    assert watcher.score('front', '/a/image_raw').header.stamp.sec == 5
    assert watcher.node.count_subscribers('/b/camera_info') == 1
    assert watcher.node.count_subscribers('/b/depth') == 1
    launched.wait_for(f'watching front, left; snapshots go to {tmp_path}/kept')
    watcher.spin_until(lambda: watcher.node.count_subscribers('/b/image_raw') == 2, 'snapshots')
    assert launched.interrupt() == 0


def test_several_cameras_in_a_namespace(
    launch: Callable[..., Launched], watch: Callable[..., Watcher], database: Path, config: Path
) -> None:
    launch(
        'detector.launch.py',
        database=database,
        config=config,
        camera_names='[front,rear]',
        image_topic='[/front/image_raw,/rear/image_raw]',
        camera_info_topic='[/front/info,/rear/info]',
        namespace='robot',
    )
    watcher = watch('/robot/semanom_detector')
    watcher.wait_until_active()
    assert watcher.score('rear', '/rear/image_raw').header.stamp.sec == 5
    assert watcher.score('front', '/front/image_raw').header.stamp.sec == 5
    assert watcher.node.count_subscribers('/rear/info') == 1
    assert watcher.node.get_publishers_info_by_topic('/robot/semanom_detector/rear/anomalies')


def test_configure_failure_is_reported_once_and_can_be_mended(
    launch: Callable[..., Launched], watch: Callable[..., Watcher], database: Path, config: Path, tmp_path: Path
) -> None:
    missing = tmp_path / 'nominal'
    watcher = watch()
    launched = launch('detector.launch.py', database=missing, config=config)
    launched.wait_for('The detector is not configured: .* ros2 lifecycle set /semanom_detector configure')
    assert re.search(f'cannot configure: .*{missing}', launched.output)
    assert watcher.state == 'unconfigured'
    assert launched.output.count('cannot configure') == 1

    shutil.copytree(database, missing)
    request = ChangeState.Request(transition=Transition(id=Transition.TRANSITION_CONFIGURE))
    assert watcher.call(ChangeState, 'change_state', request).success
    watcher.spin_until(lambda: ('configuring', 'inactive') in watcher.transitions, 'inactive')
    request = ChangeState.Request(transition=Transition(id=Transition.TRANSITION_CLEANUP))
    assert watcher.call(ChangeState, 'change_state', request).success, 'nobody has activated it'
    assert watcher.state == 'unconfigured'


def test_a_manual_configure_is_not_followed_by_activate(
    launch: Callable[..., Launched], watch: Callable[..., Watcher], database: Path, config: Path
) -> None:
    launch('detector.launch.py', database=database, config=config)
    watcher = watch()
    watcher.wait_until_active()
    for transition in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP, Transition.TRANSITION_CONFIGURE,
                       Transition.TRANSITION_CLEANUP):
        request = ChangeState.Request(transition=Transition(id=transition))
        assert watcher.call(ChangeState, 'change_state', request).success, transition


def test_without_autostart_the_detector_waits(
    launch: Callable[..., Launched], watch: Callable[..., Watcher], database: Path, config: Path
) -> None:
    launched = launch('detector.launch.py', database=database, config=config, autostart='false')
    watcher = watch()
    assert watcher.state == 'unconfigured'
    assert launched.interrupt() == 0
    assert watcher.transitions in ([], [('unconfigured', 'shuttingdown'), ('shuttingdown', 'finalized')])


def test_launch_ends_when_the_detector_does_before_it_is_configured(
    launch: Callable[..., Launched], database: Path, config: Path
) -> None:
    launched = launch('detector.launch.py', database=database, config=config)
    os.kill(int(launched.wait_for(r'process started with pid \[(\d+)\]')[1]), signal.SIGKILL)
    launched.end()
    assert 'The detector ended before it could be configured' in launched.output


@pytest.mark.parametrize(
    ('name', 'arguments', 'message'),
    [
        ('detector', {'camera_names': '[front,rear]', 'image_topic': '/a'}, r'image_topic: found 1 \(/a\), expected'),
        ('detector', {'image_topic': '/a/compressed'}, 'add image_transport:=compressed'),
        ('detector', {'config': '/nowhere.yaml'}, '/nowhere.yaml: unreadable'),
        ('detector', {'image_transport': 'theora'}, '"image_transport" provided value "theora" is not valid'),
        ('record_nominal', {'config': '/nowhere.yaml'}, '/nowhere.yaml: unreadable'),
        ('snapshots', {'config': '/nowhere.yaml'}, '/nowhere.yaml: unreadable'),
        ('replay', {'bag': '/nowhere'}, '/nowhere: no such recording'),
        ('replay', {'bag': '/nowhere', 'rate': 'quick'}, 'rate: found quick, expected a number above 0'),
        ('detector', {'image_topic': '/front camera/image'}, 'image_topic: found /front camera/image, expected'),
        ('detector', {'cameras': 'front:=/a', 'image_topic': '/b'}, 'cameras: found image_topic too, expected'),
        ('record_nominal', {'cameras': 'front'}, 'cameras: front: found no such file, expected'),
        ('detector', {'foxglove': '/nowhere/x.json'}, 'foxglove: /nowhere/x.json: No such file'),
        ('detector', {'depth_topic': '/a', 'points_topic': '/b'}, 'points_topic: found depth_topic too, expected'),
        ('detector', {'namespace': 'my robot'}, 'namespace: found my robot, expected'),
    ],
)
def test_bad_arguments(launch: Callable[..., Launched], name: str, arguments: dict[str, str], message: str) -> None:
    launched = launch(f'{name}.launch.py', **arguments)
    assert launched.end() == 1
    assert re.search(message, launched.output)
    assert 'process started' not in launched.output
    assert 'Traceback' not in launched.output


NAMES = ['1e5', 'nan', 'y', '0x1p-3', 'true', '~', "it's", 'a: b', 'null', '/data/[monday]', '\u00e9\U0001f697']


@pytest.mark.parametrize('namespace', ['', 'robot'])
def test_arguments_reach_a_node_as_they_are_whatever_they_look_like(
    tmp_path: Path, ros_domain_id: int, monkeypatch: pytest.MonkeyPatch, namespace: str, trial: Any
) -> None:
    """And come before every section of the parameter file, in whichever order those are."""
    monkeypatch.setattr(launch_config, '_log_dir', str(tmp_path))
    file = tmp_path / 'robot.yaml'
    file.write_text(
        'semanom_detector: {ros__parameters: {database: a}}\n/**/semanom_detector: {ros__parameters: {database: b}}\n'
        '/robot/semanom_detector: {ros__parameters: {database: c}}\n'
        '/**: {ros__parameters: {database: d, use_sim_time: true, robot_radius: 1e-3}}\n'
        '/robot/semanom_detector: {ros__parameters: {database: e}}\n'
    )
    context = rclpy.Context()
    rclpy.init(context=context)
    try:
        for name in NAMES:
            launching = LaunchContext()
            launching.launch_configurations.update(
                config=str(file), namespace=namespace, camera_names=f'[{name},front]', database=name, image_topic='',
                use_sim_time='')
            launched = LaunchedNode.of(launching, 'semanom_detector')
            assert launched.sim_time
            with trial('Parameters', 'a launch argument that looks like something else'):
                arguments = [part for one in launched.parameter_files() for part in ('--params-file', str(one))]
                node = rclpy.create_node(
                    'semanom_detector', namespace=namespace, context=context, cli_args=['--ros-args', *arguments],
                    automatically_declare_parameters_from_overrides=True)
                found = {key: node.get_parameter(key).value for key in ('database', 'camera_names', 'use_sim_time')}
                node.destroy_node()
                assert found == {'database': name, 'camera_names': [name, 'front'], 'use_sim_time': True}
    finally:
        rclpy.shutdown(context=context)


def test_a_recording_that_the_player_does_not_take_is_named(
    launch: Callable[..., Launched], bag: Path, tmp_path: Path
) -> None:
    shutil.copy(next(bag.glob('*.mcap')), tmp_path)
    launched = launch('replay.launch.py', bag=tmp_path)
    assert launched.end() == 1
    launched.wait_for('found no recording that ros2 bag play takes, .*let `semanom evaluate` read it')
    assert 'process started' not in launched.output


def test_snapshots_listen_beside_the_detector(
    launch: Callable[..., Launched], database: Path, config: Path, tmp_path: Path
) -> None:
    launched = launch('snapshots.launch.py', cameras='front:=/front/image_raw', database=database, config=config,
                      snapshot_folder=tmp_path / 'snapshots')
    launched.wait_for(rf'watching front; snapshots go to {tmp_path}/snapshots, 0 are known')


def test_record_nominal_from_a_recording(
    launch: Callable[..., Launched], bag: Path, config: Path, tmp_path: Path
) -> None:
    launched = launch('record_nominal.launch.py', bags=f'[{bag}]', database=tmp_path / 'nominal', config=config)
    assert launched.end() == 0
    assert 'process has finished cleanly' in launched.output
    assert cli.main(['db', 'verify', str(tmp_path / 'nominal')]) == 0


def test_record_nominal_from_a_camera_until_it_is_stopped(
    launch: Callable[..., Launched], watch: Callable[..., Watcher], config: Path, tmp_path: Path
) -> None:
    launched = launch(
        'record_nominal.launch.py', image_topic='/front/image_raw', database=tmp_path / 'nominal', config=config
    )
    watcher = watch()
    publisher = watcher.node.create_publisher(Image, '/front/image_raw', 10)
    watcher.spin_until(publisher.get_subscription_count, '/front/image_raw')
    numbers = itertools.count()

    def publish() -> object:
        number = next(numbers)
        publisher.publish(image_to_message(picture(number), 'rgb8', (number + 1) * SECOND, 'optical'))
        return number > 20 and re.search('[1-9][0-9]* frames recorded', launched.output)

    watcher.spin_until(publish, 'frames recorded')
    assert launched.interrupt() == 0
    assert 'process has finished cleanly' in launched.output
    assert cli.main(['db', 'verify', str(tmp_path / 'nominal')]) == 0


def test_viewers_get_a_configuration_for_the_cameras(
    launch: Callable[..., Launched], config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in for RViz, which keeps what it is started with."""
    prefix, kept = tmp_path / 'prefix', tmp_path / 'kept.rviz'
    for file in ('share/ament_index/resource_index/packages/rviz2', 'lib/rviz2/rviz2'):
        (prefix / file).parent.mkdir(parents=True)
        (prefix / file).write_text(f'#!/bin/sh\ncp "$2" {kept}\n')
    (prefix / 'lib/rviz2/rviz2').chmod(0o755)
    monkeypatch.setenv('AMENT_PREFIX_PATH', f'{prefix}{os.pathsep}{os.environ["AMENT_PREFIX_PATH"]}')
    launched = launch(
        'detector.launch.py', config=config, autostart='false', rviz='true', camera_names='[front,rear]',
        image_topic='[/front/image_raw,/rear/image_raw]', image_transport='compressed', namespace='robot',
        foxglove=tmp_path / 'layout.json'
    )  # fmt: skip
    launched.wait_for('layout for Foxglove: .*layout.json')
    launched.wait_for(r'rviz2-1\]: process has finished cleanly')
    launched.wait_for(r'detector-2\]: process started')
    content = kept.read_text()
    for line in ('Value: /robot/semanom_detector/rear/overlay', 'Value: /front/image_raw/compressed', 'Name: Overlay 2',
                 'QMainWindow State: 000000ff'):
        assert line in content
    panels = json.loads((tmp_path / 'layout.json').read_text())['configById']
    assert panels['Image!rear_camera']['imageMode']['imageTopic'] == '/rear/image_raw/compressed'
    assert panels['Image!rear_overlay']['imageMode']['imageTopic'] == '/robot/semanom_detector/rear/overlay'
    assert launched.interrupt() == 0


@pytest.fixture
def player(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ros2` on the path."""
    file = tmp_path / 'bin' / 'ros2'
    file.parent.mkdir()
    file.write_text(PLAYER.format(python=sys.executable))
    file.chmod(0o755)
    monkeypatch.setenv('PATH', f'{file.parent}{os.pathsep}{os.environ["PATH"]}')


@pytest.mark.usefixtures('player')
def test_replay_plays_once_the_detector_is_active_and_ends_with_the_recording(
    launch: Callable[..., Launched], watch: Callable[..., Watcher], database: Path, config: Path, bag: Path
) -> None:
    watcher = watch()
    scores: list[AnomalyScore] = []
    watcher.node.create_subscription(AnomalyScore, '/semanom_detector/camera/score', scores.append, 50)

    launched = launch('replay.launch.py', bag=bag, database=database, config=config, rviz='false')
    watcher.spin_until(lambda: launched.process.poll() is not None, 'end of the replay')
    assert launched.end() == 0, launched.output
    assert scores
    assert scores[-1].header.stamp.sec == 30, 'the last frame'
    assert 'The recording is at its end' in launched.output
    assert launched.output.index('played') > launched.output.index('process started')
    said = launched.wait_for(r'camera: (?:all (\d+) frames have|(\d+) of 30 frames have) a score')
    assert int(said[1] or said[2]) == len({score.header.stamp.sec for score in scores})


@pytest.mark.usefixtures('player')
def test_ctrl_c_ends_a_replay_with_status_0(
    launch: Callable[..., Launched], database: Path, config: Path, bag: Path
) -> None:
    launched = launch('replay.launch.py', bag=bag, database=database, config=config, rviz='false')
    launched.wait_for('begun')
    assert launched.interrupt() == 0
    assert 'Caught exception in launch' not in launched.output
    assert 'at its end' not in launched.output


@pytest.mark.usefixtures('player')
def test_a_player_that_dies_is_not_the_end_of_the_recording(
    launch: Callable[..., Launched], database: Path, config: Path, bag: Path, monkeypatch: pytest.MonkeyPatch,
    trial: Any
) -> None:
    monkeypatch.setenv('PLAYER_DIES', '1')
    with trial('Nodes', 'a replay whose player or database fails'):
        launched = launch('replay.launch.py', bag=bag, database=database, config=config, rviz='false')
        assert launched.end() == 1
        assert 'The player ended with status 7 before the end of the recording' in launched.output
        assert 'at its end' not in launched.output


def test_a_replay_without_a_database_ends(
    launch: Callable[..., Launched], config: Path, bag: Path, tmp_path: Path, trial: Any
) -> None:
    with trial('Nodes', 'a replay whose player or database fails'):
        launched = launch('replay.launch.py', bag=bag, database=tmp_path / 'gone', config=config, rviz='false')
        assert launched.end() == 1
        assert re.search('cannot configure: .*gone', launched.output)
        assert 'the detector is not configured; its log above says why' in launched.output
