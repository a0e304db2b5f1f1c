"""Points in pictures, and how far parts of pictures are."""

from __future__ import annotations

import numpy as np
import pytest

from semanom_ros.geometry.camera_model import CameraModel
from semanom_ros.geometry.measured_distance import FEWEST, DepthPicture, PointsInView

SIZE = (480, 640)
CAMERA = np.array([[700.0, 0, 319.5], [0, 680, 239.5], [0, 0, 1]])
LENSES = {
    'pinhole': ([], 'plumb_bob'), 'plumb_bob': ([-0.3, 0.0, 1e-3, -5e-4, 0.0], 'plumb_bob'),
    'rational': ([0.4, 0.1, 0, 0, 0.01, 0.7, 0.2, 0.03], 'rational_polynomial'),
    'fisheye': ([0.02, -0.005, 0.001, 0.0], 'equidistant')}
BOX = (300, 200, 40, 60)
WHOLE = np.ones((60, 40), bool)


def model(lens: str = 'pinhole', **changes: object) -> CameraModel:
    distortion, name = LENSES[lens]
    return CameraModel(*SIZE, CAMERA, np.array(distortion, float), name, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize('lens', LENSES)
@pytest.mark.parametrize('size', [SIZE, (240, 320)])
def test_points_are_seen_where_their_bearings_look(lens: str, size: tuple[int, int]) -> None:
    camera = model(lens, offset=(8.0, 4.0), origin=(0.1, 0.0, 0.0))
    rng = np.random.default_rng(0)
    pixels = rng.uniform((0, 0), (size[1] - 1, size[0] - 1), (200, 2))
    points = camera.bearings(pixels, size) * rng.uniform(1, 80, (200, 1)) + (0.1, 0, 0)
    assert camera.project(points, size) == pytest.approx(pixels, abs=0.01)


@pytest.mark.parametrize('lens', LENSES)
def test_points_that_are_not_in_the_picture_are_nowhere(lens: str) -> None:
    """Also those that the polynomial of a lens would fold back into it."""
    around = np.random.default_rng(1).normal(size=(5000, 3))
    camera = model(lens)
    seen = camera.project(around, SIZE)
    inside = np.isfinite(seen).all(axis=1)
    assert 20 < inside.sum() < 2500
    back = camera.bearings(seen[inside], SIZE)
    directions = around[inside] / np.linalg.norm(around[inside], axis=1, keepdims=True)
    assert np.abs(back - directions).max() < 1e-3
    nothing = camera.project([(0, 0, 0), (0, 0, -5), (np.nan, 0, 5), (0, 0, np.inf)], SIZE)
    assert np.isnan(nothing).all()
    assert camera.project(np.zeros((0, 3)), SIZE).shape == (0, 2)


def depths(thing: float, behind: float = 30.0) -> np.ndarray:
    """A thing that fills the left half of the box before a wall, with holes."""
    picture = np.full(SIZE, behind)
    picture[200:260, 300:320] = thing
    picture[200:260:3] = 0
    picture[201:260:3] = np.nan
    return picture


@pytest.mark.parametrize(('kind', 'unit'), [('<u2', 0.001), ('>u2', 0.001), ('<f4', 1.0)])
def test_a_depth_picture_tells_the_thing_and_not_what_is_behind(kind: str, unit: float) -> None:
    picture = (np.nan_to_num(depths(6.0)) / unit).astype(kind) if unit < 1 else depths(6.0).astype(kind)
    told = DepthPicture(picture, unit, model()).distance(BOX, WHOLE)
    forward = model().bearings([(310, 230)], SIZE)[0, 2]
    assert told == pytest.approx(6.0 / forward, rel=2e-3)  # along the ray, not along the axis


def test_the_mask_decides_and_few_values_tell_nothing() -> None:
    right = WHOLE.copy()
    right[:, :20] = False
    picture = depths(6.0)
    assert DepthPicture(picture, 1.0, model()).distance(BOX, right) == pytest.approx(30.0, rel=5e-3)
    picture[:] = np.nan
    picture[210, 305:305 + FEWEST - 1] = 6.0
    assert DepthPicture(picture, 1.0, model()).distance(BOX, WHOLE) is None
    picture[210, 305:305 + FEWEST] = 6.0
    assert DepthPicture(picture, 1.0, model()).distance(BOX, WHOLE) == pytest.approx(6.0, rel=5e-3)
    for none in (0.0, -1.0, np.inf):
        assert DepthPicture(np.full(SIZE, none), 1.0, model()).distance(BOX, WHOLE) is None


def test_points_tell_the_distance_from_the_centre_of_projection() -> None:
    camera = model(origin=(0.2, 0.0, 0.0))
    columns, rows = np.meshgrid(np.arange(280, 360, 4), np.arange(180, 280, 4))
    pixels = np.column_stack([columns.ravel(), rows.ravel()])
    inside = (pixels[:, 0] < 320) & (pixels[:, 0] >= 300)
    lengths = np.where(inside, 6.0, 30.0)
    points = camera.bearings(pixels, SIZE) * lengths[:, None] + (0.2, 0, 0)
    points = np.concatenate([points, -points, np.full((5, 3), np.nan)])
    seen = PointsInView(points, camera, SIZE)
    assert seen.distance(BOX, WHOLE) == pytest.approx(6.0)
    right = WHOLE.copy()
    right[:, :20] = False
    assert seen.distance(BOX, right) == pytest.approx(30.0)
    assert seen.distance((600, 400, 40, 60), WHOLE) is None
