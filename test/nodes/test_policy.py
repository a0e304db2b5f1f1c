"""The SROS 2 policy that is shipped allows what the nodes do, and nothing that they never do."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import rclpy
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import qos_profile_sensor_data

from semanom_ros.nodes.nominal_recorder import NominalRecorderNode
from semanom_ros.nodes.snapshot_recorder import SnapshotRecorder
from semanom_ros.ros.camera_input import CameraInput
from semanom_ros.settings import Settings

POLICY = ElementTree.parse(Path(__file__).resolve().parents[2] / 'config' / 'sros2_policy.xml').getroot()
ELSEWHERE = ('/camera/', '/semanom_detector/camera/', '/clock', '/tf', '/detections', '/annotations', '/segments',
             '/image/compressed', '/bond', '/depth', '/points')
"""Ends or beginnings of what is used only with other parameters, or where other packages are installed."""


def allowed(node: str, kind: str, how: str) -> set[str]:
    """Full names that a node may use in one way, with wildcards."""
    (profile,) = POLICY.findall(f".//profile[@node='{node}']")
    lists = [found for found in profile.findall(f'{kind}s') if found.get(how) == 'ALLOW']
    return {str(item.text).replace('~', f'/{node}', 1) for found in lists for item in found.findall(kind)}


def check(node: str, kind: str, how: str, used: list[str]) -> None:
    expressions = allowed(node, kind, how)
    assert [name for name in used if not any(fnmatchcase(name, one) for one in expressions)] == [], how
    unused = [one for one in expressions if not any(fnmatchcase(name, one) for name in used)]
    assert [one for one in unused if not one.startswith(ELSEWHERE) and not one.endswith(ELSEWHERE)] == [], how


def check_node(node: Node) -> None:
    name = node.get_name()

    def names(found: list[tuple[str, list[str]]]) -> list[str]:
        return [topic for topic, _ in found]

    check(name, 'topic', 'publish', names(node.get_publisher_names_and_types_by_node(name, '/')))
    check(name, 'topic', 'subscribe', names(node.get_subscriber_names_and_types_by_node(name, '/')))
    check(name, 'service', 'reply', names(node.get_service_names_and_types_by_node(name, '/')))
    assert not node.get_client_names_and_types_by_node(name, '/')


def test_the_detector_needs_what_the_policy_allows(active: Callable[..., Any]) -> None:
    one = active()
    node = one.detector
    # what a node itself offers comes into its view of the graph a little later
    one.spin_until(lambda: any(name.endswith('/score') for name, _ in node.get_publisher_names_and_types_by_node(
        node.get_name(), '/')), what='the node in the graph')
    check_node(node)


def test_the_recorder_needs_what_the_policy_allows(ros_domain_id: int) -> None:
    context = rclpy.Context()
    rclpy.init(context=context)
    node = NominalRecorderNode(context=context)
    settings = Settings.of({'variant': 'instance', 'segmenter': 'topic'})
    camera = CameraInput(node, 'camera', settings.cameras, settings.method, qos_profile_sensor_data)
    camera.open(lambda received: None)
    try:
        check_node(node)
    finally:
        camera.close()
        node.destroy_node()
        rclpy.shutdown(context=context)


def test_the_snapshot_recorder_needs_what_the_policy_allows(ros_domain_id: int, tmp_path: Path, recorded: Path,
                                                            encoder: dict[str, Any]) -> None:
    context = rclpy.Context()
    rclpy.init(context=context)
    given = {**encoder, 'database': str(recorded), 'snapshot_folder': str(tmp_path / 'snapshots')}
    node = SnapshotRecorder(
        context=context, parameter_overrides=[Parameter(name, value=value) for name, value in given.items()])
    try:
        node.load()
        check_node(node)
    finally:
        node.close()
        rclpy.shutdown(context=context)


def test_it_has_the_form_that_sros2_reads() -> None:
    assert (POLICY.tag, POLICY.get('version')) == ('policy', '0.2.0')
    assert [enclave.get('path') for enclave in POLICY.findall('enclaves/enclave')] == [
        '/semanom_detector', '/nominal_recorder', '/snapshot_recorder']
    for rule in POLICY.findall('.//profile/*'):
        assert rule.tag in ('topics', 'services')
        assert set(rule.attrib.values()) == {'ALLOW'}
        assert all(item.tag == rule.tag[:-1] and item.text for item in rule)


@pytest.mark.parametrize('node', ['semanom_detector', 'nominal_recorder', 'snapshot_recorder'])
def test_wildcards_stay_below_the_node(node: str) -> None:
    for kind, how in (('topic', 'publish'), ('topic', 'subscribe'), ('service', 'reply')):
        assert all(name.startswith(f'/{node}/') for name in allowed(node, kind, how) if '*' in name)
