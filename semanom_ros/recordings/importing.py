"""Recordings made of folders of pictures and of videos."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from semanom_ros.core.progress import SILENT, Progress
from semanom_ros.errors import BagError, ImageError
from semanom_ros.recordings.bags import CAMERA_INFO, COMPRESSED_IMAGE, BagWriter
from semanom_ros.recordings.ground_truth import ANOMALY_MASK
from semanom_ros.recordings.images import compress_pixels, image_from_compressed

IMAGE_TOPIC, INFO_TOPIC = '/camera/image_raw/compressed', '/camera/camera_info'
FRAME_ID = 'camera_optical_frame'
STILLS_APART_S = 10
"""Seconds between the stamps of pictures that have nothing to do with each other: too far apart to be joined."""

_AS_THEY_ARE = {'.jpg': 'jpeg', '.jpeg': 'jpeg', '.png': 'png'}
_DECODED = ('.bmp', '.webp', '.tif', '.tiff', '.ppm', '.pgm')
PICTURES = (*_AS_THEY_ARE, *_DECODED)
"""Endings, in small letters, of the files that are taken for pictures."""

_FIRST_STAMP_NS = 1_000_000_000  # a stamp of 0 means `no time` to much of ROS


@dataclass(frozen=True)
class MaskValues:
    """What the pixels of masks say. A value that is not among them is an error, so that no truth is guessed.

    Attributes:
        nominal, anomalous, ignore: values, none of them twice.
    """

    nominal: tuple[int, ...] = (0,)
    anomalous: tuple[int, ...] = (255,)
    ignore: tuple[int, ...] = (128,)

    def __post_init__(self) -> None:
        every = (*self.nominal, *self.anomalous, *self.ignore)
        for value in every:
            if every.count(value) > 1:
                raise BagError(f'masks: found the value {value} declared twice, expected it to be either nominal, '
                               'anomalous or ignored; correct --nominal, --anomalous or --ignore')

    def __str__(self) -> str:
        return ', '.join(f'{"/".join(map(str, values))} ({meaning})' for meaning, values in (
            ('nominal', self.nominal), ('anomalous', self.anomalous), ('ignored', self.ignore)) if values)


@dataclass(frozen=True)
class Masks:
    """Ground truth beside pictures.

    Attributes:
        folder: holds the masks, in the same folders below it as the pictures have, or all in one where no name comes
            twice.
        suffix: what follows the picture's name in that of its mask, which ends with .png; e.g. `_labels_semantic`.
        values: of the masks' pixels.
    """

    folder: Path
    suffix: str = ''
    values: MaskValues = MaskValues()


class Picture(NamedTuple):
    """A picture file, and the file of its mask; None where there is none."""

    path: Path
    mask: Path | None = None


class Imported(NamedTuple):
    """How many pictures a recording was made of, and how many of them had a mask."""

    pictures: int
    masks: int


def import_images(folder: Path, target: Path, *, rate: float = 10.0, fov_degrees: float = 90.0,
                  masks: Masks | None = None, unmasked_nominal: bool = False, stills: bool = False,
                  storage: str = 'mcap', progress: Progress = SILENT) -> Imported:
    """Makes a recording of the pictures in a folder and those below it, in the order of their names.

    Args:
        folder: pictures; numbers in their names count as numbers.
        target, rate, fov_degrees, unmasked_nominal, stills, storage, progress: as in `import_pictures`.
        masks: ground truth; see `paired`.

    Raises:
        BagError: no pictures, no masks, or masks that could belong to several pictures; and as `import_pictures`.
    """
    found = [path for path in pictures_below(folder)
             if not (masks and masks.folder.resolve() in path.resolve().parents)]
    if not found:
        raise BagError(f'{folder}: found no picture ({", ".join(PICTURES)}), expected some; give another folder')
    pictures = paired(folder, found, masks) if masks else [Picture(path) for path in found]
    return import_pictures(folder.name, pictures, target, rate=rate, fov_degrees=fov_degrees,
                           values=masks.values if masks else MaskValues(), unmasked_nominal=unmasked_nominal,
                           stills=stills, storage=storage, progress=progress)


def pictures_below(folder: Path) -> list[Path]:
    """The picture files in a folder and those below it, in the order of their names; numbers count as numbers."""
    return sorted((path for path in folder.rglob('*') if path.suffix.lower() in PICTURES
                   and not path.name.startswith('.')), key=_natural)


def paired(folder: Path, pictures: Sequence[Path], masks: Masks) -> list[Picture]:
    """Pictures with their masks.

    A mask belongs to the picture of its name whose folder, below `folder`, is the mask's below `masks.folder`. Where
    there is none, the end of the one's folder may be the other's: masks all in one folder, or pictures a level deeper.

    Args:
        folder: of the pictures.
        pictures: files below it.
        masks: where the masks are, and how they are named.

    Raises:
        BagError: no picture has a mask, a picture could have several, or several pictures could have one.
    """
    by_name: defaultdict[str, list[Path]] = defaultdict(list)
    for mask in masks.folder.rglob('*.png'):
        by_name[mask.name].append(mask)
    result, owners = [], dict[Path, Path]()
    for picture in pictures:
        name, place = f'{picture.stem}{masks.suffix}.png', picture.parent.relative_to(folder).parts
        shared = {mask: _agreement(place, mask.parent.relative_to(masks.folder).parts) for mask in by_name[name]}
        best = [mask for mask in shared if shared[mask] >= 0 and shared[mask] == max(shared.values())]
        if len(best) > 1:
            raise BagError(f'{picture}: found the masks {best[0]} and {best[1]}, expected one; put the masks into the '
                           f'same folders below {masks.folder} as the pictures are in')
        for mask in best:
            if other := owners.get(mask):
                raise BagError(f'{mask}: found the pictures {other} and {picture} that it could belong to, expected '
                               f'one; put the masks into the same folders below {masks.folder} as the pictures are in')
            owners[mask] = picture
        result.append(Picture(picture, best[0] if best else None))
    if not owners:
        first = pictures[0].relative_to(folder).with_suffix('')
        raise BagError(f'{masks.folder}: found no mask named {first}{masks.suffix}.png or like another picture; give '
                       '--masks and --mask-suffix')
    return result


def _agreement(place: tuple[str, ...], other: tuple[str, ...]) -> int:
    """How many folders two files share, where the one's are the end of the other's; -1 where they are not.

    The very same folders count for more than any end of others.
    """
    shorter, longer = sorted((place, other), key=len)
    if longer[len(longer) - len(shorter):] != shorter:
        return -1
    return len(shorter) + (1 << 16 if place == other else 0)


def import_pictures(name: str, pictures: Sequence[Picture], target: Path, *, rate: float = 10.0,
                    fov_degrees: float = 90.0, values: MaskValues = MaskValues(), unmasked_nominal: bool = False,
                    stills: bool = False, storage: str = 'mcap', progress: Progress = SILENT) -> Imported:
    """Makes a recording of pictures in their order; JPEG and PNG files go in byte by byte, others as PNG.

    Args:
        name: what is imported, for people.
        pictures: at least one, with their masks.
        target: folder of the recording to be made.
        rate: pictures a second; without meaning for stills.
        fov_degrees: horizontal field of view, for the CameraInfo of an ideal pinhole camera.
        values: of the masks' pixels.
        unmasked_nominal: a picture without a mask is known to be nominal; else it has no ground truth.
        stills: the pictures have nothing to do with each other; the recording says so.
        storage: `mcap` or `sqlite3`.
        progress: is told.

    Raises:
        BagError: a picture or mask is none, has another size than its picture or values that are not declared; the
            recording cannot be written.
    """
    progress.begin(f'import {name}', len(pictures), 'frame')
    with BagWriter(target, storage) as writer:
        recording = _Recording(writer, 1 / STILLS_APART_S if stills else rate, fov_degrees)
        if stills:
            writer.mark_stills(_FIRST_STAMP_NS)
        for path, mask_path in pictures:
            data, format = path.read_bytes(), _AS_THEY_ARE.get(path.suffix.lower())
            image = _decoded(path, data)
            if format is None:
                data, format = compress_pixels(image, 'png').tobytes(), 'png'
            mask = None
            if mask_path is not None:
                mask = _mask(mask_path, values, _size(image))
            elif unmasked_nominal:
                mask = np.zeros(_size(image), np.uint8)
            recording.add(data, format, _size(image), mask)
            progress.advance(1)
    progress.end()
    return Imported(len(pictures), sum(mask is not None for _, mask in pictures))


def import_video(file: Path, target: Path, *, every: int = 1, fov_degrees: float, storage: str = 'mcap',
                 progress: Progress = SILENT) -> int:
    """Makes a recording of a video at the video's own rate, its frames as JPEG.

    Args:
        file: whatever OpenCV reads.
        target: folder of the recording to be made.
        every: take every n-th frame.
        fov_degrees: horizontal field of view, for the CameraInfo of an ideal pinhole camera.
        storage: `mcap` or `sqlite3`.
        progress: is told.

    Returns:
        The number of frames taken.

    Raises:
        BagError: no video, or the recording cannot be written.
    """
    video = cv2.VideoCapture(str(file))
    rate = video.get(cv2.CAP_PROP_FPS)
    if not video.isOpened() or not rate > 0:
        raise BagError(f'{file}: cannot be read as a video; give another file, or convert it to H.264 in MP4')
    progress.begin(f'import {file.name}', max(0, round(video.get(cv2.CAP_PROP_FRAME_COUNT))), 'frame')
    try:
        with BagWriter(target, storage) as writer:
            recording = _Recording(writer, rate, fov_degrees)
            for number, image in enumerate(_frames(video)):
                progress.advance(1)
                if number % every == 0:
                    data = compress_pixels(image, quality=95).tobytes()
                    recording.add(data, 'jpeg', _size(image), None, number)
            if not recording.count:
                raise BagError(f'{file}: found no frame that can be decoded, expected some; convert it to H.264 in MP4')
    finally:
        video.release()
    progress.end()
    return recording.count


class _Recording:
    """Writes pictures with CameraInfo and, where there is one, their mask."""

    def __init__(self, writer: BagWriter, rate: float, fov_degrees: float) -> None:
        self.count = 0
        self._writer, self._rate, self._fov = writer, rate, math.radians(fov_degrees)

    def add(self, data: bytes, format: str, size: tuple[int, int], mask: npt.NDArray[np.uint8] | None,
            number: int | None = None) -> None:
        """Adds the next picture; `number` is its place in time, counted in pictures."""
        number = self.count if number is None else number
        stamp = _FIRST_STAMP_NS + round(number * 1e9 / self._rate)
        types: dict[str, Any] = self._writer.typestore.types
        header = types['std_msgs/msg/Header'](types['builtin_interfaces/msg/Time'](*divmod(stamp, 10**9)), FRAME_ID)
        self._writer.write(INFO_TOPIC, self._info(types, header, size), stamp)
        self._writer.write(IMAGE_TOPIC, types[COMPRESSED_IMAGE](header, format, np.frombuffer(data, np.uint8)), stamp)
        if mask is not None:
            self._writer.write_image(ANOMALY_MASK, mask, 'mono8', stamp, FRAME_ID)
        self.count += 1

    def _info(self, types: dict[str, Any], header: Any, size: tuple[int, int]) -> Any:
        height, width = size
        focal = width / 2 / math.tan(self._fov / 2)
        k = np.array([focal, 0, (width - 1) / 2, 0, focal, (height - 1) / 2, 0, 0, 1])
        p = np.insert(k, [3, 6, 9], 0.0)
        window = types['sensor_msgs/msg/RegionOfInterest'](0, 0, 0, 0, False)
        return types[CAMERA_INFO](header, height, width, 'plumb_bob', np.zeros(5), k, np.eye(3).ravel(), p, 0, 0,
                                  window)


@dataclass
class _File:
    """A picture file as the message that it will be."""

    format: str
    data: bytes


def _decoded(path: Path, data: bytes) -> npt.NDArray[np.uint8]:
    try:
        return image_from_compressed(_File(path.suffix.lower().lstrip('.'), data))
    except ImageError as error:
        raise BagError(f'{path}: found {len(data)} bytes that do not decode, expected a picture; remove it') from error


def _mask(path: Path, values: MaskValues, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """(H, W) uint8: 0 nominal, 128 ignore, 255 anomalous."""
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise BagError(f'{path}: cannot be read as a picture, expected a mask; remove it')
    if pixels.ndim == 3:
        if (pixels[..., :3] != pixels[..., :1]).any():
            colours = np.unique(pixels[..., 2::-1].reshape(-1, 3), axis=0)
            named = ', '.join('/'.join(map(str, colour)) for colour in colours[:4].tolist())
            raise BagError(f'{path}: found {len(colours)} colours (red/green/blue {named}), expected numbers in one '
                           f'channel: {values}; convert the masks, palettes to their numbers')
        pixels = pixels[..., 0]
    if pixels.shape != size:
        raise BagError(f'{path}: found {pixels.shape[1]}x{pixels.shape[0]} pixels, expected the size of its picture, '
                       f'{size[1]}x{size[0]}; give masks at full resolution')
    present = np.flatnonzero(np.bincount(pixels.ravel())).tolist()
    if odd := [value for value in present if value not in (*values.nominal, *values.anomalous, *values.ignore)]:
        raise BagError(f'{path}: found the values {_listed(present)}, of which {_listed(odd)} '
                       f'{"are" if len(odd) > 1 else "is"} not declared, expected {values}; declare them with '
                       '--nominal, --anomalous and --ignore')
    mask = np.zeros(size, np.uint8)
    mask[np.isin(pixels, values.ignore)] = 128
    mask[np.isin(pixels, values.anomalous)] = 255
    return mask


def _listed(values: Sequence[int]) -> str:
    return ', '.join(map(str, values[:8])) + (f' and {len(values) - 8} more' if len(values) > 8 else '')


def _size(image: npt.NDArray[np.uint8]) -> tuple[int, int]:
    return image.shape[0], image.shape[1]


def _frames(video: cv2.VideoCapture) -> Iterator[npt.NDArray[np.uint8]]:
    while True:
        read, frame = video.read()
        if not read:
            return
        yield np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8)


def _natural(path: Path) -> list[tuple[int, str]]:
    return [(int(word), '') if word.isdigit() else (-1, word) for word in re.split(r'(\d+)', str(path)) if word]
