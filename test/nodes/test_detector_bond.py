"""The bond with Nav2's lifecycle manager, whose half of it the tests play, bondpy among them where it is installed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from std_msgs.msg import String

ACTIVE, BROKEN = True, False
STRANGER = 'another_node'


class Manager:
    """Hears the bonds of a namespace, and speaks as a lifecycle manager does."""

    def __init__(self, bench: Any) -> None:
        self.bench = bench
        self.type = pytest.importorskip('bond.msg', reason='bond is not installed: source a ROS 2 installation').Status
        self.said: list[Any] = []
        bench.node.create_subscription(self.type, '/bond', self._hear, 100)
        self.publisher = bench.node.create_publisher(self.type, '/bond', 10)

    def _hear(self, status: Any) -> None:
        if status.instance_id != 'manager':
            self.said.append(status)

    def say(self, active: bool, id: str = 'semanom_detector') -> None:
        self.bench.spin_until(self.publisher.get_subscription_count)
        self.publisher.publish(self.type(id=id, instance_id='manager', active=active))

    def hears(self, active: bool, times: int = 1) -> None:
        self.said.clear()
        self.bench.spin_until(lambda: [one.active for one in self.said].count(active) >= times, what='bond')


@pytest.fixture
def manager(bench: Callable[..., Any], recorded: Path) -> Manager:
    """Of a detector that is configured."""
    one = bench(database=str(recorded), bond_heartbeat_period=0.05)
    assert one.configure(), one.detector._fault
    return Manager(one)


def test_an_active_detector_has_a_heartbeat_until_it_is_deactivated(manager: Manager) -> None:
    bench = manager.bench
    assert bench.node.count_publishers('/bond') == 1  # the manager's own
    instances = set()
    for _ in range(2):
        assert bench.activate()
        manager.hears(ACTIVE, times=3)
        assert {one.id for one in manager.said} == {'semanom_detector'}
        assert [one.heartbeat_period for one in manager.said] == pytest.approx([0.05] * len(manager.said))
        instances |= {one.instance_id for one in manager.said}
        assert bench.deactivate()
        bench.spin_until(lambda: not manager.said[-1].active, what='the end of the bond')
        bench.spin_until(lambda: bench.node.count_publishers('/bond') == 1, what='the topic gone')
    assert len(instances) == 2  # a manager would take the second for the first otherwise


def test_a_manager_that_lets_go_is_answered_and_may_come_back(manager: Manager) -> None:
    bench = manager.bench
    assert bench.activate()
    manager.hears(ACTIVE)
    manager.say(BROKEN, id=STRANGER)
    manager.hears(ACTIVE, times=3)
    manager.say(BROKEN)
    manager.hears(BROKEN)
    silent = len(manager.said)
    assert bench.status('detector').message == 'active'  # some heartbeats later
    assert len(manager.said) == silent
    manager.say(ACTIVE)
    manager.hears(ACTIVE, times=3)


def test_bondpy_forms_the_bond_and_hears_its_end(manager: Manager) -> None:
    bondpy = pytest.importorskip('bondpy.bondpy', reason='bondpy is not installed')
    bench, events = manager.bench, list[str]()
    assert bench.activate()
    bond = bondpy.Bond(bench.node, 'bond', 'semanom_detector', on_broken=lambda: events.append('broken'),
                       on_formed=lambda: events.append('formed'))
    bond.start()
    bench.spin_until(lambda: events == ['formed'], what='bond')
    assert bench.deactivate()
    bench.spin_until(lambda: events == ['formed', 'broken'], what='end of the bond')
    bond.shutdown()


def test_no_bond_is_kept_where_none_is_wanted(bench: Callable[..., Any], recorded: Path) -> None:
    one = bench(database=str(recorded), bond_heartbeat_period=0.0)
    assert one.configure()
    assert one.activate()
    assert one.status('detector', lambda status: status.message == 'active').level == DiagnosticStatus.OK
    assert not one.node.count_publishers('/bond')


@pytest.mark.parametrize('period', [1e-12, 0.009])
def test_heartbeats_leave_time_for_other_things(bench: Callable[..., Any], recorded: Path, period: float) -> None:
    one = bench(database=str(recorded), bond_heartbeat_period=period)
    assert not one.configure()
    assert f'bond_heartbeat_period: found {period:g} s, expected 0 for no bond, or 0.01' in one.detector._fault
    assert one.state == 'unconfigured'


def test_without_the_package_it_warns_where_a_manager_keeps_bonds(bench: Callable[..., Any], recorded: Path,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'bond.msg', None)
    one = bench(database=str(recorded))
    assert one.configure()
    assert one.activate()
    assert one.status('detector', lambda status: status.message == 'active').level == DiagnosticStatus.OK
    one.node.create_publisher(String, '/bond', 1)
    said = one.status('detector', lambda status: 'the package bond is not installed' in status.message)
    assert said.level == DiagnosticStatus.WARN
    assert 'ros-$ROS_DISTRO-bond' in said.message
