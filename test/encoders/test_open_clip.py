"""open_clip models against open_clip's own outputs."""

from __future__ import annotations

import gzip
import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import torch.nn.functional as F
from open_clip.pretrained import _PRETRAINED
from safetensors.torch import load_file, save_file

from semanom_ros.core.embedding.encoders import tiny
from semanom_ros.core.embedding.encoders.encoder import PictureEncoder, TextAlignedEncoder
from semanom_ros.core.embedding.registry import load_encoder
from semanom_ros.errors import EncoderError
from semanom_ros.settings import EncoderSettings

CLOSE = {'atol': 1e-5, 'rtol': 1e-4}


def load(folder: Path, **arguments: Any) -> Any:
    return load_encoder(
        EncoderSettings('open_clip:tiny-clip', weights=f'local-dir:{folder}', device='cpu', **arguments))


def test_tokens_are_those_that_open_clip_gives(clip_folder, library_clip, pictures, standardized):
    library = library_clip(clip_folder)
    library.visual.output_tokens = True
    images = pictures(2, 64, 64)
    with torch.inference_mode():
        _, tokens = library.visual(standardized(images))
    encoder = load(clip_folder)
    embeddings = encoder.encode(images)
    assert (encoder.input_size, encoder.grid_size, encoder.dimension) == ((64, 64), (4, 4), 64)
    assert embeddings.shape == (2, 4, 4, 64)
    assert embeddings.dtype == torch.float32
    torch.testing.assert_close(embeddings, F.normalize(tokens, dim=-1).unflatten(1, (4, 4)), **CLOSE)


@pytest.mark.parametrize('model', ['tiny-clip', 'ViT-S-32'])
def test_pooled_embedding_of_the_hooked_block_is_encode_image(model, clip_folder, library_clip, pictures, standardized):
    encoder: Any
    if model == 'tiny-clip':
        encoder, library, colours = load(clip_folder), library_clip(clip_folder), {}
    else:
        encoder = load_encoder(EncoderSettings(f'open_clip:{model}', weights='random:3', device='cpu'))
        library = encoder._model
        colours = {'mean': open_clip.OPENAI_DATASET_MEAN, 'std': open_clip.OPENAI_DATASET_STD}
    visual = encoder._network.visual
    hooked: list[torch.Tensor] = []
    visual.transformer.resblocks[-1].register_forward_hook(lambda module, arguments, output: hooked.append(output))
    images = pictures(2, *encoder.input_size)
    embeddings = encoder.encode(images)
    tokens = visual.ln_post(hooked[0])
    with torch.inference_mode():
        expected = library.encode_image(standardized(images, **colours))
    torch.testing.assert_close(tokens[:, 0] @ visual.proj, expected, **CLOSE)
    torch.testing.assert_close(embeddings.flatten(1, 2), F.normalize(tokens[:, 1:], dim=-1), **CLOSE)


@pytest.mark.parametrize(('layer', 'block'), [(0, 0), (1, 1), (-2, 1), (2, 2), (-1, 2)])
def test_layer_chooses_the_block(layer, block, clip_folder, library_clip, pictures, standardized):
    images = pictures(1, 64, 64)
    with torch.inference_mode():
        blocks = library_clip(clip_folder).visual.forward_intermediates(
            standardized(images), indices=[block], normalize_intermediates=True, output_fmt='NLC')
        expected = blocks['image_intermediates'][0]
    encoder = load(clip_folder, layer=layer)
    torch.testing.assert_close(encoder.encode(images).flatten(1, 2), F.normalize(expected, dim=-1), **CLOSE)
    assert encoder.settings['layer'] == str(block)


def test_maskclip_is_attention_of_every_token_to_itself(clip_folder, library_clip, pictures, standardized):
    library = library_clip(clip_folder)
    images = pictures(2, 64, 64)
    block, entered = library.visual.transformer.resblocks[-1], []
    block.register_forward_pre_hook(lambda module, arguments: entered.append(arguments[0]))
    with torch.inference_mode():
        library.encode_image(standardized(images))
        normed = block.ln_1(entered[0])
        alone = torch.full((17, 17), float('-inf')).fill_diagonal_(0)
        values = block.attn(normed, normed, normed, attn_mask=alone, need_weights=False)[0]
        expected = library.visual.ln_post(values[:, 1:]) @ library.visual.proj
    encoder = load(clip_folder, features='maskclip')
    embeddings = encoder.encode(images)
    assert embeddings.shape == (2, 4, 4, 24)
    torch.testing.assert_close(embeddings.flatten(1, 2), F.normalize(expected, dim=-1), **CLOSE)
    torch.testing.assert_close(encoder.project_to_text(embeddings[0, 0]), embeddings[0, 0], **CLOSE)


