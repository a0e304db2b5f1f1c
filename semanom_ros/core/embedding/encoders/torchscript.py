"""Any network as a TorchScript file."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from semanom_ros.core.embedding.device import resolve_dtype
from semanom_ros.core.embedding.encoders.encoder import Encoder
from semanom_ros.core.embedding.encoders.network import Colours, NetworkEncoder, Request, fit_input_size
from semanom_ros.core.embedding.weights import reason, sha256_of_file
from semanom_ros.errors import EncoderError

# A file does not tell its input size. This is a 16:9 camera picture, small enough for every frame.
DEFAULT_INPUT_SIZE = (360, 640)


def load(request: Request) -> Encoder:
    """The encoder `torchscript:FILE`: image (B, 3, H, W) RGB 0..1 -> feature map (B, D, rows, columns).

    Without an input size the pictures are 360x640. The arithmetic is fp32 unless another is asked for: a
    traced file may have its types written into it.

    Raises:
        EncoderError: no TorchScript file, or its output is no feature map.
    """
    path = Path(request.model).expanduser()
    if request.weights:
        raise EncoderError(f'encoder {request.name}: encoder_weights {request.weights!r}, but the file holds its own; '
                           'leave them empty')
    if request.features != 'tokens' or request.layer != -1:
        raise EncoderError(f'encoder {request.name}: a TorchScript file has only its output; expected encoder_features '
                           'tokens and encoder_layer -1')
    if not path.is_file():
        raise EncoderError(f'encoder {request.name}: file {path} does not exist; correct it')
    try:
        module = torch.jit.load(path, map_location=request.device)
    except (RuntimeError, ValueError) as error:
        raise EncoderError(f'encoder {request.name}: {path} is no TorchScript file ({reason(error)}); '
                           'write it with torch.jit.save') from error
    precision = 'fp32' if request.precision == 'auto' else request.precision
    return NetworkEncoder(
        request, _ChannelsLast(module), name=f'torchscript:{path.name}', weights=path.name, sha256=sha256_of_file(path),
        settings={}, input_size=fit_input_size(request.name, request.input_size, DEFAULT_INPUT_SIZE, (1, 1)),
        dtype=resolve_dtype(precision, request.device), colours=Colours())


class _ChannelsLast(nn.Module):
    """(B, D, rows, columns) -> (B, rows, columns, D)."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.module(images)
        return features.permute(0, 2, 3, 1) if isinstance(features, torch.Tensor) and features.ndim == 4 else features
