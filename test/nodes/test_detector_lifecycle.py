"""The detector's lifecycle, over the services that a lifecycle manager uses."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition, TransitionEvent
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import Log, Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import DescribeParameters, SetParameters
from rclpy.parameter import parameter_value_to_python

from semanom_ros.core.pipeline import Judge
from semanom_ros.errors import ParameterError
from semanom_ros.msg import AnomalyScore, DatabaseInfo
from semanom_ros.nodes.detector import main
from semanom_ros.settings import CameraSettings, DetectorSettings, MethodSettings

ERROR = DiagnosticStatus.ERROR


def set_parameter(bench: Any, name: str, **value: Any) -> Any:
    request = SetParameters.Request(parameters=[Parameter(name=name, value=ParameterValue(**value))])
    return bench.call(SetParameters, '/semanom_detector/set_parameters', request).results[0]


def set_text(bench: Any, name: str, text: str) -> Any:
    return set_parameter(bench, name, type=ParameterType.PARAMETER_STRING, string_value=text)


def test_configure_activate_deactivate_cleanup_and_again(bench: Callable[..., Any], recorded: Path) -> None:
    one = bench(database=str(recorded))
    assert one.state == 'unconfigured'
    assert one.status('detector').message == 'unconfigured'
    reports = one.listen(DiagnosticArray, '/diagnostics')
    for seconds in (1, 10):
        assert one.configure(), one.detector._fault
        assert one.status('detector', lambda s: s.message == 'inactive')
        assert 'configuring' in [report.status[0].message for report in reports]
        assert one.state == 'inactive'
        scores = one.listen(AnomalyScore, 'camera/score')
        for later in (0, 1):
            assert one.activate()
            assert one.state == 'active'
            one.send(one.street(100), (seconds + later) * one.second)
            one.spin_until(scores.__len__, what='score')
            assert [score.header.stamp.sec for score in scores] == [seconds + later]
            scores.clear()
            assert one.deactivate()
            assert one.state == 'inactive'
            assert not one.node.count_subscribers('/semanom_detector/input/camera/image')
        assert one.cleanup()
        assert one.state == 'unconfigured'
        one.spin_until(lambda: not one.node.count_publishers('/semanom_detector/camera/score'), what='topics gone')


@pytest.mark.parametrize(('steps', 'transition'), [
    ((), Transition.TRANSITION_UNCONFIGURED_SHUTDOWN),
    (('configure',), Transition.TRANSITION_INACTIVE_SHUTDOWN),
    (('configure', 'activate'), Transition.TRANSITION_ACTIVE_SHUTDOWN),
])
def test_shutdown_works_from_every_state(
        bench: Callable[..., Any], recorded: Path, steps: tuple[str, ...], transition: int) -> None:
    one = bench(database=str(recorded))
    for step in steps:
        assert getattr(one, step)()
    assert one.change(transition)
    assert one.state == 'finalized'
    assert one.detector._judge is None
    assert not one.detector._threads


def test_cleanup_frees_the_model_and_the_database(active: Callable[..., Any]) -> None:
    one = active()
    scores = one.listen(AnomalyScore, 'camera/score')
    one.send(one.street_with_box(100), one.second)
    one.spin_until(lambda: scores)
    judge = one.detector._judge
    held = [weakref.ref(thing) for thing in (judge, judge.embedder, judge.embedder.encoder, judge.database)]
    del judge
    assert one.deactivate()
    assert one.cleanup()
    assert [reference() for reference in held] == [None] * 4


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_cleanup_frees_the_gpu(bench: Callable[..., Any], recorded: Path) -> None:
    before = torch.cuda.memory_allocated()
    one = bench(database=str(recorded), device='cuda')
    assert one.configure()
    assert torch.cuda.memory_allocated() > before
    assert one.cleanup()
    assert torch.cuda.memory_allocated() <= before


def flip_a_bit(database: Path) -> Path:
    file = max(database.rglob('vectors.f32'), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    return file


def lose_a_file(database: Path) -> Path:
    file = next(database.rglob('positions.f32'))
    file.unlink()
    return file


def cut_the_manifest(database: Path) -> Path:
    file = database / 'manifest.json'
    file.write_text(file.read_text()[:100])
    return file


def take_a_newer_format(database: Path) -> Path:
    file = database / 'manifest.json'
    file.write_text(json.dumps({**json.loads(file.read_text()), 'schema_version': 99}))
    return file


@pytest.mark.parametrize('harm', [flip_a_bit, lose_a_file, cut_the_manifest, take_a_newer_format])
def test_a_corrupt_database_fails_configure_until_it_is_mended(
        bench: Callable[..., Any], recorded: Path, tmp_path: Path, harm: Callable[[Path], Path]) -> None:
    database = tmp_path / 'nominal'
    shutil.copytree(recorded, database)
    culprit = harm(database)
    one = bench(database=str(database))
    assert not one.configure()
    assert one.state == 'unconfigured'
    assert one.detector._judge is None
    status = one.status('detector', lambda s: s.level == ERROR)
    assert str(culprit) in status.message
    assert '\n' not in status.message
    shutil.rmtree(database)
    shutil.copytree(recorded, database)
    assert one.configure(), one.detector._fault
    assert one.status('detector', lambda s: s.level != ERROR)


@pytest.mark.parametrize(('name', 'bad', 'words'), [
    ('database', '', 'database'),
    ('database', '/nowhere/at/all', '/nowhere/at/all'),
    ('encoder', 'torchscript:/nowhere/model.ts', '/nowhere/model.ts'),
    ('encoder', 'no-such-encoder', 'no-such-encoder'),
    ('device', 'cuda:99', 'cuda:99'),
])
def test_a_bad_parameter_fails_configure_until_it_is_set_right(
        bench: Callable[..., Any], recorded: Path, encoder: dict[str, Any], name: str, bad: str, words: str) -> None:
    good = {'database': str(recorded), 'device': 'auto', **encoder}
    one = bench(**{**good, name: bad})
    logged = one.listen(Log, '/rosout')
    events = one.listen(TransitionEvent, 'transition_event')
    one.spin_until(lambda: one.node.count_publishers('/semanom_detector/transition_event'))
    assert not one.configure()
    one.spin_until(lambda: [e for e in events if e.goal_state.label == 'unconfigured'], what='transition event')
    assert 'errorprocessing' not in [event.goal_state.label for event in events]
    assert one.state == 'unconfigured'
    assert words in one.status('detector', lambda s: s.level == ERROR).message
    one.spin_until(lambda: [entry for entry in logged if words in entry.msg and entry.level == 40], what='log')
    assert len([entry for entry in logged if words in entry.msg]) == 1
    assert set_text(one, name, good[name]).successful
    assert one.configure(), one.detector._fault


def test_a_database_of_another_encoder_is_refused(
        bench: Callable[..., Any], recorded: Path, tmp_path: Path, encoder: dict[str, Any]) -> None:
    class Other(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            means = torch.nn.functional.avg_pool2d(images, 8) + 0.1
            return torch.cat([means, means[:, :1]], dim=1)

    other = tmp_path / 'other.ts'
    torch.jit.trace(Other(), torch.zeros(1, 3, 96, 128)).save(str(other))
    one = bench(database=str(recorded), encoder=f'torchscript:{other}')
    assert not one.configure()
    message = one.status('detector', lambda s: s.level == ERROR).message
    assert str(recorded) in message
    assert 'other.ts' in message
    assert set_text(one, 'encoder', encoder['encoder']).successful
    assert one.configure()


def test_an_unexpected_failure_leaves_the_node_configurable(
        bench: Callable[..., Any], recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Provoked by replacing the loader: no real input is known to do it."""
    one = bench(database=str(recorded))
    with monkeypatch.context() as patch:
        patch.setattr(Judge, 'load', lambda *_: 1 / 0)
        assert not one.configure()
        assert one.state == 'unconfigured'
        assert 'division by zero' in one.status('detector', lambda s: s.level == ERROR).message
    assert one.configure()


