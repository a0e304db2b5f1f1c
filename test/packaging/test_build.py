"""Builds from a clean copy, as users do them; each must give the whole package."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import semanom_ros

REPOSITORY = Path(__file__).resolve().parents[2]
TYPE_SUPPORT = [
    f'libsemanom_ros__rosidl_{kind}.so'
    for kind in (
        'generator_c',
        'generator_py',
        'typesupport_c',
        'typesupport_cpp',
        'typesupport_fastrtps_c',
        'typesupport_fastrtps_cpp',
        'typesupport_introspection_c',
        'typesupport_introspection_cpp',
    )
]

# Runs in the environment that was built; everything it finds goes to stdout as JSON.
PROBE = """
import json, os, sys
import semanom_ros
from ament_index_python.packages import get_package_prefix, get_package_share_directory
from ament_index_python.resources import get_resource
from rclpy.serialization import deserialize_message, serialize_message
from semanom_ros.msg import Anomaly, AnomalyArray, AnomalyScore, DatabaseInfo, NominalMatch

sent = AnomalyArray(camera='front', anomalies=[Anomaly(track_id=7, nearest=NominalMatch(source='drive.mcap'))])
received = deserialize_message(serialize_message(sent), AnomalyArray)
print(json.dumps({
    'package': os.path.realpath(semanom_ros.__file__),
    'messages': sys.modules['semanom_ros.msg'].__file__,
    'round_trip': [received.camera, received.anomalies[0].track_id, received.anomalies[0].nearest.source],
    'prefix': get_package_prefix('semanom_ros'),
    'share': get_package_share_directory('semanom_ros'),
    'interfaces': get_resource('rosidl_interfaces', 'semanom_ros')[0].split(),
    'loaded': sorted({line.split()[-1] for line in open('/proc/self/maps') if 'libsemanom_ros__' in line}),
}))
"""


def run(*command: str | Path, cwd: Path, env: dict[str, str]) -> str:
    done = subprocess.run([str(word) for word in command], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f'{command}:\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}'
    return done.stdout


@pytest.fixture(scope='module')
def clean_copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working tree without anything that was built: what git tracks or would track."""
    if not (REPOSITORY / '.git').exists():
        pytest.skip('not a git work tree: a clean copy is taken from what git lists')
    listed = subprocess.run(
        ['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard'],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    folder = tmp_path_factory.mktemp('workspace') / 'semanom_ros'
    for name in filter(None, listed.stdout.split('\0')):
        if (REPOSITORY / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, folder / name)
    return folder


@pytest.fixture(scope='module')
def environment() -> dict[str, str]:
    """This process's environment, with its ROS prefix named."""
    prefixes = [os.environ['AMENT_PREFIX_PATH']] if os.environ.get('AMENT_PREFIX_PATH') else []
    return dict(os.environ, AMENT_PREFIX_PATH=os.pathsep.join([*prefixes, sys.prefix]))


def check(found: dict, prefix: Path, root: Path) -> None:
    """What every kind of build must give below its prefix, with no file from outside `root`."""
    assert found['round_trip'] == ['front', 7, 'drive.mcap']
    assert Path(found['prefix']) == prefix
    assert Path(found['share']) == prefix / 'share' / 'semanom_ros'
    assert {'msg/Anomaly.msg', 'msg/AnomalyArray.msg', 'msg/NominalMatch.msg'} <= set(found['interfaces'])
    for folder, pattern in (('launch', '*.launch.py'), ('config', '*'), ('msg', '*.msg')):
        expected = {path.name for path in (REPOSITORY / folder).glob(pattern)}
        installed = {path.name for path in (prefix / 'share' / 'semanom_ros' / folder).glob(pattern)}
        assert expected, f'{folder}/ is empty'
        assert installed == expected
    assert all((prefix / 'lib' / name).exists() for name in TYPE_SUPPORT)
    assert found['loaded'], 'the messages loaded no library'
    assert all(Path(library).is_relative_to(root) for library in found['loaded'])


def check_executables(prefix: Path, env: dict[str, str]) -> None:
    """`ros2 run semanom_ros ...` looks in lib/semanom_ros."""
    folder = prefix / 'lib' / 'semanom_ros'
    assert {path.name for path in folder.iterdir()} == {
        'detector', 'nominal_recorder', 'semanom', 'snapshot_recorder'}
    assert all(os.access(path, os.X_OK) for path in folder.iterdir())
    assert run(folder / 'semanom', '--version', cwd=prefix, env=env).strip() == f'semanom {semanom_ros.__version__}'


@pytest.fixture(scope='module')
def venv_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp('fresh') / 'venv'


@pytest.fixture
def fresh_venv(venv_folder: Path) -> Path:
    """A virtual environment with this interpreter's packages behind its own.

    It is always in the same place, so that the second build finds the messages compiled.
    """
    create = [sys.executable, '-m', 'venv', '--clear', '--without-pip', venv_folder]
    run(*create, cwd=venv_folder.parent, env=dict(os.environ))
    site_packages = next((venv_folder / 'lib').glob('python*/site-packages'))
    (site_packages / 'zz_dependencies.pth').write_text(sysconfig.get_path('purelib') + '\n')
    return venv_folder


@pytest.mark.parametrize('editable', [False, True], ids=['install', 'editable'])
def test_pip(editable: bool, clean_copy: Path, fresh_venv: Path, environment: dict[str, str]) -> None:
    env = dict(environment)
    python = fresh_venv / 'bin' / 'python'
    install = [sys.executable, '-m', 'pip', '--python', str(python), 'install', '--no-deps', '--no-build-isolation']
    run(*install, *(['--editable'] if editable else []), clean_copy, cwd=clean_copy, env=env)

    env['AMENT_PREFIX_PATH'] = f'{fresh_venv}{os.pathsep}{env["AMENT_PREFIX_PATH"]}'
    env['LD_LIBRARY_PATH'] = f'{fresh_venv / "lib"}{os.pathsep}{env.get("LD_LIBRARY_PATH", "")}'
    found = json.loads(run(python, '-c', PROBE, cwd=fresh_venv, env=env))
    check(found, fresh_venv, fresh_venv)
    check_executables(fresh_venv, env)
    assert Path(found['messages']).is_relative_to(fresh_venv)
    assert Path(found['package']).is_relative_to(clean_copy if editable else fresh_venv)
    installed = {path.name for path in Path(found['messages']).parent.glob('*.msg')}
    assert installed == {path.name for path in (REPOSITORY / 'msg').glob('*.msg')}
    sources = clean_copy / 'semanom_ros'
    for path in (path.relative_to(sources) for path in sources.rglob('*') if path.is_file()):
        assert (Path(found['package']).parent / path).exists(), f'semanom_ros/{path} is not installed'


@pytest.mark.parametrize('symlink', [False, True], ids=['install', 'symlink-install'])
def test_colcon(symlink: bool, clean_copy: Path, environment: dict[str, str]) -> None:
    pytest.importorskip('colcon_core', reason='colcon is not installed for this interpreter')
    workspace = clean_copy.parent
    build = [sys.executable, '-m', 'colcon', 'build', '--event-handlers', 'console_direct+']
    build += ['--packages-select', 'semanom_ros', *(['--symlink-install'] if symlink else [])]
    run(*build, cwd=workspace, env=environment)

    prefix = workspace / 'install' / 'semanom_ros'
    sourced = ['sh', '-c', '. "$0" && exec "$@"', str(workspace / 'install' / 'local_setup.sh')]
    found = json.loads(run(*sourced, sys.executable, '-c', PROBE, cwd=workspace, env=environment))
    check(found, prefix, workspace if symlink else prefix)
    listing = run(*sourced, 'env', '-0', cwd=workspace, env=environment)
    check_executables(prefix, dict(entry.split('=', 1) for entry in listing.split('\0') if '=' in entry))
    assert Path(found['messages']).is_relative_to(prefix)
    assert Path(found['package']).is_relative_to(clean_copy if symlink else prefix)
    config = next(path for path in (prefix / 'share' / 'semanom_ros' / 'config').iterdir())
    assert config.resolve().is_relative_to(clean_copy if symlink else prefix)
