"""`semanom doctor` on this machine, and on one with damages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from semanom_ros import cli
from semanom_ros.commands.doctor import CHECKS

ESSENTIAL = {'ROS middleware', 'ROS 2', 'messages', 'NumPy', 'PyTorch', 'torchvision', 'FAISS', 'timm', 'recordings'}


def test_what_the_tests_run_on_is_found_to_work(ros_domain_id: int, capsys: pytest.CaptureFixture[str],
                                                tmp_path: Path) -> None:
    bundle, database = tmp_path / 'report.zip', f'database={tmp_path / "nominal"}'
    status = cli.main(['doctor', '--json', '--bundle', str(bundle), '--set', database])
    report = json.loads(capsys.readouterr().out)
    findings = {finding['name']: finding for finding in report['findings']}
    assert list(findings) == [*(name for name, _, _ in CHECKS), 'configuration', 'database']
    assert findings['database']['status'] == 'missing'
    assert findings['database']['advice'].startswith('make one with semanom record')
    assert 'semanom-tiny' in findings['configuration']['found']
    with zipfile.ZipFile(bundle) as archive:
        assert json.loads(archive.read('report.json')) == report['findings']
        assert str(tmp_path / 'nominal') in archive.read('parameters.json').decode()
    assert {name for name in ESSENTIAL if findings[name]['status'] != 'ok'} == set()
    assert f'domain {ros_domain_id}' in findings['ROS 2']['found']
    broken = [name for name, finding in findings.items() if finding['required'] and finding['status'] != 'ok']
    assert report['ok'] is (not broken)
    assert status == (1 if broken else 0)


@pytest.mark.parametrize(('given', 'said'), [
    (['--seconds', '0'], '--seconds: found 0'), (['--log', 'x.log'], 'found no --bundle'),
    (['--bundle', 'x.tar'], 'expected .zip'), (['--set', 'encoder_layer=x'], 'encoder_layer')])
def test_bad_arguments_are_refused_before_anything_is_examined(given: list[str], said: str,
                                                               capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(['doctor', *given]) == 2
    told = capsys.readouterr()
    assert said in told.err
    assert not told.out


def test_damages_are_named_with_what_to_do(ros_domain_id: int, tmp_path: Path) -> None:
    (tmp_path / 'cv_bridge.py').write_text('import os\nos.abort()\n')  # as with a NumPy that it was not built for
    (tmp_path / 'timm.py').write_text('raise ImportError("undefined symbol: x")\n')
    (tmp_path / 'faiss.py').write_text('import no_such_part_of_faiss\n')
    path = os.pathsep.join([str(tmp_path), os.environ.get('PYTHONPATH', '')])
    done = subprocess.run(
        [sys.executable, '-m', 'semanom_ros.cli', 'doctor'],
        env=dict(os.environ, PYTHONPATH=path, RMW_IMPLEMENTATION='rmw_of_nobody'),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert 'Traceback' not in done.stderr
    lines = done.stdout.splitlines()
    assert any(line.startswith('BROKEN   timm ') and 'undefined symbol: x' in line for line in lines)
    assert any(line.startswith('BROKEN   ROS middleware ') and 'rmw_of_nobody' in line for line in lines)
    assert any(line.startswith('MISSING  FAISS ') and 'no_such_part_of_faiss' in line for line in lines)
    assert any(line.startswith('broken   cv_bridge ') and 'does not work with NumPy' in line for line in lines)
    assert any(line.startswith('ok       ROS 2 ') for line in lines)
    assert any(line.startswith('ok       PyTorch ') for line in lines)
    assert {'ROS middleware', 'timm', 'FAISS'} <= set(lines[-1].removeprefix('Not usable: ').rstrip('.').split(', '))
