"""The places that state the same fact agree."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from distutils.core import run_setup  # setuptools' own, also from Python 3.12 on
from pathlib import Path

import pytest
from setuptools import Distribution

import semanom_ros

REPOSITORY = Path(__file__).resolve().parents[2]
# Import names that differ from the distribution's.
DISTRIBUTIONS = {
    'PIL': 'pillow',
    'cv2': 'opencv-python-headless',
    'faiss': 'faiss-cpu',
    'rerun': 'rerun-sdk',
    'open_clip': 'open-clip-torch',
    'sklearn': 'scikit-learn',
    'yaml': 'pyyaml',
}


@pytest.fixture(scope='module')
def package_xml() -> ElementTree.Element:
    return ElementTree.parse(REPOSITORY / 'package.xml').getroot()


@pytest.fixture(scope='module')
def distribution() -> Iterator[Distribution]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPOSITORY)
        yield run_setup('setup.py', ['--name'], stop_after='init')


def test_versions_agree(package_xml: ElementTree.Element, distribution: Distribution) -> None:
    assert distribution.get_version() == semanom_ros.__version__
    assert package_xml.findtext('version') == semanom_ros.__version__
    assert f'\n{semanom_ros.__version__} ' in (REPOSITORY / 'CHANGELOG.rst').read_text()


def test_names_licences_and_maintainers_agree(package_xml: ElementTree.Element, distribution: Distribution) -> None:
    maintainer = package_xml.find('maintainer')
    assert maintainer is not None
    assert package_xml.findtext('name') == distribution.get_name() == semanom_ros.__name__
    assert package_xml.findtext('license') == distribution.get_license() == 'Apache-2.0'
    assert (maintainer.text, maintainer.get('email')) == (
        distribution.get_maintainer(),
        distribution.get_maintainer_email(),
    )
    assert 'Apache License' in (REPOSITORY / 'LICENSE').read_text()


def imported_packages(folder: Path) -> dict[str, Path]:
    """Top-level names that the sources import, each with one file that does."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob('*.py')):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [node.module or '']
            else:
                continue
            for module in modules:
                found.setdefault(module.split('.')[0], path.relative_to(REPOSITORY))
    return found


def requirement_name(requirement: str) -> str:
    return re.split(r'[^A-Za-z0-9._-]', requirement, maxsplit=1)[0].lower().replace('_', '-')


def test_every_import_is_declared(package_xml: ElementTree.Element, distribution: Distribution) -> None:
    ros = {element.text for element in package_xml if element.tag in ('depend', 'exec_depend')}
    groups = [distribution.install_requires, *distribution.extras_require.values()]
    declared = {requirement_name(requirement) for group in groups for requirement in group}
    for name, path in imported_packages(REPOSITORY / 'semanom_ros').items():
        if name in sys.stdlib_module_names or name == 'semanom_ros' or name in ros:
            continue
        wanted = DISTRIBUTIONS.get(name, name.lower().replace('_', '-'))
        assert wanted in declared, f'{path} imports {name}: neither package.xml nor setup.py names it'


def test_every_launch_import_is_declared(package_xml: ElementTree.Element) -> None:
    ros = {element.text for element in package_xml if element.tag in ('depend', 'exec_depend')}
    for name, path in imported_packages(REPOSITORY / 'launch').items():
        known = name in sys.stdlib_module_names or name == 'semanom_ros' or name in ros
        assert known, f'{path} imports {name}: package.xml does not name it'


def test_messages_depend_on_what_package_xml_names(package_xml: ElementTree.Element) -> None:
    depends = {element.text for element in package_xml.iter('depend')}
    for path in (REPOSITORY / 'msg').glob('*.msg'):
        for package in re.findall(r'^(\w+)/\w+', path.read_text(), re.M):
            assert package in depends | {'semanom_ros'}, f'{path.name} uses {package}'


def test_the_package_asks_for_ranges_and_make_for_the_tested_pair(distribution: Distribution) -> None:
    """A pinned PyTorch would replace the vendor's on a vehicle; an unpinned one is not what was tested."""
    assert not [one for one in distribution.install_requires if '==' in one.partition(';')[0]]
    names = {requirement_name(one) for one in distribution.install_requires}
    assert not [name for name in names if name.startswith('opencv')], 'it comes with apt, or as an extra'
    lines = (REPOSITORY / 'requirements' / 'constraints.txt').read_text().splitlines()
    pinned = dict(line.split('==') for line in lines if line and not line.startswith('#'))
    assert pinned.keys() == {'torch', 'torchvision'} <= names
    for name, version in pinned.items():
        assert importlib.metadata.version(name).partition('+')[0] == version, 'what is tested here'
    assert '--constraint requirements/constraints.txt' in (REPOSITORY / 'Makefile').read_text()
