"""Recordings made of folders of pictures and of videos."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from semanom_ros.core.progress import SILENT, Progress
from semanom_ros.errors import BagError
from semanom_ros.recordings.bags import CAMERA_INFO, COMPRESSED_IMAGE, BagWriter
from semanom_ros.recordings.ground_truth import ANOMALY_MASK
from semanom_ros.recordings.images import compress_pixels
from semanom_ros.recordings.picture_files import (
    DEFAULT_VALUES,
    JPEG_QUALITY,
    MASKS,
    PICTURES,
    MaskValues,
    files_below,
    read_mask,
    read_picture,
)
from semanom_ros.recordings.videos import Video

IMAGE_TOPIC, INFO_TOPIC = '/camera/image_raw/compressed', '/camera/camera_info'
FRAME_ID = 'camera_optical_frame'
STILLS_APART_S = 10
"""Seconds between the stamps of pictures that have nothing to do with each other: too far apart to be joined."""

_NO_MASKS = ('.jpg', '.jpeg', '.webp', '.gif', '.npy', '.npz', '.json', '.xml')  # that hold labels all the same
_FIRST_STAMP_NS = 1_000_000_000  # a stamp of 0 means `no time` to much of ROS

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Masks:
    """Ground truth beside pictures.

    Attributes:
        folder: holds the masks, in the same folders below it as the pictures have, or all in one where no name comes
            twice. It may be that of the pictures, where the suffix tells them apart.
        suffix: what follows the picture's name in that of its mask, before the ending; e.g. `_labels_semantic`.
        values: of the masks' pixels.
    """

    folder: Path
    suffix: str = ''
    values: MaskValues = DEFAULT_VALUES


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
    found = files_below(folder, PICTURES)
    if masks:
        found = [path for path in found if not _is_mask(path, folder, masks)]
    if not found:
        raise BagError(f'{folder}: found no picture ({", ".join(PICTURES)}), expected some; give another folder')
    pictures = paired(folder, found, masks) if masks else [Picture(path) for path in found]
    return import_pictures(folder.name, pictures, target, rate=rate, fov_degrees=fov_degrees,
                           values=masks.values if masks else DEFAULT_VALUES, unmasked_nominal=unmasked_nominal,
                           stills=stills, storage=storage, progress=progress)


def _is_mask(path: Path, folder: Path, masks: Masks) -> bool:
    """Whether a file below the folder of the pictures is none of them.

    Raises:
        BagError: nothing tells masks from pictures.
    """
    place = masks.folder.resolve()
    if place not in path.resolve().parents:
        return False
    if folder.resolve() in place.parents:
        return True
    if place == folder.resolve() and not masks.suffix:
        raise BagError(f'{folder}: found pictures and masks in one folder, expected them in two, or names that tell '
                       'them apart; give --mask-suffix, such as _mask')
    return bool(masks.suffix) and path.stem.endswith(masks.suffix)


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
    if not masks.folder.is_dir():
        raise BagError(f'{masks.folder}: found no such folder, expected that of the masks; give another')
    by_name: defaultdict[str, list[Path]] = defaultdict(list)
    others = {path.resolve() for path in pictures}
    for mask in files_below(masks.folder, MASKS):
        if mask.resolve() not in others and mask.stem.endswith(masks.suffix):
            by_name[mask.stem].append(mask)
    result, owners = [], dict[Path, Path]()
    for picture in pictures:
        name, place = f'{picture.stem}{masks.suffix}', picture.parent.relative_to(folder).parts
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
        unfit = [path for path in files_below(masks.folder, _NO_MASKS) if path.resolve() not in others]
        raise BagError(f'{masks.folder}: found {f"{unfit[0].name}, and " if unfit else ""}no mask named {first}'
                       f'{masks.suffix}.png or like another picture; '
                       + (f'save the masks as one of {", ".join(MASKS)}, which keep numbers as they are' if unfit else
                          'give --masks and --mask-suffix'))
    if unused := [mask for same in by_name.values() for mask in same if mask not in owners]:
        logger.warning('%s: found %d masks without a picture, the first %s, expected one for each; see whether '
                       'pictures are missing or named otherwise', masks.folder, len(unused), unused[0])
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
                    fov_degrees: float = 90.0, values: MaskValues = DEFAULT_VALUES, unmasked_nominal: bool = False,
                    stills: bool = False, storage: str = 'mcap', progress: Progress = SILENT) -> Imported:
    """Makes a recording of pictures in their order, upright; JPEG and PNG files go in as they are, others as PNG.

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
    apart = 10**9 * STILLS_APART_S if stills else 10**9 / rate
    with BagWriter(target, storage) as writer:
        recording = _Recording(writer, fov_degrees)
        if stills:
            writer.mark_stills(_FIRST_STAMP_NS)
        for number, (path, mask_path) in enumerate(pictures):
            picture = read_picture(path)
            if picture.pages > 1:
                logger.warning('%s: found %d pictures in one file, took the first; give each a file of its own', path,
                               picture.pages)
            mask = None
            if mask_path is not None:
                mask = read_mask(mask_path, values, picture)
            elif unmasked_nominal:
                mask = np.zeros(picture.size, np.uint8)
            recording.add(picture.data, picture.format, picture.size, round(number * apart), mask)
            progress.advance(1)
    progress.end()
    return Imported(len(pictures), sum(mask is not None for _, mask in pictures))