@pytest.mark.parametrize('names', [['front', 'front'], ['9lives'], ['a b'], ['a/b'], ['']])
def test_camera_names_that_are_no_topics_are_refused(
        bench: Callable[..., Any], recorded: Path, names: list[str]) -> None:
    one = bench(database=str(recorded), camera_names=names)
    assert not one.configure()
    assert 'camera_names' in one.detector._fault


def test_a_bad_value_at_the_start_is_one_clear_error(bench: Callable[..., Any]) -> None:
    with pytest.raises(ParameterError, match=r'max_age: found -1\.0, expected at least 0'):
        bench(max_age=-1.0)


def test_live_parameters_change_results_at_once(active: Callable[..., Any]) -> None:
    one = active()

    def verdict() -> bool:
        return one.verdict(one.street_with_box(100)).anomalous

    assert verdict()
    # an integer for a float is what `ros2 param set` sends for a round number
    assert set_parameter(one, 'filter_min_area', type=ParameterType.PARAMETER_INTEGER, integer_value=1).successful
    assert not verdict()
    assert set_parameter(one, 'filter_min_area', type=ParameterType.PARAMETER_DOUBLE, double_value=0.001).successful
    assert verdict()
    refused = set_parameter(one, 'filter_min_area', type=ParameterType.PARAMETER_DOUBLE, double_value=7.0)
    assert not refused.successful
    assert 'filter_min_area' in refused.reason
    assert verdict()


