"""Videos, frame by frame at the times of their container.

The ffmpeg that imageio-ffmpeg brings decodes in a process of its own. OpenCV's video reader ends at the first damaged
packet, and knows neither which frames suffered nor whether a stream has times.
"""

from __future__ import annotations

import logging
import re
import subprocess
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import NamedTuple

import imageio_ffmpeg
import numpy as np
import numpy.typing as npt

from semanom_ros.bounds import MAX_PIXELS
from semanom_ros.errors import BagError

logger = logging.getLogger(__name__)

_DECODED = re.compile(r'decoder -> pts:(\S+) .*keyframe:(\d) frame_type:(\d).*time_base:(\d+)/(\d+)')
_BIDIRECTIONAL = '3'  # AV_PICTURE_TYPE_B
_DAMAGED = re.compile(r'\[dec:[^\]]*\] \[(?:error|fatal|warning)\]')
_ERROR = re.compile(r'\[(?:error|fatal)\] (.*)')
_NO_VIDEO = {'tty': 'a text', 'hls': 'a list of videos', 'dash': 'a list of videos', 'concat': 'a list of videos'}
_INPUT = re.compile(r'Input #0, (' + '|'.join(_NO_VIDEO) + '), from')  # what ffmpeg would read all the same
_DURATION = re.compile(r'Duration: (?:(\d+):(\d+):([\d.]+)|N/A)(, start:)?')
_MOST_HELD = 16  # frames; H.264 and HEVC reorder no more
_RATE = re.compile(r'Video: .*?([\d.]+) fps')


class VideoFrame(NamedTuple):
    """A frame, and nanoseconds since the first."""

    image: npt.NDArray[np.uint8]
    time_ns: int


class _Decoded(NamedTuple):
    """What ffmpeg tells of a frame, in the order of the frames themselves.

    Attributes:
        seconds: since the beginning; None: the container does not say.
        key: it needs no other frame.
        builds_on_later: it may need frames that are shown after it.
        damaged: something could not be decoded since the one before.
    """

    seconds: Fraction | None
    key: bool
    builds_on_later: bool
    damaged: bool


