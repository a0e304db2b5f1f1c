"""Engines: made, certified, chosen, and refused where they are not what was certified."""

from __future__ import annotations

import errno
import importlib.util
import json
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from semanom_ros.cli import main
from semanom_ros.core.curation import certification, operations
from semanom_ros.core.database import engines
from semanom_ros.core.database.engines import load_embedder, read_certificate, read_files
from semanom_ros.core.database.published import read_manifest
from semanom_ros.core.database.storage import FrameRecord, NominalAddition
from semanom_ros.core.embedding.backends import backend
from semanom_ros.core.embedding.backends.backend import Request
from semanom_ros.core.embedding.backends.certificate import Certificate, EncoderFacts
from semanom_ros.core.embedding.backends.engine import EngineEncoder, build_engine, load_engine
from semanom_ros.core.embedding.embedder import Embedder
from semanom_ros.core.embedding.encoders.network import NetworkEncoder
from semanom_ros.core.frames import Frame
from semanom_ros.core.pipeline import Judge
from semanom_ros.core.plausibility.transplanting import IMPLAUSIBLE, Composite
from semanom_ros.core.progress import SILENT
from semanom_ros.errors import DatabaseError, EncoderError, SemanomError
from semanom_ros.recordings.bags import BagWriter
from semanom_ros.recordings.nominal_recording import record_bags
from semanom_ros.settings import Settings

SECOND = 10**9
BACKEND = """
import torch


class Ours:
    precisions, devices, libraries, needs = ('fp32', 'int8'), ('cpu',), ('ours_backend',), ()
    largest_batch, keeps_network = 4, True

    def build(self, network, asked, pictures):
        return {'factor.txt': b'8' if asked.precision == 'int8' else b'0'}  # of what it rounds away

    def load(self, files, asked, network):
        step = float(files['factor.txt'])
        def run(images):
            features = network(images)
            return features if not step else torch.round(features * step) / step
        return run


FAMILY = Ours()
"""


