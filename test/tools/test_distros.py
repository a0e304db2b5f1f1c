"""What `make test-distros` tests, and what it says came of it; with a `make` that stands in for the set-up."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tools import distros


def test_every_python_of_this_machine_that_is_new_enough_is_found(tmp_path: Path,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    for name, version in (('python3.9', '3 9'), ('python3.31', '3 31'), ('python3.32', 'damaged'),
                          ('python3.31-config', '3 33')):
        file = tmp_path / name
        file.write_text(f'#!/bin/sh\necho "{version}"\n')
        file.chmod(0o755)
    monkeypatch.setenv('PATH', str(tmp_path))
    monkeypatch.setenv('PYENV_ROOT', str(tmp_path))
    assert distros.pythons() == {sys.version_info[:2]: sys.executable, (3, 31): str(tmp_path / 'python3.31')}
    names = [one.name for one in distros.combinations()]
    own = f'py3.{sys.version_info[1]}'
    assert names == [f'kilted-{own}', 'kilted-py3.31', f'jazzy-{own}']
    assert all((distros.REPOSITORY / file).is_file() for file in distros.REQUIREMENTS.values())


@pytest.mark.parametrize(('script', 'said'), [
    ('echo "No matching distribution found for ros-rclpy" && exit 2', 'no wheels'), ('exit 2', 'set-up failed, see'),
    ('mkdir -p "${3#VENV=}/bin" && ln -s /bin/true "${3#VENV=}/bin/python"', 'passed'),
    ('mkdir -p "${3#VENV=}/bin" && ln -s /bin/false "${3#VENV=}/bin/python"', 'failed, see')])
def test_what_came_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str) -> None:
    make = tmp_path / 'bin' / 'make'
    make.parent.mkdir()
    make.write_text(f'#!/bin/sh\ntest -z "$ROS_DISTRO" || exit 3\n{script}\n')
    make.chmod(0o755)
    monkeypatch.setenv('PATH', f'{make.parent}:/usr/bin:/bin')
    monkeypatch.setenv('ROS_DISTRO', 'humble')
    monkeypatch.setattr(distros, 'REPOSITORY', tmp_path)
    monkeypatch.setattr(distros, 'LOGS', tmp_path / 'logs')
    assert distros.run(distros.Combination('jazzy', (3, 12), sys.executable), False, []).startswith(said)
