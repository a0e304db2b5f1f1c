"""How frames lie to each other over time: what `/tf` and `/tf_static` tell, live and in recordings.

tf2 does the same on a vehicle, and is not everywhere that recordings are judged.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation, Slerp

from semanom_ros.errors import TransformError

KEPT_S = 10.0
"""So far back the transforms of a running robot are remembered."""

LATEST_GAP_S = 0.5
"""So far from the nearest one a stamp may lie before or after all that is known."""

_DEEPEST = 100  # frames on the way to a root; more is a loop


@dataclass(frozen=True)
class RigidTransform:
    """Takes points of one frame into another: `rotation @ point + translation`.

    Attributes:
        rotation: (3, 3) float64.
        translation: (3,) float64 metres.
    """

    rotation: npt.NDArray[np.float64]
    translation: npt.NDArray[np.float64]

    @classmethod
    def identity(cls) -> RigidTransform:
        """Between a frame and itself."""
        return cls(np.eye(3), np.zeros(3))

    def after(self, first: RigidTransform) -> RigidTransform:
        """What `first` does, and then this."""
        return RigidTransform(self.rotation @ first.rotation, self.rotation @ first.translation + self.translation)

    @property
    def inverse(self) -> RigidTransform:
        """The way back."""
        return RigidTransform(self.rotation.T, -self.rotation.T @ self.translation)


class _Link:
    """A frame in its parent's, over time."""

    def __init__(self, parent: str, static: bool, kept_s: float) -> None:
        self.parent, self.static, self._kept_ns = parent, static, kept_s * 1e9
        self._stamps: list[int] = []
        self._poses: list[tuple[Rotation, npt.NDArray[np.float64]]] = []

    def add(self, stamp_ns: int, rotation: Rotation, translation: npt.NDArray[np.float64]) -> None:
        if self.static:
            self._stamps, self._poses = [stamp_ns], [(rotation, translation)]
            return
        if self._stamps and stamp_ns < self._stamps[-1] - self._kept_ns:  # a recording that began again
            self._stamps, self._poses = [], []
        place = bisect.bisect_left(self._stamps, stamp_ns)
        if place < len(self._stamps) and self._stamps[place] == stamp_ns:
            self._poses[place] = rotation, translation
            return
        self._stamps.insert(place, stamp_ns)
        self._poses.insert(place, (rotation, translation))
        old = bisect.bisect_left(self._stamps, self._stamps[-1] - self._kept_ns)
        del self._stamps[:old], self._poses[:old]

    def at(self, stamp_ns: int) -> RigidTransform:
        """Child to parent; between two that are known as far as the stamp lies.

        Raises:
            TransformError: the stamp lies more than LATEST_GAP_S outside.
        """
        if self.static:
            return _rigid(*self._poses[0])
        after = bisect.bisect_left(self._stamps, stamp_ns)
        if 0 < after < len(self._stamps):
            first, last = self._stamps[after - 1], self._stamps[after]
            (before, begin), (behind, end) = self._poses[after - 1], self._poses[after]
            share = (stamp_ns - first) / (last - first)
            turn = Slerp([0.0, 1.0], Rotation.concatenate([before, behind]))
            return _rigid(turn(share), begin + share * (end - begin))
        nearest = min(after, len(self._stamps) - 1)
        gap = (stamp_ns - self._stamps[nearest]) / 1e9
        if abs(gap) > LATEST_GAP_S:
            raise TransformError(
                f'found its newest transform {gap:.1f} s before the image' if gap > 0 else
                f'found its oldest transform {-gap:.1f} s after the image')
        return _rigid(*self._poses[nearest])


