"""Ground-truth masks of a recording, found by stamp."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType

import numpy as np
import numpy.typing as npt

from semanom_ros.errors import BagError, ImageError
from semanom_ros.evaluation.metrics import ANOMALOUS, IGNORE, NOMINAL
from semanom_ros.ros.bags import BagReader
from semanom_ros.ros.images import image_from_compressed, image_from_message, is_compressed, stamp_ns

DEFAULT_TOPIC = '/ground_truth/anomaly_mask'
_WAITING = 32  # masks read ahead of the frames


class TruthReader:
    """Masks of one recording in step with its frames.

    Use it as a context manager. Masks may lie before or after their frames, and frames
    may have none; memory stays bounded.

    Attributes:
        matched: masks that a frame asked for.
    """

    def __init__(self, reader: BagReader, topic: str = '') -> None:
        """
        Args:
            reader: of the recording, used by nothing else; closed with this object.
            topic: mono8 Image (or PNG) topic; '': DEFAULT_TOPIC, and no truth where there is none.

        Raises:
            BagError: the topic was named and does not exist.
        """
        self.matched = 0
        self._reader = reader
        self.topic = topic or DEFAULT_TOPIC
        if topic and topic not in reader.topics:
            raise BagError(f'{reader.path}: found no ground truth topic {topic}, expected one of '
                           f'{", ".join(sorted(reader.topics))}')
        self._masks = self._read() if self.topic in reader.topics else iter(())
        self._waiting: dict[int, npt.NDArray[np.uint8]] = {}

    def __enter__(self) -> TruthReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._reader.close()

    def at(self, stamp: int, size: tuple[int, int]) -> npt.NDArray[np.uint8] | None:
        """The mask of the frame with this stamp (nanoseconds), None where there is none.

        Args:
            stamp: of the frame; the next call's usually is later.
            size: (height, width) of the frame.

        Returns:
            (H, W) uint8: 0 nominal, 128 ignore, 255 anomalous.

        Raises:
            BagError: the mask has another size or other values.
        """
        while stamp not in self._waiting:
            if len(self._waiting) == _WAITING:
                oldest = next(iter(self._waiting))
                if oldest > stamp:
                    break
                del self._waiting[oldest]
            try:
                found, mask = next(self._masks)
            except StopIteration:
                break
            self._waiting[found] = mask
        if stamp not in self._waiting:
            return None
        while (found := next(iter(self._waiting))) != stamp:  # frames come in order, so nobody will ask for these
            del self._waiting[found]
        mask_of_frame = self._waiting.pop(stamp)
        if mask_of_frame.shape != size:
            raise BagError(f'{self._reader.path}: ground truth at {stamp} ns found '
                           f'{mask_of_frame.shape[1]}x{mask_of_frame.shape[0]} pixels, expected the size of the image, '
                           f'{size[1]}x{size[0]}; record masks at the camera\'s resolution')
        self.matched += 1
        return mask_of_frame

    def _read(self) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
        messages = self._reader.messages([self.topic])
        while True:
            try:
                _, _, message = next(messages)
            except (StopIteration, BagError):  # a recording that breaks off: whoever reads its frames says so
                return
            stamp = stamp_ns(message)
            try:
                image = image_from_compressed(message) if is_compressed(message) else image_from_message(message)
            except ImageError as error:
                raise BagError(f'{self._reader.path}: ground truth at {stamp} ns on {self.topic} is no mask '
                               f'({error})') from error
            mask = np.ascontiguousarray(image[..., 0])
            odd = np.setdiff1d(np.flatnonzero(np.bincount(mask.ravel(), minlength=256)), (NOMINAL, IGNORE, ANOMALOUS))
            if len(odd):
                raise BagError(f'{self._reader.path}: ground truth at {stamp} ns found the value {odd[0]}, expected 0 '
                               '(nominal), 128 (ignore) and 255 (anomalous); convert the masks')
            yield stamp, mask
