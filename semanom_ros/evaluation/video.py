"""The overlays of a result bag as a film that browsers play."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import imageio_ffmpeg
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from semanom_ros.errors import BagError
from semanom_ros.recordings.bags import BagReader
from semanom_ros.recordings.images import image_from_compressed, stamp_ns

_SLOWEST, _FASTEST = 2.0, 30.0  # frames per second of the film
_QUALITY = 25  # libx264's constant rate factor


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
