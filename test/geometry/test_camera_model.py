"""Bearings: against projections computed by hand and by OpenCV."""

from __future__ import annotations

import math
import re

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semanom_ros.errors import CameraError
from semanom_ros.geometry.camera_model import CameraModel

INTRINSICS = np.array([[500.0, 0, 319.5], [0, 510.0, 239.5], [0, 0, 1]])
SIZE = (480, 640)
DISTORTIONS = {
    'plumb_bob': [-0.3, 0.1, 0.001, -0.002, 0.01],
    'rational_polynomial': [-0.3, 0.1, 0.001, -0.002, 0.01, 0.02, 0.01, 0.003],
    'equidistant': [0.05, -0.01, 0.002, 0.001],
}


def camera(distortion: tuple[float, ...] | list[float] = (), model: str = 'plumb_bob',
           **changes: object) -> CameraModel:
    fields = {'height': 480, 'width': 640, 'intrinsics': INTRINSICS, 'distortion': np.array(distortion, float),
              'distortion_model': model, **changes}
    return CameraModel(**fields)  # type: ignore[arg-type]


def directions(spread: float = 0.4) -> np.ndarray:
    """(N, 3) unit vectors round the optical axis."""
    rng = np.random.default_rng(0)
    rays = np.column_stack([rng.uniform(-spread, spread, (60, 2)), np.ones(60)])
    return rays / np.linalg.norm(rays, axis=1, keepdims=True)


def test_the_principal_point_looks_ahead_and_the_axes_are_those_of_rep_103() -> None:
    ahead, right, down = camera().bearings([(319.5, 239.5), (819.5, 239.5), (319.5, 749.5)], SIZE)
    assert ahead == pytest.approx([0, 0, 1])
    assert right == pytest.approx([np.sqrt(0.5), 0, np.sqrt(0.5)])
    assert down == pytest.approx([0, np.sqrt(0.5), np.sqrt(0.5)])


@pytest.mark.parametrize('model', DISTORTIONS)
def test_a_distorted_projection_is_undone(model: str) -> None:
    rays, distortion = directions(), np.array(DISTORTIONS[model])
    project = cv2.fisheye.projectPoints if model == 'equidistant' else cv2.projectPoints
    pixels = project(rays[:, None], np.zeros(3), np.zeros(3), INTRINSICS, distortion)[0][:, 0]
    assert camera(DISTORTIONS[model], model).bearings(pixels, SIZE) == pytest.approx(rays, abs=1e-9)


@pytest.mark.parametrize('coefficients', [[0.05, -0.01, 0.002, 0.001], [0.0, 0.0, 0.0, 0.0], [-0.02, 0.003, 0.0, 0.0]])
def test_a_fisheye_sees_behind_itself(coefficients: list[float]) -> None:
    """Lenses of 200 degrees, which OpenCV's own undistortion does not reach."""
    theta = np.radians(np.linspace(0, 100, 21))
    k1, k2, k3, k4 = coefficients
    radius = theta * (1 + k1 * theta**2 + k2 * theta**4 + k3 * theta**6 + k4 * theta**8)
    pixels = np.column_stack([319.5 + 500 * radius * 0.6, 239.5 + 510 * radius * 0.8])
    rays = camera(coefficients, 'fisheye').bearings(pixels, SIZE)
    assert rays == pytest.approx(np.column_stack([0.6 * np.sin(theta), 0.8 * np.sin(theta), np.cos(theta)]), abs=1e-9)


@pytest.mark.parametrize('model', ['plumb_bob', 'rational_polynomial', 'equidistant'])
@pytest.mark.parametrize('count', [1, 2, 3, 4])
def test_coefficients_that_are_left_out_are_zero(model: str, count: int) -> None:
    short, pixels = DISTORTIONS[model][:count], [(100, 80), (600, 100)]
    whole = short + [0.0] * (4 - count)
    assert camera(short, model).bearings(pixels, SIZE) == pytest.approx(camera(whole, model).bearings(pixels, SIZE))


def test_a_binned_image_looks_in_the_same_directions() -> None:
    pixels = np.array([(100.0, 50.0), (600.0, 400.0)])
    binned = (pixels + 0.5) / 2 - 0.5  # two by two pixels became one
    assert camera().bearings(binned, (240, 320)) == pytest.approx(camera().bearings(pixels, SIZE), abs=1e-12)


def test_a_region_of_interest_is_shifted() -> None:
    roi = camera(height=240, width=320, offset=(100.0, 60.0))
    assert roi.bearings([(10, 20)], (240, 320)) == pytest.approx(camera().bearings([(110, 80)], SIZE))


@pytest.mark.parametrize(('model', 'coefficients', 'zeros'), [
    ('equidistant', [0.05, -0.01, 0.002, 0.001], 1), ('equidistant', [0.05, -0.01, 0.002, 0.001], 4),
    ('fisheye', [0.05], 13), ('plumb_bob', [-0.3, 0.1], 6), ('plumb_bob', [-0.3, 0.1, 0.001, -0.002, 0.01], 3),
    ('plumb_bob', [-0.3, 0.1, 0.001, -0.002, 0.01], 9),
    ('rational_polynomial', [-0.3, 0.1, 0.001, -0.002, 0.01, 0.02, 0.01, 0.003], 12)])
def test_zeros_that_fill_up_the_coefficients_mean_nothing(trial, model: str, coefficients: list[float], zeros: int
                                                          ) -> None:
    pixels = [(100, 80), (600, 100)]
    with trial('Cameras', 'distortion coefficients filled up with zeros'):
        filled = camera(coefficients + [0.0] * zeros, model)
        assert filled.bearings(pixels, SIZE) == pytest.approx(camera(coefficients, model).bearings(pixels, SIZE))


