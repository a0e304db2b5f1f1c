"""What a simulated drive tells of each frame: how far away its things are, and how fast the vehicle drives."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from semanom_ros.errors import BagError
from semanom_ros.recordings.bags import IMAGE, BagReader
from semanom_ros.recordings.ground_truth import ANOMALY_MASK, INSTANCES, SCENARIO, beside
from semanom_ros.recordings.images import labels_from_message
from semanom_ros.recordings.in_step import InStep


@dataclass(frozen=True)
class Surroundings:
    """Of one frame.

    Attributes:
        ids: (H, W), the number of the thing of each pixel.
        distances: of the things that are anomalies, metres along the optical axis.
        speed: of the vehicle, metres per second.
    """

    ids: npt.NDArray[np.int64]
    distances: Mapping[int, float]
    speed: float

    def nearest(self, where: npt.NDArray[np.bool_]) -> float:
        """Distance of the nearest anomaly that has a pixel there (H, W); NaN where none has."""
        near = [self.distances[i] for i in np.unique(self.ids[where]).tolist() if i in self.distances]
        return min(near, default=float('nan'))


class SurroundingsReader:
    """Surroundings of one recording in step with its frames; a context manager."""

    def __init__(self, path: Path, truth_topic: str = ANOMALY_MASK) -> None:
        """
        Args:
            path: recording; one that tells no distances has no surroundings.
            truth_topic: masks of the camera that is meant.
        """
        self._path = path
        self._stack = ExitStack()
        self._scenarios: InStep | None = None
        with BagReader(path) as reader:
            topics = reader.topics
        scenario, instances = (beside(topic, truth_topic) for topic in (SCENARIO, INSTANCES))
        if topics.get(scenario) == 'std_msgs/msg/String' and topics.get(instances) == IMAGE:
            self._scenarios, self._instances = (
                self._stack.enter_context(InStep(BagReader(path), topic)) for topic in (scenario, instances))

    def __enter__(self) -> SurroundingsReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._stack.__exit__(kind, error, trace)

    def at(self, stamp: int, size: tuple[int, int]) -> Surroundings | None:
        """Of the frame with this stamp (nanoseconds) and (height, width); None where nothing is told, or no distance.

        Raises:
            BagError: what is told is unreadable.
        """
        if self._scenarios is None:
            return None
        told, instances = self._scenarios.at(stamp), self._instances.at(stamp)
        if told is None or instances is None:
            return None
        try:
            content = json.loads(told.data)
            distances = {int(number): float(one['distance']) for number, one in content['instances'].items()
                         if one['anomalous'] and 'distance' in one}
            speed = float(content.get('speed', 'nan'))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BagError(f'{self._path}: {SCENARIO} at {stamp} ns is unreadable ({error!r}), expected the JSON of '
                           '`semanom simulate`; simulate the drive anew, or leave the topic out') from error
        ids = labels_from_message(instances) if distances else np.zeros((0, 0), np.int64)
        if ids.shape != size:
            return None
        return Surroundings(ids, distances, speed)
