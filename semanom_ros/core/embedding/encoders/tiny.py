"""semanom-tiny, the encoder that the package ships: a model of open_clip in the folder `semanom_tiny`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from semanom_ros.core.embedding import weight_store
from semanom_ros.core.embedding.card import Card
from semanom_ros.core.embedding.encoders import open_clip
from semanom_ros.core.embedding.registry import EncoderFamily
from semanom_ros.core.embedding.weight_store import LOCAL_FOLDER, Owner, Published, Weights
from semanom_ros.errors import EncoderError
from semanom_ros.settings import EncoderSettings

if TYPE_CHECKING:
    import torch

    from semanom_ros.core.embedding.encoders.encoder import Encoder

NAMES = ('semanom-tiny',)
FOLDER = Path(__file__).with_name('semanom_tiny')
DIMENSION = 128  # of its tower, a network of timm


class TinyFamily:
    """See EncoderFamily: the one encoder `semanom-tiny`."""

    def load(self, settings: EncoderSettings, device: torch.device) -> Encoder:
        """See EncoderFamily.load, and `open_clip_models.load_model`."""
        weights = _find(settings.name, settings.weights)
        from semanom_ros.core.embedding.encoders.open_clip_models import load_model  # seconds to import

        return load_model(settings, device, settings.name, weights, FOLDER)

    def find(self, name: str, weights: str) -> Path | None:
        """See EncoderFamily.find."""
        return _find(name, weights).file

    def fetch(self, name: str, weights: str, store: Path) -> str:
        """See EncoderFamily.fetch."""
        raise EncoderError(f'encoder {name}: there is nothing to fetch, it is shipped; use it as it is')

    def cards(self) -> list[Card]:
        """See EncoderFamily.cards."""
        name, = NAMES
        file = _find(name, '').file
        _, size = open_clip.describe(json.loads((FOLDER / open_clip.CONFIG_FILE).read_text())['model_cfg'])
        return [Card('encoder', name, '', True, str(file), 'Apache-2.0', DIMENSION, size)]


def _find(name: str, weights: str) -> Weights:
    """The shipped weights, or others for the same network.

    Raises:
        EncoderError: not on this machine.
    """
    if name not in NAMES:
        raise EncoderError(f'encoder {name!r}: {NAMES[0]} is one model, expected {NAMES[0]} alone; correct it')
    if not (FOLDER / open_clip.CONFIG_FILE).is_file():
        raise EncoderError(f'encoder {name}: not in this installation, looked in {FOLDER}; install semanom_ros '
                           'anew, or choose another encoder (`semanom models list`)')
    published = Published('semanom', name, file_names=open_clip.WEIGHTS_FILES)
    return weight_store.find(Owner('encoder', name), published, weights or f'{LOCAL_FOLDER}{FOLDER}')


FAMILY: EncoderFamily = TinyFamily()
