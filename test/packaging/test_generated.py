"""What is generated from the parameter table is what the table says."""

from __future__ import annotations

from pathlib import Path

import pytest

from semanom_ros.parameters import (
    DETECTOR,
    METHOD,
    NODE,
    RECORDER,
    generated_files,
    read_yaml,
    resolve,
    table,
)

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize('name', ['config/detector.yaml', 'config/recorder.yaml', 'README.md'])
def test_generated_files_are_up_to_date(name: str) -> None:
    expected = generated_files(REPOSITORY)[REPOSITORY / name]
    assert (REPOSITORY / name).read_text() == expected, f'run python -m semanom_ros.parameters, and commit {name}'


@pytest.mark.parametrize(
    ('name', 'groups'), [('detector', (METHOD, NODE, DETECTOR)), ('recorder', (METHOD, NODE, RECORDER))]
)
def test_parameter_files_hold_the_defaults_in_the_right_types(name: str, groups: tuple[str, ...]) -> None:
    given = read_yaml(REPOSITORY / 'config' / f'{name}.yaml')
    assert list(given) == [parameter.name for parameter in table(*groups)]
    assert resolve(given, *groups) == resolve({}, *groups)
