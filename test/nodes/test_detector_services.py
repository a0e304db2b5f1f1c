"""`~/reload_database` and `~/accept_as_nominal`."""

from __future__ import annotations

import dataclasses
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.parameter import Parameter
from std_srvs.srv import Trigger

from semanom_ros.core.curation.recorder import NominalRecorder
from semanom_ros.core.curation.writer import DatabaseWriter
from semanom_ros.core.database.manifest import REVIEWED
from semanom_ros.core.database.nominal_database import NominalDatabase
from semanom_ros.core.database.published import read_manifest
from semanom_ros.core.embedding.embedder import Embedder
from semanom_ros.core.frames import Frame
from semanom_ros.core.pipeline import Judge
from semanom_ros.core.results import FrameResult
from semanom_ros.msg import DatabaseInfo
from semanom_ros.nodes import detector
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


@pytest.mark.parametrize(('owner', 'step'), [(detector, 'evidence_for'), (Judge, 'accepting')])
def test_frames_are_scored_while_evidence_is_accepted(
        active: Callable[..., Any], own: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, step: str) -> None:
    """The real step, made as slow as it must be for the test: nothing that a frame needs is held meanwhile."""
    one = active(database=str(own))
    verdict = verdicts(one)
    gate, begun, real = threading.Event(), threading.Event(), getattr(owner, step)

    def slow(*arguments: Any) -> Any:
        begun.set()
        assert gate.wait(60)
        return real(*arguments)

    red = one.street_with_box(70)
    blue = red[..., ::-1].copy()
    assert verdict(red)
    monkeypatch.setattr(owner, step, slow)
    client = one.node.create_client(Trigger, ACCEPT)
    one.spin_until(client.service_is_ready)
    answer = client.call_async(Trigger.Request())
    try:
        one.spin_until(begun.is_set)
        assert not verdict(one.street(1))
        assert verdict(blue), 'flagged after what is being accepted'
        assert one.status('detector')
        assert one.detector.set_parameters([Parameter('filter_min_area', value=0.001)])[0].successful
        assert not answer.done()
    finally:
        gate.set()
    one.spin_until(answer.done)
    assert answer.result().success, answer.result().message
    assert not verdict(red)
    assert verdict(blue), 'is not accepted with the red one'
    assert one.call(Trigger, ACCEPT, Trigger.Request()).success
    assert not verdict(blue)


@pytest.mark.parametrize(('name', 'every_n'), [('learned', 1), ('segmented', 1), ('segmented', 3)])
def test_what_is_accepted_is_what_was_judged(
        active: Callable[..., Any], instances: dict[str, Any], request: pytest.FixtureRequest, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch, name: str, every_n: int) -> None:
    """No second pass through encoder and segmenter: in that, masks that follow the picture would be others."""
    own = Path(shutil.copytree(request.getfixturevalue(name), tmp_path / 'own'))
    given = {**instances, 'segmenter_every_n': every_n} if name == 'segmented' else {}
    passes, results = [0], []
    encode, process = Embedder.encode, Judge.process_batch

    def counted(self: Embedder, *arguments: Any) -> Any:
        passes[0] += 1
        return encode(self, *arguments)

    def noted(self: Judge, *arguments: Any) -> list[FrameResult]:
        found = process(self, *arguments)
        results.extend(found)
        return found

    monkeypatch.setattr(Embedder, 'encode', counted)
    monkeypatch.setattr(Judge, 'process_batch', noted)
    one = active(database=str(own), **given)
    message = one.verdict(one.street_with_box(70))
    assert message.anomalous
    encoder = one.detector._judge.embedder.encoder
    monkeypatch.setattr(type(encoder), 'encode', lambda *_: 1 / 0)
    before = passes[0]
    answer = one.call(Trigger, ACCEPT, Trigger.Request())
    assert answer.success, answer.message
    assert passes[0] == before

    judged = results[-1]
    assert message.score == np.float32(judged.score)
    part, entry, _ = NominalDatabase.open(own).parts()[-1]
    assert (entry.kind, len(part.frames)) == (REVIEWED, 1)
    accepted = part.frame(0, False)
    vectors, boxes = judged.queries.vectors.cpu().numpy(), judged.queries.boxes
    known = {vectors[number].tobytes() + boxes[number].tobytes(): number for number in range(len(vectors))}
    numbers = np.array([known[vector.tobytes() + box.tobytes()]
                        for vector, box in zip(accepted.vectors, accepted.boxes, strict=True)])
    assert (judged.scores.scores[numbers] > judged.pixel_threshold).all()
    assert re.match(rf'{len(numbers)} embeddings accepted', answer.message)
    if name == 'segmented':
        assert (numbers < len(judged.scores.segments.scores)).any(), 'segments among them'
    assert accepted.record.stamp_ns == judged.stamp_ns


def test_the_answer_names_camera_stamp_and_age(active: Callable[..., Any], own: Path) -> None:
    one = active(database=str(own), camera_names=['front', 'rear'])
    assert verdicts(one)(one.street_with_box(70), 'rear')
    stamp = one._scores['rear'][-1].header.stamp
    answer = one.call(Trigger, ACCEPT, Trigger.Request())
    assert answer.success
    expected = rf', of rear: frame {stamp.sec}\.{stamp.nanosec // 10**6:03d}, flagged \d+\.\d s ago; database'
    assert re.search(expected, answer.message), answer.message


def test_what_was_flagged_long_ago_is_not_accepted(
        active: Callable[..., Any], own: Path, monkeypatch: pytest.MonkeyPatch, trial: Any) -> None:
    one = active(database=str(own), camera_names=['front', 'rear'], accept_max_age=30.0)
    verdict = verdicts(one)
    red = one.street_with_box(70)
    assert verdict(red, 'front')
    front = next(camera for camera in one.detector._cameras if camera.name == 'front')
    front.flagged = dataclasses.replace(front.flagged, when=front.flagged.when - 31)
    with trial('Nodes', 'accept_as_nominal long after the alarm'):
        answer = one.call(Trigger, ACCEPT, Trigger.Request())
        assert not answer.success
        assert re.match(r'too old: found front: frame .*, flagged 3\d\.\d s ago, expected at most 30 s', answer.message)
        assert verdict(red[..., ::-1].copy(), 'rear')
        answer = one.call(Trigger, ACCEPT, Trigger.Request())
        assert answer.success
        assert re.search(r'of rear: frame .* \(left out as too old: front: frame', answer.message)
        assert verdict(red, 'rear'), 'that of the front camera is not accepted'


def test_a_read_only_node_writes_nothing_and_stays_so(active: Callable[..., Any], own: Path, trial: Any) -> None:
    one = active(database=str(own), read_only=True)
    assert verdicts(one)(one.street_with_box(70))
    before = {path: path.stat().st_mtime_ns for path in own.rglob('*')}
    with trial('Nodes', 'services that write, of a read-only node'):
        answer = one.call(Trigger, ACCEPT, Trigger.Request())
        assert not answer.success
        assert 'parameter read_only: found true' in answer.message
        assert not one.detector.set_parameters([Parameter('read_only', value=False)])[0].successful
        assert one.cleanup() is False, 'is active'
        assert one.deactivate()
        assert one.cleanup()
        assert not one.detector.set_parameters([Parameter('read_only', value=False)])[0].successful
        assert {path: path.stat().st_mtime_ns for path in own.rglob('*')} == before
