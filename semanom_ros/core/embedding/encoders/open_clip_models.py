"""open_clip models as encoders."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.factory import load_state_dict, resize_pos_embed
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from torch import nn

from semanom_ros.core.embedding import weight_store
from semanom_ros.core.embedding.device import resolve_dtype
from semanom_ros.core.embedding.encoders import checkpoint
from semanom_ros.core.embedding.encoders import timm_models as timm_encoders
from semanom_ros.core.embedding.encoders.encoder import Encoder, PictureEncoder, TextAlignedEncoder
from semanom_ros.core.embedding.encoders.network import (
    Colours,
    NetworkEncoder,
    fit_input_size,
    fit_layer,
    nearest_names,
)
from semanom_ros.core.embedding.encoders.open_clip import CONFIG_FILE, LIBRARY, WEIGHTS_FILES
from semanom_ros.core.embedding.registry import model_of
from semanom_ros.core.embedding.weight_store import LOCAL_FOLDER, HubFile, Owner, Published, Weights, reason
from semanom_ros.errors import EncoderError
from semanom_ros.settings import EncoderSettings

WANTS = 'semanom_wants'  # of a configuration: what else than open_clip's own part it says
PREFERRED_TAG = 'openai'

# Stands in for a text tower of Hugging Face transformers, which the patches do not need.
_NO_TEXT = {'context_length': 1, 'vocab_size': 1, 'width': 1, 'heads': 1, 'layers': 1}


class OpenClipFamily:
    """See EncoderFamily: `open_clip:MODEL`; without its cards."""

    def load(self, settings: EncoderSettings, device: torch.device) -> Encoder:
        """See EncoderFamily.load, and `load_model`."""
        return load_model(settings, device, model_of(settings.name), _find(settings.name, settings.weights))

    def find(self, name: str, weights: str) -> Path | None:
        """See EncoderFamily.find."""
        return _find(name, weights).file

    def fetch(self, name: str, weights: str, store: Path) -> str:
        """See EncoderFamily.fetch."""
        model = model_of(name)
        published = _published(model)
        tag = weights or published.default_tag
        if not open_clip.is_pretrained_cfg(model, tag):
            near = nearest_names(model, open_clip.list_models())
            expected = f'expected one of {", ".join(published.tags)}' if published.tags else f'none are known{near}'
            raise EncoderError(f'encoder {name}: no weights {tag!r} on the hub, {expected}')
        pretrained = open_clip.get_pretrained_cfg(model, tag)

        def finish(files: list[Path], folder: Path) -> None:
            config = {'model_cfg': open_clip.get_model_config(model),
                      'preprocess_cfg': {'mean': pretrained['mean'], 'std': pretrained['std']}}
            if pretrained.get('quick_gelu'):
                config['model_cfg']['quick_gelu'] = True
            (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + '\n')
            weight_store.keep(
                files[0], folder / WEIGHTS_FILES[0], lambda: load_state_dict(str(files[0]), weights_only=True))

        return LOCAL_FOLDER + str(weight_store.fetch(
            Owner('encoder', name), [published.candidates(tag)], store / LIBRARY / model / tag, finish))


def load_model(asked: EncoderSettings, device: torch.device, model: str, weights: Weights,
               folder: Path | None = None) -> Encoder:
    """Loads a model of open_clip.

    `tokens` are the patch tokens of a block after the tower's final norm (for the last block: what open_clip's
    `output_tokens` gives). `maskclip` are the values of the last block, projected as the class token is: patches
    in the space of the texts (Zhou et al., Extract Free Dense Labels from CLIP, ECCV 2022; without the residual
    and the MLP of the block). Position embeddings are interpolated (bicubic, antialiased) once for the input size.

    Args:
        asked: for.
        device: where it computes.
        model: its name in open_clip's table.
        weights: found on this machine.
        folder: that describes the model, in the layout of `local-dir:`, where `weights` have none and the table does
            not.

    Raises:
        EncoderError: weights of another model, no vision transformer, or a layer, input size or kind of features that
            it does not have.
        ParameterError: no such precision.
    """
    blueprint = _blueprint(asked.name, model, weights, folder)
    network, has_text = _build(asked.name, weights, blueprint)
    sha256 = weights.sha256(network.visual.state_dict())
    tower = _tower(asked, network.visual)
    arguments: dict[str, Any] = {
        'weights': weights.label, 'sha256': sha256, 'input_size': tower.input_size, 'colours': blueprint.colours,
        'settings': {**tower.settings, 'activation': 'quick_gelu' if blueprint.quick_gelu else 'own'},
        'dtype': resolve_dtype(asked.precision, device)}
    encoder: NetworkEncoder
    if tower.projection is None or not has_text:
        encoder = NetworkEncoder(asked, device, tower.features, **arguments)
    else:
        arguments |= {'model': network, 'tokenizer': blueprint.tokenizer}
        if tower.whole is not None:
            encoder = MaskClipEncoder(asked, device, tower.features, **arguments, whole=tower.whole)
        else:
            encoder = ClipEncoder(asked, device, tower.features, **arguments, projection=tower.projection)
    encoder.wants_standardizing = blueprint.wants.get('standardizing', True)
    encoder.wants_calibration_by_place = blueprint.wants.get('calibration_by_place', True)
    return encoder


class ClipEncoder(NetworkEncoder, TextAlignedEncoder):
    """A CLIP vision transformer with its text tower.

    The text tower stays on the CPU in fp32: a vocabulary is embedded once, and a robot's GPU has no memory to spare.

    Args:
        model: the CLIP model whose vision tower `network` is made of.
        tokenizer: makes its tokenizer.
        projection: (D, T) from the patch embeddings to the texts; None where they are in one space.
        asked, device, network, arguments: see NetworkEncoder.
    """

    def __init__(self, asked: EncoderSettings, device: torch.device, network: nn.Module, *, model: Any,
                 tokenizer: Callable[[], Any], projection: torch.Tensor | None, **arguments: Any) -> None:
        super().__init__(asked, device, network, **arguments)
        self._model, self._tokenizer = model, tokenizer
        self._projection = None if projection is None else projection.detach().to(self.device, torch.float32)

    @torch.inference_mode()
    def encode_text(self, texts: list[str]) -> torch.Tensor:
        """See TextAlignedEncoder.encode_text."""
        return F.normalize(self._model.encode_text(self._tokenizer()(texts)), dim=-1).to(self.device)

    @torch.inference_mode()
    def project_to_text(self, embeddings: torch.Tensor) -> torch.Tensor:
        """See TextAlignedEncoder.project_to_text."""
        # The projection is linear: that the embeddings have length 1 does not change where they point.
        return F.normalize(embeddings if self._projection is None else embeddings @ self._projection, dim=-1)


class MaskClipEncoder(ClipEncoder, PictureEncoder):
    """A CLIP vision transformer whose patches, whole pictures and texts are in one space.

    Args:
        whole: the vision tower, images (B, 3, H, W) -> (B, T).
        asked, device, network, arguments: see ClipEncoder.
    """

    def __init__(self, asked: EncoderSettings, device: torch.device, network: nn.Module, *, whole: VisionTransformer,
                 **arguments: Any) -> None:
        super().__init__(asked, device, network, projection=None, **arguments)
        self._whole = whole.eval().requires_grad_(False).to(self.device, self.dtype)
        self.picture_size = (int(whole.image_size[0]), int(whole.image_size[1]))

    @torch.inference_mode()
    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        """See PictureEncoder.encode_image."""
        pooled = self._whole(((images - self._mean) / self._std).to(self.dtype))
        return F.normalize((pooled[0] if isinstance(pooled, tuple) else pooled).float(), dim=-1)


@dataclass(frozen=True)
class _Blueprint:
    """How a model is built: its architecture, and what its weights were trained with.

    Attributes:
        source: name for open_clip's factories: a model of its table, or `local-dir:FOLDER`.
        config: `model_cfg`.
        folder: that describes it, None for a model of the table.
        colours: of its training.
        quick_gelu: whether it was trained with QuickGELU.
        wants: what its folder says of `standardizing` and `calibration_by_place`, see Encoder.
    """

    source: str
    config: dict[str, Any]
    folder: Path | None
    colours: Colours
    quick_gelu: bool
    wants: dict[str, bool]

    @property
    def foreign_text(self) -> bool:
        """The text tower is one of Hugging Face transformers."""
        return 'hf_model_name' in self.config['text_cfg']

    @property
    def has_text(self) -> bool:
        """Texts can be embedded without anything that is not on this machine."""
        if self.foreign_text:
            return False
        in_folder = self.folder is not None and any(self.folder.glob('tokenizer*'))
        return in_folder or not self.config['text_cfg'].get('hf_tokenizer_name')

    def tokenizer(self) -> Any:
        """The model's tokenizer; a `bpe_path` in a folder's configuration is relative to the folder."""
        bpe_path = (self.config['text_cfg'].get('tokenizer_kwargs') or {}).get('bpe_path')
        with _quiet():
            return open_clip.get_tokenizer(
                self.source, **({'bpe_path': str(self.folder / bpe_path)} if bpe_path and self.folder else {}))


def _blueprint(name: str, model: str, weights: Weights, folder: Path | None) -> _Blueprint:
    folder = weights.folder or folder
    wants: dict[str, bool] = {}
    if folder:
        described = read_config(name, folder)
        config, trained, source = described['model_cfg'], described.get('preprocess_cfg', {}), f'{LOCAL_FOLDER}{folder}'
        wants = described.get(WANTS, {})
    else:
        # A bare file does not say how it was trained; most weights of a model agree on the colours.
        tag = weights.tag or _published(model).default_tag
        config, trained, source = open_clip.get_model_config(model), open_clip.get_pretrained_cfg(model, tag), model
    colours = Colours(tuple(trained.get('mean', OPENAI_DATASET_MEAN)), tuple(trained.get('std', OPENAI_DATASET_STD)))
    # The tag decides, not the name: OpenAI's weights with the plain GELU give plausible, wrong embeddings.
    quick_gelu = config.get('quick_gelu', False) or bool(weights.tag and not folder and trained.get('quick_gelu'))
    return _Blueprint(source, config, folder, colours, quick_gelu, wants)


def read_config(name: str, folder: Path) -> dict[str, Any]:
    """What a folder in the layout of `local-dir:` says of its model: `model_cfg`, `preprocess_cfg`, `semanom_wants`.

    Raises:
        EncoderError: missing, or not such a description.
    """
    path = folder / CONFIG_FILE
    try:
        config = json.loads(path.read_text())
        parts = config['model_cfg']['vision_cfg'], config['model_cfg']['text_cfg'], config.get(WANTS, {})
        if all(isinstance(part, dict) for part in parts):
            return config
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EncoderError(f'encoder {name}: {path} is missing or no open_clip configuration ({reason(error)}); '
                           'expected model_cfg with vision_cfg and text_cfg') from error
    raise EncoderError(f'encoder {name}: {path}: vision_cfg, text_cfg or {WANTS} is no mapping; give an open_clip '
                       'configuration')


def _build(name: str, weights: Weights, blueprint: _Blueprint) -> tuple[Any, bool]:
    """The whole model on the CPU in fp32, and whether it embeds texts."""
    has_text = blueprint.has_text
    overrides = {'text_cfg': _NO_TEXT} if blueprint.foreign_text else {}
    try:
        with _quiet(), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(weights.seed)
            model = open_clip.create_model(blueprint.source, load_weights=False, pretrained_text=False,
                                           force_quick_gelu=blueprint.quick_gelu, **overrides)
    except Exception as error:  # whatever a wrong configuration makes the library raise
        raise EncoderError(f'encoder {name}: open_clip cannot build it ({reason(error)}); '
                           'choose another model') from error
    if weights.file is not None:
        has_text &= _load(name, model, weights.file, blueprint)
    return model.eval(), has_text


def _load(name: str, model: Any, file: Path, blueprint: _Blueprint) -> bool:
    """Loads weights into a whole model; position embeddings of another size are resampled, as open_clip does.

    Returns whether its text tower has weights, too: those of one's own training may be of the vision tower alone.
    """
    if not blueprint.foreign_text:
        try:
            with _quiet():
                open_clip.load_checkpoint(model, str(file), strict=True, weights_only=True)
                checkpoint.check_values(model.visual.state_dict())
                return True
        except Exception as error:  # whatever a broken or foreign file, or one of own training, makes the library raise
            logging.getLogger(__name__).debug('%s: not as open_clip writes it (%s)', file, reason(error))
    try:
        content = checkpoint.read(file)
        seen, own = model.visual.state_dict(), model.state_dict()
        whole, alone = checkpoint.unwrap(content, own), checkpoint.unwrap(content, seen)
        if len(seen.keys() & alone.state.keys()) > sum(f'visual.{key}' in whole.state for key in seen):
            whole = alone._replace(state={f'visual.{key}': tensor for key, tensor in alone.state.items()})
        with suppress(Exception), _quiet():  # of another model: said below
            resize_pos_embed(whole.state, model)
        checkpoint.load(model, whole, lambda key: not key.startswith('visual.'))
        return all(key in whole.state or key.startswith(('visual.', 'logit_')) for key in own)
    except EncoderError as error:
        raise EncoderError(f'encoder {name}: {file} does not hold its weights: {error}') from error


@dataclass(frozen=True)
class _Tower:
    """A vision tower made ready for patch features.

    Attributes:
        features: standardized images (B, 3, H, W) -> (B, rows, columns, D).
        input_size: (height, width), pixels.
        settings: what of the asked ones changes the embeddings.
        projection: (width, T) from tokens to the space of the texts; None where no linear one exists.
        whole: the tower as it was, with the same weights, where the patches are in the space of its output.
    """

    features: nn.Module
    input_size: tuple[int, int]
    settings: dict[str, str]
    projection: torch.Tensor | None = None
    whole: VisionTransformer | None = None


class _Tokens(nn.Module):
    """Patch tokens of one block of open_clip's vision transformer, after the final norm."""

    def __init__(self, visual: VisionTransformer, layer: int) -> None:
        super().__init__()
        visual.transformer.prune_intermediate_layers([layer])
        self.visual, self.layer = visual, layer
        # An attentional pooler norms the tokens itself; ln_post then belongs to what it pools.
        self.norm = visual.ln_post if visual.attn_pool is None else visual.attn_pool.ln_k

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.visual.forward_intermediates(
            images, indices=[self.layer], stop_early=True, intermediates_only=True, output_fmt='NLC')
        return self.norm(maps['image_intermediates'][0]).unflatten(1, self.visual.grid_size)


