"""`semanom demo` from nothing to the report, with the real detector in the middle."""

from __future__ import annotations

import json

import cv2
import pytest

from semanom_ros.cli import main
from semanom_ros.commands import demo_folder
from semanom_ros.commands.demo_folder import DemoFolder
from semanom_ros.commands.side_by_side import side_by_side
from semanom_ros.errors import SemanomError
from semanom_ros.evaluation.video import write_video
from semanom_ros.recordings.bags import BagReader, BagWriter
from semanom_ros.ros.messages import image_to_compressed, write_message

from .conftest import PERIOD_NS, START_NS, road


def test_demo_leaves_what_it_promises(town, tmp_path, capsys):
    output = tmp_path / 'out'
    assert main(['demo', '--output', str(output), '--nominal-seconds', '20', '--seconds', '2', '--config',
                 str(town.config), '--cameras', '2']) == 0
    printed = capsys.readouterr().out
    for line in ('[1/5] simulate', '[5/5]', 'front: images published: 20', 'left: images published: 20',
                 'left: latency, image published', 'instance + filter', 'left: grid + filter',
                 str(output / 'report.html')):
        assert line in printed
    assert 'as in the demo before' not in printed
    metrics = json.loads((output / 'metrics.json').read_text())
    assert metrics['frames'] == 40
    assert len(metrics['results']) == 4
    assert [recording['image_topic'] for recording in metrics['recordings']] == [
        '/front/image_raw/compressed', '/left/image_raw/compressed']
    assert [len(recording['results']) for recording in metrics['recordings']] == [4, 4]
    assert {path.name for path in output.iterdir()} - {'overlay.webp'} == {
        '.semanom_demo', 'parameters.yaml', 'metrics.json', 'report.html', 'scores.csv', 'overlay.mp4', 'overlays',
        'bags', 'live', 'recordings', 'databases'}
    report = (output / 'report.html').read_text()
    assert 'data:video/mp4;base64,' in report
    assert 'Results by recording, grid + filter' in report
    assert any((output / 'overlays').glob('*.png'))
    film = cv2.VideoCapture(str(output / 'overlay.mp4'))
    assert int(film.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, 'little') in (b'avc1', b'h264', b'H264')
    with BagReader(output / 'live') as reader:
        for camera in ('front', 'left'):
            assert reader.counts[f'/{camera}/image_raw/compressed'] == 20
            assert reader.counts[f'/semanom_detector/{camera}/score'] >= 1


def made(folder, **parts):
    """A folder of a demo with these parts, whole."""
    one = DemoFolder(folder)
    one.clear(**parts)
    for name, what in parts.items():
        if one.begin(name):
            (folder / name / 'file').write_text(str(what))
            one.end(name, what)
    return one


def test_a_demo_takes_over_what_has_not_changed(tmp_path):
    made(tmp_path / 'out', recordings=1, databases=2)
    (tmp_path / 'out' / 'report.html').touch()
    again = DemoFolder(tmp_path / 'out')
    again.clear(recordings=1, databases=2)
    assert (again.begin('recordings'), again.begin('databases')) == (False, False)
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == ['.semanom_demo', 'databases', 'recordings']


@pytest.mark.parametrize('changed', ['other settings', 'another drive', 'another file', 'killed', 'other code'])
def test_a_demo_makes_anew_what_has_changed(tmp_path, changed, monkeypatch):
    folder = tmp_path / 'out'
    made(folder, recordings=1, databases=2)
    wanted = {'recordings': 3 if changed == 'another drive' else 1,
              'databases': 3 if changed == 'other settings' else 2}
    if changed == 'another file':
        (folder / 'recordings' / 'file').write_text('changed')
    if changed == 'killed':
        (folder / '.semanom_demo').write_text('{"recor')
    if changed == 'other code':
        monkeypatch.setattr(demo_folder, '_sources', lambda: 'other')
    again = DemoFolder(folder)
    again.clear(**wanted)
    assert again.begin('recordings') is (changed != 'other settings')
    assert again.begin('databases')


def test_commands_beside_one_that_fails_are_stopped(tmp_path, capfd):
    endless = ['simulate', tmp_path / 'drive', '--frames', 100000]
    with pytest.raises(SemanomError, match='semanom simulate: found exit status 2'):
        side_by_side([endless, ['simulate', tmp_path / 'other', '--frames', 'many']])
    assert 'many' in capfd.readouterr().err


def test_demo_replaces_only_a_demo(town, tmp_path, capsys):
    (tmp_path / 'thesis.txt').write_text('years of work')
    assert main(['demo', '--output', str(tmp_path), '--config', str(town.config)]) == 2
    assert 'found something that is no demo' in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ['thesis.txt']
    assert main(['demo', '--output', str(tmp_path / 'out'), '--set', 'neighbours=0']) == 2
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('gap', [0, 5])
def test_video_keeps_real_time(tmp_path, gap):
    """A picture stays until the next one: a gap in the recording is one in the film."""
    with BagWriter(tmp_path / 'bag') as writer:
        for number in range(12):
            stamp = START_NS + (number + (gap if number > 5 else 0)) * PERIOD_NS
            write_message(writer, '/overlay', image_to_compressed(road(number, 0)[:71, :95], stamp, ''), stamp)
    assert write_video(tmp_path / 'bag', '/overlay', tmp_path / 'film.mp4') == 12
    film = cv2.VideoCapture(str(tmp_path / 'film.mp4'))
    assert film.get(cv2.CAP_PROP_FPS) == pytest.approx(10)
    assert film.get(cv2.CAP_PROP_FRAME_COUNT) == 12 + gap
    assert (film.get(cv2.CAP_PROP_FRAME_WIDTH), film.get(cv2.CAP_PROP_FRAME_HEIGHT)) == (94, 70)
