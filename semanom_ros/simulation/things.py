"""What stands and moves in the street, and how it is drawn."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

import numpy as np

from semanom_ros.simulation import textures
from semanom_ros.simulation.meshes import CAR_PAINTS, LENGTHS, RIM, solid, vehicle
from semanom_ros.simulation.painter import Canvas, Colour, FloatArray, Mesh, Texture
from semanom_ros.simulation.weather import Weather


def turn(yaw: float = 0.0, pitch: float = 0.0, roll: float = 0.0) -> FloatArray:
    """(3, 3) rotation: roll about x, then pitch about y, then yaw about z; radians."""
    cy, sy, cp, sp, cr, sr = (f(a) for a in (yaw, pitch, roll) for f in (math.cos, math.sin))
    return np.array(
        [
            [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
            [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
            [-sp, cp * sr, cp * cr],
        ]
    )


@dataclass
class Stage:
    """What a part needs to draw itself: the canvas, the weather, the time in seconds."""

    canvas: Canvas
    weather: Weather
    time: float

    def light(self, normal: FloatArray) -> FloatArray:
        """(3,) light on a surface."""
        w = self.weather
        return w.ambient * (0.8 + 0.2 * normal[2]) + w.sunlight * max(0.0, float(normal @ w.sun))

    @property
    def average_light(self) -> FloatArray:
        """(3,) light on something round."""
        return self.weather.ambient * 0.9 + self.weather.sunlight * 0.6


class Part(Protocol):
    """A drawable part of a thing."""

    def draw(self, stage: Stage, position: FloatArray, rotation: FloatArray, identity: int | None) -> None:
        """Draws it, given the pose of its thing: (3,) world position and (3, 3) rotation."""


@dataclass
class Solid:
    """A mesh, placed in its thing's frame."""

    mesh: Mesh
    paints: dict[str, Colour]
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    rotation: FloatArray = field(default_factory=lambda: np.eye(3))

    def draw(self, stage: Stage, position: FloatArray, rotation: FloatArray, identity: int | None) -> None:
        w = stage.weather
        self.mesh.draw(
            stage.canvas,
            position + rotation @ np.array(self.offset),
            rotation @ self.rotation,
            identity,
            self.paints,
            w.sun,
            w.ambient,
            w.sunlight,
        )


@dataclass
class Card:
    """An upright picture that faces the camera."""

    texture: Texture
    width: float
    height: float
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    own_light: float = 0.0

    def draw(self, stage: Stage, position: FloatArray, rotation: FloatArray, identity: int | None) -> None:
        light = stage.average_light * (1 - self.own_light) + self.own_light
        stage.canvas.sprite(
            self.texture, position + rotation @ np.array(self.offset), self.width, self.height, identity, light
        )


@dataclass
class Board:
    """A flat picture in the thing's y-z plane that faces +x; seen from behind it is grey.

    Attributes:
        centre: of its lower edge.
        rotation: in the thing's frame.
        back: colour of the back; None: seen from the front only.
    """

    texture: Texture
    width: float
    height: float
    centre: tuple[float, float, float] = (0.0, 0.0, 0.0)
    rotation: FloatArray = field(default_factory=lambda: np.eye(3))
    back: Colour | None = (120, 122, 126)

    def draw(self, stage: Stage, position: FloatArray, rotation: FloatArray, identity: int | None) -> None:
        pose = rotation @ self.rotation
        base = position + rotation @ np.array(self.centre)
        normal, left, up = pose[:, 0], pose[:, 1], pose[:, 2]
        to_camera = stage.canvas.camera.position - base
        # seen from +x, the viewer's left is -y
        a, b = base - left * self.width / 2, base + left * self.width / 2
        if normal @ to_camera > 0:
            stage.canvas.quad(
                self.texture, a + up * self.height, left * self.width, -up * self.height, identity, stage.light(normal)
            )
        elif self.back is not None:
            shape = np.array([a, b, b + up * self.height, a + up * self.height])
            if self.texture.has_alpha:  # signs: round
                angles = np.linspace(0, 2 * math.pi, 12, endpoint=False)
                middle = base + up * self.height / 2
                shape = np.array([middle + (left * math.cos(t) + up * math.sin(t)) * self.width / 2 for t in angles])
            tone = stage.canvas.tone(self.back, stage.light(-normal), float(np.linalg.norm(to_camera)))
            stage.canvas.polygon(shape, tone, identity)


