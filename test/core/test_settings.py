"""The one table of parameters: typed sections whose rows say what they affect."""

from __future__ import annotations

import argparse
import dataclasses

import pytest
import yaml

from semanom_ros.commands.options import given_parameters
from semanom_ros.core.scoring.calibration import parameters_of
from semanom_ros.errors import ParameterError
from semanom_ros.parameter_files import read_yaml
from semanom_ros.parameters import Affects, Section, row
from semanom_ros.settings import (
    AlarmSettings,
    DriftSettings,
    EncoderSettings,
    FilterSettings,
    MethodSettings,
    ScoreSettings,
    SearchSettings,
    Settings,
)

ROWS = Settings.table()


@dataclasses.dataclass(frozen=True)
class Inner(Section):
    """A section of a few rows."""

    number: float = row(0.5, 'a number', Affects.SEARCH, minimum=0.0, maximum=1.0)
    words: tuple[str, ...] = row(('',), 'words', Affects.RUN, name='inner_words')
    pair: tuple[int, int] = row((0, 0), 'two numbers', Affects.RUN, minimum=0, length=2)


@dataclasses.dataclass(frozen=True)
class Outer(Section):
    """One section in another."""

    on: bool = row(True, 'a switch', Affects.LIVE)
    inner: Inner = Inner()


def sections(section=Settings):
    """Every section in the table that holds rows."""
    inner = [type(field.default) for field in dataclasses.fields(section) if isinstance(field.default, Section)]
    return [found for one in inner for found in sections(one)] or [section]


def test_what_is_given_is_of_its_field():
    given = Outer.of({'number': 1, 'inner_words': ['a', 'b'], 'on': False})
    assert given == Outer(False, Inner(1.0, ('a', 'b')))
    assert type(given.inner.number) is float
    assert Outer.of({}) == Outer()


def test_a_change_makes_another_and_leaves_the_rest():
    before = Outer.of({'inner_words': ('a',)})
    after = before.changed({'number': 0.25})
    assert (before.inner.number, after.inner.number) == (0.5, 0.25)
    assert after.inner.words == ('a',)
    assert before.changed({}) is before
    with pytest.raises(dataclasses.FrozenInstanceError):
        before.on = False


def test_only_live_rows_change_while_the_detector_is_active():
    assert not Outer().live({'on': False}).on
    with pytest.raises(ParameterError, match=r'parameter number: cannot change while loaded; expected one of on$'):
        Outer().live({'on': False, 'number': 0.1})
    settings = MethodSettings().live({'false_alarm_rate': 0.1, 'filter_border': 0.2})
    assert (settings.alarm.false_alarm_rate, settings.filter.border) == (0.1, 0.2)
    live = {name for name, parameter in MethodSettings.table().items() if parameter.live}
    assert live == {*AlarmSettings.table(), *FilterSettings.table(), *DriftSettings.table()}


def test_values_are_as_ros_and_yaml_have_them():
    assert Outer().values() == {'on': True, 'number': 0.5, 'inner_words': [''], 'pair': [0, 0]}
    assert Outer().values(Affects.LIVE, Affects.SEARCH) == {'on': True, 'number': 0.5}
    assert list(Outer().values()) == list(Outer.table())
    for settings in (Settings(), Settings.of({'input_size': [64, 96], 'camera_names': ['front', 'rear']})):
        assert Settings.of(settings.values()) == settings
        assert Settings.of(yaml.safe_load(yaml.safe_dump(settings.values()))) == settings


@pytest.mark.parametrize(('given', 'words'), [
    ({'number': 'much'}, "found 'much', expected a float"), ({'number': True}, 'expected a float'),
    ({'number': 1.5}, 'at most 1'), ({'number': -0.5}, 'at least 0'), ({'number': float('nan')}, 'at least 0'),
    ({'on': 1}, 'expected a bool'), ({'inner_words': 'a'}, 'expected a list'), ({'inner_words': [1]}, 'list of str'),
    ({'pair': [1]}, 'a list of 2 int'), ({'pair': [1, 2, 3]}, 'a list of 2 int'), ({'pair': [1, -2]}, 'at least 0'),
    ({'pair': [1, 2.0]}, 'a list of 2 int'), ({'nonsense': 1}, 'not known; expected one of on, number, inner_words'),
])
def test_what_does_not_fit_is_refused_in_one_line(given, words):
    for make in (Outer.of, Outer().changed):
        with pytest.raises(ParameterError, match=words) as caught:
            make(given)
        assert f'parameter {next(iter(given))}: ' in str(caught.value)
        assert '\n' not in str(caught.value)


@pytest.mark.parametrize('size', [[], [640], [1, 2, 3]])
def test_a_list_of_the_wrong_length_is_refused(size):
    with pytest.raises(ParameterError, match=r'input_size.*expected a list of 2 int'):
        EncoderSettings.of({'input_size': size})


def test_a_bad_value_changes_nothing():
    settings = MethodSettings()
    with pytest.raises(ParameterError, match='false_alarm_rate'):
        settings.live({'filter_border': 0.1, 'false_alarm_rate': 2.0})
    assert settings == MethodSettings()


@pytest.mark.parametrize('name', ROWS)
def test_a_default_passes_its_own_check(name):
    parameter = ROWS[name]
    assert parameter.check(parameter.default) == parameter.default
    assert parameter.name == name
    assert parameter.description
    assert not parameter.description.endswith('.')


def test_names_are_given_once():
    names = [name for section in sections() for name in section.table()]
    assert len(names) == len(set(names))
    assert sorted(names) == sorted(ROWS)


def test_a_row_has_the_type_of_its_field():
    for section in sections():
        for name, value in section().values().items():
            assert type(value) is type(section.table()[name].default)


def test_rows_stand_where_what_they_affect_is_decided():
    """A database's view is known by SearchSettings alone, and what a score depends on by that and ScoreSettings."""
    by_effect = {effect: {name for name, row in ROWS.items() if row.affects is effect} for effect in Affects}
    assert set(SearchSettings.table()) == by_effect[Affects.SEARCH]
    assert set(ScoreSettings.table()) == by_effect[Affects.SCORE]
    assert set(parameters_of(SearchSettings(), ScoreSettings())) == by_effect[Affects.SEARCH] | by_effect[Affects.SCORE]
    method = MethodSettings.of({'position_weight': 0.5, 'neighbours': 3, 'false_alarm_rate': 0.1})
    assert parameters_of(method.search, method.score) == method.values(Affects.SEARCH, Affects.SCORE)


@pytest.mark.parametrize('given', [{'a': 1}, {1, 2}, [], ()])
def test_a_list_is_a_list_and_never_empty(given):
    with pytest.raises(ParameterError, match=r'parameter inner_words: found .*, expected a list'):
        Outer.of({'inner_words': given})


@pytest.mark.parametrize('given', ['{', '[1', '{a: 1}', '@', '"'])
def test_a_value_that_is_no_yaml_is_one_line(given, tmp_path):
    with pytest.raises(ParameterError, match=r'--set encoder=.*: (unreadable as YAML|.*found a mapping)') as caught:
        given_parameters(argparse.Namespace(config=None, settings=[f'encoder={given}']))
    assert '\n' not in str(caught.value)
    file = tmp_path / 'file.yaml'
    file.write_text(f'/**:\n  ros__parameters:\n    encoder: {given}\n')
    with pytest.raises(ParameterError, match=r'unreadable as YAML|found no mapping|not known') as caught:
        Settings.of(read_yaml(file))
    assert '\n' not in str(caught.value)
