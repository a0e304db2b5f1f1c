"""Masks that are found now and then and move with the picture."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from semanom_ros.core.embedding.segmenters import load_segmenter
from semanom_ros.core.embedding.segmenters.refreshed import RefreshedSegmenter
from semanom_ros.core.embedding.segmenters.segmenter import Segmenter
from semanom_ros.core.frames import Frame, Segments

HEIGHT, WIDTH, TENTH = 120, 160, 100_000_000
NOISE = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (HEIGHT, 2 * WIDTH, 3)).astype(np.uint8), (0, 0), 3)
PATCHES = torch.zeros(1, 1, 1)


class Bright(Segmenter):
    """What is white; counts how often it was asked."""

    name, max_segments = 'bright', 1

    def __init__(self) -> None:
        self.asked = 0

    def segment(self, frame: Frame, patches: torch.Tensor) -> Segments:
        self.asked += 1
        labels = (frame.image.min(axis=2) > 250).astype(np.int32)
        return Segments(labels, np.ones(1, np.float32), ('box',))


def picture(step: int, speed: int = 3) -> np.ndarray:
    """A white box on a background that moves to the left with it."""
    image = NOISE[:, step * speed:step * speed + WIDTH].copy()
    left = 90 - step * speed
    image[40:70, max(0, left):max(0, left + 40)] = 255
    return np.ascontiguousarray(image)


def drive(segmenter: Segmenter, steps: range, camera: str = 'camera', start: int = 0) -> list[Segments]:
    return [segmenter.segment(Frame(picture(k), start + k * TENTH, camera), PATCHES) for k in steps]


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    return (first & second).sum() / (first | second).sum()


def test_masks_follow_the_picture_between_refreshes() -> None:
    inner = Bright()
    found = drive(RefreshedSegmenter(inner, 5), range(10))
    assert inner.asked == 2
    for step, segments in enumerate(found):
        truth = picture(step).min(axis=2) > 250
        assert overlap(segments.labels == 1, truth) > 0.8
        assert segments.names == ('box',)
    stale = found[0].labels == 1
    assert overlap(stale, picture(4).min(axis=2) > 250) < 0.6  # that they stood still would be noticed


def test_cameras_are_kept_apart_and_forgotten_on_request() -> None:
    inner = Bright()
    segmenter = RefreshedSegmenter(inner, 100)
    drive(segmenter, range(3), 'front')
    drive(segmenter, range(3), 'rear')
    assert inner.asked == 2
    segmenter.reset('front')
    drive(segmenter, range(3, 5), 'front')
    drive(segmenter, range(3, 5), 'rear')
    assert inner.asked == 3


@pytest.mark.parametrize('frame', [
    Frame(picture(3), 0), Frame(picture(3), 10**10), Frame(picture(3)[:60], 3 * TENTH)])
def test_a_jump_in_time_or_size_finds_masks_anew(frame: Frame) -> None:
    inner = Bright()
    segmenter = RefreshedSegmenter(inner, 100)
    drive(segmenter, range(1, 3))
    segments = segmenter.segment(frame, PATCHES)
    assert inner.asked == 2
    assert segments.labels.shape == frame.image.shape[:2]


def test_what_leaves_the_picture_is_gone() -> None:
    inner = Bright()
    segments = drive(RefreshedSegmenter(inner, 100), range(50))[-1]
    assert len(segments.scores) == 0
    assert not segments.labels.any()


def test_the_parameter_wraps_the_segmenter(world) -> None:
    assert isinstance(load_segmenter(world.parameters(segmenter_every_n=3), torch.device('cpu')), RefreshedSegmenter)
