"""The node beside a real detector, over DDS: what is kept round alarms, and what is not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rclpy.executors import ExternalShutdownException
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image
from std_msgs.msg import String

from semanom_ros.errors import SemanomError
from semanom_ros.finding import snapshots as logic
from semanom_ros.msg import AnomalyArray
from semanom_ros.nodes import snapshot_recorder
from semanom_ros.nodes.snapshot_recorder import SnapshotRecorder, main
from semanom_ros.recordings.bags import BagReader
from semanom_ros.ros.guarded_node import GuardedExecutor

RED, OTHER = (48, 40, 24, 16), (64, 56, 32, 24)
IMAGES, RESULTS, SPEED = '/semanom_detector/input/camera/image', '/semanom_detector/camera/anomalies', '/speed'
REMAPPED = ['--ros-args', '-r', f'~/input/camera/image:={IMAGES}', '-r', f'~/input/camera/anomalies:={RESULTS}']


class Beside:
    """The recorder beside a detector that is active."""

    def __init__(self, bench: Any, folder: Path, given: dict[str, Any]) -> None:
        self.bench, self.folder = bench, folder
        self.node = SnapshotRecorder(
            context=bench.context, cli_args=REMAPPED,
            parameter_overrides=[Parameter(name, value=value) for name, value in {
                'snapshot_folder': str(folder), 'snapshot_before': 60.0, 'snapshot_after': 0.0,
                'snapshot_topics': [SPEED], **given}.items()])
        self.speed = bench.node.create_publisher(String, SPEED, QoSProfile(depth=10))
        self.node.load()
        self._executor = GuardedExecutor(self.node)
        self._thread = threading.Thread(target=self._spin)
        self._thread.start()
        self._images = bench.publisher(Image, 'camera/image')
        # by those who send: what this node has in mind of itself says nothing of what it will be sent
        bench.spin_until(lambda: (self._images.get_subscription_count(), self._matched()) == (2, [1])
                         and self.speed.get_subscription_count(), what='cameras and results')

    def _spin(self) -> None:
        with suppress(ExternalShutdownException):
            self._executor.spin()

    @property
    def bags(self) -> list[Path]:
        return sorted(path for path in self.folder.glob('camera_*'))

    def values(self, **expected: int) -> dict[str, str]:
        """Of the next status in which so many are said."""
        return self.bench.values(self.status(lambda status: all(
            self.bench.values(status)[name.replace('_', ' ')] == str(count) for name, count in expected.items())))

    def status(self, condition: Callable[[Any], Any]) -> Any:
        return self.bench.status(': snapshots', condition)

    def show(self, picture: np.ndarray) -> Any:
        return self.bench.verdict(picture)

    def _matched(self) -> list[int]:
        """To how many the detector sends its results."""
        return [one.get_subscription_count() for one in self.bench.detector.publishers if one.topic_name == RESULTS]

    def close(self) -> None:
        if self._thread.is_alive():
            self._executor.shutdown()
            self._thread.join(30)
            self.node.close()
            self.bench.spin_until(lambda: self._matched() == [0] and self._images.get_subscription_count() == 1)


@pytest.fixture
def beside(active: Callable[..., Any], encoder: dict[str, Any], recorded: Path, tmp_path: Path
           ) -> Iterator[Callable[..., Beside]]:
    made: list[Beside] = []

    def start(bench: Any = None, **given: Any) -> Beside:
        made.append(Beside(bench or active(latency_limit=60.0), tmp_path / 'snapshots',
                           {**encoder, 'database': str(recorded), **given}))
        return made[-1]

    yield start
    for one in made:
        one.close()


def street_with(picture: np.ndarray, colour: tuple[int, int, int], box: tuple[int, int, int, int]) -> np.ndarray:
    x, y, w, h = box
    picture[y:y + h, x:x + w] = colour
    return picture


def test_what_is_new_is_kept_once(beside: Callable[..., Beside]) -> None:
    """With what came before, byte by byte; the second time the thing resembles what was kept, also after a restart."""
    one = beside()
    bench = one.bench
    one.speed.publish(String(data='before'))
    bench.spin_until(lambda: one.node._snapshots.ring.newest(SPEED, lambda cdr: True))
    assert not one.show(bench.street(1)).anomalous
    assert one.show(bench.street_with_box(2, RED)).anomalous
    one.values(snapshots_kept=1)
    (bag,) = one.bags
    with BagReader(bag) as reader:
        assert reader.topics == {IMAGES: 'sensor_msgs/msg/Image', RESULTS: 'semanom_ros/msg/AnomalyArray',
                                 SPEED: 'std_msgs/msg/String'}
        frames = list(reader.images(IMAGES))
        assert [message.data for _, _, message in reader.messages([SPEED])] == ['before']
        times = [time for _, _, time, _ in reader.raw()]
        verdicts = [message.verdict for _, _, message in reader.messages([RESULTS])]
    assert times == sorted(times)
    assert np.array_equal(frames[0].image, bench.street(1))  # nominal, from before the alarm
    assert np.array_equal(frames[-1].image, bench.street_with_box(2, RED))
    assert verdicts[:5] == [1] * 5
    assert len(frames) > 5

    assert one.show(bench.street_with_box(3, RED)).anomalous  # comes again, as another track
    one.values(**{'snapshots_kept': 1, 'skipped:_resembles_what_was_kept': 1})
    assert one.show(street_with(bench.street(4), (250, 250, 0), OTHER)).anomalous
    one.values(snapshots_kept=2, known_things=2)
    assert len(one.bags) == 2

    one.close()
    (one.folder / 'kept_embeddings' / 'damaged.npz').write_bytes(b'none')
    again = beside(bench)
    assert again.show(bench.street_with_box(5, RED)).anomalous
    again.values(**{'snapshots_kept': 0, 'skipped:_resembles_what_was_kept': 1, 'known_things': 2,
                    'embeddings_left_out': 1})


class Ahead:
    """The time, and seconds more."""

    def __init__(self) -> None:
        self.seconds = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def monotonic_ns(self) -> int:
        return time.monotonic_ns() + self.seconds * 10**9


def test_what_follows_an_alarm_is_kept_until_its_time_is_over(
        beside: Callable[..., Beside], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Ahead()
    monkeypatch.setattr(snapshot_recorder, 'time', clock)
    one = beside(snapshot_after=300.0, snapshot_before=5.0)
    bench = one.bench
    assert one.show(bench.street_with_box(2, RED)).anomalous
    one.values(snapshots_open=1, snapshots_kept=0)
    for clock.seconds, said in ((200, 'within'), (400, 'after')):
        one.speed.publish(String(data=said))
        bench.spin_until(lambda said=said: one.node._snapshots.ring.newest(SPEED, lambda cdr: said.encode() in cdr)
                         or one.bags, what=said)
    one.values(snapshots_open=0, snapshots_kept=1)
    (bag,) = one.bags
    with BagReader(bag) as reader:
        assert [message.data for _, _, message in reader.messages([SPEED])] == ['within']
        assert AnomalyArray.VERDICT_ANOMALOUS in [message.verdict for _, _, message in reader.messages([RESULTS])]
        assert len(list(reader.images(IMAGES))) == 5


def test_limits_and_unknown_verdicts_are_counted(beside: Callable[..., Beside]) -> None:
    one = beside(snapshots_per_hour=1)
    bench = one.bench
    bench.send_raw(height=3, width=3, encoding='rgb8', step=9)
    one.values(unknown_verdicts=1, snapshots_kept=0)
    assert one.show(bench.street_with_box(2, RED)).anomalous
    one.values(snapshots_kept=1)
    assert one.show(street_with(bench.street(4), (250, 250, 0), OTHER)).anomalous
    one.status(lambda status: 'were not kept: snapshots_per_hour reached' in status.message)
    assert len(one.bags) == 1


def test_a_full_disk_is_an_error_and_leaves_nothing(beside: Callable[..., Beside],
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer meets the error of a full disk; later the same thing is kept."""
    one = beside()
    bench = one.bench
    writer = logic.BagWriter.write_cdr

    def full(*given: Any) -> None:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(logic.BagWriter, 'write_cdr', full)
    assert one.show(bench.street_with_box(2, RED)).anomalous
    said = one.status(lambda status: 'No space left' in status.message)
    assert said.level == b'\2'
    assert said.message.endswith('free space, or give another snapshot_folder')
    assert sorted(path.name for path in one.folder.iterdir()) == ['kept_embeddings', 'lock']
    assert not list((one.folder / 'kept_embeddings').iterdir())

    monkeypatch.setattr(logic.BagWriter, 'write_cdr', writer)
    assert one.show(bench.street_with_box(3, RED)).anomalous
    one.values(snapshots_kept=1)
    assert one.status(lambda status: True).level != b'\2'