class _Values(nn.Module):
    """Values of the last block (MaskCLIP), projected into the space of the texts."""

    def __init__(self, visual: VisionTransformer) -> None:
        super().__init__()
        blocks = visual.transformer.resblocks
        blocks[-1] = _ValuePath(blocks[-1])
        self.tokens, self.projection = _Tokens(visual, len(blocks) - 1), visual.proj

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.tokens(images) @ self.projection


class _ValuePath(nn.Module):
    """A transformer block in which every token attends to itself alone, without residual and MLP."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.ln_1, self.attn, self.ls_1 = block.ln_1, block.attn, block.ls_1

    def forward(self, tokens: torch.Tensor, attn_mask: torch.Tensor | None = None) -> torch.Tensor:
        width = self.attn.embed_dim
        values = F.linear(self.ln_1(tokens), self.attn.in_proj_weight[-width:], self.attn.in_proj_bias[-width:])
        return self.ls_1(self.attn.out_proj(values))


def _tower(asked: EncoderSettings, visual: nn.Module) -> _Tower:
    maskclip = asked.features == 'maskclip'
    if isinstance(visual, TimmModel):
        if maskclip:
            raise EncoderError(f'encoder {asked.name}: encoder_features maskclip needs a vision transformer of '
                               'open_clip, this one is of timm; use tokens')
        projection = _linear_head(visual) if asked.layer == -1 else None
        features, size, layer = timm_encoders.patch_features(asked, visual.trunk, visual.image_size)
        return _Tower(features, size, {'features': 'tokens', 'layer': str(layer)}, projection)
    if not isinstance(visual, VisionTransformer):
        raise EncoderError(f'encoder {asked.name}: its vision tower is a {type(visual).__name__}, expected a vision '
                           'transformer; choose another model')
    blocks = visual.transformer.resblocks
    layer = fit_layer(asked.name, asked.layer, len(blocks))
    size = fit_input_size(asked.name, asked.input_size, visual.image_size, visual.patch_size)
    whole = copy.deepcopy(visual, {id(weights): weights for weights in visual.parameters()}) if maskclip else None
    _interpolate_positions(visual, size)
    settings = {'features': asked.features, 'layer': str(layer)}
    projection = visual.proj if visual.attn_pool is None else None
    if not maskclip:
        return _Tower(_Tokens(visual, layer), size, settings, projection)
    if layer != len(blocks) - 1:
        raise EncoderError(f'encoder {asked.name}: encoder_layer {asked.layer} with encoder_features maskclip, '
                           'which are made of the last block; expected -1')
    if projection is None or not isinstance(blocks[-1].attn, nn.MultiheadAttention):
        raise EncoderError(f'encoder {asked.name}: encoder_features maskclip need the pooling and attention of CLIP, '
                           'which it lacks; use tokens')
    return _Tower(_Values(visual), size, settings, projection, whole)


def _linear_head(visual: TimmModel) -> torch.Tensor | None:
    """(D, T) projection of a timm tower that has nothing else between its normed tokens and the texts."""
    pooling = getattr(visual.trunk, 'attn_pool', None), getattr(visual.trunk, 'fc_norm', None)
    if not hasattr(visual.trunk, 'norm') or any(not isinstance(layer, nn.Identity | None) for layer in pooling):
        return None
    layers = [layer for layer in visual.head if not isinstance(layer, nn.Dropout)]
    if len(layers) == 1 and isinstance(layers[0], nn.Linear) and layers[0].bias is None:
        return layers[0].weight.T
    return None


def _interpolate_positions(visual: VisionTransformer, size: tuple[int, int]) -> None:
    """Brings the position embeddings to the grid of an input size, as open_clip does when it loads weights."""
    old, new = visual.grid_size, (size[0] // visual.patch_size[0], size[1] // visual.patch_size[1])
    if new != old:
        with torch.no_grad():
            prefix, patches = visual.positional_embedding[:1], visual.positional_embedding[1:]
            patches = patches.unflatten(0, old).permute(2, 0, 1)[None]
            patches = F.interpolate(patches, new, mode='bicubic', antialias=True, align_corners=False)
            visual.positional_embedding = nn.Parameter(torch.cat([prefix, patches[0].permute(1, 2, 0).flatten(0, 1)]))
    visual.image_size, visual.grid_size = size, new


def _find(name: str, weights: str) -> Weights:
    """See `weight_store.find`.

    Raises:
        EncoderError: no such model or tag, or not on this machine.
    """
    model = model_of(name)
    if not weights.startswith(LOCAL_FOLDER) and model not in open_clip.list_models():
        near = nearest_names(model, open_clip.list_models())
        raise EncoderError(f'encoder {name}: open_clip has no model {model!r}{near}')
    return weight_store.find(Owner('encoder', name), _published(model), weights)


def _published(model: str) -> Published:
    tags = open_clip.list_pretrained_tags_by_model(model)

    def candidates(tag: str) -> list[HubFile]:
        # open_clip writes `organization/repository/` or `organization/repository/file`.
        repository, _, name = open_clip.get_pretrained_cfg(model, tag)['hf_hub'].rpartition('/')
        names = WEIGHTS_FILES if not name else (str(Path(name).with_suffix('.safetensors')), name)
        return [HubFile(repository, name) for name in dict.fromkeys(names)]
    default_tag = PREFERRED_TAG if PREFERRED_TAG in tags else next(iter(tags), '')
    return Published(LIBRARY, model, tags, default_tag, WEIGHTS_FILES, candidates)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps open_clip, which logs on the root logger, from telling a robot's log about every step."""
    def foreign(record: logging.LogRecord) -> bool:
        return record.module not in ('factory', 'tokenizer') or Path(record.pathname).parent.name != 'open_clip'
    root = logging.getLogger()
    root.addFilter(foreign)
    try:
        yield
    finally:
        root.removeFilter(foreign)


FAMILY = OpenClipFamily()
