"""Between the method's results and ROS messages."""

from __future__ import annotations

import math
import struct
from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from builtin_interfaces.msg import Duration, Time
from geometry_msgs.msg import Point, Point32, Vector3
from rclpy.serialization import serialize_message
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, RegionOfInterest
from std_msgs.msg import Header

from semanom_ros.core.database.nominal_database import NominalDatabase, NominalExample
from semanom_ros.core.drift.drift_monitor import Drift
from semanom_ros.core.drift.drift_reference import DriftReference
from semanom_ros.core.results import Anomaly, FrameResult, Reason
from semanom_ros.errors import CameraError, ImageError
from semanom_ros.geometry.anomaly_place import Place
from semanom_ros.geometry.camera_model import CameraModel
from semanom_ros.msg import Anomaly as AnomalyMessage
from semanom_ros.msg import AnomalyArray, AnomalyScore, DatabaseInfo, NominalMatch
from semanom_ros.msg import Drift as DriftMessage
from semanom_ros.recordings.bags import BagWriter
from semanom_ros.recordings.images import (
    BitDepth,
    compress_pixels,
    encode_pixels,
    image_from_compressed,
    image_from_message,
    stamp_ns,
)
from semanom_ros.rendering.overlay import ALARM, AMBER, VIOLET, WHITE, caption

try:
    from vision_msgs.msg import Detection2D, Detection2DArray, ObjectHypothesisWithPose
except ImportError:  # the topic is then not offered
    Detection2DArray = None
try:
    from foxglove_msgs.msg import Color, ImageAnnotations, Point2, PointsAnnotation, TextAnnotation
except ImportError:
    ImageAnnotations = None

_TYPES = get_typestore(Stores.LATEST)


def header(stamp_ns: int, frame_id: str) -> Header:
    """A `std_msgs/Header` of that time in nanoseconds."""
    result = Header(frame_id=frame_id)
    result.stamp.sec, result.stamp.nanosec = divmod(stamp_ns, 1_000_000_000)
    return result


