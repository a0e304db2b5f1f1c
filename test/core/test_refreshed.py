"""Masks that are found now and then and move with the picture."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from semanom_ros.core.embedding.segmenters.refreshed import MaskMemory, refreshed
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


def drive(segmenter: Segmenter, every: int, steps: range, memory: MaskMemory) -> list[Segments]:
    return [refreshed(segmenter, every, Frame(picture(k), k * TENTH), PATCHES, memory) for k in steps]


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    return (first & second).sum() / (first | second).sum()


def test_masks_follow_the_picture_between_refreshes() -> None:
    inner = Bright()
    found = drive(inner, 5, range(10), MaskMemory())
    assert inner.asked == 2
    for step, segments in enumerate(found):
        truth = picture(step).min(axis=2) > 250
        assert overlap(segments.labels == 1, truth) > 0.8
        assert segments.names == ('box',)
    stale = found[0].labels == 1
    assert overlap(stale, picture(4).min(axis=2) > 250) < 0.6  # that they stood still would be noticed


def test_cameras_are_kept_apart_and_a_new_memory_knows_nothing() -> None:
    inner, front, rear = Bright(), MaskMemory(), MaskMemory()
    drive(inner, 100, range(3), front)
    drive(inner, 100, range(3), rear)
    assert inner.asked == 2
    drive(inner, 100, range(3, 5), MaskMemory())
    drive(inner, 100, range(3, 5), rear)
    assert inner.asked == 3


@pytest.mark.parametrize('frame', [
    Frame(picture(3), 0), Frame(picture(3), 10**10), Frame(picture(3)[:60], 3 * TENTH)])
def test_a_jump_in_time_or_size_finds_masks_anew(frame: Frame) -> None:
    inner, memory = Bright(), MaskMemory()
    drive(inner, 100, range(1, 3), memory)
    segments = refreshed(inner, 100, frame, PATCHES, memory)
    assert inner.asked == 2
    assert segments.labels.shape == frame.image.shape[:2]


def test_what_leaves_the_picture_is_gone() -> None:
    inner = Bright()
    segments = drive(inner, 100, range(50), MaskMemory())[-1]
    assert len(segments.scores) == 0
    assert not segments.labels.any()


def test_masks_at_a_working_resolution_follow_the_picture_too() -> None:
    class Coarse(Bright):
        def segment(self, frame: Frame, patches: torch.Tensor) -> Segments:
            whole = super().segment(frame, patches)
            return Segments(np.ascontiguousarray(whole.labels[::2, ::2]), whole.scores, whole.names)

    found = drive(Coarse(), 100, range(6), MaskMemory())
    for step, segments in enumerate(found):
        assert segments.labels.shape == (HEIGHT // 2, WIDTH // 2)
        assert overlap(segments.at((HEIGHT, WIDTH)) == 1, picture(step).min(axis=2) > 250) > 0.75


@pytest.mark.parametrize(('every', 'asked'), [(1, 6), (3, 2)])
def test_the_parameter_spares_the_segmenter(world, every: int, asked: int) -> None:
    inner, memory = Bright(), MaskMemory()
    embedder = world.embedder(world.settings(variant='instance', segmenter_every_n=every), inner)
    for step in range(6):
        embedder.embed([Frame(picture(step), step * TENTH)], [memory])
    assert inner.asked == asked
    for step in range(3):  # without a memory every frame is the first
        embedder.embed([Frame(picture(step), step * TENTH)])
    assert inner.asked == asked + 3
