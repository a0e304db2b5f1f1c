"""Weights as training programs leave them: wrapped, with heads and optimizers beside, or of another model."""

from __future__ import annotations

import argparse
import collections
import itertools
import pathlib
import pickle
import re
import sys
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file

from semanom_ros.core.embedding.weight_store import reason
from semanom_ros.errors import EncoderError, git_lfs_pointer

State = Mapping[str, torch.Tensor]

# What wraps modules in the middle of names: torch.compile, FSDP, activation checkpointing.
_WITHIN = re.compile(r'_orig_mod\.|_fsdp_wrapped_module\.|_checkpoint_wrapped_module\.')
_CHUNK = re.compile(r'\bblocks\.\d+\.(?=\d+\.)')  # DINOv2's training keeps blocks in chunks
_AVERAGED = re.compile(r'teacher|ema', re.IGNORECASE)  # what was trained to be used, where both are there
_DEPTH = 4  # of the dictionaries in a file
_LONGEST = 500  # characters of a weight's name
_NAMED = 3  # examples in a message
_TRANSFORMERS = ('embeddings.patch_embeddings.', 'attention.attention.query.', 'embeddings.patch_embedding.')
_LIKELY = 12  # models that are compared with a file of another one
_REBUILD: list[Any] = [np.float64(0).__reduce__()[0], np.zeros(0).__reduce__()[0]]  # scalar, _reconstruct
_PLAIN: list[Any] = [
    argparse.Namespace, pathlib.PosixPath, collections.defaultdict, dict, np.dtype, np.ndarray,
    *{type(np.dtype(kind)) for kind in ('f2', 'f4', 'f8', 'i4', 'i8', 'u4', 'u1', '?')},
    # A figure that NumPy computed, such as the best accuracy, under the names of NumPy 1 and of NumPy 2.
    *((rebuild, f'numpy.{core}.multiarray.{rebuild.__name__}') for core in ('core', '_core') for rebuild in _REBUILD)]
"""Types that training programs keep beside the weights, and that hold values and do nothing."""


class Unwrapped(NamedTuple):
    """Weights out of a file.

    Attributes:
        state: by the names of the model, as far as they are its.
        found: the same as they are in the file; a library may convert `state`.
        where: what they lay under, for people, e.g. `teacher.backbone.`.
    """

    state: dict[str, torch.Tensor]
    found: State
    where: str


def read(path: Path) -> Any:
    """What a file of weights holds, on the CPU; code in it is not run.

    Raises:
        EncoderError: one line, without the file's name.
    """
    if git_lfs_pointer(path):
        raise EncoderError('it is the pointer of a file that Git LFS keeps elsewhere; get that with git lfs pull')
    with open(path, 'rb') as file:
        begin = file.read(200).lstrip()
    if begin.startswith(b'<'):
        raise EncoderError('it is a page of the web, perhaps one that asks to sign in; fetch the file anew')
    try:
        if path.suffix.lower() == '.safetensors':
            return load_file(path)
        torch.serialization.add_safe_globals(_PLAIN)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of TorchScript: said below
            return torch.load(path, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r'GLOBAL ([\w.]+)', str(error))
        what = f'the class {found.group(1)} of its training program' if found else 'more than weights'
        raise EncoderError(f'it needs {what}, and code from a file is not run; save the weights alone where you trust '
                           "it: torch.save(torch.load(FILE, weights_only=False)['state_dict'], 'weights.pt'), of a "
                           'whole network its .state_dict()') from error
    except Exception as error:  # whatever a broken file makes the libraries raise
        if 'TorchScript' in str(error):
            raise EncoderError('it is TorchScript, a network with its code; where you trust it, set encoder to '
                               f'torchscript:{path}, and no encoder_weights') from error
        raise EncoderError(f'{reason(error)}; give another file') from error


def unwrap(content: Any, wanted: Collection[str]) -> Unwrapped:
    """The weights in a file whose names fit a model best, without what they are wrapped in.

    Known are `state_dict`, `model`, `teacher` and what else dictionaries are called (DINO, DINOv2, Lightning, timm,
    MMPretrain, ...), and any prefix (`module.`, `backbone.`, `encoder.`, `visual.`, ...). Of several that fit alike, a
    teacher or a moving average is taken.

    Args:
        content: of the file.
        wanted: names of the model's weights.
    """
    names, best, rank = set(wanted), Unwrapped({}, {}, ''), (-1, 0, 0)
    for path, tensors in _dictionaries(content, set()):
        renamed = {_CHUNK.sub('blocks.', _WITHIN.sub('', name)): tensor for name, tensor in tensors.items()}
        votes: collections.Counter[str] = collections.Counter({'': 0})
        for name in renamed:
            starts = (0, *(match.end() for match in re.finditer(r'\.', name)))
            votes.update(name[:start] for start in starts if name[start:] in names)
        for prefix, count in votes.items():
            where = '.'.join((*path, prefix)) if path else prefix
            this = count, 1 if _AVERAGED.search(where) else 0, -len(path)
            if this > rank:
                rank = this
                state = {name[len(prefix):]: tensor for name, tensor in renamed.items() if name.startswith(prefix)}
                best = Unwrapped(state, dict(state), where)
    return best


