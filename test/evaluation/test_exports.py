"""`semanom evaluate --rerun` and `--fiftyone`: written, and read back."""

from __future__ import annotations

import base64
import errno
import importlib.util
import io
import json
import resource
import shutil
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from semanom_ros.cli import main
from semanom_ros.errors import SemanomError
from semanom_ros.evaluation.exports import chosen, fiftyone_dataset

from .conftest import HEIGHT, PERIOD_NS, START_NS, WIDTH, Town, write_drive

FRAMES, ANOMALY = 16, (6, 10)


@pytest.fixture(scope='module')
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 frames, a red thing in frames 6 to 10."""
    return write_drive(tmp_path_factory.mktemp('exported') / 'drive', FRAMES, seed=2, anomalies=(ANOMALY,))


def run(town: Town, drive: Path, output: Path, *options: str) -> int:
    return main(['evaluate', str(drive), *town.arguments('grid'), '--output', str(output), '--filter', 'off', *options])


@pytest.fixture(scope='module')
def samples(town: Town, drive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder for FiftyOne."""
    folder = tmp_path_factory.mktemp('fiftyone')
    assert run(town, drive, folder / 'report', '--fiftyone', str(folder / 'samples')) == 0
    return folder / 'samples'


def vector(field: dict[str, Any]) -> np.ndarray:
    return np.load(io.BytesIO(zlib.decompress(base64.b64decode(field['$binary']['base64']))), allow_pickle=False)


