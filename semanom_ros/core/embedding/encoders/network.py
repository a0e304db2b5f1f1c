"""What every encoder that is a PyTorch network shares."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from semanom_ros.core.embedding.encoders.encoder import Encoder
from semanom_ros.core.embedding.weight_store import reason
from semanom_ros.errors import EncoderError
from semanom_ros.settings import EncoderSettings


@dataclass(frozen=True)
class Colours:
    """Mean and standard deviation of each channel (RGB, 0..1) that a network was trained with."""

    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)

    @property
    def settings(self) -> dict[str, str]:
        """For `Encoder.settings`."""
        return {'mean': ' '.join(f'{v:.6g}' for v in self.mean), 'std': ' '.join(f'{v:.6g}' for v in self.std)}


class NetworkEncoder(Encoder):
    """A PyTorch network as an encoder: colours, arithmetic, checks, unit length.

    Args:
        asked: what was asked for.
        device: where it computes.
        network: standardized images (B, 3, H, W) of dtype -> features (B, rows, columns, D).
        name, weights, sha256, settings: see Encoder.
        input_size: (height, width), pixels.
        dtype: arithmetic of the network.
        colours: what it was trained with.

    Raises:
        EncoderError: the network does not run at this size, on this device, in this arithmetic.
    """

    def __init__(self, asked: EncoderSettings, device: torch.device, network: nn.Module, *, weights: str, sha256: str,
                 settings: dict[str, str], input_size: tuple[int, int], dtype: torch.dtype, colours: Colours,
                 name: str = '') -> None:
        self.name = name or asked.name
        self.weights = weights
        self.weights_sha256 = sha256
        self.settings = {**settings, **colours.settings}
        self.input_size = input_size
        self.device, self.dtype = device, dtype
        try:
            self._network = network.eval().requires_grad_(False).to(self.device, self.dtype)
            self._mean = torch.tensor(colours.mean, device=self.device).view(1, 3, 1, 1)
            self._std = torch.tensor(colours.std, device=self.device).view(1, 3, 1, 1)
            # The network itself says what it makes of this size; nothing is read off its name.
            features = self._features(torch.zeros(1, 3, *input_size, device=self.device))
        except (RuntimeError, NotImplementedError, AssertionError, ValueError, TypeError) as error:
            raise EncoderError(
                f'encoder {self.name}: does not run at {input_size[0]}x{input_size[1]} on {self.device} in '
                f'{str(dtype).removeprefix("torch.")} ({reason(error)}); choose another input_size, device or '
                'precision') from error
        if not torch.isfinite(features).all():
            raise EncoderError(f'encoder {self.name}: overflows in {str(dtype).removeprefix("torch.")}; '
                               'choose precision bf16 or fp32')
        self.grid_size = (features.shape[1], features.shape[2])
        self.dimension = features.shape[3]

    @torch.inference_mode()
    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """See Encoder.encode."""
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, *self.input_size):
            raise EncoderError(f'encoder {self.name}: found images of shape {tuple(images.shape)}, '
                               f'expected (B, 3, {self.input_size[0]}, {self.input_size[1]})')
        return unit_length(self._features(images))

    @property
    def module(self) -> nn.Module:
        """What backends make engines of: images as `encode` takes them -> features before they get length 1."""
        return _Whole(self._network, self._mean, self._std, self.dtype)

    @torch.inference_mode()
    def _features(self, images: torch.Tensor) -> torch.Tensor:
        """(B, rows, columns, D) float32, before they are brought to length 1."""
        features = self._network(((images - self._mean) / self._std).to(self.dtype))
        if not isinstance(features, torch.Tensor) or features.ndim != 4:
            found = tuple(features.shape) if isinstance(features, torch.Tensor) else type(features).__name__
            raise EncoderError(f'encoder {self.name}: its output is {found}, expected a feature map of 4 dimensions')
        return features.float()


def unit_length(features: torch.Tensor) -> torch.Tensor:
    """Features (B, rows, columns, D) float32 as embeddings."""
    length = features.norm(dim=-1, keepdim=True)
    # Rectified features can all be zero somewhere: such patches resemble each other, and nothing else much.
    # Where the length is NaN or infinite so is the embedding: no direction is made up for it.
    unit = torch.where(length == 0, features.shape[-1] ** -0.5, features / length)
    return torch.where(length.isfinite(), unit, torch.nan)


class _Whole(nn.Module):
    """A network behind its colours: images (B, 3, H, W) float32, 0..1 -> features (B, rows, columns, D) float32."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, network: nn.Module, mean: torch.Tensor, std: torch.Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self._dtype = network, dtype
        self.register_buffer('mean', mean)
        self.register_buffer('std', std)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(((images - self.mean) / self.std).to(self._dtype)).float()


class ChannelsLast(nn.Module):
    """A network that gives (B, D, rows, columns), with its output as (B, rows, columns, D)."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Features of images (B, 3, H, W); what is no feature map is passed on."""
        features = self.module(images)
        return features.permute(0, 2, 3, 1) if isinstance(features, torch.Tensor) and features.ndim == 4 else features


def fit_input_size(name: str, asked: tuple[int, int], own: tuple[int, int], patch: tuple[int, int]) -> tuple[int, int]:
    """(height, width) in pixels that an encoder gets; (0, 0) asks for its own, cut to whole patches.

    Raises:
        EncoderError: not a multiple of the patch size; says which sizes are near.
    """
    if asked == (0, 0):
        return own[0] // patch[0] * patch[0], own[1] // patch[1] * patch[1]
    fits = [size > 0 and size % multiple == 0 for size, multiple in zip(asked, patch, strict=True)]
    if not all(fits):
        near = ', '.join(f'{side} {_near(size, multiple)}' for side, size, multiple, fit
                         in zip(('height', 'width'), asked, patch, fits, strict=True) if not fit)
        raise EncoderError(f'encoder {name}: input_size {list(asked)} is no multiple of the patch size {list(patch)}; '
                           f'nearest: {near}')
    return asked


def _near(size: int, patch: int) -> str:
    below = size // patch * patch
    return f'{below} or {below + patch}' if below > 0 else f'{patch}'


def fit_layer(name: str, layer: int, count: int) -> int:
    """The index from 0 of a layer that may be counted from the end.

    Raises:
        EncoderError: there is no such layer.
    """
    if not -count <= layer < count:
        raise EncoderError(f'encoder {name}: encoder_layer {layer}, expected {-count} to {count - 1} (it has {count})')
    return layer % count


def nearest_names(name: str, known: Sequence[str]) -> str:
    """The known names most like a mistyped one, for messages."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    return f'; did you mean {" or ".join(near)}?' if near else ''
