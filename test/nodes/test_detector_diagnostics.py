"""What monitors make of `/diagnostics`, live: aggregators of levels, such as Autoware's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus

from semanom_ros.nodes import detector

GRAPH = Path(__file__).resolve().parents[2] / 'config' / 'autoware_diagnostic_graph.yaml'
OK, WARN, ERROR, STALE = range(4)
SAFE, WORKING = '/perception/semantic_anomaly/nothing_anomalous', '/perception/semantic_anomaly/working'


class Graph:
    """The units of Autoware's graph that the file has, by what their documentation says of them."""

    def __init__(self) -> None:
        self.units = {unit['path']: unit for unit in yaml.safe_load(GRAPH.read_text())['units']}
        self.levels: dict[str, int] = {}
        self.asked: set[str] = set()
        self.timeouts: list[float] = []

    def hears(self, message: DiagnosticArray) -> None:
        self.levels |= {status.name: status.level[0] for status in message.status}

    def level(self, path: str) -> int:
        return self._level(self.units[path])

    def _level(self, unit: dict[str, Any]) -> int:
        kind = unit['type']
        if kind == 'diag':
            name = f'{unit["node"]}: {unit["name"]}'
            self.asked.add(name)
            self.timeouts.append(unit['timeout'])
            return self.levels.get(name, STALE)
        if kind == 'link':
            return self.level(unit['link'])
        if kind == 'and':
            return min(max(self._level(one) for one in unit['list']), ERROR)
        assert kind == 'warn-to-error'
        level = self._level(unit['item'])
        return ERROR if level == WARN else level


def test_the_graph_for_autoware_follows_what_the_detector_says(
        bench: Callable[..., Any], recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An anomaly is in the graph long before the next periodic status, and so is a frame that cannot be judged."""
    assert 2 * detector.DIAGNOSTICS_PERIOD_S < 3.0
    monkeypatch.setattr(detector, 'DIAGNOSTICS_PERIOD_S', 3600.0)
    one = bench(database=str(recorded))
    graph = Graph()
    one.node.create_subscription(DiagnosticArray, '/diagnostics', graph.hears, 10)
    one.spin_until(lambda: one.node.count_subscribers('/diagnostics') == 2 and one.detector.executor, what='listeners')
    assert graph.level(SAFE) == ERROR  # nothing was heard
    assert one.configure()
    assert one.activate()

    def shows(level: int) -> None:
        def shown() -> bool:
            one.detector._publish_diagnostics()
            return graph.level(SAFE) == level

        one.spin_until(shown, what=f'level {level}')

    one.verdict(one.street(1))
    shows(WARN)  # that there is no CameraInfo
    one.send_info(one.camera_info())
    one.verdict(one.street(1))
    shows(OK)
    assert graph.asked <= set(graph.levels), 'every name is one that the detector uses'
    assert min(graph.timeouts) == 3.0
    one.verdict(one.street_with_box(2))
    one.spin_until(lambda: graph.level(SAFE) == ERROR, what='the anomaly')  # at once
    assert graph.level(WORKING) == OK
    for number in range(5):
        one.verdict(one.street(10 + number))
    shows(OK)
    one.send_raw(height=3, width=3, encoding='rgb8', step=9)
    one.spin_until(lambda: graph.level(SAFE) == ERROR, what='the frame that is none')
    said = next(status for message in reversed(one.diagnostics) for status in message.status
                if status.name.endswith(': camera verdict') and status.level == DiagnosticStatus.ERROR)
    assert said.message.startswith('unknown, invalid image: ')
    assert one.deactivate()
