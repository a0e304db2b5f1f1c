"""The one table of what the detector says about a frame: live topics, result bags and captures are made from it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from rclpy.event_handler import PublisherEventCallbacks
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CompressedImage, Image, PointCloud2
from std_msgs.msg import Header
from visualization_msgs.msg import MarkerArray

from semanom_ros.core.frames import Frame
from semanom_ros.core.results import Anomaly, FrameResult, Verdict
from semanom_ros.geometry.anomaly_place import Place
from semanom_ros.geometry.camera_model import CameraModel
from semanom_ros.geometry.ground_plane import GroundPlane
from semanom_ros.geometry.measured_distance import Measurement
from semanom_ros.msg import AnomalyArray, AnomalyScore
from semanom_ros.rendering.overlay import Picture, render_overlay
from semanom_ros.ros import messages
from semanom_ros.ros.markers import marker_array
from semanom_ros.ros.messages import header, image_to_compressed, image_to_message
from semanom_ros.ros.obstacles import obstacle_cloud
from semanom_ros.ros.qos import OUTPUT, OUTPUT_IMAGE
from semanom_ros.settings import DetectorSettings

MAP_STEPS = 256
"""Of the alarm level, in published anomaly maps."""


@dataclass(frozen=True)
class Judged:
    """A judged frame, and what its messages are made with.

    Attributes:
        frame: the picture; None where none was read.
        result: what is said about it.
        frame_id: of the source image.
        camera: for bearings and markers; None: they are left out.
        settings: of markers and overlays.
        ground: below the camera; None: positions are left out, and distances that nothing measured.
        measurement: of its time; None: no distance is measured.
    """

    frame: Frame | None
    result: FrameResult
    frame_id: str
    camera: CameraModel | None
    settings: DetectorSettings
    ground: GroundPlane | None = None
    measurement: Measurement | None = None

    @property
    def header(self) -> Header:
        """That of the source image."""
        return header(self.result.stamp_ns, self.frame_id)

    @cached_property
    def places(self) -> list[Place | None]:
        """Where each anomaly is; None where that is not known. What was measured comes before the ground."""
        return [self._place(anomaly) for anomaly in self.result.anomalies]

    def _place(self, anomaly: Anomaly) -> Place | None:
        if self.camera is None:
            return None
        size, distance = self.result.image_size, None
        if self.measurement is not None:
            region = next(one for one in self.result.regions if (one.box, one.area) == (anomaly.box, anomaly.area))
            distance = self.measurement.distance(region.box, region.mask)
        if distance is None or self.measurement is None:
            return None if self.ground is None else self.ground.footing(self.camera, anomaly.box, size)
        source = self.measurement.source
        if self.ground is None:
            return Place(distance, source)
        return self.ground.measured(self.camera, anomaly.box, size, distance, source)

    @property
    def nearest(self) -> float:
        """Metres to the nearest anomaly whose distance is known; NaN: there is none."""
        return min((place.distance for place in self.places if place is not None), default=math.nan)

    @property
    def ground_frame(self) -> str:
        """Frame of their positions; '' where there are none."""
        return self.ground.frame if self.ground is not None and self.camera is not None else ''

    @cached_property
    def overlay(self) -> Picture:
        """(h, w, 3) uint8 RGB, the picture for people."""
        assert self.frame is not None
        return render_overlay(self.frame.image, self.result, max_width=self.settings.overlay_max_width,
                              evidence=self.settings.overlay_evidence)


class When(Enum):
    """In which order outputs are published."""

    AT_ONCE = 0
    """Before anything that takes longer."""

    NEXT = 1
    """For machines."""

    DRAWN = 2
    """For people, in a thread of its own, so that somebody who looks on does not slow the detector down."""


class Needs(Enum):
    """What an output is made of; it is not published for frames that lack it."""

    NOTHING = 0
    PICTURE = 1
    VERDICT = 2
    """A known one: where nothing is known an empty mask or list would say that nothing is anomalous."""
    GROUND = 3
    """A known verdict, and where the ground is."""

    def met(self, judged: Judged) -> bool:
        """Whether a frame has it."""
        if self in (Needs.VERDICT, Needs.GROUND):
            return judged.result.verdict is not Verdict.UNKNOWN and (
                self is Needs.VERDICT or bool(judged.ground_frame))
        return self is Needs.NOTHING or judged.frame is not None


@dataclass(frozen=True)
class Output:
    """One row of the table.

    Attributes:
        name: of the topic, below `~/NAME/`.
        type: class of its messages.
        make: the message for a judged frame.
        when: it is published.
        qos: of the live topic.
        recorded: whether result bags and captures hold it.
        needs: of a frame, to be published.
    """

    name: str
    type: Any
    make: Callable[[Judged], Any]
    when: When = When.NEXT
    qos: QoSProfile = field(default_factory=lambda: OUTPUT)
    recorded: bool = True
    needs: Needs = Needs.NOTHING

    @property
    def type_name(self) -> str:
        """As recordings have it, e.g. `sensor_msgs/msg/Image`."""
        return messages.type_name(self.type)


def _picture(pixels: Any, encoding: str, judged: Judged) -> Image:
    return image_to_message(pixels, encoding, judged.result.stamp_ns, judged.frame_id)


def stepped(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Scores in steps of 1/256 of the alarm level: a recording of them then takes a twentieth of the space."""
    return np.rint(scores * np.float32(MAP_STEPS)) / np.float32(MAP_STEPS)


