"""timm networks against timm's own outputs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from semanom_ros.core.embedding.encoders.encoder import TextAlignedEncoder
from semanom_ros.core.embedding.registry import load_encoder
from semanom_ros.errors import EncoderError
from semanom_ros.settings import EncoderSettings

CLOSE = {'atol': 1e-5, 'rtol': 1e-4}
VIT = 'timm:test_vit'  # timm's own model for tests: 6 blocks of width 64, patches of 16
IMAGENET = {'mean': (0.485, 0.456, 0.406), 'std': (0.229, 0.224, 0.225)}
HALF = {'mean': (0.5, 0.5, 0.5), 'std': (0.5, 0.5, 0.5)}


def seeded(model: str) -> torch.nn.Module:
    """The network that `random:0` stands for, made by timm alone."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return timm.create_model(model).eval()


@pytest.fixture(scope='module')
def vit_file(tmp_path_factory) -> Path:
    """Weights of test_vit, all of them random: a skipped norm shows."""
    path = tmp_path_factory.mktemp('weights') / 'vit.safetensors'
    generator = torch.Generator().manual_seed(3)
    state = timm.create_model('test_vit').state_dict()
    save_file({k: v + 0.1 * torch.randn(v.shape, generator=generator) for k, v in state.items()}, path)
    return path


def test_dinov2_as_in_the_paper(pictures, standardized):
    encoder = load_encoder(EncoderSettings(
        'timm:vit_small_patch14_dinov2.lvd142m', weights='random:0', input_size=(224, 224), device='cpu'))
    assert (encoder.grid_size, encoder.dimension) == ((16, 16), 384)
    library = seeded('vit_small_patch14_dinov2')
    library.set_input_size(img_size=(224, 224))
    images = pictures(1, 224, 224)
    with torch.inference_mode():
        tokens = library.forward_features(standardized(images, **IMAGENET))
    assert tokens.shape == (1, 257, 384)
    torch.testing.assert_close(encoder.encode(images).flatten(1, 2), F.normalize(tokens[:, 1:], dim=-1), **CLOSE)
    assert not isinstance(encoder, TextAlignedEncoder)


def test_class_and_register_tokens_are_dropped(pictures, standardized):
    """DINOv3: one class token, four registers, rotary positions, a picture that is not square."""
    encoder = load_encoder(EncoderSettings(
        'timm:vit_small_patch16_dinov3', weights='random:0', input_size=(64, 112), device='cpu'))
    library = seeded('vit_small_patch16_dinov3')
    library.set_input_size(img_size=(64, 112))
    images = pictures(2, 64, 112)
    with torch.inference_mode():
        tokens = library.forward_features(standardized(images, **IMAGENET))
    assert tokens.shape == (2, 5 + 4 * 7, 384)
    torch.testing.assert_close(encoder.encode(images).flatten(1, 2), F.normalize(tokens[:, 5:], dim=-1), **CLOSE)


def test_position_embeddings_are_interpolated(vit_file, pictures, standardized):
    """Against timm's own resampling at every forward pass (`dynamic_img_size`)."""
    encoder = load_encoder(EncoderSettings(VIT, weights=str(vit_file), input_size=(96, 160), device='cpu'))
    library = timm.create_model('test_vit', checkpoint_path=str(vit_file), dynamic_img_size=True).eval()
    images = pictures(1, 96, 160)
    with torch.inference_mode():
        tokens = library.forward_features(standardized(images, **HALF))[:, 1:]
    assert encoder.grid_size == (6, 10)
    torch.testing.assert_close(encoder.encode(images).flatten(1, 2), F.normalize(tokens, dim=-1), **CLOSE)


def test_layer_chooses_the_block(vit_file, pictures, standardized):
    encoder = load_encoder(EncoderSettings(VIT, weights=str(vit_file), input_size=(64, 64), layer=-3, device='cpu'))
    library = timm.create_model('test_vit', checkpoint_path=str(vit_file)).eval()
    library.set_input_size(img_size=(64, 64))
    images = pictures(1, 64, 64)
    with torch.inference_mode():
        tokens = library.get_intermediate_layers(standardized(images, **HALF), n=[3], norm=True)[0]
    torch.testing.assert_close(encoder.encode(images).flatten(1, 2), F.normalize(tokens, dim=-1), **CLOSE)
    assert encoder.settings['layer'] == '3'


