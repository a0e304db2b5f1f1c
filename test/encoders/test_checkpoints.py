"""Weights as people's training leaves them: unwrapped, or refused with what was found and what it would fit."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from semanom_ros.core.embedding.encoders.encoder import TextAlignedEncoder
from semanom_ros.core.embedding.registry import load_encoder, load_segmenter
from semanom_ros.errors import EncoderError, SegmenterError
from semanom_ros.settings import EncoderSettings, QuerySettings

VIT = 'timm:test_vit'

State = dict[str, torch.Tensor]


def seeded(model: str, seed: int = 3, **arguments: Any) -> State:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return timm.create_model(model, **arguments).state_dict()


@pytest.fixture(scope='module')
def trained() -> State:
    return seeded('test_vit')


def headless(state: State) -> State:
    return {name: tensor for name, tensor in state.items() if not name.startswith('head.')}


def under(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def other(state: State) -> State:
    return {name: tensor + 1 for name, tensor in state.items()}


HEADS = {'head.mlp.0.weight': torch.ones(3, 3), 'head.last_layer.weight_v': torch.ones(4, 3)}
WRAPPED = {
    'dino.pth': lambda s: {'student': under('module.backbone.', other(s)), 'teacher': under('backbone.', headless(s))
                           | HEADS, 'optimizer': {'state': {0: {'exp_avg': torch.ones(3)}}, 'param_groups': [{}]},
                           'epoch': 3, 'args': argparse.Namespace(lr=1e-3, out=Path('/x')), 'fp16_scaler': None},
    'dinov2.pth': lambda s: {'model': under('student.backbone.', other(s)) | under('teacher.backbone.', headless(s))
                             | under('teacher.dino_', HEADS), 'iteration': 9},
    'dinov2-chunks.pth': lambda s: {'teacher': {name.replace('blocks.', 'backbone._fsdp_wrapped_module.blocks.0.')
                                                if name.startswith('blocks.') else f'backbone.{name}': tensor
                                                for name, tensor in headless(s).items()}},
    'lightning.ckpt': lambda s: {'state_dict': under('model.encoder.', s) | under('criterion.', HEADS),
                                 'hyper_parameters': {'args': argparse.Namespace(a=1)}, 'callbacks': {},
                                 'lr_schedulers': [], 'epoch': 1, 'best': np.float32(3).item()},
    'ddp.PTH': lambda s: {'model_state_dict': under('module.', s), 'optimizer_state_dict': {}},
    'compiled.pt': lambda s: under('_orig_mod.', s),
    'ema.tar': lambda s: {'net': other(s), 'ema': {'shadow': s}, 'decay': 0.99},
    'moco.pth.tar': lambda s: {'state_dict': under('module.base_encoder.', s), 'arch': 'vit'},
    'numpy.pth': lambda s: {'model': s, 'best_acc': np.float64(0.9), 'random': np.random.RandomState(0).get_state()},
    'multimodal.bin': lambda s: under('visual.trunk.', headless(s)) | {'logit_scale': torch.tensor(2.0)},
}


@pytest.mark.parametrize('name', WRAPPED)
def test_wrappings_of_training_programs(trained, pictures, tmp_path, trial, name):
    save_file(trained, tmp_path / 'plain.safetensors')
    torch.save(WRAPPED[name](trained), tmp_path / name)
    with trial('Weights', 'wrapped as training programs do'):
        plain, wrapped = (load_encoder(EncoderSettings(VIT, weights=str(tmp_path / file), input_size=(64, 64),
                                                       device='cpu')) for file in ('plain.safetensors', name))
        images = pictures(1, 64, 64)
        torch.testing.assert_close(wrapped.encode(images), plain.encode(images), rtol=0, atol=0)


def test_suffixes_in_capitals(trained, tmp_path):
    save_file(under('backbone.', trained), tmp_path / 'MODEL.SAFETENSORS')
    load_encoder(EncoderSettings(VIT, weights=str(tmp_path / 'MODEL.SAFETENSORS'), input_size=(64, 64), device='cpu'))


def test_position_embeddings_of_another_size_are_resampled_as_the_library_does(tmp_path, pictures):
    state = seeded('test_vit', img_size=96)
    torch.save(state, tmp_path / 'plain.pth')
    torch.save({'teacher': under('backbone.', headless(state))}, tmp_path / 'wrapped.pth')
    plain, wrapped = (load_encoder(EncoderSettings(VIT, weights=str(tmp_path / file), input_size=(64, 64),
                                                   device='cpu')) for file in ('plain.pth', 'wrapped.pth'))
    images = pictures(1, 64, 64)
    torch.testing.assert_close(wrapped.encode(images), plain.encode(images), rtol=0, atol=0)


def refusal(name: str, file: Path) -> str:
    with pytest.raises(EncoderError) as caught:
        load_encoder(EncoderSettings(name, weights=str(file), device='cpu'))
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert f'{file} does not hold its weights: ' in message
    return message


def test_weights_of_another_model_say_which_they_fit(tmp_path, trial):
    with torch.device('meta'):
        state = timm.create_model('vit_small_patch14_dinov2', img_size=28).state_dict()
    state = {name: torch.zeros(tensor.shape, dtype=torch.float16) for name, tensor in state.items()}
    torch.save({'teacher': under('backbone.', state)}, tmp_path / 'dinov2.pth')
    with trial('Weights', 'of another model'):
        message = refusal(VIT, tmp_path / 'dinov2.pth')
        assert 'tensors under teacher.backbone. such as cls_token' in message
        assert 'missing' in message or 'of another shape' in message
        assert 'it fits timm:vit_small_patch14_dinov2: set encoder to that' in message


def test_weights_that_lack_a_part_say_which(trained, tmp_path, trial):
    state = {name: tensor for name, tensor in trained.items() if not name.startswith('blocks.2.')}
    torch.save({'model': state}, tmp_path / 'part.pth')
    with trial('Weights', 'with a part missing'):
        message = refusal(VIT, tmp_path / 'part.pth')
        assert 'such as blocks.2.norm1.weight, blocks.2.norm1.bias, ' in message
        assert message.endswith('give the file of this model')


@pytest.mark.parametrize('content', [{}, {'epoch': 3}, [1, 2], torch.ones(3), {'a': {'b': {'c': torch.ones(2)}}}])
def test_what_holds_no_model(tmp_path, content, trial):
    torch.save(content, tmp_path / 'none.pth')
    with trial('Weights', 'a file that holds no model'):
        refusal(VIT, tmp_path / 'none.pth')


@pytest.mark.parametrize(('change', 'said'), [
    (lambda tensor: tensor * np.nan, 'found NaN or infinity in cls_token'),
    (lambda tensor: (tensor * 10).to(torch.int8), 'found cls_token of type int8')])
def test_weights_that_are_no_numbers_to_compute_with(trained, tmp_path, change, said, trial):
    torch.save({'teacher': {f'backbone.{name}': change(tensor) for name, tensor in trained.items()}},
               tmp_path / 'bad.pth')
    with trial('Weights', 'quantized, or of a training that diverged'):
        assert said in refusal(VIT, tmp_path / 'bad.pth')


def test_a_page_of_the_web_and_a_network_with_its_code(tmp_path, trial):
    (tmp_path / 'page.pth').write_text('<!DOCTYPE html><html>Sign in</html>')
    torch.jit.script(torch.nn.Conv2d(3, 8, 16)).save(str(tmp_path / 'script.pt'))
    with trial('Weights', 'a file that is none', times=2):
        assert 'a page of the web' in refusal(VIT, tmp_path / 'page.pth')
        assert f'set encoder to torchscript:{tmp_path}/script.pt' in refusal(VIT, tmp_path / 'script.pt')


def test_the_layout_of_transformers_is_named(tmp_path, trial):
    torch.save({'embeddings.patch_embeddings.projection.weight': torch.ones(8, 3, 14, 14)}, tmp_path / 'hf.bin')
    with trial('Weights', 'of another model'):
        assert 'the layout of Hugging Face transformers' in refusal(VIT, tmp_path / 'hf.bin')


def test_dictionaries_that_hold_each_other_many_times(tmp_path, trial):
    """A file of some kilobytes: each of 60 names stands for the same dictionary, four levels deep."""
    content: dict[str, Any] = {}
    for _ in range(5):
        content = {f'{number}': content for number in range(60)}
    torch.save(content, tmp_path / 'many.pth')
    with trial('Weights', 'a file that holds no model'):
        refusal(VIT, tmp_path / 'many.pth')


def test_a_segmenter_of_one_s_own_training(tmp_path, trial):
    """As the reference training of torchvision leaves it; and one that lacks a part."""
    from torchvision.models.detection import maskrcnn_resnet50_fpn_v2

    network = maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None)
    state = {name: tensor.half() if tensor.is_floating_point() else tensor
             for name, tensor in network.state_dict().items()}
    wrapped = {'model': under('module.', state), 'args': argparse.Namespace(lr=0.1)}
    torch.save(wrapped, tmp_path / 'own.pth')
    torch.save({'model': {name: state[name] for name in list(state)[:9]}}, tmp_path / 'part.pth')
    with trial('Weights', 'of a segmenter, wrapped or with a part missing', times=2):
        load_segmenter(QuerySettings(segmenter='torchvision', segmenter_weights=str(tmp_path / 'own.pth')),
                       torch.device('cpu'))
        with pytest.raises(SegmenterError,
                           match=r'part.pth holds other weights than those of maskrcnn.*missing [0-9]+ of'):
            load_segmenter(QuerySettings(segmenter='torchvision', segmenter_weights=str(tmp_path / 'part.pth')),
                           torch.device('cpu'))


class Config:
    """Of a training program: its class is not here when the weights are loaded."""


def test_a_class_of_the_training_program_is_named(trained, tmp_path, trial):
    torch.save({'state_dict': trained, 'config': Config()}, tmp_path / 'own.ckpt')
    with trial('Weights', 'with a class of the training program'):
        message = refusal(VIT, tmp_path / 'own.ckpt')
        assert 'Config of its training program, and code from a file is not run; save the weights alone' in message


@pytest.mark.parametrize('file', ['model.safetensors', 'model.pth', 'model.ckpt'])
@pytest.mark.parametrize('content', [b'', bytes(1000), b'version https://git-lfs.github.com/spec/v1\n', b'PK\x03\x04'])
def test_what_is_no_file_of_weights(tmp_path, file, content, trial):
    (tmp_path / file).write_bytes(content)
    with trial('Weights', 'a file that is none'):
        assert ('git lfs pull' in refusal(VIT, tmp_path / file)) == content.startswith(b'version')


def test_what_never_ends_is_not_read(tmp_path, trial):
    os.mkfifo(tmp_path / 'pipe.pth')
    (tmp_path / 'zero.pth').symlink_to('/dev/zero')
    (tmp_path / 'folder.pth').mkdir()
    with trial('Weights', 'a pipe, a device or a folder', times=3):
        for name, said in (('pipe', 'is no regular file'), ('zero', 'is no regular file'), ('folder', 'is a folder')):
            with pytest.raises(EncoderError, match=said):
                load_encoder(EncoderSettings(VIT, weights=str(tmp_path / f'{name}.pth'), device='cpu'))


@pytest.mark.parametrize('prefix', ['model.', 'module.visual.', 'backbone.'])
def test_open_clip_with_and_without_the_text_tower(clip_folder, tmp_path, pictures, prefix, trial):
    """Without, no text is compared with anything: a tower without weights would give labels all the same."""
    state = load_file(clip_folder / 'open_clip_model.safetensors')
    folder = tmp_path / 'own'
    folder.mkdir()
    (folder / 'open_clip_config.json').write_bytes((clip_folder / 'open_clip_config.json').read_bytes())
    seen = {name.removeprefix('visual.'): tensor for name, tensor in state.items() if name.startswith('visual.')}
    torch.save({'state_dict': under(prefix, state if prefix == 'model.' else seen), 'optimizer': {}},
               folder / 'open_clip_pytorch_model.bin')
    with trial('Weights', 'wrapped as training programs do'):
        own, plain = (load_encoder(EncoderSettings('open_clip:tiny-clip', weights=f'local-dir:{one}', device='cpu'))
                      for one in (folder, clip_folder))
        images = pictures(1, 64, 64)
        torch.testing.assert_close(own.encode(images), plain.encode(images), rtol=0, atol=0)
        assert isinstance(own, TextAlignedEncoder) == (prefix == 'model.')


def test_a_clip_model_says_which_it_is(tmp_path):
    state = {'visual.conv1.weight': torch.zeros(768, 3, 16, 16),
             **{f'visual.transformer.resblocks.{n}.ln_1.weight': torch.zeros(768) for n in range(12)}}
    torch.save(state, tmp_path / 'clip.pt')
    assert 'it fits open_clip:ViT-B-16: set encoder to that' in refusal(VIT, tmp_path / 'clip.pt')