class TransformTree:
    """Frames, each in its parent's. For several threads."""

    def __init__(self, kept_s: float = KEPT_S) -> None:
        """
        Args:
            kept_s: seconds that transforms are remembered; infinity for those of a recording.
        """
        self._lock, self._kept_s = Lock(), kept_s
        self._links: dict[str, _Link] = {}

    def add_message(self, message: Any, static: bool) -> None:
        """Takes note of a `tf2_msgs/TFMessage`, of whatever class; what is no rotation or not finite is left out."""
        for one in message.transforms:
            stamp, place, turn = one.header.stamp, one.transform.translation, one.transform.rotation
            quaternion = np.array([turn.x, turn.y, turn.z, turn.w])
            translation = np.array([place.x, place.y, place.z])
            length = np.linalg.norm(quaternion)
            if np.isfinite(translation).all() and np.isfinite(length) and abs(length - 1) < 0.1:
                self.add(one.header.frame_id, one.child_frame_id, stamp.sec * 1_000_000_000 + stamp.nanosec,
                         translation, quaternion, static)

    def add(self, parent: str, child: str, stamp_ns: int, translation: npt.ArrayLike, quaternion: npt.ArrayLike,
            static: bool = False) -> None:
        """Takes note of one frame in another.

        Args:
            parent, child: their names.
            stamp_ns: of the transform.
            translation: (3,) metres, of the child's origin in the parent.
            quaternion: (4,) x, y, z, w of the child's axes.
            static: it holds for all times.
        """
        rotation, offset = Rotation.from_quat(np.asarray(quaternion)), np.asarray(translation, np.float64)
        parent, child = parent.lstrip('/'), child.lstrip('/')
        with self._lock:
            link = self._links.get(child)
            if link is None or link.parent != parent or link.static != static:
                link = self._links[child] = _Link(parent, static, self._kept_s)
            link.add(stamp_ns, rotation, offset)

    def lookup(self, target: str, source: str, stamp_ns: int) -> RigidTransform:
        """From `source` to `target` at a time in nanoseconds.

        Raises:
            TransformError: there is no way between them, or none at that time.
        """
        target, source = target.lstrip('/'), source.lstrip('/')
        with self._lock:
            ways, fault = self._ways_up(source, stamp_ns, target)
            way = RigidTransform.identity()
            for frame, link in self._chain(target):
                if frame in ways:
                    return way.inverse.after(ways[frame])
                if link is not None:
                    way = _pose(frame, link, stamp_ns).after(way)
        raise fault or TransformError(
            f'transforms: found none from {source or "an image without frame_id"} to {target}, expected a chain of '
            'them on /tf and /tf_static; publish them (robot_state_publisher, or ros2 run tf2_ros '
            'static_transform_publisher)')

    def _ways_up(self, source: str, stamp_ns: int, target: str
                 ) -> tuple[dict[str, RigidTransform], TransformError | None]:
        """The way from `source` to every frame above it, itself first, up to `target`; and why it breaks off."""
        way, ways = RigidTransform.identity(), dict[str, RigidTransform]()
        try:
            for frame, link in self._chain(source, target):
                ways[frame] = way
                if link is not None:
                    way = _pose(frame, link, stamp_ns).after(way)
        except TransformError as error:  # which is none where the two meet further down
            return ways, error
        return ways, None

    def _chain(self, frame: str, end: str = '') -> Iterator[tuple[str, _Link | None]]:
        """Frames from one up to its root or `end`, each with what links it to the next; None: it is the last."""
        for _ in range(_DEEPEST):
            link = None if frame == end else self._links.get(frame)
            yield frame, link
            if link is None:
                return
            frame = link.parent
        raise TransformError(f'transforms: found a loop at {frame}, expected a tree; stop one of its publishers')


def _pose(frame: str, link: _Link, stamp_ns: int) -> RigidTransform:
    try:
        return link.at(stamp_ns)
    except TransformError as error:
        raise TransformError(f'transforms: {link.parent} to {frame}: {error}, expected one within {LATEST_GAP_S:g} s; '
                             'synchronize the clocks, or publish it more often') from None


def _rigid(rotation: Rotation, translation: npt.NDArray[np.float64]) -> RigidTransform:
    return RigidTransform(rotation.as_matrix(), translation)