@pytest.mark.parametrize(('model', 'layer', 'grid', 'dimension'), [
    ('test_convnext', -1, (2, 3), 64), ('test_convnext', 1, (8, 12), 32), ('test_resnet', -1, (2, 3), 96)])
def test_convolutional_networks(model, layer, grid, dimension, pictures):
    encoder = load_encoder(EncoderSettings(
        f'timm:{model}', weights='random:0', input_size=(64, 96), layer=layer, device='cpu'))
    embeddings = encoder.encode(pictures(2, 64, 96))
    assert (encoder.grid_size, encoder.dimension) == (grid, dimension)
    assert embeddings.shape == (2, *grid, dimension)
    torch.testing.assert_close(embeddings.norm(dim=-1), torch.ones(2, *grid))


def test_window_network_at_another_size(pictures):
    encoder = load_encoder(EncoderSettings(
        'timm:swin_tiny_patch4_window7_224', weights='random:0', input_size=(64, 128), device='cpu'))
    assert encoder.encode(pictures(1, 64, 128)).shape == (1, 2, 4, 768)


def test_colours_of_a_folder_come_with_it(vit_file, tmp_path, pictures):
    """The same network was trained with other colours under another tag."""
    folder = tmp_path / 'fetched'
    folder.mkdir()
    (folder / 'model.safetensors').write_bytes(vit_file.read_bytes())
    arguments = {'weights': f'local-dir:{folder}', 'input_size': (64, 64), 'device': 'cpu'}
    images = pictures(1, 64, 64)
    plain = load_encoder(EncoderSettings(VIT, **arguments))
    (folder / 'config.json').write_text(json.dumps({'pretrained_cfg': {'input_size': [3, 224, 224], **IMAGENET}}))
    described = load_encoder(EncoderSettings(VIT, **arguments))
    assert plain.settings['mean'] == '0.5 0.5 0.5'
    assert described.settings['mean'] == '0.485 0.456 0.406'
    assert plain.weights_sha256 == described.weights_sha256
    assert (plain.encode(images) - described.encode(images)).abs().max() > 1e-3
    (folder / 'config.json').write_text('{"architecture": "vit"}')
    with pytest.raises(EncoderError, match=r'config\.json: no pretrained_cfg'):
        load_encoder(EncoderSettings(VIT, **arguments))


@pytest.mark.parametrize(('name', 'arguments', 'message'), [
    ('timm:vit_small_patch14_dinov2', {'input_size': (360, 640)}, 'nearest: height 350 or 364, width 630 or 644'),
    ('timm:test_resnet', {'layer': 5}, 'encoder_layer 5, expected -5 to 4'),
    ('timm:test_resnet', {'features': 'maskclip'}, 'encoder_features maskclip needs a CLIP model'),
    ('timm:resnet10', {}, r"timm has no model 'resnet10'; did you mean resnet10t"),
    ('timm:resnet10t.lvd142m', {}, "no weights 'lvd142m', expected one of c3_in1k"),
    ('timm:resnet10t', {'weights': 'lvd142m'}, "weights 'lvd142m' are neither a file"),
    ('timm:vit_base_patch16_224.augreg_in21k', {'weights': 'augreg_in1k'}, 'differs from the tag in its name'),
])
def test_what_the_model_does_not_have(name, arguments, message):
    with pytest.raises(EncoderError, match=message):
        load_encoder(EncoderSettings(name, **{'weights': 'random:0', 'device': 'cpu', **arguments}))


def test_network_that_cannot_run_at_a_size_says_so():
    with pytest.raises(EncoderError, match=r"does not run at 64x64 on cpu in float32 \(Input height \(64\) doesn't"):
        load_encoder(EncoderSettings('timm:mixer_s32_224', weights='random:0', input_size=(64, 64), device='cpu'))


def test_weights_of_another_network_are_refused(vit_file):
    with pytest.raises(EncoderError, match=r'vit\.safetensors does not hold its weights') as raised:
        load_encoder(EncoderSettings('timm:test_resnet', weights=str(vit_file), device='cpu'))
    assert len(str(raised.value).splitlines()) == 1
