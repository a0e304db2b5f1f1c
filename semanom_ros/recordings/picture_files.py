"""Files of pictures and of masks: which ones a folder holds, and their pixels the right way up."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from semanom_ros.core.picture_decoder import decode_file
from semanom_ros.errors import BagError, ImageError, git_lfs_pointer
from semanom_ros.recordings.natural_order import natural_order

PICTURES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff', '.ppm', '.pgm')
"""Endings, in small letters, of the files that are taken for pictures."""

MASKS = ('.png', '.bmp', '.tif', '.tiff', '.pgm')
"""Those of masks: what keeps numbers as they are."""

JPEG_QUALITY = 95
"""Of what has to be encoded anew."""

_LARGEST_FILE = 1 << 30  # bytes; the largest picture that is decoded has fewer, whatever its format
_ORIENTATION = 0x0112  # tag of EXIF and TIFF
_Pixels = npt.NDArray[Any]

_TURNS: dict[int, Callable[[_Pixels], _Pixels]] = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels[::-1].swapaxes(0, 1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: pixels.swapaxes(0, 1)[::-1],
}
"""What brings stored pixels upright, by the orientation that EXIF gives."""


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
        for value in self.every:
            if self.every.count(value) > 1:
                raise BagError(f'masks: found the value {value} declared twice, expected it to be either nominal, '
                               'anomalous or ignored; correct --nominal, --anomalous or --ignore')

    @property
    def every(self) -> tuple[int, ...]:
        """All that are declared."""
        return (*self.nominal, *self.anomalous, *self.ignore)

    def __str__(self) -> str:
        return ', '.join(f'{"/".join(map(str, values))} ({meaning})' for meaning, values in (
            ('nominal', self.nominal), ('anomalous', self.anomalous), ('ignored', self.ignore)) if values)


DEFAULT_VALUES = MaskValues()


def files_below(folder: Path, endings: Collection[str]) -> list[Path]:
    """The files of these endings in a folder and those below it, in the order of their names.

    Numbers in names count as numbers. What is hidden is left out; a linked folder is looked into where it leads to one
    that was not seen yet.

    Args:
        folder: to look into.
        endings: in small letters.

    Raises:
        BagError: a folder may not be read.
    """
    found: list[Path] = []
    root = folder.resolve()
    seen = set(root.parents)  # a link to one of them would lead round in a circle
    folders, links = [folder], list[Path]()
    while folders or links:
        place = folders.pop() if folders else links.pop(0)
        if (identity := place.resolve()) in seen:
            continue
        seen.add(identity)
        try:
            entries = [entry for entry in os.scandir(place) if not entry.name.startswith('.')]
        except OSError as error:
            raise BagError(f'{place}: cannot be looked into ({error.strerror}); change its permissions') from error
        for entry in sorted(entries, key=lambda entry: entry.name):
            path = place / entry.name
            if entry.is_dir():
                (links if entry.is_symlink() else folders).append(path)
            elif path.suffix.lower() in endings:
                found.append(path)
    return sorted(found, key=lambda path: natural_order(str(path)))


class Upright(NamedTuple):
    """A picture file, read.

    Attributes:
        pixels: (H, W), (H, W, 3) or (H, W, 4) uint8 or uint16, upright; colours in OpenCV's order.
        data: the picture as it can be recorded: the bytes of the file, where they hold it upright.
        format: of `data`, `jpeg` or `png`.
        orientation: 1 to 8, as EXIF numbers them; 1: it is stored upright.
        pages: how many pictures the file holds, of which this is the first.
    """

    pixels: _Pixels
    data: bytes
    format: str
    orientation: int
    pages: int

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.pixels.shape[0], self.pixels.shape[1]


def read_picture(path: Path) -> Upright:
    """The picture in a file, turned as its EXIF says.

    Raises:
        BagError: it is none, damaged, or too large.
    """
    data = _bytes_of(path, 'a picture')
    try:
        pixels = decode_file(data, path.name)
    except ImageError as error:
        raise BagError(f'{path}: {_reason(error, data, "a picture")}; remove it') from error
    orientation, kind, pages = _header(data)
    if kind != 'TIFF':  # whose orientation OpenCV follows itself
        pixels = np.ascontiguousarray(_TURNS[orientation](pixels))
    format = 'jpeg' if kind == 'JPEG' else 'png'
    if orientation != 1 or kind not in ('JPEG', 'PNG'):
        options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if format == 'jpeg' else [cv2.IMWRITE_PNG_COMPRESSION, 1]
        data = cv2.imencode(f'.{format}', pixels, options)[1].tobytes()
    return Upright(pixels, data, format, orientation, pages)


def read_mask(path: Path, values: MaskValues, picture: Upright) -> npt.NDArray[np.uint8]:
    """The mask of a picture, as upright as the picture is.

    Of a file with a palette the numbers count and not the colours, as those who draw label images mean it. A mask that
    has no orientation of its own, of a picture that has one, was drawn on the picture as it is stored or as viewers
    show it: the size tells, or nothing does.

    Args:
        path: of its file.
        values: what its numbers mean.
        picture: that it belongs to.

    Returns:
        (H, W) uint8: 0 nominal, 128 ignore, 255 anomalous.

    Raises:
        BagError: it is no mask, has values that are not declared, another size than the picture, or it cannot be told
            which way up it is.
    """
    data = _bytes_of(path, 'a mask')
    try:
        numbers = _numbers(path, data, values)
    except ImageError as error:
        raise BagError(f'{path}: {_reason(error, data, "a mask")}; save it again, as PNG of 8 or 16 bits') from error
    orientation, format, _ = _header(data)
    if orientation != 1 and format != 'TIFF':
        numbers = _TURNS[orientation](numbers)
    elif orientation == 1 and picture.orientation != 1:
        numbers = _as_the_picture(path, numbers, picture)
    if numbers.shape != picture.size:
        raise BagError(f'{path}: found {numbers.shape[1]}x{numbers.shape[0]} pixels, expected the size of its picture, '
                       f'{picture.size[1]}x{picture.size[0]}; give masks at full resolution')
    present = np.flatnonzero(np.bincount(numbers.ravel())).tolist()
    if odd := [value for value in present if value not in values.every]:
        raise BagError(f'{path}: found the values {_listed(present)}, of which {_listed(odd)} '
                       f'{"are" if len(odd) > 1 else "is"} not declared, expected {values}; declare them with '
                       '--nominal, --anomalous and --ignore')
    mask = np.zeros(numbers.shape, np.uint8)
    mask[np.isin(numbers, values.ignore)] = 128
    mask[np.isin(numbers, values.anomalous)] = 255
    return mask


def _bytes_of(path: Path, what: str) -> bytes:
    if not path.is_file():  # reading from a device might never end
        raise BagError(f'{path}: found {"no regular file" if path.exists() else "a link to nothing"}, expected {what}; '
                       'remove it')
    try:
        if (size := path.stat().st_size) > _LARGEST_FILE:
            raise BagError(f'{path}: found {size} bytes, expected {what} of at most {_LARGEST_FILE}; remove it')
        if pointer := git_lfs_pointer(path):
            raise BagError(pointer)
        return path.read_bytes()
    except OSError as error:
        raise BagError(f'{path}: cannot be read ({error.strerror}), expected {what}; change its permissions or remove '
                       'it') from error


def _reason(error: ImageError, data: bytes, what: str) -> str:
    """An error of the decoder, said of a file."""
    text = str(error).removeprefix('compressed image: ').split(';')[0]
    return f'found {len(data)} bytes that do not decode, expected {what}' if 'do not decode' in text else text


def _header(data: bytes) -> tuple[int, str, int]:
    """Orientation, format and number of pages of what has been decoded already."""
    try:
        with Image.open(io.BytesIO(data)) as header:
            format = 'JPEG' if header.format == 'MPO' else header.format or ''
            # JPEGs of telephones hold second pictures that nobody means
            pages = getattr(header, 'n_frames', 1) if format in ('TIFF', 'WEBP', 'PNG') else 1
            orientation = header.getexif().get(_ORIENTATION, 1)
    except Exception:  # Pillow raises what it likes on damaged EXIF, which nobody can follow
        return 1, '', 1
    return (orientation if orientation in _TURNS else 1), format, pages


def _numbers(path: Path, data: bytes, values: MaskValues) -> npt.NDArray[Any]:
    """(H, W) of unsigned integers, not turned."""
    pixels = decode_file(data, path.name)
    with Image.open(io.BytesIO(data)) as header:
        mode = header.mode
        indices = np.asarray(header) if mode == 'P' else None
    colours = pixels.ndim == 3 and bool((pixels[..., :3] != pixels[..., :1]).any())
    if indices is not None:
        return _of_palette(path, indices, None if colours else _grey(pixels), values)
    if colours:
        found = np.unique(pixels[..., 2::-1].reshape(-1, 3), axis=0)
        named = ', '.join('/'.join(map(str, colour)) for colour in found[:4].tolist())
        raise BagError(f'{path}: found {len(found)} colours (red/green/blue {named}), expected numbers in one '
                       f'channel: {values}; convert the masks to numbers')
    if pixels.ndim == 3 and pixels.shape[2] == 4 and (pixels[..., 3] != pixels[0, 0, 3]).any():
        raise BagError(f'{path}: found a transparency that varies, expected numbers in one channel: {values}; '
                       'convert the masks to numbers')
    grey = _grey(pixels)
    if mode == '1' and 1 in values.every and 255 not in values.every:
        return grey // 255  # one bit is 0 or 1 to some programs, 0 or 255 to others
    return grey


def _grey(pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return pixels if pixels.ndim == 2 else pixels[..., 0]


def _of_palette(path: Path, indices: npt.NDArray[Any], grey: npt.NDArray[Any] | None, values: MaskValues
                ) -> npt.NDArray[Any]:
    """The numbers, unless only the greys of the palette are declared; an error where both are and disagree."""
    if grey is None or np.array_equal(indices, grey) or not np.isin(grey, values.every).all():
        return indices
    if np.isin(indices, values.every).all():
        raise BagError(f'{path}: found a palette whose numbers ({_listed(np.unique(indices).tolist())}) and greys '
                       f'({_listed(np.unique(grey).tolist())}) are both declared, expected one meaning: {values}; '
                       'convert the masks to grey without a palette')
    return grey


def _as_the_picture(path: Path, numbers: npt.NDArray[Any], picture: Upright) -> npt.NDArray[Any]:
    """A mask without an orientation, of a picture with one."""
    turned = _TURNS[picture.orientation](numbers)
    if numbers.shape == turned.shape == picture.size and not np.array_equal(numbers, turned):
        raise BagError(f'{path}: found no orientation, and {picture.orientation} in the EXIF of its picture, expected '
                       'to know which way up the mask is; turn the pictures themselves (`mogrify -auto-orient`) if '
                       'the masks fit what viewers show, or remove the orientation (`exiftool -Orientation=`) if they '
                       'fit the stored pixels')
    return numbers if numbers.shape == picture.size else turned


def _listed(values: Sequence[int]) -> str:
    return ', '.join(map(str, values[:8])) + (f' and {len(values) - 8} more' if len(values) > 8 else '')
