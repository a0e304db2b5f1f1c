"""Parameter files mean to the command line and the launch files what they mean to a node."""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import rclpy
from hypothesis import example, given
from hypothesis import strategies as st

from semanom_ros.commands.options import given_parameters, settings_of
from semanom_ros.errors import ParameterError
from semanom_ros.parameter_files import read_yaml
from semanom_ros.parameter_yaml import DEEPEST, sections_of, value_of
from semanom_ros.small_files import LARGEST, read_phrases

NODE = 'semanom_detector'
CORPUS = sorted((Path(__file__).resolve().parents[1] / 'corpus' / 'parameters').iterdir())
NUMBERS = st.text('0123456789+-._eExXaApPinfNF', max_size=12)
WORDS = st.sampled_from([
    '1e-3', '1E5', '0x1F', '010', '08', '0o17', '0b11', '1_000', '1:30', '9223372036854775808', '-9223372036854775808',
    '1e400', '1e-310', '.inf', '-.INF', '+.inf', '.nan', '-.nan', 'inf', 'nan', 'Infinity', 'yes', 'No', 'oN',
    'on', 'y', 'TRUE', 'tRUE', 'null', '~', 'Null', '2023-01-01', '0x1p-3', '1.', '.5', '.', '-', '+', '5 6', 'street',
    "'1e-3'", '"yes"', "''", '!!str 5', '!!int 5', '!!float 5', '!!bool 5', '!!null x', '! 5', '&a 5', '|-\n      7',
    '>-\n      8', '|\n      7', '"a\\tb"', '[1, 2]', '[1, 2.0]', '[1e-3, 2.5]', '[yes, off]', '[a, 1]', "['1', '2']"])


@pytest.fixture(scope='module')
def of_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., dict[str, Any]]]:
    """What a real node, started with a file, has of it."""
    file = tmp_path_factory.mktemp('rcl') / 'parameters.yaml'
    context = rclpy.Context()
    rclpy.init(context=context)

    def read(text: str, name: str = NODE, namespace: str = '') -> dict[str, Any]:
        file.write_text(text)
        arguments = ['--ros-args', '--params-file', str(file)]
        node = rclpy.create_node(name, context=context, namespace=namespace, cli_args=arguments, enable_rosout=False,
                                 start_parameter_services=False)
        found = {key: one.value for key, one in node._parameter_overrides.items() if key != 'use_sim_time'}
        node.destroy_node()
        return {key: list(value) if isinstance(value, list | tuple) or hasattr(value, 'typecode') else value
                for key, value in found.items()}

    yield read
    rclpy.shutdown(context=context)


def same(one: Any, other: Any) -> bool:
    """Of one type and value."""
    if isinstance(one, list):
        return isinstance(other, list) and len(one) == len(other) and all(map(same, one, other))
    nan = isinstance(one, float) and isinstance(other, float) and math.isnan(one) and math.isnan(other)
    return type(one) is type(other) and (one == other or nan)


def check_one_line(error: ParameterError) -> None:
    assert '\n' not in str(error)


def ours(file: Path, text: str) -> Any:
    """The value of the one parameter; None where it is refused."""
    file.write_text(text)
    try:
        return sections_of(file)[0].values['number']
    except ParameterError as error:
        check_one_line(error)
        return None


@given(st.one_of(NUMBERS, WORDS, st.lists(NUMBERS.filter(bool), min_size=1, max_size=3).map(
    lambda items: f'[{", ".join(items)}]')))
@example('0x')
@example('1e')
def test_a_value_is_what_rcl_reads(of_node: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory,
                                   text: str) -> None:
    content = f'{NODE}:\n  ros__parameters:\n    number: {text}\n'
    try:
        theirs = of_node(content)['number']
    except Exception:
        theirs = None
    found = ours(tmp_path_factory.getbasetemp() / 'ours.yaml', content)
    assert same(found, theirs), text
    if found is not None and '\n' not in text:
        assert same(value_of('number', text), found)


