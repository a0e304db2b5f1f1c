"""Depth images or point clouds beside a camera's images, by which distances are measured."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import numpy as np
import numpy.typing as npt
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from sensor_msgs.msg import Image, PointCloud2, PointField

from semanom_ros.errors import ImageError, MeasurementError
from semanom_ros.geometry.camera_model import CameraModel
from semanom_ros.geometry.measured_distance import DepthPicture, Measurement, PointsInView
from semanom_ros.geometry.transform_tree import TransformTree
from semanom_ros.ros.messages import deserialized, stamp_of

DEPTH, POINTS = 'depth', 'points'
"""As in the parameter `distance_sensor`; the topics are `~/input/NAME/depth` and `~/input/NAME/points`."""

ENCODINGS = {'16UC1': ('u2', 0.001), 'mono16': ('u2', 0.001), '32FC1': ('f4', 1.0)}
"""Samples and metres of depth images, REP 118; some drivers call the first one mono16."""

_BUFFERED = 30
"""So many wait for their image; older ones go when a later image has been judged."""

_QOS = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=4, reliability=ReliabilityPolicy.BEST_EFFORT)
_FLOATS = {PointField.FLOAT32: 'f4', PointField.FLOAT64: 'f8'}


class MeasurementInput:
    """What one sensor measures in the pictures of one camera. For several threads.

    Attributes:
        topic: its name.
    """

    def __init__(self, node: Node, camera: str, sensor: str, transforms: TransformTree | None) -> None:
        """
        Args:
            node: subscribes; somebody spins it.
            camera: name.
            sensor: DEPTH or POINTS.
            transforms: from the frame of a point cloud to that of the image; depth images need none.
        """
        self.topic = node.resolve_topic_name(f'~/input/{camera}/{sensor}')
        self._node, self._sensor, self._transforms = node, sensor, transforms
        self._lock = threading.Lock()
        self._waiting: dict[int, bytes] = {}
        self._subscription: Subscription[Any] | None = None

    def open(self) -> None:
        """Lets messages in."""
        kind: Any = Image if self._sensor == DEPTH else PointCloud2
        self._subscription = self._node.create_subscription(kind, self.topic, self._receive, _QOS, raw=True)

    def close(self) -> None:
        """Lets no more in, and forgets those that came."""
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None
        with self._lock:
            self._waiting.clear()

    def at(self, stamp_ns: int, max_gap_s: float, model: CameraModel, image_size: tuple[int, int], frame_id: str
           ) -> Measurement:
        """What was measured nearest to the time of an image.

        Args:
            stamp_ns, image_size, frame_id: of the image; (height, width).
            max_gap_s: seconds that the measurement may lie before or after it.
            model: of the camera.

        Raises:
            MeasurementError: there is none of that time, or it cannot be used.
            TransformError: nothing tells where the sensor is.
        """
        if not stamp_ns:  # what came once without a stamp would be of its time for ever
            raise MeasurementError(f'{self.topic}: found an image without stamp, expected one that tells what was '
                                   'measured at its time; mend the camera driver')
        with self._lock:
            stamps = list(self._waiting)
            nearest = min(stamps, key=lambda one: abs(one - stamp_ns), default=None)
            serialized = None if nearest is None else self._waiting[nearest]
            for old in stamps:
                if old != nearest and old < stamp_ns - max_gap_s * 1e9:
                    del self._waiting[old]
        if nearest is None or serialized is None:
            raise MeasurementError(f'{self.topic}: found nothing, expected {self._sensor} with the images; start the '
                                   'sensor, or remap the topic')
        gap = (nearest - stamp_ns) / 1e9
        if abs(gap) > max_gap_s:
            where = 'after' if gap > 0 else 'before'
            raise MeasurementError(f'{self.topic}: found the nearest {abs(gap):.3f} s {where} the image, expected at '
                                   f'most {max_gap_s:g} s; synchronize the clocks, or raise distance_max_gap')
        if self._sensor == DEPTH:
            message = self._message(serialized, 'Image')
            if message.header.frame_id and frame_id and message.header.frame_id != frame_id:
                raise MeasurementError(
                    f'{self.topic}: found frame {message.header.frame_id!r}, expected {frame_id!r}, that of the image; '
                    'give the depth that is registered to this camera, such as aligned_depth_to_color')
            return self._depth_picture(message, model, image_size)
        return self._points_in_view(self._message(serialized, 'PointCloud2'), model, image_size, frame_id, stamp_ns)

    def _receive(self, serialized: bytes) -> None:
        try:
            stamp = stamp_of(serialized)
        except ImageError:  # cut off: as if it had not come
            return
        with self._lock:
            self._waiting[stamp] = serialized
            while len(self._waiting) > _BUFFERED:
                del self._waiting[next(iter(self._waiting))]

    def _message(self, serialized: bytes, kind: str) -> Any:
        try:
            return deserialized(serialized, f'sensor_msgs/msg/{kind}')
        except ValueError as error:
            raise MeasurementError(f'{self.topic}: found {error}; check its driver') from error

    def _depth_picture(self, message: Any, model: CameraModel, image_size: tuple[int, int]) -> DepthPicture:
        if message.encoding not in ENCODINGS:
            raise MeasurementError(f'{self.topic}: found encoding {message.encoding!r:.40}, expected one of '
                                   f'{", ".join(ENCODINGS)}; give raw depth, not its picture for people')
        kind, unit = ENCODINGS[message.encoding]
        height, width = message.height, message.width
        if (height, width) != image_size:
            raise MeasurementError(f'{self.topic}: found {width}x{height} pixels, expected {image_size[1]}x'
                                   f'{image_size[0]}, those of the image; give the depth that is registered to it')
        kind = ('>' if message.is_bigendian else '<') + kind
        samples = np.dtype(kind).itemsize
        if message.step < width * samples or len(message.data) < height * message.step:
            raise MeasurementError(f'{self.topic}: found {len(message.data)} bytes, {message.step} in a row, expected '
                                   f'{width}x{height} pixels of {message.encoding}; check its driver')
        rows = message.data[:height * message.step].reshape(height, message.step)
        depths = np.ascontiguousarray(rows[:, :width * samples]).view(kind)
        return DepthPicture(depths, unit, model)

    def _points_in_view(self, message: Any, model: CameraModel, image_size: tuple[int, int], frame_id: str,
                        stamp_ns: int) -> PointsInView:
        points, frame = self._points(message), message.header.frame_id
        if not frame or not frame_id:
            what = 'a point cloud' if not frame else 'an image'
            raise MeasurementError(f'{self.topic}: found {what} without frame_id, expected to be told where the sensor '
                                   'is; set it in its driver')
        if frame != frame_id:
            assert self._transforms is not None
            way = self._transforms.lookup(frame_id, frame, stamp_ns)
            with np.errstate(all='ignore'):  # lidars send infinity where there is none
                points = points @ way.rotation.T + way.translation
        return PointsInView(points, model, image_size)

    def _points(self, message: Any) -> npt.NDArray[np.float64]:
        """(N, 3)."""
        fields = {field.name: field for field in message.fields}
        if not all(name in fields and fields[name].datatype in _FLOATS for name in 'xyz'):
            raise MeasurementError(f'{self.topic}: found fields {", ".join(fields) or "none":.100}, expected x, y and '
                                   'z as float32 or float64; give a point cloud in space')
        order = '>' if message.is_bigendian else '<'
        places = [(fields[name].offset, order + _FLOATS[fields[name].datatype]) for name in 'xyz']
        height, width, step, row = message.height, message.width, message.point_step, message.row_step
        last = max(offset + np.dtype(kind).itemsize for offset, kind in places)
        if not height * width:
            raise MeasurementError(f'{self.topic}: found a point cloud without points, expected some; look what covers '
                                   'the sensor, or check its driver')
        begun = sorted(places)
        if any(offset + np.dtype(kind).itemsize > following
               for (offset, kind), (following, _) in itertools.pairwise(begun)):
            raise MeasurementError(f'{self.topic}: found x, y and z at {", ".join(str(at) for at, _ in places)} bytes, '
                                   'expected each to have its own; check its driver')
        if step < last or (height > 1 and row < width * step) or len(message.data) < (height - 1) * row + width * step:
            raise MeasurementError(f'{self.topic}: found {len(message.data)} bytes, {step} for a point, expected '
                                   f'{width * height} points with their fields; check its driver')
        kind = np.dtype({'names': list('xyz'), 'formats': [kind for _, kind in places],
                         'offsets': [offset for offset, _ in places], 'itemsize': step})
        cloud = np.ndarray((height, width), kind, message.data, strides=(row or width * step, step))
        with np.errstate(invalid='ignore'):  # of NaN that signals
            return np.stack([cloud[name].ravel().astype(np.float64) for name in 'xyz'], axis=-1)
