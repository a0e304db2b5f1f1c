"""Pictures in and out of `sensor_msgs/Image` and `sensor_msgs/CompressedImage`.

One conversion serves the nodes and the bags: the functions read only the fields of
a message, so rclpy's messages and those of `rosbags` both do.

A picture must have the same pixels, and so the same anomaly score, on the vehicle and
in the evaluation, whatever is installed there. So each encoding of ENCODINGS is decoded
here, to the pixels that cv_bridge gives (a test compares them wherever cv_bridge is;
`rosbags-image` 0.10 reads past the padding of `step` and takes nv12 for a grey picture).
Encodings that are not among them go through cv_bridge where it works.
"""

from __future__ import annotations

import logging
import sys
from array import array
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from semanom_ros.bounds import MAX_PIXELS
from semanom_ros.core.picture_decoder import decode_file
from semanom_ros.errors import ImageError
from semanom_ros.recordings import cv_bridge_conversion

logger = logging.getLogger(__name__)


class ImageMessage(Protocol):
    """The fields of `sensor_msgs/Image` that hold the picture."""

    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: Any


class CompressedImageMessage(Protocol):
    """The fields of `sensor_msgs/CompressedImage` that hold the picture."""

    format: str
    data: Any


class _Layout(NamedTuple):
    """How the pixels of an encoding lie in memory.

    Attributes:
        depth: bytes of one sample.
        channels: samples of one pixel, in the first plane.
        to_rgb: `cv2.cvtColor` code that leads to RGB; None: it is RGB.
        block: (height, width) that the picture must be a multiple of.
        chroma: the picture is followed by a plane of half its height.
    """

    depth: int
    channels: int
    to_rgb: int | None
    block: tuple[int, int] = (1, 1)
    chroma: bool = False


def _layouts() -> dict[str, _Layout]:
    layouts = {
        'nv12': _Layout(1, 1, cv2.COLOR_YUV2RGB_NV12, (2, 2), True),
        'nv21': _Layout(1, 1, cv2.COLOR_YUV2RGB_NV21, (2, 2), True),
    }
    for name in ('yuv422', 'uyvy'):
        layouts[name] = _Layout(1, 2, cv2.COLOR_YUV2RGB_UYVY, (1, 2))
    for name in ('yuv422_yuy2', 'yuyv'):
        layouts[name] = _Layout(1, 2, cv2.COLOR_YUV2RGB_YUY2, (1, 2))
    for depth in (1, 2):
        bits = 8 * depth
        layouts |= {
            f'rgb{bits}': _Layout(depth, 3, None),
            f'bgr{bits}': _Layout(depth, 3, cv2.COLOR_BGR2RGB),
            f'rgba{bits}': _Layout(depth, 4, cv2.COLOR_RGBA2RGB),
            f'bgra{bits}': _Layout(depth, 4, cv2.COLOR_BGRA2RGB),
            f'mono{bits}': _Layout(depth, 1, cv2.COLOR_GRAY2RGB),
            # OpenCV's classic names give the second row's second and third pixel, ROS the first row's first and second
            f'bayer_rggb{bits}': _Layout(depth, 1, cv2.COLOR_BayerBG2RGB, (2, 2)),
            f'bayer_bggr{bits}': _Layout(depth, 1, cv2.COLOR_BayerRG2RGB, (2, 2)),
            f'bayer_gbrg{bits}': _Layout(depth, 1, cv2.COLOR_BayerGR2RGB, (2, 2)),
            f'bayer_grbg{bits}': _Layout(depth, 1, cv2.COLOR_BayerGB2RGB, (2, 2)),
            f'{bits}UC1': _Layout(depth, 1, cv2.COLOR_GRAY2RGB),
            f'{bits}UC3': _Layout(depth, 3, cv2.COLOR_BGR2RGB),
            f'{bits}UC4': _Layout(depth, 4, cv2.COLOR_BGRA2RGB),
        }
    return layouts