@pytest.mark.parametrize('size', [(48, 112), (128, 64), (64, 64)])
def test_positions_are_interpolated_as_open_clip_does(size, clip_folder, library_clip, pictures, standardized):
    library = library_clip(clip_folder, force_image_size=size)
    library.visual.output_tokens = True
    images = pictures(1, *size)
    with torch.inference_mode():
        _, tokens = library.visual(standardized(images))
    encoder = load(clip_folder, input_size=size)
    assert encoder.grid_size == (size[0] // 16, size[1] // 16)
    torch.testing.assert_close(encoder.encode(images).flatten(1, 2), F.normalize(tokens, dim=-1), **CLOSE)


def test_positions_follow_the_grid_when_only_its_shape_changes(clip_folder):
    """4x4 and 2x8 patches are equally many: the embeddings must not be taken over row by row."""
    weights = load_file(clip_folder / 'open_clip_model.safetensors')['visual.positional_embedding']
    grid = weights[1:].view(1, 4, 4, 64).permute(0, 3, 1, 2)
    expected = F.interpolate(grid, (2, 8), mode='bicubic', antialias=True)[0].permute(1, 2, 0).flatten(0, 1)
    positions = load(clip_folder, input_size=(32, 128))._network.visual.positional_embedding
    torch.testing.assert_close(positions, torch.cat([weights[:1], expected]))


def test_model_trained_on_wide_pictures(write_clip, tmp_path, pictures, standardized, library_clip):
    folder = write_clip(tmp_path / 'wide', vision={'image_size': [32, 80]})
    encoder = load(folder)
    assert (encoder.input_size, encoder.grid_size) == ((32, 80), (2, 5))
    assert load(folder, input_size=(64, 160)).grid_size == (4, 10)
    library = library_clip(folder)
    library.visual.output_tokens = True
    images = pictures(1, 32, 80)
    with torch.inference_mode():
        _, tokens = library.visual(standardized(images))
    torch.testing.assert_close(encoder.encode(images).flatten(1, 2), F.normalize(tokens, dim=-1), **CLOSE)


def test_texts_and_patches_share_a_space(clip_folder, library_clip, pictures, standardized):
    library = library_clip(clip_folder)
    texts = ['a stop sign', 'a road']
    encoder = load(clip_folder)
    assert isinstance(encoder, TextAlignedEncoder)
    images = pictures(1, 64, 64)
    library.visual.output_tokens = True
    with torch.inference_mode():
        tokens = open_clip.get_tokenizer(f'local-dir:{clip_folder}')(texts)
        torch.testing.assert_close(encoder.encode_text(texts), library.encode_text(tokens, normalize=True), **CLOSE)
        patches = library.visual(standardized(images))[1][0] @ library.visual.proj
    projected = encoder.project_to_text(encoder.encode(images)[0].flatten(0, 1))
    torch.testing.assert_close(projected, F.normalize(patches, dim=-1), **CLOSE)


def test_tokenizer_of_a_folder_is_found_from_anywhere(write_clip, tmp_path, monkeypatch):
    words = {'vocab_size': 516, 'tokenizer_kwargs': {'bpe_path': 'words.txt.gz'}}
    folder = write_clip(tmp_path / 'own-words', text=words)
    (folder / 'words.txt.gz').write_bytes(gzip.compress(b'#version\nc a\nca r</w>'))
    monkeypatch.chdir('/')
    texts = load(folder).encode_text(['car', 'c'])
    assert texts.shape == (2, 24)
    assert (texts[0] - texts[1]).norm() > 0.01


def test_attentional_pooling_norms_tokens_itself_and_has_no_text_space(write_clip, tmp_path, library_clip, pictures,
                                                                      standardized):
    pooling = {'attentional_pool': True, 'attn_pooler_heads': 2, 'attn_pooler_queries': 4}
    folder = write_clip(tmp_path / 'pooled', vision=pooling)
    encoder = load(folder)
    assert not isinstance(encoder, TextAlignedEncoder)
    images, visual = pictures(1, 64, 64), library_clip(folder).visual
    normed: list[torch.Tensor] = []
    visual.attn_pool.ln_k.register_forward_hook(lambda module, arguments, output: normed.append(output))
    with torch.inference_mode():
        visual(standardized(images))
    torch.testing.assert_close(encoder.encode(images).flatten(1, 2), F.normalize(normed[0][:, 1:], dim=-1), **CLOSE)
    with pytest.raises(EncoderError, match='maskclip need the pooling'):
        load(folder, features='maskclip')


def test_timm_tower(write_clip, tmp_path, library_clip, pictures, standardized):
    tower = {'timm_model_name': 'test_vit', 'timm_pool': 'token', 'timm_proj': 'linear', 'image_size': 160}
    folder = write_clip(tmp_path / 'timm', vision=tower, custom_text=True)
    encoder = load(folder, input_size=(64, 96), layer=4)
    trunk = library_clip(folder).visual.trunk
    trunk.set_input_size(img_size=(64, 96))
    images = pictures(1, 64, 96)
    with torch.inference_mode():
        expected = trunk.forward_intermediates(standardized(images), indices=[4], norm=True, intermediates_only=True)[0]
    torch.testing.assert_close(encoder.encode(images), F.normalize(expected.permute(0, 2, 3, 1), dim=-1), **CLOSE)
    assert not isinstance(encoder, TextAlignedEncoder)
    with pytest.raises(EncoderError, match='maskclip needs a vision transformer of open_clip'):
        load(folder, features='maskclip')


def test_timm_tower_whose_class_token_is_projected_has_a_text_space(write_clip, tmp_path, library_clip, pictures,
                                                                    standardized):
    tower = {'timm_model_name': 'test_vit', 'timm_pool': 'token', 'timm_proj': 'linear', 'image_size': 160}
    folder = write_clip(tmp_path / 'timm', vision=tower)
    encoder, visual = load(folder), library_clip(folder).visual
    assert isinstance(encoder, TextAlignedEncoder)
    images = pictures(1, 160, 160)
    with torch.inference_mode():
        expected = visual.head(visual.trunk.forward_features(standardized(images))[0, 1:])
    projected = encoder.project_to_text(encoder.encode(images)[0].flatten(0, 1))
    torch.testing.assert_close(projected, F.normalize(expected, dim=-1), **CLOSE)


@pytest.mark.parametrize('tower', [
    {'timm_model_name': 'test_convnext', 'timm_pool': '', 'timm_proj': 'linear', 'image_size': 160},
    {'timm_model_name': 'vit_tiny_patch16_224', 'timm_pool': 'token', 'timm_proj': 'mlp', 'image_size': 224}])
def test_timm_tower_with_more_before_the_texts_has_none(tower, write_clip, tmp_path):
    assert not isinstance(load(write_clip(tmp_path / 'timm', vision=tower), input_size=(64, 64)), TextAlignedEncoder)


def test_vision_tower_beside_a_foreign_text_tower(write_clip, tmp_path, clip_folder, pictures):
    """Text towers of Hugging Face transformers would want the network; patches do not need them."""
    folder = tmp_path / 'multilingual'
    folder.mkdir()
    config = json.loads((clip_folder / 'open_clip_config.json').read_text())
    config['model_cfg']['text_cfg'] = {'hf_model_name': 'nobody/nothing', 'hf_tokenizer_name': 'nobody/nothing'}
    (folder / 'open_clip_config.json').write_text(json.dumps(config))
    state = load_file(clip_folder / 'open_clip_model.safetensors')
    save_file({k: v for k, v in state.items() if k.startswith('visual.')}, folder / 'open_clip_model.safetensors')
    images = pictures(1, 64, 64)
    encoder = load(folder)
    assert not isinstance(encoder, TextAlignedEncoder)
    torch.testing.assert_close(encoder.encode(images), load(clip_folder).encode(images))


def test_convolutional_tower_is_refused(write_clip, tmp_path):
    folder = write_clip(tmp_path / 'resnet', vision={'layers': [1, 1, 1, 1], 'width': 32, 'patch_size': None})
    with pytest.raises(EncoderError, match='is a ModifiedResNet, expected a vision transformer'):
        load(folder)


@pytest.mark.parametrize(('arguments', 'message'), [
    ({'input_size': (60, 64)}, r'\[60, 64\] is no multiple of the patch size \[16, 16\]; nearest: height 48 or 64$'),
    ({'input_size': (8, 100)}, r'nearest: height 16, width 96 or 112$'),
    ({'input_size': (0, 64)}, r'nearest: height 16$'),
    ({'layer': 3}, r'encoder_layer 3, expected -3 to 2'),
    ({'layer': -4}, r'encoder_layer -4, expected -3 to 2'),
    ({'layer': 1, 'features': 'maskclip'}, r'encoder_layer 1 with encoder_features maskclip'),
])
def test_what_the_model_does_not_have(arguments, message, clip_folder):
    with pytest.raises(EncoderError, match=message):
        load(clip_folder, **arguments)


def test_images_of_another_size_are_refused(clip_folder, pictures):
    encoder = load(clip_folder)
    with pytest.raises(EncoderError, match=re.escape('found images of shape (1, 3, 64, 80), expected (B, 3, 64, 64)')):
        encoder.encode(pictures(1, 64, 80))


def test_batch_does_not_matter_and_embeddings_have_length_1(clip_folder, pictures):
    encoder = load(clip_folder)
    images = pictures(5, 64, 64)
    together = encoder.encode(images)
    torch.testing.assert_close(together, torch.cat([encoder.encode(image[None]) for image in images]), **CLOSE)
    torch.testing.assert_close(together.norm(dim=-1), torch.ones(5, 4, 4))


@pytest.mark.parametrize('precision', ['bf16', 'fp16'])
def test_half_precision_stays_close(precision, clip_folder, pictures):
    images = pictures(2, 64, 64)
    full = load(clip_folder).encode(images)
    encoder = load(clip_folder, precision=precision)
    half = encoder.encode(images)
    assert half.dtype == torch.float32
    assert encoder.dtype == {'bf16': torch.bfloat16, 'fp16': torch.float16}[precision]
    assert 0 < (1 - (full * half).sum(-1)).max() < 1e-3
    assert encoder.settings == load(clip_folder).settings


def test_weights_in_half_precision_and_as_a_file(clip_folder, tmp_path, pictures, monkeypatch):
    """What a trainer would ship: fp16 safetensors, loaded into fp32; and the same weights as a .pt file."""
    state = load_file(clip_folder / 'open_clip_model.safetensors')
    save_file({k: v.half() for k, v in state.items()}, tmp_path / 'half.safetensors')
    torch.save({'state_dict': state}, tmp_path / 'full.pt')
    config = json.loads((clip_folder / 'open_clip_config.json').read_text())['model_cfg']
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, 'tiny-clip', config)
    images = pictures(1, 64, 64)
    half, full = (load_encoder(EncoderSettings('open_clip:tiny-clip', weights=str(tmp_path / name), device='cpu'))
                  for name in ('half.safetensors', 'full.pt'))
    assert half.dtype == torch.float32
    assert (half.weights, full.weights) == ('half.safetensors', 'full.pt')
    assert half.weights_sha256 != full.weights_sha256
    torch.testing.assert_close(half.encode(images), full.encode(images), atol=2e-2, rtol=0)


