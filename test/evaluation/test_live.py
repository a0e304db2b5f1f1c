"""The real detector over DDS, in a process of its own, against the evaluator on the same recording."""

from __future__ import annotations

import csv
import os

import numpy as np
import pytest

from semanom_ros.cli import main
from semanom_ros.errors import SemanomError
from semanom_ros.evaluation.live_run import run_live
from semanom_ros.parameter_files import read_yaml
from semanom_ros.recordings.bags import BagReader
from semanom_ros.recordings.images import stamp_ns
from semanom_ros.ros.background import private_domain
from semanom_ros.settings import Settings

TOPIC = '/camera/image_raw'
SCORE = '/semanom_detector/camera/score'


@pytest.fixture
def settings(town):
    return Settings.of(read_yaml(town.config))


def test_detector_and_evaluator_give_a_frame_the_same_score(town, settings, tmp_path):
    live = run_live(town.drive, {'camera': TOPIC}, town.databases['grid'], settings, tmp_path / 'live')['camera']
    assert live.published == 70
    assert 1 <= live.processed <= 70
    assert live.dropped == 70 - live.processed
    assert (live.latencies_ms > 0).all()
    assert main(['evaluate', str(town.drive), '--output', str(tmp_path / 'out'), '--filter', 'off',
                 *town.arguments('grid')]) == 0
    with open(tmp_path / 'out' / 'scores.csv') as file:
        offline = {int(line['stamp_ns']): line for line in csv.DictReader(file)}
    with BagReader(tmp_path / 'live') as reader:
        scores = [message for _, _, message in reader.messages([SCORE])]
        assert reader.counts[TOPIC] == 70  # the result bag plays without the recording
        assert reader.counts['/semanom_detector/camera/overlay/compressed'] >= 1
    assert len(scores) == live.processed
    for message in scores:
        line = offline[stamp_ns(message)]
        for name in ('score', 'raw_score', 'p_value', 'threshold'):
            assert getattr(message, name) == pytest.approx(float(line[name]), rel=2e-5)
    truths = np.array([line['truth'] == '1' for line in offline.values()])
    assert truths.sum() == 23


def test_failing_detector_is_reported_with_its_log(town, settings, tmp_path):
    with pytest.raises(SemanomError) as failure:
        run_live(town.drive, {'camera': TOPIC}, tmp_path / 'nowhere', settings, tmp_path / 'live')
    text = str(failure.value)
    assert text.startswith('the detector failed to configure; the end of its log:')
    assert f'{tmp_path / "nowhere"}: found no folder' in text
    assert not (tmp_path / 'live').exists()


def test_replays_use_domains_of_their_own(monkeypatch):
    monkeypatch.setenv('ROS_DOMAIN_ID', '7')
    monkeypatch.delenv('ROS_AUTOMATIC_DISCOVERY_RANGE', raising=False)
    with private_domain() as first, private_domain() as second:
        assert first != second
        assert os.environ['ROS_DOMAIN_ID'] == str(second)
        assert os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] == 'LOCALHOST'
    assert os.environ['ROS_DOMAIN_ID'] == '7'
    assert 'ROS_AUTOMATIC_DISCOVERY_RANGE' not in os.environ