_LAYOUTS = _layouts()
_VIDEO = ('h264', 'h.264', 'avc', 'h265', 'h.265', 'hevc', 'vp8', 'vp9', 'av1')  # that bridges send as pictures

ENCODINGS = tuple(sorted(_LAYOUTS))
"""Encodings of `sensor_msgs/Image` that `image_from_message` reads."""

_LABEL_LAYOUTS = {
    **{name: _LAYOUTS[name] for name in ('mono8', '8UC1', 'mono16', '16UC1')}, '32SC1': _Layout(4, 1, None)}

LABEL_ENCODINGS = tuple(_LABEL_LAYOUTS)
"""Encodings of `sensor_msgs/Image` that `labels_from_message` reads."""


@dataclass
class BitDepth:
    """How many of its bits a 16-bit stream uses; says once in the log where that is not what was declared.

    Attributes:
        declared: bits, from the lowest; 0: all 16.
        stream: what the log calls it; '': nothing is said.
        seen: bits of the largest sample so far.
    """

    declared: int = 0
    stream: str = ''
    seen: int = 0

    @property
    def brightest(self) -> int:
        """The sample that becomes 255."""
        return (1 << (self.declared or 16)) - 1

    def look(self, samples: npt.NDArray[Any]) -> None:
        """Takes note of 16-bit samples."""
        if not self.stream or self.seen > 14:
            return
        bits = int(samples.max()).bit_length()
        if bits <= self.seen:
            return
        before, self.seen = self._likely, bits
        if self.declared and bits > self.declared:
            logger.warning('%s: found a sample of %d bits, expected at most %d (bit_depth); what is brighter is cut '
                           'off; set bit_depth to 0 or to what the camera sends', self.stream, bits, self.declared)
            self.seen = 16
        elif not self.declared and before < self._likely < 16:
            logger.warning('%s: found 16-bit images that use %d bits, expected 16; they arrive %d times too dark; set '
                           'bit_depth to %d', self.stream, self._likely, 1 << 16 - self._likely, self._likely)

    @property
    def _likely(self) -> int:
        """What cameras send, no less than what was seen."""
        return next(bits for bits in (0, 10, 12, 14, 16) if bits >= self.seen)


def image_from_message(message: ImageMessage, depth: BitDepth | None = None) -> npt.NDArray[np.uint8]:
    """The picture of a `sensor_msgs/Image`.

    16-bit samples are scaled by 255 / 65535 after the colours are converted, as cv_bridge
    does; `8UC3` and `8UC4` are taken for BGR and BGRA, as OpenCV orders them; YUV is
    BT.601 of limited range.

    Args:
        message: of any encoding in `ENCODINGS`, or one that cv_bridge converts; `step`
            may be padded, 16-bit samples may be of either endianness. nv12 and nv21 have
            the luma plane of `height` rows followed by the chroma plane of `height` / 2 rows.
        depth: how many bits 16-bit samples use; None: all.

    Returns:
        (height, width, 3) uint8 RGB, contiguous and writable. It shares the memory of
        an unpadded rgb8 message that is itself writable.

    Raises:
        ImageError: without pixels or of more than MAX_PIXELS, of an unknown encoding, or
            `step` or `data` does not fit the size.
    """
    layout = _LAYOUTS.get(message.encoding)
    if layout is None:
        _check_size(message.height, message.width)
        if fault := cv_bridge_conversion.fault():
            raise ImageError(f'image: found encoding {message.encoding!r}, expected one of {", ".join(ENCODINGS)} '
                             f'(others need cv_bridge: {fault}); set the camera driver to one of them')
        return cv_bridge_conversion.rgb_of(message)
    return _to_rgb(_samples(message, layout), layout.to_rgb, depth)


