"""What a database was made with and calibrated for need not be repeated; what contradicts it is said at once."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from semanom_ros.cli import main
from semanom_ros.commands.progress_bars import Bars
from semanom_ros.core.curation.publishing import read_recipe
from semanom_ros.core.database.manifest import MANIFEST, Manifest, _checksum
from semanom_ros.core.database.published import read_manifest
from semanom_ros.core.embedding.embedder import Embedder
from semanom_ros.parameter_files import read_yaml
from semanom_ros.recordings.nominal_recording import record_bags
from semanom_ros.settings import Settings

from .conftest import write_drive

LEVEL = ['--set', 'false_alarm_rate=0.05', '--set', 'device=cpu']  # what is the user's to say


@pytest.fixture(scope='session')
def short(tmp_path_factory):
    return write_drive(tmp_path_factory.mktemp('short') / 'drive', 20, seed=4, anomalies=((8, 14),))


@pytest.fixture
def nothing_is_loaded(monkeypatch):
    def refuse(settings):
        raise AssertionError(f'{settings.encoder.name} was loaded')

    monkeypatch.setattr(Embedder, 'load', refuse)


@pytest.fixture
def own(town, tmp_path):
    """A database of its own, with the encoder file beside it."""
    encoder = tmp_path / 'own.ts'
    shutil.copy(town.config.parent / 'colour.ts', encoder)
    settings = {**read_yaml(town.config), 'encoder': f'torchscript:{encoder}'}
    record_bags([write_drive(tmp_path / 'nominal', 20, truth=False)], tmp_path / 'database', Settings.of(settings),
                Bars())
    return encoder, tmp_path / 'database'


def metrics_of(output):
    return json.loads(re.sub(r'"latency_ms": \{[^}]*\},', '', (output / 'metrics.json').read_text()))


def error_of(capsys):
    (line,) = [line for line in capsys.readouterr().err.strip().splitlines() if line.startswith('semanom')]
    return line


def made_before(database):
    """The manifest as it was when parameters were not recorded."""
    file = database / MANIFEST
    content = json.loads(file.read_text())
    del content['description']['parameters']
    file.write_text(json.dumps({**content, 'sha256': _checksum(content)}))
    return Manifest.read(file)


def test_nothing_said_is_everything_repeated(town, short, tmp_path):
    databases = town.arguments('grid', 'instance')[2:]
    assert main(['evaluate', str(short), '--output', str(tmp_path / 'said'), *town.arguments('grid', 'instance')]) == 0
    assert main(['evaluate', str(short), '--output', str(tmp_path / 'unsaid'), *databases, *LEVEL]) == 0
    said, unsaid = metrics_of(tmp_path / 'said'), metrics_of(tmp_path / 'unsaid')
    assert said == unsaid
    assert [row['variant'] for row in unsaid['results']] == ['grid', 'grid', 'instance', 'instance']
    assert unsaid['parameters']['input_size'] == [72, 96]


def test_what_it_is_calibrated_for_is_taken_and_nothing_is_calibrated_anew(own, short, tmp_path, caplog):
    caplog.set_level('INFO')
    _, database = own
    for said in (['neighbours=2', 'position_weight=0.25'], ['frame_score_fraction=0.01']):
        options = [word for setting in said for word in ('--set', setting)]
        assert main(['db', 'calibrate', str(database), *options]) == 0
    search, score = read_recipe(database).search, read_recipe(database).score
    assert (score.neighbours, search.position_weight) == (2, 0.25)  # what was not said anew stays as it was
    assert score.frame_score_fraction == 0.01
    assert main(['evaluate', str(short), '--output', str(tmp_path / 'out'), '--database', str(database)]) == 0
    assert metrics_of(tmp_path / 'out')['parameters']['neighbours'] == 2
    assert 'calibrating for' not in caplog.text
    assert main(['evaluate', str(short), '--output', str(tmp_path / 'out'), '--database', str(database), '--set',
                 'neighbours=1']) == 0
    parameters = metrics_of(tmp_path / 'out')['parameters']
    assert (parameters['neighbours'], parameters['position_weight']) == (1, 0.25)
    assert 'calibrating for' in caplog.text


@pytest.mark.parametrize(('said', 'found', 'expected'), [
    ('encoder=semanom-tiny', 'semanom-tiny', 'torchscript:colour.ts'),
    ('input_size=[36, 48]', '[36, 48]', '[72, 96]'),
    ('variant=instance', 'instance', 'grid')])
@pytest.mark.parametrize('command', ['evaluate', 'learn'])
@pytest.mark.usefixtures('nothing_is_loaded')
def test_a_contradiction_is_one_line_before_anything_is_loaded(town, tmp_path, capsys, command, said, found, expected):
    output = ['--output', str(tmp_path / 'out')] if command == 'evaluate' else []
    assert main([command, str(town.drive), '--database', str(town.databases['grid']), *output, '--set', said]) == 2
    name = said.partition('=')[0]
    assert (f'{town.databases["grid"]}: parameter {name}: found {found}, expected {expected}, which the database was '
            'made with') in error_of(capsys)
    assert not (tmp_path / 'out').exists()


@pytest.mark.usefixtures('nothing_is_loaded')
def test_another_segmenter_or_another_file_of_the_same_name_is_a_contradiction(town, tmp_path, capsys):
    evaluate = ['evaluate', str(town.drive), '--output', str(tmp_path / 'out'), '--database']
    assert main([*evaluate, str(town.databases['instance']), '--set', 'segmenter=topic']) == 2
    assert 'parameter segmenter: found topic, expected embedding' in error_of(capsys)
    other = tmp_path / 'colour.ts'
    other.write_bytes(b'another network')
    assert main([*evaluate, str(town.databases['grid']), '--set', f'encoder=torchscript:{other}']) == 2
    assert re.search(r'parameter encoder: found torchscript:\S+ \(SHA-256 \w{12}\), expected colour.ts \(SHA-256',
                     error_of(capsys))


def test_an_encoder_file_that_moved_is_asked_for_and_may_be_named(own, short, tmp_path, capsys):
    encoder, database = own
    moved = encoder.rename(tmp_path / 'elsewhere.ts').rename(tmp_path / 'bags').parent / 'bags'
    evaluate = ['evaluate', str(short), '--output', str(tmp_path / 'out'), '--filter', 'off', '--database',
                str(database)]
    assert main(evaluate) == 2
    line = error_of(capsys)
    assert f'{database}: was made with encoder torchscript:{encoder}' in line
    assert '--set encoder=' in line
    (tmp_path / 'new').mkdir()
    moved.rename(tmp_path / 'new' / 'own.ts')
    assert main([*evaluate, '--set', f'encoder=torchscript:{tmp_path / "new" / "own.ts"}']) == 0


def test_files_are_remembered_with_their_whole_path(own, tmp_path, monkeypatch):
    encoder, database = own
    monkeypatch.chdir(encoder.parent)
    settings = Settings.of({**read_manifest(database).description.parameters, 'encoder': f'torchscript:{encoder.name}'})
    parameters = Embedder.load(settings.method).description.parameters
    assert parameters == read_manifest(database).description.parameters
    assert parameters['encoder'] == f'torchscript:{encoder}'


def test_a_database_without_recorded_parameters_says_what_it_can(own, short, tmp_path, capsys):
    encoder, database = own
    assert made_before(database).description.parameters == {}
    evaluate = ['evaluate', str(short), '--output', str(tmp_path / 'out'), '--filter', 'off', '--database',
                str(database)]
    assert main(evaluate) == 2
    assert 'was made with encoder torchscript:own.ts, weights own.ts (SHA-256 ' in error_of(capsys)
    assert main([*evaluate, '--set', f'encoder=torchscript:{encoder}']) == 0
    assert metrics_of(tmp_path / 'out')['parameters']['input_size'] == [72, 96]


def test_two_databases_of_different_encoders_are_one_line(town, own, tmp_path, capsys):
    _, database = own
    assert main(['evaluate', str(town.drive), '--output', str(tmp_path / 'out'), '--database', str(database),
                 '--database', str(town.databases['instance'])]) == 2
    assert 'as in ' in error_of(capsys)
