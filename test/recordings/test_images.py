"""Every encoding that cameras send, against rosbags-image and against colours whose RGB is known."""

from __future__ import annotations

import importlib.util
import io
import re
import struct
import subprocess
import sys
import zlib
from array import array
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rosbags.image import message_to_cvimage

from semanom_ros.bounds import MAX_PIXELS
from semanom_ros.core.embedding.embedder import Embedder
from semanom_ros.core.embedding.recorded_parameters import contradiction, parameters_of
from semanom_ros.errors import ImageError
from semanom_ros.recordings import cv_bridge_conversion
from semanom_ros.recordings.bags import IMAGE, BagReader, BagWriter
from semanom_ros.recordings.images import (
    ENCODINGS,
    BitDepth,
    image_from_compressed,
    image_from_message,
    stamp_ns,
)
from semanom_ros.ros.messages import image_to_compressed, image_to_message
from semanom_ros.settings import Settings

HEIGHT, WIDTH = 12, 16
COLOUR = (200, 100, 50)  # RGB

GREY = ['mono8', 'mono16', '8UC1', '16UC1']
COLOURED = ['bgr8', 'rgb8', 'bgra8', 'rgba8', '8UC3']
YUV = ['yuv422', 'uyvy', 'yuv422_yuy2', 'yuyv', 'nv12', 'nv21']
MOSAICS = [f'bayer_{pattern}{bits}' for pattern in ('rggb', 'bggr', 'gbrg', 'grbg') for bits in (8, 16)]
SENT_BY_CAMERAS = GREY + COLOURED + YUV + MOSAICS


def message(data: np.ndarray, encoding: str, height: int = HEIGHT, width: int = WIDTH, big: bool = False,
            padding: int = 0) -> SimpleNamespace:
    """An Image message of rows (rows, samples) of 8 or 16 bits."""
    rows = data.astype(data.dtype.newbyteorder('>' if big else '<')).reshape(len(data), -1).view(np.uint8)
    padded = np.full((len(rows), rows.shape[1] + padding), 173, np.uint8)
    padded[:, :rows.shape[1]] = rows
    return SimpleNamespace(height=height, width=width, encoding=encoding, is_bigendian=int(big), step=padded.shape[1],
                           data=array('B', padded.tobytes()))


