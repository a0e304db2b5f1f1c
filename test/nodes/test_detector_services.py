"""`~/reload_database` and `~/accept_as_nominal`."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.parameter import Parameter
from std_srvs.srv import Trigger

from semanom_ros.core.curation.recorder import NominalRecorder, describe
from semanom_ros.core.database import DatabaseWriter, NominalDatabase, read_manifest
from semanom_ros.core.embedding.embedder import Embedder
from semanom_ros.core.frames import Frame
from semanom_ros.msg import AnomalyScore, DatabaseInfo
from semanom_ros.parameters import METHOD, resolve

RELOAD, ACCEPT = '/semanom_detector/reload_database', '/semanom_detector/accept_as_nominal'


@pytest.fixture
def own(tmp_path: Path, recorded: Path) -> Path:
    """A database that the test may change."""
    return Path(shutil.copytree(recorded, tmp_path / 'own'))


def verdicts(one: Any) -> Callable[[Any], bool]:
    """Whether a picture is anomalous, as the detector says."""
    scores = one.listen(AnomalyScore, 'camera/score')
    sent = [0]

    def verdict(image: Any) -> bool:
        scores.clear()
        sent[0] += 1
        one.send(image, sent[0] * one.second)
        return one.spin_until(lambda: scores)[0].anomalous

    return verdict


def append(path: Path, method: dict[str, Any], images: list[Any]) -> None:
    embedder = Embedder.load(resolve(method, METHOD))
    with DatabaseWriter.begin(path, describe(embedder), append=True) as writer:
        frames = [Frame(image, number, 'camera', 'second_drive', '/camera/image')
                  for number, image in enumerate(images)]
        for _ in NominalRecorder(embedder, writer).record(frames, 'b' * 64, lambda _: False):
            pass
        old = NominalDatabase.open(path)
        writer.commit(lambda _: old.calibration).close()


def test_reload_takes_up_a_new_version(
        active: Callable[..., Any], own: Path, method: dict[str, Any]) -> None:
    one = active(database=str(own))
    verdict = verdicts(one)
    info = one.listen(DatabaseInfo, 'database_info', latched=True)
    box = one.street_with_box(70)
    assert verdict(box)
    append(own, method, [box])
    assert verdict(box), 'the old version is in use until it is asked for the new one'
    answer = one.call(Trigger, RELOAD, Trigger.Request())
    assert answer.success, answer.message
    assert 'version 2' in answer.message
    one.spin_until(lambda: info and info[-1].version == 2)
    assert info[-1].sources == ['nominal_drive', 'second_drive']
    assert not verdict(box)


def test_a_failed_reload_keeps_what_is_loaded(active: Callable[..., Any], own: Path, recorded: Path) -> None:
    one = active(database=str(own))
    verdict = verdicts(one)
    (own / 'manifest.json').write_text('{}')
    answer = one.call(Trigger, RELOAD, Trigger.Request())
    assert not answer.success
    assert str(own / 'manifest.json') in answer.message
    assert '\n' not in answer.message
    assert verdict(one.street_with_box(70))
    assert not verdict(one.street(70))
    status = one.status('detector', lambda s: s.level == DiagnosticStatus.WARN)
    assert 'version 1 stays in use' in status.message
    shutil.copy(recorded / 'manifest.json', own / 'manifest.json')
    assert one.call(Trigger, RELOAD, Trigger.Request()).success
    assert one.status('detector', lambda s: s.level == DiagnosticStatus.OK)


def test_frames_are_scored_while_a_database_loads(
        active: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    one = active()
    verdict = verdicts(one)
    gate, begun, real = threading.Event(), threading.Event(), NominalDatabase.open

    def slow(*arguments: Any, **options: Any) -> NominalDatabase:
        begun.set()
        assert gate.wait(60)
        return real(*arguments, **options)

    monkeypatch.setattr(NominalDatabase, 'open', slow)
    client = one.node.create_client(Trigger, RELOAD)
    one.spin_until(client.service_is_ready)
    answer = client.call_async(Trigger.Request())
    try:
        one.spin_until(begun.is_set)
        assert not verdict(one.street(1))
        assert verdict(one.street_with_box(1))
        assert one.status('detector')
        assert not answer.done()
        set_while_loading = one.detector.set_parameters([Parameter('filter_min_area', value=0.9)])
        assert set_while_loading[0].successful
    finally:
        gate.set()
    one.spin_until(answer.done)
    assert answer.result().success
    assert not verdict(one.street_with_box(2)), 'what was set while it loaded holds'
    one.detector.set_parameters([Parameter('filter_min_area', value=0.01)])
    assert verdict(one.street_with_box(2))


def test_what_was_accepted_raises_no_alarm_any_more(active: Callable[..., Any], own: Path) -> None:
    one = active(database=str(own))
    verdict = verdicts(one)
    info = one.listen(DatabaseInfo, 'database_info', latched=True)
    red = one.street_with_box(70)
    blue = red[..., ::-1].copy()
    assert verdict(red)
    assert verdict(blue)
    assert verdict(red)
    answer = one.call(Trigger, ACCEPT, Trigger.Request())
    assert answer.success, answer.message
    one.spin_until(lambda: info and info[-1].version == 2)
    assert 'reviewed:live:/semanom_detector/input/camera/image' in info[-1].sources
    assert not verdict(red)
    assert not verdict(one.street_with_box(71)), 'nor does the like'
    assert verdict(blue), 'something else still does'
    assert read_manifest(own).version == 2
    assert (own / 'v000001' / 'manifest.json').exists(), 'the version before is kept'
    assert one.call(Trigger, ACCEPT, Trigger.Request()).success, 'now the blue one'
    assert not verdict(blue)
    assert not verdict(red)


def test_accept_survives_a_restart(active: Callable[..., Any], own: Path) -> None:
    one = active(database=str(own))
    verdict = verdicts(one)
    red = one.street_with_box(70)
    assert verdict(red)
    assert one.call(Trigger, ACCEPT, Trigger.Request()).success
    assert one.deactivate()
    assert one.cleanup()
    assert one.configure()
    assert one.activate()
    assert not verdicts(one)(red)


def test_accept_takes_the_flagged_of_every_camera(active: Callable[..., Any], own: Path) -> None:
    one = active(database=str(own), camera_names=['front', 'rear'])
    scores = {name: one.listen(AnomalyScore, f'{name}/score') for name in ('front', 'rear')}
    red = one.street_with_box(70)
    blue = red[..., ::-1].copy()

    def verdict(camera: str, image: Any) -> bool:
        scores[camera].clear()
        one.send(image, one.second, camera=camera)
        return one.spin_until(lambda: scores[camera])[0].anomalous

    assert verdict('front', red)
    assert verdict('rear', blue)
    assert one.call(Trigger, ACCEPT, Trigger.Request()).success
    assert read_manifest(own).version == 2
    assert not verdict('front', blue)
    assert not verdict('rear', red)


def test_services_say_what_is_missing(bench: Callable[..., Any], recorded: Path) -> None:
    one = bench(database=str(recorded))
    for service in (RELOAD, ACCEPT):
        answer = one.call(Trigger, service, Trigger.Request())
        assert not answer.success
        assert 'configure' in answer.message
    assert one.configure()
    answer = one.call(Trigger, ACCEPT, Trigger.Request())
    assert not answer.success
    assert 'nothing was flagged' in answer.message
    assert one.call(Trigger, RELOAD, Trigger.Request()).success


def test_accept_fails_cleanly_where_somebody_else_writes(
        active: Callable[..., Any], own: Path, method: dict[str, Any]) -> None:
    one = active(database=str(own))
    verdict = verdicts(one)
    assert verdict(one.street_with_box(70))
    with DatabaseWriter.begin(own, describe(Embedder.load(resolve(method, METHOD))), append=True):
        answer = one.call(Trigger, ACCEPT, Trigger.Request())
    assert not answer.success
    assert 'writer' in answer.message
    assert verdict(one.street_with_box(70))
    assert one.call(Trigger, ACCEPT, Trigger.Request()).success, 'it can be tried again'
    assert not verdict(one.street_with_box(70))
