"""Which segmenters there are, and what of them is on this machine."""

from __future__ import annotations

import re
import urllib.error
from pathlib import Path

import torch
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_V2_Weights

from semanom_ros.core.catalogue import Card
from semanom_ros.errors import SegmenterError

TORCHVISION = 'torchvision'


def cards() -> list[Card]:
    """One for each value of the parameter `segmenter`."""
    file = weights_file()
    here = file.is_file()
    note = str(file) if here else f'semanom models fetch {TORCHVISION}'
    return [Card('segmenter', 'embedding', '', True, 'needs no weights'),
            Card('segmenter', 'topic', '', True, 'masks come with the images, from another node or a simulator'),
            Card('segmenter', TORCHVISION, 'COCO_V1', here, note)]


def weights_file(folder: Path | None = None) -> Path:
    """Where the weights of Mask R-CNN are, or would be: by default where torchvision itself keeps them."""
    return (folder or Path(torch.hub.get_dir()) / 'checkpoints') / Path(_url()).name


def fetch(folder: Path | None = None) -> Path:
    """Fetches the weights of Mask R-CNN with a progress bar; returns the file, for `segmenter_weights`.

    Args:
        folder: where to keep them; None: where they are found without being named.

    Raises:
        SegmenterError: not reachable, or the checksum is wrong.
    """
    url, file = _url(), weights_file(folder)
    file.parent.mkdir(parents=True, exist_ok=True)
    checksum = re.search(r'-([0-9a-f]{8,})\.', file.name)  # names end with the start of their SHA-256
    try:
        torch.hub.download_url_to_file(url, str(file), checksum and checksum.group(1))
    except (urllib.error.URLError, RuntimeError, OSError) as error:
        raise SegmenterError(f'segmenter {TORCHVISION}: {url} cannot be fetched ({error}); try again, or fetch it '
                             'where there is internet and copy the file') from error
    return file


def _url() -> str:
    return MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1.url