def pixels(encoding: str, picture: np.ndarray) -> np.ndarray:
    """(rows, samples) of a (H, W, 3) uint8 RGB picture in an encoding, by its definition."""
    red, green, blue = (picture[..., channel].astype(np.float64) for channel in range(3))
    bits = 16 if '16' in encoding else 8
    scale = 257 if bits == 16 else 1
    if encoding.startswith('bayer_'):
        mosaic = np.empty(picture.shape[:2])
        for place, letter in enumerate(encoding[6:10]):
            row, column = divmod(place, 2)
            mosaic[row::2, column::2] = picture[row::2, column::2, 'rgb'.index(letter)]
        return (mosaic * scale).astype(f'u{bits // 8}')
    if encoding in GREY:
        return (np.round(0.299 * red + 0.587 * green + 0.114 * blue) * scale).astype(f'u{bits // 8}')
    # ITU-R BT.601, limited range
    y = 16 + (65.481 * red + 128.553 * green + 24.966 * blue) / 255
    u = 128 + (-37.797 * red - 74.203 * green + 112 * blue) / 255
    v = 128 + (112 * red - 93.786 * green - 18.214 * blue) / 255
    y, u, v = (np.round(plane).astype(np.uint8) for plane in (y, u, v))
    if encoding in ('yuv422', 'uyvy'):
        return np.stack([u[:, ::2], y[:, ::2], v[:, ::2], y[:, 1::2]], -1).reshape(len(y), -1)
    if encoding in ('yuv422_yuy2', 'yuyv'):
        return np.stack([y[:, ::2], u[:, ::2], y[:, 1::2], v[:, ::2]], -1).reshape(len(y), -1)
    if encoding in ('nv12', 'nv21'):
        pair = (u, v) if encoding == 'nv12' else (v, u)
        chroma = np.stack([plane[::2, ::2] for plane in pair], -1).reshape(len(y) // 2, -1)
        return np.concatenate([y, chroma])
    order = {'rgb8': 'rgb', 'bgr8': 'bgr', '8UC3': 'bgr', 'rgba8': 'rgba', 'bgra8': 'bgra'}[encoding]
    planes = {'r': red, 'g': green, 'b': blue, 'a': np.full_like(red, 7)}
    return np.stack([planes[letter] for letter in order], -1).astype(np.uint8).reshape(len(red), -1)


@pytest.mark.parametrize('encoding', SENT_BY_CAMERAS)
@pytest.mark.parametrize('padding', [0, 6])
@pytest.mark.parametrize('big', [False, True])
def test_colour_survives_every_encoding_padding_and_endianness(encoding: str, padding: int, big: bool) -> None:
    picture = np.full((HEIGHT, WIDTH, 3), COLOUR, np.uint8)
    image = image_from_message(message(pixels(encoding, picture), encoding, big=big, padding=padding))
    expected = (124, 124, 124) if encoding in GREY else COLOUR
    assert image.shape == (HEIGHT, WIDTH, 3)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert image.flags.writeable
    assert np.abs(image.astype(int) - expected).max() <= (2 if encoding in YUV else 0)


@pytest.mark.parametrize('encoding', [e for e in SENT_BY_CAMERAS if not e.startswith('nv') and 'UC' not in e])
@pytest.mark.parametrize('big', [False, True])
def test_equals_rosbags_image_where_that_is_right(encoding: str, big: bool) -> None:
    rng = np.random.default_rng(5)
    dtype = np.uint16 if '16' in encoding else np.uint8
    samples = pixels(encoding, np.zeros((HEIGHT, WIDTH, 3), np.uint8)).shape[1]
    sent = message(rng.integers(0, 2 ** (8 * dtype().itemsize), (HEIGHT, samples)).astype(dtype), encoding, big=big)
    difference = image_from_message(sent).astype(int) - message_to_cvimage(sent, 'rgb8').astype(int)
    # it converts 16 bits before it scales them, and rounds down
    assert np.abs(difference).max() <= (1 if dtype == np.uint16 else 0)


@pytest.mark.parametrize('encoding', ['nv12', 'nv21'])
def test_chroma_plane_belongs_to_its_two_by_two_pixels(encoding: str) -> None:
    picture = np.full((HEIGHT, WIDTH, 3), COLOUR, np.uint8)
    picture[4:, 8:] = (30, 60, 220)
    image = image_from_message(message(pixels(encoding, picture), encoding, padding=10))
    assert np.abs(image.astype(int) - picture).max() <= 2


def test_unpadded_rgb_is_not_copied() -> None:
    sent = message(np.zeros((HEIGHT, WIDTH * 3), np.uint8), 'rgb8')
    image = image_from_message(sent)
    sent.data[0] = 99
    assert image[0, 0, 0] == 99


def test_last_row_may_lack_its_padding() -> None:
    sent = message(pixels('bgr8', np.full((HEIGHT, WIDTH, 3), COLOUR, np.uint8)), 'bgr8', padding=8)
    sent.data = sent.data[:-8]
    assert (image_from_message(sent) == COLOUR).all()


def test_rosbags_and_rclpy_messages_are_read_alike() -> None:
    picture = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    sent = image_to_message(picture, 'bgr8', 3, 'camera')
    for data in (sent.data, np.frombuffer(sent.data, np.uint8), bytes(sent.data), memoryview(sent.data)):
        twin = SimpleNamespace(height=HEIGHT, width=WIDTH, encoding='bgr8', is_bigendian=0, step=WIDTH * 3, data=data)
        assert (image_from_message(twin) == picture).all()


@pytest.mark.parametrize(('change', 'said'), [
    ({'encoding': 'jpeg'}, "encoding 'jpeg'"),
    ({'encoding': '32FC1'}, "encoding '32FC1'"),
    ({'encoding': ''}, "encoding ''"),
    ({'height': 0}, '16x0'),
    ({'width': 0}, '0x12'),
    ({'height': 13}, 'expected 624'),
    ({'step': 40}, 'step 40, expected at least 48'),
    ({'step': 60}, 'expected 720'),
    ({'data': array('B', bytes(575))}, '575 bytes'),
    ({'data': array('B')}, '0 bytes'),
    ({'encoding': 'nv12', 'step': 16}, 'expected 288'),
    ({'encoding': 'nv12', 'width': 15}, 'multiple of 2x2'),
    ({'encoding': 'yuyv', 'width': 15}, 'multiple of 2x1'),
    ({'encoding': 'bayer_rggb8', 'height': 11}, 'multiple of 2x2'),
])
def test_a_message_that_holds_no_picture_is_refused_in_one_line(trial, change: dict, said: str) -> None:
    sent = message(np.zeros((HEIGHT, WIDTH * 3), np.uint8), 'bgr8')
    vars(sent).update(change)
    with trial('Pictures', 'raw messages that do not hold what they announce'), pytest.raises(ImageError) as caught:
        image_from_message(sent)
    assert said in str(caught.value)
    assert '\n' not in str(caught.value)


def compressed(data: bytes | np.ndarray, format: str) -> SimpleNamespace:
    return SimpleNamespace(format=format, data=array('B', bytes(data)))


@pytest.mark.parametrize('format', ['png', 'bgr8; png compressed bgr8', 'rgb8; png compressed bgr8', 'rgb8; png', ''])
def test_png(format: str) -> None:
    picture = np.random.default_rng(2).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    image = image_from_compressed(compressed(cv2.imencode('.png', picture[..., ::-1])[1], format))
    assert (image == picture).all()
    assert image.flags.writeable


@pytest.mark.parametrize('format', ['jpeg', 'jpg', 'bgr8; jpeg compressed bgr8', 'rgb8; jpeg compressed bgr8'])
def test_jpeg(format: str) -> None:
    picture = np.full((HEIGHT, WIDTH, 3), COLOUR, np.uint8)
    image = image_from_compressed(compressed(cv2.imencode('.jpg', picture[..., ::-1])[1], format))
    assert np.abs(image.astype(int) - COLOUR).max() <= 3


def test_jpeg_whose_channels_were_swapped_before_encoding() -> None:
    picture = np.full((HEIGHT, WIDTH, 3), COLOUR, np.uint8)
    image = image_from_compressed(compressed(cv2.imencode('.jpg', picture)[1], 'rgb8; jpeg compressed rgb8'))
    assert np.abs(image.astype(int) - COLOUR).max() <= 3


def test_compressed_mosaic_grey_depth_and_alpha() -> None:
    picture = np.full((HEIGHT, WIDTH, 3), COLOUR, np.uint8)
    mosaic = cv2.imencode('.png', pixels('bayer_grbg8', picture))[1]
    assert (image_from_compressed(compressed(mosaic, 'bayer_grbg8; png compressed')) == COLOUR).all()
    grey = cv2.imencode('.png', np.full((4, 4), 9, np.uint8))[1]
    assert (image_from_compressed(compressed(grey, 'mono8; png compressed')) == 9).all()
    deep = cv2.imencode('.png', np.full((4, 4), 9 * 257, np.uint16))[1]
    assert (image_from_compressed(compressed(deep, 'mono16; png compressed')) == 9).all()
    alpha = cv2.imencode('.png', np.dstack([picture[..., ::-1], np.full((HEIGHT, WIDTH), 3, np.uint8)]))[1]
    assert (image_from_compressed(compressed(alpha, 'png')) == COLOUR).all()


def test_exif_orientation_is_ignored() -> None:
    image = pytest.importorskip('PIL.Image')
    file = io.BytesIO()
    exif = image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(file, 'JPEG', exif=exif)
    assert image_from_compressed(compressed(file.getvalue(), 'jpeg')).shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize('extension', ['.jpg', '.png'])
@pytest.mark.parametrize('kept', [0.0, 0.02, 0.5, 0.99])
def test_cut_compressed_image_is_refused_in_one_line(trial, extension: str, kept: float) -> None:
    picture = np.random.default_rng(3).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = bytes(cv2.imencode(extension, picture)[1])
    with trial('Pictures', 'compressed images that are cut off'), \
            pytest.raises(ImageError, match=r'^compressed image: found \d+ bytes that do not decode.*$'):
        image_from_compressed(compressed(data[:int(kept * len(data))], 'jpeg'))


def test_noise_is_no_compressed_image() -> None:
    with pytest.raises(ImageError, match='do not decode'):
        image_from_compressed(compressed(np.random.default_rng(4).bytes(500), 'jpeg'))


@pytest.mark.parametrize('encoding', ['rgb8', 'bgr8', 'mono8', '32FC1'])
def test_image_to_message(encoding: str) -> None:
    shape = (HEIGHT, WIDTH, 3) if encoding.endswith('gb8') or encoding == 'bgr8' else (HEIGHT, WIDTH)
    picture = np.random.default_rng(6).uniform(0, 256, shape).astype(np.float32 if encoding == '32FC1' else np.uint8)
    sent = image_to_message(picture, encoding, 12_345_678_901, 'camera_optical')
    assert isinstance(sent.data, array)
    assert stamp_ns(sent) == 12_345_678_901
    assert (sent.header.stamp.sec, sent.header.stamp.nanosec, sent.header.frame_id) == (12, 345678901, 'camera_optical')
    assert (sent.height, sent.width, sent.encoding, sent.is_bigendian) == (HEIGHT, WIDTH, encoding, 0)
    assert len(sent.data) == sent.step * HEIGHT
    if encoding == '32FC1':
        assert (np.frombuffer(sent.data, '<f4').reshape(shape) == picture).all()
    else:
        assert (image_from_message(sent) == (picture if picture.ndim == 3 else picture[..., None])).all()


def test_image_to_message_takes_views() -> None:
    picture = np.random.default_rng(7).integers(0, 256, (HEIGHT, 2 * WIDTH, 3), dtype=np.uint8)[:, ::2]
    for encoding in ('rgb8', 'bgr8'):
        assert (image_from_message(image_to_message(picture, encoding, 0, '')) == picture).all()


@pytest.mark.parametrize(('shape', 'dtype', 'encoding'), [
    ((4, 4), np.uint8, 'rgb8'), ((4, 4, 3), np.float32, 'bgr8'), ((4, 4, 3), np.uint8, 'mono8'),
    ((4, 4), np.float64, '32FC1'), ((4, 4, 3), np.uint8, 'yuyv'), ((0, 4, 3), np.uint8, 'rgb8')])
def test_image_to_message_refuses_what_does_not_fit(shape: tuple, dtype: type, encoding: str) -> None:
    with pytest.raises(ImageError):
        image_to_message(np.zeros(shape, dtype), encoding, 0, '')


@pytest.mark.parametrize('format', ['jpeg', 'png'])
def test_image_to_compressed(format: str) -> None:
    picture = np.full((HEIGHT, WIDTH, 3), COLOUR, np.uint8)
    sent = image_to_compressed(picture, 5, 'camera', format)
    assert isinstance(sent.data, array)
    assert sent.format == format
    assert np.abs(image_from_compressed(sent).astype(int) - COLOUR).max() <= (3 if format == 'jpeg' else 0)


def halved(data: bytes, share: float = 0.5, end: bytes = b'\xff\xd9') -> bytes:
    """A JPEG that lacks the last part of its coded pixels, and looks whole."""
    begin = data.index(b'\xff\xda') + 14
    return data[:begin + int(share * (len(data) - begin))].rstrip(b'\xff') + end


@pytest.mark.parametrize('options', [
    [], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1], [cv2.IMWRITE_JPEG_RST_INTERVAL, 4],
    [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]],
    ids=['baseline', 'progressive', 'restart markers', '4:4:4'])
