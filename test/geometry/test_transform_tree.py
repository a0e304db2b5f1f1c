"""How frames lie to each other over time."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from semanom_ros.errors import TransformError
from semanom_ros.geometry.transform_tree import TransformTree

SECOND = 10**9
STRAIGHT = (0.0, 0.0, 0.0, 1.0)


def turned(degrees: float) -> Any:
    return Rotation.from_euler('z', degrees, degrees=True).as_quat()


def robot(kept_s: float = 10.0) -> TransformTree:
    """A vehicle that drives along x at 1 m/s and turns by 90 degrees in a second, with two cameras."""
    tree = TransformTree(kept_s)
    tree.add('base_link', 'front', 0, (1, 0, 2), STRAIGHT, static=True)
    tree.add('/base_link', '/rear', 0, (-1, 0, 2), turned(180), static=True)
    for second in range(5):
        tree.add('map', 'base_link', second * SECOND, (second, 0, 0), turned(90 * second))
    return tree


def test_points_go_from_one_frame_into_another_and_back() -> None:
    tree, point = robot(), np.array([3.0, 1.0, 0.0])
    there, back = tree.lookup('base_link', 'front', 0), tree.lookup('front', 'base_link', 0)
    assert there.rotation @ point + there.translation == pytest.approx([4, 1, 2])
    assert back.after(there).translation == pytest.approx([0, 0, 0])
    across = tree.lookup('front', 'rear', 99 * SECOND)  # of static ones every time will do
    assert across.rotation @ point + across.translation == pytest.approx([-5, -1, 0])
    assert tree.lookup('front', 'front', 0).translation == pytest.approx([0, 0, 0])


def test_between_two_stamps_it_is_between_their_poses() -> None:
    halfway = robot().lookup('map', 'base_link', SECOND * 3 // 2)
    assert halfway.translation == pytest.approx([1.5, 0, 0])
    assert Rotation.from_matrix(halfway.rotation).as_euler('zyx', degrees=True)[0] == pytest.approx(135)


@pytest.mark.parametrize(('target', 'source', 'stamp', 'said'), [
    ('map', 'base_link', 4.4, None), ('map', 'base_link', -0.4, None),
    ('map', 'front', 4.6, r'map to base_link: found its newest transform 0\.6 s before the image'),
    ('map', 'front', -0.6, r'its oldest transform 0\.6 s after the image'),
    ('base_footprint', 'front', 1, 'found none from front to base_footprint'),
    ('base_link', 'lidar', 1, 'found none from lidar to base_link'),
    ('base_link', '', 1, 'an image without frame_id')])
def test_what_is_not_known_is_told(target: str, source: str, stamp: float, said: str | None) -> None:
    if said is None:
        robot().lookup(target, source, int(stamp * SECOND))
        return
    with pytest.raises(TransformError, match=said):
        robot().lookup(target, source, int(stamp * SECOND))


def test_what_lies_above_the_frame_that_two_share_may_be_old() -> None:
    tree = robot()
    tree.add('base_link', 'base_footprint', 0, (0, 0, -0.3), STRAIGHT, static=True)
    found = tree.lookup('base_footprint', 'front', 1000 * SECOND)
    assert found.translation == pytest.approx([1, 0, 2.3])


def test_a_loop_is_told() -> None:
    tree = TransformTree()
    tree.add('a', 'b', 0, (0, 0, 0), STRAIGHT, static=True)
    tree.add('b', 'a', 0, (0, 0, 0), STRAIGHT, static=True)
    with pytest.raises(TransformError, match='found a loop'):
        tree.lookup('c', 'a', 0)


def test_a_running_robot_forgets_and_a_recording_does_not() -> None:
    for kept, known in ((10.0, False), (math.inf, True)):
        tree = robot(kept)
        for second in range(5, 60):
            tree.add('map', 'base_link', second * SECOND, (second, 0, 0), STRAIGHT)
        if known:
            assert tree.lookup('map', 'base_link', SECOND).translation == pytest.approx([1, 0, 0])
        else:
            with pytest.raises(TransformError):
                tree.lookup('map', 'base_link', SECOND)


def test_a_recording_that_begins_again_and_stamps_out_of_order() -> None:
    tree = robot()
    tree.add('map', 'base_link', 100 * SECOND, (7, 0, 0), STRAIGHT)
    tree.add('map', 'base_link', SECOND, (5, 0, 0), STRAIGHT)
    assert tree.lookup('map', 'base_link', SECOND).translation == pytest.approx([5, 0, 0])
    for second in (3, 2):
        tree.add('map', 'base_link', second * SECOND, (second, 1, 0), STRAIGHT)
    assert tree.lookup('map', 'base_link', 2 * SECOND + SECOND // 2).translation == pytest.approx([2.5, 1, 0])


def test_what_is_no_transform_is_left_out() -> None:
    def one(x: float, w: float) -> Any:
        return SimpleNamespace(
            header=SimpleNamespace(stamp=SimpleNamespace(sec=1, nanosec=0), frame_id='base'), child_frame_id='camera',
            transform=SimpleNamespace(translation=SimpleNamespace(x=x, y=0.0, z=0.0),
                                      rotation=SimpleNamespace(x=0.0, y=0.0, z=0.0, w=w)))

    tree = TransformTree()
    tree.add_message(SimpleNamespace(transforms=[one(math.nan, 1.0), one(0.0, 0.0), one(math.inf, math.nan)]), True)
    with pytest.raises(TransformError):
        tree.lookup('base', 'camera', SECOND)
    tree.add_message(SimpleNamespace(transforms=[one(3.0, 1.0)]), True)
    assert tree.lookup('base', 'camera', SECOND).translation == pytest.approx([3, 0, 0])
