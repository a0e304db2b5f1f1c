"""From pixels to bearings and back: the pinhole and fisheye models of `sensor_msgs/CameraInfo`."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property, lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from semanom_ros.errors import CameraError

logger = logging.getLogger(__name__)

PINHOLE_MODELS = ('plumb_bob', 'rational_polynomial', 'radtan', 'brown_conrady')
FISHEYE_MODELS = ('equidistant', 'fisheye', 'kannala_brandt')
_COEFFICIENTS = (4, 5, 8, 12, 14)  # that OpenCV's pinhole models have
_SHORTEST, _LONGEST = 0.01, 1000  # focal lengths, in sizes of the image: 179 and 0.06 degrees
_RETURNS = 0.5  # pixels; how far from where it began a point may come to lie that is undistorted and distorted again
_FISHEYE_RETURNS = 1e-4  # the same for radii, in focal lengths
_PRECISE = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 50, 1e-9)


@dataclass(frozen=True)
class CameraModel:
    """A calibrated camera.

    Attributes:
        height, width: pixels of the image that the intrinsics belong to: full resolution,
            or the region of interest of it that is read out.
        intrinsics: (3, 3) float64 camera matrix (fx, 0, cx; 0, fy, cy; 0, 0, 1).
        distortion: (n,) float64 coefficients; none for a rectified image.
        distortion_model: one of PINHOLE_MODELS (k1, k2, p1, p2, k3, and k4 ... k6) or FISHEYE_MODELS (k1 ... k4),
            whose names mean the same; irrelevant without coefficients.
        offset: (x, y) pixels of the region of interest's corner in the full image.
        origin: (x, y, z) metres of the centre of projection in the image's frame; not zero
            for the right camera of a rectified stereo pair only.
    """

    height: int
    width: int
    intrinsics: npt.NDArray[np.float64]
    distortion: npt.NDArray[np.float64]
    distortion_model: str = 'plumb_bob'
    offset: tuple[float, float] = (0.0, 0.0)
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        """Checks that bearings can be computed.

        Raises:
            CameraError: no pixels, no matrix of a camera that sees this image, an unknown distortion model, or
                distortion that cannot be undone in most of the image.
        """
        if self.height <= 0 or self.width <= 0:
            raise CameraError(f'CameraInfo: found {self.width}x{self.height} pixels, expected the size of the image; '
                              'correct the camera driver')
        if not self.intrinsics.any():
            raise CameraError('CameraInfo: found an uncalibrated camera (its matrix is all zero), expected focal '
                              'lengths; calibrate the camera')
        focal = self.intrinsics[[0, 1], [0, 1]]
        if not (np.isfinite(self.intrinsics).all() and (focal > 0).all()):
            raise CameraError(f'CameraInfo: found focal lengths {focal[0]:g} and {focal[1]:g} and the principal point '
                              f'({self.intrinsics[0, 2]:g}, {self.intrinsics[1, 2]:g}), expected finite numbers and '
                              'positive lengths; calibrate the camera')
        a = self.intrinsics
        if a[1, 0] or a[2, 0] or a[2, 1] or a[2, 2] not in (0, 1):  # some drivers leave the last one zero
            raise CameraError(f'CameraInfo: found the matrix {_listed(a.ravel())}, expected fx, 0, cx, 0, fy, cy, 0, '
                              '0, 1, row by row; correct the camera driver')
        size = max(self.width, self.height)
        if not (_SHORTEST * size < focal.min() and focal.max() < _LONGEST * size
                and np.abs(a[:2, 2] - self.offset).max() < _LONGEST * size):
            raise CameraError(f'CameraInfo: found focal lengths {focal[0]:g} and {focal[1]:g} and the principal point '
                              f'({a[0, 2]:g}, {a[1, 2]:g}), expected pixels of an image of {self.width}x{self.height}; '
                              'calibrate the camera')
        if not np.isfinite(self.distortion).all():
            raise CameraError(f'CameraInfo: found the distortion coefficients {_listed(self.distortion)}, expected '
                              'finite numbers; calibrate the camera')
        if self.distortion.any() and self.distortion_model not in PINHOLE_MODELS + FISHEYE_MODELS:
            raise CameraError(f'CameraInfo: found distortion model {self.distortion_model!r}, expected one of '
                              f'{", ".join(PINHOLE_MODELS + FISHEYE_MODELS)}; correct the name if it is one of '
                              'them, else calibrate the camera with one of them')
        most = 4 if self._fisheye else _COEFFICIENTS[-1]
        if self._coefficients.size > most:
            raise CameraError(f'CameraInfo: found {self._coefficients.size} distortion coefficients that are not '
                              f'zero at the end, expected at most {most} for {self.distortion_model!r}; calibrate the '
                              'camera')
        unknown = np.isnan(self._look(self._grid())).any(axis=1)
        if unknown.mean() > 0.5:
            raise CameraError(f'CameraInfo: found the distortion coefficients {_listed(self.distortion)}, which cannot '
                              f'be undone in {unknown.mean():.0%} of the image, expected those of a lens; calibrate '
                              'the camera')
        if unknown.any():
            _say_once(f'CameraInfo: found distortion coefficients {_listed(self.distortion)} that cannot be undone in '
                      f'{unknown.mean():.0%} of the image, expected all of it; bearings there are left out; calibrate '
                      'the camera with its corners covered')

    @property
    def _coefficients(self) -> npt.NDArray[np.float64]:
        """Without the zeros that drivers fill up with."""
        return np.trim_zeros(self.distortion, 'b')

    def _grid(self) -> npt.NDArray[np.float64]:
        """(81, 2) pixels all over the calibrated image, those of its corners among them."""
        x = np.linspace(0, self.width - 1, 9) + self.offset[0]
        y = np.linspace(0, self.height - 1, 9) + self.offset[1]
        return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)

    def scale(self, image_size: tuple[int, int]) -> npt.NDArray[np.float64]:
        """(2,) factors (x, y) from an image of this (height, width) to the one that was calibrated.

        Raises:
            CameraError: the image has another aspect ratio than the calibration.
        """
        height, width = image_size
        scale = np.array([self.width / width, self.height / height])
        if abs(scale[0] / scale[1] - 1) > 0.02:  # binning may drop a row or column; a crop is no scaling
            raise CameraError(f'CameraInfo: found {self.width}x{self.height}, expected the aspect ratio of the image, '
                              f'{width}x{height}; publish the CameraInfo of this image')
        return scale

    @property
    def _fisheye(self) -> bool:
        # coefficients that are all zero still mean the ideal fisheye, which is no pinhole
        return self.distortion.size > 0 and self.distortion_model in FISHEYE_MODELS

    def bearings(self, points: npt.ArrayLike, image_size: tuple[int, int]) -> npt.NDArray[np.float64]:
        """Directions in which pixels look.

        Args:
            points: (N, 2) pixel coordinates (x, y) in the image; (0, 0) is the centre of the first pixel.
            image_size: (height, width) of that image; a binned or resized one is scaled to the intrinsics.

        Returns:
            (N, 3) unit vectors in the optical frame of REP 103 (x right, y down, z forward); NaN where the distortion
            cannot be undone: no direction is seen there.

        Raises:
            CameraError: the image has another aspect ratio than the calibration.
        """
        pixels = (np.asarray(points, np.float64).reshape(-1, 2) + 0.5) * self.scale(image_size) - 0.5 + self.offset
        return self._look(pixels)

    def project(self, points: npt.ArrayLike, image_size: tuple[int, int]) -> npt.NDArray[np.float64]:
        """Where points are seen.

        Args:
            points: (N, 3) metres in the image's frame.
            image_size: (height, width) of the image; see `bearings`.

        Returns:
            (N, 2) pixel coordinates (x, y) inside of the image, as `bearings` takes them; NaN for points that are not
            in it, or are none.

        Raises:
            CameraError: the image has another aspect ratio than the calibration.
        """
        points = np.asarray(points, np.float64).reshape(-1, 3) - self.origin
        pixels = np.full((len(points), 2), np.nan)
        with np.errstate(all='ignore'):
            # elsewhere distortion, which was measured inside of the image, may lead anywhere, also back into it
            seen = points[:, 2] >= self._least_forward * np.linalg.norm(points, axis=1)
        seen &= np.isfinite(points).all(axis=1) & points.any(axis=1)
        if not seen.any():
            return pixels
        calibrated = self._projected(points[seen])
        pixels[seen] = (calibrated - self.offset + 0.5) / self.scale(image_size) - 0.5
        height, width = image_size
        with np.errstate(invalid='ignore'):
            inside = ((pixels >= -0.5) & (pixels < (width - 0.5, height - 0.5))).all(axis=1)
        pixels[~inside] = np.nan
        return pixels

    @cached_property
    def _least_forward(self) -> float:
        """Cosine of the widest angle from the optical axis that the image shows."""
        return float(np.nanmin(self._look(self._grid())[:, 2]))

    def _projected(self, points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """(N, 2) pixels of the calibrated image, of (N, 3) points from the centre of projection that it shows."""
        focal, centre = self.intrinsics[[0, 1], [0, 1]], self.intrinsics[:2, 2]
        if not self._fisheye:
            coefficients = self._complete_coefficients if self.distortion.any() else np.zeros(4)
            return np.asarray(cv2.projectPoints(points, np.zeros(3), np.zeros(3), self.intrinsics, coefficients)[0],
                              np.float64)[:, 0]
        sideways = np.linalg.norm(points[:, :2], axis=1)
        radius = _fisheye_radius(np.arctan2(sideways, points[:, 2]), self._coefficients)
        return points[:, :2] / np.maximum(sideways, 1e-12)[:, None] * radius[:, None] * focal + centre

    @property
    def _complete_coefficients(self) -> npt.NDArray[np.float64]:
        """As many as one of OpenCV's pinhole models has."""
        known = next(count for count in _COEFFICIENTS if count >= self._coefficients.size)
        return np.concatenate([self._coefficients, np.zeros(known - self._coefficients.size)])

    def _look(self, pixels: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """(N, 3) unit vectors, or NaN, from (N, 2) pixels of the calibrated image."""
        focal, centre = self.intrinsics[[0, 1], [0, 1]], self.intrinsics[:2, 2]
        normalized = (pixels - centre) / focal
        if self._fisheye:
            return _fisheye_rays(normalized, self._coefficients)
        undone = np.ones(len(pixels), bool)
        if self.distortion.any():
            coefficients = self._complete_coefficients
            undistorted = cv2.undistortPoints(
                pixels[:, None], self.intrinsics, coefficients, criteria=_PRECISE)  # type: ignore[call-overload]
            normalized = np.asarray(undistorted, np.float64)[:, 0]
            with np.errstate(all='ignore'):
                lenses = np.column_stack([normalized, np.ones(len(normalized))])
                again = cv2.projectPoints(lenses, np.zeros(3), np.zeros(3), self.intrinsics, coefficients)[0][:, 0]
                undone = np.abs(again - pixels).max(axis=1) < _RETURNS
        rays = np.column_stack([normalized, np.ones(len(normalized))])
        with np.errstate(all='ignore'):
            rays = rays / np.linalg.norm(rays, axis=1, keepdims=True)
        rays[~undone] = np.nan
        return rays


@lru_cache(maxsize=256)  # a driver may send another one every time
def _say_once(text: str) -> None:
    """A CameraInfo comes with every image."""
    logger.warning(text)


def _listed(values: npt.NDArray[np.float64]) -> str:
    return ', '.join(f'{value:g}' for value in values)


def _fisheye_radius(theta: npt.NDArray[np.float64], distortion: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(N,) radii in focal lengths of (N,) angles from the optical axis, see `_fisheye_rays`."""
    coefficients = np.concatenate([[1.0], distortion, np.zeros(4 - len(distortion))])
    return np.asarray(theta * (theta[:, None] ** (np.arange(5) * 2) @ coefficients), np.float64)


def _fisheye_rays(points: npt.NDArray[np.float64], distortion: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(N, 3) unit vectors, or NaN, from (N, 2) points of the equidistant model (J. Kannala, S. Brandt, 2006).

    radius = theta (1 + k1 theta^2 + k2 theta^4 + k3 theta^6 + k4 theta^8) is solved for theta by
    Newton's method. `cv2.fisheye.undistortPoints` is no choice: it holds wide lenses at about 80 degrees.
    """
    coefficients = np.concatenate([[1.0], distortion, np.zeros(4 - len(distortion))])
    powers = np.arange(5) * 2
    radius = np.linalg.norm(points, axis=1)
    theta = np.minimum(radius, np.pi / 2)
    for _ in range(20):
        value = _fisheye_radius(theta, distortion) - radius
        slope = theta[:, None] ** powers @ (coefficients * (powers + 1))
        theta = np.clip(theta - value / np.where(np.abs(slope) > 1e-6, slope, 1e-6), 0, np.pi)
    value = _fisheye_radius(theta, distortion)
    sideways = points / np.maximum(radius, 1e-12)[:, None] * np.sin(theta)[:, None]
    rays = np.column_stack([sideways, np.cos(theta)])
    rays[~(np.abs(value - radius) < _FISHEYE_RETURNS)] = np.nan
    return rays