@pytest.mark.parametrize('grey', [False, True])
def test_a_jpeg_that_is_half_grey_is_refused_and_a_grey_picture_is_not(trial, options: list[int], grey: bool) -> None:
    picture = cv2.resize(np.random.default_rng(8).integers(0, 256, (12, 16, 3), dtype=np.uint8), (256, 192))
    picture = picture[..., 0] if grey else picture
    whole = bytes(cv2.imencode('.jpg', picture, options)[1])
    assert image_from_compressed(compressed(whole, 'jpeg')).shape == (192, 256, 3)
    for share in (0.01, 0.3, 0.6, 0.9):
        data = halved(whole, share)
        with trial('Pictures', 'a JPEG whose coded pixels break off, with an end'), \
                pytest.raises(ImageError, match='found a JPEG of 256x192 pixels of which a part is missing'):
            image_from_compressed(compressed(data, 'jpeg'))
    picture = picture.copy()
    picture[:100] = picture[60:, 100:] = 128
    for grey_one in (picture, np.full_like(picture, 128)):
        data = bytes(cv2.imencode('.jpg', grey_one, options)[1])
        with trial('Pictures', 'a picture that has grey parts'):
            for end in (b'', bytes(40)):  # cameras fill up what they send
                assert image_from_compressed(compressed(data + end, 'jpeg')).shape == (192, 256, 3)


