"""Descriptors of parameters, as `ros2 param describe` and rqt show them."""

from __future__ import annotations

import pytest

from semanom_ros.parameters import Parameter
from semanom_ros.ros.node_parameters import describe
from semanom_ros.settings import Settings

TABLE = Settings.table()


@pytest.mark.parametrize('parameter', TABLE.values(), ids=TABLE.keys())
def test_a_descriptor_says_what_the_table_says(parameter: Parameter) -> None:
    found = describe(parameter)
    assert (found.name, found.description) == (parameter.name, parameter.description)
    constraints = found.additional_constraints.split('; ') if found.additional_constraints else []
    assert ('read at configure' in constraints) is not (parameter.live or parameter.fixed)
    assert ('fixed when the node starts' in constraints) is parameter.fixed
    assert (f'one of {", ".join(parameter.choices)}' in constraints) is bool(parameter.choices)
    of_list = [f'{parameter.length} values'] if parameter.length else []
    if isinstance(parameter.default, list) and parameter.minimum is not None and parameter.maximum is not None:
        of_list.append(f'each from {parameter.minimum:g} to {parameter.maximum:g}')
    assert [one for one in constraints if one in of_list] == of_list
    assert len(constraints) == (not parameter.live) + bool(parameter.choices) + len(of_list)
    assert found.read_only is parameter.fixed, 'the others may be set before configure'
    bounded = (parameter.minimum, parameter.maximum) != (None, None)
    assert len(found.integer_range) == (bounded and type(parameter.default) is int)
    assert len(found.floating_point_range) == (bounded and type(parameter.default) is float)
    for bounds in (*found.integer_range, *found.floating_point_range):
        assert parameter.minimum is None or bounds.from_value == parameter.minimum
        assert parameter.maximum is None or bounds.to_value == parameter.maximum


def test_both_kinds_are_in_the_table() -> None:
    assert describe(TABLE['encoder']).additional_constraints == 'read at configure'
    assert describe(TABLE['image_transport']).additional_constraints == 'one of raw, compressed; read at configure'
    assert describe(TABLE['false_alarm_rate']).additional_constraints == ''
