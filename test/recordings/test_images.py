"""Every encoding that cameras send, against rosbags-image and against colours whose RGB is known."""

from __future__ import annotations

import io
from array import array
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from rosbags.image import message_to_cvimage

from semanom_ros.errors import ImageError
from semanom_ros.recordings.images import (
    ENCODINGS,
    image_from_compressed,
    image_from_message,
    stamp_ns,
)
from semanom_ros.ros.messages import image_to_compressed, image_to_message

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
def test_a_message_that_holds_no_picture_is_refused_in_one_line(change: dict, said: str) -> None:
    sent = message(np.zeros((HEIGHT, WIDTH * 3), np.uint8), 'bgr8')
    vars(sent).update(change)
    with pytest.raises(ImageError) as caught:
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
def test_cut_compressed_image_is_refused_in_one_line(extension: str, kept: float) -> None:
    picture = np.random.default_rng(3).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = bytes(cv2.imencode(extension, picture)[1])
    with pytest.raises(ImageError, match=r'^compressed image: found \d+ bytes that do not decode.*$'):
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


def test_every_encoding_of_the_error_message_is_read() -> None:
    assert set(SENT_BY_CAMERAS) <= set(ENCODINGS)
