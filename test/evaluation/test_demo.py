"""`semanom demo` from nothing to the report, with the real detector in the middle."""

from __future__ import annotations

import json

import cv2
import pytest

from semanom_ros.cli import main
from semanom_ros.evaluation.video import write_video
from semanom_ros.recordings.bags import BagReader, BagWriter
from semanom_ros.ros.messages import image_to_compressed, write_message

from .conftest import PERIOD_NS, START_NS, road


def run(town, output):
    return main(['demo', '--output', str(output), '--nominal-seconds', '50', '--seconds', '3', '--config',
                 str(town.config)])


def test_demo_leaves_what_it_promises(town, tmp_path, capsys):
    output = tmp_path / 'out'
    assert run(town, output) == 0
    printed = capsys.readouterr().out
    for line in ('[1/5] simulate', '[5/5]', 'images published: 30', 'images dropped', 'latency, image published',
                 'instance + filter', str(output / 'report.html')):
        assert line in printed
    metrics = json.loads((output / 'metrics.json').read_text())
    assert metrics['frames'] == 30
    assert len(metrics['results']) == 4
    assert {path.name for path in output.iterdir()} == {
        '.semanom_demo', 'metrics.json', 'report.html', 'scores.csv', 'overlay.mp4', 'overlays', 'bags', 'live',
        'recordings', 'databases'}
    assert 'data:video/mp4;base64,' in (output / 'report.html').read_text()
    assert any((output / 'overlays').glob('*.png'))
    film = cv2.VideoCapture(str(output / 'overlay.mp4'))
    assert int(film.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, 'little') in (b'avc1', b'h264', b'H264')
    with BagReader(output / 'live') as reader:
        assert reader.counts['/camera/image_raw/compressed'] == 30
        assert reader.counts['/semanom_detector/camera/score'] >= 1


def test_demo_replaces_only_a_demo(town, tmp_path, capsys):
    (tmp_path / 'thesis.txt').write_text('years of work')
    assert run(town, tmp_path) == 2
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