def image_to_message(image: npt.NDArray[Any], encoding: str, stamp_ns: int, frame_id: str) -> Image:
    """A `sensor_msgs/Image`; see `encode_pixels` for what fits which encoding."""
    height, width = image.shape[:2]
    data = encode_pixels(image, encoding)
    return Image(header=header(stamp_ns, frame_id), height=height, width=width, encoding=encoding, is_bigendian=0,
                 step=len(data) // height, data=data)


def image_to_compressed(image: npt.NDArray[np.uint8], stamp_ns: int, frame_id: str, format: str = 'jpeg',
                        quality: int = 90) -> CompressedImage:
    """A `sensor_msgs/CompressedImage`; see `compress_pixels`."""
    data = compress_pixels(image, format, quality)
    return CompressedImage(header=header(stamp_ns, frame_id), format=format, data=data)


def jpeg_message(data: bytes, stamp_ns: int, frame_id: str) -> CompressedImage:
    """A `sensor_msgs/CompressedImage` of a JPEG as it is; without one, an empty message without format."""
    if not data:
        return CompressedImage()
    return CompressedImage(header=header(stamp_ns, frame_id), format='jpeg', data=array('B', data))


def type_name(kind: Any) -> str:
    """A message class as recordings name it, e.g. `sensor_msgs/msg/Image`."""
    return f'{kind.__module__.split(".")[0]}/msg/{kind.__name__}'


def write_message(writer: BagWriter, topic: str, message: Any, t_ns: int) -> None:
    """Adds a message of rclpy to a recording, at that time in nanoseconds."""
    writer.write_cdr(topic, type_name(type(message)), serialize_message(message), t_ns)


def frame_id_of(serialized: bytes) -> str:
    """The header's frame_id of a serialized message that begins with a Header; '' where it is cut off."""
    if len(serialized) < 16:
        return ''
    length, = struct.unpack_from('<I' if serialized[1] & 1 else '>I', serialized, 12)
    if not 0 < length <= len(serialized) - 16:
        return ''
    return bytes(serialized[16:15 + length]).decode('utf-8', 'replace')  # without the zero at its end


def stamp_of(serialized: bytes) -> int:
    """Nanoseconds of the header stamp of a serialized message that begins with a Header.

    Raises:
        ImageError: it is too short to have one.
    """
    if len(serialized) < 12:
        raise ImageError(f'image: found a message of {len(serialized)} bytes, expected a Header; '
                         'check the camera driver')
    # CDR: four bytes of encapsulation, the lowest bit of the second says little endian; then int32 and uint32
    seconds, nanoseconds = struct.unpack_from('<iI' if serialized[1] & 1 else '>iI', serialized, 4)
    return seconds * 1_000_000_000 + nanoseconds


def picture_of(serialized: bytes, compressed: bool, depth: BitDepth | None = None
               ) -> tuple[npt.NDArray[np.uint8], int, str]:
    """The picture of a serialized `sensor_msgs/Image` or `CompressedImage`.

    rosbags deserializes a view of the pixels, hundred times faster than rclpy's copy into
    an array of its own.

    Args:
        serialized: the message.
        compressed: which of the two.
        depth: how many bits 16-bit samples use; None: all.

    Returns:
        (H, W, 3) uint8 RGB; the header's stamp in nanoseconds; its frame_id.

    Raises:
        ImageError: what was received is no such message, or holds no picture.
    """
    message = _image_of(serialized, compressed)
    image = image_from_compressed(message, depth) if compressed else image_from_message(message, depth)
    return image, stamp_ns(message), message.header.frame_id


def encoding_of(serialized: bytes, compressed: bool) -> str:
    """The encoding that a serialized `sensor_msgs/Image` announces, or the format of a `CompressedImage`.

    Raises:
        ImageError: it is no such message.
    """
    message = _image_of(serialized, compressed)
    return str(message.format if compressed else message.encoding)


def _image_of(serialized: bytes, compressed: bool) -> Any:
    name = 'sensor_msgs/msg/CompressedImage' if compressed else 'sensor_msgs/msg/Image'
    try:
        return deserialized(serialized, name)
    except ValueError as error:
        raise ImageError(f'image: found {error}; check the camera driver') from error


def deserialized(serialized: bytes, name: str) -> Any:
    """A standard message of this type, e.g. `sensor_msgs/msg/Image`, whose arrays are views of the bytes.

    Raises:
        ValueError: they are no such message.
    """
    try:
        return _TYPES.deserialize_cdr(memoryview(serialized), name)  # type: ignore[arg-type]
    except Exception as error:  # rosbags raises several kinds
        raise ValueError(f'{len(serialized)} bytes that are no {name}') from error


def camera_model(info: CameraInfo, rectified: bool = False) -> CameraModel:
    """The camera that a CameraInfo describes.

    Args:
        info: of the image's topic.
        rectified: the images are rectified: the projection matrix P holds, there is no
            distortion.

    Raises:
        CameraError: no bearing can be computed from it.
    """
    projection = np.array(info.p, np.float64).reshape(3, 4)
    intrinsics = projection[:, :3] if rectified else np.array(info.k, np.float64).reshape(3, 3)
    if not intrinsics.any() and projection[0, 0] > 0:
        raise CameraError(f'CameraInfo: found K all zero and P with the focal length {projection[0, 0]:g}, expected K; '
                          'set image_rectified if the images are rectified, or calibrate the camera')
    origin = (0.0, 0.0, 0.0)
    if rectified and intrinsics[0, 0] > 0 and intrinsics[1, 1] > 0:
        origin = (-projection[0, 3] / intrinsics[0, 0], -projection[1, 3] / intrinsics[1, 1], 0.0)
    return CameraModel(
        height=info.roi.height or info.height, width=info.roi.width or info.width, intrinsics=intrinsics,
        distortion=np.zeros(0) if rectified else np.array(info.d, np.float64), distortion_model=info.distortion_model,
        offset=(float(info.roi.x_offset), float(info.roi.y_offset)), origin=origin)


def box_centre(box: tuple[int, int, int, int]) -> tuple[float, float]:
    """(x, y) of the middle of a box (x, y, width, height), where (0, 0) is the centre of the first pixel."""
    return box[0] + (box[2] - 1) / 2, box[1] + (box[3] - 1) / 2


def anomaly_score(result: FrameResult, header: Header) -> AnomalyScore:
    """The small message for plots and monitors."""
    return AnomalyScore(header=header, score=result.score, raw_score=result.raw_score, p_value=result.p_value,
                        threshold=result.threshold, verdict=int(result.verdict), anomalous=result.anomalous,
                        held_back=result.held_back, reason=int(result.reason), explanation=result.explanation,
                        drift=_drift(result.drift))


def anomaly_array(result: FrameResult, header: Header, camera: CameraModel | None,
                  places: Sequence[Place | None] = (), ground_frame: str = '') -> AnomalyArray:
    """The verdict and all anomalies.

    Args:
        result: of the frame.
        header: of the source image.
        camera: for the bearings; None: they are left out.
        places: where each anomaly is; none: that is not known of any.
        ground_frame: of the places.

    Raises:
        CameraError: the camera is not that of the image.
    """
    height, width = result.image_size
    bearings = None
    if camera is not None and result.anomalies:
        bearings = camera.bearings([box_centre(anomaly.box) for anomaly in result.anomalies], result.image_size)
    return AnomalyArray(
        header=header, camera=result.camera, image_height=height, image_width=width, score=result.score,
        raw_score=result.raw_score, p_value=result.p_value, threshold=result.threshold, verdict=int(result.verdict),
        anomalous=result.anomalous, held_back=result.held_back, reason=int(result.reason),
        explanation=result.explanation, drift=_drift(result.drift),
        ground_frame=ground_frame,
        anomalies=[_anomaly(anomaly, None if bearings is None else bearings[number],
                            places[number] if places else None)
                   for number, anomaly in enumerate(result.anomalies)])


def database_info(database: NominalDatabase, loaded: Time, reference: DriftReference | None = None,
                  drifting: Sequence[str] = ()) -> DatabaseInfo:
    """What the detector compares with.

    Args:
        database: the open database.
        loaded: when it was loaded.
        reference: what driving is compared with; None: there is nothing.
        drifting: cameras that drive unlike the nominal drives.
    """
    manifest, made = database.manifest, database.manifest.description
    return DatabaseInfo(
        loaded=loaded, path=str(database.path), version=manifest.version, vectors=manifest.vectors,
        dimension=made.dimension, encoder=made.encoder, variant=made.variant,
        sources=[source.path for source in manifest.sources], calibrated=manifest.calibrated,
        drift_frames=reference.frames if reference else 0, drift_minutes=reference.minutes if reference else 0.0,
        drifting=list(drifting))


def detection_array(result: FrameResult, header: Header) -> Any:
    """`vision_msgs/Detection2DArray`; needs that package."""
    array = Detection2DArray(header=header)
    for anomaly in result.anomalies:
        detection = Detection2D(header=header, id=str(anomaly.track_id))
        detection.bbox.center.position.x, detection.bbox.center.position.y = box_centre(anomaly.box)
        detection.bbox.size_x, detection.bbox.size_y = float(anomaly.box[2]), float(anomaly.box[3])
        hypothesis = ObjectHypothesisWithPose()
        hypothesis.hypothesis.class_id = anomaly.label or 'anomaly'
        hypothesis.hypothesis.score = anomaly.score
        detection.results = [hypothesis]
        array.detections.append(detection)
    return array


def image_annotations(result: FrameResult, header: Header) -> Any:
    """`foxglove_msgs/ImageAnnotations`, in the colours of the overlay; needs that package.

    What is held back is outlined too; a line at the top says why a frame is held back or unknown.
    """
    height = result.image_size[0]
    red, amber, violet, white = (_colour(colour) for colour in (ALARM, AMBER, VIOLET, WHITE))
    dark = Color(a=0.75)
    array = ImageAnnotations()
    for region in result.held_back_regions:
        array.points.append(PointsAnnotation(
            timestamp=header.stamp, type=PointsAnnotation.LINE_LOOP, outline_color=amber, thickness=1.0,
            points=[Point2(x=float(x) + 0.5, y=float(y) + 0.5) for x, y in region.contour()]))
    if result.reason is not Reason.NONE:
        state = 'HELD BACK' if result.held_back else result.verdict.name
        array.texts.append(TextAnnotation(
            timestamp=header.stamp, position=Point2(x=0.0, y=0.0), text=f'{state}, {result.reason.words}',
            font_size=max(10.0, height / 36), text_color=amber if result.held_back else white,
            background_color=dark if result.held_back else violet))
    for anomaly in result.anomalies:
        # Foxglove's origin is the corner of the first pixel, ours its centre
        outline = [Point2(x=float(x) + 0.5, y=float(y) + 0.5) for x, y in anomaly.contour]
        array.points.append(PointsAnnotation(
            timestamp=header.stamp, type=PointsAnnotation.LINE_LOOP, points=outline, outline_color=red,
            thickness=max(1.0, height / 360)))
        array.texts.append(TextAnnotation(
            timestamp=header.stamp, position=Point2(x=float(anomaly.box[0]), y=float(anomaly.box[1])),
            text=caption(anomaly), font_size=max(10.0, height / 36), text_color=white, background_color=dark))
    return array


def _drift(drift: Drift) -> DriftMessage:
    return DriftMessage(state=int(drift.state), since=header(drift.since_ns, '').stamp, strength=drift.strength,
                        what=drift.what)


def _colour(colour: tuple[int, int, int]) -> Any:
    """A `foxglove_msgs/Color` of RGB 0 to 255."""
    red, green, blue = colour
    return Color(r=red / 255, g=green / 255, b=blue / 255, a=1.0)


def _anomaly(anomaly: Anomaly, bearing: npt.NDArray[np.float64] | None, place: Place | None) -> AnomalyMessage:
    message = AnomalyMessage(
        track_id=anomaly.track_id, score=anomaly.score, raw_score=anomaly.raw_score, p_value=anomaly.p_value,
        box=_region(anomaly.box), contour=[Point32(x=float(x), y=float(y)) for x, y in anomaly.contour],
        area=anomaly.area, age=duration(anomaly.age_ns), label=anomaly.label, label_score=anomaly.label_score)
    if bearing is not None and np.isfinite(bearing).all():
        message.has_bearing = True
        message.bearing = Vector3(x=float(bearing[0]), y=float(bearing[1]), z=float(bearing[2]))
    message.distance, message.position = math.nan, Point(x=math.nan, y=math.nan, z=math.nan)
    if place is not None:
        message.distance, message.distance_source = place.distance, int(place.source)
        if place.position is not None:
            message.position = point(place.position)
    if anomaly.nearest is not None:
        message.nearest = _nominal_match(anomaly.nearest)
    return message


def _nominal_match(example: NominalExample) -> NominalMatch:
    return NominalMatch(
        source=example.source, topic=example.topic, stamp=header(example.stamp_ns, '').stamp, box=_region(example.box),
        distance=example.distance, thumbnail=jpeg_message(example.thumbnail, example.stamp_ns, ''))


def _region(box: tuple[int, int, int, int]) -> RegionOfInterest:
    x, y, width, height = box
    return RegionOfInterest(x_offset=x, y_offset=y, width=width, height=height)


def point(position: npt.NDArray[np.float64]) -> Point:
    """A `geometry_msgs/Point` of (3,)."""
    x, y, z = (float(v) for v in position)
    return Point(x=x, y=y, z=z)


def duration(nanoseconds: int) -> Duration:
    """A `builtin_interfaces/Duration`."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return Duration(sec=seconds, nanosec=rest)
