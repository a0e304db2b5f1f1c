"""From the bytes of a picture file to pixels, never more than MAX_PIXELS of them.

Nothing is decoded before its size is known: Pillow reads headers, OpenCV decodes. OpenCV's own bound (its variable
OPENCV_IO_MAX_IMAGE_PIXELS, which the package sets before OpenCV is imported) is the second line, for files whose
headers two readers may understand in two ways.
"""

from __future__ import annotations

import io
import re
import warnings
from functools import cache
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from semanom_ros.bounds import MAX_PIXELS
from semanom_ros.errors import ImageError

_FORMATS = ('JPEG', 'PNG', 'WEBP', 'BMP', 'TIFF', 'GIF', 'PPM', 'JPEG2000', 'AVIF')  # that OpenCV decodes too
_MOST_SCANS = 64  # of a progressive JPEG, each of which costs a pass over the whole picture; encoders make about ten
_MOST_SCANNED = 1 << 30  # pixels in all scans together
_MOST_RESTARTS = 1 << 20  # markers from which a JPEG's coded pixels go on; at each of which bytes are tried
_MARKER = re.compile(rb'\xff([^\x00\x01\xd0-\xd7\xff])', re.S)  # of a JPEG, but those among coded pixels
_SHARPNESS_CHECKED = 1 << 24  # pixels up to which a progressive JPEG is looked at in full, and not at an eighth

warnings.filterwarnings('ignore', module=r'PIL\.')  # of damaged files, which are said to be damaged here


def decode_file(data: bytes, name: str) -> npt.NDArray[Any]:
    """The pixels in the bytes of a picture file, as OpenCV has them, once its header has said how many they are.

    Args:
        data: of a file.
        name: says in an error where it comes from.

    Returns:
        (H, W) or (H, W, 3) or (H, W, 4) of uint8 or uint16; colours are BGR or BGRA.

    Raises:
        ImageError: corrupt, cut off, of a format that cannot be decoded, or of more than MAX_PIXELS.
    """
    jpeg = _jpeg(data) if data.startswith(b'\xff\xd8') else None
    announced = _header_size(data, jpeg, name)
    pixels = None
    if announced is not None:
        try:
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        except cv2.error:
            pixels = None
    if pixels is not None and pixels.dtype not in (np.uint8, np.uint16):
        raise ImageError(f'compressed image: found samples of {pixels.dtype}, expected unsigned ones of 8 or 16 bits '
                         f'({name}); convert it')
    if pixels is None:
        raise ImageError(f'compressed image: found {len(data)} bytes that do not decode, expected a whole JPEG or PNG '
                         f'({name}); check the camera driver and the network')
    if jpeg and _runs_dry(data[:jpeg.end], jpeg, pixels):
        raise ImageError(f'compressed image: found a JPEG of {announced} pixels of which a part is missing, expected '
                         f'all of it ({name}); check the camera driver and the network')
    return pixels


class _Jpeg(NamedTuple):
    """What the markers of a JPEG say.

    Attributes:
        scans: how many there are.
        begin: where the coded pixels of the first one begin.
        end: behind the picture; other files may follow there. 0: it is not reached.
        progressive: its scans refine each other.
    """

    scans: int
    begin: int
    end: int
    progressive: bool


def _jpeg(data: bytes) -> _Jpeg:
    """Goes from marker to marker, past what segments hold (thumbnails, notes of the camera's maker)."""
    scans = begin = end = 0
    progressive, at = False, 2
    while (marker := _MARKER.search(data, at)) and marker[1] != b'\xd8':  # a second beginning: another picture's
        at = marker.end()
        if marker[1] == b'\xd9':
            end = at
            break
        at += int.from_bytes(data[at:at + 2], 'big')
        progressive |= marker[1] == b'\xc2'
        if marker[1] == b'\xda':
            begin, scans = begin or at, scans + 1
    return _Jpeg(scans, begin, end, progressive)