@dataclass
class Pole:
    """A thin upright post, lit from one side; `reach` metres of arm to the left at its top."""

    height: float
    radius: float = 0.06
    colour: Colour = (120, 122, 126)
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    reach: float = 0.0

    def draw(self, stage: Stage, position: FloatArray, rotation: FloatArray, identity: int | None) -> None:
        base = position + rotation @ np.array(self.offset)
        side = stage.canvas.camera.axes[0] * self.radius
        up = np.array([0, 0, self.height])
        distance = float(np.linalg.norm(stage.canvas.camera.position - base))
        light = stage.average_light
        sides = ((-1.0, 0.2, 1.1), (0.2, 1.0, 0.7)) if distance < 40 else ((-1.0, 1.0, 0.9),)
        for low, high, factor in sides:
            tone = stage.canvas.tone(self.colour, light * factor, distance)
            stage.canvas.polygon(
                np.array([base + side * low, base + side * high, base + side * high + up, base + side * low + up]),
                tone,
                identity,
            )
        if self.reach:
            arm = rotation[:, 1] * self.reach
            thick = np.array([0, 0, self.radius * 1.4])
            stage.canvas.polygon(
                np.array([base + up, base + up + arm, base + up + arm - thick, base + up - thick]),
                stage.canvas.tone(self.colour, light, distance),
                identity,
            )


_ANGLES = np.linspace(0, 2 * math.pi, 16, endpoint=False)
_SQUIRCLE = np.stack(
    [np.sign(f(_ANGLES)) * np.sqrt(np.abs(f(_ANGLES))) for f in (np.cos, np.sin)], axis=1
)  # between ellipse and rectangle


@dataclass
class Shadow:
    """Darkens the ground under a thing; metres."""

    length: float
    width: float
    strength: float = 0.45

    def draw(self, stage: Stage, position: FloatArray, rotation: FloatArray, identity: int | None) -> None:
        del identity
        w = stage.weather
        sunny = float(np.clip(w.sunlight.mean() * 2.4, 0, 1))
        ground = np.array([position[0], position[1], 0.0])
        slide = -w.sun[:2] / max(0.3, w.sun[2]) * 0.35 * sunny
        if np.linalg.norm(stage.canvas.camera.position - position) > 60:
            return
        for grow, alpha in ((1.0, 0.5), (0.85, 0.5)):
            outline = ground + (_SQUIRCLE * (self.length / 2 * grow, self.width / 2 * grow)) @ rotation[:, :2].T
            outline[:, :2] += slide
            outline[:, 2] = 0.01
            stage.canvas.polygon(outline, (24, 24, 30), None, self.strength * alpha * (0.5 + 0.5 * sunny))


@dataclass
class Flat:
    """A polygon on the ground: (N, 2) outline in the thing's frame, metres."""

    outline: FloatArray
    colour: Colour
    alpha: float = 1.0
    mirror: bool = False  # takes the colour of the sky
    height: float = 0.02

    def draw(self, stage: Stage, position: FloatArray, rotation: FloatArray, identity: int | None) -> None:
        points = position + self.outline @ rotation[:, :2].T
        points[:, 2] = self.height
        distance = float(np.linalg.norm(stage.canvas.camera.position - position))
        colour = np.array(self.colour, float)
        if self.mirror:
            colour = 0.45 * colour + 0.55 * stage.weather.sky_low / np.maximum(stage.average_light, 0.2)
        stage.canvas.polygon(points, stage.canvas.tone(colour, stage.average_light, distance), identity, self.alpha)


@dataclass
class Lamp:
    """A light with a halo, as strong as `always`, or as the night where that is more."""

    colour: Colour
    radius: float
    offset: tuple[float, float, float]
    always: float = 0.0
    facing: float = 0.0  # 1: shines towards +x only, -1: towards -x only

    def draw(self, stage: Stage, position: FloatArray, rotation: FloatArray, identity: int | None) -> None:
        del identity
        strength = max(self.always, stage.weather.night)
        point = position + rotation @ np.array(self.offset)
        if strength > 0.05 and (
            not self.facing or self.facing * float(rotation[:, 0] @ (stage.canvas.camera.position - point)) > 0
        ):
            stage.canvas.glow(point, self.radius, self.colour, strength)


@lru_cache(maxsize=1024)
def _person_texture(seed: int, phase: int, view: str, posture: str, flipped: bool) -> Texture:
    picture = textures.person(np.random.default_rng(seed), phase / 6, view, posture)
    return Texture(np.ascontiguousarray(picture[:, ::-1]) if flipped else picture)


@lru_cache(maxsize=64)
def _lying_texture(seed: int) -> Texture:
    picture = textures.person(np.random.default_rng(seed), 0.1, 'side', 'standing')
    return Texture(np.ascontiguousarray(np.rot90(picture, 1 if seed % 2 else 3)))