def test_activation_comes_with_the_tag(clip_folder, tmp_path, monkeypatch, pictures):
    """OpenAI's weights need QuickGELU whatever the model's configuration says; found in the hub's own cache."""
    config = json.loads((clip_folder / 'open_clip_config.json').read_text())['model_cfg']
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, 'tiny-clip', config)
    described = {'hf_hub': 'example/tiny-clip/', 'mean': (0.4, 0.5, 0.6), 'std': (0.2, 0.25, 0.3)}
    monkeypatch.setitem(_PRETRAINED, 'tiny-clip', {'openai': {**described, 'quick_gelu': True}, 'other': described})
    cached = tmp_path / 'hub' / 'models--example--tiny-clip'
    (cached / 'refs').mkdir(parents=True)
    (cached / 'refs' / 'main').write_text('0' * 40)
    snapshot = cached / 'snapshots' / ('0' * 40)
    snapshot.mkdir(parents=True)
    shutil.copy(clip_folder / 'open_clip_model.safetensors', snapshot)
    default, quick, other = (load_encoder(EncoderSettings('open_clip:tiny-clip', weights=tag, device='cpu'))
                             for tag in ('', 'openai', 'other'))
    images = pictures(1, 64, 64)
    torch.testing.assert_close(default.encode(images), quick.encode(images))
    torch.testing.assert_close(other.encode(images), load(clip_folder).encode(images))
    assert (quick.encode(images) - other.encode(images)).abs().max() > 1e-3
    assert (quick.settings['activation'], other.settings['activation']) == ('quick_gelu', 'own')
    assert quick.weights_sha256 == other.weights_sha256


