"""Which encoders there are, and what of them is on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from semanom_ros.core.embedding.card import Card
from semanom_ros.core.embedding.encoders import TINY, folder_of, library_module, split_name
from semanom_ros.core.embedding.weights import RECEIPT, store
from semanom_ros.errors import EncoderError

# Known to work well as patch embeddings; every other model of the libraries can be named as well.
RECOMMENDED = (
    ('timm:vit_small_patch14_dinov2.lvd142m', 'lvd142m'),
    ('timm:vit_base_patch14_dinov2.lvd142m', 'lvd142m'),
    ('timm:vit_small_patch14_reg4_dinov2.lvd142m', 'lvd142m'),
    ('timm:vit_small_patch16_dinov3.lvd1689m', 'lvd1689m'),
    ('timm:vit_base_patch16_dinov3.lvd1689m', 'lvd1689m'),
    ('open_clip:ViT-B-16', 'openai'),
    ('open_clip:ViT-B-16', 'datacomp_xl_s13b_b90k'),
    ('open_clip:ViT-L-14', 'openai'),
    ('open_clip:ViT-B-16-SigLIP', 'webli'),
)


def cards() -> list[Card]:
    """The shipped encoder, the recommended ones, and what else was fetched."""
    listed = [(TINY, ''), *RECOMMENDED]
    listed += [entry for entry in _fetched() if entry not in listed]
    return [_card(name, weights) for name, weights in tqdm(listed, desc='models', leave=False, disable=None)]


def fetch(name: str, weights: str, root: Path | None) -> Path:
    """Fetches an encoder's weights; returns the folder, for `encoder_weights: local-dir:FOLDER`.

    Args:
        name: as in the parameter `encoder`.
        weights: tag; '' for the one in the name, or the library's usual one.
        root: the store; None: the default one.

    Raises:
        EncoderError: no such model or tag, not reachable, or the checksum is wrong.
    """
    library, model = split_name(name)
    if name == TINY or library == 'torchscript':
        why = 'it is shipped' if name == TINY else 'it is a file'
        raise EncoderError(f'encoder {name}: there is nothing to fetch, {why}; use it as it is')
    return library_module(library).fetch(name, model, weights, root or store())


def _fetched() -> Iterator[tuple[str, str]]:
    for receipt in sorted(store().glob(f'*/*/*/{RECEIPT}')):
        library, model, tag = receipt.parts[-4:-1]
        yield (f'timm:{model}.{tag}' if library == 'timm' else f'{library}:{model}'), tag


def _card(name: str, weights: str) -> Card:
    try:
        folder = folder_of(name)
        library, model = split_name(name)
        module = library_module(library)
        described = module.describe(model, folder)
    except EncoderError as error:
        return Card('encoder', name, weights, False, str(error))
    try:
        found = module.find(name, model, weights, folder)
    except EncoderError:
        return Card('encoder', name, weights, False, f'semanom models fetch {name} --weights {weights}', *described)
    return Card('encoder', name, weights, True, str(found.file), *described)