def test_samples_hold_what_was_judged(samples: Path) -> None:
    content = json.loads((samples / 'samples.json').read_text())['samples']
    assert [sample['stamp_ns'] for sample in content] == [START_NS + n * PERIOD_NS for n in range(FRAMES)]
    assert {sample['recording'] for sample in content} == {'drive'}
    assert content[1]['time'] == '2023-11-14T22:13:20.100Z'
    anomalous = [sample['frame'] for sample in content if sample['verdict']['label'] == 'anomalous']
    assert anomalous == list(range(ANOMALY[0], ANOMALY[1] + 1))
    assert [sample['frame'] for sample in content if sample['truth']['label'] == 'anomalous'] == anomalous
    one = content[ANOMALY[0]]
    assert cv2.imread(str(samples / one['filepath'])).shape == (HEIGHT, WIDTH, 3)
    found = one['anomalies']['detections'][0]
    x, y, w, h = found['bounding_box']
    assert x < 60 / WIDTH < x + w
    assert y < 50 / HEIGHT < y + h
    assert found['score'] > one['threshold'] < one['score']
    mask = cv2.imread(str(samples / one['mask']['mask_path']), cv2.IMREAD_GRAYSCALE)
    truth = cv2.imread(str(samples / one['truth_mask']['mask_path']), cv2.IMREAD_GRAYSCALE)
    assert mask[50, 60] == truth[50, 60] == 255
    assert mask[5, 5] == truth[5, 5] == 0
    heat = cv2.imread(str(samples / one['anomaly_map']['map_path']), cv2.IMREAD_GRAYSCALE)
    assert heat.shape == (HEIGHT // 8, WIDTH // 8), 'as fine as it was computed'
    assert heat[50 // 8, 60 // 8] > 85 > heat[0, 0], '85 is the alarm level'
    # The strange thing's embedding differs more from a nominal frame's than that frame's from the next one's.
    strange, nominal, next_one = vector(found['embedding']), vector(content[0]['embedding']), vector(
        content[1]['embedding'])
    assert np.linalg.norm(nominal) == pytest.approx(1, abs=1e-5)
    assert strange @ nominal < nominal @ next_one


def test_fiftyone_opens_the_folder(samples: Path) -> None:
    fiftyone = pytest.importorskip('fiftyone', reason='FiftyOne is not installed: pip install fiftyone')
    try:
        dataset = fiftyone.Dataset.from_dir(str(samples), dataset_type=fiftyone.types.FiftyOneDataset)
    except fiftyone.core.config.FiftyOneConfigError as error:
        pytest.skip(f'FiftyOne finds no MongoDB: {error}')
    assert len(dataset) == FRAMES
    assert dataset.count_values('verdict.label') == {'anomalous': 5, 'nominal': 11}
    assert dataset.values('embedding')[0].shape == (4,)
    assert len(dataset.match(fiftyone.ViewField('anomalies.detections').length() > 0)) == 5
    assert Path(dataset.first()['anomaly_map'].map_path).is_file()


def test_rerun_reads_its_recording(town: Town, drive: Path, tmp_path: Path) -> None:
    pytest.importorskip('rerun', reason='the Rerun SDK is not installed: pip install rerun-sdk')
    from rerun.chunk import RrdReader

    target = tmp_path / 'out.rrd'
    target.write_bytes(b'RRF2 an older one')
    assert run(town, drive, tmp_path / 'report', '--rerun', str(target)) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ['out.rrd', 'report']
    rows: dict[str, int] = {}
    stamps: set[int] = set()
    for chunk in RrdReader(target).stream():
        rows[chunk.entity_path] = rows.get(chunk.entity_path, 0) + (0 if chunk.is_static else chunk.num_rows)
        if chunk.entity_path == '/drive/camera':
            batch = chunk.to_record_batch()
            stamps |= set(batch.column('stamp').cast('int64').to_pylist())
            blobs = batch.column('EncodedImage:blob').to_pylist()
            pictures = [cv2.imdecode(np.array(blob[0], np.uint8), cv2.IMREAD_COLOR) for blob in blobs]
            assert {picture.shape for picture in pictures} == {(HEIGHT, WIDTH, 3)}
    assert stamps == {START_NS + n * PERIOD_NS for n in range(FRAMES)}
    for entity in ('camera', 'camera/mask', 'camera/truth', 'camera/anomalies', 'map', 'scores/score'):
        assert rows[f'/drive/{entity}'] == FRAMES, entity
    assert rows['/drive/verdict'] == 3, 'nominal, anomalous, nominal'


def test_a_full_disk_leaves_no_part_of_a_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK itself only logs what it could not write."""
    pytest.importorskip('rerun', reason='the Rerun SDK is not installed: pip install rerun-sdk')
    from semanom_ros.evaluation.exports.rerun_recording import RerunRecording

    usage = shutil.disk_usage(tmp_path)._replace(free=0)
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: usage)
    with pytest.raises(SemanomError, match='found the disk full'), RerunRecording(tmp_path / 'out.rrd') as recording:
        recording.begin('drive')
    assert not any(tmp_path.iterdir())


def test_a_file_that_may_grow_no_longer_is_no_recording(tmp_path: Path) -> None:
    """Before the SDK meets the limit, whereupon it may wait for ever."""
    pytest.importorskip('rerun', reason='the Rerun SDK is not installed: pip install rerun-sdk')
    from semanom_ros.evaluation.exports.rerun_recording import RerunRecording

    recording, limits = RerunRecording(tmp_path / 'out.rrd'), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        with pytest.raises(SemanomError, match='the file as long as it may be'), recording:
            recording.begin('drive')
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not any(tmp_path.iterdir())


def test_a_recording_that_ends_badly_leaves_no_report(town: Town, drive: Path, tmp_path: Path,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    """The report comes into place last."""

    class Unwritable(fiftyone_dataset.FiftyOneDataset):
        def __exit__(self, *error: Any) -> None:
            super().__exit__(OSError, None, None)
            raise OSError(errno.EFBIG, 'File too large', 'a file')

    monkeypatch.setattr(chosen, 'FiftyOneDataset', Unwritable)
    assert run(town, drive, tmp_path / 'report', '--fiftyone', str(tmp_path / 'samples')) == 2
    assert not any(tmp_path.iterdir())


def test_a_missing_package_is_named_before_any_work(town: Town, drive: Path, tmp_path: Path,
                                                    monkeypatch: pytest.MonkeyPatch,
                                                    capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(__import__('sys').modules, 'rerun', None)
    monkeypatch.delitem(__import__('sys').modules, f'{chosen.__package__}.rerun_recording', raising=False)
    assert run(town, drive, tmp_path / 'report', '--rerun', str(tmp_path / 'out.rrd')) == 2
    assert 'found no rerun, expected the Rerun SDK; pip install' in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_nothing_is_left_of_an_export_that_fails(town: Town, drive: Path, tmp_path: Path,
                                                 monkeypatch: pytest.MonkeyPatch,
                                                 capsys: pytest.CaptureFixture[str]) -> None:
    """An older export stays until there is another whole one."""
    options = ['--fiftyone', str(tmp_path / 'samples')]
    pictures = iter(range(5))

    def full(*_: object) -> bytes:
        if next(pictures, None) is None:
            raise OSError(errno.ENOSPC, 'No space left on device', 'a file')
        return b''

    (tmp_path / 'samples').mkdir()
    (tmp_path / 'samples' / 'samples.json').write_text('older')
    (tmp_path / 'samples' / 'metadata.json').write_text('{"info": {"semanom_ros": "1.0"}}')
    if importlib.util.find_spec('rerun') is not None:
        options += ['--rerun', str(tmp_path / 'out.rrd')]
    monkeypatch.setattr(fiftyone_dataset, 'compress_pixels', full)
    assert run(town, drive, tmp_path / 'report', *options) == 2
    assert 'No space left on device' in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ['samples']
    assert (tmp_path / 'samples' / 'samples.json').read_text() == 'older'


@pytest.mark.parametrize(('option', 'place', 'said'), [
    ('--fiftyone', 'report/samples', 'found it in --output'),
    ('--rerun', 'report/out.rrd', 'found it in --output'),
    ('--fiftyone', '.', 'found it in --fiftyone'),
    ('--fiftyone', 'labelled', 'found something that is no export for FiftyOne by semanom evaluate'),
    ('--fiftyone', 'more', 'found something that is no export for FiftyOne by semanom evaluate'),
    ('--rerun', 'thesis/chapter.txt', 'found something that is no recording of Rerun'),
    ('--rerun', '/proc/out.rrd', 'out.rrd.partial: No such file or directory'),
    ('--fiftyone', 'thesis', 'found something that is no export for FiftyOne')])
def test_places_that_will_not_do(town: Town, drive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                 option: str, place: str, said: str) -> None:
    if option == '--rerun' and place != 'report/out.rrd':
        pytest.importorskip('rerun', reason='the Rerun SDK is not installed: pip install rerun-sdk')
    for name, info in (('labelled', '{"info": {}}'), ('more', '{"info": {"semanom_ros": "1.0"}}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'samples.json').write_text('{"samples": []}')
        (tmp_path / name / 'metadata.json').write_text(info)
    (tmp_path / 'more' / 'notes.txt').write_text('')
    (tmp_path / 'thesis').mkdir()
    (tmp_path / 'thesis' / 'chapter.txt').write_text('years of work')
    assert run(town, drive, tmp_path / 'report', option, str(tmp_path / place)) == 2
    assert said in capsys.readouterr().err
    assert (tmp_path / 'labelled' / 'samples.json').is_file()
    assert (tmp_path / 'more' / 'notes.txt').is_file()
    assert (tmp_path / 'thesis' / 'chapter.txt').read_text() == 'years of work'
