"""timm networks (DINOv2, DINOv3, EVA, Swin, ConvNeXt, ...) as encoders."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import PretrainedCfg, get_arch_pretrained_cfgs, load_state_dict, split_model_name_tag
from torch import nn

from semanom_ros.core.embedding import weights as weights_of
from semanom_ros.core.embedding.device import resolve_dtype
from semanom_ros.core.embedding.encoders.encoder import Encoder
from semanom_ros.core.embedding.encoders.network import (
    Colours,
    NetworkEncoder,
    Request,
    fit_input_size,
    fit_layer,
    nearest_names,
)
from semanom_ros.core.embedding.weights import HubFile, Library, Weights, reason
from semanom_ros.errors import EncoderError

WEIGHTS_FILES = ('model.safetensors', 'pytorch_model.bin')
CONFIG_FILE = 'config.json'

logging.getLogger('timm').setLevel(logging.WARNING)


def load(request: Request) -> Encoder:
    """The encoder `timm:MODEL` or `timm:MODEL.TAG`.

    Patch tokens of a block after the network's final norm, without class and register tokens: those of timm's
    `forward_features` for the last block, those of DINOv2's `get_intermediate_layers(norm=True)` for others.
    Convolutional and window networks give the feature map of a stage. Position embeddings are
    interpolated (bicubic, antialiased) once for the input size.

    Raises:
        EncoderError: unknown model, weights missing or of another model, or an input size that does not fit.
    """
    if request.features != 'tokens':
        raise EncoderError(f'encoder {request.name}: encoder_features {request.features} needs a CLIP model of '
                           'open_clip; use tokens')
    model, tag = _split(request.name, request.model)
    weights = find(request.name, request.model, request.weights)
    network = _build(request.name, model, tag or weights.tag, weights)
    config = _config(weights) or network.pretrained_cfg
    sha256 = weights.sha256(network.state_dict())
    features, size, layer = patch_features(request, network, config['input_size'][1:])
    return NetworkEncoder(
        request, features, weights=weights.label, sha256=sha256, settings={'features': 'tokens', 'layer': str(layer)},
        input_size=size, dtype=resolve_dtype(request.precision, request.device),
        colours=Colours(tuple(config['mean']), tuple(config['std'])))


def find(name: str, model: str, weights: str, folder: str = '') -> Weights:
    """See `weights.find`; the tag of the name and the parameter must not differ. No timm model is shipped in a folder.

    Raises:
        EncoderError: no such model or tag, two tags, or not on this machine.
    """
    architecture, tag = _split(name, model)
    tags = _tags(architecture)
    if tag and weights in tags and weights != tag:
        raise EncoderError(f'encoder {name}: encoder_weights {weights} differs from the tag in its name; leave one out')
    return weights_of.find(name, architecture, weights or tag, _library(architecture), default_tag(model), list(tags))


def default_tag(model: str) -> str:
    """The tag in a model's name, else the one that timm prefers; '' where it has none."""
    architecture, tag = split_model_name_tag(model)
    return tag or next(iter(_tags(architecture)), '')


def fetch(name: str, model: str, tag: str, root: Path) -> Path:
    """Fetches weights into the store at `root`; returns their folder, for `local-dir:`.

    Raises:
        EncoderError: no such model or tag, not reachable, wrong checksum.
    """
    architecture, named = _split(name, model)
    tag = tag or named or default_tag(model)
    tags = _tags(architecture)
    if tag not in tags:
        raise EncoderError(f'encoder {name}: no weights {tag!r} on the hub, expected {_one_of(tags)}')
    config = tags[tag]

    def finish(file: Path, folder: Path) -> None:
        described = {'architecture': architecture, 'pretrained_cfg': config.to_dict(remove_source=True)}
        (folder / CONFIG_FILE).write_text(json.dumps(described, indent=2) + '\n')
        weights_of.keep(file, folder / WEIGHTS_FILES[0], lambda: load_state_dict(str(file), weights_only=True))

    folder = weights_of.store_folder('timm', architecture, tag, root)
    weights_of.fetch(_library(architecture).hub_files(tag), folder, finish)
    return folder