SCORE = Output('score', AnomalyScore, lambda j: messages.anomaly_score(j.result, j.header), When.AT_ONCE)
ANOMALIES = Output('anomalies', AnomalyArray, lambda j: messages.anomaly_array(
    j.result, j.header, j.camera, j.places, j.ground_frame))
MARKERS = Output('markers', MarkerArray, lambda j: marker_array(
    j.result, j.header, j.camera, j.settings.marker_distance, j.settings.marker_lifetime, j.places, j.ground_frame))
OBSTACLES = Output('obstacles', PointCloud2, lambda j: obstacle_cloud(
    j.places, j.result.stamp_ns, j.ground_frame), needs=Needs.GROUND)
MASK = Output('mask', Image, lambda j: _picture(j.result.mask, 'mono8', j), qos=OUTPUT_IMAGE, needs=Needs.VERDICT)
ANOMALY_MAP = Output('anomaly_map', Image, lambda j: _picture(stepped(j.result.anomaly_map), '32FC1', j),
                     qos=OUTPUT_IMAGE, needs=Needs.VERDICT)
OVERLAY = Output('overlay', Image, lambda j: _picture(j.overlay, 'bgr8', j), When.DRAWN, OUTPUT_IMAGE, recorded=False,
                 needs=Needs.PICTURE)
OVERLAY_JPEG = Output('overlay/compressed', CompressedImage, lambda j: image_to_compressed(
    j.overlay, j.result.stamp_ns, j.frame_id, quality=j.settings.overlay_jpeg_quality), When.DRAWN, OUTPUT_IMAGE,
    needs=Needs.PICTURE)

OUTPUTS: tuple[Output, ...] = (SCORE, ANOMALIES, MARKERS, OBSTACLES, MASK, ANOMALY_MAP, OVERLAY, OVERLAY_JPEG)

if messages.Detection2DArray is not None:  # where those packages are installed
    OUTPUTS += (Output('detections', messages.Detection2DArray,
                       lambda j: messages.detection_array(j.result, j.header), recorded=False, needs=Needs.VERDICT),)
if messages.ImageAnnotations is not None:
    OUTPUTS += (Output('annotations', messages.ImageAnnotations,
                       lambda j: messages.image_annotations(j.result, j.header), recorded=False),)


class CameraOutputs:
    """The topics of one camera; what nobody subscribes to is neither rendered nor converted.

    Every message carries the header of the source image.
    """

    def __init__(self, node: LifecycleNode, camera: str) -> None:
        self._node = node
        self._publishers: dict[str, LifecyclePublisher] = {
            output.name: node.create_lifecycle_publisher(
                output.type, f'~/{camera}/{output.name}', output.qos,
                event_callbacks=PublisherEventCallbacks(use_default_callbacks=False))  # see GuardedNode
            for output in OUTPUTS}

    def destroy(self) -> None:
        """Takes the topics away."""
        for publisher in self._publishers.values():
            self._node.destroy_lifecycle_publisher(publisher)
        self._publishers.clear()

    def wanted(self, when: When) -> list[Output]:
        """Those of a time that somebody subscribes to."""
        return [output for output in OUTPUTS
                if output.when is when and self._publishers[output.name].get_subscription_count() > 0]

    def publish(self, when: When, judged: Judged) -> None:
        """Publishes what is wanted of that time, and can be made of the frame."""
        for output in self.wanted(when):
            if not output.needs.met(judged):
                continue
            self._publishers[output.name].publish(output.make(judged))
