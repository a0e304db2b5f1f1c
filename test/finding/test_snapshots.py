"""Which alarms become snapshots, and what of the ring belongs to them."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from semanom_ros.errors import BagError
from semanom_ros.finding.snapshots import (
    BUSY,
    FULL,
    HOUR_NS,
    HOURLY,
    KNOWN,
    Message,
    Ring,
    Snapshots,
    Taken,
    write_snapshot,
)
from semanom_ros.settings import SnapshotSettings

SECOND = 10**9


def message(second: float, topic: str = '/speed', size: int = 1000) -> Message:
    return Message(topic, 'std_msgs/msg/String', round(second * SECOND), round(second * SECOND), bytes(size))


def drive(snapshots: Snapshots, first: int, last: int) -> None:
    """A message each second, and a look at what is due."""
    for second in range(first, last):
        snapshots.ring.add(message(second))
        snapshots.due(second * SECOND)


def test_pre_roll_and_post_roll_have_their_times() -> None:
    snapshots = Snapshots(SnapshotSettings(before=5.0, after=3.0))
    snapshots.ring.add(message(0, '/tf_static'), latched=True)
    drive(snapshots, 0, 20)
    one = snapshots.alarm('front', [1], 20 * SECOND, 'a')
    assert one is not None
    drive(snapshots, 20, 40)  # judging takes long: what belongs to it stays
    assert snapshots.decide(one, True)
    assert snapshots.due(40 * SECOND) == [one]
    taken = snapshots.take(one)
    assert taken is not None
    assert [m.when_ns // SECOND for m in taken.messages] == list(range(15, 24))
    assert [m.topic for m in taken.held] == ['/tf_static']
    assert not taken.short
    drive(snapshots, 40, 41)
    assert snapshots.ring.seconds <= 5


def test_a_ring_that_is_too_small_says_so() -> None:
    ring = Ring(3500)
    for second in range(6):
        ring.add(message(second))
    assert (ring.bytes, ring.lost_ns, ring.seconds) == (3000, 2 * SECOND, 2.0)


def test_an_alarm_goes_on_while_its_track_does() -> None:
    snapshots = Snapshots(SnapshotSettings())
    first = snapshots.alarm('front', [7], 0, 'a')
    assert first is not None
    assert snapshots.alarm('front', [7], SECOND, 'b') is None
    assert snapshots.alarm('rear', [7], SECOND, 'c') is not None  # each camera counts by itself
    assert snapshots.alarm('front', [7, 8], 2 * SECOND, 'd') is not None
    snapshots.decide(first, False)
    assert snapshots.alarm('front', [7], 3 * SECOND, 'e') is None
    assert snapshots.counts == {KNOWN: 1}


def test_without_tracking_an_open_snapshot_stands_for_its_camera() -> None:
    snapshots = Snapshots(SnapshotSettings(after=5.0))
    assert snapshots.alarm('front', [0], 0, 'a') is not None
    assert snapshots.alarm('front', [], 4 * SECOND, 'b') is None
    assert snapshots.alarm('front', [0], 6 * SECOND, 'c') is not None


def test_limits_per_hour_in_bytes_and_at_once() -> None:
    snapshots = Snapshots(SnapshotSettings(before=5.0, after=0.0, per_hour=2, megabytes=1))
    for track in range(3):
        drive(snapshots, 10 * track, 10 * track + 8)
        one = snapshots.alarm('front', [track + 1], (10 * track + 7) * SECOND, f'{track}')
        if one is None:
            break
        assert snapshots.decide(one, True)
        taken = snapshots.take(one)
        assert taken is not None
        snapshots.written(one, taken, 400_000)
    assert snapshots.counts == {'kept': 2, HOURLY: 1}
    later = 30 * SECOND + HOUR_NS
    snapshots.ring.add(message(later / SECOND, size=300_000))
    one = snapshots.alarm('front', [9], later, 'b')
    assert one is not None
    assert snapshots.decide(one, True)
    assert snapshots.take(one) is None  # 300 kB may not fit into 200 kB
    assert snapshots.counts[FULL] == 1
    assert snapshots.used == 800_000
    for track in range(20, 29):
        snapshots.alarm('front', [track], later, f'{track}')
    assert snapshots.counts[BUSY] == 1


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file of this process grows beyond 100 kB; writing on is an error, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def noise(count: int) -> Taken:
    """What does not become smaller by compression."""
    messages = [message(second)._replace(cdr=os.urandom(50_000)) for second in range(count)]
    return Taken([], messages, 50_000 * count, False)


def test_a_disk_that_takes_no_more_leaves_nothing(small_files: None, tmp_path: Path) -> None:
    with pytest.raises(BagError, match=r'cannot be written \(File too large\); free space') as refused:
        write_snapshot(tmp_path / 'front', noise(100))
    assert '\n' not in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_a_recorder_that_is_killed_leaves_no_half_recording(tmp_path: Path) -> None:
    child = os.fork()
    if not child:
        try:
            write_snapshot(tmp_path / 'front', noise(2_000))
        finally:
            os._exit(1)
    deadline = time.monotonic() + 30
    while not any(path.stat().st_size for path in tmp_path.rglob('*.mcap')):
        assert time.monotonic() < deadline
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert [path.name.startswith('.front.') for path in tmp_path.iterdir()] == [True]
