"""A simulated drive as a rosbag2 recording."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from semanom_ros.recordings.bags import BagWriter
from semanom_ros.recordings.ground_truth import ANOMALY_MASK, INSTANCES, SCENARIO
from semanom_ros.simulation.catalogue import CATALOGUE
from semanom_ros.simulation.drive import CAMERA_HEIGHT, FOCAL, HEIGHT, WIDTH, SimulatedFrame

IMAGE_TOPIC = '/camera/image_raw'
CAMERA_FRAME, VEHICLE_FRAME, MAP_FRAME = 'camera_optical_frame', 'base_link', 'map'


def write_bag(frames: Iterable[SimulatedFrame], path: Path | str, storage: str = 'mcap', raw: bool = False) -> int:
    """Records a drive.

    The picture is a JPEG on `/camera/image_raw/compressed`, or bgr8 on `/camera/image_raw`.
    Every message bears the frame's stamp; /clock comes first. `/ground_truth/instances` is
    mono16, 0 where no thing is, else the number of a thing that it keeps through the drive.
    `/ground_truth/scenario` is a JSON object: `anomalies` and `twins` (name, severity, kind
    of those in view), `weather`, `speed` (of the vehicle, m/s), and `instances` (number -> name,
    caption, anomalous, distance in metres along the optical axis).

    Args:
        frames: in order.
        path: folder to be made.
        storage: `mcap` or `sqlite3`.
        raw: uncompressed pictures: 0.7 MB for each.

    Returns:
        The number of frames.

    Raises:
        BagError: the folder exists already, or cannot be written.
    """
    count = 0
    with BagWriter(path, storage) as bag:
        messages = _Messages(bag.typestore.types)
        bag.declare('/tf_static', 'tf2_msgs/msg/TFMessage', latched=True)
        for frame in frames:
            stamp = frame.stamp_ns
            bag.write('/clock', messages.clock(stamp), stamp)
            if count == 0:
                bag.write('/tf_static', messages.mount(stamp), stamp)
            bag.write('/tf', messages.pose(frame), stamp)
            bag.write('/camera/camera_info', messages.camera_info(stamp), stamp)
            if raw:
                bag.write_image(IMAGE_TOPIC, frame.image, 'bgr8', stamp, CAMERA_FRAME)
            else:
                bag.write_image(f'{IMAGE_TOPIC}/compressed', frame.image, 'bgr8', stamp, CAMERA_FRAME, compress=True)
            bag.write_image(ANOMALY_MASK, frame.anomaly_mask, 'mono8', stamp, CAMERA_FRAME)
            bag.write(INSTANCES, messages.instances(frame), stamp)
            bag.write(SCENARIO, messages.scenario(frame), stamp)
            count += 1
    return count


class _Messages:
    """Makes messages of the bag's own types."""

    def __init__(self, types: dict[str, Any]):
        self._types = types
        self._catalogue = {s.name: {'name': s.name, 'severity': s.severity, 'kind': s.kind} for s in CATALOGUE}

    def _header(self, stamp_ns: int, frame: str) -> Any:
        return self._types['std_msgs/msg/Header'](self._time(stamp_ns), frame)

    def _time(self, stamp_ns: int) -> Any:
        return self._types['builtin_interfaces/msg/Time'](*divmod(stamp_ns, 1_000_000_000))

    def clock(self, stamp_ns: int) -> Any:
        return self._types['rosgraph_msgs/msg/Clock'](self._time(stamp_ns))

    def camera_info(self, stamp_ns: int) -> Any:
        k = np.array([FOCAL, 0, WIDTH / 2 - 0.5, 0, FOCAL, HEIGHT / 2 - 0.5, 0, 0, 1])
        p = np.array([FOCAL, 0, WIDTH / 2 - 0.5, 0, 0, FOCAL, HEIGHT / 2 - 0.5, 0, 0, 0, 1, 0])
        window = self._types['sensor_msgs/msg/RegionOfInterest'](0, 0, 0, 0, False)
        return self._types['sensor_msgs/msg/CameraInfo'](
            self._header(stamp_ns, CAMERA_FRAME),
            HEIGHT,
            WIDTH,
            'plumb_bob',
            np.zeros(5),
            k,
            np.eye(3).ravel(),
            p,
            0,
            0,
            window,
        )

    def pose(self, frame: SimulatedFrame) -> Any:
        """map -> base_link, and base_link -> camera_optical_frame as the body moves on its springs."""
        x, y, yaw = frame.ego
        cos, sin = math.cos(yaw), math.sin(yaw)
        vehicle = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1.0]])
        offset = vehicle.T @ (frame.position - (x, y, 0))
        return self._types['tf2_msgs/msg/TFMessage'](
            [
                self._transform(frame.stamp_ns, MAP_FRAME, VEHICLE_FRAME, np.array([x, y, 0.0]), vehicle),
                self._transform(frame.stamp_ns, VEHICLE_FRAME, CAMERA_FRAME, offset, vehicle.T @ frame.axes.T),
            ]
        )

    def mount(self, stamp_ns: int) -> Any:
        """base_link -> camera_link, where the camera is at rest."""
        return self._types['tf2_msgs/msg/TFMessage'](
            [self._transform(stamp_ns, VEHICLE_FRAME, 'camera_link', np.array([0, 0, CAMERA_HEIGHT]), np.eye(3))]
        )

    def _transform(
        self, stamp_ns: int, parent: str, child: str, offset: npt.NDArray[np.float64], rotation: npt.NDArray[np.float64]
    ) -> Any:
        types = self._types
        x, y, z, w = quaternion(rotation)
        return types['geometry_msgs/msg/TransformStamped'](
            self._header(stamp_ns, parent),
            child,
            types['geometry_msgs/msg/Transform'](
                types['geometry_msgs/msg/Vector3'](*(float(v) for v in offset)),
                types['geometry_msgs/msg/Quaternion'](x, y, z, w),
            ),
        )

    def instances(self, frame: SimulatedFrame) -> Any:
        height, width = frame.instance_ids.shape
        data = np.frombuffer(frame.instance_ids.astype('<u2').tobytes(), np.uint8)
        return self._types['sensor_msgs/msg/Image'](
            self._header(frame.stamp_ns, CAMERA_FRAME), height, width, 'mono16', 0, 2 * width, data
        )

    def scenario(self, frame: SimulatedFrame) -> Any:
        content = {
            'anomalies': [self._catalogue[name] for name in frame.scenarios],
            'twins': [self._catalogue[name] for name in frame.twins],
            'weather': frame.weather,
            'speed': round(frame.speed, 3),
            'instances': {
                str(k): {
                    'name': i.name,
                    'caption': i.caption,
                    'anomalous': i.anomalous,
                    'distance': round(frame.distances[k], 2),
                }
                for k, i in frame.instances.items()
            },
        }
        return self._types['std_msgs/msg/String'](json.dumps(content))


def quaternion(rotation: npt.NDArray[np.float64]) -> tuple[float, float, float, float]:
    """(x, y, z, w) of a rotation matrix (3, 3)."""
    m = rotation
    # the largest of the four components is the safe one to divide by (Shepperd's method)
    squares = [
        1 + m[0, 0] - m[1, 1] - m[2, 2],
        1 - m[0, 0] + m[1, 1] - m[2, 2],
        1 - m[0, 0] - m[1, 1] + m[2, 2],
        1 + np.trace(m),
    ]
    k = int(np.argmax(squares))
    q = [
        [squares[0], m[0, 1] + m[1, 0], m[0, 2] + m[2, 0], m[2, 1] - m[1, 2]],
        [m[0, 1] + m[1, 0], squares[1], m[1, 2] + m[2, 1], m[0, 2] - m[2, 0]],
        [m[0, 2] + m[2, 0], m[1, 2] + m[2, 1], squares[2], m[1, 0] - m[0, 1]],
        [m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1], squares[3]],
    ][k]
    x, y, z, w = (float(v) / (2 * math.sqrt(squares[k])) for v in q)
    return x, y, z, w
