"""Instance masks in messages: label images, and CARLA's instance segmentation."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from semanom_ros.core.embedding.registry import needs_masks
from semanom_ros.core.frames import Segments
from semanom_ros.errors import BagError, ImageError, ParameterError
from semanom_ros.recordings.bags import IMAGE, BagReader
from semanom_ros.recordings.images import LABEL_ENCODINGS, image_from_message, is_compressed, labels_from_message
from semanom_ros.recordings.in_step import InStep
from semanom_ros.settings import QuerySettings

COLOUR_ENCODINGS = ('bgra8', 'rgba8', 'bgr8', 'rgb8')

CARLA_CLASSES = {
    7: 'traffic light', 8: 'traffic sign', 12: 'pedestrian', 13: 'rider', 14: 'car', 15: 'truck', 16: 'bus',
    17: 'train', 18: 'motorcycle', 19: 'bicycle', 20: 'static object', 21: 'dynamic object', 22: 'other object'}
"""CARLA's semantic classes that are things; roads, houses, plants and sky are not, and stay with the grid.

`carla::rpc::CityObjectLabel`, as of CARLA 0.9.14."""

logger = logging.getLogger(__name__)


def carla_instances(image: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Semantic class and actor of each pixel of CARLA's instance segmentation.

    Args:
        image: (H, W, 3) uint8 RGB: the class in R, the actor's number in G (low byte) and B (high byte).

    Returns:
        (H, W) int32 each.
    """
    values = image.astype(np.int32)
    return values[..., 0], values[..., 1] | values[..., 2] << 8


def segments_from_message(message: Any, size: tuple[int, ...]) -> Segments:
    """The instance masks of a `sensor_msgs/Image` for a picture of this (height, width), the largest first.

    An image of one channel (LABEL_ENCODINGS) holds the number of the instance of each pixel, 0 where there is none; one
    of colours (COLOUR_ENCODINGS) is CARLA's instance segmentation, of which the things (CARLA_CLASSES) are taken.

    Raises:
        ImageError: it holds no masks, or is of another size.
    """
    if is_compressed(message):
        raise ImageError('masks: found a CompressedImage, expected an Image, because compression changes the numbers; '
                         'send raw masks')
    if (message.height, message.width) != size:
        raise ImageError(f'masks: found {message.width}x{message.height} pixels, expected those of the image, '
                         f'{size[1]}x{size[0]}; send masks at the camera\'s resolution')
    if message.encoding in LABEL_ENCODINGS:
        numbers = labels_from_message(message)
        if numbers.min() < 0:
            raise ImageError(f'masks: found the instance {numbers.min()}, expected 0 (none) and above; correct the '
                             'node that sends them')
        return _segments(numbers, {})
    if message.encoding in COLOUR_ENCODINGS:
        classes, actors = carla_instances(image_from_message(message))
        thing = np.zeros(256, bool)
        thing[list(CARLA_CLASSES)] = True
        return _segments(np.where(thing[classes], classes << 16 | actors, 0), CARLA_CLASSES)
    raise ImageError(f'masks: found encoding {message.encoding!r}, expected one of '
                     f'{", ".join(LABEL_ENCODINGS + COLOUR_ENCODINGS)}; correct the node that sends them')


def _segments(numbers: npt.NDArray[Any], names: dict[int, str]) -> Segments:
    """Segments of an image (H, W) of instance numbers, whose bits from the 16th on are classes with these names."""
    found, inverse, sizes = _unique(numbers)
    order = np.argsort(-sizes, kind='stable')
    order = order[found[order] > 0]
    label_of = np.zeros(len(found), np.int32)
    label_of[order] = np.arange(1, len(order) + 1)
    return Segments(label_of[inverse], np.ones(len(order), np.float32),
                    tuple(names.get(int(number) >> 16, '') for number in found[order]))


def _unique(numbers: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    """As `np.unique` with inverse and counts, by counting where that is quicker than sorting."""
    if numbers.max() >= 1 << 22:
        found, inverse, sizes = np.unique(numbers, return_inverse=True, return_counts=True)
        return found, inverse.reshape(numbers.shape), sizes
    counts = np.bincount(numbers.ravel())
    found = np.flatnonzero(counts)
    place = np.zeros(len(counts), np.int32)
    place[found] = np.arange(len(found))
    return found, place[numbers], counts[found]


class BagSegments:
    """The masks of a recording's images, found by stamp; a context manager."""

    def __init__(self, bag: BagReader, image_topics: Sequence[str], segments_topics: Sequence[str]) -> None:
        """
        Args:
            bag: recording; read for the masks beside whoever reads its images.
            image_topics: of the images.
            segments_topics: of their masks, in the same order; none: there are no masks.

        Raises:
            ParameterError: there are more or fewer of them.
            BagError: the recording does not have one of them.
        """
        if segments_topics and len(segments_topics) != len(image_topics):
            raise ParameterError(f'parameter segments_topics: found {", ".join(segments_topics)}, expected one topic '
                                 f'for each of {", ".join(image_topics)}; correct it')
        self._bag = bag.path
        self._faults: Counter[str] = Counter()
        for topic in segments_topics:
            if bag.topics.get(topic) != IMAGE:
                raise BagError(f'{bag.path}: found no topic {topic} of {IMAGE}, expected masks on it; correct '
                               f'segments_topics, the recording has {", ".join(sorted(bag.topics))}')
        self._topics = dict(zip(image_topics, segments_topics, strict=False))
        self._readers: dict[str, InStep] = {}

    def __enter__(self) -> BagSegments:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        for reader in self._readers.values():
            reader.__exit__(kind, error, trace)
        for fault, count in self._faults.items():
            logger.warning('%s: %d images without masks: %s', self._bag, count, fault)

    def __call__(self, topic: str, stamp_ns: int, size: tuple[int, ...]) -> Segments | None:
        """The masks of an image; None where there are none, which is logged at the end."""
        if topic not in self._topics:
            return None
        if topic not in self._readers:
            self._readers[topic] = InStep(BagReader(self._bag), self._topics[topic])
        reader = self._readers[topic]
        message = reader.at(stamp_ns)
        if message is None:
            self._faults[f'none on {reader.topic} with their stamps'] += 1
            return None
        try:
            return segments_from_message(message, size)
        except ImageError as error:
            self._faults[str(error)] += 1
            return None


def wanted_segments(settings: QuerySettings) -> list[str]:
    """The topics whose masks are wanted with the images of a recording.

    Raises:
        ParameterError: the segmenter wants some, and `segments_topics` names none.
    """
    if not needs_masks(settings):
        return []
    topics = [topic for topic in settings.segments_topics if topic]
    if not topics:
        raise ParameterError("parameter segments_topics: found '', expected the topic of the masks of each image "
                             f'topic; the segmenter `{settings.segmenter}` needs it')
    return topics
