"""Anomalies as markers for RViz and Foxglove, in the optical frame of the camera."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import numpy.typing as npt
from geometry_msgs.msg import Point
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from semanom_ros.core.results import Anomaly, FrameResult, Reason
from semanom_ros.geometry.anomaly_place import Place
from semanom_ros.geometry.camera_model import CameraModel
from semanom_ros.rendering.overlay import AMBER, VIOLET, Colour, caption, heat_colour
from semanom_ros.ros.messages import duration, point

LINE_WIDTH = 0.004  # of the distance
TEXT_HEIGHT = 0.04


def marker_array(result: FrameResult, header: Header, camera: CameraModel | None, distance: float,
                 lifetime: float, places: Sequence[Place | None] = (), ground_frame: str = '') -> MarkerArray:
    """A frustum through each anomaly, its outline, and a label; without those that lie where there are no bearings.

    What is held back is outlined in amber, and a text in the middle says of a frame that it is held back or unknown,
    and why. Where an anomaly's distance is known, frustum, outline and label stand as far away as it is, and where its
    position is, a line shows its lower edge.

    The first marker deletes those of the frame before, so that nothing stays behind.

    Args:
        result: of the frame.
        header: of the source image.
        camera: None: nothing can be placed, the old markers are deleted.
        distance: metres from the camera at which outlines and labels stand.
        lifetime: seconds that markers stay when no further frame comes; 0: for ever.
        places: where each anomaly is; none: that is not known of any.
        ground_frame: of the places.

    Raises:
        CameraError: the camera is not that of the image.
    """
    array = MarkerArray(markers=[Marker(header=header, action=Marker.DELETEALL)])
    if camera is None:
        return array
    stay = duration(round(lifetime * 1e9))
    for number, anomaly in enumerate(result.anomalies):
        colour = _colour(heat_colour(anomaly.score / max(result.threshold, 1e-9)))
        place = places[number] if places else None
        away = distance if place is None else place.distance
        markers = [('frusta', _frustum(anomaly, camera, result.image_size, away), header),
                   ('outlines', _line(anomaly.contour, camera, result.image_size, away), header),
                   ('labels', _label(anomaly, camera, result.image_size, away, place), header)]
        if place is not None and place.edge is not None:
            ground = Header(stamp=header.stamp, frame_id=ground_frame)
            markers.append(('feet', _feet(place.edge, place.distance), ground))
        for name, marker, own in markers:
            if not all(math.isfinite(point.x) for point in (*marker.points, marker.pose.position)):
                continue  # a part of the image without a bearing; viewers refuse all markers for one such point
            marker.header, marker.ns, marker.id = own, name, number
            marker.color, marker.lifetime = colour, stay
            array.markers.append(marker)
    for number, (name, marker, rgb) in enumerate(_states(result, camera, distance)):
        if all(math.isfinite(point.x) for point in (*marker.points, marker.pose.position)):
            marker.header, marker.ns, marker.id, marker.lifetime = header, name, number, stay
            marker.color = _colour(rgb)
            array.markers.append(marker)
    return array


def _states(result: FrameResult, camera: CameraModel, distance: float) -> Iterator[tuple[str, Marker, Colour]]:
    """What says that a frame is held back or unknown."""
    for region in result.held_back_regions:
        yield 'held_back', _line(region.contour(), camera, result.image_size, distance), AMBER
    if result.reason is not Reason.NONE and all(result.image_size):
        height, width = result.image_size
        state = 'HELD BACK' if result.held_back else result.verdict.name
        marker = Marker(type=Marker.TEXT_VIEW_FACING, text=f'{state}, {result.reason.words}')
        marker.pose.position = _placed(camera, [((width - 1) / 2, (height - 1) / 2)], result.image_size, distance)[0]
        marker.scale.z = distance * TEXT_HEIGHT
        yield 'state', marker, AMBER if result.held_back else VIOLET


def _colour(colour: Colour) -> ColorRGBA:
    red, green, blue = colour
    return ColorRGBA(r=red / 255, g=green / 255, b=blue / 255, a=1.0)


def _frustum(anomaly: Anomaly, camera: CameraModel, image_size: tuple[int, int], distance: float) -> Marker:
    """Lines from the camera through the corners of the box, and its far side."""
    x, y, width, height = anomaly.box
    left, top, right, bottom = x - 0.5, y - 0.5, x + width - 0.5, y + height - 0.5
    corners = _placed(camera, [(left, top), (right, top), (right, bottom), (left, bottom)], image_size, distance)
    origin = point(np.array(camera.origin))
    marker = Marker(type=Marker.LINE_LIST)
    marker.scale.x = distance * LINE_WIDTH / 2
    for number, corner in enumerate(corners):
        marker.points += [origin, corner, corner, corners[(number + 1) % 4]]
    return marker


def _line(contour: npt.NDArray[np.int32], camera: CameraModel, image_size: tuple[int, int], distance: float) -> Marker:
    # a pixel more or less cannot be seen in 3D, hundreds of points can be felt in the viewer
    outline = cv2.approxPolyDP(contour[:, None], 1.0, True)[:, 0]
    points = _placed(camera, outline, image_size, distance)
    marker = Marker(type=Marker.LINE_STRIP, points=[*points, points[0]])
    marker.scale.x = distance * LINE_WIDTH
    return marker


def _feet(edge: npt.NDArray[np.float64], distance: float) -> Marker:
    marker = Marker(type=Marker.LINE_STRIP, points=[point(one) for one in edge])
    marker.scale.x = distance * 2 * LINE_WIDTH
    return marker


def _label(anomaly: Anomaly, camera: CameraModel, image_size: tuple[int, int], distance: float,
           place: Place | None) -> Marker:
    x, y, width, _ = anomaly.box
    metres = '' if place is None else f', {place.distance:.0f} m'
    marker = Marker(type=Marker.TEXT_VIEW_FACING, text=caption(anomaly) + metres)
    marker.pose.position = _placed(camera, [(x + (width - 1) / 2, y - 0.5)], image_size, distance)[0]
    marker.pose.position.y -= distance * TEXT_HEIGHT  # up, in the optical frame
    marker.scale.z = distance * TEXT_HEIGHT
    return marker


def _placed(camera: CameraModel, points: npt.ArrayLike, image_size: tuple[int, int], distance: float) -> list[Point]:
    """Pixels at a distance from the camera."""
    return [point(ray * distance + camera.origin) for ray in camera.bearings(points, image_size)]
