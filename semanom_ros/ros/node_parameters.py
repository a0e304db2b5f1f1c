"""The parameter table on a ROS node."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter

from semanom_ros.errors import ParameterError
from semanom_ros.parameter_files import OF_EVERY_NODE
from semanom_ros.parameters import Parameter, Section, Value
from semanom_ros.settings import Settings

# a descriptor's range has both ends; these stand for the missing one
_LOWEST, _HIGHEST = -1.0e308, 1.0e308
_LOWEST_INTEGER, _HIGHEST_INTEGER = -2**63, 2**63 - 1


class NodeParameters:
    """Declares sections of the table on a node and keeps their values valid.

    The node must be created with `automatically_declare_parameters_from_overrides=True`,
    within `typed_parameters`; only so a misspelt name in a parameter file can be seen.
    """

    def __init__(self, node: Node, *sections: type[Section], locked: Callable[[], bool] = lambda: False,
                 changed: Callable[[dict[str, Value]], None] | None = None) -> None:
        """Declares the parameters.

        Args:
            node: where.
            sections: of the table.
            locked: whether parameters that are not `live` may not be set at present.
            changed: is called with the new values of `live` parameters, just before they
                are set; raises a ParameterError to refuse them.

        Raises:
            ParameterError: a value from a parameter file or the command line is bad.
        """
        self._node = node
        self._locked = locked
        self._changed = changed
        self._parameters = {name: parameter for section in sections for name, parameter in section.table().items()}
        for parameter in self._parameters.values():
            self._declare(parameter)
        known = {*Settings.table(), *OF_EVERY_NODE}
        for name in node.get_parameters_by_prefix(''):
            if name.split('.')[0] not in known:
                node.get_logger().warning(f'parameter {name}: not known, ignored; check its spelling')
        node.add_pre_set_parameters_callback(self._convert)
        node.add_on_set_parameters_callback(self._check)

    def settings(self) -> Settings:
        """The values of the sections, checked; the defaults of the others."""
        return Settings.of({name: self._node.get_parameter(name).value for name in self._parameters})

    def _declare(self, parameter: Parameter) -> None:
        value = parameter.default
        if self._node.has_parameter(parameter.name):  # given: declared anew with its type and description
            value = parameter.check(self._node.get_parameter(parameter.name).value)
            self._node.undeclare_parameter(parameter.name)
        self._node.declare_parameter(parameter.name, value, describe(parameter), ignore_override=True)

    def _convert(self, given: list[RosParameter[Any]]) -> list[RosParameter[Any]]:
        """`1` is meant as 1.0 where a parameter is a float."""
        return [RosParameter(p.name, value=self._floats(self._parameters[p.name], p.value))
                if p.name in self._parameters and p.value is not None else p for p in given]

    @staticmethod
    def _floats(parameter: Parameter, value: Any) -> Any:
        if isinstance(parameter.default, float) and type(value) is int:
            return float(value)
        if isinstance(parameter.default, list) and isinstance(parameter.default[0], float) and isinstance(value, list):
            return [float(item) if type(item) is int else item for item in value]
        return value

    def _check(self, given: list[RosParameter[Any]]) -> SetParametersResult:
        live: dict[str, Value] = {}
        try:
            for one in given:
                parameter = self._parameters.get(one.name)
                if parameter is None:
                    continue
                value = parameter.check(one.value)
                if parameter.live:
                    live[one.name] = value
                elif self._locked() and value != parameter.check(self._node.get_parameter(one.name).value):
                    raise ParameterError(f'parameter {one.name}: is read at configure; clean the node up, set it, and '
                                         'configure again')
            if live and self._changed is not None:
                self._changed(live)
        except ParameterError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)


@contextmanager
def typed_parameters() -> Iterator[None]:
    """Goes round the constructor of a node that declares its parameters from overrides.

    Raises:
        ParameterError: one of them is an empty list, which rclpy cannot type.
    """
    try:
        yield
    except ValueError as error:
        raise ParameterError(f'parameters: found an empty list, expected none, because it has no type in ROS; leave it '
                             f'out or fill it ({error})') from error


def describe(parameter: Parameter) -> ParameterDescriptor:
    """The descriptor that `ros2 param describe` and rqt show."""
    when = '' if parameter.live else 'fixed when the node starts' if parameter.fixed else 'read at configure'
    bounded = parameter.minimum is not None or parameter.maximum is not None
    of_each = isinstance(parameter.default, list) and parameter.minimum is not None and parameter.maximum is not None
    descriptor = ParameterDescriptor(
        name=parameter.name, description=parameter.description, read_only=parameter.fixed,
        additional_constraints='; '.join(filter(None, [
            f'one of {", ".join(parameter.choices)}' if parameter.choices else '',
            f'{parameter.length} values' if parameter.length else '',
            f'each from {parameter.minimum:g} to {parameter.maximum:g}' if of_each else '', when])))
    if bounded and type(parameter.default) is int:
        descriptor.integer_range = [IntegerRange(
            from_value=_LOWEST_INTEGER if parameter.minimum is None else int(parameter.minimum),
            to_value=_HIGHEST_INTEGER if parameter.maximum is None else int(parameter.maximum))]
    elif bounded and type(parameter.default) is float:
        descriptor.floating_point_range = [FloatingPointRange(
            from_value=_LOWEST if parameter.minimum is None else parameter.minimum,
            to_value=_HIGHEST if parameter.maximum is None else parameter.maximum)]
    return descriptor
