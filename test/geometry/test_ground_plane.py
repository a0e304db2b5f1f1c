"""Where things stand on the ground."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from semanom_ros.geometry.anomaly_place import DistanceSource
from semanom_ros.geometry.camera_model import CameraModel
from semanom_ros.geometry.ground_plane import MOST_POINTS, GroundPlane
from semanom_ros.geometry.transform_tree import RigidTransform

SIZE = (480, 640)
MODEL = CameraModel(480, 640, np.array([[500.0, 0, 319.5], [0, 500, 239.5], [0, 0, 1]]), np.zeros(0))
OPTICAL = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])  # x right, y down, z forward in x forward, y left, z up


def plane(height: float = 1.5, pitch: float = 0.0) -> GroundPlane:
    """Below a camera that looks ahead, `pitch` degrees down."""
    down = Rotation.from_euler('y', pitch, degrees=True).as_matrix()
    return GroundPlane('base_footprint', RigidTransform(down @ OPTICAL, np.array([0.5, 0.0, height])))


def box_of(ground: GroundPlane, x: float, y: float, width: float, height: float) -> tuple[int, int, int, int]:
    """The box in the image of an upright rectangle that stands at (x, y), facing the camera."""
    corners = np.array([(x, y + side, up) for side in (width / 2, -width / 2) for up in (0, height)])
    seen = ground.camera.inverse
    points = corners @ seen.rotation.T + seen.translation
    u, v = (500 * points[:, axis] / points[:, 2] + centre for axis, centre in ((0, 319.5), (1, 239.5)))
    return round(u.min()), round(v.min()), round(np.ptp(u)), round(np.ptp(v))


@pytest.mark.parametrize('pitch', [-3.0, 0.0, 10.0])
@pytest.mark.parametrize(('x', 'y'), [(6.0, 0.0), (12.0, 1.5), (25.0, -4.0)])
def test_a_thing_stands_where_it_stands(pitch: float, x: float, y: float) -> None:
    ground = plane(pitch=pitch)
    found = ground.footing(MODEL, box_of(ground, x, y, 0.8, 1.2), SIZE)
    assert found is not None
    assert found.position == pytest.approx([x, y, 0], rel=0.04, abs=0.06)  # half a pixel at 25 m is 4 %
    assert found.distance == pytest.approx(np.linalg.norm([x - 0.5, y, 1.5]), rel=0.04)
    assert np.linalg.norm(found.edge[-1] - found.edge[0]) == pytest.approx(0.8, abs=0.15)
    assert np.linalg.norm(np.diff(found.edge, axis=0), axis=1).max() <= 0.1 + 1e-9


@pytest.mark.parametrize(('box', 'why'), [
    ((300, 100, 40, 60), 'above the horizon'), ((300, 100, 40, 141), 'on it'), ((300, 200, 40, 42), 'too near it'),
    ((300, 300, 40, 180), 'cut off by the lower edge'), ((300, 300, 40, 179), 'next to the lower edge')])
def test_what_cannot_be_told_is_not(box: tuple[int, int, int, int], why: str) -> None:
    assert plane().footing(MODEL, box, SIZE) is None, why


def test_one_row_is_a_change_of_a_quarter_at_most() -> None:
    farthest = max(found.distance for bottom in range(240, 300)
                   if (found := plane().footing(MODEL, (300, 200, 40, bottom - 200), SIZE)) is not None)
    assert 100 < farthest < 1.5 * 500 / 4  # distance / (focal length times height) is the change by one row


def test_a_camera_below_the_ground_or_that_looks_up_sees_none() -> None:
    assert plane(height=-1.0).footing(MODEL, (300, 300, 40, 60), SIZE) is None
    assert plane(pitch=-60.0).footing(MODEL, (300, 300, 40, 60), SIZE) is None


def test_what_was_measured_may_hang_and_is_never_below_the_ground() -> None:
    ground, box = plane(), (300, 140, 40, 60)
    assert ground.footing(MODEL, box, SIZE) is None  # above the horizon
    found = ground.measured(MODEL, box, SIZE, 10.0, DistanceSource.DEPTH)
    assert (found.distance, found.source) == (10.0, DistanceSource.DEPTH)
    assert found.position is not None
    assert np.linalg.norm(found.position - (0.5, 0, 1.5)) == pytest.approx(10.0)
    assert found.position[2] == pytest.approx(1.5 + 10 * 40 / np.hypot(500, 40), abs=0.01)
    assert found.edge is not None
    assert np.linalg.norm(found.edge[-1] - found.edge[0]) == pytest.approx(0.8, abs=0.01)
    standing = ground.footing(MODEL, (300, 260, 40, 80), SIZE)
    assert standing is not None
    there = ground.measured(MODEL, (300, 260, 40, 80), SIZE, standing.distance, DistanceSource.POINTS)
    assert there.position == pytest.approx(standing.position)
    below = ground.measured(MODEL, (300, 260, 40, 80), SIZE, 2 * standing.distance, DistanceSource.POINTS)
    assert below.edge is not None
    assert (below.edge[:, 2] == 0).all()


def test_a_wide_thing_has_a_bounded_number_of_points() -> None:
    found = plane().footing(MODEL, (0, 230, 640, 60), SIZE)
    assert found is not None
    assert len(found.edge) == MOST_POINTS


def test_a_resized_image_gives_the_same_place() -> None:
    whole, half = (plane().footing(MODEL, box, size) for box, size in (
        ((300, 260, 40, 80), SIZE), ((150, 130, 20, 40), (240, 320))))
    assert whole is not None
    assert half is not None
    assert half.position == pytest.approx(whole.position, rel=0.01, abs=0.01)