@pytest.mark.parametrize('file', CORPUS, ids=lambda file: file.stem)
@pytest.mark.parametrize('namespace', ['', '/robot', '/fleet/robot'])
def test_sections_are_chosen_as_rcl_does(of_node: Callable[..., dict[str, Any]], trial: Any, file: Path,
                                         namespace: str) -> None:
    theirs = of_node(file.read_text(), namespace=namespace)
    with trial('Parameters', 'a file of the whole robot: namespaces, wildcards, other nodes'):
        merged: dict[str, Any] = {}
        for section in sections_of(file):
            if section.fits(NODE, namespace):
                merged |= section.values
        merged.pop('use_sim_time', None)
        assert merged.keys() == theirs.keys()
        assert all(same(merged[name], theirs[name]) for name in merged), (merged, theirs)


def arguments(file: Path | None = None, *settings: str, node: str = NODE) -> argparse.Namespace:
    return argparse.Namespace(config=file, settings=list(settings), node=node)


ROBOT = """
/camera/driver:
  ros__parameters: {exposure: 1e-3, device: /dev/video0}
/**:
  ros__parameters: {use_sim_time: true, robot_radius: 0.3, false_alarm_rate: 5e-2, qos_overrides: {/tf: {depth: 1}}}
/robot/semanom_detector:
  ros__parameters: {encoder_layer: 0x3, pixel_threshold: 1e-1}
nominal_recorder:
  ros__parameters: {encoder_layer: -2, every_n: 010}
"""


