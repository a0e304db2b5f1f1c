"""The layout that RViz opens with, and the topics in it."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
import yaml

from semanom_ros.ros.outputs import OUTPUTS
from semanom_ros.ros.rviz import MOST_OVERLAYS, rviz_config

FILE = Path(__file__).resolve().parents[2] / 'config' / 'semanom.rviz'
TEMPLATE = FILE.read_text()


def topics(content: str) -> dict[str, str]:
    """Topic of each display that has one, in order."""
    displays = yaml.safe_load(content)['Visualization Manager']['Displays']
    return {display['Name']: display['Topic']['Value'] for display in displays if 'Topic' in display}


def docks() -> set[str]:
    """Names in the window's state, which Qt writes as a length and UTF-16."""
    state = bytes.fromhex(str(yaml.safe_load(TEMPLATE)['Window Geometry']['QMainWindow State']))
    assert state[:8] == struct.pack('>II', 0xff, 0), 'of QMainWindow::saveState'
    found = set()
    for start in range(len(state) - 4):
        (length,) = struct.unpack_from('>I', state, start)
        if 0 < length < 64 and length % 2 == 0:
            name = state[start + 4:start + 4 + length].decode('utf-16-be', errors='replace')
            if name.isascii() and name.replace(' ', '').isalnum():
                found.add(name)
    return found


def test_every_dock_has_its_place() -> None:
    content: dict[str, Any] = yaml.safe_load(TEMPLATE)
    panels = {panel['Name'] for panel in content['Panels']}
    pictures = {display['Name'] for display in content['Visualization Manager']['Displays']
                if display['Class'].endswith('/Image')}
    overlays = {'Overlay', *(f'Overlay {number}' for number in range(2, MOST_OVERLAYS + 1))}
    assert panels | pictures | overlays <= docks()
    assert content['Window Geometry'].keys() >= pictures | panels


def test_the_file_shows_what_the_detector_publishes() -> None:
    names = {output.name for output in OUTPUTS}
    for name, topic in topics(TEMPLATE).items():
        if name != 'Camera':
            assert topic.removeprefix('/semanom_detector/camera/') in names


@pytest.mark.parametrize(('given', 'compressed', 'camera'), [
    (['/front/image_raw/compressed'], True, '/front/image_raw/compressed'), (['/front/image'], False, '/front/image'),
    (['/front/image'], True, '/front/image/compressed'), ([], False, '/robot/watch/input/front/image'),
    ([], True, '/robot/watch/input/front/image/compressed')])
def test_topics_of_one_camera(given: list[str], compressed: bool, camera: str) -> None:
    found = topics(rviz_config(TEMPLATE, '/robot/watch', ['front'], given, compressed))
    assert found == {'Anomalies': '/robot/watch/front/markers', 'Overlay': '/robot/watch/front/overlay',
                     'Camera': camera, 'Anomaly map': '/robot/watch/front/anomaly_map'}


def test_several_cameras_have_their_overlays() -> None:
    names = ['a', 'b', 'c', 'd', 'e']
    content = rviz_config(TEMPLATE, '/semanom_detector', names, [f'/{name}/image' for name in names])
    found = topics(content)
    assert [found['Overlay'], found['Overlay 2'], found['Overlay 4']] == [
        f'/semanom_detector/{name}/overlay' for name in 'abd']
    assert found['Anomalies 3'] == '/semanom_detector/c/markers'
    assert (found['Camera'], found['Anomaly map']) == ('/a/image', '/semanom_detector/a/anomaly_map')
    assert len(found) == 2 * MOST_OVERLAYS + 2
    before, after = (yaml.safe_load(one)['Window Geometry'] for one in (TEMPLATE, content))
    assert before == after
