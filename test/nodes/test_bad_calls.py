"""One bad call, or one fault in a callback, does not end a node, and does not leave it half alive."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.msg import ParameterType, ParameterValue
from rcl_interfaces.srv import (
    DescribeParameters,
    GetParameters,
    GetParameterTypes,
    ListParameters,
    SetParameters,
    SetParametersAtomically,
)
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo
from std_srvs.srv import Trigger

from semanom_ros.nodes import detector, nominal_recorder
from semanom_ros.nodes.detector import Detector
from semanom_ros.nodes.nominal_recorder import NominalRecorderNode
from semanom_ros.ros.guarded_node import GuardedExecutor

DETECTOR = '/semanom_detector'


def parameter(name: str, type: int, **value: Any) -> ParameterMessage:
    return ParameterMessage(name=name, value=ParameterValue(type=type, **value))


RATE = 'false_alarm_rate'
BAD = [
    parameter(RATE, 99), parameter(RATE, 255), parameter('nonsense', 99), parameter('nonsense', 1), parameter('', 99),
    parameter(RATE, ParameterType.PARAMETER_NOT_SET), parameter('database', ParameterType.PARAMETER_NOT_SET),
    parameter(RATE, ParameterType.PARAMETER_DOUBLE, double_value=float('nan')),
    parameter(RATE, ParameterType.PARAMETER_DOUBLE, double_value=float('inf')),
    parameter(RATE, ParameterType.PARAMETER_DOUBLE, double_value=-1e308),
    parameter(RATE, ParameterType.PARAMETER_INTEGER, integer_value=2**63 - 1),
    parameter(RATE, ParameterType.PARAMETER_STRING, string_value='x' * 100_000),
    parameter(RATE, ParameterType.PARAMETER_BYTE_ARRAY, byte_array_value=[b'\x00'] * 1000),
    parameter('overlay_max_width', ParameterType.PARAMETER_INTEGER, integer_value=-2**63),
    parameter('input_size', ParameterType.PARAMETER_INTEGER_ARRAY, integer_array_value=[2**40] * 10_000),
    parameter('camera_names', ParameterType.PARAMETER_BOOL_ARRAY, bool_array_value=[True]),
    parameter('camera_names', ParameterType.PARAMETER_STRING_ARRAY, string_array_value=[]),
    parameter('x' * 100_000, ParameterType.PARAMETER_BOOL, bool_value=True),
]


def test_bad_parameters_are_refused_each_for_itself(bench: Callable[..., Any], trial: Any) -> None:
    one = bench()
    good = parameter('marker_lifetime', ParameterType.PARAMETER_DOUBLE, double_value=2.0)
    with trial('Nodes', 'set_parameters with types and values that there are not', times=len(BAD)):
        answer = one.call(SetParameters, f'{DETECTOR}/set_parameters', SetParameters.Request(parameters=[*BAD, good]))
        assert [result.successful for result in answer.results] == [False] * len(BAD) + [True]
        assert all(result.reason for result in answer.results[:-1])
        for bad in BAD:
            request = SetParametersAtomically.Request(parameters=[good, bad])
            result = one.call(SetParametersAtomically, f'{DETECTOR}/set_parameters_atomically', request).result
            assert not result.successful
            assert result.reason
    assert one.detector.get_parameter('marker_lifetime').value == 2.0
    assert one.detector.get_parameter(RATE).value == 0.01
    status = one.status('detector')
    assert status.level == DiagnosticStatus.OK, 'a caller\'s fault is none of the node'


def test_absurd_requests_are_answered(bench: Callable[..., Any], trial: Any) -> None:
    one = bench()
    names = ['', 'nonsense', 'x' * 100_000, *['database'] * 5000]
    calls = [
        (DescribeParameters, 'describe_parameters', DescribeParameters.Request(names=names)),
        (GetParameters, 'get_parameters', GetParameters.Request(names=names)),
        (GetParameterTypes, 'get_parameter_types', GetParameterTypes.Request(names=names)),
        (ListParameters, 'list_parameters', ListParameters.Request(prefixes=names, depth=2**64 - 1)),
        (SetParameters, 'set_parameters', SetParameters.Request()),
        (SetParametersAtomically, 'set_parameters_atomically', SetParametersAtomically.Request()),
        *((ChangeState, 'change_state', ChangeState.Request(transition=Transition(id=id, label=label)))
          for id, label in ((0, ''), (99, ''), (255, ''), (0, 'nonsense'), (0, 'x' * 10_000), (5, 'configure'))),
    ]
    with trial('Nodes', 'absurd arguments of services', times=len(calls)):
        for kind, name, request in calls:
            assert one.call(kind, f'{DETECTOR}/{name}', request) is not None
        assert one.state == 'unconfigured'
        assert one.status('detector').level == DiagnosticStatus.ERROR, 'configure was asked for without a database'


def test_many_calls_at_once_are_all_answered(active: Callable[..., Any], trial: Any) -> None:
    one = active()
    times = 14  # more than the queue of a service holds by default
    with trial('Nodes', 'many calls of a service at once', times=2 * times):
        for service in ('reload_database', 'accept_as_nominal'):
            client = one.node.create_client(Trigger, f'{DETECTOR}/{service}')
            one.spin_until(client.service_is_ready)
            futures = [client.call_async(Trigger.Request()) for _ in range(times)]
            one.spin_until(lambda futures=futures: all(future.done() for future in futures), 120, service)
            assert all(future.result().message for future in futures)


@pytest.mark.parametrize('place', ['timer', 'subscription', 'service'])
def test_a_fault_in_a_callback_is_said_and_survived(
        active: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], trial: Any,
        place: str) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError('a fault')

    with trial('Nodes', 'an exception in a callback'):
        if place == 'timer':  # what it calls, as the callback itself is bound already
            one = active(latency_limit=0.001)
            monkeypatch.setattr('semanom_ros.ros.mailbox.Mailbox.waiting', fail)
        elif place == 'subscription':
            one = active()
            monkeypatch.setattr('semanom_ros.ros.messages.camera_model', fail)
            publisher = one.publisher(CameraInfo, 'camera/camera_info')
            for _ in range(3):
                publisher.publish(CameraInfo())
        else:
            one = active()
            monkeypatch.setattr(type(one.detector), '_on_live_parameters', fail)
            request = SetParameters.Request(parameters=[
                parameter(RATE, ParameterType.PARAMETER_DOUBLE, double_value=0.1)])
            one.detector._declared._changed = fail
            (result,) = one.call(SetParameters, f'{DETECTOR}/set_parameters', request).results
            assert not result.successful
        status = one.status('detector', lambda status: 'a fault' in status.message, heard=True)
        assert status.level == DiagnosticStatus.ERROR
        monkeypatch.undo()
        one.status('detector', lambda status: status.level == DiagnosticStatus.OK)
        assert one.verdict(one.street(1)).verdict
    assert capfd.readouterr().err.count('Traceback') == 1, 'logged once'


def test_a_request_that_is_no_message_does_not_end_the_node(
        active: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, trial: Any) -> None:
    """What fails in the executor before a callback; here each of the first takes of a request."""
    one = active()
    real, failed = rclpy.executors.Executor._take_service, []

    def take(self: Any, service: Any) -> Any:
        if service.srv_name.endswith('get_parameters') and len(failed) < 3:
            failed.append(service.handle.service_take_request(service.srv_type.Request))
            raise UnicodeDecodeError('utf-8', b'\xff', 0, 1, 'a fault')
        return real(self, service)

    monkeypatch.setattr(rclpy.executors.Executor, '_take_service', take)
    with trial('Nodes', 'requests that are no messages', times=3):
        client = one.node.create_client(GetParameters, f'{DETECTOR}/get_parameters')
        one.spin_until(client.service_is_ready)
        for number in range(3):
            client.call_async(GetParameters.Request(names=[RATE]))
            one.spin_until(lambda number=number: len(failed) > number)
        assert one.call(GetParameters, f'{DETECTOR}/get_parameters', GetParameters.Request(names=[RATE])).values
        one.spin_until(lambda: any('UnicodeDecodeError' in status.message
                                   for message in one.diagnostics for status in message.status))


def test_the_recorder_refuses_as_well(ros_domain_id: int, trial: Any) -> None:
    context = rclpy.Context()
    rclpy.init(context=context)
    node = NominalRecorderNode(context=context)
    executor = GuardedExecutor(node)
    caller = rclpy.create_node('caller', context=context)
    own = rclpy.executors.SingleThreadedExecutor(context=context)
    own.add_node(caller)
    spinning = threading.Thread(target=executor.spin)
    spinning.start()
    try:
        client = caller.create_client(SetParameters, '/nominal_recorder/set_parameters')
        assert client.wait_for_service(30)
        with trial('Nodes', 'set_parameters with types and values that there are not', times=len(BAD)):
            future = client.call_async(SetParameters.Request(parameters=BAD))
            own.spin_until_future_complete(future, 30)
            assert not any(result.successful for result in future.result().results)
            assert len(future.result().results) == len(BAD)
            assert spinning.is_alive()
    finally:
        executor.shutdown()
        spinning.join()
        node.destroy_node()
        caller.destroy_node()
        rclpy.shutdown(context=context)


def test_a_recorder_that_receives_nothing_any_more_ends_with_status_1(
        ros_domain_id: int, tmp_path: Path, encoder: dict[str, Any], monkeypatch: pytest.MonkeyPatch, trial: Any,
        capfd: pytest.CaptureFixture[str]) -> None:
    def spin(self: Any) -> None:
        raise RuntimeError('the wait set is broken')

    monkeypatch.setattr(GuardedExecutor, 'spin', spin)
    given = {**encoder, 'database': str(tmp_path / 'database')}
    arguments = [part for name, value in given.items() for part in ('-p', f'{name}:={value}')]
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with trial('Nodes', 'an executor that fails'):
        try:
            assert nominal_recorder.main(['--ros-args', *arguments]) == 1
        finally:
            for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
                signal.signal(number, handler)
    assert 'no more frames can be received' in capfd.readouterr().err


@pytest.mark.parametrize('given', [
    ['-r', 'foo'], ['-r', '__ns:=1abc'], ['-r', '~/a:=/front camera/x'], ['--params-file', '/nowhere.yaml'],
    ['--log-level', 'loud'], ['-p', 'x'], ['--nonsense'], ['--params-file', 'twice.yaml']])
def test_arguments_that_ros_does_not_read_are_one_line(
        ros_domain_id: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
        trial: Any, given: list[str]) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'twice.yaml').write_text('/**:\n  ros__parameters:\n    a: [1, 2.0]\n')
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with trial('Parameters', 'arguments of a node that ROS does not read', times=2):
        try:
            for node in (detector, nominal_recorder):
                assert node.main(['--ros-args', *given]) == 2
        finally:
            for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
                signal.signal(number, handler)
        said = [line for line in capfd.readouterr().err.splitlines() if '[rcl]' not in line]
        assert [line.split(':')[0] for line in said] == ['semanom_detector', 'nominal_recorder']
        assert all('ROS does not start: ' in line and given[-1] in line and '/src/' not in line for line in said)


@pytest.mark.parametrize(('node', 'status'), [('detector', 0), ('nominal_recorder', 130)])
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_node_is_imported(trial: Any, node: str, status: int, number: signal.Signals) -> None:
    code = ('import sys, builtins\nfrom semanom_ros.nodes import starting\nreal = builtins.__import__\n'
            'def said(name, *rest):\n'
            '    if name == "numpy": print("begun", flush=True)\n'
            '    return real(name, *rest)\n'
            f'builtins.__import__ = said\nsys.exit(starting.{node}())')
    with trial('Nodes', 'a signal while a node starts'):
        process = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline()
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
        assert (process.returncode, said) == (status, b'')


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_while_the_interpreter_ends(trial: Any, number: signal.Signals) -> None:
    code = ('import atexit, sys, types\nfrom semanom_ros.nodes import starting\n'
            'sys.modules["semanom_ros.nodes.detector"] = types.SimpleNamespace(main=lambda: 0)\n'
            'atexit.register(lambda: (print("ended", flush=True), sys.stdin.read()))\nsys.exit(starting.detector())')
    with trial('Nodes', 'a second signal while a node ends'):
        process = subprocess.Popen([sys.executable, '-c', code], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline()
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
        assert (process.returncode, said) == (0, b'')


def test_nothing_that_executors_wait_for_goes_with_a_transition(active: Callable[..., Any]) -> None:
    """An event handler that is destroyed while another thread gathers raises InvalidHandle out of its `spin`."""
    one = active()
    lasting = set(one.detector.waitables)
    assert one.deactivate()
    assert set(one.detector.waitables) == lasting
    assert one.cleanup()
    assert set(one.detector.waitables) == lasting
    handlers = {handler for entity in (*one.detector.subscriptions, *one.detector.publishers)
                for handler in entity.event_handlers}
    assert not handlers & {handler for camera in one.detector._cameras for handler in camera._infos.event_handlers}


@pytest.fixture
def pair(ros_domain_id: int, encoder: dict[str, Any], learned: Path) -> Iterator[list[Detector]]:
    """Two detectors in one process, spun by one executor with several threads."""
    context = rclpy.Context()
    rclpy.init(context=context)
    given = [Parameter(name, value=value) for name, value in {**encoder, 'database': str(learned)}.items()]
    nodes = [Detector(context=context, namespace=name, parameter_overrides=given) for name in ('front', 'rear')]
    executor = MultiThreadedExecutor(4, context=context)
    faults: list[Exception] = []
    for node in nodes:
        executor.add_node(node)

    def spin() -> None:
        with suppress(ExternalShutdownException):
            try:
                executor.spin()
            except Exception as error:
                faults.append(error)
                raise

    thread = threading.Thread(target=spin)
    thread.start()
    yield nodes
    executor.shutdown()
    thread.join()
    for node in nodes:
        node.destroy_node()
    rclpy.shutdown(context=context)
    assert not faults


def test_two_detectors_share_a_process_and_its_threads(pair: list[Detector], trial: Any) -> None:
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node('manager', context=context)
    executor = rclpy.executors.SingleThreadedExecutor(context=context)
    executor.add_node(node)
    clients = [node.create_client(ChangeState, f'/{name}{DETECTOR}/change_state') for name in ('front', 'rear')]
    try:
        with trial('Nodes', 'two nodes in one process with several threads', times=10):
            for client in clients:
                assert client.wait_for_service(30)
            for transition in (1, *[3, 4] * 4, 2):
                futures = [client.call_async(ChangeState.Request(transition=Transition(id=transition)))
                           for client in clients]
                for future in futures:
                    executor.spin_until_future_complete(future, 30)
                    assert future.result().success, transition
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.shutdown(context=context)
