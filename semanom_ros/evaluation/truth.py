"""Ground-truth masks of a recording, found by stamp."""

from __future__ import annotations

from collections.abc import Collection
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from semanom_ros.core.picture_decoder import decode_file
from semanom_ros.errors import BagError, ImageError, ParameterError
from semanom_ros.evaluation.metrics import ANOMALOUS, IGNORE, NOMINAL
from semanom_ros.recordings.bags import BagReader
from semanom_ros.recordings.ground_truth import ANOMALY_MASK
from semanom_ros.recordings.images import (
    LABEL_ENCODINGS,
    image_from_compressed,
    image_from_message,
    is_compressed,
    labels_from_message,
)
from semanom_ros.recordings.in_step import InStep
from semanom_ros.recordings.instance_masks import COLOUR_ENCODINGS, carla_instances

_REMEDY = 'convert the masks, or name --truth-instances where the topic holds CARLA\'s instance segmentation'
_COLOURS = (*COLOUR_ENCODINGS, '8UC3', '8UC4')  # in which grey may be stored


class TruthReader:
    """Masks of one recording in step with its frames.

    Use it as a context manager. Masks may lie before or after their frames, and frames
    may have none; memory stays bounded.

    Attributes:
        topic: of the masks.
    """

    def __init__(self, reader: BagReader, topic: str = '', instances: Collection[str] = ()) -> None:
        """
        Args:
            reader: of the recording, used by nothing else; closed with this object.
            topic: mono8 Image (or PNG) topic; '': ANOMALY_MASK, and no truth where there is none.
            instances: what is anomalous where the topic holds CARLA's instance segmentation, each `CLASS` or
                `CLASS:ACTOR` in numbers; empty: the topic holds masks.

        Raises:
            BagError: the topic was named and does not exist.
            ParameterError: one of the instances is none.
        """
        self.topic = topic or ANOMALY_MASK
        self._path = reader.path
        self._instances = [_instance(text) for text in instances]
        if topic and topic not in reader.topics:
            raise BagError(f'{reader.path}: found no ground truth topic {topic}, expected one of '
                           f'{", ".join(sorted(reader.topics))}; name it with --truth-topic')
        self._messages = InStep(reader, self.topic)

    def __enter__(self) -> TruthReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._messages.__exit__(kind, error, trace)

    @property
    def matched(self) -> int:
        """Masks that a frame asked for."""
        return self._messages.matched

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
        message = self._messages.at(stamp)
        if message is None:
            return None
        try:
            mask = self._mask(message, stamp)
        except ImageError as error:
            raise BagError(f'{self._path}: ground truth at {stamp} ns on {self.topic} is no mask ({error}); '
                           f'{_REMEDY}') from error
        if mask.shape != size:
            raise BagError(f'{self._path}: ground truth at {stamp} ns found {mask.shape[1]}x{mask.shape[0]} pixels, '
                           f'expected the size of the image, {size[1]}x{size[0]}; record masks at the camera\'s '
                           'resolution')
        return mask

    def _mask(self, message: Any, stamp: int) -> npt.NDArray[np.uint8]:
        if self._instances:
            image = image_from_compressed(message) if is_compressed(message) else image_from_message(message)
            classes, actors = carla_instances(image)
            anomalous = np.zeros(classes.shape, bool)
            for wanted, actor in self._instances:
                anomalous |= (classes == wanted) if actor is None else (classes == wanted) & (actors == actor)
            return np.where(anomalous, np.uint8(ANOMALOUS), np.uint8(NOMINAL))
        mask = _numbers(message)
        odd = mask[(mask != NOMINAL) & (mask != IGNORE) & (mask != ANOMALOUS)]
        if odd.size:
            values = ', '.join(map(str, np.unique(odd)[:8].tolist()))
            raise BagError(f'{self._path}: ground truth at {stamp} ns found the values {values}, expected 0 (nominal), '
                           f'128 (ignore) and 255 (anomalous); {_REMEDY}')
        return mask.astype(np.uint8)


def _numbers(message: Any) -> npt.NDArray[Any]:
    """(H, W) of integers, as they are: scaled to 8 bits, the low ones of 16 would become nominal.

    Raises:
        ImageError: it holds none.
    """
    if is_compressed(message):
        pixels = decode_file(bytes(memoryview(message.data)), f'format {message.format!r}')
    elif message.encoding in LABEL_ENCODINGS:
        return labels_from_message(message)
    elif message.encoding in _COLOURS:
        pixels = image_from_message(message)
    else:
        raise ImageError(f'found encoding {message.encoding!r}, expected one of '
                         f'{", ".join(LABEL_ENCODINGS + _COLOURS)}')
    if pixels.ndim == 3:
        if (pixels[..., :3] != pixels[..., :1]).any():
            raise ImageError('found colours, expected numbers: grey, or the same in each channel')
        pixels = pixels[..., 0]
    return pixels


def _instance(text: str) -> tuple[int, int | None]:
    """Class and, where one is given, actor."""
    first, colon, second = text.partition(':')
    try:
        return int(first), int(second) if colon else None
    except ValueError as error:
        raise ParameterError(f'--truth-instances: found {text!r}, expected CLASS or CLASS:ACTOR in numbers, such as 14 '
                             'or 14:231; correct it') from error