def test_a_fisheye_of_zeros_alone_is_no_pinhole() -> None:
    theta = math.hypot(200, 0) / 500
    for count in (4, 5, 8):
        ray, = camera([0.0] * count, 'equidistant').bearings([(519.5, 239.5)], SIZE)
        assert ray == pytest.approx([math.sin(theta), 0, math.cos(theta)])


@pytest.mark.parametrize(('name', 'usual'), [('radtan', 'plumb_bob'), ('brown_conrady', 'plumb_bob'),
                                             ('kannala_brandt', 'equidistant')])
def test_models_have_other_names_elsewhere(name: str, usual: str) -> None:
    points = [(0, 0), (600, 240)]
    assert np.array_equal(camera([0.05, -0.01, 0.001, 0.002], name).bearings(points, SIZE),
                          camera([0.05, -0.01, 0.001, 0.002], usual).bearings(points, SIZE))


@pytest.mark.parametrize(('changes', 'word'), [
    ({'height': 0}, '640x0'),
    ({'intrinsics': np.zeros((3, 3))}, r'uncalibrated camera \(its matrix is all zero\).*calibrate'),
    ({'intrinsics': np.full((3, 3), np.nan)}, 'focal lengths nan and nan .* calibrate'),
    ({'intrinsics': np.array([[-500.0, 0, 319.5], [0, 510.0, 239.5], [0, 0, 1]])}, 'focal lengths -500 and 510'),
    ({'intrinsics': np.array([[500.0, 0, np.inf], [0, 510.0, 239.5], [0, 0, 1]])}, r'principal point \(inf, 239.5\)'),
    ({'intrinsics': np.array([[500.0, 0, 0], [0, 510.0, 0], [319.5, 239.5, 1]])}, 'expected fx, 0, cx, .* row by row'),
    ({'intrinsics': np.diag([0.8, 1.1, 1.0])}, 'lengths 0.8 and 1.1 .* expected pixels of an image of 640x480'),
    ({'intrinsics': np.diag([1e-300, 1e-300, 1.0])}, 'expected pixels of an image'),
    ({'intrinsics': np.diag([1e300, 1e300, 1.0])}, 'expected pixels of an image'),
    ({'intrinsics': np.array([[500.0, 0, 1e12], [0, 510.0, 0], [0, 0, 1]])}, r'point \(1e\+12, 0\), expected pixels'),
    ({'distortion': np.array([0.1, 0, 0, 0, 0]), 'distortion_model': 'division'}, 'division'),
    ({'distortion': np.array([0.1, 0, 0, 0, np.nan])}, 'distortion coefficients 0.1, 0, 0, 0, nan, expected finite'),
    ({'distortion': np.full(15, 0.1)}, 'found 15 distortion coefficients that are not zero at the end, expected at m'),
    ({'distortion': np.full(5, 0.1), 'distortion_model': 'equidistant'}, 'expected at most 4'),
    ({'distortion': np.full(5, 1e6)}, 'coefficients 1e\\+06, .*cannot be undone in 9\\d% of the image'),
    ({'distortion': np.full(8, 1e300), 'distortion_model': 'rational_polynomial'}, 'cannot be undone'),
    ({'distortion': np.full(4, -1e5), 'distortion_model': 'fisheye'}, 'cannot be undone'),
    ({'distortion': np.array([-5.0])}, 'cannot be undone'),
])
def test_an_unusable_calibration_is_refused_in_one_line(trial, changes: dict[str, object], word: str) -> None:
    with trial('Cameras', 'calibrations that no bearing can be computed from'), \
            pytest.raises(CameraError, match=word) as caught:
        camera(**changes)  # type: ignore[arg-type]
    assert '\n' not in str(caught.value)


def test_where_a_calibration_cannot_be_undone_there_is_no_bearing_and_it_is_said_once(trial, caplog) -> None:
    """Its radius goes back from where the lens was not covered when it was calibrated: only the corners are lost."""
    points = [(0, 0), (319.5, 239.5), (639, 479), (600, 240)]
    with trial('Cameras', 'distortion that cannot be undone in the corners', times=2):
        for _ in range(2):  # a CameraInfo comes with every image
            rays = camera([-0.31]).bearings(points, SIZE)
        assert np.isnan(rays[[0, 2]]).all()
        assert np.linalg.norm(rays[[1, 3]], axis=1) == pytest.approx(1)
        assert len(caplog.messages) == 1
        assert re.search(r'-0.31 that cannot be undone in \d+% of the image', caplog.messages[0])


@given(coefficients=st.lists(st.floats(allow_nan=True, width=32), max_size=14),
       model=st.sampled_from(['plumb_bob', 'rational_polynomial', 'equidistant', 'fisheye', '']))
def test_whatever_the_coefficients_bearings_are_unit_vectors_or_unknown(trial, coefficients: list[float], model: str
                                                                        ) -> None:
    points = np.array([(0, 0), (319, 239), (639, 479), (100, 400)], float)
    with trial('Cameras', 'random distortion coefficients'):
        try:
            rays = camera(coefficients, model).bearings(points, SIZE)
        except CameraError:
            return
        known = ~np.isnan(rays).any(axis=1)
        assert np.linalg.norm(rays[known], axis=1) == pytest.approx(1)


def test_an_image_of_another_shape_is_refused() -> None:
    with pytest.raises(CameraError, match='640x640'):
        camera().bearings([(0, 0)], (640, 640))
    camera().bearings([(0, 0)], (239, 320))  # an odd height that binning cut