def import_video(file: Path, target: Path, *, every: int = 1, rate: float | None = None, fov_degrees: float,
                 storage: str = 'mcap', progress: Progress = SILENT) -> int:
    """Makes a recording of a video at the times of its container, its frames upright and as JPEG.

    Args:
        file: whatever ffmpeg reads.
        target: folder of the recording to be made.
        every: take every n-th frame.
        rate: frames a second, in place of the container's times; None: those.
        fov_degrees: horizontal field of view, for the CameraInfo of an ideal pinhole camera.
        storage: `mcap` or `sqlite3`.
        progress: is told.

    Returns:
        The number of frames taken.

    Raises:
        BagError: no video, or the recording cannot be written.
    """
    with Video(file, rate) as video, BagWriter(target, storage) as writer:
        recording = _Recording(writer, fov_degrees)
        for number, (image, time_ns) in enumerate(video):
            if not number:
                progress.begin(f'import {file.name}', video.frames, 'frame')
            progress.advance(1)
            if number % every == 0:
                recording.add(compress_pixels(image, quality=JPEG_QUALITY).tobytes(), 'jpeg', image.shape[:2], time_ns)
    progress.end()
    return recording.count


class _Recording:
    """Writes pictures with CameraInfo and, where there is one, their mask."""

    def __init__(self, writer: BagWriter, fov_degrees: float) -> None:
        self.count = 0
        self._writer, self._fov = writer, math.radians(fov_degrees)

    def add(self, data: bytes, format: str, size: tuple[int, ...], time_ns: int,
            mask: npt.NDArray[np.uint8] | None = None) -> None:
        """Adds the next picture, that many nanoseconds after the first."""
        stamp = _FIRST_STAMP_NS + time_ns
        types: dict[str, Any] = self._writer.typestore.types
        header = types['std_msgs/msg/Header'](types['builtin_interfaces/msg/Time'](*divmod(stamp, 10**9)), FRAME_ID)
        self._writer.write(INFO_TOPIC, self._info(types, header, size), stamp)
        self._writer.write(IMAGE_TOPIC, types[COMPRESSED_IMAGE](header, format, np.frombuffer(data, np.uint8)), stamp)
        if mask is not None:
            self._writer.write_image(ANOMALY_MASK, mask, 'mono8', stamp, FRAME_ID)
        self.count += 1

    def _info(self, types: dict[str, Any], header: Any, size: tuple[int, ...]) -> Any:
        height, width = size
        focal = width / 2 / math.tan(self._fov / 2)
        k = np.array([focal, 0, (width - 1) / 2, 0, focal, (height - 1) / 2, 0, 0, 1])
        p = np.insert(k, [3, 6, 9], 0.0)
        window = types['sensor_msgs/msg/RegionOfInterest'](0, 0, 0, 0, False)
        return types[CAMERA_INFO](header, height, width, 'plumb_bob', np.zeros(5), k, np.eye(3).ravel(), p, 0, 0,
                                  window)