def _header_size(data: bytes, jpeg: _Jpeg | None, name: str) -> str | None:
    """What the header of a picture file says that its size is, as `640x480`; None where it is no picture, or cut off.

    Raises:
        ImageError: it has more than MAX_PIXELS.
    """
    # OpenCV 4 fills the missing end of a cut JPEG with grey, which would look like an anomaly
    if not data or (jpeg and not jpeg.end):
        return None
    too_many = f'expected at most {MAX_PIXELS} in all ({name}); send smaller pictures'
    try:
        with Image.open(io.BytesIO(data), formats=_readable()) as header:
            width, height = header.size
    except Image.DecompressionBombError as error:
        raise ImageError(f'compressed image: found a header that announces {_number(error)} pixels, {too_many}'
                         ) from error
    except Exception:  # Pillow's plug-ins raise what they like on foreign bytes
        return None
    if width * height > MAX_PIXELS:
        raise ImageError(f'compressed image: found a header that announces {width}x{height} pixels, {too_many}')
    most = min(_MOST_SCANS, _MOST_SCANNED // max(1, width * height))
    if jpeg and jpeg.scans > most:
        raise ImageError(f'compressed image: found a JPEG of {width}x{height} pixels in {jpeg.scans} scans, expected '
                         f'at most {most} ({name}); check where it comes from')
    return f'{width}x{height}'


@cache
def _readable() -> tuple[str, ...]:
    """Those of _FORMATS that this Pillow knows."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _number(error: Exception) -> str:
    found = re.search(r'\d+', str(error))
    return found[0] if found else 'too many'


def decode_thumbnail(data: bytes) -> npt.NDArray[np.uint8] | None:
    """(h, w, 3) uint8 RGB of a stored thumbnail; None where there is none or it is damaged."""
    try:
        pixels = decode_file(data, 'thumbnail')
    except ImageError:
        return None
    if pixels.dtype != np.uint8:
        return None
    code = {2: cv2.COLOR_GRAY2RGB, 3: cv2.COLOR_BGR2RGB}[pixels.ndim]
    return np.asarray(cv2.cvtColor(pixels[..., :3] if pixels.ndim == 3 else pixels, code), np.uint8)


def _runs_dry(data: bytes, jpeg: _Jpeg, pixels: npt.NDArray[Any]) -> bool:
    """Whether the coded pixels of a JPEG end before the picture does, however whole the file looks.

    libjpeg then leaves blocks at the middle grey, without an error that OpenCV would pass on. Pictures may have such
    blocks of their own: where there are some, more coded bytes are put in before each marker. They change the picture
    only where the decoder is still waiting for some. The scans of a progressive JPEG that are missing leave no grey, so
    it is always tried.
    """
    begin, progressive = jpeg.begin, jpeg.progressive
    if not progressive and not _has_grey_block(pixels):
        return False
    restarts = re.findall(rb'\xff([\xd0-\xd7])', data[begin:])
    if len(restarts) > _MOST_RESTARTS:
        return True
    more = 16 * b'\xa5\xb6\x97\xd3\x6a\xc9'  # in the usual Huffman tables, blocks that are brighter or darker
    fed = re.sub(rb'(\xff?)\xff(?=[\xc0-\xfe])',  # half a marker before another one becomes a coded byte
                 lambda found: (found[1] and b'\xff\0') + more + b'\xff', data[begin:])
    following = restarts[-1][0] + 1 if restarts else 0xd0
    further = b''.join(bytes([0xff, 0xd0 + (following + number) % 8]) + more for number in range(8))
    end = fed.rindex(b'\xff\xd9')
    fed = data[:begin] + fed[:end] + further + fed[end:]
    whole = progressive and pixels.shape[0] * pixels.shape[1] <= _SHARPNESS_CHECKED
    try:
        return not np.array_equal(_silently(data, whole), _silently(fed, whole))
    except Exception:  # Pillow finds it damaged
        return True


def _has_grey_block(pixels: npt.NDArray[Any]) -> bool:
    """Whether a block of 8 x 8 pixels has one value, the middle one; not its edges, into which colours run over."""
    height, width = pixels.shape[0] // 8 * 8, pixels.shape[1] // 8 * 8
    first = pixels if pixels.ndim == 2 else pixels[..., 0]
    rows, columns = np.nonzero(first[3:height:8, 4:width:8] == 128)  # few in most pictures
    rows, columns = 8 * rows, 8 * columns
    for row, column in ((3, 4), (1, 1), (6, 6), (1, 6), (6, 1)):
        samples = pixels[rows + row, columns + column]
        grey = samples == 128 if samples.ndim == 1 else (samples == 128).all(axis=1)
        rows, columns = rows[grey], columns[grey]
    return bool(len(rows))


def _silently(jpeg: bytes, whole: bool) -> npt.NDArray[np.uint8]:
    """A JPEG, at an eighth of its size or whole, by Pillow, which keeps libjpeg's warnings to itself."""
    with Image.open(io.BytesIO(jpeg), formats=('JPEG',)) as image:
        if not whole:
            image.draft(image.mode, (1, 1))
        return np.asarray(image)
