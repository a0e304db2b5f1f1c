"""Any network as a TorchScript file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from semanom_ros.core.embedding.card import Card
from semanom_ros.core.embedding.registry import EncoderFamily, model_of
from semanom_ros.core.embedding.weight_store import reason, sha256_of_file
from semanom_ros.errors import EncoderError
from semanom_ros.home import expanded
from semanom_ros.settings import EncoderSettings

if TYPE_CHECKING:
    import torch

    from semanom_ros.core.embedding.encoders.encoder import Encoder

NAMES = ('torchscript',)

# A file does not tell its input size. This is a 16:9 camera picture, small enough for every frame.
DEFAULT_INPUT_SIZE = (360, 640)


class TorchScriptFamily:
    """See EncoderFamily: `torchscript:FILE`, image (B, 3, H, W) RGB 0..1 -> feature map (B, D, rows, columns)."""

    def load(self, settings: EncoderSettings, device: torch.device) -> Encoder:
        """See EncoderFamily.load.

        Without an input size the pictures are 360x640. The arithmetic is fp32 unless another is asked for: a
        traced file may have its types written into it.
        """
        import torch

        from semanom_ros.core.embedding.device import resolve_dtype
        from semanom_ros.core.embedding.encoders.network import ChannelsLast, Colours, NetworkEncoder, fit_input_size

        name, path = settings.name, self.find(settings.name, settings.weights)
        if settings.features != 'tokens' or settings.layer != -1:
            raise EncoderError(f'encoder {name}: a TorchScript file has only its output; expected encoder_features '
                               'tokens and encoder_layer -1')
        try:
            module = torch.jit.load(path, map_location=device)
        except (RuntimeError, ValueError) as error:
            raise EncoderError(f'encoder {name}: {path} is no TorchScript file ({reason(error)}); '
                               'write it with torch.jit.save') from error
        precision = 'fp32' if settings.precision == 'auto' else settings.precision
        return NetworkEncoder(
            settings, device, ChannelsLast(module), name=f'torchscript:{path.name}', weights=path.name,
            sha256=sha256_of_file(path), settings={}, dtype=resolve_dtype(precision, device), colours=Colours(),
            input_size=fit_input_size(name, settings.input_size, DEFAULT_INPUT_SIZE, (1, 1)))

    def find(self, name: str, weights: str) -> Path:
        """See EncoderFamily.find."""
        path = expanded(model_of(name))
        if weights:
            raise EncoderError(f'encoder {name}: encoder_weights {weights!r}, but the file holds its own; leave them '
                               'empty')
        if not path.is_file():
            raise EncoderError(f'encoder {name}: file {path} does not exist; correct it')
        return path

    def fetch(self, name: str, weights: str, store: Path) -> str:
        """See EncoderFamily.fetch."""
        raise EncoderError(f'encoder {name}: there is nothing to fetch, it is a file; use it as it is')

    def cards(self) -> list[Card]:
        """See EncoderFamily.cards."""
        return []


FAMILY: EncoderFamily = TorchScriptFamily()
