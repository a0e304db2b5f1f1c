"""Which room may import from which, and that no two modules have one name for different things."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / 'semanom_ros'

FLOORS = (
    ('bounds', 'errors'),
    ('home', 'small_files'),
    ('parameters',),
    ('settings',),
    ('parameter_yaml',),
    ('parameter_files',),
    ('core.progress', 'core.fields', 'core.frames', 'core.motion', 'core.overlapping', 'core.picture_decoder',
     'geometry'),
    ('core.embedding',),
    ('core.database', 'core.drift'),
    ('core.scoring',),
    ('core.plausibility',),
    ('core.localization',),
    ('core.curation',),
    ('core.labelling', 'core.results'),
    ('core.pipeline',),
    ('rendering', 'recordings'),
    ('ros',),
    ('simulation', 'finding'),
    ('evaluation', 'review'),
    ('benchmarks', 'fleet'),
    ('nodes', 'commands'),
    ('cli',),
)
"""From the ground up: a room imports from floors below its own, and from itself."""

ROS = ('rclpy', 'rcl_interfaces', 'sensor_msgs', 'std_msgs', 'std_srvs', 'geometry_msgs', 'visualization_msgs',
       'diagnostic_msgs', 'lifecycle_msgs', 'builtin_interfaces', 'rosgraph_msgs', 'tf2_msgs', 'bond', 'vision_msgs',
       'foxglove_msgs', 'cv_bridge', 'launch', 'launch_ros', 'ament_index_python')

MODULES = sorted(path for path in PACKAGE.rglob('*.py') if 'msg' not in path.relative_to(PACKAGE).parts)


def name_of(path: Path) -> str:
    return '.'.join(path.relative_to(PACKAGE).with_suffix('').parts).removesuffix('__init__').rstrip('.')


def imported(path: Path) -> set[str]:
    """Modules that a file imports, at its top or in its functions; absolute names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{path}: relative import'
            found |= {f'{node.module}.{alias.name}' for alias in node.names}
    return found


def floor_of(module: str) -> tuple[int, str]:
    """Index of the floor, and the room, of a module's name below the package."""
    for index, rooms in enumerate(FLOORS):
        for room in rooms:
            if module == room or module.startswith(room + '.'):
                return index, room
    raise AssertionError(f'{module}: on no floor; give it one, or put it into a room')


@pytest.mark.parametrize('path', [path for path in MODULES if name_of(path) not in ('', 'core')], ids=name_of)
def test_imports_go_down(path: Path) -> None:
    floor, room = floor_of(name_of(path))
    for module in imported(path):
        if module.startswith('semanom_ros.') and not module.startswith(('semanom_ros.msg', 'semanom_ros.__version__')):
            other_floor, other = floor_of(module.removeprefix('semanom_ros.'))
            assert other == room or other_floor < floor, f'{room} imports {module}, which stands above or beside it'


@pytest.mark.parametrize('room', ['core', 'recordings', 'rendering', 'geometry'])
def test_needs_no_ros(room: str) -> None:
    for path in MODULES:
        if name_of(path).startswith(room):
            found = {module.split('.')[0] for module in imported(path)}
            assert not found & set(ROS), f'{path}: {found & set(ROS)}'
            assert not any(module.startswith('semanom_ros.msg') for module in imported(path)), path


def test_no_two_modules_have_one_name() -> None:
    places = defaultdict(list)
    for path in MODULES:
        if path.name != '__init__.py':
            places[path.name].append(name_of(path))
    assert not {name: found for name, found in places.items() if len(found) > 1}


def test_what_only_developers_run_is_not_shipped() -> None:
    """Training and the composing of its scenes lie outside the package, and nothing in it needs them."""
    assert not [path for path in MODULES if any(module.split('.')[0] == 'tools' for module in imported(path))]
