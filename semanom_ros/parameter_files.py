"""Parameter files: reading those of ROS, writing those that this repository ships."""

from __future__ import annotations

import difflib
import logging
import re
import textwrap
from pathlib import Path
from typing import Any

import yaml

from semanom_ros.errors import ParameterError
from semanom_ros.parameter_yaml import NodeSection, sections_of
from semanom_ros.parameters import Parameter, Section, Value
from semanom_ros.settings import (
    CameraSettings,
    DetectorSettings,
    MethodSettings,
    RecorderSettings,
    Settings,
    SnapshotSettings,
)

log = logging.getLogger(__name__)

DETECTOR, RECORDER, SNAPSHOTS = 'semanom_detector', 'nominal_recorder', 'snapshot_recorder'
NODES = (DETECTOR, RECORDER)

OF_EVERY_NODE = ('use_sim_time', 'qos_overrides', 'start_type_description_service')
"""What rclpy itself declares."""


def read_yaml(path: Path, node: str = DETECTOR, namespace: str | None = None) -> dict[str, Any]:
    """What a ROS parameter file gives to a node, by rcl's rules; other nodes may have sections of their own in it.

    What rclpy itself declares for every node, such as `use_sim_time`, is left out. What is for all nodes (`/**`) may
    hold parameters of nodes that are not of this package: unless they look like misspelt ones they are named in the log
    and left out, as the nodes do.

    Args:
        path: of the file.
        node: its name.
        namespace: of it. None: a command asks, which has none and takes a section of whichever; where nothing is for
            its node it takes what is for the other of the two, since their method is the same.

    Raises:
        ParameterError: unreadable, not of that form, or nothing in it is for the node.
    """
    path = Path(path)
    sections = sections_of(path)
    own = [section for section in sections if section.fits(node, namespace)]
    if not own and namespace is None:
        own = [section for section in sections if any(section.fits(other, None) for other in NODES)]
    names = [section.full_name for section in own if '*' not in section.name]
    if not own or len(set(names)) > 1:
        found = names if own else [section.full_name for section in sections]
        wanted = f'{namespace.rstrip("/") if namespace else ""}/{node}'
        raise ParameterError(f'{path}: found parameters of {", ".join(found)}, expected those of one node {wanted}, or '
                             'of every node, /**; name the section so')
    given: dict[str, Any] = {}
    for section in own:
        known, foreign = _sorted_out(section)
        given |= known
        if foreign:
            log.warning('%s: parameters %s of %s: not known, ignored; check their spelling', path, ', '.join(foreign),
                        section.name)
    return given


def _sorted_out(section: NodeSection) -> tuple[dict[str, Any], list[str]]:
    """What a section gives, and names in it that are other nodes' parameters."""
    known = Settings.table()
    given = {name: value for name, value in section.values.items() if name.split('.')[0] not in OF_EVERY_NODE}
    foreign = [name for name in given
               if section.wild and name not in known and not difflib.get_close_matches(name, known, cutoff=0.8)]
    return {name: value for name, value in given.items() if name not in foreign}, foreign


def parameter_file(node: str, *sections: type[Section]) -> str:
    """A ROS parameter file with every parameter of the sections at its default, explained."""
    lines = [
        f'# The {node}\'s parameters, at their defaults. Written by `python -m semanom_ros.parameter_files`;',
        '# give the launch files a copy: config:=/path/to/copy.yaml',
        '/**:',
        '  ros__parameters:',
    ]
    for parameter in (parameter for section in sections for parameter in section.table().values()):
        lines += ['', *textwrap.wrap(_explain(parameter), 110, initial_indent='    # ', subsequent_indent='    # ',
                                     break_long_words=False, break_on_hyphens=False)]
        lines.append(f'    {parameter.name}: {_in_yaml(parameter.default)}')
    return '\n'.join(lines) + '\n'


def readme_tables() -> str:
    """The parameters as Markdown tables, one for each section that a reader thinks of."""
    sections = []
    for title, section in (
        ('The method: detector, recorder and `semanom evaluate`', MethodSettings),
        ('Both nodes', CameraSettings),
        ('Detector', DetectorSettings),
        ('Recorder', RecorderSettings),
        ('Snapshot recorder', SnapshotSettings),
    ):
        rows = '\n'.join(
            f'| `{p.name}`{_mark(p)} | `{_in_yaml(p.default)}` | {_sentence(p.description)} |'
            for p in section.table().values()
        )
        sections.append(f'### {title}\n\n| parameter | default | |\n|---|---|---|\n{rows}\n')
    return '\n'.join(sections) + ('\n⟳: may be changed while the detector is active. ⚓: fixed when the node starts. '
                                  'The others are read at configure.\n')


def generated_files(repository: Path) -> dict[Path, str]:
    """What the generated files of a source tree should hold.

    Raises:
        ParameterError: the tree is not that of this package, or its README has no place for the tables.
    """
    readme = repository / 'README.md'
    marked = re.compile(r'(<!-- parameters -->\n).*?(<!-- /parameters -->)', re.DOTALL)
    text = readme.read_text() if readme.exists() else ''
    if not marked.search(text):
        raise ParameterError(f'{readme}: found no lines <!-- parameters --> and <!-- /parameters -->, expected them '
                             'round the tables; run this in a source tree')
    return {
        repository / 'config' / 'detector.yaml': parameter_file(
            'detector', MethodSettings, CameraSettings, DetectorSettings),
        repository / 'config' / 'recorder.yaml': parameter_file(
            'recorder', MethodSettings, CameraSettings, RecorderSettings),
        repository / 'config' / 'snapshots.yaml': parameter_file(
            'snapshot recorder', MethodSettings, CameraSettings, SnapshotSettings),
        readme: marked.sub(lambda match: f'{match[1]}{readme_tables()}{match[2]}', text),
    }


def _mark(parameter: Parameter) -> str:
    return ' ⟳' if parameter.live else ' ⚓' if parameter.fixed else ''


def _explain(parameter: Parameter) -> str:
    details = []
    if parameter.choices:
        details.append(f'One of {", ".join(parameter.choices)}.')
    if parameter.minimum is not None and parameter.maximum is not None:
        details.append(f'{parameter.minimum:g} to {parameter.maximum:g}.')
    if parameter.live:
        details.append('May be changed while active.')
    if parameter.fixed:
        details.append('Fixed when the node starts.')
    return ' '.join([_sentence(parameter.description).replace('`', ''), *details])


def _sentence(description: str) -> str:
    first, rest = description[:1], description[1:]
    return f'{first.upper()}{rest}.'


def _in_yaml(value: Value) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix('\n').removesuffix('\n...')


def main() -> None:
    """Writes the generated files of the source tree that this module lies in."""
    for path, content in generated_files(Path(__file__).resolve().parents[1]).items():
        if not path.exists() or path.read_text() != content:
            path.write_text(content)


if __name__ == '__main__':
    main()