def test_what_a_killed_recorder_left_goes(beside: Callable[..., Beside], tmp_path: Path) -> None:
    half = tmp_path / 'snapshots' / '.camera_20260101T000000_000000000.abc' / 'camera_20260101T000000_000000000'
    half.mkdir(parents=True)
    (half / 'part.mcap').write_bytes(b'half')
    one = beside()
    assert not half.parent.exists()
    with pytest.raises(SemanomError, match='found a writer at work'):
        SnapshotRecorder(context=one.bench.context, parameter_overrides=[
            Parameter('snapshot_folder', value=str(one.folder))]).load()


def test_bad_input_is_one_line(ros_domain_id: int, tmp_path: Path, recorded: Path, encoder: dict[str, Any],
                               capfd: pytest.CaptureFixture[str]) -> None:
    def refused(**given: Any) -> str:
        arguments = [part for name, value in given.items() for part in ('-p', f'{name}:={value}')]
        assert main(['--ros-args', *arguments]) == 2
        return capfd.readouterr().err.strip()

    (tmp_path / 'file').write_text('')
    assert 'cannot be written (Not a directory); give another folder' in refused(
        snapshot_folder=tmp_path / 'file' / 'a')
    said = refused(snapshot_folder=tmp_path / 'new', database=tmp_path / 'none')
    assert said.startswith('snapshot_recorder: ')
    assert said.count('\n') == 0
    assert 'found no folder' in said
    assert 'snapshots_per_hour: found 0, expected at least 1' in refused(snapshots_per_hour=0)