def test_a_part_lost_between_restart_markers_is_noticed(trial) -> None:
    picture = cv2.resize(np.random.default_rng(9).integers(0, 256, (12, 16, 3), dtype=np.uint8), (256, 192))
    data = bytes(cv2.imencode('.jpg', picture, [cv2.IMWRITE_JPEG_RST_INTERVAL, 16])[1])
    first, second = data.index(b'\xff\xd2'), data.index(b'\xff\xd3')
    with trial('Pictures', 'a JPEG that lost a packet between restart markers'), \
            pytest.raises(ImageError, match='of which a part is missing'):
        image_from_compressed(compressed(data[:first + 4] + data[second:], 'jpeg'))


@pytest.mark.parametrize('progressive', [0, 1])
def test_a_thumbnail_in_the_header_is_not_taken_for_the_picture(progressive: int) -> None:
    picture = cv2.resize(np.random.default_rng(2).integers(0, 256, (12, 16, 3), dtype=np.uint8), (256, 192))
    picture[50:100, 50:100] = 128
    data, thumbnail = (bytes(cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_PROGRESSIVE, progressive])[1])
                       for image in (picture, picture[:40, :60]))
    segment = b'\xff\xe1' + struct.pack('>H', 2 + 6 + len(thumbnail)) + b'thumb\0' + thumbnail
    assert image_from_compressed(compressed(data[:2] + segment + data[2:], 'jpeg')).shape == picture.shape
    cut = data[:2] + segment + halved(data, 0.3)[2:]
    with pytest.raises(ImageError, match='of which a part is missing'):
        image_from_compressed(compressed(cut, 'jpeg'))


@pytest.mark.parametrize('progressive', [0, 1])
def test_what_a_camera_puts_around_the_picture_is_none_of_it(trial, progressive: int) -> None:
    """Photos that move have a video behind them, makers of cameras put megabytes of notes before the pixels."""
    random = np.random.default_rng(2)
    picture = cv2.resize(random.integers(0, 256, (12, 16, 3), dtype=np.uint8), (256, 192))
    data = bytes(cv2.imencode('.jpg', picture, [cv2.IMWRITE_JPEG_PROGRESSIVE, progressive])[1])
    behind = random.bytes(200_000) + b'\xff\xda' * 70
    notes = b''.join(b'\xff\xe4' + struct.pack('>H', 50_002) + random.bytes(49_800) + b'\xff\xda' * 100
                     for _ in range(3))
    with trial('Pictures', 'a JPEG with a video behind it, or notes before its pixels', 3):
        expected = image_from_compressed(compressed(data, 'jpeg'))
        for around in (data + behind, data + data, data[:2] + notes + data[2:]):
            assert np.array_equal(image_from_compressed(compressed(around, 'jpeg')), expected)
    with trial('Pictures', 'a JPEG whose coded pixels break off, with an end', 2):
        for cut in (halved(data) + behind, data[:len(data) // 2] + data):
            with pytest.raises(ImageError, match=r'of which a part is missing|do not decode'):
                image_from_compressed(compressed(cut, 'jpeg'))


def test_a_jpeg_of_endless_restart_markers_costs_no_memory(trial) -> None:
    data = bytes(cv2.imencode('.jpg', np.full((64, 64, 3), 128, np.uint8))[1])
    with trial('Pictures', 'a JPEG of endless restart markers'), pytest.raises(ImageError, match='a part is missing'):
        image_from_compressed(compressed(data[:-2] + b'\xff\xd0' * 1_100_000 + b'\xff\xd9', 'jpeg'))


def test_frames_of_a_video_are_called_what_they_are(trial) -> None:
    with trial('Pictures', 'frames of a video in CompressedImage'), \
            pytest.raises(ImageError, match=r"found a frame of a video \(format 'h264'\)"):
        image_from_compressed(compressed(b'\0\0\0\x01\x67', 'h264'))


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack('>I', len(content)) + name + content + struct.pack('>I', zlib.crc32(name + content))


def png_of(width: int, height: int, extra: bytes = b'', rows: bytes = b'') -> bytes:
    """A PNG of one bit a pixel."""
    return (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 1, 0, 0, 0, 0)) + extra
            + chunk(b'IDAT', zlib.compress(rows, 9)) + chunk(b'IEND', b''))


