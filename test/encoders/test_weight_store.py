"""Which weights are meant, where they are looked for, and what is refused."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from semanom_ros.core.embedding.device import resolve_device, resolve_dtype
from semanom_ros.core.embedding.registry import load_encoder
from semanom_ros.core.embedding.weight_store import sha256_of_state
from semanom_ros.errors import EncoderError, ParameterError
from semanom_ros.settings import EncoderSettings


class Burglar:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.folder,)


def put_into_store(store: Path, clip_folder: Path, tag: str) -> Path:
    """A model as `semanom models fetch` leaves it."""
    folder = store / 'open_clip' / 'ViT-B-16' / tag
    shutil.copytree(clip_folder, folder)
    files = {path.name: {'sha256': hashlib.sha256(path.read_bytes()).hexdigest()} for path in folder.iterdir()}
    (folder / 'fetched.json').write_text(json.dumps({'files': files}))
    return folder


@pytest.mark.parametrize(('name', 'tag'), [
    ('open_clip:ViT-B-16', 'openai'), ('open_clip:ViT-B-16-SigLIP', 'webli'),
    ('timm:vit_small_patch14_dinov2', 'lvd142m')])
def test_missing_weights(name, tag, tmp_path):
    with pytest.raises(EncoderError) as raised:
        load_encoder(EncoderSettings(name, device='cpu'))
    message = str(raised.value)
    library, model = name.split(':')
    assert f'encoder {name}: weights {tag} not found' in message
    assert str(tmp_path / 'store' / library / model / tag) in message
    assert str(tmp_path / 'hub') in message
    assert f'`semanom models fetch {name} --weights {tag}`' in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize(('weights', 'message'), [
    ('nonsense', "'nonsense' are neither a file, local-dir:FOLDER, random:SEED nor a tag; expected one of openai"),
    ('/nowhere/model.pt', 'weights file /nowhere/model.pt does not exist'),
    ('local-dir:/nowhere', 'folder /nowhere does not exist'),
    ('random:', "weights 'random:', expected random:SEED"),
    ('random:-1', "weights 'random:-1', expected random:SEED"),
    ('random:' + '9' * 20, 'expected random:SEED'),
])
def test_weights_that_are_none(weights, message):
    with pytest.raises(EncoderError, match=message):
        load_encoder(EncoderSettings('open_clip:ViT-B-16', weights=weights, device='cpu'))


def test_file_of_another_kind(tmp_path):
    (tmp_path / 'model.onnx').write_text('')
    with pytest.raises(EncoderError, match=r'model\.onnx, expected one of \.safetensors'):
        load_encoder(EncoderSettings('open_clip:ViT-B-16', weights=f'{tmp_path}/model.onnx', device='cpu'))
    with pytest.raises(EncoderError, match=r'has no weights, expected open_clip_model\.safetensors or'):
        load_encoder(EncoderSettings('open_clip:ViT-B-16', weights=f'local-dir:{tmp_path}', device='cpu'))


@pytest.mark.parametrize('name', ['open_clip:tiny-clip', 'timm:test_resnet'])
@pytest.mark.parametrize('file', ['pickle', 'torch'])
def test_code_in_a_weights_file_is_not_run(name, file, tmp_path, clip_folder, trial):
    with trial('Weights', 'code in a file of weights'):
        folder, stolen = tmp_path / 'model', tmp_path / 'stolen'
        folder.mkdir()
        shutil.copy(clip_folder / 'open_clip_config.json', folder)
        path = folder / ('open_clip_pytorch_model.bin' if name.startswith('open_clip') else 'pytorch_model.bin')
        if file == 'pickle':
            path.write_bytes(pickle.dumps({'state_dict': Burglar(stolen)}))
        else:
            torch.save({'state_dict': Burglar(stolen)}, path)
        with pytest.raises(EncoderError, match='does not hold its weights'):
            load_encoder(EncoderSettings(name, weights=f'local-dir:{folder}', device='cpu'))
        assert not stolen.exists()


def test_fetched_weights_are_found_without_being_named(own_store, clip_folder, pictures):
    put_into_store(own_store, clip_folder, 'openai')
    encoder = load_encoder(EncoderSettings('open_clip:ViT-B-16', device='cpu'))
    assert (encoder.weights, encoder.dimension) == ('openai', 64)
    sha256 = hashlib.sha256((clip_folder / 'open_clip_model.safetensors').read_bytes()).hexdigest()
    assert encoder.weights_sha256 == sha256
    put_into_store(own_store, clip_folder, 'dfn2b')
    with pytest.raises(EncoderError, match=r'several weights were fetched \(dfn2b, openai\)'):
        load_encoder(EncoderSettings('open_clip:ViT-B-16', device='cpu'))
    assert load_encoder(EncoderSettings('open_clip:ViT-B-16', weights='dfn2b', device='cpu')).weights == 'dfn2b'


def test_fetched_weights_that_changed_are_refused(own_store, clip_folder):
    folder = put_into_store(own_store, clip_folder, 'openai')
    file = folder / 'open_clip_model.safetensors'
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    for weights in ('', f'local-dir:{folder}'):
        with pytest.raises(EncoderError, match=r'open_clip_model\.safetensors: SHA-256 is .*; fetch the weights again'):
            load_encoder(EncoderSettings('open_clip:ViT-B-16', weights=weights, device='cpu'))
    (folder / 'fetched.json').write_text('{')
    with pytest.raises(EncoderError, match=r'fetched\.json: unreadable'):
        load_encoder(EncoderSettings('open_clip:ViT-B-16', device='cpu'))


def test_truncated_weights(tmp_path, clip_folder):
    shutil.copy(clip_folder / 'open_clip_config.json', tmp_path)
    content = (clip_folder / 'open_clip_model.safetensors').read_bytes()
    (tmp_path / 'open_clip_model.safetensors').write_bytes(content[:len(content) // 2])
    with pytest.raises(EncoderError, match='does not hold its weights'):
        load_encoder(EncoderSettings('open_clip:tiny-clip', weights=f'local-dir:{tmp_path}', device='cpu'))


def test_hash_of_tensors_sees_names_types_shapes_and_values():
    state = {'a': torch.arange(6.0), 'b': torch.ones((), dtype=torch.bfloat16)}
    same = {'b': state['b'].clone(), 'a': torch.arange(12.0)[::2] / 2}
    assert sha256_of_state(state) == sha256_of_state(same)
    others = [{**state, 'a': state['a'].view(2, 3)}, {**state, 'a': state['a'].double()},
              {**state, 'a': state['a'] + 1e-6}, {'c': state['a'], 'b': state['b']}]
    assert len({sha256_of_state(other) for other in [state, *others]}) == 5


def test_device_and_precision():
    assert resolve_device('cpu') == torch.device('cpu')
    assert resolve_device('auto').type == ('cuda' if torch.cuda.is_available() else 'cpu')
    assert resolve_dtype('auto', torch.device('cpu')) == torch.float32
    for name in ('tpu', 'meta', 'cuda:99', ''):
        with pytest.raises(ParameterError, match='parameter device'):
            resolve_device(name)
    with pytest.raises(ParameterError, match='parameter precision'):
        resolve_dtype('int8', torch.device('cpu'))