class Video:
    """Decodes a video. Use it as a context manager.

    Attributes:
        frames: how many there may be; 0: unknown. Known once the first frame is.
        damaged: frames that were left out so far, because they or what they build on could not be decoded.
        out_of_order: frames that were left out so far, because their time is not after that of the one before.
    """

    def __init__(self, file: Path, rate: float | None = None) -> None:
        """
        Args:
            file: whatever ffmpeg reads.
            rate: frames a second, in place of the container's times; None: those.
        """
        self.frames = self.damaged = self.out_of_order = self._suspect = 0
        self._file, self._rate = file, rate
        self._timed, self._duration, self._nominal_rate, self._fault = True, 0.0, 0.0, ''
        self._told: SimpleQueue[_Decoded | None] = SimpleQueue()
        self._process = subprocess.Popen(
            # one thread: with several, what is wrong is said of some other frame
            [imageio_ffmpeg.get_ffmpeg_exe(), '-nostdin', '-hide_banner', '-loglevel', 'level+info', '-debug_ts',
             '-threads', '1', '-err_detect', 'explode', '-max_pixels:v', str(MAX_PIXELS),
             '-protocol_whitelist', 'file,crypto,data', '-i', f'file:{file}', '-map', '0:V:0',
             '-fps_mode', 'passthrough', '-f', 'image2pipe', '-c:v', 'ppm', '-pix_fmt', 'rgb24', '-'],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True)  # so that Ctrl-C is ours
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def __enter__(self) -> Video:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()
        self._listener.join()
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()

    def __iter__(self) -> Iterator[VideoFrame]:
        """Frames in their order, upright; those that cannot be decoded are left out and counted.

        Raises:
            BagError: there is none.
        """
        taken, number, dirty = 0, 0, False
        first, last = None, -1
        held: list[VideoFrame] = []  # until it is known whether what comes after them is whole
        while (image := self._picture()) is not None and (told := self._told.get()) is not None:
            dirty = told.damaged or (dirty and not told.key)
            position, number = number, number + 1
            if self._rate or told.seconds is None:
                seconds = position / Fraction(self._rate or self._nominal_rate)
            else:
                seconds = told.seconds
            if first is None:
                first = seconds
                self._begin()
            if dirty:
                self.damaged += 1 + len(held)
                held.clear()
                continue
            time_ns = round((seconds - first) * 10**9)
            if time_ns <= last:
                self.out_of_order += 1
                continue
            last = time_ns
            held.append(VideoFrame(image, time_ns))
            if not told.builds_on_later or len(held) > _MOST_HELD:
                taken += len(held)
                yield from held
                held.clear()
        taken += len(held)
        yield from held
        if not taken:
            self._listener.join()
            raise BagError(f'{self._file}: found no frame that can be decoded ({self._fault or "no reason given"}), '
                           'expected a video; give another file, or convert it to H.264 in MP4')
        self._listener.join()
        if self._fault or self._suspect or self.damaged:
            logger.warning('%s: found damage (%s), expected none; took %d frames, left out %d that build on what is '
                           'missing%s; copy the file again', self._file, self._fault or 'corrupt frames', taken,
                           self.damaged, '; others may be distorted' if self._suspect else '')
        if self.out_of_order:
            logger.warning('%s: left out %d frames whose time is not after that of the one before; took %d',
                           self._file, self.out_of_order, taken)

    def _begin(self) -> None:
        """Once ffmpeg has said what there is."""
        self._nominal_rate = self._nominal_rate or 25.0
        self.frames = round(self._duration * self._nominal_rate)
        if not self._timed and not self._rate:
            logger.warning('%s: found no times in it, as in every raw stream, expected a container; its frames are '
                           'stamped at the rate that ffmpeg assumes; give --rate', self._file)

    def _picture(self) -> npt.NDArray[np.uint8] | None:
        """The next one of a stream of PPM files, (H, W, 3) uint8 RGB; None at its end."""
        stream = self._process.stdout
        assert stream is not None
        magic, size, _ = stream.readline(), stream.readline(), stream.readline()
        if magic != b'P6\n' or len(size.split()) != 2:
            return None
        width, height = map(int, size.split())
        data = bytearray(width * height * 3)
        if stream.readinto(data) < len(data):  # type: ignore[attr-defined]
            return None
        return np.frombuffer(data, np.uint8).reshape(height, width, 3)

    def _listen(self) -> None:
        """Reads what ffmpeg says, in a thread of its own: it would wait for a reader."""
        stream = self._process.stderr
        assert stream is not None
        damaged = False
        for line in (line.decode('utf-8', 'replace').strip() for line in stream):
            if match := _DECODED.search(line):
                time, base = match[1], Fraction(int(match[4]), int(match[5]))
                known = time.lstrip('-').isdecimal()
                self._told.put(_Decoded(int(time) * base if known else None, match[2] == '1',
                                         match[3] == _BIDIRECTIONAL, damaged))
                damaged = False
            elif _DAMAGED.search(line):
                damaged = True
            elif match := _INPUT.search(line):
                self._fault = f'it is {_NO_VIDEO[match[1]]}'
                break
            elif 'corrupt input packet' in line:
                self._suspect += 1
            elif not line.startswith(('[image2pipe', '[out#')) and (match := _ERROR.search(line)):
                self._fault = self._fault or match[1]
            elif not self._duration and (match := _DURATION.search(line)):
                self._timed = match[4] is not None
                if match[1]:
                    self._duration = 3600 * int(match[1]) + 60 * int(match[2]) + float(match[3])
            elif not self._nominal_rate and (match := _RATE.search(line)):
                self._nominal_rate = float(match[1])
        self._told.put(None)