def jpeg_of(width: int, height: int, progressive: bool = False) -> bytes:
    options = [cv2.IMWRITE_JPEG_PROGRESSIVE, int(progressive)]
    data = bytes(cv2.imencode('.jpg', np.zeros((16, 16, 3), np.uint8), options)[1])
    at = data.index(b'\xff\xc2' if progressive else b'\xff\xc0') + 5
    return data[:at] + struct.pack('>HH', height, width) + data[at + 4:]


def tiff_of(*sizes: tuple[int, int]) -> bytes:
    """A TIFF that names its size several times."""
    file = io.BytesIO()
    PIL.Image.new('L', (64, 64)).save(file, 'TIFF')
    data, (at,) = bytearray(file.getvalue()), struct.unpack('<I', file.getvalue()[4:8])
    count, = struct.unpack_from('<H', data, at)
    entries = [bytes(data[at + 2 + 12 * row:at + 14 + 12 * row]) for row in range(count)]
    entries = [struct.pack('<HHII', 256 + side, 4, 1, size[side]) for side in (0, 1) for size in sizes] + [
        entry for entry in entries if entry[:2] not in (b'\x00\x01', b'\x01\x01')]
    data[4:8] = struct.pack('<I', len(data))
    return bytes(data) + struct.pack('<H', len(entries)) + b''.join(entries) + bytes(4)


def saved(format: str, width: int, height: int, **options: object) -> bytes:
    file = io.BytesIO()
    PIL.Image.new('L', (width, height)).save(file, format, **options)
    return file.getvalue()


def huge() -> dict[str, bytes]:
    """Small files that announce, or become, hundreds of megabytes."""
    jp2 = saved('JPEG2000', 128, 128)
    at, box = jp2.index(b'\xff\x51'), jp2.index(b'ihdr')
    inner = jp2[:at + 6] + struct.pack('>II', 30000, 30000) + jp2[at + 14:at + 22] + struct.pack(
        '>II', 30000, 30000) + jp2[at + 30:]
    text = zlib.compress(bytes(200_000_000), 9)
    return {
        'PNG': png_of(30000, 30000), 'PNG with pixels': png_of(30000, 30000, rows=bytes(3751 * 30000)),
        'PNG, one row': png_of(2**31 - 1, 1), 'PNG, a little too large': png_of(8192, 8193, rows=bytes(1025 * 8193)),
        'zTXt': png_of(8, 8, chunk(b'zTXt', b'a\0\0' + text), bytes(16)),
        'iCCP': png_of(8, 8, chunk(b'iCCP', b'a\0\0' + text), bytes(16)),
        'JPEG': jpeg_of(30000, 30000), 'JPEG, progressive': jpeg_of(30000, 30000, True),
        'JPEG, wide': jpeg_of(65500, 1100), 'JPEG, progressive, of 20 scans': jpeg_of(8192, 8192, True).replace(
            b'\xff\xd9', 20 * (b'\xff\xda' + bytes(10)) + b'\xff\xd9'),
        'BMP': b'BM' + struct.pack('<IHHIIiiHHIIiiII', 54, 0, 0, 54, 40, 30000, -30000, 1, 24, 0, 0, 0, 0, 0, 0),
        'PPM': b'P6\n# a comment\n30000 30000\n255\n', 'PBM': b'P4 30000 30000\n',
        'GIF': b'GIF89a' + struct.pack('<HHBBBcHHHHB', 9, 9, 0, 0, 0, b',', 0, 0, 60000, 60000, 0)
               + b'\x02\x02L\x01\0;',
        'WebP': saved('WEBP', 16383, 4200, lossless=True, method=0),
        'TIFF': tiff_of((30000, 30000)), 'TIFF, size twice': tiff_of((30000, 30000), (64, 64)),
        'TIFF, size twice, the small one first': tiff_of((64, 64), (30000, 30000)),
        'JPEG 2000': inner[:box + 4] + struct.pack('>II', 30000, 30000) + inner[box + 12:],
        'JPEG 2000, size in the codestream alone': inner}


