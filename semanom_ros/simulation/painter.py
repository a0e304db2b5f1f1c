"""A small software renderer: textured quads, flat polygons and billboards, far to near.

Why no renderer from PyPI. Panda3D's software rasterizer (168 MB, no fog, needs libX11
even off screen), PyBullet's (compiles from source on current Pythons) and the OpenGL
ones (need EGL or OSMesa of the machine) all fail somewhere that this package has to
run: a container, a robot without a GPU, CI. OpenCV is a dependency anyway. Its
`warpPerspective` gives perspective-correct textures, and a street has so clear an order
of depth that painting from far to near needs no depth buffer. Drawn at twice the
resolution and averaged down, edges are smooth; a second buffer, painted by the same
calls, holds which thing each pixel belongs to, so that masks are exact.

World frame: x east, y north, z up, metres. Camera frame: optical (x right, y down,
z forward).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

NEAR = 0.6
Colour = tuple[float, float, float]
FloatArray = npt.NDArray[np.float64]
Picture = npt.NDArray[Any]  # (height, width, channels) uint8, RGB or RGBA


@dataclass
class Camera:
    """Pinhole camera.

    Attributes:
        width, height: output picture, pixels.
        focal: focal length in output pixels; the principal point is the centre.
        supersampling: rendered pixels per output pixel along each axis.
        position: (3,) metres.
        axes: (3, 3) rows right, down, forward in the world.
    """

    width: int
    height: int
    focal: float
    supersampling: int = 2
    position: FloatArray = field(default_factory=lambda: np.zeros(3))
    axes: FloatArray = field(default_factory=lambda: np.eye(3))

    def look(self, position: FloatArray, yaw: float, pitch: float, roll: float) -> None:
        """Places the camera; angles in radians: yaw from east to north, pitch up, roll clockwise."""
        cy, sy, cp, sp = math.cos(yaw), math.sin(yaw), math.cos(pitch), math.sin(pitch)
        forward = np.array([cy * cp, sy * cp, sp])
        right = np.array([sy, -cy, 0.0])
        down = np.cross(forward, right)
        cr, sr = math.cos(roll), math.sin(roll)
        self.position = np.asarray(position, np.float64)
        self.axes = np.stack([cr * right + sr * down, cr * down - sr * right, forward])

    @property
    def intrinsics(self) -> FloatArray:
        """(3, 3) matrix for rendered pixels; integer coordinates are pixel centres."""
        s = self.supersampling
        return np.array(
            [[self.focal * s, 0, self.width * s / 2 - 0.5], [0, self.focal * s, self.height * s / 2 - 0.5], [0, 0, 1.0]]
        )

    def to_camera(self, points: FloatArray) -> FloatArray:
        """(N, 3) world to (N, 3) camera frame."""
        return (np.asarray(points, np.float64) - self.position) @ self.axes.T

    def to_pixels(self, points: FloatArray) -> FloatArray:
        """(N, 3) camera frame, in front of the camera, to (N, 2) rendered pixels."""
        k = self.focal * self.supersampling
        centre = (self.width * self.supersampling / 2 - 0.5, self.height * self.supersampling / 2 - 0.5)
        return points[:, :2] * (k / points[:, 2:3]) + centre


class Texture:
    """A picture that can be drawn at any size without shimmering.

    Args:
        pixels: (h, w, 3) uint8 RGB, or (h, w, 4) with alpha (made premultiplied here).
    """

    def __init__(self, pixels: Picture):
        if pixels.shape[2] == 4:
            pixels = pixels.copy()
            pixels[..., :3] = (pixels[..., :3].astype(np.uint16) * pixels[..., 3:] + 127) // 255
        self.pixels = np.ascontiguousarray(pixels)
        self.has_alpha = pixels.shape[2] == 4
        self._levels: dict[tuple[int, int], Picture] = {(0, 0): self.pixels}

    def level(self, width: float | np.floating, height: float | np.floating) -> Picture:
        """The smallest version, halved along either axis, that still has about (width, height) pixels."""
        h, w = self.pixels.shape[:2]
        i = max(0, int(math.log2(max(1.0, w / max(1.0, float(width))))))
        j = max(0, int(math.log2(max(1.0, h / max(1.0, float(height))))))
        if (i, j) not in self._levels:
            size = (max(1, w >> i), max(1, h >> j))
            self._levels[i, j] = cv2.resize(self.pixels, size, interpolation=cv2.INTER_AREA)
        return self._levels[i, j]


class Canvas:
    """Picture and identities of one frame, painted far to near.

    Args:
        camera: where it is painted from.
        fog_density: extinction per metre.
        fog_colour: RGB 0..255 that things fade to.

    Attributes:
        depths: metres along the optical axis to the nearest corner that was painted of each thing, by identity.
    """

    def __init__(self, camera: Camera, fog_density: float, fog_colour: Colour):
        self.camera = camera
        s = camera.supersampling
        self.image = np.empty((camera.height * s, camera.width * s, 3), np.uint8)
        self.ids = np.zeros((camera.height * s, camera.width * s), np.uint16)
        self.fog_density, self.fog_colour = fog_density, np.array(fog_colour, np.float64)
        self.depths: dict[int, float] = {}

    def reach(self, identity: int | None, depth: float | np.floating) -> None:
        """Notes how near a thing was painted."""
        if identity is not None:
            self.depths[identity] = min(float(depth), self.depths.get(identity, math.inf))

    def fog(self, distance: float) -> float:
        """Share of the fog's colour at a distance in metres, 0 to 1."""
        return 1.0 - math.exp(-self.fog_density * max(0.0, distance))

    def tone(self, colour: Colour | FloatArray, light: float | FloatArray, distance: float) -> Colour:
        """RGB of a surface after light and fog."""
        f = self.fog(distance)
        r, g, b = np.clip(np.asarray(colour) * light * (1 - f) + self.fog_colour * f, 0, 255)
        return float(r), float(g), float(b)

    def polygon(self, points: FloatArray, colour: Colour, identity: int | None, alpha: float = 1.0) -> None:
        """Fills a polygon.

        Args:
            points: (N, 3) world.
            colour: RGB after `tone`.
            identity: its thing; None leaves the identities below as they are (shadows).
            alpha: opacity, 0 to 1.
        """
        seen = clip_near(self.camera.to_camera(points))
        if len(seen) >= 3:
            self.reach(identity, seen[:, 2].min())
            self.flat_polygon(self.camera.to_pixels(seen), colour, identity, alpha)

    def flat_polygon(self, pixels: FloatArray, colour: Colour, identity: int | None, alpha: float = 1.0) -> None:
        """`polygon` from (N, 2) rendered pixels."""
        height, width = self.ids.shape
        corners = np.rint(np.clip(pixels, -20000, 20000)).astype(np.int32)
        (left, top), (right, bottom) = corners.min(0).tolist(), corners.max(0).tolist()
        if right < 0 or bottom < 0 or left >= width or top >= height:
            return
        if alpha >= 1:
            cv2.fillPoly(self.image, [corners], colour)
        else:
            left, top, right, bottom = max(0, left), max(0, top), min(width, right + 1), min(height, bottom + 1)
            if right <= left or bottom <= top:
                return
            below = self.image[top:bottom, left:right]
            over = below.copy()
            cv2.fillPoly(over, [corners - (left, top)], colour)
            cv2.addWeighted(over, alpha, below, 1 - alpha, 0, dst=below)
        if identity is not None:
            cv2.fillPoly(self.ids, [corners], float(identity))

    def quad(
        self,
        texture: Texture,
        origin: FloatArray,
        along: FloatArray,
        down: FloatArray,
        identity: int | None,
        light: float | FloatArray = 1.0,
    ) -> None:
        """Draws a textured parallelogram.

        Args:
            texture: what is on it.
            origin: (3,) world position of the texture's top left corner.
            along, down: (3,) vectors of its top edge and its left edge.
            identity: its thing; None leaves the identities as they are.
            light: brightness factor, one or (3,).
        """
        origin, along, down = (np.asarray(v, np.float64) for v in (origin, along, down))
        corners = self.camera.to_camera(np.stack([origin, origin + along, origin + along + down, origin + down]))
        seen = clip_near(corners)
        if len(seen) < 3:
            return
        self.reach(identity, seen[:, 2].min())
        pixels = self.camera.to_pixels(seen)
        ends = self.camera.to_pixels(np.maximum(corners, (-1e9, -1e9, NEAR)))
        texels = texture.level(
            max(np.linalg.norm(ends[1] - ends[0]), np.linalg.norm(ends[2] - ends[3])),
            max(np.linalg.norm(ends[3] - ends[0]), np.linalg.norm(ends[2] - ends[1])),
        )
        self._warp(texels, self._plane(texels, origin, along, down), pixels, identity, light, float(seen[:, 2].min()))

    def ground(
        self,
        texels: Picture,
        origin: FloatArray,
        along: FloatArray,
        down: FloatArray,
        outline: FloatArray,
        light: float | FloatArray,
    ) -> None:
        """Draws a piece of ground texture; no fog, no identity.

        Args:
            texels: (h, w, 3) RGB.
            origin: (3,) world position of its top left corner.
            along, down: (3,) vectors of its top edge and its left edge.
            outline: (N, 2) rendered pixels inside which it is drawn.
            light: brightness factor.
        """
        self._warp(texels, self._plane(texels, origin, along, down), outline, None, light, 0.0)

    def _plane(self, texels: Picture, origin: FloatArray, along: FloatArray, down: FloatArray) -> FloatArray:
        """(3, 3) homography from texels to rendered pixels."""
        h, w = texels.shape[:2]
        axes = self.camera.axes
        plane = np.stack([axes @ along / w, axes @ down / h, axes @ (origin - self.camera.position)], axis=1)
        plane[:, 2] += (plane[:, 0] + plane[:, 1]) / 2  # texel centres are integers
        return self.camera.intrinsics @ plane

    def _warp(
        self,
        texels: Picture,
        matrix: FloatArray,
        outline: FloatArray,
        identity: int | None,
        light: float | FloatArray,
        distance: float,
    ) -> None:
        height, width = self.ids.shape
        corners = np.rint(np.clip(outline, -20000, 20000)).astype(np.int32)
        left, top = np.maximum(corners.min(0), 0)
        right, bottom = np.minimum(corners.max(0) + 1, (width, height))
        if right <= left or bottom <= top:
            return
        size = (int(right - left), int(bottom - top))
        shift = np.array([[1, 0, -left], [0, 1, -top], [0, 0, 1.0]])
        alpha = texels.shape[2] == 4
        lit = self._lit(texels, light, distance)
        border = cv2.BORDER_CONSTANT if alpha else cv2.BORDER_REPLICATE
        drawn = cv2.warpPerspective(lit, shift @ matrix, size, flags=cv2.INTER_LINEAR, borderMode=border)
        inside = np.zeros((size[1], size[0]), np.uint8)
        cv2.fillConvexPoly(inside, corners - (left, top), 255)
        window = (slice(top, bottom), slice(left, right))
        if alpha:
            drawn[inside == 0] = 0
            self._blend(drawn, window, identity)
        else:
            cv2.copyTo(drawn, inside, self.image[window])
            if identity is not None:
                self.ids[window][inside > 0] = identity

    def _lit(self, texels: Picture, light: float | FloatArray, distance: float) -> Picture:
        f = self.fog(distance)
        gain = np.broadcast_to(np.asarray(light, np.float64), (3,)) * (1 - f)
        matrix = np.zeros((texels.shape[2], texels.shape[2] + 1))
        matrix[[0, 1, 2], [0, 1, 2]] = gain
        if texels.shape[2] == 4:
            matrix[:3, 3] = self.fog_colour * f / 255
            matrix[3, 3] = 1
        else:
            matrix[:, 3] = self.fog_colour * f
        return cv2.transform(texels, matrix)

    def _blend(self, drawn: Picture, window: tuple[slice, slice], identity: int | None) -> None:
        below = self.image[window]
        through = cv2.cvtColor(255 - drawn[..., 3], cv2.COLOR_GRAY2RGB)
        cv2.add(cv2.multiply(below, through, scale=1 / 255), np.ascontiguousarray(drawn[..., :3]), dst=below)
        if identity is not None:
            self.ids[window][drawn[..., 3] > 127] = identity

    def sprite(
        self,
        texture: Texture,
        foot: FloatArray,
        width: float,
        height: float,
        identity: int | None,
        light: float | FloatArray = 1.0,
    ) -> None:
        """Draws an upright picture that always faces the camera.

        Args:
            texture: with alpha.
            foot: (3,) world position of the middle of its lower edge.
            width, height: metres.
            identity: its thing; None leaves the identities as they are.
            light: brightness factor.
        """
        seen = self.camera.to_camera(np.asarray(foot, np.float64)[None])
        depth = float(seen[0, 2])
        if depth < 1.2:
            return
        self.reach(identity, depth)
        u, v = self.camera.to_pixels(seen)[0]
        scale = self.camera.focal * self.camera.supersampling / depth
        w, h = max(1, round(width * scale)), max(1, round(height * scale))
        x, y = round(u - w / 2), round(v - h)
        full_height, full_width = self.ids.shape
        left, top, right, bottom = max(0, x), max(0, y), min(full_width, x + w), min(full_height, y + h)
        if right <= left or bottom <= top:
            return
        texels = self._lit(texture.level(w, h), light, depth)
        th, tw = texels.shape[:2]
        if (right - left, bottom - top) == (w, h):
            drawn = cv2.resize(texels, (w, h), interpolation=cv2.INTER_LINEAR)
        else:  # only the visible part
            matrix = np.array(
                [[tw / w, 0, (left - x + 0.5) * tw / w - 0.5], [0, th / h, (top - y + 0.5) * th / h - 0.5]]
            )
            drawn = cv2.warpAffine(
                texels,
                matrix,
                (right - left, bottom - top),
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_CONSTANT,
            )
        self._blend(drawn, (slice(top, bottom), slice(left, right)), identity)

    def glow(self, point: FloatArray, radius: float, colour: Colour, strength: float) -> None:
        """Adds the halo of a lamp: radius in metres, strength 0 to 1."""
        seen = self.camera.to_camera(np.asarray(point, np.float64)[None])
        depth = float(seen[0, 2])
        if depth < 1.5:
            return
        u, v = self.camera.to_pixels(seen)[0]
        r = round(radius * self.camera.focal * self.camera.supersampling / depth)
        height, width = self.ids.shape
        left, top, right, bottom = (
            max(0, round(u) - r),
            max(0, round(v) - r),
            min(width, round(u) + r),
            min(height, round(v) + r),
        )
        if r < 2 or right <= left or bottom <= top:
            return
        xs = (np.arange(left, right) - u) / r
        ys = (np.arange(top, bottom) - v) / r
        halo = np.clip(1 - np.sqrt(xs[None] ** 2 + ys[:, None] ** 2), 0, 1) ** 2 * (
            strength * (1 - self.fog(depth) * 0.6)
        )
        window = self.image[top:bottom, left:right]
        cv2.add(window, (halo[..., None] * np.asarray(colour)).astype(np.uint8), dst=window)


