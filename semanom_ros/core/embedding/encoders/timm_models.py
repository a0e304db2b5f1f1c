"""timm networks (DINOv2, DINOv3, EVA, Swin, ConvNeXt, ...) as encoders."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import PretrainedCfg, get_arch_pretrained_cfgs, load_state_dict, split_model_name_tag
from torch import nn

from semanom_ros.core.embedding import weight_store
from semanom_ros.core.embedding.device import resolve_dtype
from semanom_ros.core.embedding.encoders import checkpoint
from semanom_ros.core.embedding.encoders.encoder import Encoder
from semanom_ros.core.embedding.encoders.network import (
    Colours,
    NetworkEncoder,
    fit_input_size,
    fit_layer,
    nearest_names,
)
from semanom_ros.core.embedding.encoders.timm import CONFIG_FILE, LIBRARY, WEIGHTS_FILES
from semanom_ros.core.embedding.registry import model_of
from semanom_ros.core.embedding.weight_store import LOCAL_FOLDER, HubFile, Owner, Published, Weights, reason
from semanom_ros.errors import EncoderError
from semanom_ros.settings import EncoderSettings

logging.getLogger('timm').setLevel(logging.WARNING)


class TimmFamily:
    """See EncoderFamily: `timm:MODEL` or `timm:MODEL.TAG`; without its cards."""

    def load(self, settings: EncoderSettings, device: torch.device) -> Encoder:
        """See EncoderFamily.load.

        Patch tokens of a block after the network's final norm, without class and register tokens: those of timm's
        `forward_features` for the last block, those of DINOv2's `get_intermediate_layers(norm=True)` for others.
        Convolutional and window networks give the feature map of a stage. Position embeddings are
        interpolated (bicubic, antialiased) once for the input size.
        """
        if settings.features != 'tokens':
            raise EncoderError(f'encoder {settings.name}: encoder_features {settings.features} needs a CLIP model of '
                               'open_clip; use tokens')
        architecture, tag = _split(settings.name)
        weights = _find(settings.name, settings.weights)
        network = _build(settings.name, architecture, tag or weights.tag, weights)
        config = _config(weights) or network.pretrained_cfg
        sha256 = weights.sha256(network.state_dict())
        features, size, layer = patch_features(settings, network, config['input_size'][1:])
        return NetworkEncoder(
            settings, device, features, weights=weights.label, sha256=sha256, input_size=size,
            settings={'features': 'tokens', 'layer': str(layer)}, dtype=resolve_dtype(settings.precision, device),
            colours=Colours(tuple(config['mean']), tuple(config['std'])))

    def find(self, name: str, weights: str) -> Path | None:
        """See EncoderFamily.find."""
        return _find(name, weights).file

    def fetch(self, name: str, weights: str, store: Path) -> str:
        """See EncoderFamily.fetch."""
        architecture, named = _split(name)
        published = _published(architecture)
        tag = weights or named or published.default_tag
        tags = _tags(architecture)
        if tag not in tags:
            raise EncoderError(f'encoder {name}: no weights {tag!r} on the hub, expected {_one_of(tags)}')
        config = tags[tag]

        def finish(files: list[Path], folder: Path) -> None:
            described = {'architecture': architecture, 'num_features': describe(architecture)[0],
                         'pretrained_cfg': config.to_dict(remove_source=True)}
            (folder / CONFIG_FILE).write_text(json.dumps(described, indent=2) + '\n')
            weight_store.keep(
                files[0], folder / WEIGHTS_FILES[0], lambda: load_state_dict(str(files[0]), weights_only=True))

        folder = store / published.library / architecture / tag
        return LOCAL_FOLDER + str(weight_store.fetch(
            Owner('encoder', name), [published.candidates(tag)], folder, finish))


def describe(model: str) -> tuple[int, tuple[int, int]]:
    """(dimension, own input size) of a model, without its weights."""
    with torch.device('meta'):
        network: Any = timm.create_model(model, pretrained=False)
    return int(_feature_info(network)[-1]['num_chs']), tuple(network.pretrained_cfg['input_size'][1:])


def patch_features(asked: EncoderSettings, network: Any, own_size: Sequence[int]
                   ) -> tuple[nn.Module, tuple[int, int], int]:
    """Patch features of one layer of a timm network, as (B, rows, columns, D); the input size; the layer from 0."""
    info = _feature_info(network)
    layer = fit_layer(asked.name, asked.layer, len(info))
    stride = max(int(stage['reduction']) for stage in info)
    size = fit_input_size(asked.name, asked.input_size, (int(own_size[0]), int(own_size[1])), (stride, stride))
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


def _find(name: str, weights: str) -> Weights:
    """See `weight_store.find`; the tag of the name and the parameter must not differ.

    Raises:
        EncoderError: no such model or tag, two tags, or not on this machine.
    """
    architecture, tag = _split(name)
    published = _published(architecture)
    if tag and weights in published.tags and weights != tag:
        raise EncoderError(f'encoder {name}: encoder_weights {weights} differs from the tag in its name; leave one out')
    return weight_store.find(Owner('encoder', name), published, weights or tag)


def _split(name: str) -> tuple[str, str]:
    """(architecture, tag) of an encoder's name, known ones only."""
    architecture, tag = split_model_name_tag(model_of(name))
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


def _published(architecture: str) -> Published:
    tags = _tags(architecture)

    def candidates(tag: str) -> list[HubFile]:
        names = (tags[tag].hf_hub_filename,) if tags[tag].hf_hub_filename else WEIGHTS_FILES
        return [HubFile(str(tags[tag].hf_hub_id), str(name)) for name in names]
    return Published(LIBRARY, architecture, list(tags), next(iter(tags), ''), WEIGHTS_FILES, candidates)


def _build(name: str, architecture: str, tag: str, weights: Weights) -> Any:
    model = f'{architecture}.{tag}' if tag else architecture
    if weights.file is None:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(weights.seed)
            return timm.create_model(model, pretrained=False)
    network: Any
    try:
        network = timm.create_model(model, pretrained=True, pretrained_cfg_overlay={'file': str(weights.file)})
        checkpoint.check_values(network.state_dict())
        return network
    except Exception as error:  # whatever a broken or foreign file, or one of own training, makes the library raise
        logging.getLogger(__name__).debug('%s: not as timm writes it (%s)', weights.file, reason(error))
    network = timm.create_model(model, pretrained=False)
    classifier = network.pretrained_cfg.get('classifier') or ()
    heads = tuple(f'{head}.' for head in ((classifier,) if isinstance(classifier, str) else classifier))
    try:
        unwrapped = checkpoint.unwrap(checkpoint.read(weights.file), [
            key for key in network.state_dict() if not key.startswith(heads)])
        if convert := checkpoint.filter_of(network):
            with suppress(Exception):  # of another model: said below
                unwrapped = unwrapped._replace(state=dict(convert(unwrapped.state, network)))
        checkpoint.load(network, unwrapped, lambda name: name.startswith(heads))
    except EncoderError as error:
        raise EncoderError(f'encoder {name}: {weights.file} does not hold its weights: {error}') from error
    return network


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


FAMILY = TimmFamily()