def labels_from_message(message: ImageMessage) -> npt.NDArray[np.int64]:
    """(height, width) numbers of a `sensor_msgs/Image` of one channel, such as a label image, as they are.

    Args:
        message: of an encoding in LABEL_ENCODINGS.

    Raises:
        ImageError: without pixels, of another encoding, or `step` or `data` does not fit the size.
    """
    layout = _LABEL_LAYOUTS.get(message.encoding)
    if layout is None:
        raise ImageError(f'labels: found encoding {message.encoding!r}, expected one of {", ".join(LABEL_ENCODINGS)}; '
                         'correct the node that sends them')
    return _samples(message, layout)[..., 0].astype(np.int64)


def _samples(message: ImageMessage, layout: _Layout) -> npt.NDArray[Any]:
    """(rows, width, channels) samples, sharing the message's memory."""
    encoding, height, width = message.encoding, message.height, message.width
    _check_size(height, width)
    if height % layout.block[0] or width % layout.block[1]:
        raise ImageError(f'image: found {width}x{height} pixels of {encoding}, expected a multiple of '
                         f'{layout.block[1]}x{layout.block[0]}; check the camera driver')
    pixel = layout.depth * layout.channels
    if message.step < width * pixel:
        raise ImageError(f'image: found step {message.step}, expected at least {width * pixel} for {width} pixels of '
                         f'{encoding}; check the camera driver')
    data = np.frombuffer(message.data, np.uint8)
    rows = height * 3 // 2 if layout.chroma else height
    # the padding after the last row may be left out
    if not message.step * (rows - 1) + width * pixel <= data.size <= message.step * rows:
        raise ImageError(f'image: found {data.size} bytes, expected {message.step * rows} for {width}x{height} pixels '
                         f'of {encoding} with step {message.step}; check the camera driver')
    big = layout.depth > 1 and bool(message.is_bigendian)
    shape, strides = (rows, width, layout.channels), (message.step, pixel, layout.depth)
    kind = f'{">" if big else "<"}{"i" if layout.depth == 4 else "u"}{layout.depth}'
    return np.ndarray(shape, kind, data, strides=strides)  # type: ignore[call-overload]


def _check_size(height: int, width: int) -> None:
    if height <= 0 or width <= 0:
        raise ImageError(f'image: found {width}x{height} pixels, expected at least 1x1; check the camera driver')
    if height * width > MAX_PIXELS:
        raise ImageError(f'image: found {width}x{height} pixels, expected at most {MAX_PIXELS} in all; '
                         'send smaller pictures')


def image_from_compressed(message: CompressedImageMessage, depth: BitDepth | None = None) -> npt.NDArray[np.uint8]:
    """The picture of a `sensor_msgs/CompressedImage`: JPEG, PNG, or what else OpenCV decodes.

    `format` is read as image_transport's compressed plugin writes it: `rgb8; jpeg
    compressed bgr8` holds an ordinary JPEG, `... compressed rgb8` one whose red and blue
    were swapped before encoding, `bayer_rggb8; png compressed` the mosaic in grey.
    The orientation in EXIF is ignored: CameraInfo knows nothing of it.

    Args:
        message: with a picture in `data`.
        depth: how many bits 16-bit samples use; None: all.

    Returns:
        (height, width, 3) uint8 RGB, contiguous and writable.

    Raises:
        ImageError: corrupt, cut off, of a format that cannot be decoded, or of more than MAX_PIXELS.
    """
    source, _, compression = (part.strip() for part in message.format.partition(';'))
    if any(codec in message.format.lower() for codec in _VIDEO):
        raise ImageError(f'compressed image: found a frame of a video (format {message.format!r}), expected a picture '
                         'that needs no other; send JPEG or raw images, or convert the recording to them')
    if 'compressedDepth' in compression:
        raise ImageError(f'compressed image: found distances (format {message.format!r}), expected a picture; '
                         'choose the topic of the picture')
    pixels = decode_file(bytes(memoryview(message.data)), f'format {message.format!r}')
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    if channels == 1 and source.startswith('bayer_') and source in _LAYOUTS:
        code: int | None = _LAYOUTS[source].to_rgb
    elif channels == 3 and compression.endswith('compressed rgb8'):
        code = None
    else:
        code = {1: cv2.COLOR_GRAY2RGB, 3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGB}[channels]
    return _to_rgb(pixels.reshape(*pixels.shape[:2], channels), code, depth)


