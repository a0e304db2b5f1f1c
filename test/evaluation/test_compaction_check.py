"""`semanom db compact --check-bag`: what compacting changes in a recording with ground truth."""

from __future__ import annotations

import re
import shutil

from semanom_ros import cli
from semanom_ros.commands import compacting
from semanom_ros.core.database.published import read_manifest


def test_auroc_and_verdicts_before_and_after(town, tmp_path, capsys):
    path = tmp_path / 'database'
    shutil.copytree(town.databases['grid'], path)
    assert cli.main(['db', 'compact', str(path), '--size', '2', '--check-bag', str(town.drive), '--config',
                     str(town.config)]) == 0
    lines = capsys.readouterr().out.splitlines()
    told = [re.fullmatch(r'  (grid|grid \+ filter): frame AUROC (0\.\d+|1\.0+) -> (0\.\d+|1\.0+), pixel AUROC '
                         r'(0\.\d+|1\.0+) -> (0\.\d+|1\.0+), (\d+) of 70 verdicts differ', line) for line in lines[-2:]]
    assert all(told), lines
    assert told[0][2] != told[0][3] or told[0][4] != told[0][5], 'two vectors stand for a whole town'


def test_a_recording_that_will_not_do_changes_nothing(town, tmp_path, capsys):
    path = tmp_path / 'database'
    shutil.copytree(town.databases['grid'], path)
    assert cli.main(['db', 'compact', str(path), '--size', '20', '--check-bag', str(tmp_path / 'nowhere'), '--config',
                     str(town.config)]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f'semanom db: {tmp_path / "nowhere"}: no such recording; give a rosbag2 folder or a .mcap, .db3 or .bag file')
    assert read_manifest(path).version == 1


def test_interrupted_after_the_new_version_it_has_said_so(town, tmp_path, capsys, monkeypatch):
    path = tmp_path / 'database'
    shutil.copytree(town.databases['grid'], path)
    measure = compacting.evaluate

    def interrupted(*arguments, **named):
        if read_manifest(path).version == 2:
            raise KeyboardInterrupt
        return measure(*arguments, **named)

    monkeypatch.setattr(compacting, 'evaluate', interrupted)
    assert cli.main(['db', 'compact', str(path), '--size', '20', '--check-bag', str(town.drive), '--config',
                     str(town.config)]) == 130
    assert f'{path}: version 2, 20 vectors' in capsys.readouterr().out
