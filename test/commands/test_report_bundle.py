"""The archive for an issue: what is in it, and that no secret is."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from semanom_ros import __version__
from semanom_ros.commands.findings import Finding
from semanom_ros.commands.report_bundle import LAST_LINES, shareable, write_bundle
from semanom_ros.core.curation.writer import DatabaseWriter
from semanom_ros.core.database.storage import FrameRecord, NominalAddition, thumbnail
from semanom_ros.core.embedding.description import EmbeddingDescription
from semanom_ros.errors import ParameterError
from semanom_ros.settings import Settings

TOKEN, PASSWORD, KEY = 'hf_aQ7zPlantedTokenXw91', 'planted-pass/w0rd', 'PlantedKeyMaterial'
PICTURE = np.full((64, 96, 3), (200, 40, 10), np.uint8)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / 'planted_user'
    folder.mkdir()
    monkeypatch.setenv('HOME', str(folder))
    return folder


@pytest.fixture
def database(home: Path) -> Path:
    """Two frames with pictures, from a drive below the home folder."""
    description = EmbeddingDescription(
        encoder='timm:small', weights='random:0', weights_sha256='a' * 64, preprocessing_sha256='b' * 64,
        input_size=(64, 96), grid_size=(4, 6), dimension=8, variant='grid', settings={'layer': '-1'})
    with DatabaseWriter.begin(home / 'nominal', description) as writer:
        for number in range(2):
            record = FrameRecord(str(home / 'drives' / 'monday'), 'c' * 64, '/camera', number, (64, 96), False)
            writer.add(NominalAddition(record, np.eye(8, dtype=np.float32)[:2], np.zeros((2, 4), np.int32),
                                       np.zeros((2, 2), np.float32), thumbnail(PICTURE, 96)))
        writer.commit(None)
    return home / 'nominal'


def test_secrets_and_pictures_stay_here(home: Path, database: Path, tmp_path: Path,
                                        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('HF_TOKEN', TOKEN)
    monkeypatch.setenv('PLANTED_VARIABLE', 'whatever it holds')
    monkeypatch.setenv('VIRTUAL_ENV', str(home / 'env'))
    monkeypatch.setenv('LD_PRELOAD', f'/opt/{TOKEN}.so')
    log = home / 'detector.log'
    log.write_text('the first line\n' * LAST_LINES + f'fetch https://ann:{PASSWORD}@host/w?sig={KEY}\n'
                   f'Authorization: Bearer {KEY}\nGITHUB_TOKEN={KEY}\npassword: {KEY}\n{{"api_key": "{KEY}"}}\n'
                   f'-----BEGIN PRIVATE KEY-----\n{KEY}\n-----END PRIVATE KEY-----\n{home}/nominal was loaded\n')
    findings = [Finding('large images', 'broken', True, f'found {home}/x with {TOKEN}', 'mend it')]
    settings = Settings.of({'segmenter_weights': f'https://ann:{PASSWORD}@host/w', 'database': str(database)})
    file = tmp_path / 'report.zip'
    names = write_bundle(file, findings, {'defaults': settings.values()}, [database, database], log)
    with zipfile.ZipFile(file) as archive:
        assert archive.namelist() == names
        content = {name: archive.read(name) for name in names}
    for name, data in content.items():
        for planted in (TOKEN, PASSWORD, KEY, 'PLANTED_VARIABLE', 'HF_TOKEN', 'planted_user'):
            assert planted.encode() not in data, f'{planted} in {name}'
        assert b'\xff\xd8' not in data, 'a JPEG'
    assert b'~/nominal was loaded' in content['log.txt']
    assert content['log.txt'].count(b'the first line') < LAST_LINES
    manifest = json.loads(content['database1.json'])
    assert [source['path'] for source in manifest['sources']] == ['~/drives/monday']
    assert 'database2.json' not in content
    assert json.loads(content['environment.json'])['VIRTUAL_ENV'] == '~/env'
    assert json.loads(content['parameters.json'])['defaults']['encoder'] == 'semanom-tiny'
    assert content['versions.txt'].decode().startswith(f'semanom_ros {__version__}\n')
    assert b'BROKEN   large images' in content['report.txt']
    assert json.loads(content['report.json'])[0]['advice'] == 'mend it'


def test_what_is_no_secret_is_told() -> None:
    text = 'torch==2.11.0, tokens: 256, encoder_features: tokens, /homework/x, key=3, http://host:8080/x'
    assert shareable(text) == text


@pytest.mark.parametrize(('name', 'said'), [
    ('report.tar', 'expected .zip'), ('there.zip', 'found a file'), ('nowhere/report.zip', 'found no folder')])
def test_a_bad_place_is_refused_and_left_alone(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / 'there.zip').write_bytes(b'mine')
    with pytest.raises(ParameterError, match=said):
        write_bundle(tmp_path / name, [], {}, [], None)
    assert {path.name for path in tmp_path.iterdir()} == {'there.zip'}
    assert (tmp_path / 'there.zip').read_bytes() == b'mine'


def test_nothing_half_written_remains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ParameterError, match='--log'):
        write_bundle(tmp_path / 'report.zip', [], {}, [], tmp_path / 'no.log')
    assert not list(tmp_path.iterdir())

    def full(*_: object) -> None:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(zipfile.ZipFile, 'writestr', full)
    with pytest.raises(OSError, match='No space'):
        write_bundle(tmp_path / 'report.zip', [], {}, [], None)
    assert not list(tmp_path.iterdir())


def test_a_database_that_is_none_is_told(tmp_path: Path) -> None:
    write_bundle(tmp_path / 'report.zip', [], {}, [tmp_path / 'gone'], None)
    with zipfile.ZipFile(tmp_path / 'report.zip') as archive:
        assert 'found no folder' in json.loads(archive.read('database1.json'))['error']
