"""`semanom mine`: what is surprising, once, as a labelling task."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from semanom_ros.cli import main
from semanom_ros.core.database.storage import Lock
from semanom_ros.core.progress import SILENT
from semanom_ros.recordings.bags import BagReader
from semanom_ros.recordings.nominal_recording import record_bags
from semanom_ros.settings import Settings

SECOND = 10**9
START = 1_700_000_000 * SECOND


def mine(fleet: Any, output: Path, *words: str, bags: tuple[Path, ...] = ()) -> int:
    """The exit status."""
    return main(['mine', *map(str, bags or (fleet.one, fleet.two)), '--database', str(fleet.database), '--output',
                 str(output), *words])


def frames_of(run: Path) -> list[tuple[str, int]]:
    """Recording and number of each frame that a run holds."""
    content = json.loads((run / 'mined.json').read_text())
    return [(Path(one['recording']).name, (one['stamp_ns'] - START) * 2 // SECOND) for one in content['mined']]


@pytest.fixture(scope='module')
def mined(fleet: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run over both recordings."""
    output = tmp_path_factory.mktemp('mined') / 'tasks'
    assert mine(fleet, output, '--budget', '10') == 0
    return output


def test_each_thing_is_mined_once(mined: Path) -> None:
    """Of five frames with a red square in two recordings and one with a blue one: one of each."""
    frames = frames_of(mined / '001')
    assert len(frames) == 2
    assert ('one', 15) in frames
    assert {('one', 6), ('one', 7), ('one', 8), ('two', 10), ('two', 11)} & set(frames)
    content = json.loads((mined / '001' / 'mined.json').read_text())
    assert (content['frames'], content['flagged'], content['unknown']) == (40, 6, {})
    first, second = content['mined']
    assert first['score'] == first['worth'] >= second['worth'] > 1


def test_the_task_is_one_that_coco_readers_take(mined: Path) -> None:
    task = json.loads((mined / '001' / 'annotations.json').read_text())
    assert [one['name'] for one in task['categories']] == ['anomaly']
    assert len({one['id'] for one in task['annotations']}) == len(task['annotations']) >= 2
    for image in task['images']:
        picture = cv2.imread(str(mined / '001' / 'images' / image['file_name']))
        assert picture.shape[:2] == (image['height'], image['width']) == (96, 128)
        own = [one for one in task['annotations'] if one['image_id'] == image['id']]
        x, y, width, height = own[0]['bbox']
        assert x <= 56 < x + width
        assert y <= 72 < y + height
        drawn = np.zeros((96, 128), np.uint8)
        outline = np.array(own[0]['segmentation'][0]).reshape(-1, 2).astype(np.int32)
        assert cv2.fillPoly(drawn, [outline], 1)[80, 64]  # the middle of the square
        assert picture[80, 64].max() > 200
        assert picture[80, 64].min() < 60  # it shows what it says


def test_a_clip_holds_the_seconds_round_each_frame(mined: Path) -> None:
    for one in json.loads((mined / '001' / 'mined.json').read_text())['mined']:
        with BagReader(mined / '001' / one['clip']) as clip:
            stamps = list(clip.stamps(['/camera/image_raw']))
            assert one['stamp_ns'] in stamps
            assert max(stamps) - min(stamps) <= 4 * SECOND
            assert clip.counts['/speed'] == len(stamps)


def test_what_was_mined_before_is_not_mined_again(fleet: Any, mined: Path, tmp_path: Path,
                                                  capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / 'tasks'
    shutil.copytree(mined, output)
    assert mine(fleet, output) == 0
    assert 'nothing to label' in capsys.readouterr().out
    assert not (output / '002').exists()
    shutil.rmtree(output / '001')
    assert mine(fleet, output, bags=(fleet.two,)) == 0  # a red one
    assert mine(fleet, output) == 0
    assert frames_of(output / '002') == [('one', 15)]


def test_one_recording_cannot_take_all_of_the_budget(fleet: Any, tmp_path: Path) -> None:
    assert mine(fleet, tmp_path / 'tasks', '--per-bag', '1') == 0
    assert len([name for name, _ in frames_of(tmp_path / 'tasks' / '001') if name == 'one']) <= 1
    assert mine(fleet, tmp_path / 'one', '--budget', '1') == 0
    assert len(frames_of(tmp_path / 'one' / '001')) == 1


def test_frames_that_cannot_be_judged_are_said(fleet: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing calibrates: the database holds a single frame."""
    settings: Settings = fleet.settings
    record_bags([fleet.nominal], tmp_path / 'database', settings.changed({'every_n': 100}), SILENT, calibrated=False)
    assert main(['mine', str(fleet.two), '--database', str(tmp_path / 'database'), '--output',
                 str(tmp_path / 'tasks')]) == 0
    said = capsys.readouterr().out
    assert '20 frames are unknown and were not mined: 20 not calibrated' in said
    assert not (tmp_path / 'tasks').exists()


@pytest.mark.parametrize(('words', 'said'), [
    (['--budget', '0'], 'found 0, expected a whole number, 1 or more'),
    (['--image-topic', '/nothing'], 'found no topic /nothing'),
    (['--set', 'encoder=semanom-tiny'], 'which the database was made with'),
])
def test_bad_requests_leave_nothing(fleet: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str],
                                    said: str) -> None:
    try:
        status = mine(fleet, tmp_path / 'tasks', *words)
    except SystemExit as end:  # of the parser
        status = int(str(end.code))
    assert status == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / 'tasks').exists()


def test_another_process_at_work_is_said(fleet: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / 'tasks').mkdir()
    lock = Lock(tmp_path / 'tasks')
    assert mine(fleet, tmp_path / 'tasks') == 2
    assert 'found a writer at work' in capsys.readouterr().err
    lock.release()
