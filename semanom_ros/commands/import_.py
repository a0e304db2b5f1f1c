"""`semanom import`: a folder of pictures, or a video, as a recording."""

from __future__ import annotations

import argparse
from pathlib import Path

from semanom_ros.commands.progress_bars import Bars
from semanom_ros.errors import BagError
from semanom_ros.recordings.importing import Masks, MaskValues, import_images, import_video


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    kinds = parser.add_subparsers(dest='kind', metavar='images|video', required=True)
    images = kinds.add_parser('images', help='every picture in a folder, in the order of their names')
    images.add_argument('source', type=Path, metavar='DIR', help='folder of pictures')
    pace = images.add_mutually_exclusive_group()
    pace.add_argument('--rate', type=_positive, default=10.0, metavar='HZ', help='pictures a second (default 10)')
    pace.add_argument('--stills', action='store_true',
                      help='the pictures have nothing to do with each other: nothing is tracked or joined over time')
    images.add_argument('--masks', type=Path, metavar='DIR',
                        help='folder of ground-truth masks (PNG), named as the pictures and in the same folders')
    images.add_argument('--mask-suffix', default='', metavar='TEXT',
                        help='what follows the picture\'s name in that of its mask, e.g. _labels_semantic')
    images.add_argument('--unmasked', choices=('nominal', 'unknown'), default='unknown',
                        help='what a picture without a mask is (default unknown)')
    declared = MaskValues()
    for meaning, values, what in (('nominal', declared.nominal, 'are nominal'),
                                  ('anomalous', declared.anomalous, 'are anomalous'),
                                  ('ignore', declared.ignore, 'are left out')):
        images.add_argument(f'--{meaning}', type=int, nargs='*', default=values, metavar='VALUE',
                            help=f'pixels of a mask that {what} (default {" ".join(map(str, values))})')
    video = kinds.add_parser('video', help='a video at its own rate')
    video.add_argument('source', type=Path, metavar='FILE', help='video file')
    video.add_argument('--every', type=int, default=1, metavar='N', help='take every n-th frame')
    for kind in (images, video):
        kind.add_argument('--output', type=Path, required=True, metavar='BAG',
                          help='folder of the recording to be made')
        kind.add_argument('--fov', type=_angle, default=90.0, metavar='DEG',
                          help='horizontal field of view, for the CameraInfo (default 90)')
        kind.add_argument('--storage', choices=('mcap', 'sqlite3'), default='mcap',
                          help='storage plugin of rosbag2 (default mcap)')


def run(arguments: argparse.Namespace) -> None:
    """Imports and says how much."""
    source: Path = arguments.source
    wanted = 'folder' if arguments.kind == 'images' else 'file'
    if not (source.is_dir() if wanted == 'folder' else source.is_file()):
        raise BagError(f'{source}: found no such {wanted}; give another')
    if arguments.kind == 'images':
        values = MaskValues(tuple(arguments.nominal), tuple(arguments.anomalous), tuple(arguments.ignore))
        masks = arguments.masks and Masks(arguments.masks, arguments.mask_suffix, values)
        nominal = arguments.unmasked == 'nominal'
        count, masked = import_images(source, arguments.output, rate=arguments.rate, fov_degrees=arguments.fov,
                                      masks=masks, unmasked_nominal=nominal, stills=arguments.stills,
                                      storage=arguments.storage, progress=Bars())
        print(f'{arguments.output}: {count} frames, {masked} with a mask'
              + (f', {count - masked} nominal without one' if nominal and masked < count else ''))
    else:
        count = import_video(source, arguments.output, every=max(1, arguments.every), fov_degrees=arguments.fov,
                             storage=arguments.storage, progress=Bars())
        print(f'{arguments.output}: {count} frames')


def _positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f'found {text}, expected more than 0')
    return value


def _angle(text: str) -> float:
    value = float(text)
    if not 1 <= value < 180:
        raise argparse.ArgumentTypeError(f'found {text}, expected 1 to below 180')
    return value
