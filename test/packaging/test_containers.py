"""What cannot be built here, held to what can be known of it: containers, conda environment, workflows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((REPOSITORY / '.github' / 'workflows').glob('*.yml'))
CONDA = {'torch': 'pytorch', 'faiss-cpu': 'faiss'}
"""Names that conda-forge has otherwise."""


@pytest.mark.parametrize('name', ['Dockerfile', 'Dockerfile.jetson'])
def test_files_that_an_image_copies_are_there(name: str) -> None:
    text = (REPOSITORY / 'docker' / name).read_text()
    copied = re.findall(r'^COPY (\S+) \S+$', text, re.MULTILINE)
    assert 'docker/entrypoint.sh' in copied
    assert all((REPOSITORY / source).exists() for source in copied)
    assert set(re.findall(r'--skip-keys "(.*)"', text)[0].split()) <= set(_depends())


def _depends() -> list[str]:
    return re.findall(r'depend>([\w-]+)</', (REPOSITORY / 'package.xml').read_text())


def test_the_services_of_the_composition_use_the_image_that_it_builds() -> None:
    services = yaml.safe_load((REPOSITORY / 'docker' / 'compose.yaml').read_text())['services']
    built = services['detector']
    assert (REPOSITORY / 'docker' / built['build']['context'] / built['build']['dockerfile']).is_file()
    assert {service['image'] for service in services.values()} == {built['image']}


@pytest.mark.parametrize('workflow', WORKFLOWS, ids=lambda path: path.name)
def test_workflows_run_what_is_there(workflow: Path) -> None:
    text = workflow.read_text()
    assert yaml.safe_load(text)['jobs']
    targets = set(re.findall(r'^([\w-]+):', (REPOSITORY / 'Makefile').read_text(), re.MULTILINE))
    called = set(re.findall(r'\bmake ([\w-]+)', text))
    assert called
    assert called <= targets


def test_the_conda_environment_has_what_the_package_needs() -> None:
    tomllib = pytest.importorskip('tomllib', reason='Python 3.11 or newer reads TOML')
    environment = tomllib.loads((REPOSITORY / 'pixi.toml').read_text())
    given = {**environment['dependencies'], **environment['pypi-dependencies']}
    for line in (REPOSITORY / 'requirements' / 'python.txt').read_text().splitlines():
        if line.strip() and not line.startswith('#'):
            needed = Requirement(line)
            name = CONDA.get(needed.name, needed.name)
            assert name in given, f'{needed.name} is not in pixi.toml'
            lower = re.findall(r'>=([\d.]+)', given[name])[0].rstrip('.')
            wanted = re.findall(r'>=([\d.]+)', line)[0].rstrip('.').removesuffix('.dev0')
            assert lower == wanted, f'{name}: from {lower}, expected {wanted}'
