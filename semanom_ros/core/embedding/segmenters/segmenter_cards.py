"""Which segmenters there are, and what of them is on this machine."""

from __future__ import annotations

import importlib.util
import re
import urllib.error
from pathlib import Path

import torch
from huggingface_hub import snapshot_download, try_to_load_from_cache
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_V2_Weights

from semanom_ros.core.embedding.card import Card
from semanom_ros.core.embedding.segmenters.segment_anything import EXTRA, REPOSITORIES
from semanom_ros.errors import SegmenterError

TORCHVISION = 'torchvision'
_HUB_FILES = ['*.json', '*.safetensors', '*.txt']


def cards() -> list[Card]:
    """One for each value of the parameter `segmenter`."""
    file = weights_file()
    here = file.is_file()
    note = str(file) if here else f'semanom models fetch {TORCHVISION}'
    return [Card('segmenter', 'embedding', '', True, 'needs no weights'),
            Card('segmenter', 'topic', '', True, 'masks come with the images, from another node or a simulator'),
            Card('segmenter', TORCHVISION, 'COCO_V1', here, note),
            *(_hub_card(name) for name in REPOSITORIES)]


def _hub_card(name: str) -> Card:
    """Of a segmenter whose models come from the Hugging Face hub."""
    repositories = REPOSITORIES[name]
    found = [try_to_load_from_cache(repository, 'config.json') for repository in repositories]
    here = all(isinstance(file, str) for file in found)
    if importlib.util.find_spec('transformers') is None:
        here, note = False, EXTRA
    else:
        note = ', '.join(str(Path(str(file)).parent) for file in found) if here else f'semanom models fetch {name}'
    return Card('segmenter', name, ','.join(repositories), here, note)


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


def fetch_from_hub(name: str, folder: Path | None = None) -> list[Path]:
    """Fetches the models of a segmenter of REPOSITORIES; returns their folders, for `segmenter_weights`.

    Args:
        name: of the segmenter.
        folder: where to keep them; None: the hub's own cache, where they are found without being named.

    Raises:
        SegmenterError: not reachable.
    """
    folders = []
    for repository in REPOSITORIES[name]:
        target = None if folder is None else folder / repository.replace('/', '--')
        try:
            found = snapshot_download(repository, local_dir=target, allow_patterns=_HUB_FILES)
        except Exception as error:  # which HTTP library's errors these are changes with the hub's version
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise SegmenterError(f'segmenter {name}: {repository} cannot be fetched from the Hugging Face hub '
                                 f'({first}); try again, or fetch it where there is internet and copy the '
                                 'folder') from error
        folders.append(Path(found))
    return folders


def _url() -> str:
    return MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1.url
