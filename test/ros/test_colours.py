"""Whether people who see no red, no green or no blue tell what is said by colours."""

from __future__ import annotations

from itertools import combinations

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from semanom_ros.rendering.overlay import ALARM, AMBER, CALM, VIOLET, heat_colour

# Machado, Oliveira, Fernandes 2009, severity 1.0, for linear RGB.
SIGHT = {
    'all colours': np.eye(3),
    'protanopia': np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                            [-0.003882, -0.048116, 1.051998]]),
    'deuteranopia': np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                              [-0.011820, 0.042940, 0.968881]]),
    'tritanopia': np.array([[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                            [0.004733, 0.691367, 0.303900]])}
VERDICTS = {'anomalous': ALARM, 'held back': AMBER, 'unknown': VIOLET, 'nominal': CALM}
TOLD_APART = 15.0
"""Differences in CIELAB that are seen at a glance; 2.3 is just noticed."""


def seen(colour: tuple[int, int, int], sight: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """L*, a*, b* of an sRGB colour as somebody sees it."""
    value = np.array(colour) / 255
    linear = np.clip(sight @ np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4), 0, 1)
    shown = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray(cv2.cvtColor(np.float32([[shown]]), cv2.COLOR_RGB2LAB)[0, 0])


@pytest.mark.parametrize('sight', SIGHT)
def test_verdicts_are_told_apart(sight: str) -> None:
    colours = {name: seen(colour, SIGHT[sight]) for name, colour in VERDICTS.items()}
    distances = {pair: float(np.linalg.norm(colours[pair[0]] - colours[pair[1]])) for pair in combinations(colours, 2)}
    assert min(distances.values()) > TOLD_APART, distances


@pytest.mark.parametrize('sight', SIGHT)
def test_a_stronger_anomaly_is_lighter(sight: str) -> None:
    lightness = [seen(heat_colour(score), SIGHT[sight])[0] for score in np.linspace(1, 3, 9)]
    assert (np.diff(lightness) > 0).all(), lightness
