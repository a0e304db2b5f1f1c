"""What is generated from the table of parameters is what the table says."""

from __future__ import annotations

from pathlib import Path

import pytest

from semanom_ros.parameter_files import generated_files, read_yaml
from semanom_ros.parameters import Section
from semanom_ros.settings import (
    CameraSettings,
    DetectorSettings,
    MethodSettings,
    RecorderSettings,
    Settings,
    SnapshotSettings,
)

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize('name', ['config/detector.yaml', 'config/recorder.yaml', 'config/snapshots.yaml', 'README.md'])
def test_generated_files_are_up_to_date(name: str) -> None:
    expected = generated_files(REPOSITORY)[REPOSITORY / name]
    assert (REPOSITORY / name).read_text() == expected, f'run python -m semanom_ros.parameter_files, and commit {name}'


@pytest.mark.parametrize(('name', 'own'), [('detector', DetectorSettings), ('recorder', RecorderSettings),
                                           ('snapshots', SnapshotSettings)])
def test_parameter_files_hold_the_defaults_in_the_right_types(name: str, own: type[Section]) -> None:
    given = read_yaml(REPOSITORY / 'config' / f'{name}.yaml')
    assert list(given) == [*MethodSettings.table(), *CameraSettings.table(), *own.table()]
    assert Settings.of(given) == Settings()
