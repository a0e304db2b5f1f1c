"""Encoders: image batch to patch embeddings."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from semanom_ros.core.embedding.device import resolve_device
from semanom_ros.core.embedding.encoders.encoder import Encoder, TextAlignedEncoder
from semanom_ros.core.embedding.encoders.network import Request
from semanom_ros.errors import EncoderError

__all__ = ['LIBRARIES', 'TINY', 'TINY_FOLDER', 'Encoder', 'TextAlignedEncoder', 'folder_of', 'library_module',
           'load_encoder', 'split_name']

LIBRARIES = ('open_clip', 'timm', 'torchscript')
_PACKAGES = {'open_clip': 'open_clip_torch'}
TINY = 'semanom-tiny'
TINY_FOLDER = Path(__file__).parent / 'semanom_tiny'


def load_encoder(name: str, *, weights: str = '', input_size: tuple[int, int] = (0, 0), device: str = 'auto',
                 precision: str = 'auto', layer: int = -1, features: str = 'tokens') -> Encoder:
    """Loads an encoder from this machine; never uses the network.

    Args:
        name: `open_clip:MODEL`, `timm:MODEL`, `torchscript:/path/file.ts`, or the shipped `semanom-tiny`.
        weights: a pretrained tag, a file (.safetensors, .pt, .pth, .bin), `local-dir:FOLDER`, or `random:SEED`;
            '': what `semanom models fetch` fetched.
        input_size: (height, width) in pixels, a multiple of the patch size; (0, 0): the size that the model
            was trained with (TorchScript: 360x640).
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        precision: `auto` (bf16 on a GPU that has it, else fp32; TorchScript: fp32), `fp32`, `fp16` or `bf16`.
        layer: transformer block whose tokens are used; negative: from the end.
        features: `tokens`, or `maskclip` (see open_clip.load).

    Raises:
        EncoderError: unknown encoder, weights missing or unfit, or an input size that does not fit.
        ParameterError: no such device or precision.
    """
    library, model = split_name(name)
    return library_module(library).load(Request(
        name=name, model=model, weights=weights, input_size=input_size, device=resolve_device(device),
        precision=precision, layer=layer, features=features, folder=folder_of(name)))


def split_name(name: str) -> tuple[str, str]:
    """(library, model) of an encoder's name, e.g. `open_clip`, `ViT-B-16`.

    Raises:
        EncoderError: no such form.
    """
    if name == TINY:
        return 'open_clip', TINY
    library, _, model = name.partition(':')
    if library not in LIBRARIES or not model:
        raise EncoderError(f'encoder {name!r}: expected {TINY}, open_clip:MODEL, timm:MODEL or torchscript:FILE; '
                           'correct it')
    return library, model


def folder_of(name: str) -> str:
    """The folder that describes a shipped encoder, in the layout of `local-dir:`; '' for the others.

    Raises:
        EncoderError: this installation lacks it.
    """
    if name != TINY:
        return ''
    if not (TINY_FOLDER / 'open_clip_config.json').is_file():
        raise EncoderError(f'encoder {TINY}: not in this installation, looked in {TINY_FOLDER}; install semanom_ros '
                           'anew, or choose another encoder (`semanom models list`)')
    return str(TINY_FOLDER)


def library_module(library: str) -> ModuleType:
    """The module of this package for a library; imported when it is needed, because the libraries are slow to import.

    Raises:
        EncoderError: the library is not installed.
    """
    try:
        return importlib.import_module(f'{__name__}.{library}')
    except ImportError as error:
        package = _PACKAGES.get(library, library)
        raise EncoderError(f'encoders of {library}: {error}; `pip install {package}`, or see `semanom '
                           'doctor`') from error