def clip_near(points: FloatArray) -> FloatArray:
    """The part of a polygon (N, 3) in the camera frame that is in front of the near plane."""
    inside = points[:, 2] >= NEAR
    if inside.all():
        return points
    if not inside.any():
        return points[:0]
    kept = []
    for a, b in zip(points, np.roll(points, -1, axis=0), strict=True):
        if a[2] >= NEAR:
            kept.append(a)
        if (a[2] >= NEAR) != (b[2] >= NEAR):
            kept.append(a + (b - a) * ((NEAR - a[2]) / (b[2] - a[2])))
    return np.array(kept)


@dataclass
class Mesh:
    """A solid of flat faces, drawn as a whole.

    Attributes:
        points: (V, 3) metres in its own frame: x forward, y left, z up, on the ground at z = 0.
        faces: for each face the indices of its corners, counter-clockwise from outside.
        colours: for each face RGB, or the name of a paint that the thing chooses.
        parents: for each face the face that it is painted on, itself for solid ones.
        glows: for each face the share of its light that is its own, 0 to 1 (lamps).
    """

    points: list[tuple[float, float, float]] = field(default_factory=list)
    faces: list[list[int]] = field(default_factory=list)
    colours: list[Colour | str] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    glows: list[float] = field(default_factory=list)
    _arrays: tuple[FloatArray, FloatArray, FloatArray] | None = None
    _parents: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    _glows: FloatArray = field(default_factory=lambda: np.zeros((0, 1)))

    def add(
        self,
        corners: list[tuple[float, float, float]],
        colour: Colour | str,
        parent: int | None = None,
        glow: float = 0.0,
    ) -> int:
        """Adds a face; returns its index."""
        start = len(self.points)
        self.points += corners
        self.faces.append(list(range(start, start + len(corners))))
        self.colours.append(colour)
        self.parents.append(len(self.faces) - 1 if parent is None else parent)
        self.glows.append(glow)
        self._arrays = None
        return len(self.faces) - 1

    def box(
        self, low: tuple[float, float, float], high: tuple[float, float, float], colour: Colour | str
    ) -> dict[str, int]:
        """Adds a box; returns its faces by name: front back left right top bottom."""
        (x0, y0, z0), (x1, y1, z1) = low, high
        return {
            'front': self.add([(x1, y0, z0), (x1, y1, z0), (x1, y1, z1), (x1, y0, z1)], colour),
            'back': self.add([(x0, y1, z0), (x0, y0, z0), (x0, y0, z1), (x0, y1, z1)], colour),
            'left': self.add([(x1, y1, z0), (x0, y1, z0), (x0, y1, z1), (x1, y1, z1)], colour),
            'right': self.add([(x0, y0, z0), (x1, y0, z0), (x1, y0, z1), (x0, y0, z1)], colour),
            'top': self.add([(x0, y0, z1), (x1, y0, z1), (x1, y1, z1), (x0, y1, z1)], colour),
            'bottom': self.add([(x0, y1, z0), (x1, y1, z0), (x1, y0, z0), (x0, y0, z0)], colour),
        }

    def cylinder(
        self,
        start: tuple[float, float, float],
        axis: int,
        length: float,
        radius: float,
        colour: Colour | str,
        caps: Colour | str | None = None,
        sides: int = 10,
    ) -> tuple[int, int]:
        """Adds a cylinder along axis 0, 1 or 2 from the centre of its first cap; returns the two caps."""
        p, q = [(1, 2), (2, 0), (0, 1)][axis]
        rings = []
        for end in (0.0, length):
            ring = []
            for k in range(sides):
                point = list(start)
                point[axis] += end
                point[p] += radius * math.cos(2 * math.pi * k / sides)
                point[q] += radius * math.sin(2 * math.pi * k / sides)
                ring.append((point[0], point[1], point[2]))
            rings.append(ring)
        for k in range(sides):
            n = (k + 1) % sides
            self.add([rings[0][k], rings[0][n], rings[1][n], rings[1][k]], colour)
        return self.add(rings[0][::-1], caps or colour), self.add(rings[1], caps or colour)

    def arrays(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Points (V, 3), outward unit normals (F, 3) and centres (F, 3)."""
        if self._arrays is None:
            points = np.array(self.points)
            normals, centres = [], []
            for face in self.faces:
                corners = points[face]
                # Newell's method: also right for corners in a row and for concave outlines
                normal = np.cross(corners, np.roll(corners, -1, axis=0)).sum(axis=0)
                normals.append(normal / max(1e-9, np.linalg.norm(normal)))
                centres.append(corners.mean(axis=0))
            self._arrays = points, np.array(normals), np.array(centres)
            self._parents, self._glows = np.array(self.parents), np.array(self.glows)[:, None]
        return self._arrays

    def draw(
        self,
        canvas: Canvas,
        position: FloatArray,
        rotation: FloatArray,
        identity: int | None,
        paints: dict[str, Colour],
        sun: FloatArray,
        ambient: FloatArray,
        sunlight: FloatArray,
    ) -> None:
        """Draws it.

        Args:
            canvas: where.
            position: (3,) world.
            rotation: (3, 3), own frame to world.
            identity: its thing.
            paints: RGB of the named colours.
            sun: (3,) unit vector towards the sun.
            ambient, sunlight: (3,) light factors.
        """
        points, normals, centres = self.arrays()
        camera = canvas.camera
        world = points @ rotation.T + position
        seen = camera.to_camera(world)
        if seen[:, 2].max() < NEAR:
            return
        facing = normals @ rotation.T
        middle = centres @ rotation.T + position
        visible = np.einsum('ij,ij->i', facing, camera.position - middle) > 0
        distances = np.linalg.norm(camera.position - middle, axis=1)
        parents = self._parents
        # a painted-on face follows its parent directly, whatever its own distance
        order = np.lexsort((np.arange(len(parents)), parents, -distances[parents]))
        whole = bool(seen[:, 2].min() >= NEAR)
        if whole:
            pixels = np.rint(np.clip(camera.to_pixels(seen), -20000, 20000)).astype(np.int32)
            (left, top), (right, bottom) = pixels.min(0), pixels.max(0)
            if right < 0 or bottom < 0 or left >= canvas.ids.shape[1] or top >= canvas.ids.shape[0]:
                return
        canvas.reach(identity, max(NEAR, seen[:, 2].min()))
        shade = ambient * (0.8 + 0.2 * facing[:, 2:3]) + sunlight * np.clip(facing @ sun, 0, None)[:, None]
        distance = float(np.linalg.norm(camera.position - position))
        glows = self._glows
        base = np.array([paints[c] if isinstance(c, str) else c for c in self.colours], np.float64)
        fog = canvas.fog(distance)
        toned = np.clip(base * (shade * (1 - glows) + glows) * (1 - fog) + canvas.fog_colour * fog, 0, 255).tolist()
        for i in order[visible[order]]:
            if distance > 55 and parents[i] != i:  # too small to see
                continue
            if whole:
                outline = pixels[self.faces[i]]
                cv2.fillPoly(canvas.image, [outline], toned[i])
                if identity is not None and parents[i] == i:
                    cv2.fillPoly(canvas.ids, [outline], float(identity))
            else:
                near = clip_near(seen[self.faces[i]])
                if len(near) >= 3:
                    canvas.flat_polygon(camera.to_pixels(near), toned[i], identity)