def _dictionaries(content: Any, seen: set[int], path: tuple[str, ...] = ()
                  ) -> Iterator[tuple[tuple[str, ...], dict[str, torch.Tensor]]]:
    """The dictionaries in a file that hold tensors, each with the way to it, and once: it may lie in many others."""
    if not isinstance(content, Mapping) or len(path) > _DEPTH or id(content) in seen:
        return
    seen.add(id(content))
    tensors = {name: value for name, value in content.items()
               if isinstance(name, str) and len(name) <= _LONGEST and isinstance(value, torch.Tensor)}
    if tensors:
        yield path, tensors
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _dictionaries(value, seen, (*path, str(name)[:_LONGEST]))


def load(network: torch.nn.Module, unwrapped: Unwrapped, optional: Callable[[str], object]) -> None:
    """Loads unwrapped weights; what the file has beside them is left out.

    Args:
        network: on the CPU.
        unwrapped: by its names.
        optional: says of a name whether the network is complete without it.

    Raises:
        EncoderError: some are missing or of another shape; one line, without the file's name.
    """
    own, state = network.state_dict(), unwrapped.state
    missing = [name for name in own if name not in state and not optional(name)]
    other = [name for name in own if name in state and state[name].shape != own[name].shape and not optional(name)]
    if missing or other:
        where = f' under {unwrapped.where}' if unwrapped.where else ''
        said = [f'found {len(unwrapped.found)} tensors{where} such as {_some(unwrapped.found) or "none"}']
        if missing:
            said.append(f'missing {len(missing)} of {len(own)} such as {_some(missing)}')
        if other:
            name = other[0]
            said.append(f'{len(other)} of another shape such as {name}, found {tuple(state[name].shape)}, expected '
                        f'{tuple(own[name].shape)}')
        model = fitting(unwrapped.found)
        if any(mark in name for name in unwrapped.found for mark in _TRANSFORMERS):
            remedy = 'it is in the layout of Hugging Face transformers: give the file that timm or open_clip has of it'
        else:
            remedy = f'it fits {model}: set encoder to that' if model else 'give the file of this model'
        raise EncoderError('; '.join((*said, remedy)))
    fits = {name: state[name] for name in own if name in state and state[name].shape == own[name].shape}
    check_values(fits)
    network.load_state_dict(fits, strict=False)


def check_values(state: State) -> None:
    """Refuses weights that are no numbers a network computes with.

    Raises:
        EncoderError: one line, without the file's name.
    """
    for name, tensor in state.items():
        counts = name.endswith(('num_batches_tracked', 'relative_position_index', 'position_ids'))
        if not (tensor.is_floating_point() or counts):
            raise EncoderError(f'found {name} of type {str(tensor.dtype).removeprefix("torch.")}, expected floating '
                               'point; give weights that are not quantized')
        if not (counts or torch.isfinite(tensor).all()):
            raise EncoderError(f'found NaN or infinity in {name}, expected finite numbers; give the file of a training '
                               'that did not diverge')


def _some(names: Collection[str]) -> str:
    return ', '.join(itertools.islice(names, _NAMED))


def fitting(state: State) -> str:
    """The encoder whose vision transformer has these shapes; '' where none is known."""
    for name, tensor in state.items():
        if name.endswith('patch_embed.proj.weight') and tensor.ndim == 4:
            return _timm_fitting(state, name.removesuffix('patch_embed.proj.weight'), tensor)
        if name.endswith('conv1.weight') and tensor.ndim == 4 and any('resblocks.' in other for other in state):
            return _clip_fitting(state, tensor)
    return ''


def _timm_fitting(state: State, prefix: str, patches: torch.Tensor) -> str:
    import timm

    width, _, side, _ = patches.shape
    shapes = {name[len(prefix):]: tensor.shape for name, tensor in state.items() if name.startswith(prefix)}
    sizes = {192: 'tiny', 384: 'small', 768: 'base', 1024: 'large', 1280: 'huge', 1536: 'giant'}
    likely = timm.list_models(f'vit_{sizes[width]}_patch{side}*') if width in sizes else []
    likely.sort(key=lambda name: (not any(known in name for known in ('dinov2', 'dinov3')), len(name)))
    ranked: list[tuple[int, int, str]] = []
    for name in likely[:_LIKELY]:
        with torch.device('meta'):
            network = timm.create_model(name, pretrained=False, num_classes=0)
        convert = filter_of(network)
        try:
            own = {key: tensor.shape for key, tensor in network.state_dict().items() if 'pos_embed' not in key}
            found = shapes if convert is None else {
                key: tensor.shape for key, tensor in convert(
                    {key: torch.empty(shape, device='meta') for key, shape in shapes.items()}, network).items()}
        except Exception:  # whatever the shapes of another model make the library raise
            continue
        if all(found.get(key) == shape for key, shape in own.items()):
            ranked.append((len(found.keys() - own.keys()), len(ranked), name))
    return f'timm:{min(ranked)[2]}' if ranked else ''


def _clip_fitting(state: State, patches: torch.Tensor) -> str:
    import open_clip

    width, _, side, _ = patches.shape
    blocks = {int(match.group(1)) for name in state
              if not name.startswith('transformer.') and (match := re.search(r'resblocks\.(\d+)\.', name))}
    for name in sorted(open_clip.list_models(), key=len):
        vision = (open_clip.get_model_config(name) or {}).get('vision_cfg', {})
        if (vision.get('width'), vision.get('patch_size'), vision.get('layers')) == (width, side, len(blocks)):
            return f'open_clip:{name}'
    return ''


def filter_of(network: torch.nn.Module) -> Callable[..., Any] | None:
    """What brings weights of others to a timm network's names and sizes; position embeddings are resampled there."""
    return getattr(sys.modules[type(network).__module__], 'checkpoint_filter_fn', None)
