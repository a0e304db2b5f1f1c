"""`semanom learn`: what it reads."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from semanom_ros.cli import main
from semanom_ros.core.database.nominal_database import NominalDatabase
from semanom_ros.core.database.published import read_manifest
from semanom_ros.recordings.bags import BagWriter

SECOND = 10**9
TOPIC = '/camera/image_raw'


def street(number: int) -> np.ndarray:
    """(192, 352, 3) uint8: sky, road, and a car that stands elsewhere in every picture."""
    rng = np.random.default_rng(number)
    image = np.full((192, 352, 3), (110, 110, 115), np.float32)
    image[:70] = (150, 190, 230)
    left = 30 + int(rng.integers(200))
    image[110:150, left:left + 70] = (40, 60, 150)
    return np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)


def drive(path: Path, frames: int = 20, first: int = 0) -> Path:
    with BagWriter(path) as writer:
        for number in range(first, first + frames):
            writer.write_image(TOPIC, street(number), 'rgb8', (number + 1) * SECOND, 'optical')
    return path


def test_a_damaged_recording_is_learned_from_as_far_as_it_was_recorded(
        tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    """With the encoder that is shipped, and all other defaults."""
    cut, whole, database = drive(tmp_path / 'cut'), drive(tmp_path / 'whole', first=100), tmp_path / 'database'
    file = cut / 'cut.mcap'
    os.truncate(file, file.stat().st_size // 2)
    assert main(['record', str(cut), str(whole), '--database', str(database)]) == 0
    assert 20 < read_manifest(database).frames + read_manifest(database).held_out_frames < 40
    caplog.clear()
    assert main(['learn', str(cut), str(whole), '--database', str(database), '--composites', '12']) == 0
    assert [text for text in caplog.messages if 'cut.mcap breaks off after' in text and 'is learned from' in text]
    assert 'version 2 knows what belongs where, from 12 pictures' in capsys.readouterr().out
    manifest = read_manifest(database)
    assert manifest.learned is not None
    assert (manifest.learned.composites, manifest.calibrated) == (12, True)
    assert NominalDatabase.open(database).learned
    assert main(['db', 'compact', str(database), '--size', '50']) == 0
    assert 'what semanom learn has learned stays as it was learned' in capsys.readouterr().out
    assert NominalDatabase.open(database).learned
    assert main(['learn', str(whole), '--database', str(database), '--composites', '12']) == 2
    assert 'found no frame with all of its embeddings (it was compacted)' in capsys.readouterr().err


def test_a_recording_or_topic_that_is_not_there_is_one_line(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag, database = drive(tmp_path / 'bag', 12), tmp_path / 'database'
    assert main(['record', str(bag), '--database', str(database)]) == 0
    capsys.readouterr()
    for arguments, said in (([str(tmp_path / 'none')], 'no such recording'),
                            ([str(bag), '--image-topic', '/rear'], 'no topic /rear')):
        assert main(['learn', *arguments, '--database', str(database), '--composites', '4']) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert said in error
    assert read_manifest(database).version == 1
