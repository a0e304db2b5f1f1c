"""`semanom evaluate --engine`: the figures of one process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest

from semanom_ros.cli import main
from semanom_ros.core.progress import SILENT
from semanom_ros.errors import DatabaseError, SemanomError
from semanom_ros.evaluation.detectors import Detectors
from semanom_ros.evaluation.replay import CameraTopics, Topics
from semanom_ros.evaluation.runner import METRICS, SCORES, evaluate
from semanom_ros.fleet.fleet_evaluation import measured_by
from semanom_ros.settings import Settings

from .conftest import TOPICS, WorkersHere, one_process, save_encoder

Drive = Callable[..., Path]


def figures(folder: Path) -> dict[str, Any]:
    """metrics.json without times."""
    found = json.loads((folder / METRICS).read_text())
    for result in (*found['results'], *(one for own in found['recordings'] for one in own['results'])):
        del result['latency_ms']
    return found


@pytest.fixture
def detectors(tmp_path: Path, settings: Settings, drive: Drive) -> Detectors:
    settings = settings.changed({'image_topics': TOPICS[:1]})
    database = one_process([drive('nominal', 40, first=500)], tmp_path / 'database', settings)
    return Detectors(settings.method, [database], (), (False, True))


@pytest.mark.parametrize('url', ['shared', 'memory://bucket/evaluation'])
def test_the_figures_are_those_of_one_process(url: str, tmp_path: Path, settings: Settings, drive: Drive,
                                              detectors: Detectors) -> None:
    url = url if '://' in url else str(tmp_path / url)
    bags = [drive('a'), drive('white', 3, white=True), drive('b', 20, first=60)]
    topics = Topics((CameraTopics(TOPICS[0]),))
    elsewhere = measured_by(WorkersHere(), url, detectors, None, topics, settings, SILENT)
    content = evaluate(bags, detectors, tmp_path / 'fleet', topics, settings=settings, elsewhere=elsewhere)
    assert content['left_out'].keys() == {'white'}
    assert 'a white picture' in content['left_out']['white']
    assert 'The recording white is not among the figures' in (tmp_path / 'fleet' / 'report.html').read_text()

    evaluate([bags[0], bags[2]], detectors, tmp_path / 'one', topics, settings=settings)
    ours, theirs = figures(tmp_path / 'fleet'), figures(tmp_path / 'one')
    assert {**ours, 'left_out': {}} == theirs
    assert (tmp_path / 'fleet' / SCORES).read_text() == (tmp_path / 'one' / SCORES).read_text()
    for bag in ('a', 'b'):
        assert sorted(path.name for path in (tmp_path / 'fleet' / 'bags' / bag).iterdir()) == \
            sorted(path.name for path in (tmp_path / 'one' / 'bags' / bag).iterdir())
    assert not (tmp_path / 'shared').exists()
    assert not fsspec.filesystem('memory').store


def test_what_cannot_be_measured_anywhere_leaves_nothing(tmp_path: Path, settings: Settings, drive: Drive,
                                                         detectors: Detectors) -> None:
    topics = Topics((CameraTopics(TOPICS[0]),))
    white = [drive('white', 3, white=True)]
    elsewhere = measured_by(WorkersHere(), str(tmp_path / 'shared'), detectors, None, topics, settings, SILENT)
    with pytest.raises(SemanomError, match='found no frame that can be judged'):
        evaluate(white, detectors, tmp_path / 'out', topics, settings=settings, elsewhere=elsewhere)

    def other(number: int) -> None:
        save_encoder(tmp_path / 'tiny.ts', 4)

    elsewhere = measured_by(WorkersHere(1, other), str(tmp_path / 'shared'), detectors, None, topics, settings, SILENT)
    with pytest.raises(SemanomError) as told:
        evaluate([drive('a')], detectors, tmp_path / 'out', topics, settings=settings, elsewhere=elsewhere)
    assert isinstance(told.value, DatabaseError) or 'no worker is left' in str(told.value)
    assert 'weights' in str(told.value)
    assert not (tmp_path / 'out').exists()
    assert not (tmp_path / 'shared').exists()
    assert not list(tmp_path.glob('.out*'))


@pytest.mark.parametrize('content', [b'not JSON', b'[]', b'7', b'{"made_of": {}}'])
def test_a_storage_that_holds_something_else(content: bytes, tmp_path: Path, settings: Settings, drive: Drive,
                                             detectors: Detectors) -> None:
    storage = tmp_path / 'shared'
    storage.mkdir()
    (storage / 'order.json').write_bytes(content)
    topics = Topics((CameraTopics(TOPICS[0]),))
    elsewhere = measured_by(WorkersHere(), str(storage), detectors, None, topics, settings, SILENT)
    with pytest.raises(SemanomError, match='found a recording that is not finished, or something else, expected an'):
        evaluate([drive('a', 2)], detectors, tmp_path / 'out', topics, settings=settings, elsewhere=elsewhere)
    assert (storage / 'order.json').read_bytes() == content


def test_baselines_are_for_one_process(tmp_path: Path, drive: Drive, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['evaluate', str(drive('a', 2)), '--database', str(tmp_path / 'none'), '--output',
                 str(tmp_path / 'out'), '--engine', 'processes', '--baseline', 'patchcore']) == 2
    assert '--baseline patchcore: found it with --engine, expected the detector alone' in capsys.readouterr().err
