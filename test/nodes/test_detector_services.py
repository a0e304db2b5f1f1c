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

from semanom_ros.core.curation.recorder import NominalRecorder
from semanom_ros.core.curation.writer import DatabaseWriter
from semanom_ros.core.database.nominal_database import NominalDatabase, read_manifest
from semanom_ros.core.embedding.embedder import Embedder
from semanom_ros.core.frames import Frame
from semanom_ros.msg import DatabaseInfo
from semanom_ros.settings import MethodSettings

RELOAD, ACCEPT = '/semanom_detector/reload_database', '/semanom_detector/accept_as_nominal'


@pytest.fixture
def own(tmp_path: Path, learned: Path) -> Path:
    """A database that the test may change; it knows what belongs where."""
    return Path(shutil.copytree(learned, tmp_path / 'own'))


def verdicts(one: Any) -> Callable[..., bool]:
    """Whether a picture is anomalous, as the detector says."""
    return lambda image, camera='camera': one.verdict(image, camera).anomalous


def append(path: Path, encoder: dict[str, Any], images: list[Any]) -> None:
    embedder = Embedder.load(MethodSettings.of(encoder))
    with DatabaseWriter.begin(path, embedder.description, append=True) as writer:
        frames = [Frame(image, number, 'camera', 'second_drive', '/camera/image')
                  for number, image in enumerate(images)]
        for _ in NominalRecorder(embedder, writer).record(frames, 'b' * 64, lambda _: False):
            pass
        writer.commit(None)


def test_reload_takes_up_a_new_version(
        active: Callable[..., Any], own: Path, encoder: dict[str, Any]) -> None:
    one = active(database=str(own))
    verdict = verdicts(one)
    info = one.listen(DatabaseInfo, 'database_info', latched=True)
    box = one.street_with_box(70)
    assert verdict(box)
    append(own, encoder, [box])
    assert verdict(box), 'the old version is in use until it is asked for the new one'
    answer = one.call(Trigger, RELOAD, Trigger.Request())
    assert answer.success, answer.message
    assert 'version 3' in answer.message
    one.spin_until(lambda: info and info[-1].version == 3)
    assert [Path(source).name for source in info[-1].sources] == ['nominal_drive', 'second_drive']
    assert not verdict(box)


def test_a_failed_reload_keeps_what_is_loaded(active: Callable[..., Any], own: Path, learned: Path) -> None:
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
    assert 'version 2 stays in use' in status.message
    shutil.copy(learned / 'manifest.json', own / 'manifest.json')
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
    one.spin_until(lambda: info and info[-1].version == 3)
    assert 'reviewed:live:/semanom_detector/input/camera/image' in info[-1].sources
    assert not verdict(red)
    assert not verdict(one.street_with_box(71)), 'nor does the like'
    assert verdict(blue), 'something else still does'
    assert read_manifest(own).version == 3
    assert (own / 'v000002' / 'manifest.json').exists(), 'the version before is kept'
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
    verdict = verdicts(one)
    red = one.street_with_box(70)
    blue = red[..., ::-1].copy()
    assert verdict(red, 'front')
    assert verdict(blue, 'rear')
    assert one.call(Trigger, ACCEPT, Trigger.Request()).success
    assert read_manifest(own).version == 3
    assert not verdict(blue, 'front')
    assert not verdict(red, 'rear')


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
        active: Callable[..., Any], own: Path, encoder: dict[str, Any]) -> None:
    one = active(database=str(own))
    verdict = verdicts(one)
    assert verdict(one.street_with_box(70))
    with DatabaseWriter.begin(own, Embedder.load(MethodSettings.of(encoder)).description, append=True):
        answer = one.call(Trigger, ACCEPT, Trigger.Request())
    assert not answer.success
    assert 'writer' in answer.message
    assert verdict(one.street_with_box(70))
    assert one.call(Trigger, ACCEPT, Trigger.Request()).success, 'it can be tried again'
    assert not verdict(one.street_with_box(70))