def test_random_weights_are_the_same_for_a_seed(clip_folder, monkeypatch, pictures):
    monkeypatch.setattr(tiny, 'FOLDER', clip_folder)
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    first, again, other = (load_encoder(EncoderSettings('semanom-tiny', weights=w, device='cpu'))
                           for w in ('random:0', 'random:0', 'random:1'))
    assert torch.equal(torch.random.get_rng_state(), state)
    images = pictures(1, 64, 64)
    assert torch.equal(first.encode(images), again.encode(images))
    assert first.weights_sha256 == again.weights_sha256
    assert first.weights_sha256 != other.weights_sha256
    assert (first.encode(images) - other.encode(images)).abs().max() > 1e-3


def test_shipped_encoder_is_loaded_as_any_folder(clip_folder, tmp_path, monkeypatch, pictures):
    monkeypatch.setattr(tiny, 'FOLDER', clip_folder)
    images = pictures(1, 64, 64)
    encoder = load_encoder(EncoderSettings('semanom-tiny', device='cpu'))
    assert (encoder.name, encoder.weights) == ('semanom-tiny', 'tiny-clip')
    torch.testing.assert_close(encoder.encode(images), load(clip_folder).encode(images))
    untrained = load_encoder(EncoderSettings('semanom-tiny', weights='random:0', device='cpu'))
    assert untrained.settings == encoder.settings
    assert (untrained.encode(images) - encoder.encode(images)).abs().max() > 1e-2
    monkeypatch.setattr(tiny, 'FOLDER', tmp_path)
    with pytest.raises(EncoderError, match='encoder semanom-tiny: not in this installation'):
        load_encoder(EncoderSettings('semanom-tiny', device='cpu'))


