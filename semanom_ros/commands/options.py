"""Options that several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import yaml

from semanom_ros.errors import ParameterError
from semanom_ros.parameter_files import read_yaml
from semanom_ros.settings import Settings


def add_parameter_options(parser: argparse.ArgumentParser) -> None:
    """Adds `--config` and `--set`."""
    parser.add_argument('--config', type=Path, metavar='YAML', help='ROS parameter file, the same that the nodes take')
    parser.add_argument('--set', action='append', default=[], metavar='NAME=VALUE', dest='settings',
                        help='one parameter, over the file\'s; may be given several times')


def given_parameters(arguments: argparse.Namespace) -> dict[str, Any]:
    """The parameters that the options give, unchecked.

    Raises:
        ParameterError: the file is unreadable, or a setting is none.
    """
    given: dict[str, Any] = read_yaml(arguments.config) if arguments.config else {}
    for setting in arguments.settings:
        name, equals, value = setting.partition('=')
        if not equals:
            raise ParameterError(f'--set {setting}: found no =, expected NAME=VALUE')
        try:
            given[name.strip()] = yaml.safe_load(value) if value.strip() else ''
        except (yaml.YAMLError, ValueError) as error:  # a date that there is not is the other
            raise ParameterError(f'--set {setting}: the value is no YAML ({str(error).splitlines()[0]})') from error
    return given


def settings_of(arguments: argparse.Namespace) -> Settings:
    """What the options give, the defaults for the rest.

    The file may hold parameters of all nodes; a name that no node has is an error.

    Raises:
        ParameterError: the file is unreadable, or a name or value is bad.
    """
    return Settings.of(given_parameters(arguments))
