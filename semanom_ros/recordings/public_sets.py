"""Public sets of anomalies: how their folders lie, what their masks mean, and what others reached on them.

SETS is the table of road anomalies to measure on. Another set is a row: how it is recognised and its pictures are
paired is a function of a folder. CONVENTIONS is that of what to import, which files of one's own may follow too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from semanom_ros.errors import BagError
from semanom_ros.recordings.importing import Masks, Picture, paired
from semanom_ros.recordings.picture_files import PICTURES, MaskValues, files_below


class Published(NamedTuple):
    """What another method reached, in per cent; None where its source does not say.

    Attributes:
        method: name.
        paper: where the method is described.
        outliers: whether it saw outlier data in training.
        ap, fpr95: of pixels.
        siou, ppv, f1: of components, F1 as the mean over overlaps.
    """

    method: str
    paper: str
    outliers: bool
    ap: float
    fpr95: float
    siou: float | None = None
    ppv: float | None = None
    f1: float | None = None


@dataclass(frozen=True)
class PublicSet:
    """One row of the table.

    Attributes:
        key: for the command line.
        name: for people.
        site: where it is officially had from.
        layout: the folder that is expected, for people.
        find: the pictures with masks of a folder that holds the set; none where it does not.
        values: of its masks.
        split: which part of the set `find` gives, for people.
        complete: how many pictures that part has.
        smallest_truth, smallest_report: components of fewer pixels do not count.
        published: figures of others.
        published_split: on which part of the set.
        source: where these were read; '' without any.
    """

    key: str
    name: str
    site: str
    layout: str
    find: Callable[[Path], list[Picture]]
    values: MaskValues
    split: str
    complete: int
    smallest_truth: int
    smallest_report: int
    published: tuple[Published, ...] = ()
    published_split: str = ''
    source: str = ''


class Found(NamedTuple):
    """A set that was recognised: which one, and its pictures with masks."""

    set: PublicSet
    pictures: list[Picture]


def recognise(folder: Path, key: str = '') -> Found:
    """The set that a folder, or the one folder below it that does, holds.

    Args:
        folder: as unpacked.
        key: of the set that it must be; '': any.

    Raises:
        BagError: no set is recognised, or several are; a picture or mask of it is missing.
    """
    if not folder.is_dir():
        raise BagError(f'{folder}: found no such folder; give the folder of a public set')
    known = [one for one in SETS if key in ('', one.key)]
    places = [folder, *sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith('.'))]
    for level in ([folder], places):
        found = [(place, Found(one, pictures)) for place in level for one in known if (pictures := one.find(place))]
        if len(found) > 1:
            raise BagError(f'{folder}: found {" and ".join(f"{one.set.name} in {place}" for place, one in found)}, '
                           'expected one set; give its own folder, or --dataset')
        if found:
            return found[0][1]
    raise BagError(f'{folder}: found {_held(folder)}, expected the layout of '
                   + '; or of '.join(f'{one.name}: {one.layout}' for one in known)
                   + '; give another folder, or use `semanom import images` and `semanom evaluate`')


@dataclass(frozen=True)
class Convention:
    """How public sets name their pictures and masks, and what the masks mean.

    Attributes:
        key: for the command line.
        layout: the folder that is expected, for people.
        find: the pictures, with masks where they have some, of a folder, and of another one with the masks if that is
            given; none where it does not follow the convention.
        values: of the masks.
        unmasked_nominal: whether a picture without a mask is known to be nominal.
    """

    key: str
    layout: str
    find: Callable[[Path, Path | None], list[Picture]]
    values: MaskValues
    unmasked_nominal: bool = False

    def pictures(self, folder: Path, masks: Path | None = None) -> list[Picture]:
        """The pictures of a folder that follows it, with their masks.

        Args:
            folder: as unpacked, or that of the pictures.
            masks: folder of the masks, where it is not beside the pictures as usual.

        Raises:
            BagError: it does not follow it; a picture or mask is missing.
        """
        found = self.find(folder, masks)
        if not any(picture.mask for picture in found):
            raise BagError(f'{folder}: found {_held(folder)}, expected {self.layout}; give another folder, or --masks '
                           'and --mask-suffix in place of --dataset')
        return found


def _held(folder: Path) -> str:
    names = [path.name + ('/' if path.is_dir() else '') for path in sorted(folder.iterdir())]
    return ', '.join(names[:6]) + (f' and {len(names) - 6} more' if len(names) > 6 else '') or 'nothing'


_SEMANTIC = '_labels_semantic'


def _labelled(name: str, left_out: str = r'(?!)') -> Callable[[Path], list[Picture]]:
    """SegmentMeIfYouCan: images/NAME.*, labels_masks/NAME_labels_semantic.png; only validation frames have labels."""
    return lambda folder: _with_labels(folder / 'images', folder / 'labels_masks', name, left_out)


def _with_labels(folder: Path, labels: Path, name: str, left_out: str) -> list[Picture]:
    if not (folder.is_dir() and labels.is_dir()):
        return []
    masks = {mask.stem.removesuffix(_SEMANTIC): mask for mask in files_below(labels, ('.png',))
             if mask.stem.endswith(_SEMANTIC)}
    names = {stem: mask for stem, mask in masks.items() if re.fullmatch(name, stem) and not re.match(left_out, stem)}
    return _with_pictures(names, files_below(folder, PICTURES), lambda path: path.stem, 'images/NAME.*')


def _segment_me(folder: Path, masks: Path | None) -> list[Picture]:
    """Either track of SegmentMeIfYouCan, from its folder or that of its pictures."""
    base = folder if (folder / 'images').is_dir() else folder.parent
    pictures = folder / 'images' if base == folder else folder
    return _with_labels(pictures, masks or base / 'labels_masks', r'.+', r'(?!)')


def _fishyscapes(folder: Path, labels: Path | None = None) -> list[Picture]:
    """Labels NUMBER_NAME_labels.png, and NAME_leftImg8bit.* as Lost and Found has it, anywhere in the folder."""
    shape = re.compile(r'\d{4}_(\d\d_.+_\d{6}_\d{6})_labels\.png')
    masks = {match[1]: path for path in files_below(labels or folder, ('.png',))
             if (match := shape.fullmatch(path.name))}
    pictures = [path for path in files_below(folder, PICTURES) if path.stem.endswith('_leftImg8bit')] if masks else []
    # some copies number the pictures as the labels are
    return _with_pictures(masks, pictures, lambda path: re.sub(
        r'^\d{4}_(?=\d\d_)', '', path.stem.removesuffix('_leftImg8bit')), 'NAME_leftImg8bit.png')


def _mvtec(folder: Path, masks: Path | None) -> list[Picture]:
    """test/KIND/NAME.*, ground_truth/KIND/NAME_mask.png; those of the kind `good` have no mask and need none.

    The folder is that of one category, of its test pictures, or of several categories. In MVTec AD 2 ground_truth lies
    in the folder of the test pictures.
    """
    places = [(folder, masks)] if masks else [
        (base / 'test' if (base / 'test').is_dir() else base, base / 'ground_truth')
        for base in (folder, folder.parent, *sorted(path for path in folder.iterdir() if path.is_dir()))
        if (base / 'ground_truth').is_dir() and (base != folder.parent or folder.name == 'test')]
    result: list[Picture] = []
    for pictures, truth in places:
        found = [path for path in files_below(pictures, PICTURES) if truth.resolve() not in path.resolve().parents]
        for picture in paired(pictures, found, Masks(truth, '_mask')) if found else ():
            if picture.mask is None and picture.path.parent.name != 'good':
                raise BagError(f'{picture.path}: found no mask in {truth}, expected '
                               f'{picture.path.parent.name}/{picture.path.stem}_mask.png; unpack the set again')
            result.append(picture)
    return result


def _road_anomaly(folder: Path) -> list[Picture]:
    """frames/NAME.*, frames/NAME.labels/labels_semantic.png, and which frames count in frame_list.json."""
    frames, listed = folder / 'frames', folder / 'frame_list.json'
    if not frames.is_dir():
        return []
    masks = {mask.parent.name.removesuffix('.labels'): mask for mask in frames.glob('*.labels/labels_semantic.png')}
    if listed.is_file() and masks:
        try:
            names = {Path(name).stem for name in json.loads(listed.read_text())}
        except (ValueError, TypeError) as error:
            raise BagError(f'{listed}: found no list of file names ({error}), expected one; unpack it again') from error
        if missing := sorted(names - masks.keys()):
            raise BagError(f'{listed}: found {len(missing)} frames without labels, first {missing[0]}, expected '
                           f'frames/{missing[0]}.labels/labels_semantic.png; unpack the set again')
        masks = {name: mask for name, mask in masks.items() if name in names}
    return _with_pictures(masks, [path for path in files_below(frames, PICTURES) if path.parent == frames],
                          lambda path: path.stem, 'frames/NAME.*')


def _with_pictures(masks: dict[str, Path], pictures: Sequence[Path], name_of: Callable[[Path], str], expected: str
                   ) -> list[Picture]:
    """The picture of each mask, in the order of the pictures."""
    result = [Picture(path, masks[name_of(path)]) for path in pictures if name_of(path) in masks]
    names = [name_of(path) for path, _ in result]
    for (path, mask), name in zip(result, names, strict=True):
        if names.count(name) > 1:
            other = next(one for one, _ in result if name_of(one) == name and one != path)
            raise BagError(f'{mask}: found the pictures {path} and {other}, expected one; take one away')
    if missing := sorted(masks.keys() - set(names)):
        place = masks[missing[0]].parent
        raise BagError(f'{place}: found {len(masks)} masks and no picture of {len(missing)} of them, first '
                       f'{expected.replace("NAME", missing[0])}, expected all; put the pictures there')
    return result


_CLASSIC = {
    'Maximum Softmax': 'arXiv 1610.02136', 'ODIN': 'arXiv 1706.02690', 'Mahalanobis': 'arXiv 1807.03888',
    'MC Dropout': 'arXiv 1811.12709', 'Ensemble': 'arXiv 1612.01474', 'Embedding Density': 'arXiv 1904.03215',
    'Image Resynthesis': 'arXiv 1904.07595', 'Road Inpainting': 'arXiv 2012.13633', 'JSRNet': 'ICCV 2021',
    'PixOOD': 'arXiv 2405.19882', 'RbA': 'arXiv 2211.14293'}


def _plain(method: str, *figures: float) -> Published:
    """A method that saw no outliers."""
    return Published(method, _CLASSIC[method], False, *figures)


_LEADERBOARD = ('segmentmeifyoucan.com/leaderboard, as of 8 April 2026 (assets/leaderboard.json of '
                'github.com/SegmentMeIfYouCan/segment-me-if-you-can, commit 24aa91e)')
_MODEL_ZOO = 'MODEL_ZOO.md of github.com/NazirNayal8/RbA (Nayal et al., ICCV 2023, arXiv 2211.14293)'

SETS: tuple[PublicSet, ...] = (
    PublicSet(
        'road-anomaly-21', 'RoadAnomaly21', 'segmentmeifyoucan.com',
        'images/validation0000.jpg with labels_masks/validation0000_labels_semantic.png',
        _labelled(r'validation\d+'), MaskValues((0,), (1,), (255,)), 'validation', 10, 100, 500,
        (_plain('Maximum Softmax', 27.97, 72.05, 15.48, 15.29, 5.37),
         _plain('ODIN', 33.06, 71.68, 19.53, 17.88, 5.15),
         _plain('Mahalanobis', 20.04, 86.99, 14.82, 10.22, 2.68),
         _plain('MC Dropout', 28.87, 69.47, 20.49, 17.26, 4.26),
         _plain('Ensemble', 17.66, 91.06, 16.44, 20.77, 3.39),
         _plain('Embedding Density', 37.52, 70.76, 33.86, 20.54, 7.90),
         _plain('Image Resynthesis', 52.28, 25.93, 39.68, 10.95, 12.51),
         _plain('JSRNet', 33.64, 43.85, 20.20, 29.27, 13.66),
         _plain('PixOOD', 68.88, 54.33, 44.15, 24.32, 19.82),
         _plain('RbA', 86.13, 15.94, 56.26, 41.35, 42.04),
         Published('Void Classifier', 'arXiv 1904.03215', True, 36.61, 63.49, 21.14, 22.13, 6.49),
         Published('SynBoost', 'arXiv 2103.05445', True, 56.44, 61.86, 34.68, 17.81, 9.99),
         Published('Maximized Entropy', 'arXiv 2012.06575', True, 85.47, 15.00, 49.21, 39.51, 28.72),
         Published('Mask2Anomaly', 'arXiv 2307.13316', True, 88.72, 14.63, 55.28, 51.68, 47.16),
         Published('RbA', 'arXiv 2211.14293', True, 94.46, 4.60, 64.93, 47.51, 51.87)),
        'test', _LEADERBOARD),
    PublicSet(
        'road-obstacle-21', 'RoadObstacle21', 'segmentmeifyoucan.com',
        'images/validation_1.webp with labels_masks/validation_1_labels_semantic.png',
        # the benchmark's own code leaves these out (road_anomaly_benchmark/datasets/tracks.py)
        _labelled(r'validation_.+', r'validation_(19|2[1-9])'), MaskValues((0,), (1,), (255,)),
        'validation', 30, 10, 50,
        (_plain('Maximum Softmax', 15.72, 16.60, 19.72, 15.93, 6.25),
         _plain('ODIN', 22.12, 15.28, 21.62, 18.50, 9.37),
         _plain('Mahalanobis', 20.90, 13.08, 13.52, 21.79, 4.70),
         _plain('MC Dropout', 4.88, 50.31, 5.49, 5.77, 1.05),
         _plain('Ensemble', 1.06, 77.20, 8.63, 4.71, 1.28),
         _plain('Embedding Density', 0.82, 46.38, 35.64, 2.87, 2.31),
         _plain('Image Resynthesis', 37.71, 4.70, 16.61, 20.48, 8.38),
         _plain('Road Inpainting', 54.14, 47.12, 57.64, 39.50, 36.01),
         _plain('JSRNet', 28.09, 28.86, 18.55, 24.46, 11.02),
         _plain('PixOOD', 88.90, 0.30, 42.68, 57.49, 50.82),
         _plain('RbA', 87.85, 3.33, 47.44, 56.16, 50.42),
         Published('Void Classifier', 'arXiv 1904.03215', True, 10.44, 41.54, 6.34, 20.27, 5.41),
         Published('SynBoost', 'arXiv 2103.05445', True, 71.34, 3.15, 44.28, 41.75, 37.57),
         Published('Maximized Entropy', 'arXiv 2012.06575', True, 85.07, 0.75, 47.87, 62.64, 48.51),
         Published('Mask2Anomaly', 'arXiv 2307.13316', True, 93.22, 0.20, 55.72, 75.42, 68.15),
         Published('RbA', 'arXiv 2211.14293', True, 95.12, 0.08, 54.34, 59.08, 57.44)),
        'test', _LEADERBOARD),
    PublicSet(
        'fishyscapes-lost-and-found', 'Fishyscapes Lost and Found', 'fishyscapes.com, pictures from Lost and Found',
        '0000_04_Maurener_Weg_8_000000_000030_labels.png with 04_Maurener_Weg_8_000000_000030_leftImg8bit.png, '
        'anywhere below', _fishyscapes, MaskValues((0,), (1,), (255,)), 'validation', 100, 100, 500,
        (_plain('RbA', 60.96, 10.63),
         Published('RbA', 'arXiv 2211.14293', True, 78.27, 3.98)),
        'validation', _MODEL_ZOO + ', Swin-B'),
    PublicSet(
        'road-anomaly', 'RoadAnomaly', 'epfl.ch/labs/cvlab/data/road-anomaly',
        'frames/NAME.jpg with frames/NAME.labels/labels_semantic.png', _road_anomaly,
        MaskValues((0, 1), (2,), (255,)), 'all', 60, 100, 500,
        (_plain('RbA', 78.45, 11.83),
         Published('RbA', 'arXiv 2211.14293', True, 89.16, 4.50)),
        'all', _MODEL_ZOO + ', Swin-B'),
)
"""Component sizes are those of SegmentMeIfYouCan's tracks; its code gives Fishyscapes those of the anomaly track, and
so does this for RoadAnomaly."""

CONVENTIONS: tuple[Convention, ...] = (
    Convention('segment-me-if-you-can', 'images/NAME.* with labels_masks/NAME_labels_semantic.png', _segment_me,
               MaskValues((0,), (1,), (255,))),
    Convention('fishyscapes', '0000_NAME_labels.png with NAME_leftImg8bit.png, anywhere below', _fishyscapes,
               MaskValues((0,), (1,), (255,))),
    Convention('mvtec', 'test/KIND/NAME.png with ground_truth/KIND/NAME_mask.png, and test/good', _mvtec,
               MaskValues((0,), (255,), ()), unmasked_nominal=True),
)
