"""The real detector, as a process of its own, watching a recording that is played at its own rate."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.client import Client
from rclpy.node import Node
from rclpy.serialization import deserialize_message

from semanom_ros.errors import SemanomError
from semanom_ros.evaluation.result_bag import NODE, RECORDED
from semanom_ros.msg import AnomalyScore
from semanom_ros.parameter_files import DETECTOR
from semanom_ros.recordings.bags import BagReader, BagWriter, camera_info_topic
from semanom_ros.ros import foxglove
from semanom_ros.ros.background import background_node, domain_environment, private_domain
from semanom_ros.ros.messages import stamp_of
from semanom_ros.ros.outputs import SCORE
from semanom_ros.ros.player import Capture, Player
from semanom_ros.ros.rviz import FILE, rviz_config, template
from semanom_ros.settings import Settings

_DIAGNOSTICS = {'/diagnostics': 'diagnostic_msgs/msg/DiagnosticArray'}
_START_S, _CONFIGURE_S, _DRAIN_S, _STOP_S = 60.0, 300.0, 20.0, 10.0
_LOG_LINES = 12


@dataclass(frozen=True)
class LiveRun:
    """What happened to the images of one camera.

    Attributes:
        published: images that were played.
        processed: images that got a score.
        latencies_ms: (processed,) from publishing the image to receiving its score.
        seconds: that the recording took to play.
    """

    published: int
    processed: int
    latencies_ms: npt.NDArray[np.float64]
    seconds: float

    @property
    def dropped(self) -> int:
        """Images that made way for newer ones."""
        return self.published - self.processed

    def facts(self) -> dict[str, str]:
        """For people."""
        facts = {'images published': f'{self.published} in {self.seconds:.0f} s',
                 'images processed': f'{self.processed}', 'images dropped': f'{self.dropped}'}
        if len(self.latencies_ms):
            p50, p95, p99 = np.percentile(self.latencies_ms, (50, 95, 99))
            facts['latency, image published to score received'] = (
                f'{p50:.0f} ms (median), {p95:.0f} ms (95 %), {p99:.0f} ms (99 %)')
        return facts


def facts_of(runs: Mapping[str, LiveRun]) -> dict[str, str]:
    """For people, camera by camera where there are several."""
    return {fact if len(runs) == 1 else f'{camera}: {fact}': value
            for camera, run in runs.items() for fact, value in run.facts().items()}


def run_live(bag: Path, image_topics: Mapping[str, str], database: Path, settings: Settings, target: Path,
             on_progress: Callable[[int], None] = lambda published: None) -> dict[str, LiveRun]:
    """Plays a recording to the detector and captures what it publishes.

    The detector is started, configured and activated through its lifecycle services, on
    a ROS domain of its own that does not leave this machine, and stopped afterwards
    whatever happens.

    Args:
        bag: recording.
        image_topics: images of each camera, by its name.
        database: nominal database.
        settings: of the method and the detector.
        target: recording to be written: what was played and what the detector made of it.
        on_progress: called with the number of images published so far.

    Returns:
        What happened, by camera.

    Raises:
        SemanomError: the detector failed; with the end of its log.
        BagError: a recording cannot be read or written.
    """
    with private_domain() as domain, tempfile.TemporaryDirectory(prefix='semanom_live_') as scratch:
        process = DetectorProcess(domain, Path(scratch), image_topics, settings, database, bag)
        try:
            with background_node('semanom_player', domain) as node, BagWriter(target) as writer:
                runs = _run(process, node, writer, bag, image_topics, on_progress)
        finally:
            process.stop()
    with BagReader(target) as reader:
        cameras, topics = list(image_topics), list(image_topics.values())
        layout = rviz_config(template(), NODE, cameras, topics, recorded=reader.topics)
        (target / FILE).write_text(layout)
        (target / foxglove.FILE).write_text(foxglove.foxglove_layout(
            NODE, cameras, topics, recorded=reader.topics))
    return runs


def _run(process: DetectorProcess, node: Node, writer: BagWriter, bag: Path, image_topics: Mapping[str, str],
         on_progress: Callable[[int], None]) -> dict[str, LiveRun]:
    sent: dict[str, dict[int, float]] = {camera: {} for camera in image_topics}
    received: dict[str, dict[int, float]] = {camera: {} for camera in image_topics}
    pictures = {topic: sent[camera] for camera, topic in image_topics.items()}
    scores = {f'{NODE}/{camera}/{SCORE.name}': received[camera] for camera in image_topics}
    captured = {f'{NODE}/{camera}/{output.name}': output.type_name for camera in image_topics for output in RECORDED}
    arrived = threading.Condition()

    def on_result(topic: str, cdr: bytes) -> None:
        if topic in scores:
            message: AnomalyScore = deserialize_message(cdr, AnomalyScore)
            if message.reason == AnomalyScore.REASON_LATE:  # the score is still to come
                return
            with arrived:
                scores[topic].setdefault(stamp_of(cdr), time.monotonic())
                arrived.notify_all()

    with BagReader(bag) as reader:
        types = reader.topics
    process.change_state(node, Transition.TRANSITION_CONFIGURE, _CONFIGURE_S)
    capture = Capture(node, writer, captured | _DIAGNOSTICS, on_result)
    player = Player(node, bag)

    def on_message(topic: str, cdr: bytes) -> None:
        capture.write(topic, types[topic], cdr)
        if topic in pictures:
            process.check_alive()
            pictures[topic][stamp_of(cdr)] = time.monotonic()
            on_progress(sum(map(len, sent.values())))

    try:
        process.change_state(node, Transition.TRANSITION_ACTIVATE, _START_S)
        for topic in pictures:
            if not player.wait_for_subscribers(topic, _START_S):
                raise process.failure(f'does not listen to {topic}')
        begun = time.monotonic()
        player.play(on_message)
        seconds = time.monotonic() - begun
        with arrived:
            arrived.wait_for(lambda: all(max(sent[camera], default=0) in received[camera] for camera in sent), _DRAIN_S)
        process.change_state(node, Transition.TRANSITION_DEACTIVATE, _START_S)
    finally:
        capture.close()
        player.close()
    latencies = {camera: np.array([1e3 * (when - own[stamp]) for stamp, when in sorted(received[camera].items())
                                   if stamp in own]) for camera, own in sent.items()}
    return {camera: LiveRun(len(own), len(latencies[camera]), latencies[camera], seconds)
            for camera, own in sent.items()}


class DetectorProcess:
    """`semanom_detector` in a process of its own."""

    def __init__(self, domain: int, scratch: Path, image_topics: Mapping[str, str], settings: Settings,
                 database: Path, bag: Path) -> None:
        """Starts it.

        Args:
            domain: ROS domain id.
            scratch: folder for its parameter file and log.
            image_topics: what each camera watches, by its name; compressed when the first one's type says so.
            settings: of the method and the detector.
            database: nominal database.
            bag: where the first image topic comes from.
        """
        with BagReader(bag) as reader:
            compressed = reader.topics[next(iter(image_topics.values()))].endswith('/CompressedImage')
        cameras = replace(settings.cameras, database=str(database), camera_names=tuple(image_topics),
                          image_transport='compressed' if compressed else 'raw')
        parameters = {**settings.method.values(), **cameras.values(), **settings.detector.values()}
        file = scratch / 'detector.yaml'
        content = {'/**': {'ros__parameters': {**parameters, 'use_sim_time': True}}}
        file.write_text(json.dumps(content, ensure_ascii=False))  # YAML too, in which no text looks like a number
        self._log = scratch / 'detector.log'
        command = [sys.executable, '-m', 'semanom_ros.nodes.detector', '--ros-args', '--params-file', str(file)]
        for camera, topic in image_topics.items():
            source = f'~/input/{camera}/image' + ('/compressed' if compressed else '')
            command += ['-r', f'{source}:={topic}',
                        '-r', f'~/input/{camera}/camera_info:={camera_info_topic(topic)}']
        masks = [topic for topic in settings.method.queries.segments_topics if topic]
        for camera, topic in zip(image_topics, masks, strict=False):
            command += ['-r', f'~/input/{camera}/segments:={topic}']
        with open(self._log, 'wb') as log:
            self._process = subprocess.Popen(  # a group of its own: Ctrl-C is for us, we tell it
                command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
                close_fds=False, env={**os.environ, **domain_environment(domain)})  # see claimed_domain
        self._client: Client[ChangeState.Request, ChangeState.Response] | None = None

    def change_state(self, node: Node, transition: int, timeout_s: float) -> None:
        """Asks for a lifecycle transition and waits for it.

        Raises:
            SemanomError: it failed or took too long; with the end of the detector's log.
        """
        name = {Transition.TRANSITION_CONFIGURE: 'configure', Transition.TRANSITION_ACTIVATE: 'activate',
                Transition.TRANSITION_DEACTIVATE: 'deactivate'}[transition]
        end = time.monotonic() + timeout_s
        if self._client is None:
            self._client = node.create_client(ChangeState, f'/{DETECTOR}/change_state')
            while not self._client.wait_for_service(0.5):
                self.check_alive()
                if time.monotonic() > end:
                    raise self.failure(f'did not offer its services within {timeout_s:g} s')
        done = threading.Event()
        future = self._client.call_async(ChangeState.Request(transition=Transition(id=transition)))
        future.add_done_callback(lambda _: done.set())
        while not done.wait(0.5):
            self.check_alive()
            if time.monotonic() > end:
                raise self.failure(f'did not {name} within {timeout_s:g} s')
        answer = future.result()
        if answer is None or not answer.success:
            raise self.failure(f'failed to {name}')

    def check_alive(self) -> None:
        """
        Raises:
            SemanomError: the process is gone.
        """
        if self._process.poll() is not None:
            raise self.failure(f'ended with status {self._process.returncode}')

    def failure(self, what: str) -> SemanomError:
        """An error that ends with the last lines of the detector's log."""
        with suppress(OSError):
            lines = self._log.read_text(errors='replace').strip().splitlines()[-_LOG_LINES:]
            return SemanomError(f'the detector {what}; the end of its log: {" | ".join(lines)}')
        return SemanomError(f'the detector {what}')

    def stop(self) -> None:
        """Ends the process, politely first."""
        for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            if self._process.poll() is not None:
                return
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, sign)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_S)
