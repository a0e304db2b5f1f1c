"""The training script of semanom-tiny: a few steps, end to end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from semanom_ros.core.embedding.registry import load_encoder
from semanom_ros.settings import EncoderSettings
from semanom_ros.simulation.catalogue import CATALOGUE
from semanom_ros.simulation.drive import Drive
from tools import scenes as compose
from tools import train_tiny as training
from tools.train_tiny import Cache, Settings, train

SETTINGS = Settings(frames=6, part_steps=1, whole_steps=1, settle_steps=1, batch=1, seed=3)


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('tiny')
    train(folder / 'model', folder / 'cache', SETTINGS)
    return folder


def test_it_writes_a_folder_that_the_encoders_load(trained: Path):
    folder = trained / 'model'
    assert sum(f.stat().st_size for f in folder.iterdir()) < 10e6
    encoder = load_encoder(EncoderSettings(weights=f'local-dir:{folder}', device='cpu', precision='fp32'))
    assert not encoder.wants_standardizing
    assert not encoder.wants_calibration_by_place
    assert encoder.grid_size == (22, 40)
    assert encoder.input_size == (352, 640)
    patches = encoder.encode(torch.rand(1, 3, 352, 640))
    assert patches.shape == (1, 22, 40, 128)
    texts = encoder.encode_text(['a cow standing on the road', 'the sky'])
    similar = encoder.project_to_text(patches.reshape(-1, 128)) @ texts.T
    assert similar.shape == (880, 2)
    assert torch.isfinite(similar).all()


def test_it_trains_what_the_encoder_computes(trained: Path):
    model = training.build_model(SETTINGS.seed)
    images = torch.rand(1, 3, 352, 640)
    model.eval()
    with torch.inference_mode():
        patches, pooled = training.forward(model, images)
        assert torch.allclose(pooled, model.encode_image((images - 0.48) / 0.25, normalize=True), atol=1e-5)
    assert patches.shape == (1, 22, 40, 128)
    assert torch.allclose(patches.norm(dim=-1), torch.ones(1, 22, 40), atol=1e-5)


def test_a_part_of_a_picture_has_the_positions_of_its_place():
    model = training.build_model(SETTINGS.seed)
    model.eval()
    images = torch.rand(1, 3, 352, 640)
    with torch.inference_mode():
        whole = model.visual.trunk.patch_embed((images - 0.48) / 0.25)[0]
        whole = whole + model.visual.trunk.pos_embed(1, 22, 40).flatten(2).transpose(1, 2)
        seen = []
        model.visual.trunk.blocks[0].register_forward_pre_hook(lambda module, given: seen.append(given[0]))
        training.forward(model, images[:, :, 176:, 320:], np.array([[11, 20]]))
    inner = seen[0].unflatten(1, (11, 20))[:, 2:, 2:]  # the stem's convolutions reach over the cut
    assert torch.allclose(inner, whole.unflatten(1, (22, 40))[:, 13:, 22:], atol=1e-4)


def test_interrupted_rendering_goes_on_and_gives_the_same_pictures(trained: Path, tmp_path: Path):
    whole = Cache(trained / 'cache', SETTINGS)
    again = Cache(tmp_path, SETTINGS)
    again.render()
    assert np.array_equal(again.images, whole.images)
    assert np.array_equal(again.cells, whole.cells)
    assert again.captions == whole.captions
    resumed = Cache(tmp_path, SETTINGS)
    before = np.array(resumed.images)
    resumed.render()
    assert np.array_equal(before, resumed.images)


def test_training_goes_on_from_its_checkpoint(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    clock = iter(range(0, 10**6, 100))  # every look at the clock is 100 s later: each step is saved
    monkeypatch.setattr(training.time, 'monotonic', lambda: next(clock))
    (tmp_path / 'cache').symlink_to(trained / 'cache')

    def stop(model, vocabulary, weight, batch, rng, settle):  # type: ignore[no-untyped-def]
        if stop.left == 0:
            raise KeyboardInterrupt
        stop.left -= 1
        return original(model, vocabulary, weight, batch, rng, settle)

    stop.left = 2  # type: ignore[attr-defined]
    original = training.losses
    monkeypatch.setattr(training, 'losses', stop)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / 'model', tmp_path / 'cache', SETTINGS)
    monkeypatch.setattr(training, 'losses', original)
    train(tmp_path / 'model', tmp_path / 'cache', SETTINGS)
    assert (tmp_path / 'model' / training.WEIGHTS_FILE).read_bytes() == (
        trained / 'model' / training.WEIGHTS_FILE
    ).read_bytes()


def test_labels_of_cells_follow_the_instances():
    frame = next(compose.frames(1, 1))
    captions = list(compose.SURFACE_CAPTIONS)
    cache = object.__new__(Cache)
    cache.captions, cache.names = captions, list(captions)
    cells = cache._label(frame)
    assert cells.shape == (44, 80)
    largest = max(frame.instances, key=lambda k: int((frame.instance_ids == k).sum()))
    rows, columns = np.nonzero(frame.instance_ids == largest)
    row, column = int(np.median(rows) / 360 * 44), int(np.median(columns) / 640 * 80)
    if frame.instance_ids[int((row + 0.5) * 360 / 44), int((column + 0.5) * 8)] == largest:
        assert captions[cells[row, column]] == frame.instances[largest].caption
    assert captions[cells[-1, 40]] == 'the road'


def test_usual_captions_are_those_of_nominal_drives():
    usual, odd = set(), set()
    for scenario in CATALOGUE:
        for anomalies in (False, True):
            drive = Drive(scenario.severity, anomalies, scenarios=(scenario,))
            for thing in (thing for block in map(drive.block, range(4)) for thing in block.things):
                (odd if thing.anomalous else usual).add(thing.caption)
    assert usual <= compose.USUAL_CAPTIONS
    assert len(odd) >= len(CATALOGUE)
    assert not odd & compose.USUAL_CAPTIONS


def test_captions_of_what_is_usual_are_pulled_together_and_the_others_away():
    captions = ['the road', 'a car parked at the kerb', 'a car in the air']
    vocabulary = training.Vocabulary(captions, ['road', 'car', 'car'])
    near, far = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0])
    assert vocabulary.disorder(torch.stack([near, near, far])) == 0
    assert vocabulary.disorder(torch.stack([near, far, -far])) > 0
    assert vocabulary.disorder(torch.stack([near, near, near])) > 0