def test_small_files_of_huge_pictures_cost_next_to_nothing(trial, tmp_path: Path) -> None:
    """In a process of its own, whose peak memory is its own."""
    bombs = huge()
    for number, data in enumerate(bombs.values()):
        (tmp_path / f'{number:03}').write_bytes(data)
    program = """if True:
        import resource, sys, time
        from pathlib import Path
        from types import SimpleNamespace
        from semanom_ros.errors import ImageError
        from semanom_ros.recordings.images import image_from_compressed
        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for path in [sorted(Path(sys.argv[1]).iterdir())[0], *sorted(Path(sys.argv[1]).iterdir())]:
            before, begun = peak(), time.monotonic()
            try:
                print(image_from_compressed(SimpleNamespace(format='', data=path.read_bytes())).shape, end=' ')
            except ImageError as error:
                print(repr(str(error)), end=' ')
            print(';', peak() - before, ';', time.monotonic() - begun)
        """
    done = subprocess.run([sys.executable, '-c', program, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with trial('Pictures', 'small files that announce huge pictures', len(bombs)):
        for name, line in zip(bombs, done.stdout.splitlines()[1:], strict=True):  # the first loads the libraries
            said, kilobytes, seconds = line.rsplit(';', 2)
            refused = re.search(r'expected at most (67108864|16) |do not decode', said)
            assert refused or said == '(64, 64, 3) ', name  # OpenCV takes the first size that a TIFF names
            assert int(kilobytes) < 30_000, f'{name}: {line}'
            assert float(seconds) < 2, f'{name}: {line}'


def test_raw_images_have_the_same_bound(trial) -> None:
    with trial('Pictures', 'raw images of huge sizes', 3):
        for height, width in ((2**32 - 1, 2**32 - 1), (1, MAX_PIXELS + 1), (8192, 8193)):
            sent = SimpleNamespace(height=height, width=width, encoding='mono8', is_bigendian=0, step=width, data=b'')
            with pytest.raises(ImageError, match=f'found {width}x{height} pixels, expected at most {MAX_PIXELS} in'):
                image_from_message(sent)


def test_a_progressive_jpeg_of_endless_scans_is_refused(trial) -> None:
    data = bytes(cv2.imencode('.jpg', np.zeros((64, 64, 3), np.uint8), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1])
    last = data[data.rindex(b'\xff\xda'):-2]
    with trial('Pictures', 'a progressive JPEG of a thousand scans'), \
            pytest.raises(ImageError, match=r'found a JPEG of 64x64 pixels in 10\d\d scans, expected at most 64'):
        image_from_compressed(compressed(data[:-2] + 1000 * last + b'\xff\xd9', 'jpeg'))


def test_compressed_depth_is_no_picture() -> None:
    data = bytes(12) + bytes(cv2.imencode('.png', np.zeros((4, 4), np.uint16))[1])
    with pytest.raises(ImageError, match='found distances'):
        image_from_compressed(compressed(data, '16UC1; compressedDepth png'))


@pytest.mark.parametrize(('bits', 'encoding'), [(10, 'mono16'), (12, 'bayer_rggb16'), (14, 'rgb16'), (12, '16UC1')])
def test_a_stream_of_fewer_bits_is_told_once_and_read_with_its_bit_depth(trial, caplog, bits: int, encoding: str
                                                                         ) -> None:
    brightest = (1 << bits) - 1
    samples = np.random.default_rng(1).integers(0, brightest, (HEIGHT, WIDTH * (3 if encoding == 'rgb16' else 1)),
                                                dtype=np.uint16)
    sent = message(samples, encoding)
    whole = message(np.round(samples * (65535 / brightest)).astype(np.uint16), encoding)
    with trial('Cameras', 'a 16-bit stream that uses 10, 12 or 14 bits'):
        unknown = BitDepth(stream='/front/image')
        assert image_from_message(sent, unknown).max() < 65
        image_from_message(sent, unknown)
        assert len(caplog.messages) == 1
        assert f'use {bits} bits, expected 16' in caplog.messages[0]
        assert f'set bit_depth to {bits}' in caplog.messages[0]
        told = image_from_message(sent, BitDepth(bits, '/front/image')).astype(int)
        assert np.abs(told - image_from_message(whole)).max() <= 1
        compressed_twin = compressed(cv2.imencode('.png', samples.reshape(HEIGHT, -1))[1], 'mono16; png compressed')
        assert image_from_compressed(compressed_twin, BitDepth(bits)).max() > 250
    assert len(caplog.messages) == 1, 'and nothing is said of what was declared'


def test_the_bits_that_are_used_may_turn_out_to_be_more(trial, caplog) -> None:
    with trial('Cameras', 'a 16-bit stream that begins dark', 2):
        depth = BitDepth(stream='/front/image')
        for value in (500, 600, 3000, 2000, 30000, 900):
            image_from_message(message(np.full((HEIGHT, WIDTH), value, np.uint16), 'mono16'), depth)
        assert [re.search(r'use (\d+) bits', text)[1] for text in caplog.messages] == ['10', '12']
        depth = BitDepth(10, '/front/image')
        for value in (1023, 1024, 5000):
            image = image_from_message(message(np.full((HEIGHT, WIDTH), value, np.uint16), 'mono16'), depth)
            assert (image == 255).all()
    assert len(caplog.messages) == 3
    assert 'found a sample of 11 bits, expected at most 10 (bit_depth)' in caplog.messages[2]


def test_the_bit_depth_reaches_recordings_and_databases_know_it(trial, tmp_path, caplog, given) -> None:
    samples = np.random.default_rng(1).integers(0, 4096, (HEIGHT, WIDTH), dtype=np.uint16)
    with BagWriter(tmp_path / 'bag') as writer:
        types: Any = writer.typestore.types
        for stamp in (1, 2):
            header = types['std_msgs/msg/Header'](types['builtin_interfaces/msg/Time'](stamp, 0), 'lens')
            writer.write('/image', types[IMAGE](header, HEIGHT, WIDTH, 'mono16', 0, 2 * WIDTH,
                                                samples.view(np.uint8).ravel()), stamp * 10**9)
    with trial('Cameras', 'a 16-bit stream that uses 10, 12 or 14 bits, in a recording', 2), \
            BagReader(tmp_path / 'bag') as reader:
        assert [frame.image.max() > 250 for frame in reader.images(bit_depth=12)] == [True, True]
        assert not caplog.messages
        assert [frame.image.max() < 20 for frame in reader.images()] == [True, True]
        said, = caplog.messages
        assert said.startswith(f'{tmp_path}/bag: /image: found 16-bit images that use 12 bits')
    whole, twelve = (Embedder.load(Settings.of({**given, 'bit_depth': depth}).method).description for depth in (0, 12))
    assert whole.difference(twelve) == ('settings: bit_depth', 'unset', 12)
    assert contradiction({'bit_depth': 12}, whole) == ('bit_depth', 12, 0)
    assert contradiction({'bit_depth': 12}, twelve) is None
    assert parameters_of(twelve)['bit_depth'] == 12


SHARED = [encoding for encoding in ENCODINGS
          if encoding not in ('nv12', 'nv21', 'uyvy', 'yuyv') and 'UC' not in encoding]


@pytest.mark.parametrize('encoding', SHARED)
@pytest.mark.parametrize('padding', [0, 24])
def test_pixels_are_those_of_cv_bridge(encoding: str, padding: int) -> None:
    """Big-endian images are left out: upstream's cv_bridge swaps their bytes twice with NumPy 2."""
    bridge = pytest.importorskip('cv_bridge', reason='cv_bridge is not here: it comes with a ROS 2 installation')
    if fault := cv_bridge_conversion.fault():
        pytest.skip(f'cv_bridge: {fault}')
    bits, channels = (16 if encoding.endswith('16') else 8), 4 if 'a' in encoding[:4] and 'bayer' not in encoding else 3
    samples = WIDTH * (channels if encoding[:3] in ('rgb', 'bgr') else 2 if 'yuv' in encoding else 1)
    sent = message(np.random.default_rng(3).integers(0, 1 << bits, (HEIGHT, samples)).astype(f'u{bits // 8}'), encoding,
                   padding=padding)
    sent.data = bytes(sent.data)
    assert np.array_equal(image_from_message(sent), bridge.CvBridge().imgmsg_to_cv2(sent, 'rgb8'))


BRIDGE = """
import numpy
class CvBridge:
    def cv2_to_imgmsg(self, image, encoding):
        return image
    def imgmsg_to_cv2(self, message, wanted):
        if isinstance(message, numpy.ndarray):
            return message[..., ::-1]
        if message.encoding != 'nv24':
            raise RuntimeError(f'[{message.encoding}] is not a color format')
        return numpy.full((message.height, message.width, 3), 7, numpy.uint8)
"""


def test_encodings_that_are_not_ours_go_through_cv_bridge_where_it_works(trial, tmp_path, monkeypatch) -> None:
    """A stand-in for cv_bridge, found as the real one is."""
    sent = SimpleNamespace(height=4, width=6, encoding='nv24', is_bigendian=0, step=6, data=bytes(72))

    def answer(program: str | None) -> np.ndarray | str:
        cv_bridge_conversion.fault.cache_clear()
        monkeypatch.delitem(sys.modules, 'cv_bridge', raising=False)
        folder = tmp_path / str(hash(program))
        folder.mkdir(exist_ok=True)
        if program is not None:
            (folder / 'cv_bridge.py').write_text(program)
        monkeypatch.setattr(sys, 'path', [str(folder), *sys.path])
        monkeypatch.setenv('PYTHONPATH', str(folder))
        importlib.invalidate_caches()
        try:
            return image_from_message(sent)
        except ImageError as error:
            return str(error)

    with trial('Cameras', 'an encoding that only cv_bridge knows, with and without it, and with a broken one', 4):
        if importlib.util.find_spec('cv_bridge') is None:
            assert re.search(r"encoding 'nv24', expected one of .*others need cv_bridge: it is not here", answer(None))
        image = answer(BRIDGE)
        assert (image == 7).all()
        assert image.shape == (4, 6, 3)
        sent.encoding = '32FC1'
        assert 'which cv_bridge cannot convert to colours ([32FC1] is not a color format)' in answer(BRIDGE)
        assert 'others need cv_bridge: does not work with NumPy' in answer('import os\nos.abort()\n')
    cv_bridge_conversion.fault.cache_clear()
    sys.modules.pop('cv_bridge', None)


def whole_files() -> list[bytes]:
    picture = cv2.resize(np.random.default_rng(4).integers(0, 256, (4, 6, 3), dtype=np.uint8), (48, 32))
    endings = ('.jpg', '.png', '.webp', '.bmp', '.tif', '.gif', '.ppm')
    return [bytes(cv2.imencode(ending, picture)[1]) for ending in endings]


WHOLE = whole_files()


@given(data=st.one_of(
    st.binary(max_size=300),
    st.tuples(st.sampled_from([file[:4] for file in WHOLE]), st.binary(max_size=200)).map(b''.join)))
def test_random_bytes_are_refused_in_one_line(trial, data: bytes) -> None:
    with trial('Pictures', 'random bytes'):
        decodes_or_says_why(data)


@given(st.data())
def test_damaged_files_give_a_picture_of_the_announced_size_or_one_line(trial, data: st.DataObject) -> None:
    file = bytearray(data.draw(st.sampled_from(WHOLE)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(file) - 1))
        match data.draw(st.sampled_from(['change', 'remove', 'insert', 'cut'])):
            case 'change':
                file[at] = data.draw(st.integers(0, 255))
            case 'remove':
                del file[at:at + data.draw(st.integers(1, 50))]
            case 'insert':
                file[at:at] = data.draw(st.binary(max_size=20))
            case 'cut':
                del file[max(at, 1):]
        if not file:
            break
    with trial('Pictures', 'files with changed, removed or added bytes'):
        decodes_or_says_why(bytes(file))


@given(size=st.tuples(st.integers(48, 120), st.integers(48, 160)), seed=st.integers(0, 1000),
       mode=st.sampled_from(['RGB', 'L', 'CMYK']), quality=st.sampled_from([50, 75, 95]),
       subsampling=st.sampled_from([0, 1, 2]), restart=st.integers(0, 9), progressive=st.booleans(),
       grey=st.floats(0, 1), cut=st.floats(0.05, 0.6))
def test_every_whole_jpeg_is_read_and_every_cut_one_refused(
        trial, size: tuple[int, int], seed: int, mode: str, quality: int, subsampling: int, restart: int,
        progressive: bool, grey: float, cut: float) -> None:
    """Of progressive ones that are cut only the first scan would leave grey: they are not looked at here."""
    coarse = np.random.default_rng(seed).integers(0, 256, (size[0] // 8 + 1, size[1] // 8 + 1, 3), dtype=np.uint8)
    picture = coarse.repeat(8, 0).repeat(8, 1)[:size[0], :size[1]].copy()

    def jpeg(pixels: np.ndarray) -> bytes:
        file = io.BytesIO()
        PIL.Image.fromarray(pixels).convert(mode).save(
            file, 'JPEG', quality=quality, subsampling=subsampling, progressive=progressive,
            restart_marker_blocks=restart)
        return file.getvalue()

    whole = jpeg(picture)
    picture[int(grey * size[0]):] = 128
    with trial('Pictures', 'whole JPEGs of all kinds, with grey parts'):
        assert image_from_compressed(compressed(jpeg(picture), 'jpeg')).shape == (*size, 3)
    if not progressive and mode != 'CMYK':
        with trial('Pictures', 'a JPEG whose coded pixels break off, with an end'), \
                pytest.raises(ImageError, match='of which a part is missing'):
            image_from_compressed(compressed(halved(whole, cut), 'jpeg'))


def decodes_or_says_why(data: bytes) -> None:
    said = None
    try:
        image = image_from_compressed(compressed(data, 'jpeg'))
    except ImageError as error:
        said = str(error)
    if said is not None:
        assert len(said.splitlines()) == 1
        return
    with PIL.Image.open(io.BytesIO(data)) as header:
        assert image.shape in ((header.height, header.width, 3), (header.width, header.height, 3))
    assert image.dtype == np.uint8


SIZES = st.one_of(st.integers(0, 20), st.integers(0, 2**32 - 1))


@given(encoding=st.one_of(st.sampled_from(ENCODINGS), st.text(max_size=12)), height=SIZES, width=SIZES,
       step=st.one_of(st.none(), SIZES), data=st.binary(max_size=300), fits=st.booleans(), big=st.integers(0, 255))
def test_random_raw_messages_give_a_picture_of_their_size_or_one_line(
        trial, encoding: str, height: int, width: int, step: int | None, data: bytes, fits: bool, big: int) -> None:
    if step is None:
        step = width * 2
    if fits and height * step < 10_000:
        data = bytes(height * step * 3 // (2 if encoding in ('nv12', 'nv21') else 3))
    sent = SimpleNamespace(height=height, width=width, encoding=encoding, is_bigendian=big, step=step, data=data)
    with trial('Pictures', 'raw messages of random encodings, sizes and steps'):
        said = None
        try:
            image = image_from_message(sent, BitDepth(stream='/image'))
        except ImageError as error:
            said = str(error)
        if said is not None:
            assert len(said.splitlines()) == 1
            return
        assert image.shape == (height, width, 3)
        assert image.flags.c_contiguous
        assert image.flags.writeable or encoding == 'rgb8'


def test_every_encoding_of_the_error_message_is_read() -> None:
    assert set(SENT_BY_CAMERAS) <= set(ENCODINGS)
