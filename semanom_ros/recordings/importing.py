"""Recordings made of folders of pictures and of videos."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
_AS_THEY_ARE = {'.jpg': 'jpeg', '.jpeg': 'jpeg', '.png': 'png'}
_DECODED = ('.bmp', '.webp', '.tif', '.tiff', '.ppm', '.pgm')
_FIRST_STAMP_NS = 1_000_000_000  # a stamp of 0 means `no time` to much of ROS


@dataclass(frozen=True)
class Masks:
    """Ground truth beside pictures.

    Attributes:
        folder: holds for each picture a mask of the same name, with `suffix` and .png.
        suffix: e.g. `_labels_semantic` for SegmentMeIfYouCan.
        anomalous, ignore: values of a mask's pixels; every other one is nominal.
    """

    folder: Path
    suffix: str = ''
    anomalous: int = 255
    ignore: int = 128


def import_images(folder: Path, target: Path, *, rate: float, fov_degrees: float, masks: Masks | None = None,
                  storage: str = 'mcap', progress: Progress = SILENT) -> int:
    """Makes a recording of the pictures in a folder and those below it, in the order of their names.

    JPEG and PNG files go in byte by byte, others as PNG.

    Args:
        folder: pictures; numbers in their names count as numbers.
        target: folder of the recording to be made.
        rate: pictures a second.
        fov_degrees: horizontal field of view, for the CameraInfo of an ideal pinhole camera.
        masks: ground truth; a picture without a mask gets none.
        storage: `mcap` or `sqlite3`.
        progress: is told.

    Returns:
        The number of pictures.

    Raises:
        BagError: no pictures, no masks, or one that is none or has another size; the recording cannot be written.
    """
    pictures = sorted((path for path in folder.rglob('*') if path.suffix.lower() in (*_AS_THEY_ARE, *_DECODED)
                       and not (masks and masks.folder.resolve() in path.resolve().parents)), key=_natural)
    if not pictures:
        raise BagError(f'{folder}: found no picture ({", ".join((*_AS_THEY_ARE, *_DECODED))}), expected some; give '
                       'another folder')
    known = {path.stem: path for path in masks.folder.rglob('*.png')} if masks else {}
    if masks and not any(path.stem + masks.suffix in known for path in pictures):
        raise BagError(f'{masks.folder}: found no mask named {pictures[0].stem}{masks.suffix}.png or like another '
                       'picture; give --masks and --mask-suffix')
    progress.begin(f'import {folder.name}', len(pictures), 'frame')
    with BagWriter(target, storage) as writer:
        recording = _Recording(writer, rate, fov_degrees)
        for path in pictures:
            data = path.read_bytes()
            image = _decoded(path, data)
            if path.suffix.lower() not in _AS_THEY_ARE:
                data = compress_pixels(image, 'png').tobytes()
            mask = None
            if masks and (found := known.get(path.stem + masks.suffix)):
                mask = _mask(found, masks, _size(image))
            recording.add(data, _AS_THEY_ARE.get(path.suffix.lower(), 'png'), _size(image), mask)
            progress.advance(1)
    progress.end()
    return len(pictures)


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


def _mask(path: Path, masks: Masks, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """(H, W) uint8: 0 nominal, 128 ignore, 255 anomalous."""
    values = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if values is None:
        raise BagError(f'{path}: cannot be read as a picture, expected a mask; remove it')
    values = values if values.ndim == 2 else values[..., 0]
    if values.shape != size:
        raise BagError(f'{path}: found {values.shape[1]}x{values.shape[0]} pixels, expected the size of its picture, '
                       f'{size[1]}x{size[0]}; give masks at full resolution')
    mask = np.zeros(size, np.uint8)
    mask[values == masks.ignore] = 128
    mask[values == masks.anomalous] = 255
    return mask


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