def test_what_is_read_at_configure_cannot_change_before_cleanup(active: Callable[..., Any], learned: Path) -> None:
    one = active()
    refused = set_text(one, 'database', '/elsewhere')
    assert not refused.successful
    assert 'configure' in refused.reason
    assert one.deactivate()
    assert not set_text(one, 'database', '/elsewhere').successful
    assert one.cleanup()
    assert set_text(one, 'database', '/elsewhere').successful
    assert not one.configure()
    assert set_text(one, 'database', str(learned)).successful
    assert one.configure()


def test_every_parameter_describes_itself(bench: Callable[..., Any]) -> None:
    one = bench(false_alarm_rate=0.1)  # given, so declared anew
    request = DescribeParameters.Request(
        names=['false_alarm_rate', 'image_transport', 'overlay_max_width', 'input_size'])
    rate, transport, width, size = one.call(
        DescribeParameters, '/semanom_detector/describe_parameters', request).descriptors
    assert 'nominal frames' in rate.description
    assert rate.type == ParameterType.PARAMETER_DOUBLE
    assert (rate.floating_point_range[0].from_value, rate.floating_point_range[0].to_value) == (0.0001, 0.5)
    assert transport.additional_constraints == 'one of raw, compressed; read at configure'
    assert rate.additional_constraints == '', 'may change while the detector is active'
    assert width.integer_range[0].to_value == 16384
    assert size.additional_constraints == '2 values; each from 0 to 8192; read at configure'
    assert parameter_value_to_python(one.detector.get_parameter('false_alarm_rate').get_parameter_value()) == 0.1


def test_a_dump_of_its_parameters_can_be_loaded_while_it_is_active(active: Callable[..., Any]) -> None:
    """`ros2 param load` sets them one by one: those that are read at configure to what they are."""
    one = active()
    table = {**MethodSettings.table(), **CameraSettings.table(), **DetectorSettings.table()}
    given = [one.detector.get_parameter(name).to_parameter_msg() for name in table if not table[name].fixed]
    answer = one.call(SetParameters, '/semanom_detector/set_parameters', SetParameters.Request(parameters=given))
    assert [result.reason for result in answer.results if not result.successful] == []
    refused = set_text(one, 'variant', 'instance')
    assert refused.reason.startswith('parameter variant: is read at configure')
    refused = set_text(one, 'image_transprt', 'raw')
    assert 'found none called image_transprt, expected image_transport, or another' in refused.reason


def test_a_misspelt_parameter_is_pointed_out(bench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr('rclpy.impl.rcutils_logger.RcutilsLogger.warning', lambda self, text, **_: said.append(text))
    bench(false_alarm_rat=0.1)
    assert [text for text in said if 'false_alarm_rat' in text and 'not known' in text]


def test_the_database_is_announced_to_late_comers(active: Callable[..., Any], learned: Path, drive: Path) -> None:
    one = active()
    info = one.listen(DatabaseInfo, 'database_info', latched=True)
    one.spin_until(lambda: info)
    assert info[0].path == str(learned)
    assert (info[0].version, info[0].dimension, info[0].variant) == (2, 32, 'grid')
    assert info[0].vectors == 130 * 12 * 16
    assert info[0].sources == [str(drive)]
    assert info[0].calibrated
    assert info[0].loaded.sec > 0


@pytest.mark.parametrize(('active', 'number'), [(True, signal.SIGINT), (False, signal.SIGTERM)])
def test_a_signal_ends_the_process_with_status_0(
        bench: Callable[..., Any], recorded: Path, encoder: dict[str, Any], active: bool,
        number: signal.Signals, trial: Any) -> None:
    with trial('Nodes', 'a signal while a node works'):
        observer = bench()
        process = subprocess.Popen(
            [sys.executable, '-m', 'semanom_ros.nodes.detector', '--ros-args', '-r', '__node:=other', '-p',
             f'database:={recorded}', '-p', f'encoder:={encoder["encoder"]}', '-p',
             f'input_size:={encoder["input_size"]}'],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE) if active else ():
                request = ChangeState.Request(transition=Transition(id=transition))
                assert observer.call(ChangeState, '/other/change_state', request, timeout=90).success
            observer.spin_until(lambda: observer.node.count_services('/other/get_state'), 90, 'node')
            process.send_signal(number)
            output, _ = process.communicate(timeout=60)
        finally:
            process.kill()
        assert process.returncode == 0, output
        assert 'Traceback' not in output
        assert 'ERROR' not in output


@pytest.mark.parametrize(('given', 'words'), [
    ('image_transport:=theora', "parameter image_transport: found 'theora', expected one of raw, compressed; correct"),
    ('camera_names:=front', "parameter camera_names: found 'front', expected a list of str; correct it"),
    ('camera_names:=[]', 'parameters: found an empty list, expected none'),
])
def test_a_bad_parameter_ends_the_process_with_status_2(
        ros_domain_id: int, capfd: pytest.CaptureFixture[str], given: str, words: str) -> None:
    assert main(['--ros-args', '-p', given]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f'semanom_detector: {words}')
