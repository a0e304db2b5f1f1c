"""`semanom doctor --bundle`: one archive to attach to an issue, without secrets and without pictures."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import sys
import zipfile
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from semanom_ros import __version__
from semanom_ros.commands.findings import Finding
from semanom_ros.core.database.published import read_manifest
from semanom_ros.errors import ParameterError, SemanomError, without_secrets

LAST_LINES = 500
"""Of a log."""

LONGEST_LINE = 4000

ENVIRONMENT = (
    'AMENT_PREFIX_PATH', 'COLCON_PREFIX_PATH', 'CONDA_PREFIX', 'CUDA_VISIBLE_DEVICES', 'FASTDDS_BUILTIN_TRANSPORTS',
    'FASTDDS_DEFAULT_PROFILES_FILE', 'FASTRTPS_DEFAULT_PROFILES_FILE', 'KMP_DUPLICATE_LIB_OK', 'LANG',
    'LD_LIBRARY_PATH', 'LD_PRELOAD', 'MKL_NUM_THREADS', 'MKL_THREADING_LAYER', 'NVIDIA_DRIVER_CAPABILITIES',
    'NVIDIA_VISIBLE_DEVICES', 'OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'PYTHONNOUSERSITE', 'PYTHONPATH',
    'RMW_IMPLEMENTATION', 'ROS_AUTOMATIC_DISCOVERY_RANGE', 'ROS_DISTRO', 'ROS_DOMAIN_ID', 'ROS_LOCALHOST_ONLY',
    'ROS_PYTHON_VERSION', 'ROS_SECURITY_ENABLE', 'ROS_SECURITY_STRATEGY', 'VIRTUAL_ENV')
"""The variables that a bundle tells; of no other one even the name."""

_KNOWN_TOKENS = re.compile(
    r'\b(?:gh[opsu]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|hf_[A-Za-z0-9]{16,}|sk-[\w-]{16,}'
    r'|xox[abprs]-[\w-]{10,}|AKIA[A-Z0-9]{12,}|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*)')
_NAMED = re.compile(r'([\w.-]{0,64}(?:token(?!s\b)|secret|passw|pwd|api_?key|credential)[\w.-]{0,64}'
                    r'[\'"]?\s{0,4}[:=]\s{0,4}[\'"]?)[^\s\'",;&}*]+', re.I)
_KEY = re.compile(r'-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)', re.S)
_HOMES = re.compile(r'/(?:home|Users)/[^/\s\'":,;]+')


def shareable(text: str) -> str:
    """A text without passwords, tokens and keys, and with the folders of users as `~`.

    >>> shareable('loaded /home/ann/db from https://ann:word@host/x, TOKEN=abc')
    'loaded ~/db from https://***@host/x, TOKEN=***'
    """
    text = _KEY.sub('***', text)
    text = _NAMED.sub(r'\1***', _KNOWN_TOKENS.sub('***', without_secrets(text)))
    home = os.path.expanduser('~').rstrip('/')
    if home.startswith('/'):
        text = re.sub(re.escape(home) + r'(?![\w.-])', '~', text)
    return _HOMES.sub('~', text)


def check_place(file: Path) -> None:
    """Complains of a place where no bundle can be written, before anything is examined.

    Raises:
        ParameterError: it exists, its folder does not, or it is not called `.zip`.
    """
    if file.suffix != '.zip':
        raise ParameterError(f'--bundle {file}: found the ending {file.suffix!r}, expected .zip; name it so')
    if os.path.lexists(file):
        raise ParameterError(f'--bundle {file}: found a file, expected a new name; give another, or remove it')
    if not file.parent.is_dir():
        raise ParameterError(f'--bundle {file}: found no folder {file.parent}, expected one; make it, or give another')


def write_bundle(file: Path, findings: Sequence[Finding], parameters: Mapping[str, Any], databases: Sequence[Path],
                 log: Path | None) -> list[str]:
    """Writes the archive, beside its place first, so that a half-written one never lies there.

    Args:
        file: that does not exist yet.
        findings: what was examined.
        parameters: in force, by where they are.
        databases: whose manifests are added; they hold no pictures.
        log: of a node or a launch; its last LAST_LINES lines are added. None: no log.

    Returns:
        Names of the files in it.

    Raises:
        ParameterError: the log is unreadable, or see `check_place`.
    """
    check_place(file)
    content = {
        'report.txt': '\n'.join(map(str, findings)) + '\n',
        'report.json': _json([asdict(finding) for finding in findings]),
        'versions.txt': _versions(),
        'environment.json': _json({name: os.environ[name] for name in ENVIRONMENT if name in os.environ}),
        'parameters.json': _json(parameters),
    }
    for number, path in enumerate(dict.fromkeys(databases), 1):
        content[f'database{number}.json'] = _manifest(path)
    if log is not None:
        content['log.txt'] = _last_lines(log)
    beside = file.with_name(f'.{file.name}.partial')
    try:
        with zipfile.ZipFile(beside, 'w', zipfile.ZIP_DEFLATED) as archive:
            for name, text in content.items():  # the one way into the archive: nothing gets in unstruck
                archive.writestr(name, shareable(text))
        os.replace(beside, file)
    finally:
        beside.unlink(missing_ok=True)
    return list(content)


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, default=str, ensure_ascii=False) + '\n'


def _versions() -> str:
    packages = {one.metadata['Name']: one.version for one in importlib.metadata.distributions() if one.metadata['Name']}
    try:
        system = platform.freedesktop_os_release()['PRETTY_NAME']
    except (OSError, KeyError):
        system = platform.system()
    lines = [f'semanom_ros {__version__}', f'Python {sys.version.split()[0]}',
             f'{system}, Linux {platform.release()}, {platform.machine()}, {os.cpu_count()} CPUs', '',
             *(f'{name}=={packages[name]}' for name in sorted(packages, key=str.lower))]
    return '\n'.join(lines) + '\n'


def _manifest(path: Path) -> str:
    try:
        return read_manifest(path).dumps()
    except SemanomError as error:
        return _json({'path': path, 'error': str(error)})


def _last_lines(log: Path) -> str:
    try:
        with open(log, encoding='utf-8', errors='replace') as file:
            lines = deque((line.rstrip('\n')[:LONGEST_LINE] for line in file), maxlen=LAST_LINES)
    except OSError as error:
        raise ParameterError(f'--log {log}: unreadable ({error.strerror}); give the log file of a node: the newest in '
                             '~/.ros/log') from error
    return '\n'.join(lines) + '\n'
