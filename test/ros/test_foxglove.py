"""The layouts for Foxglove and Lichtblick: topics that there are, and what panels need to show them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from semanom_ros.msg import AnomalyScore, Drift
from semanom_ros.ros.foxglove import SHIPPED, foxglove_layout, shipped_layouts
from semanom_ros.ros.outputs import OUTPUTS, SCORE

CONFIG = Path(__file__).resolve().parents[2] / 'config'
NODE = '/semanom_detector'
NUMBERS = {'boolean', 'float', 'double', 'uint8', 'int32'}
TYPES = {'sensor_msgs/msg/Image': 'Image', 'sensor_msgs/msg/CompressedImage': 'Image',
         'visualization_msgs/msg/MarkerArray': '3D'}


def panels_of(node: Any) -> Iterator[str]:
    """Names of the panels in a tree, each split of which is checked."""
    if isinstance(node, str):
        yield node
        return
    assert node.keys() == {'direction', 'first', 'second', 'splitPercentage'}
    assert node['direction'] in ('row', 'column')
    assert 0 < node['splitPercentage'] < 100
    yield from panels_of(node['first'])
    yield from panels_of(node['second'])


def paths_of(config: dict[str, Any]) -> list[str]:
    """Message paths of a panel, such as `/topic.field`; no lines across a plot."""
    given = [path['value'] for path in config.get('paths', [])] + ([config['path']] if 'path' in config else [])
    return [path for path in given if path.startswith('/')]


def topics_of(kind: str, config: dict[str, Any]) -> list[str]:
    """Topics that a panel names itself."""
    image = config.get('imageMode', {})
    return [*(image[name] for name in ('imageTopic', 'calibrationTopic') if name in image),
            *image.get('annotations', {}), *config.get('topics', {}),
            *([config['topicToRender']] if 'topicToRender' in config else [])]


def check(layout: dict[str, Any], cameras: tuple[str, ...], surroundings: set[str]) -> None:
    assert layout.keys() == {'configById', 'globalVariables', 'userNodes', 'playbackConfig', 'layout'}
    assert layout['playbackConfig']['speed'] == 1
    assert sorted(panels_of(layout['layout'])) == sorted(layout['configById'])
    outputs = {f'{NODE}/{camera}/{output.name}': output.type_name for camera in cameras for output in OUTPUTS}
    annotations = {f'{NODE}/{camera}/annotations' for camera in cameras}  # where foxglove_msgs is installed
    shown = set()
    for panel, config in layout['configById'].items():
        kind = panel.partition('!')[0]
        assert kind in ('Image', 'Indicator', 'Plot', 'StateTransitions', '3D', 'DiagnosticSummary')
        for topic in topics_of(kind, config):
            assert topic in {*outputs, *annotations, *surroundings, '/diagnostics'}, panel
            assert TYPES[outputs[topic]] == kind if topic in outputs else True
            shown.add(topic)
        for path in paths_of(config):
            topic, *fields = path.split('.')
            assert outputs[topic] == SCORE.type_name
            kinds = AnomalyScore.get_fields_and_field_types()
            if fields[0] == 'drift':
                kinds, fields = Drift.get_fields_and_field_types(), fields[1:]
            assert kinds[fields[0]] in NUMBERS, path
            shown.add(topic)
        # what these panels show nothing without
        assert kind != 'Image' or config['imageMode']['imageTopic']
        assert kind != 'Plot' or all(path['enabled'] and path['timestampMethod'] for path in config['paths'])
        assert kind != 'StateTransitions' or config['paths']
        assert kind != '3D' or any(topic['visible'] for topic in config['topics'].values())
        assert kind != 'Indicator' or all(isinstance(rule['rawValue'], str) for rule in config['rules'])
    for camera in cameras:
        assert {f'{NODE}/{camera}/{name}' for name in ('annotations', 'overlay', 'score', 'markers')} <= shown


@pytest.mark.parametrize(('file', 'cameras'), SHIPPED.items())
def test_the_shipped_layouts_show_what_the_detector_publishes(file: str, cameras: tuple[str, ...]) -> None:
    content = (CONFIG / file).read_text()
    assert content == shipped_layouts()[file], f'run python -m semanom_ros.ros.foxglove, and commit config/{file}'
    check(json.loads(content), cameras, {f'/{camera}/{name}' for camera in cameras
                                         for name in ('image_raw', 'camera_info')})


@pytest.mark.parametrize(('given', 'compressed', 'camera', 'info'), [
    (['/front/image_raw/compressed'], True, '/front/image_raw/compressed', '/front/camera_info'),
    (['/front/image'], False, '/front/image', '/front/camera_info'),
    ([], True, '/robot/watch/input/front/image/compressed', '/robot/watch/input/front/camera_info')])
def test_topics_of_one_camera(given: list[str], compressed: bool, camera: str, info: str) -> None:
    layout = json.loads(foxglove_layout('/robot/watch', ['front'], given, compressed))
    image = layout['configById']['Image!front_camera']['imageMode']
    assert (image['imageTopic'], image['calibrationTopic']) == (camera, info)
    assert list(image['annotations']) == ['/robot/watch/front/annotations']


def test_a_picture_that_was_recorded_as_jpeg_is_shown_from_that() -> None:
    recorded = {'/camera/image_raw/compressed', f'{NODE}/camera/overlay/compressed', f'{NODE}/camera/mask'}
    layout = json.loads(foxglove_layout(NODE, ['camera'], ['/camera/image_raw'], recorded=recorded, fixed_frame='map'))
    panels = layout['configById']
    assert panels['Image!camera_camera']['imageMode']['imageTopic'] == '/camera/image_raw/compressed'
    assert panels['Image!camera_overlay']['imageMode']['imageTopic'] == f'{NODE}/camera/overlay/compressed'
    assert panels['Image!mask']['imageMode']['imageTopic'] == f'{NODE}/camera/mask'
    assert panels['3D!scene']['followTf'] == 'map'
