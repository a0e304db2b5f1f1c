"""Small models of the real libraries, with seeded weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

CLIP = {
    'embed_dim': 24,
    'vision_cfg': {'image_size': 64, 'patch_size': 16, 'layers': 3, 'width': 64, 'head_width': 32},
    'text_cfg': {'context_length': 16, 'vocab_size': 49408, 'width': 32, 'heads': 2, 'layers': 2},
}
COLOURS = {'mean': [0.4, 0.5, 0.6], 'std': [0.2, 0.25, 0.3]}

WriteClip = Callable[..., Path]


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The store of fetched models; no test sees those of the machine that it runs on."""
    monkeypatch.setenv('SEMANOM_MODELS', str(tmp_path / 'store'))
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path / 'hub'))
    return tmp_path / 'store'


@pytest.fixture(scope='session')
def write_clip() -> WriteClip:
    """Writes a CLIP model in open_clip's `local-dir:` layout; all its parameters are random: a skipped norm shows."""
    def write(folder: Path, vision: Any = None, text: Any = None, **model: Any) -> Path:
        folder.mkdir(parents=True)
        config = {**CLIP, **model, 'vision_cfg': {**CLIP['vision_cfg'], **(vision or {})},
                  'text_cfg': {**CLIP['text_cfg'], **(text or {})}}
        (folder / 'open_clip_config.json').write_text(json.dumps({'model_cfg': config, 'preprocess_cfg': COLOURS}))
        generator = torch.Generator().manual_seed(7)
        state = open_clip.create_model(f'local-dir:{folder}', load_weights=False).state_dict()
        noisy = {name: tensor + 0.1 * torch.randn(tensor.shape, generator=generator) for name, tensor in state.items()}
        save_file(noisy, folder / 'open_clip_model.safetensors')
        return folder
    return write


@pytest.fixture(scope='session')
def clip_folder(write_clip: WriteClip, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP model: 64x64 input, patches of 16, 3 blocks of width 64, texts of 24 dimensions."""
    return write_clip(tmp_path_factory.mktemp('models') / 'tiny-clip')


@pytest.fixture(scope='session')
def library_clip() -> Callable[..., Any]:
    """Loads a `local-dir:` model as open_clip itself does."""
    def load(folder: Path, **arguments: Any) -> Any:
        return open_clip.create_model(f'local-dir:{folder}', require_pretrained=True, **arguments).eval()
    return load


@pytest.fixture(scope='session')
def pictures() -> Callable[..., torch.Tensor]:
    """(count, 3, height, width) float32 pictures of smooth noise, 0..1."""
    def draw(count: int, height: int, width: int) -> torch.Tensor:
        coarse = torch.rand(count, 3, 6, 8, generator=torch.Generator().manual_seed(1))
        return F.interpolate(coarse, (height, width), mode='bicubic').clamp(0, 1)
    return draw


@pytest.fixture(scope='session')
def standardized() -> Callable[..., torch.Tensor]:
    """Images as a network gets them that was trained with these colours; the default ones are those of `write_clip`."""
    def standardize(images: torch.Tensor, mean: Any = COLOURS['mean'], std: Any = COLOURS['std']) -> torch.Tensor:
        return (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    return standardize