@lru_cache(maxsize=64)
def _bicycle_texture(seed: int, side: bool, flipped: bool) -> Texture:
    picture = textures.bicycle(np.random.default_rng(seed), side)
    return Texture(np.ascontiguousarray(picture[:, ::-1]) if flipped else picture)


def _view(stage: Stage, position: FloatArray, rotation: FloatArray) -> tuple[str, bool]:
    """From which side something is seen, and whether it faces left in the picture."""
    to_camera = stage.canvas.camera.position - position
    ahead = float(rotation[:, 0] @ to_camera) / max(1e-6, float(np.linalg.norm(to_camera)))
    if abs(ahead) > 0.8:
        return ('front' if ahead > 0 else 'back'), False
    return 'side', float(rotation[:, 0] @ stage.canvas.camera.axes[0]) < 0


@dataclass
class Figure:
    """A person; `speed` in strides per second, 0 stands still."""

    seed: int
    speed: float = 0.9
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    size: float = 1.0
    posture: str = 'walking'

    def draw(self, stage: Stage, position: FloatArray, rotation: FloatArray, identity: int | None) -> None:
        view, flipped = _view(stage, position, rotation)
        posture = self.posture if self.speed or self.posture == 'riding' else 'standing'
        phase = int(stage.time * self.speed * 6 + self.seed) % 6 if self.speed else 0
        texture = _person_texture(self.seed, phase, view, posture, flipped)
        stage.canvas.sprite(
            texture,
            position + rotation @ np.array(self.offset),
            1.05 * self.size,
            1.875 * self.size,
            identity,
            stage.average_light,
        )


@dataclass
class Lying:
    """A person who lies on the ground, drawn as a card of the body from the side."""

    seed: int

    def draw(self, stage: Stage, position: FloatArray, rotation: FloatArray, identity: int | None) -> None:
        texture = _lying_texture(self.seed)
        lengthwise = abs(float(rotation[:, 0] @ stage.canvas.camera.axes[2]))
        stage.canvas.sprite(
            texture, position, 1.8 * (1 - 0.45 * lengthwise), 0.8 + 0.1 * lengthwise, identity, stage.average_light
        )


@dataclass
class Bicycle:
    """A bicycle, seen from the side or from its ends."""

    seed: int
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    rider: int | None = None

    def draw(self, stage: Stage, position: FloatArray, rotation: FloatArray, identity: int | None) -> None:
        place = position + rotation @ np.array(self.offset)
        view, flipped = _view(stage, position, rotation)
        if self.rider is not None:
            phase = int(stage.time * 8) % 6
            texture = _person_texture(self.rider, phase, view, 'riding' if view == 'side' else 'standing', flipped)
            foot = place + np.array([0, 0, 0.22 if view == 'side' else 0.12])
            if view == 'side':
                stage.canvas.sprite(texture, foot, 1.0, 1.78, identity, stage.average_light)
                stage.canvas.sprite(
                    _bicycle_texture(self.seed, True, flipped), place, 1.75, 1.09, identity, stage.average_light
                )
                return
            stage.canvas.sprite(
                _bicycle_texture(self.seed, False, False), place, 0.44, 1.09, identity, stage.average_light
            )
            stage.canvas.sprite(texture, foot, 1.0, 1.78, identity, stage.average_light)
            return
        side = view == 'side'
        stage.canvas.sprite(
            _bicycle_texture(self.seed, side, side and flipped),
            place,
            1.75 if side else 0.44,
            1.09,
            identity,
            stage.average_light,
        )


@dataclass
class Thing:
    """One thing of the street.

    Attributes:
        name: what it is, e.g. `car`.
        caption: what it is and where or how, e.g. `a car parked at the kerb`.
        parts: drawn in this order.
        s, t: metres along the route (at time 0) and to the right of its centre line.
        z: metres above the ground.
        heading: radians to the left of the route's direction.
        speed: metres per second along the route; negative comes towards us.
        rotation: (3, 3) of the thing itself, before the heading (a car on its side).
        scenario: name of the scenario that it belongs to, '' for none.
        anomalous: it makes the scenario's anomaly.
        length: metres along its heading, for the order of painting.
        active: (from, to) seconds when it exists.
        motion: (time) -> (ds, dt) metres, added to s and t; None: `speed` alone.
    """

    name: str
    caption: str
    parts: Sequence[Part]
    s: float
    t: float
    z: float = 0.0
    heading: float = 0.0
    speed: float = 0.0
    rotation: FloatArray = field(default_factory=lambda: np.eye(3))
    scenario: str = ''
    anomalous: bool = False
    active: tuple[float, float] = (-math.inf, math.inf)
    motion: Callable[[float], tuple[float, float]] | None = None
    depth_bias: float = 0.0

    def place(self, time: float) -> tuple[float, float]:
        """(s, t) at a time in seconds."""
        if self.motion is not None:
            ds, dt = self.motion(time)
            return self.s + ds, self.t + dt
        return self.s + self.speed * time, self.t