def is_compressed(message: object) -> bool:
    """Whether a message is a CompressedImage and not an Image."""
    return hasattr(message, 'format')


def stamp_ns(message: Any) -> int:
    """Nanoseconds of a message's header stamp."""
    stamp = message.header.stamp
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def encode_pixels(image: npt.NDArray[Any], encoding: str) -> array[int]:
    """The `data` of an Image message, in the one type that rclpy does not walk through byte by byte.

    Args:
        image: RGB (H, W, 3) uint8 for `rgb8` and `bgr8`, (H, W) uint8 for `mono8`,
            (H, W) float32 for `32FC1`.
        encoding: one of those four.

    Returns:
        array.array('B') of the unpadded pixels, little endian.

    Raises:
        ImageError: the picture does not have the shape and type of the encoding.
    """
    if encoding in ('rgb8', 'bgr8'):
        expected, fits = '(H, W, 3) uint8', image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8
    elif encoding == 'mono8':
        expected, fits = '(H, W) uint8', image.ndim == 2 and image.dtype == np.uint8
    elif encoding == '32FC1':
        expected, fits = '(H, W) float32', image.ndim == 2 and image.dtype == np.float32
    else:
        raise ImageError(f'image: found encoding {encoding!r}, expected rgb8, bgr8, mono8 or 32FC1; use one of them')
    if not fits or image.size == 0:
        raise ImageError(f'image: found {image.shape} {image.dtype}, expected {expected} for {encoding}; convert it')
    data = array('B', [0]) * image.nbytes
    target = np.frombuffer(data, image.dtype).reshape(image.shape)
    if encoding == 'bgr8':
        cv2.cvtColor(image, cv2.COLOR_RGB2BGR, dst=target)
    else:
        np.copyto(target, image)
    if encoding == '32FC1' and sys.byteorder == 'big':
        target.byteswap(inplace=True)
    return data


def compress_pixels(image: npt.NDArray[np.uint8], format: str = 'jpeg', quality: int = 90) -> array[int]:
    """The `data` of a CompressedImage message.

    Args:
        image: (H, W, 3) uint8 RGB, or (H, W) uint8.
        format: `jpeg` or `png`.
        quality: of a JPEG, 1 to 100.

    Raises:
        ImageError: another format, or a picture that cannot be encoded.
    """
    if format not in ('jpeg', 'png'):
        raise ImageError(f'compressed image: found format {format!r}, expected jpeg or png; use one of them')
    if image.dtype != np.uint8 or image.size == 0 or not (image.ndim == 2 or image.shape[2:] == (3,)):
        raise ImageError(f'compressed image: found {image.shape} {image.dtype}, expected (H, W, 3) or (H, W) uint8')
    pixels = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if format == 'jpeg' else [cv2.IMWRITE_PNG_COMPRESSION, 1]
    encoded, data = cv2.imencode('.' + format, pixels, options)
    if not encoded:
        raise ImageError(f'compressed image: {image.shape[1]}x{image.shape[0]} pixels cannot be stored as {format}')
    result: array[int] = array('B')
    result.frombytes(data.tobytes())
    return result


def _to_rgb(samples: npt.NDArray[Any], code: int | None, depth: BitDepth | None) -> npt.NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB from (H, W, channels) samples of 8 or 16 bits."""
    if samples.dtype.itemsize == 2:
        samples, depth = samples.astype(np.uint16), depth or BitDepth()
        depth.look(samples)
        if code is not None:
            samples = cv2.cvtColor(samples, code)
        return cv2.convertScaleAbs(samples, alpha=255 / depth.brightest)  # type: ignore[return-value]
    if code is not None:
        return cv2.cvtColor(samples, code)  # type: ignore[return-value]
    return np.require(samples, np.uint8, ['C', 'W'])
