"""Bearings: against projections computed by hand and by OpenCV."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

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
    short, pixels = DISTORTIONS[model][:count], [(10, 20), (600, 100)]
    whole = short + [0.0] * (4 - count)
    assert camera(short, model).bearings(pixels, SIZE) == pytest.approx(camera(whole, model).bearings(pixels, SIZE))


def test_a_binned_image_looks_in_the_same_directions() -> None:
    pixels = np.array([(100.0, 50.0), (600.0, 400.0)])
    binned = (pixels + 0.5) / 2 - 0.5  # two by two pixels became one
    assert camera().bearings(binned, (240, 320)) == pytest.approx(camera().bearings(pixels, SIZE), abs=1e-12)


def test_a_region_of_interest_is_shifted() -> None:
    roi = camera(height=240, width=320, offset=(100.0, 60.0))
    assert roi.bearings([(10, 20)], (240, 320)) == pytest.approx(camera().bearings([(110, 80)], SIZE))


@pytest.mark.parametrize(('changes', 'word'), [
    ({'height': 0}, '640x0'),
    ({'intrinsics': np.zeros((3, 3))}, 'calibrate'),
    ({'intrinsics': np.full((3, 3), np.nan)}, 'calibrate'),
    ({'distortion': np.array([0.1, 0, 0, 0, 0]), 'distortion_model': 'division'}, 'division'),
    ({'distortion': np.array([np.nan] * 5)}, 'calibrate'),
    ({'distortion': np.full(15, 0.1)}, 'found 15 distortion coefficients, expected at most 14'),
    ({'distortion': np.full(5, 0.1), 'distortion_model': 'equidistant'}, 'expected at most 4'),
])
def test_an_unusable_calibration_is_refused_in_one_line(changes: dict[str, object], word: str) -> None:
    with pytest.raises(CameraError, match=word) as caught:
        camera(**changes)  # type: ignore[arg-type]
    assert '\n' not in str(caught.value)


def test_an_image_of_another_shape_is_refused() -> None:
    with pytest.raises(CameraError, match='640x640'):
        camera().bearings([(0, 0)], (640, 640))
    camera().bearings([(0, 0)], (239, 320))  # an odd height that binning cut