def describe(model: str, folder: str = '') -> tuple[int, tuple[int, int]]:
    """(dimension, own input size) of a model, without its weights."""
    with torch.device('meta'):
        network: Any = timm.create_model(model, pretrained=False)
    return int(_feature_info(network)[-1]['num_chs']), tuple(network.pretrained_cfg['input_size'][1:])


def patch_features(request: Request, network: Any, own_size: Sequence[int]) -> tuple[nn.Module, tuple[int, int], int]:
    """Patch features of one layer of a timm network, as (B, rows, columns, D); the input size; the layer from 0."""
    info = _feature_info(network)
    layer = fit_layer(request.name, request.layer, len(info))
    stride = max(int(stage['reduction']) for stage in info)
    size = fit_input_size(request.name, request.input_size, (int(own_size[0]), int(own_size[1])), (stride, stride))
    if hasattr(network, 'set_input_size'):
        network.set_input_size(img_size=size)
    network.prune_intermediate_layers([layer], prune_norm=False, prune_head=True)
    return _Layer(network, layer), size, layer


class _Layer(nn.Module):
    """One layer of a timm network: (B, 3, H, W) -> (B, rows, columns, D)."""

    def __init__(self, network: Any, layer: int) -> None:
        super().__init__()
        self.network, self.layer = network, layer

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.network.forward_intermediates(images, indices=[self.layer], norm=True, stop_early=True,
                                                  output_fmt='NCHW', intermediates_only=True)
        return maps[0].permute(0, 2, 3, 1)


def _split(name: str, model: str) -> tuple[str, str]:
    """(architecture, tag) of a timm name, known ones only."""
    architecture, tag = split_model_name_tag(model)
    if not timm.is_model(architecture):
        near = nearest_names(architecture, timm.list_models())
        raise EncoderError(f'encoder {name}: timm has no model {architecture!r}{near}')
    if tag and tag not in _tags(architecture):
        raise EncoderError(f'encoder {name}: no weights {tag!r}, expected {_one_of(_tags(architecture))}')
    return architecture, tag


def _tags(architecture: str) -> dict[str, PretrainedCfg]:
    """The weights of an architecture that are on the hub, timm's preferred one first."""
    configs = get_arch_pretrained_cfgs(architecture).items()
    return {split_model_name_tag(name)[1]: config for name, config in configs if config.hf_hub_id}


def _one_of(tags: Iterable[str]) -> str:
    return f'one of {", ".join(tags)}' if tags else 'none, it has none'


def _library(architecture: str) -> Library:
    def hub_files(tag: str) -> list[HubFile]:
        config = _tags(architecture)[tag]
        names = (config.hf_hub_filename,) if config.hf_hub_filename else WEIGHTS_FILES
        return [HubFile(str(config.hf_hub_id), name) for name in names]
    return Library('timm', WEIGHTS_FILES, hub_files)


def _build(name: str, architecture: str, tag: str, weights: Weights) -> Any:
    model = f'{architecture}.{tag}' if tag else architecture
    if weights.file is None:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(weights.seed)
            return timm.create_model(model, pretrained=False)
    try:
        return timm.create_model(model, pretrained=True, pretrained_cfg_overlay={'file': str(weights.file)})
    except Exception as error:  # whatever a broken or foreign file makes the library raise
        raise EncoderError(f'encoder {name}: {weights.file} does not hold its weights ({reason(error)}); '
                           'give the file of this model') from error


def _config(weights: Weights) -> dict[str, Any] | None:
    """`pretrained_cfg` of a folder in timm's layout: it knows the colours better than the model's name."""
    path = weights.folder / CONFIG_FILE if weights.folder else None
    if path is None or not path.is_file():
        return None
    try:
        config = json.loads(path.read_text())['pretrained_cfg']
        return {key: config[key] for key in ('input_size', 'mean', 'std')}
    except (ValueError, KeyError, TypeError) as error:
        raise EncoderError(f'{path}: no pretrained_cfg with input_size, mean and std ({reason(error)}); '
                           'mend or remove it') from error


def _feature_info(network: Any) -> Sequence[dict[str, Any]]:
    info = network.feature_info
    return info if isinstance(info, list) else info.info