@pytest.fixture(scope='module', autouse=True)
def backends(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A backend of another package."""
    root = tmp_path_factory.mktemp('site')
    information = root / 'ours_backend-1.5.dist-info'
    information.mkdir()
    (information / 'METADATA').write_text('Metadata-Version: 2.1\nName: ours_backend\nVersion: 1.5\n')
    (information / 'entry_points.txt').write_text('[semanom_ros.backends]\nours = ours_backend:FAMILY\n')
    (root / 'ours_backend.py').write_text(BACKEND)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(root)
        yield
    sys.modules.pop('ours_backend', None)


def picture(number: int) -> np.ndarray:
    """(48, 64, 3) uint8 RGB: a street under other noise, and now and then other light."""
    coarse = np.random.default_rng(number // 10).integers(60, 200, (3, 4, 3)).astype(np.uint8)
    noise = np.random.default_rng(1000 + number).normal(0, 8, (48, 64, 3))
    return np.clip(cv2.resize(coarse, (64, 48), interpolation=cv2.INTER_CUBIC) + noise, 0, 255).astype(np.uint8)


class Place:
    """A recording, an encoder and a database; `copy` gives one to spoil."""

    def __init__(self, folder: Path) -> None:
        self.bag, self.database = folder / 'drive', folder / 'database'
        with BagWriter(self.bag) as writer:
            for number in range(60):
                writer.write_image('/camera', picture(number), 'rgb8', (number + 1) * SECOND, 'optical', False)
        torch.manual_seed(3)
        network = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 16, 16), torch.nn.Tanh(), torch.nn.Conv2d(16, 16, 1))
        file = folder / 'tiny.ts'
        torch.jit.trace(network.eval(), torch.zeros(1, 3, 48, 64)).save(str(file))
        self.given: dict[str, Any] = {'encoder': f'torchscript:{file}', 'input_size': [48, 64], 'device': 'cpu',
                                      'false_alarm_rate': 0.1}
        record_bags([self.bag], self.database, self.settings(), SILENT)
        manifest = read_manifest(self.database)
        for precision in ('fp32', 'int8'):
            self.status = main(['export', '--database', str(self.database), '--backend', 'ours', '--precision',
                                precision, '--frames', '20', *self.options])
        assert read_manifest(self.database) == manifest, 'an engine is no part of a version'

    @property
    def options(self) -> list[str]:
        return ['--set', 'false_alarm_rate=0.1', '--set', 'device=cpu']

    def settings(self, **given: Any) -> Settings:
        return Settings.of({**self.given, **given})

    def copy(self, folder: Path) -> Path:
        return Path(shutil.copytree(self.database, folder / 'copy'))


@pytest.fixture(scope='module')
def place(tmp_path_factory: pytest.TempPathFactory, backends: None) -> Place:
    return Place(tmp_path_factory.mktemp('place'))


def certificate_of(root: Path, name: str = 'ours-fp32') -> Certificate:
    return read_certificate(root, name)


def rewrite(root: Path, name: str = 'ours-fp32', **changes: Any) -> None:
    """Another certificate in place of one, with a checksum that fits."""
    path = root / 'engines' / f'{name}.json'
    path.write_bytes(replace(certificate_of(root, name), **changes).dumps())


def test_an_engine_is_certified_and_gives_the_scores_of_the_original(place: Place) -> None:
    certificate = certificate_of(place.database)
    assert certificate.verdicts.nominal_frames == 20
    assert certificate.verdicts.differ == 0
    assert certificate.deviations.cosine_max < 1e-6
    assert certificate.libraries == {'ours_backend': '1.5'}
    assert Certificate.loads(certificate.dumps()) == certificate
    settings = place.settings(backend='ours', precision='fp32').method
    engine = Judge.load(settings, place.database)
    original = Judge.load(place.settings(backend='torch').method, place.database)
    assert isinstance(engine.embedder.encoder, EngineEncoder)
    assert engine.embedder.encoder.largest_batch == 4
    assert original.embedder.encoder.largest_batch is None
    assert engine.embedder.description.difference(original.embedder.description) is None
    frames = [Frame(picture(100 + number), number) for number in range(3)]
    mine, theirs = (judge.embedder.embed(frames) for judge in (engine, original))
    for a, b in zip(mine, theirs, strict=True):
        assert abs(engine.score(a).score - original.score(b).score) < 1e-5


def test_transplants_are_tried_beside_nominal_frames(place: Place, monkeypatch: pytest.MonkeyPatch,
                                                     tmp_path: Path) -> None:
    root = place.copy(tmp_path)

    def compose(self: Any, base: Any, *_: Any) -> Any:
        image = base.image.copy()
        image[:24] = 255 - image[:24]
        return Composite(image, np.full((48, 64), IMPLAUSIBLE, np.uint8))
    monkeypatch.setattr(certification.Transplanter, 'compose', compose)
    assert main(['export', '--database', str(root), '--backend', 'ours', '--frames', '20', *place.options]) == 0
    verdicts = certificate_of(root).verdicts
    assert verdicts.transplanted_frames == 19
    assert verdicts.alarms >= 10


def test_coarse_rounding_is_found_out_and_a_calibration_of_its_own_helps(place: Place, tmp_path: Path,
                                                                         capsys: pytest.CaptureFixture) -> None:
    certificate = certificate_of(place.database, 'ours-int8')
    assert certificate.deviations.cosine_max > 1e-4
    assert (place.status == 2) == bool(certificate.verdicts.differ)
    root = place.copy(tmp_path)
    rewrite(root, 'ours-int8', verdicts=replace(certificate.verdicts, differ=3))
    settings = place.settings(backend='ours', precision='int8').method
    with pytest.raises(DatabaseError, match=r'found 3 of \d+ verdicts that differ .* --calibrate'):
        load_embedder(settings, root)
    capsys.readouterr()
    assert main(['export', '--database', str(root), '--backend', 'ours', '--precision', 'int8', '--calibrate',
                 '--frames', '20', *place.options]) == 0
    assert 'with a calibration of its own' in capsys.readouterr().out
    judge, before = Judge.load(settings, root), Judge.load(place.settings(backend='torch').method, root)
    assert judge.level != before.level
    assert judge.with_database(root).level == judge.level


def test_auto_takes_the_quickest_that_holds_and_says_so(place: Place, tmp_path: Path,
                                                        caplog: pytest.LogCaptureFixture) -> None:
    root = place.copy(tmp_path)
    auto = place.settings().method
    rewrite(root, milliseconds=1.0, original_milliseconds=3.0)
    rewrite(root, 'ours-int8', milliseconds=4.0, original_milliseconds=3.0)
    with caplog.at_level(logging.INFO):
        encoder = load_embedder(auto, root).encoder
    assert isinstance(encoder, EngineEncoder)
    assert 'the encoder runs as ours-fp32: 3.0 times as fast' in caplog.text
    rewrite(root, milliseconds=4.0, original_milliseconds=3.0)
    assert isinstance(load_embedder(auto, root).encoder, NetworkEncoder), 'none is quicker'
    rewrite(root, milliseconds=1.0, device='another processor')
    assert isinstance(load_embedder(auto, root).encoder, NetworkEncoder)
    assert 'another processor' in caplog.text
    with_vocabulary = auto.changed({'label_vocabulary': 'words.txt'})
    assert isinstance(load_embedder(with_vocabulary, root).encoder, NetworkEncoder)
    with pytest.raises(DatabaseError, match='embeds no texts'):
        load_embedder(with_vocabulary.changed({'backend': 'ours'}), root)


def test_records_on_and_evaluates_with_an_engine(place: Place, tmp_path: Path) -> None:
    root = place.copy(tmp_path)
    begun = record_bags([place.bag], tmp_path / 'new', place.settings(backend='ours', precision='int8'), SILENT)
    assert begun.manifest is not None, 'the first recording is with PyTorch, whatever engine comes later'
    with BagWriter(tmp_path / 'more') as writer:
        writer.write_image('/camera', picture(200), 'rgb8', SECOND, 'optical', False)
    asked = place.settings(backend='ours', precision='fp32', append=True)
    record_bags([tmp_path / 'more'], root, asked, SILENT)
    with pytest.raises(DatabaseError, match=r'calibration: found the one of version 1 .* semanom export'):
        load_embedder(asked.method, root)


def test_what_a_person_accepts_leaves_a_certificate_as_it_is(place: Place, tmp_path: Path) -> None:
    root = place.copy(tmp_path)
    judge = Judge.load(place.settings(backend='ours', precision='fp32').method, root)
    embedding = judge.embedder.embed([Frame(picture(7), 7)])[0]
    queries = judge.embedder.queries(embedding)
    record = FrameRecord('live:/camera', '', '/camera', 7, (48, 64))
    after = judge.accepting([NominalAddition(record, queries.vectors, queries.boxes, queries.positions)])
    assert after.database.manifest.version == 2
    assert after.with_database(root).database.manifest.version == 2
    operations.calibrate(root)
    with pytest.raises(DatabaseError, match='calibration: found the one of version 1'):
        after.with_database(root)


Spoil = Callable[[Path, Path], None]


def _link(file: Path, elsewhere: Path) -> None:
    shutil.move(file, elsewhere)
    file.symlink_to(elsewhere)


@pytest.mark.parametrize(('spoil', 'message'), [
    (lambda file, _: file.write_bytes(b''), 'found 0 bytes, expected 1'),
    (lambda file, _: file.write_bytes(b'1'), 'changed after it was written'),
    (lambda file, _: file.write_bytes(b'0' * 9), 'found 9 bytes, expected at most 1'),
    (_link, 'found a symbolic link, expected a file'),
    (lambda file, _: file.unlink(), 'unreadable'),
], ids=['truncated', 'altered', 'longer', 'link', 'missing'])
def test_files_that_are_not_those_that_were_certified(place: Place, tmp_path: Path, spoil: Spoil, message: str,
                                                      capsys: pytest.CaptureFixture) -> None:
    root = place.copy(tmp_path)
    name, = certificate_of(root).files
    spoil(root / 'engines' / name, tmp_path / 'elsewhere')
    with pytest.raises(DatabaseError, match=message):
        load_embedder(place.settings(backend='ours', precision='fp32').method, root)
    assert isinstance(load_embedder(place.settings(precision='fp32').method, root).encoder, NetworkEncoder)
    assert main(['db', 'verify', str(root)]) == 2
    assert message.partition(',')[0] in capsys.readouterr().err


@pytest.mark.parametrize(('changes', 'message'), [
    ({'device': 'another GPU'}, 'device: found another GPU, expected .*, which is here'),
    ({'libraries': {'ours_backend': '1.4'}}, 'ours_backend: found version 1.4, expected 1.5'),
    ({'probe': tuple([0.5] * 16)}, 'away from those that it was certified with'),
    ({'parameters': {'neighbours': 3}}, 'parameter neighbours: found 3, .* semanom db calibrate'),
], ids=['device', 'library', 'probe', 'parameters'])
def test_certificates_of_something_else(place: Place, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    root = place.copy(tmp_path)
    rewrite(root, **changes)
    with pytest.raises(SemanomError, match=message) as caught:
        load_embedder(place.settings(backend='ours', precision='fp32').method, root)
    assert '\n' not in str(caught.value)


def test_a_certificate_of_another_database_or_changed(place: Place, tmp_path: Path) -> None:
    other = tmp_path / 'other'
    with BagWriter(tmp_path / 'drive') as writer:
        for number in range(300, 345):
            writer.write_image('/camera', picture(number), 'rgb8', number * SECOND, 'optical', False)
    record_bags([tmp_path / 'drive'], other, place.settings(), SILENT)
    asked = place.settings(backend='ours', precision='fp32').method
    with pytest.raises(DatabaseError, match=r'found no engine ours-fp32, .*semanom export .* --backend ours'):
        load_embedder(asked, other)
    shutil.copytree(place.database / 'engines', other / 'engines')
    with pytest.raises(DatabaseError, match='calibration: found the one of version 1 of a database'):
        load_embedder(asked, other)
    path = other / 'engines' / 'ours-fp32.json'
    content = json.loads(path.read_text())
    content['verdicts']['differ'] = 1
    for text, message in ((json.dumps(content), 'changed after it was written'), ('{', 'unreadable'),
                          (json.dumps({**content, 'files': {'../../x': [1, 'a']}}), 'unreadable')):
        path.write_text(text)
        with pytest.raises(DatabaseError, match=message):
            load_embedder(asked, other)
    with pytest.raises(EncoderError, match="backend 'theirs': no such family"):
        load_embedder(asked.changed({'backend': 'theirs'}), other)
    with pytest.raises(SemanomError, match='int8, which engines alone have'):
        load_embedder(place.settings(backend='torch', precision='int8').method, other)


def test_recordings_that_are_gone(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    bag = Path(shutil.copytree(place.bag, tmp_path / 'drive'))
    record_bags([bag], tmp_path / 'database', place.settings(), SILENT)
    moved = Path(shutil.move(bag, tmp_path / 'moved'))
    command = ['export', '--database', str(tmp_path / 'database'), '--backend', 'ours', '--frames', '9', *place.options]
    assert main(command) == 2
    assert 'found none of its recordings' in capsys.readouterr().err
    assert main([*command, '--recording', str(moved)]) == 0
    assert certificate_of(tmp_path / 'database').deviations.cosine_max < 1e-6


def test_a_full_disk_leaves_the_engine_of_before(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                 capsys: pytest.CaptureFixture) -> None:
    root = place.copy(tmp_path)
    before = certificate_of(root)

    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    command = ['export', '--database', str(root), '--backend', 'ours', '--frames', '9', *place.options]
    with monkeypatch.context() as patch:
        patch.setattr(engines, 'write_durably', full)
        assert main(command) == 2
    assert 'No space left on device' in capsys.readouterr().err
    assert certificate_of(root) == before
    assert load_embedder(place.settings(backend='ours', precision='fp32').method, root)
    left = root / 'engines' / 'ours-fp32-000000000000'
    left.mkdir()
    (left / 'model').write_bytes(b'of an interrupted writer')
    assert main(command) == 0
    assert not left.exists()
    assert read_files(root, certificate_of(root))


class _Wrong:
    """Networks that are not what they should be."""

    @staticmethod
    def nan(images: torch.Tensor) -> torch.Tensor:
        return torch.full((len(images), 3, 4, 16), torch.nan)

    @staticmethod
    def shape(images: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(images), 4, 3, 16)

    @staticmethod
    def failure(images: torch.Tensor) -> torch.Tensor:
        raise RuntimeError('no kernel for this')


@pytest.mark.parametrize(('network', 'message'), [
    (_Wrong.nan, 'found NaN or infinity in its embeddings'),
    (_Wrong.shape, r'found features of shape \(1, 4, 3, 16\), expected \(1, 3, 4, 16\)'),
    (_Wrong.failure, 'does not run on cpu .no kernel for this'),
])
def test_networks_that_are_none(place: Place, network: Any, message: str) -> None:
    facts = EncoderFacts.of(Embedder.load(place.settings(backend='torch').method).encoder)
    with pytest.raises(EncoderError, match=message):
        EngineEncoder(facts, 'ours', Request('ours', 'fp32', torch.device('cpu'), (48, 64)), network, None)


def test_a_library_that_is_missing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Embedder.load(place.settings(backend='torch', precision='fp32').method).encoder
    assert isinstance(original, NetworkEncoder)
    with pytest.raises(EncoderError, match=r'library tensorrt: not installed|device: found cpu, expected cuda'):
        build_engine(original, 'tensorrt', 'fp16', [])

    def missing(name: str) -> str:
        raise backend.PackageNotFoundError(name)
    monkeypatch.setattr(backend, 'version', missing)
    for name in ('openvino', 'onnxruntime'):
        with pytest.raises(EncoderError, match=rf"library {name}: not installed, .*semanom_ros\[{name}\]"):
            build_engine(original, name, 'fp32', [])


def test_compile_wants_a_compiler(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Embedder.load(place.settings(backend='torch', precision='fp32').method).encoder
    assert isinstance(original, NetworkEncoder)
    monkeypatch.setenv('PATH', '')
    with pytest.raises(EncoderError, match=r'no C.. compiler, expected one; apt install'):
        build_engine(original, 'compile', 'fp32', [])


@pytest.mark.parametrize(('name', 'precision', 'close'), [
    ('openvino', 'fp32', 1e-5), ('openvino', 'bf16', 1e-3), ('openvino', 'int8', 0.05), ('onnxruntime', 'fp32', 1e-5),
    ('onnxruntime', 'int8', 0.05)])
def test_libraries_compute_what_pytorch_does(place: Place, name: str, precision: str, close: float) -> None:
    """For one picture and for several, made anew from the files alone."""
    for library in (name, *({'openvino': ['nncf'], 'onnxruntime': ['onnx']}[name] if precision == 'int8' else [])):
        if importlib.util.find_spec(library) is None:
            pytest.skip(f'{library} is not installed')
    embedder = Embedder.load(place.settings(backend='torch', precision='fp32').method)
    original = embedder.encoder
    assert isinstance(original, NetworkEncoder)
    pictures = [embedder.preprocessor([picture(number)]) for number in range(8)]
    built = build_engine(original, name, precision, pictures)
    request = Request(original.name, precision, original.device, original.input_size)
    again = load_engine(EncoderFacts.of(original), name, request, built.files, None)
    for batch in (pictures[0], torch.cat(pictures[:3])):
        found = again.encode(batch)
        assert (1 - (found * original.encode(batch)).sum(dim=-1)).max() < close
        assert torch.equal(found, built.encoder.encode(batch))
    with pytest.raises(EncoderError, match='cannot be loaded'):
        load_engine(EncoderFacts.of(original), name, request, {key: b'none' for key in built.files}, None)
