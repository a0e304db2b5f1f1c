"""`semanom import`: a folder of pictures, or a video, as a recording."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from semanom_ros.commands.numbers import number, whole
from semanom_ros.commands.progress_bars import Bars
from semanom_ros.errors import BagError, ParameterError
from semanom_ros.recordings.importing import Masks, import_images, import_pictures, import_video
from semanom_ros.recordings.picture_files import DEFAULT_VALUES, MaskValues
from semanom_ros.recordings.public_sets import CONVENTIONS

_RATE = number('0.001 to 10000', lambda rate: 0.001 <= rate <= 10000)  # ROS has stamps of 32 bits and nanoseconds
_ANGLE = number('1 to below 180', lambda angle: 1 <= angle < 180)


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    kinds = parser.add_subparsers(dest='kind', metavar='images|video', required=True)
    images = kinds.add_parser('images', help='every picture in a folder, in the order of their names')
    images.add_argument('source', type=Path, metavar='DIR', help='folder of pictures')
    pace = images.add_mutually_exclusive_group()
    pace.add_argument('--rate', type=_RATE, metavar='HZ', help='pictures a second (default 10)')
    pace.add_argument('--stills', action='store_true',
                      help='the pictures have nothing to do with each other: nothing is tracked or joined over time '
                           '(those of a --dataset have nothing, unless --rate is given)')
    images.add_argument('--dataset', choices=[one.key for one in CONVENTIONS],
                        help='DIR is laid out, and its masks are named and numbered, as in these public sets: '
                        + '; '.join(f'{one.key}: {one.layout}, {one.values}' for one in CONVENTIONS))
    images.add_argument('--masks', type=Path, metavar='DIR',
                        help='folder of ground-truth masks (PNG, BMP, TIFF, PGM), named as the pictures and in the '
                             'same folders')
    images.add_argument('--mask-suffix', metavar='TEXT',
                        help='what follows the picture\'s name in that of its mask, e.g. _labels_semantic')
    images.add_argument('--unmasked', choices=('nominal', 'unknown'),
                        help='what a picture without a mask is (default unknown)')
    declared = DEFAULT_VALUES
    for meaning, values, what in (('nominal', declared.nominal, 'are nominal'),
                                  ('anomalous', declared.anomalous, 'are anomalous'),
                                  ('ignore', declared.ignore, 'are left out')):
        images.add_argument(f'--{meaning}', type=int, nargs='*', metavar='VALUE',
                            help=f'pixels of a mask that {what} (default {" ".join(map(str, values))})')
    video = kinds.add_parser('video', help='a video at the times of its container')
    video.add_argument('source', type=Path, metavar='FILE', help='video file')
    video.add_argument('--rate', type=_RATE, metavar='HZ',
                       help='frames a second, for a raw stream, which has no times; else in place of its times')
    video.add_argument('--every', type=whole(1), default=1, metavar='N', help='take every n-th frame')
    for kind in (images, video):
        kind.add_argument('--output', type=Path, required=True, metavar='BAG',
                          help='folder of the recording to be made')
        kind.add_argument('--fov', type=_ANGLE, default=90.0, metavar='DEG',
                          help='horizontal field of view, for the CameraInfo (default 90)')
        kind.add_argument('--storage', choices=('mcap', 'sqlite3'), default='mcap',
                          help='storage plugin of rosbag2 (default mcap)')


def run(arguments: argparse.Namespace) -> None:
    """Imports and says how much."""
    source: Path = arguments.source
    wanted = 'folder' if arguments.kind == 'images' else 'file'
    if not (source.is_dir() if wanted == 'folder' else source.is_file()):
        raise BagError(f'{source}: found no such {wanted}; give another')
    if arguments.kind == 'video':
        count = import_video(source, arguments.output, every=arguments.every, rate=arguments.rate,
                             fov_degrees=arguments.fov, storage=arguments.storage, progress=Bars())
        print(f'{arguments.output}: {count} frames')
        return
    convention = next((one for one in CONVENTIONS if one.key == arguments.dataset), None)
    usual = convention.values if convention else DEFAULT_VALUES
    values = MaskValues(*(usual_ones if given is None else tuple(given) for given, usual_ones in (
        (arguments.nominal, usual.nominal), (arguments.anomalous, usual.anomalous), (arguments.ignore, usual.ignore))))
    how: dict[str, Any] = {'rate': arguments.rate or 10.0, 'fov_degrees': arguments.fov, 'storage': arguments.storage,
                           'progress': Bars()}
    if not (convention or arguments.masks):
        for name in ('mask_suffix', 'nominal', 'anomalous', 'ignore'):
            if getattr(arguments, name) is not None:
                raise ParameterError(f'--{name.replace("_", "-")}: found without masks, expected --masks or --dataset '
                                     'with it; add the one that is meant')
    if convention:
        for name in ('mask_suffix', 'unmasked'):
            if getattr(arguments, name) is not None:
                raise ParameterError(f'--{name.replace("_", "-")}: found together with --dataset, expected one of '
                                     'them, because the set says it; leave it out')
        nominal = convention.unmasked_nominal
        pictures = convention.pictures(source, arguments.masks)
        count, masked = import_pictures(source.name, pictures, arguments.output, values=values,
                                        unmasked_nominal=nominal, stills=arguments.rate is None, **how)
    else:
        masks = arguments.masks and Masks(arguments.masks, arguments.mask_suffix or '', values)
        nominal = arguments.unmasked == 'nominal'
        count, masked = import_images(source, arguments.output, masks=masks, unmasked_nominal=nominal,
                                      stills=arguments.stills, **how)
    print(f'{arguments.output}: {count} frames, {masked} with a mask'
          + (f', {count - masked} nominal without one' if nominal and masked < count else ''))
