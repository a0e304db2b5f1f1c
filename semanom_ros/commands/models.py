"""`semanom models`: which encoders and segmenters can be used here; fetch and check them."""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

from tqdm import tqdm

from semanom_ros.core.embedding import registry
from semanom_ros.core.embedding.weight_store import STORE_VARIABLE
from semanom_ros.settings import EncoderSettings

CHECKED_FRAMES = 20


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    actions = parser.add_subparsers(dest='action', metavar='ACTION', required=True)
    actions.add_parser('list', help='encoders and segmenters, and whether their weights are here')
    fetch = actions.add_parser('fetch', help='fetch weights once, and check them')
    fetch.add_argument('model', help='as in the parameter encoder, e.g. open_clip:ViT-B-16, or a segmenter')
    fetch.add_argument('--weights', default='', metavar='WEIGHTS',
                       help='which, e.g. a pretrained tag; default: the one in the name, or the usual ones')
    fetch.add_argument('--directory', type=Path, metavar='DIR',
                       help=f'folder to keep models in; default: ${STORE_VARIABLE}, else ~/.cache/semanom_ros/models')
    check = actions.add_parser('check', help='load an encoder, run it, and say what it makes of a picture')
    check.add_argument('model', help='as in the parameter encoder')
    check.add_argument('--weights', default='', help='as in the parameter encoder_weights')
    check.add_argument('--input-size', type=int, nargs=2, default=(0, 0), metavar=('HEIGHT', 'WIDTH'), help='pixels')
    for name in ('device', 'precision'):
        parameter = EncoderSettings.table()[name]
        check.add_argument(f'--{name}', default=parameter.default, choices=parameter.choices or None,
                           help=parameter.description)


def run(arguments: argparse.Namespace) -> int | None:
    """Runs the action."""
    return {'list': _list, 'fetch': _fetch, 'check': _check}[arguments.action](arguments)


def _list(arguments: argparse.Namespace) -> None:
    rows = [('', 'here', 'name', 'weights', 'licence', 'dimension', 'input size', 'where, or how to get it')]
    for card in registry.cards():
        size = 'x'.join(map(str, card.input_size)) if any(card.input_size) else ''
        dimension = str(card.dimension or '')
        here = 'yes' if card.present else 'no'
        rows.append((card.kind, here, card.name, card.weights, card.licence, dimension, size, card.note))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print('  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print(f'\nFamilies of encoders: {", ".join(registry.family_names()["encoder"])}. Every other model of one can be '
          'named as well, as FAMILY:MODEL.')
    print(f'Backends: torch, {", ".join(registry.backend_names())}; `semanom export` makes engines of them.')


def _fetch(arguments: argparse.Namespace) -> None:
    for name, value in registry.fetch(arguments.model, arguments.weights, arguments.directory).items():
        print(f'{name}: {value}')


def _check(arguments: argparse.Namespace) -> None:
    import torch

    from semanom_ros.core.embedding.encoders.encoder import TextAlignedEncoder

    begin = time.perf_counter()
    settings = EncoderSettings.of({
        'encoder': arguments.model, 'encoder_weights': arguments.weights, 'input_size': arguments.input_size,
        'device': arguments.device, 'precision': arguments.precision})
    encoder = registry.load_encoder(settings)
    encoder.warm_up()
    loaded = time.perf_counter() - begin
    picture = torch.rand(1, 3, *encoder.input_size, generator=torch.Generator().manual_seed(0)).to(encoder.device)
    milliseconds = []
    for _ in tqdm(range(CHECKED_FRAMES), desc='frames', leave=False, disable=None):
        begin = time.perf_counter()
        encoder.encode(picture).sum().item()  # waits for the GPU
        milliseconds.append((time.perf_counter() - begin) * 1e3)
    facts = {
        'encoder': encoder.name,
        'weights': encoder.weights,
        'file': registry.find_encoder_weights(settings) or 'none',
        'sha256': encoder.weights_sha256,
        **encoder.settings,
        'input size': 'x'.join(map(str, encoder.input_size)),
        'patches': 'x'.join(map(str, encoder.grid_size)),
        'dimension': encoder.dimension,
        'texts': 'yes' if isinstance(encoder, TextAlignedEncoder) else 'no',
        'device': encoder.device,
        'precision': str(encoder.dtype).removeprefix('torch.'),
        'loaded in': f'{loaded:.1f} s',
        'per frame': f'{statistics.median(milliseconds):.1f} ms (median of {CHECKED_FRAMES}, one at a time)',
    }
    for name, value in facts.items():
        print(f'{name:12}{value}')