def test_an_encoder_says_whether_its_distances_want_standardizing(clip_folder, tmp_path):
    shipped = load_encoder(EncoderSettings(device='cpu'))
    assert (shipped.wants_standardizing, shipped.wants_calibration_by_place) == (False, False)
    plain = load(clip_folder)
    assert (plain.wants_standardizing, plain.wants_calibration_by_place) == (True, True)
    shutil.copytree(clip_folder, tmp_path / 'shaped')
    config = json.loads((clip_folder / 'open_clip_config.json').read_text())
    wants = {'semanom_wants': {'standardizing': False}}
    (tmp_path / 'shaped' / 'open_clip_config.json').write_text(json.dumps({**config, **wants}))
    shaped = load(tmp_path / 'shaped')
    assert (shaped.wants_standardizing, shaped.wants_calibration_by_place) == (False, True)


def test_loading_does_not_talk_on_the_log(clip_folder, caplog):
    caplog.set_level(logging.DEBUG)
    load(clip_folder).encode_text(['a road'])
    assert not [record for record in caplog.records if record.levelno >= logging.INFO]


@pytest.mark.parametrize('content', ['no json', '{}', '{"model_cfg": {"vision_cfg": 1, "text_cfg": {}}}',
                                     '{"model_cfg": {"vision_cfg": {}, "text_cfg": {}}, "semanom_wants": []}',
                                     '{"model_cfg": {"embed_dim": 8, "vision_cfg": {"colour": 1}, "text_cfg": {}}}'])
def test_broken_configuration(content, tmp_path, clip_folder):
    (tmp_path / 'open_clip_config.json').write_text(content)
    shutil.copy(clip_folder / 'open_clip_model.safetensors', tmp_path)
    with pytest.raises(EncoderError) as raised:
        load(tmp_path)
    assert len(str(raised.value).splitlines()) == 1


def test_unknown_model_names_near_ones():
    with pytest.raises(EncoderError, match="open_clip has no model 'ViT-B-61'; did you mean ViT-B-16"):
        load_encoder(EncoderSettings('open_clip:ViT-B-61', device='cpu'))


@pytest.mark.parametrize('input_size', [(0, 0), (48, 112)])
def test_whole_pictures_are_embedded_as_open_clip_does(input_size, clip_folder, library_clip, pictures, standardized):
    """Beside the patches, whatever their input size, with the same weights in memory once."""
    images = pictures(2, 64, 64)
    with torch.inference_mode():
        expected = F.normalize(library_clip(clip_folder).encode_image(standardized(images)), dim=-1)
    encoder = load(clip_folder, features='maskclip', input_size=input_size)
    assert encoder.picture_size == (64, 64)
    torch.testing.assert_close(encoder.encode_image(images), expected, **CLOSE)
    assert encoder._whole.proj is encoder._network.projection
    assert not isinstance(load(clip_folder), PictureEncoder)