# -- makers: parts of common things


def paints(base: Colour, second: Colour | None = None) -> dict[str, Colour]:
    """Named colours of a mesh."""
    return {
        'paint': base,
        'second': second or textures.shade(base, 0.7),
        'line': textures.shade(base, 0.66),
        'light': textures.shade(base, 1.2),
        'rim': RIM,
    }


def vehicle_parts(rng: np.random.Generator, kind: str, lights: bool = True, shadow: bool = True) -> list[Part]:
    """A vehicle of `models.VEHICLES` in a random paint."""
    base = CAR_PAINTS[rng.integers(len(CAR_PAINTS))]
    if kind == 'van' and rng.random() < 0.6:
        base = (226, 226, 222)
    second: Colour = (236, 236, 232) if kind == 'truck' and rng.random() < 0.5 else textures.random_colour(rng, 60, 230)
    length = LENGTHS[kind]
    width = 2.45 if kind in ('bus', 'truck') else 1.85
    parts: list[Part] = [Shadow(length * 1.08, width * 1.18)] if shadow else []
    parts.append(Solid(vehicle(kind), paints(base, second)))
    if lights:
        for y in (-0.65, 0.65):
            parts.append(Lamp((255, 244, 210), 0.9, (length / 2, y, 0.72), facing=1))
            parts.append(Lamp((220, 30, 24), 0.5, (-length / 2, y, 0.8), facing=-1))
    return parts


def traffic_light(state: str) -> list[Part]:
    """Pole and lamps that face -x... the traffic that drives along +x; state: red, amber or green."""
    dark: dict[str, Colour] = {'red': (60, 16, 16), 'amber': (64, 48, 12), 'green': (14, 52, 26)}
    bright: dict[str, Colour] = {'red': (255, 50, 40), 'amber': (255, 186, 40), 'green': (60, 240, 130)}
    colours = {name: bright[name] if name == state else dark[name] for name in dark}
    z = {'green': 0.17, 'amber': 0.5, 'red': 0.83}[state]
    back = turn(math.pi)
    return [
        Shadow(0.5, 0.5, 0.3),
        Pole(2.5, 0.06, (70, 74, 74)),
        Solid(solid('lamp'), colours, (0, 0, 2.5), back),
        Lamp(bright[state], 0.38, (-0.15, 0, 2.5 + z), always=0.55, facing=-1),
    ]


def sign(texture: Texture, size: float = 0.75, height: float = 2.1) -> list[Part]:
    """A traffic sign on its pole, facing the traffic that drives along +x."""
    return [
        Shadow(0.4, 0.4, 0.25),
        Pole(height + size, 0.035, (150, 152, 154)),
        Board(texture, size, size, (-0.05, 0, height), turn(math.pi)),
    ]


@lru_cache(maxsize=64)
def sign_texture(name: str) -> Texture:
    """`stop`, `warning`, or a speed limit as a number."""
    if name == 'stop':
        return Texture(textures.stop_sign())
    return Texture(textures.warning_sign() if name == 'warning' else textures.speed_sign(int(name)))


def hoarding(picture: Texture, width: float = 4.8, bottom: float = 1.9) -> list[Part]:
    """A billboard on two posts, facing the traffic that drives along +x."""
    height = width * 144 / 256
    return [
        Shadow(0.8, width, 0.25),
        Pole(bottom + 0.2, 0.09, (86, 86, 90), (0, -width * 0.3, 0)),
        Pole(bottom + 0.2, 0.09, (86, 86, 90), (0, width * 0.3, 0)),
        Board(picture, width, height, (-0.1, 0, bottom), turn(math.pi)),
    ]


def furniture(rng: np.random.Generator, kind: str) -> list[Part]:
    """A solid of `models.solid` with its shadow."""
    wood = textures.random_colour(rng, 60, 200)
    size = {'sofa': 2.2, 'table': 1.7, 'mattress': 1.8, 'barrier': 1.9}.get(kind, 0.9)
    return [Shadow(min(size, 1.2), size, 0.4), Solid(solid(kind), paints(wood))]
