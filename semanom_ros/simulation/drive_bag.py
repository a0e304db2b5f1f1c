"""A simulated drive as a rosbag2 recording."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from semanom_ros.recordings.bags import BagWriter
from semanom_ros.recordings.ground_truth import ANOMALY_MASK, INSTANCES, SCENARIO, of_camera
from semanom_ros.simulation.catalogue import CATALOGUE
from semanom_ros.simulation.drive import CAMERA_HEIGHT, FOCAL, HEIGHT, WIDTH, SimulatedFrame

CAMERA = 'camera'
IMAGE_TOPIC = '/camera/image_raw'
VEHICLE_FRAME, MAP_FRAME = 'base_link', 'map'


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
    return write_rig_bag(({CAMERA: frame} for frame in frames), path, storage, raw)


def write_rig_bag(frames: Iterable[Mapping[str, SimulatedFrame]], path: Path | str, storage: str = 'mcap',
                  raw: bool = False) -> int:
    """Records a drive with several cameras, which see it at the same moments.

    As `write_bag`, with topics and frames of each camera: `/left/image_raw`, `/left/camera_info`, `left_optical_frame`
    and `/ground_truth/left/...`; those of a camera called `camera` are those of `write_bag`.

    Args:
        frames: of each camera by its name, in order.
        path, storage, raw: see `write_bag`.

    Returns:
        The number of moments.

    Raises:
        BagError: the folder exists already, or cannot be written.
    """
    count = 0
    with BagWriter(path, storage) as bag:
        messages = _Messages(bag.typestore.types)
        bag.declare('/tf_static', 'tf2_msgs/msg/TFMessage', latched=True)
        for cameras in frames:
            stamp = next(iter(cameras.values())).stamp_ns
            bag.write('/clock', messages.clock(stamp), stamp)
            if count == 0:
                bag.write('/tf_static', messages.mount(stamp), stamp)
            bag.write('/tf', messages.pose(cameras), stamp)
            for camera, frame in cameras.items():
                topic, frame_id = image_topic(camera), optical_frame(camera)
                bag.write(f'/{camera}/camera_info', messages.camera_info(stamp, frame_id), stamp)
                if raw:
                    bag.write_image(topic, frame.image, 'bgr8', stamp, frame_id)
                else:
                    bag.write_image(f'{topic}/compressed', frame.image, 'bgr8', stamp, frame_id, compress=True)
                bag.write_image(truth_topic(camera), frame.anomaly_mask, 'mono8', stamp, frame_id)
                bag.write(_truth(INSTANCES, camera), messages.instances(frame, frame_id), stamp)
                bag.write(_truth(SCENARIO, camera), messages.scenario(frame), stamp)
            count += 1
    return count


def image_topic(camera: str) -> str:
    """Of a camera's pictures: `/left/image_raw`."""
    return f'/{camera}/image_raw'


def optical_frame(camera: str) -> str:
    """Of a camera: `left_optical_frame`."""
    return f'{camera}_optical_frame'


def truth_topic(camera: str) -> str:
    """Of a camera's masks: `/ground_truth/left/anomaly_mask`."""
    return _truth(ANOMALY_MASK, camera)


def _truth(topic: str, camera: str) -> str:
    return topic if camera == CAMERA else of_camera(topic, camera)


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

    def camera_info(self, stamp_ns: int, frame_id: str) -> Any:
        k = np.array([FOCAL, 0, WIDTH / 2 - 0.5, 0, FOCAL, HEIGHT / 2 - 0.5, 0, 0, 1])
        p = np.array([FOCAL, 0, WIDTH / 2 - 0.5, 0, 0, FOCAL, HEIGHT / 2 - 0.5, 0, 0, 0, 1, 0])
        window = self._types['sensor_msgs/msg/RegionOfInterest'](0, 0, 0, 0, False)
        return self._types['sensor_msgs/msg/CameraInfo'](
            self._header(stamp_ns, frame_id),
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

    def pose(self, cameras: Mapping[str, SimulatedFrame]) -> Any:
        """map -> base_link, and base_link -> optical frame of each camera as the body moves on its springs."""
        frame = next(iter(cameras.values()))
        x, y, yaw = frame.ego
        cos, sin = math.cos(yaw), math.sin(yaw)
        vehicle = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1.0]])
        return self._types['tf2_msgs/msg/TFMessage'](
            [
                self._transform(frame.stamp_ns, MAP_FRAME, VEHICLE_FRAME, np.array([x, y, 0.0]), vehicle),
                *(
                    self._transform(
                        one.stamp_ns,
                        VEHICLE_FRAME,
                        optical_frame(camera),
                        vehicle.T @ (one.position - (x, y, 0)),
                        vehicle.T @ one.axes.T,
                    )
                    for camera, one in cameras.items()
                ),
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

    def instances(self, frame: SimulatedFrame, frame_id: str) -> Any:
        height, width = frame.instance_ids.shape
        data = np.frombuffer(frame.instance_ids.astype('<u2').tobytes(), np.uint8)
        return self._types['sensor_msgs/msg/Image'](
            self._header(frame.stamp_ns, frame_id), height, width, 'mono16', 0, 2 * width, data
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
