"""Starting ROS in a process, so that a mistake in its arguments is one line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import rclpy
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.signals import SignalHandlerOptions

from semanom_ros.errors import ParameterError

_PLACE = re.compile(r', at /\S+:\d+')  # in rcl's source


def start_ros(arguments: Sequence[str] | None,
              signals: SignalHandlerOptions = SignalHandlerOptions.ALL) -> None:
    """`rclpy.init`.

    Args:
        arguments: of the process; None: those that it has.
        signals: that ROS attends to.

    Raises:
        ParameterError: a parameter file, a remapping or another argument is not what ROS reads, or it cannot start.
    """
    try:
        rclpy.init(args=None if arguments is None else list(arguments), signal_handler_options=signals)
    except rclpy_implementation.UnknownROSArgsError as error:
        raise ParameterError(f'ROS does not start: found {error} after --ros-args, expected its own arguments; correct '
                             'them') from error
    except rclpy_implementation.RCLError as error:
        reason = ' '.join(_PLACE.sub('', str(error)).removeprefix('failed to initialize rcl: ').split())
        raise ParameterError(f'ROS does not start: {reason}; correct the arguments after --ros-args') from error


@contextmanager
def running_ros(arguments: Sequence[str] | None) -> Iterator[None]:
    """ROS for a block; `rclpy.init` itself is a context manager only from Kilted on.

    Raises:
        ParameterError: see `start_ros`.
    """
    start_ros(arguments)
    try:
        yield
    finally:
        rclpy.try_shutdown()
