"""TorchScript files as encoders."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from semanom_ros.core.embedding.registry import load_encoder
from semanom_ros.errors import EncoderError
from semanom_ros.settings import EncoderSettings


class Stem(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(torch.cat([images, 1 - images, images * images], dim=1), 8)


class Pair(nn.Module):
    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return images, images


class Pooled(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=(2, 3))


def save(module: nn.Module, path: Path) -> Path:
    torch.jit.script(module).save(path)
    return path


def test_feature_map_with_its_channels_as_embedding(tmp_path, pictures):
    path = save(Stem(), tmp_path / 'stem.ts')
    encoder = load_encoder(EncoderSettings(f'torchscript:{path}', input_size=(40, 64), device='cpu'))
    images = pictures(3, 40, 64)
    embeddings = encoder.encode(images)
    assert (encoder.grid_size, encoder.dimension) == ((5, 8), 9)
    torch.testing.assert_close(embeddings, F.normalize(Stem()(images), dim=1).permute(0, 2, 3, 1))


def test_patches_without_features_have_length_1_too(tmp_path):
    path = save(nn.Sequential(nn.AvgPool2d(8), nn.Threshold(0.5, 0.0)), tmp_path / 'rectified.ts')
    encoder = load_encoder(EncoderSettings(f'torchscript:{path}', input_size=(16, 16), device='cpu'))
    images = torch.zeros(1, 3, 16, 16)
    images[..., 8:] = 0.9
    embeddings = encoder.encode(images)
    torch.testing.assert_close(embeddings.norm(dim=-1), torch.ones(1, 2, 2))


class Amplifier(nn.Module):
    """Means of patches, times a million, divided by how dark they are."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        means = F.avg_pool2d(images, 8) * 1e6
        darkness = 1 - F.avg_pool2d(images, 8).mean(dim=1, keepdim=True)
        return means * darkness / darkness


@pytest.mark.parametrize(('precision', 'brightness', 'finite'), [
    ('fp32', 0.5, True), ('fp32', 1.0, False), ('fp16', 0.5, False), ('bf16', 0.5, True)])
def test_what_a_network_overflows_in_gets_no_direction(tmp_path, precision, brightness, finite):
    """0 / 0 in any arithmetic, and infinity in half precision, whose largest number is 65504."""
    path = save(Amplifier(), tmp_path / 'amplifier.ts')
    encoder = load_encoder(EncoderSettings(f'torchscript:{path}', input_size=(16, 16), device='cpu',
                                           precision=precision))
    images = torch.zeros(1, 3, 16, 16)
    images[..., :8, 8:] = brightness
    embeddings = encoder.encode(images)[0]
    assert bool(embeddings[0, 1].isfinite().all()) == finite
    others = embeddings[[0, 1, 1], [0, 0, 1]]
    torch.testing.assert_close(others.norm(dim=-1), torch.ones(3))


def test_identity_is_the_file_and_not_where_it_lies(tmp_path):
    path = save(Stem(), tmp_path / 'stem.ts')
    (tmp_path / 'elsewhere').mkdir()
    copy = tmp_path / 'elsewhere' / 'stem.ts'
    copy.write_bytes(path.read_bytes())
    first, second = (load_encoder(EncoderSettings(f'torchscript:{file}', device='cpu')) for file in (path, copy))
    assert (first.name, first.weights_sha256) == (second.name, second.weights_sha256)
    assert first.weights_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert first.input_size == (360, 640)


def test_precision_is_full_unless_asked(tmp_path):
    path = save(Stem(), tmp_path / 'stem.ts')
    assert load_encoder(EncoderSettings(f'torchscript:{path}', device='cpu')).dtype == torch.float32
    assert load_encoder(EncoderSettings(f'torchscript:{path}', device='cpu', precision='bf16')).dtype == torch.bfloat16


@pytest.mark.parametrize(('module', 'found'), [(Pair(), 'tuple'), (Pooled(), r'\(1, 3\)')])
def test_output_that_is_no_feature_map(module, found, tmp_path):
    with pytest.raises(EncoderError, match=f'its output is {found}, expected a feature map'):
        load_encoder(EncoderSettings(f'torchscript:{save(module, tmp_path / "module.ts")}', device='cpu'))


@pytest.mark.parametrize(('arguments', 'message'), [
    ({'weights': 'random:0'}, 'the file holds its own'),
    ({'layer': 3}, 'expected encoder_features tokens and encoder_layer -1'),
    ({'features': 'maskclip'}, 'expected encoder_features tokens and encoder_layer -1'),
    ({'input_size': (0, 64)}, 'input_size'),
])
def test_what_a_file_does_not_have(arguments, message, tmp_path):
    with pytest.raises(EncoderError, match=message):
        load_encoder(EncoderSettings(f'torchscript:{save(Stem(), tmp_path / "stem.ts")}', device='cpu', **arguments))


def test_no_torchscript_file(tmp_path):
    with pytest.raises(EncoderError, match='does not exist'):
        load_encoder(EncoderSettings(f'torchscript:{tmp_path}/missing.ts', device='cpu'))
    (tmp_path / 'text.ts').write_text('hello')
    with pytest.raises(EncoderError, match='is no TorchScript file') as raised:
        load_encoder(EncoderSettings(f'torchscript:{tmp_path}/text.ts', device='cpu'))
    assert len(str(raised.value).splitlines()) == 1


def test_pretrained_network_on_a_real_picture_size(driving_data, pictures):
    path = driving_data / 'models' / 'deeplab_edgetpu_cityscapes_features.pt'
    encoder = load_encoder(EncoderSettings(f'torchscript:{path}', input_size=(360, 480), device='cpu'))
    assert (encoder.grid_size, encoder.dimension) == ((33, 43), 336)
    embeddings = encoder.encode(pictures(1, 360, 480))
    torch.testing.assert_close(embeddings.norm(dim=-1), torch.ones(1, 33, 43))
