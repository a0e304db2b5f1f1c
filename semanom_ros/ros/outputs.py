"""What the detector publishes for one camera."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rclpy.lifecycle import LifecycleNode, LifecyclePublisher
from sensor_msgs.msg import CompressedImage, Image
from visualization_msgs.msg import MarkerArray

from semanom_ros.core.frames import Frame, FrameResult
from semanom_ros.geometry.camera_model import CameraModel
from semanom_ros.msg import AnomalyArray, AnomalyScore
from semanom_ros.recordings.images import header, image_to_compressed, image_to_message
from semanom_ros.rendering.overlay import render_overlay
from semanom_ros.ros import messages
from semanom_ros.ros.markers import marker_array
from semanom_ros.ros.qos import OUTPUT, OUTPUT_IMAGE


class CameraOutputs:
    """The topics of one camera; what nobody subscribes to is neither rendered nor converted.

    Every message carries the header of the source image.
    """

    def __init__(self, node: LifecycleNode, camera: str) -> None:
        self._node = node
        self._publishers: list[LifecyclePublisher] = []

        def publisher(kind: Any, topic: str, qos: Any = OUTPUT) -> LifecyclePublisher:
            self._publishers.append(node.create_lifecycle_publisher(kind, f'~/{camera}/{topic}', qos))
            return self._publishers[-1]

        self._score = publisher(AnomalyScore, 'score')
        self._anomalies = publisher(AnomalyArray, 'anomalies')
        self._markers = publisher(MarkerArray, 'markers')
        self._mask = publisher(Image, 'mask', OUTPUT_IMAGE)
        self._anomaly_map = publisher(Image, 'anomaly_map', OUTPUT_IMAGE)
        self._overlay = publisher(Image, 'overlay', OUTPUT_IMAGE)
        self._compressed = publisher(CompressedImage, 'overlay/compressed', OUTPUT_IMAGE)
        self._detections = self._annotations = None
        if messages.Detection2DArray is not None:
            self._detections = publisher(messages.Detection2DArray, 'detections')
        if messages.ImageAnnotations is not None:
            self._annotations = publisher(messages.ImageAnnotations, 'annotations')

    def destroy(self) -> None:
        """Takes the topics away."""
        for publisher in self._publishers:
            self._node.destroy_lifecycle_publisher(publisher)
        self._publishers.clear()

    def publish_score(self, result: FrameResult, frame_id: str) -> None:
        """The score alone, before anything that takes longer."""
        if _wanted(self._score):
            self._score.publish(messages.anomaly_score(result, header(result.stamp_ns, frame_id)))

    def publish_result(self, result: FrameResult, frame_id: str, camera: CameraModel | None,
                       settings: Mapping[str, Any]) -> None:
        """Everything for machines, and the markers.

        Args:
            result: of the frame.
            frame_id: of the source image.
            camera: None: bearings and markers are left out.
            settings: of the group `detector`.
        """
        head = header(result.stamp_ns, frame_id)
        if _wanted(self._anomalies):
            self._anomalies.publish(messages.anomaly_array(result, head, camera))
        if _wanted(self._markers):
            self._markers.publish(
                marker_array(result, head, camera, settings['marker_distance'], settings['marker_lifetime']))
        if _wanted(self._mask):
            self._mask.publish(image_to_message(result.mask, 'mono8', result.stamp_ns, frame_id))
        if _wanted(self._anomaly_map):
            self._anomaly_map.publish(image_to_message(result.anomaly_map, '32FC1', result.stamp_ns, frame_id))
        if self._detections is not None and _wanted(self._detections):
            self._detections.publish(messages.detection_array(result, head))
        if self._annotations is not None and _wanted(self._annotations):
            self._annotations.publish(messages.image_annotations(result, head))

    @property
    def overlay_wanted(self) -> bool:
        """Whether somebody looks at the overlay."""
        return _wanted(self._overlay) or _wanted(self._compressed)

    def publish_overlay(self, frame: Frame, result: FrameResult, frame_id: str, settings: Mapping[str, Any]) -> None:
        """The picture for people."""
        overlay = render_overlay(frame.image, result, max_width=settings['overlay_max_width'],
                                 evidence=settings['overlay_evidence'])
        if _wanted(self._overlay):
            self._overlay.publish(image_to_message(overlay, 'bgr8', result.stamp_ns, frame_id))
        if _wanted(self._compressed):
            self._compressed.publish(image_to_compressed(
                overlay, result.stamp_ns, frame_id, quality=settings['overlay_jpeg_quality']))


def _wanted(publisher: LifecyclePublisher) -> bool:
    return publisher.get_subscription_count() > 0
