"""The overlays of a result bag as a film that browsers play, and a moment of them as a moving picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import imageio_ffmpeg
import numpy as np
import numpy.typing as npt
from PIL import Image
from tqdm import tqdm

from semanom_ros.errors import BagError
from semanom_ros.recordings.bags import BagReader
from semanom_ros.recordings.images import image_from_compressed, stamp_ns

_SLOWEST, _FASTEST = 2.0, 30.0  # frames per second of the film
_QUALITY = 25  # libx264's constant rate factor
LARGEST_BYTES = 1_000_000
"""Of a moving picture."""
_WIDTH, _QUALITIES = 560, (60, 45, 30, 15)  # of a moving picture: pixels, and WebP qualities to try


def write_video(bag: Path, topic: str, path: Path) -> int:
    """Writes H.264 in MP4, in real time: a picture stays until the next one.

    Args:
        bag: recording with the pictures.
        topic: CompressedImage topic, its stamps not falling.
        path: file to write; an odd last row or column of the pictures is left out.

    Returns:
        How many pictures of the recording the film shows.

    Raises:
        BagError: no pictures there.
    """
    with BagReader(bag) as reader:
        topic = reader.image_topic(topic)
        stamps = np.array([stamp_ns(message) for _, _, message in reader.messages([topic])], np.int64)
        if len(stamps) > 1 and np.median(np.diff(stamps)) > 0:
            rate = float(np.clip(1e9 / np.median(np.diff(stamps)), _SLOWEST, _FASTEST))
        else:
            rate = _SLOWEST
        film, size, written = None, (0, 0), 0
        try:
            for number, (_, _, message) in enumerate(tqdm(reader.messages([topic]), total=len(stamps), desc='video',
                                                          unit='frame', disable=None)):
                picture: npt.NDArray[Any] = image_from_compressed(message)
                if film is None:
                    size = picture.shape[1] // 2 * 2, picture.shape[0] // 2 * 2
                    film = imageio_ffmpeg.write_frames(
                        str(path), size, fps=rate, codec='libx264', pix_fmt_out='yuv420p', quality=None,
                        macro_block_size=2, output_params=['-crf', str(_QUALITY), '-movflags', '+faststart'])
                    film.send(None)
                if picture.shape[1] < size[0] or picture.shape[0] < size[1]:
                    picture = cv2.resize(picture, size)
                end = stamps[number + 1] if number + 1 < len(stamps) else stamps[number] + 1e9 / rate
                until = round((end - stamps[0]) / 1e9 * rate)
                while written < until:
                    film.send(np.ascontiguousarray(picture[:size[1], :size[0]]))
                    written += 1
        finally:
            if film is not None:
                film.close()
    if film is None:
        raise BagError(f'{bag}: found no picture on {topic}, expected overlays')
    return len(stamps)


def write_moving_picture(bag: Path, topic: str, path: Path, first_ns: int, last_ns: int) -> int:
    """Writes an animated WebP, in real time and again and again, of LARGEST_BYTES at most where that can be.

    Args:
        bag: recording with the pictures.
        topic: CompressedImage topic.
        path: file to write.
        first_ns, last_ns: stamps of the first and the last picture.

    Returns:
        How many pictures it shows.

    Raises:
        BagError: no pictures there then.
    """
    pictures, stamps = [], []
    with BagReader(bag) as reader:
        for _, _, message in reader.messages([topic]):
            if first_ns <= (stamp := stamp_ns(message)) <= last_ns:
                picture: npt.NDArray[Any] = image_from_compressed(message)
                size = _WIDTH, round(_WIDTH * picture.shape[0] / picture.shape[1])
                if picture.shape[1] > _WIDTH:
                    picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
                pictures.append(Image.fromarray(picture))
                stamps.append(stamp)
    if not pictures:
        raise BagError(f'{bag}: found no picture on {topic} from {first_ns} to {last_ns}, expected overlays')
    milliseconds = np.diff([*stamps, 2 * stamps[-1] - stamps[-2] if len(stamps) > 1 else stamps[-1] + 10**9]) // 10**6
    for quality in _QUALITIES:
        pictures[0].save(path, 'WEBP', save_all=True, append_images=pictures[1:], duration=milliseconds.tolist(),
                         loop=0, quality=quality, method=4)
        if path.stat().st_size <= LARGEST_BYTES:
            break
    return len(pictures)
