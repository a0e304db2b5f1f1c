"""`semanom db apply-verdicts`: what people found nominal raises no alarm any more; what that changes is shown first."""

from __future__ import annotations

import builtins
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from semanom_ros.cli import main
from semanom_ros.core.database.published import read_manifest, verify
from semanom_ros.core.pipeline import CameraState, Judge
from semanom_ros.core.progress import SILENT
from semanom_ros.recordings.bags import BagReader
from semanom_ros.review.cases import Cases
from semanom_ros.review.verdict_files import Opinion, Thing, VerdictFolder, beside


@pytest.fixture
def database(drive: Any, tmp_path: Path) -> Path:
    """One of its own."""
    return Path(shutil.copytree(drive.database, tmp_path / 'nominal'))


@pytest.fixture
def verdicts(drive: Any, database: Path, tmp_path: Path) -> VerdictFolder:
    """The thing in the drive was found nominal."""
    (tmp_path / 'pictures').mkdir()
    cases = Cases([drive.results], tmp_path / 'pictures', SILENT)
    folder = VerdictFolder(beside(database), 'anna', 'desk')
    for case in cases.cases:
        folder.add(Opinion.NOMINAL, cases.thing(case), cases.sources[case.source].path, score=case.outline.score)
    return folder


def flagged(drive: Any, database: Path) -> int:
    judge, state = Judge.load(drive.settings.method, database), CameraState()
    with BagReader(drive.drive) as reader:
        return sum(judge.process(frame, state).anomalous for frame in reader.images())


def test_what_was_found_nominal_raises_no_alarm_and_is_taken_back(
        drive: Any, database: Path, verdicts: VerdictFolder, capsys: pytest.CaptureFixture[str]) -> None:
    before = flagged(drive, database)
    assert before >= 3
    assert main(['db', 'apply-verdicts', str(database), '--regression', str(drive.drive), '--yes']) == 0
    said = capsys.readouterr().out
    assert f'20 frames replayed: anomalous {before} -> 0, nominal {20 - before} -> 20' in said
    assert said.count('anomalous (') == before
    assert 'version 2, 1 things are nominal now' in said
    assert flagged(drive, database) == 0
    verify(database)
    source = next(source for source in read_manifest(database).sources if source.path.startswith('reviewed:'))
    assert source.sha256 == verdicts.read()[0].thing.recording_sha256
    assert main(['db', 'apply-verdicts', str(database)]) == 0  # once is enough
    assert '1 things raise no alarm any more' in capsys.readouterr().out
    assert read_manifest(database).version == 2
    assert main(['db', 'revert', str(database)]) == 0
    assert flagged(drive, database) == before


@pytest.mark.parametrize('answer', ['n', 'y'])
def test_a_person_is_asked(drive: Any, database: Path, verdicts: VerdictFolder, monkeypatch: pytest.MonkeyPatch,
                           answer: str) -> None:
    monkeypatch.setattr(sys.stdin, 'isatty', lambda: True)
    monkeypatch.setattr(builtins, 'input', lambda question: answer)
    assert main(['db', 'apply-verdicts', str(database), '--regression', str(drive.drive)]) == 0
    assert read_manifest(database).version == (2 if answer == 'y' else 1)
    assert sorted(path.name for path in database.parent.iterdir()) == ['nominal', 'nominal_verdicts', 'pictures']
    verify(database)


def test_what_cannot_be_applied_is_counted(drive: Any, database: Path, verdicts: VerdictFolder, tmp_path: Path,
                                           capsys: pytest.CaptureFixture[str],
                                           caplog: pytest.LogCaptureFixture) -> None:
    own = verdicts.read()[0]
    verdicts.add(Opinion.NOMINAL, own.thing._replace(stamp_ns=5), own.recording)
    verdicts.add(Opinion.NOMINAL, Thing('b' * 64, '/camera', 5, (0, 0, 5, 5)), str(tmp_path / 'gone'))
    VerdictFolder(verdicts.path, 'ben', 'desk').add(Opinion.ANOMALY, own.thing, own.recording)
    assert main(['db', 'apply-verdicts', str(database)]) == 0
    said = capsys.readouterr().out
    assert '2 things are of frames that are gone' in said
    assert '1 things are left out because authors differ' in said
    assert 'nothing to apply' in said
    assert f'{tmp_path / "gone"}: is not there any more' in caplog.text
    assert '1 of the frames that were judged are not in it' in caplog.text
    assert read_manifest(database).version == 1


def test_a_recording_that_was_moved_is_named(drive: Any, database: Path, verdicts: VerdictFolder, tmp_path: Path,
                                             capsys: pytest.CaptureFixture[str]) -> None:
    lines = [json.loads(line) for line in verdicts.own.read_text().splitlines()]
    verdicts.own.write_text(''.join(json.dumps({**line, 'recording': '/elsewhere'}) + '\n' for line in lines))
    assert main(['db', 'apply-verdicts', str(database)]) == 0
    assert '1 things are of frames that are gone' in capsys.readouterr().out
    moved = shutil.copytree(drive.results, tmp_path / 'moved')
    assert main(['db', 'apply-verdicts', str(database), '--recording', str(moved)]) == 0
    assert '1 things are nominal now' in capsys.readouterr().out


@pytest.mark.parametrize(('words', 'said'), [
    (['--verdicts', 'nowhere'], 'found no verdicts'),
    (['--regression', 'nowhere', '--yes'], 'no such recording'),
    (['--regression', 'nowhere'], 'found nobody to ask'),
    (['--set', 'encoder=semanom-tiny'], 'which the database was made with')])
def test_bad_requests_change_nothing(database: Path, verdicts: VerdictFolder, capsys: pytest.CaptureFixture[str],
                                     monkeypatch: pytest.MonkeyPatch, words: list[str], said: str) -> None:
    monkeypatch.setattr(sys.stdin, 'isatty', lambda: False)
    assert main(['db', 'apply-verdicts', str(database), *words]) == 2
    assert said in capsys.readouterr().err
    assert read_manifest(database).version == 1