def test_one_file_for_the_whole_robot(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / 'robot.yaml'
    file.write_text(ROBOT)
    detector, recorder = settings_of(arguments(file)), settings_of(arguments(file, node='nominal_recorder'))
    assert (detector.method.encoder.layer, detector.method.alarm.pixel_threshold) == (3, 0.1)
    assert (recorder.method.encoder.layer, recorder.recorder.every_n) == (-2, 8)
    assert detector.method.alarm == recorder.method.alarm.__class__(0.05, pixel_threshold=0.1)
    assert detector.method.encoder.device == 'auto', 'that of the camera driver'
    assert 'parameters robot_radius of /**: not known, ignored' in caplog.text
    assert read_yaml(file, NODE, '') == {'false_alarm_rate': 0.05}
    assert read_yaml(file, NODE, '/robot')['encoder_layer'] == 3


def test_a_file_for_one_node_serves_the_commands_of_the_other(tmp_path: Path) -> None:
    file = tmp_path / 'detector.yaml'
    file.write_text('semanom_detector:\n  ros__parameters:\n    encoder_layer: 3\n')
    assert settings_of(arguments(file, node='nominal_recorder')).method.encoder.layer == 3
    with pytest.raises(ParameterError, match=r'found parameters of /semanom_detector, expected .* /nominal_recorder'):
        read_yaml(file, 'nominal_recorder', '')


@pytest.mark.parametrize(('given', 'found'), [
    ('1e-3', 0.001), ('5', 5), ('yes', True), ("'5'", '5'), ('!!str 1e3', '1e3'), ('', ''), ('null', 'null'),
    ('[1, 2]', [1, 2]), ('2023-13-45', '2023-13-45'), ('timm:vit', 'timm:vit'), ('0x10', 16)])
def test_a_setting_is_read_as_ros_reads_it(given: str, found: Any) -> None:
    assert same(given_parameters(arguments(None, f'name={given}'))['name'], found)


@pytest.mark.parametrize(('content', 'words'), [
    ('', 'found no parameters, expected node'), ('- 1\n', 'found no mapping'), ('5\n', 'found no mapping'),
    ('camera:\n  ros__parameters:\n    rate: 5\n', r'found parameters of /camera, expected .*/semanom_detector'),
    ('/a/semanom_detector:\n  ros__parameters: {}\n/b/semanom_detector:\n  ros__parameters: {}\n', 'of one node'),
    ('ros__parameters:\n  rate: 5\n', "ros__parameters of ''"), ('a b:\n  ros__parameters: {}\n', "of 'a b'"),
    ('semanom_detector:\n  encoder: x\n', 'found a value of encoder, expected ros__parameters above it'),
    ('semanom_detector:\n  ros__parameters:\n', 'found nothing below ros__parameters, expected parameters there'),
    ('semanom_detector:\n', 'found nothing below semanom_detector, expected ros__parameters there'),
    ('/**:\n  ros__parameters:\n    filter: {spatial: no}\n', 'not known; expected one of filter_spatial'),
    ('/**:\n  ros__parameters:\n    database: 1e5\n', 'expected a str .in quotes where it looks like another type'),
    ('/**:\n  ros__parameters:\n    false_alarm_rat: 0.1\n', 'parameter false_alarm_rat: not known'),
    ('semanom_detector:\n  ros__parameters:\n    robot_radius: 0.1\n', 'parameter robot_radius: not known'),
    ('/**:\n  ros__parameters:\n    a: &x 1\n    b: *x\n', r'line 4: found the alias \*x'),
    ('/**:\n  ros__parameters:\n    encoder:\n', 'line 3: found no value|line 4: found no value'),
    ('/**:\n  ros__parameters:\n    a: [1, 2.0]\n', r'found 2.0 in a list of int'),
    ('/**:\n  ros__parameters:\n    a: [[1]]\n', 'a list or mapping in a list'),
    ('/**:\n  ros__parameters:\n    a: 1\n    a: x\n', 'parameter a twice'),
    ('/**:\n  ros__parameters:\n    ? [1]\n    : 2\n', 'a key that is no name'),
    ('/**:\n\tros__parameters:\n', 'unreadable as YAML'), ('\x00', 'unreadable as YAML'),
    ('/**: {ros__parameters: {a: "\\0"}}', 'a NUL character'),
])
def test_what_is_no_parameter_file_is_one_line(trial: Any, tmp_path: Path, content: str, words: str) -> None:
    file = tmp_path / 'file.yaml'
    file.write_text(content)
    with trial('Parameters', 'a file that is no parameter file'):
        with pytest.raises(ParameterError, match=words) as caught:
            settings_of(arguments(file))
        assert '\n' not in str(caught.value)


@pytest.mark.parametrize('setting', ['encoder:=x', '=5', 'encoder', ' = 5', ''])
def test_a_setting_without_name_or_value_is_one_line(trial: Any, setting: str) -> None:
    with trial('Parameters', 'a setting that is none'), pytest.raises(
            ParameterError, match=r'found (:=|no name or no =), expected NAME=VALUE'):
        given_parameters(arguments(None, setting))


BOMB = '/**:\n  ros__parameters:\n    a0: &a0 [x, x]\n' + ''.join(
    f'    a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n' for n in range(1, 60))


@pytest.mark.parametrize(('content', 'words'), [
    (b'[' * 20_000, 'found no mapping|as YAML'), (b'{a: ' * 20_000, f'more than {DEEPEST} levels'),
    (b'/**: {ros__parameters: {a: ' + b'[' * 20_000, 'in a list|as YAML'),
    (b'a:' * 20_000, 'unreadable|no mapping|value'),
    (BOMB.encode(), 'found the alias'), (b'#' * (LARGEST + 1), 'found more than'), (b'\xff\xfe\x00\xd8', 'YAML'),
], ids=['lists', 'mappings', 'lists_in_parameters', 'keys', 'aliases', 'size', 'code'])
def test_hostile_files_cost_little(trial: Any, tmp_path: Path, content: bytes, words: str) -> None:
    file = tmp_path / 'file.yaml'
    file.write_bytes(content)
    with trial('Parameters', 'deep, large and multiplying files'):
        begun = time.monotonic()
        with pytest.raises(ParameterError, match=words) as caught:
            settings_of(arguments(file))
        assert len(str(caught.value)) < 1000
        assert time.monotonic() - begun < 5


def test_special_files_are_named(trial: Any, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / 'pipe')
    with trial('Parameters', 'special files', times=5):
        for path, words in ((Path('/dev/zero'), 'no regular file'), (tmp_path / 'pipe', 'no regular file'),
                            (tmp_path, 'Is a directory'), (tmp_path / 'gone', 'No such file'),
                            (Path('/proc/self/mem'), 'unreadable')):
            with pytest.raises(ParameterError, match=words) as caught:
                settings_of(arguments(path))
            assert str(path) in str(caught.value)


@pytest.mark.parametrize('name', ['label_vocabulary', 'segmenter_prompts'])
def test_lists_of_words_are_read_with_the_same_care(trial: Any, tmp_path: Path, name: str) -> None:
    large = tmp_path / 'large.txt'
    large.write_bytes(b'a\n' * LARGEST)
    with trial('Parameters', 'special files', times=2):
        for path in (Path('/dev/zero'), large):
            with pytest.raises(ParameterError, match=rf'parameter {name}: {path} is unreadable .*expected'):
                read_phrases(path, name, 'word')


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / 'any.yaml'
    file.write_bytes(content)
    try:
        sections_of(file)
    except ParameterError as error:
        check_one_line(error)
