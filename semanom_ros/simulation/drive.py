"""The simulated drive: a camera on a vehicle that drives through a town."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from semanom_ros.simulation import textures, weather
from semanom_ros.simulation.camera_faults import CameraFault, splash, through_mud
from semanom_ros.simulation.catalogue import CATALOGUE, Scenario
from semanom_ros.simulation.painter import NEAR, Camera, Canvas, FloatArray, Picture, Texture, clip_near
from semanom_ros.simulation.scenarios import stage
from semanom_ros.simulation.textures import HALF_STREET, TILE_LENGTH
from semanom_ros.simulation.things import Stage, Thing
from semanom_ros.simulation.town import (
    BLOCK,
    BUILDING,
    FIRST_THING,
    LANE,
    SKY,
    SURFACES,
    VERGE,
    Block,
    House,
    Town,
    Wanted,
    ground_outline,
)
from semanom_ros.simulation.weather import Weather

WIDTH, HEIGHT, FOCAL = 640, 360, 500.0
RATE = 10.0  # frames per second
START_NS = 1_700_000_000_000_000_000
CAMERA_HEIGHT = 1.45
VIEW = 115.0  # metres that are drawn
MIN_PIXELS = 150  # an anomaly of fewer pixels in all is too far away to count: ignored
WEATHER_BLOCKS = 5.0  # blocks that a weather lasts


@dataclass(frozen=True)
class Instance:
    """One thing in a frame.

    Attributes:
        name: what it is, e.g. `car`.
        caption: what it is and where or how, e.g. `a car lying on its side on the road`.
        anomalous: it is an anomaly, or a part of one.
        scenario: the scenario that it belongs to, '' for none.
    """

    name: str
    caption: str
    anomalous: bool
    scenario: str


@dataclass(frozen=True)
class SimulatedFrame:
    """One picture with all that is known about it.

    Attributes:
        image: (360, 640, 3) uint8 RGB.
        stamp_ns: time in nanoseconds, 0.1 s apart.
        anomaly_mask: (360, 640) uint8; 255 anomalous, 0 nominal, 128 ignore (an anomaly
            that is still too small to count: fewer than MIN_PIXELS pixels in all).
        instance_ids: (360, 640) uint16; 0 is no thing (sky, ground, houses).
        surfaces: (360, 640) uint8, where no thing is: index into `SURFACES`; 0 elsewhere.
        instances: what each id is.
        distances: of each id, metres along the optical axis to its nearest corner.
        scenarios: names of the anomalies whose pixels are marked in this frame.
        twins: names of the nominal twins that are in view.
        weather: the weather's name.
        position: (3,) camera in the world, metres: x east, y north, z up.
        axes: (3, 3) rows right, down, forward of the optical frame in the world.
        ego: (x, y, yaw) of the vehicle on the ground.
        speed: of the vehicle, metres per second.
    """

    image: npt.NDArray[np.uint8]
    stamp_ns: int
    anomaly_mask: npt.NDArray[np.uint8]
    instance_ids: npt.NDArray[np.uint16]
    surfaces: npt.NDArray[np.uint8]
    instances: dict[int, Instance]
    distances: dict[int, float]
    scenarios: tuple[str, ...]
    twins: tuple[str, ...]
    weather: str
    position: FloatArray
    axes: FloatArray
    ego: tuple[float, float, float]
    speed: float


class Drive:
    """One drive: plans the street ahead, moves the camera, draws frames.

    Args:
        seed: decides weather, traffic and order of the scenarios; and the town with its route, unless that is given.
        anomalies: whether anomalies happen; their nominal twins happen in any drive.
        weather_choice: one of `weather.CHOICES`.
        scenarios: the only scenarios to stage; default all of the catalogue.
        town: seed of the town that is driven through, at another time; None: that of the drive.
        fault: what is wrong with the camera.
        mount: degrees to the right of straight ahead that it looks.
    """

    def __init__(
        self,
        seed: int,
        anomalies: bool,
        weather_choice: str = 'mixed',
        scenarios: tuple[Scenario, ...] = CATALOGUE,
        town: int | None = None,
        fault: CameraFault | None = None,
        mount: float = 0.0,
    ):
        self._seed = seed
        self._fault = fault or CameraFault()
        self._mount = mount
        self.town = Town(seed) if town in (None, seed) else Town(town, traffic=seed)
        self.anomalies = anomalies
        self._camera = Camera(WIDTH, HEIGHT, FOCAL)
        self._order = weather.schedule(weather_choice, self._rng(10))
        self._noise = weather.lens_noise(self._rng(11), HEIGHT, WIDTH)
        self._plan = _Plan(self._rng(12), scenarios, anomalies)
        self._motion = _Motion(self._rng(13))
        self._blocks: dict[int, Block] = {}
        self._ground: dict[int, list[_Pavement]] = {}
        self._panorama = _Panorama(self._rng(14))
        self._sensor = self._rng(15)
        self._identities: dict[int, int] = {}
        self._next_identity = FIRST_THING
        self._streaks = _rain_streaks(self._rng(16))
        self._mud = splash(self._rng(17), HEIGHT, WIDTH, self._fault.dirt)
        y, x = np.mgrid[-1 : 1 : HEIGHT * 1j, -1 : 1 : WIDTH * 1j]
        self._vignette = np.ascontiguousarray(
            np.repeat((1 - 0.16 * (x**2 + y**2) / 2)[..., None], 3, axis=2).astype(np.float32)
        )

    def _rng(self, purpose: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, purpose])

    def block(self, index: int) -> Block:
        """A block of the street, planned when it is first seen."""
        if index not in self._blocks:
            scenario, anomalous = self._plan.at(index)
            time = self._motion.time_at(index * BLOCK)
            night = weather.at(self._order, max(0.0, index / WEATHER_BLOCKS)).night
            if scenario is None:
                self._blocks[index] = self.town.block(
                    index, time, Wanted(clear_road=index < 1, junction='none' if index < 1 else ''), night
                )
            else:
                staging = stage(self.town, scenario, anomalous, index * BLOCK + BLOCK * 0.5, self._motion, index)
                block = self.town.block(index, time, staging.wanted, night)
                block.things += staging.things
                self._blocks[index] = block
                if staging.swerve:
                    self._motion.swerve(index * BLOCK + BLOCK * 0.5, staging.swerve)
            for old in [k for k in self._blocks if k < index - 12]:
                self._ground.pop(old, None)
                for thing in self._blocks.pop(old).things:
                    self._identities.pop(id(thing), None)
        return self._blocks[index]

    def time_at(self, s: float) -> float:
        """Seconds from the start at which the camera is s metres along its route."""
        return self._motion.time_at(s)

    def frame(self, number: int) -> SimulatedFrame:
        """Draws a frame; numbers must not decrease."""
        time = number / RATE
        s = self._motion.position(time)
        first = math.floor((s - 20) / BLOCK)
        blocks = [self.block(k) for k in range(first, math.floor((s + VIEW) / BLOCK) + 1)]
        air = weather.at(self._order, max(0.0, s / BLOCK / WEATHER_BLOCKS))
        ego = self._look(time, s)
        canvas = Canvas(self._camera, air.fog, (air.sky_low[0], air.sky_low[1], air.sky_low[2]))
        self._draw_sky(canvas, air)
        self._draw_ground(canvas, blocks, s, air)
        scene = Stage(canvas, air, time)
        shown = self._draw_things(scene, blocks, s, time)
        return self._finish(canvas, air, number, shown, ego, s)

    # -- camera

    def _look(self, time: float, s: float) -> tuple[float, float, float]:
        motion, route = self._motion, self.town.route
        t = motion.lateral(s)
        yaw = route.centre(s)[2] - 0.6 * math.atan(motion.lateral(s + 1.0) - t) + 0.35 * route.curvature(s + 6)
        heave, pitch, roll = motion.bumps(time)
        turn = math.radians(self._mount + (self._fault.turn if time >= self._fault.start else 0.0))
        position = route.point(s, t, CAMERA_HEIGHT + heave)
        self._camera.look(position, yaw - turn, pitch - 0.015, roll - 1.2 * route.curvature(s) * 0.3)
        return float(position[0]), float(position[1]), yaw

    # -- drawing

    def _draw_sky(self, canvas: Canvas, air: Weather) -> None:
        camera = self._camera
        forward = camera.axes[2]
        scale = camera.supersampling
        horizon = (camera.height / 2 + camera.focal * forward[2] / math.hypot(forward[0], forward[1])) * scale
        row = int(np.clip(round(horizon), 1, canvas.ids.shape[0] - 1))
        canvas.image[:row] = self._panorama.view(air, math.atan2(forward[1], forward[0]), camera, row, horizon)
        below = canvas.tone(self.town.verge, air.ambient + air.sunlight * 0.6, 60)
        cv2.rectangle(canvas.image, (0, row), (canvas.ids.shape[1], canvas.ids.shape[0]), below, -1)
        canvas.ids[:row], canvas.ids[row:] = SKY, VERGE

    def _draw_ground(self, canvas: Canvas, blocks: list[Block], s: float, air: Weather) -> None:
        light = (air.ambient + air.sunlight * max(0.25, air.sun[2])) * (1 - 0.28 * air.rain)
        for block in reversed(blocks):
            if block.index not in self._ground:
                self._ground[block.index] = self._pave(block)
            for piece in self._ground[block.index]:
                if s - 1 < piece.far and piece.near < s + VIEW:
                    piece.draw(canvas, light)
        self._fog_on_ground(canvas, air)

    def _pave(self, block: Block) -> list[_Pavement]:
        """Its ground, far to near; in bends of short pieces, each flat and straight, that follow the curve."""
        route = self.town.route
        pieces = []
        for k in reversed(range(len(block.tiles))):
            options = self.town.tiles[block.tiles[k]]
            texture = options[(block.index * 7 + k) % len(options)]
            a = block.index * BLOCK + k * TILE_LENGTH
            count = 1 if abs(route.centre(a + TILE_LENGTH)[2] - route.centre(a)[2]) < 0.004 else 4
            for j in reversed(range(count)):
                length = TILE_LENGTH / count
                near, far = a + length * j, a + length * (j + 1)
                margin = length * 0.3 if count > 1 else 0.0  # texture beyond the ends, for the outer side of a bend
                top, bottom = (
                    max(0.0, 1 - (far + margin - a) / TILE_LENGTH),
                    min(1.0, 1 - (near - margin - a) / TILE_LENGTH),
                )
                bands = [(-HALF_STREET, HALF_STREET, VERGE), *ground_outline(block.tiles[k])]
                points = np.array(
                    [
                        route.point(*end)
                        for left, right, _ in bands
                        for end in ((far, left), (far, right), (near, right), (near, left))
                    ]
                )
                x, y, yaw = route.centre((near + far) / 2)
                forward, right = (
                    np.array([math.cos(yaw), math.sin(yaw), 0]),
                    np.array([math.sin(yaw), -math.cos(yaw), 0]),
                )
                origin = (
                    np.array([x, y, 0])
                    + forward * (a + TILE_LENGTH * (1 - top) - (near + far) / 2)
                    - right * HALF_STREET
                )
                pieces.append(
                    _Pavement(
                        texture,
                        near,
                        far,
                        top,
                        bottom,
                        points,
                        tuple(band[2] for band in bands),
                        origin,
                        right * 2 * HALF_STREET,
                        -forward * TILE_LENGTH * (bottom - top),
                    )
                )
        return pieces

    def _fog_on_ground(self, canvas: Canvas, air: Weather) -> None:
        height = canvas.ids.shape[0]
        rows = np.arange(height)
        camera = self._camera
        scale = camera.supersampling
        angle = np.arctan((rows - height / 2) / (camera.focal * scale)) - math.asin(
            float(np.clip(camera.axes[2, 2], -1, 1))
        )
        below = angle > 1e-3
        share = np.where(below, 1 - np.exp(-air.fog * CAMERA_HEIGHT / np.sin(np.maximum(angle, 1e-3))), 0)
        top = int(np.argmax(below))
        if share[top:].max() < 0.02:
            return
        air_row = np.empty((2, canvas.image.shape[1], 3), np.uint8)
        air_row[:] = np.clip(canvas.fog_colour, 0, 255).astype(np.uint8)
        for row in range(top, height - 1, 2):
            if share[row] < 0.02:
                break
            pair = canvas.image[row : row + 2]
            cv2.addWeighted(pair, 1 - share[row], air_row, share[row], 0, dst=pair)

    def _draw_things(self, scene: Stage, blocks: list[Block], s: float, time: float) -> dict[int, Thing]:
        route, camera = self.town.route, self._camera
        queue: list[tuple[float, int, House | Thing]] = []
        for block in blocks:
            for house in block.houses:
                depths = camera.to_camera(house.corners[:2])[:, 2]
                if depths.max() > 1 and house.s - s < VIEW:
                    queue.append((float(depths.max()) + (1 if abs(house.t) < 20 else 12), len(queue), house))
        for block in self._blocks.values():
            for thing in block.things:
                if not thing.active[0] <= time <= thing.active[1]:
                    continue
                along, t = thing.place(time)
                if not s - 8 < along < s + VIEW:
                    continue
                depth = float(camera.to_camera(route.point(along, t)[None])[0, 2])
                queue.append((depth + thing.depth_bias, len(queue), thing))
        shown: dict[int, Thing] = {}
        for _, _, item in sorted(queue, key=lambda entry: (-entry[0], entry[1])):
            if isinstance(item, House):
                item.draw(scene, BUILDING)
                continue
            identity = self._identify(item)
            along, t = item.place(time)
            position = route.point(along, t, item.z)
            heading = route.centre(along)[2] + item.heading
            cos, sin = math.cos(heading), math.sin(heading)
            rotation = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1.0]]) @ item.rotation
            for part in item.parts:
                part.draw(scene, position, rotation, identity)
            shown[identity] = item
        return shown

    def _identify(self, thing: Thing) -> int:
        key = id(thing)
        if key not in self._identities:
            self._identities[key] = self._next_identity
            self._next_identity = FIRST_THING + (self._next_identity + 1 - FIRST_THING) % (65535 - FIRST_THING)
        return self._identities[key]

    # -- the sensor

    def _finish(
        self,
        canvas: Canvas,
        air: Weather,
        number: int,
        shown: dict[int, Thing],
        ego: tuple[float, float, float],
        s: float,
    ) -> SimulatedFrame:
        scale = self._camera.supersampling
        ids = np.ascontiguousarray(canvas.ids[scale // 2 :: scale, scale // 2 :: scale])
        image = cv2.resize(canvas.image, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
        present = set(np.unique(ids[ids >= FIRST_THING]).tolist())
        if air.rain > 0.05:
            image = self._wet(image, ids, air.rain, number)
        if self._fault.dirt and number >= self._fault.start * RATE:
            image = through_mud(image, self._mud)
        image = self._expose(image, air, number, s)
        mask = np.zeros(ids.shape, np.uint8)
        anomalous = [k for k in present if shown[k].anomalous]
        scenarios: tuple[str, ...] = ()
        if anomalous:
            marked: dict[str, npt.NDArray[np.bool_]] = {}
            for k in anomalous:
                name = shown[k].scenario
                marked[name] = marked.get(name, np.zeros(ids.shape, bool)) | (ids == k)
            for name, pixels in marked.items():
                large = int(pixels.sum()) >= MIN_PIXELS
                mask[pixels] = 255 if large else 128
                scenarios += (name,) if large else ()
        twins = tuple(
            sorted(
                {shown[k].scenario for k in present if shown[k].scenario and not shown[k].anomalous} - set(scenarios)
            )
        )
        things = ids >= FIRST_THING
        instances = {
            k: Instance(shown[k].name, shown[k].caption, shown[k].anomalous, shown[k].scenario) for k in sorted(present)
        }
        name = self._order[int(max(0.0, s / BLOCK / WEATHER_BLOCKS) + 0.1) % len(self._order)]
        return SimulatedFrame(
            np.asarray(image, np.uint8),
            START_NS + round(number * 1e9 / RATE),
            mask,
            np.where(things, ids, 0).astype(np.uint16),
            np.where(things, 0, ids).astype(np.uint8),
            instances,
            {k: canvas.depths[k] for k in sorted(present)},
            tuple(sorted(scenarios)),
            twins,
            name,
            self._camera.position.copy(),
            self._camera.axes.copy(),
            ego,
            self._motion.speed(number / RATE),
        )

    def _wet(self, image: Picture, ids: npt.NDArray[np.uint16], rain: float, number: int) -> Picture:
        """Reflections on the wet ground, and streaks of rain."""
        forward = self._camera.axes[2]
        horizon = int(np.clip(HEIGHT / 2 + FOCAL * forward[2] + 4, 20, HEIGHT - 20))
        rows = np.arange(horizon, HEIGHT)
        mirrored = image[np.clip(2 * horizon - rows, 0, HEIGHT - 1)]
        mirrored = cv2.blur(mirrored, (5, 23))
        ground = (ids[horizon:] > SKY) & (ids[horizon:] < BUILDING)
        blended = cv2.addWeighted(image[horizon:], 1 - 0.42 * rain, mirrored, 0.42 * rain, 0)
        cv2.copyTo(blended, ground.astype(np.uint8), image[horizon:])
        k = number % len(self._streaks)
        shift = (number * 97) % WIDTH
        return cv2.add(image, np.roll((self._streaks[k] * rain).astype(np.uint8), shift, axis=1))

    def _expose(self, image: Picture, air: Weather, number: int, s: float) -> Picture:
        """Exposure drift, vignette, motion blur and noise."""
        time = number / RATE
        gain = 1.0 + 0.05 * math.sin(0.37 * time + 1) + 0.04 * math.sin(1.3 * time) + 0.18 * air.night
        turned = abs(self.town.route.curvature(s)) * self._motion.speed(time)
        shutter = 0.012 + 0.02 * air.night
        blur = round(turned * shutter * FOCAL + 1 + air.night)
        if blur > 1:
            image = cv2.blur(image, (min(blur, 7), 1))
        lit = cv2.multiply(image, self._vignette * np.float32(gain), dtype=cv2.CV_16S)
        strength = 2.0 + 3.0 * air.night + 1.0 * air.rain
        grain = self._noise[number % len(self._noise)]
        dy, dx = self._sensor.integers(0, HEIGHT), self._sensor.integers(0, WIDTH)
        grain = np.roll(grain, (dy, dx), axis=(0, 1))
        return np.clip(cv2.addWeighted(lit, 1, grain, strength / 16, 0), 0, 255).astype(np.uint8)


@dataclass
class _Pavement:
    """A flat piece of the ground.

    Attributes:
        texture: of the whole tile.
        near, far: metres along the route.
        top, bottom: which part of the texture's height is used, 0 to 1.
        points: (4 N, 3) corners of the piece, then of each band of it.
        surfaces: N identities.
        origin, along, down: where the used part of the texture lies in the world.
    """

    texture: Texture
    near: float
    far: float
    top: float
    bottom: float
    points: FloatArray
    surfaces: tuple[int, ...]
    origin: FloatArray
    along: FloatArray
    down: FloatArray

    def draw(self, canvas: Canvas, light: FloatArray) -> None:
        """Draws picture and identities."""
        camera = canvas.camera
        corners = camera.to_camera(self.points)
        ahead = corners[:, 2].min() >= NEAR
        outline = corners[:4] if ahead else clip_near(corners[:4])
        if len(outline) < 3:
            return
        pixels = camera.to_pixels(outline)
        low, high = pixels.min(0), pixels.max(0)
        if low[1] >= canvas.ids.shape[0] or high[0] < 0 or low[0] >= canvas.ids.shape[1]:
            return
        texels = self.texture.level(high[0] - low[0], (high[1] - low[1]) / (self.bottom - self.top))
        first = min(round(len(texels) * self.top), len(texels) - 1)
        used = texels[first : max(first + 1, round(len(texels) * self.bottom))]
        canvas.ground(used, self.origin, self.along, self.down, pixels, light)
        for k, surface in enumerate(self.surfaces[1:], 1):
            if surface == VERGE:  # is there already
                continue
            band = corners[4 * k : 4 * k + 4] if ahead else clip_near(corners[4 * k : 4 * k + 4])
            if len(band) >= 3:
                cv2.fillConvexPoly(
                    canvas.ids, np.rint(np.clip(camera.to_pixels(band), -20000, 20000)).astype(np.int32), float(surface)
                )


class _Plan:
    """Which scenario each block holds.

    Nominal drives: a twin, then nothing of note, in turn. Others: an anomaly, the twin of
    another one, then nothing of note.
    """

    def __init__(self, rng: np.random.Generator, scenarios: tuple[Scenario, ...], anomalies: bool):
        self._rng, self._scenarios, self._anomalies = rng, scenarios, anomalies
        self._anomaly_order: list[int] = []
        self._twin_order: list[int] = []

    def at(self, index: int) -> tuple[Scenario | None, bool]:
        """(scenario or None, whether it is the anomaly and not its twin)."""
        if index < 2 or not self._scenarios:
            return None, False
        if not self._anomalies:
            twin = self._scenarios[self._pick(self._twin_order, (index - 2) // 2)]
            return (twin, False) if index % 2 == 0 else (None, False)
        turn, part = divmod(index - 2, 3)
        if part == 2:
            return None, False
        order = self._anomaly_order if part == 0 else self._twin_order
        return self._scenarios[self._pick(order, turn)], part == 0

    def _pick(self, order: list[int], k: int) -> int:
        while len(order) <= k:
            order += self._rng.permutation(len(self._scenarios)).tolist()
        return order[k]


class _Motion:
    """How the vehicle moves along its route."""

    def __init__(self, rng: np.random.Generator):
        self._phases = rng.uniform(0, 2 * math.pi, 8)
        self._rough = rng.standard_normal(4096)
        self._swerves: list[tuple[float, float]] = []
        self._mean = float(rng.uniform(7.6, 9.0))

    def speed(self, time: float) -> float:
        """m/s."""
        p = self._phases
        return self._mean + 0.9 * math.sin(0.23 * time + p[0]) + 0.6 * math.sin(0.11 * time + p[1])

    def position(self, time: float) -> float:
        """Metres along the route: the integral of the speed."""
        p = self._phases
        return (
            4.0
            + self._mean * time
            - 0.9 / 0.23 * (math.cos(0.23 * time + p[0]) - math.cos(p[0]))
            - 0.6 / 0.11 * (math.cos(0.11 * time + p[1]) - math.cos(p[1]))
        )

    def time_at(self, s: float) -> float:
        """When it is at s."""
        time = s / self._mean
        for _ in range(12):
            time -= (self.position(time) - s) / self.speed(time)
        return time

    def swerve(self, s: float, shift: float) -> None:
        """Pass something at s by `shift` metres to the right (negative: left)."""
        self._swerves.append((s, shift))

    def lateral(self, s: float) -> float:
        """Metres to the right of the centre line."""
        p = self._phases
        t = LANE - 0.1 + 0.16 * math.sin(0.061 * s + p[2]) + 0.1 * math.sin(0.023 * s + p[3])
        for place, shift in self._swerves:
            t += shift * _bump((s - place) / 20.0)
        return t

    def bumps(self, time: float) -> tuple[float, float, float]:
        """Heave in metres, pitch and roll in radians."""
        p = self._phases
        s = self.position(time)
        k = int(s / 0.8)
        f = s / 0.8 - k
        rough = float((1 - f) * self._rough[k % 4096] + f * self._rough[(k + 1) % 4096])
        return (
            0.012 * math.sin(7.1 * time + p[4]) + 0.008 * rough,
            0.003 * math.sin(6.3 * time + p[5]) + 0.0028 * rough,
            0.005 * math.sin(3.9 * time + p[6]),
        )


def _bump(x: float) -> float:
    """1 near 0, smoothly 0 beyond -1 and 1."""
    a = min(1.0, max(0.0, (1 - abs(x)) / 0.75))
    return a * a * (3 - 2 * a)


class _Panorama:
    """Sky, clouds and the far town all round."""

    ROWS, COLUMNS, TOP = 190, 2048, 0.50  # TOP: elevation of the first row, radians

    def __init__(self, rng: np.random.Generator):
        base = textures.noise(rng, self.ROWS, self.COLUMNS, 48) + 0.5 * textures.noise(rng, self.ROWS, self.COLUMNS, 20)
        base += 0.25 * textures.noise(rng, self.ROWS, self.COLUMNS, 8)
        blend = np.linspace(0, 1, 200, dtype=np.float32)
        base[:, -200:] = base[:, -200:] * (1 - blend) + base[:, :1] * blend  # closes the circle
        self._clouds = base
        self._rng = rng
        self._backdrop = textures.backdrop(rng, (200, 200, 200)).astype(np.float32)
        self._made: tuple[bytes, Picture] | None = None

    def _picture(self, air: Weather) -> Picture:
        key = np.concatenate([air.sky_top, air.sky_low, [air.clouds, air.fog]]).round(1).tobytes()
        if self._made is None or self._made[0] != key:
            height = np.linspace(1, 0, self.ROWS, dtype=np.float32)[:, None, None] ** 0.7
            sky = air.sky_low * (1 - height) + air.sky_top * height
            cover = np.clip(self._clouds * 1.6 + (air.clouds - 0.6) * 2.2, 0, 1)[..., None] * np.minimum(
                1, height * 2.5
            )
            bright = air.sky_low * 0.55 + 255 * 0.45 * float(np.clip(air.ambient.mean() + 0.25, 0, 1))
            relief = 1 - 0.12 * np.clip(self._clouds, -1, 1.5)[..., None]
            sky = sky * (1 - cover * 0.85) + bright * relief * cover * 0.85
            far = self._backdrop
            haze = 1 - math.exp(-air.fog * 260)
            alpha = far[..., 3:] / 255
            tint = far[..., :3] / 200 * (air.sky_low * 0.25 + air.ambient * 110) * (1 - haze) + air.sky_low * haze
            window = sky[-len(far) :]
            window[:] = window * (1 - alpha) + tint * alpha
            made = np.clip(sky, 0, 255).astype(np.uint8)
            self._made = key, np.hstack([made[:, -400:], made, made[:, :400]])  # room to turn past its ends
        return self._made[1]

    def view(self, air: Weather, yaw: float, camera: Camera, rows: int, horizon: float) -> Picture:
        """(rows, W, 3): what is above the horizon."""
        picture = self._picture(air)
        width = camera.width * camera.supersampling
        per_radian = self.COLUMNS / (2 * math.pi)
        across = 2 * math.atan(camera.width / 2 / camera.focal) * per_radian / width
        up = self.ROWS / self.TOP / (camera.focal * camera.supersampling)
        centre = (-yaw * per_radian) % self.COLUMNS
        # the sky has no fine detail: half of the resolution is enough
        matrix = np.array(
            [[2 * across, 0, centre + 400 - across * width / 2], [0, 2 * up, self.ROWS - 1 - horizon * up]]
        )
        half = cv2.warpAffine(
            picture,
            matrix,
            (width // 2, rows // 2 + 1),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        return cv2.resize(half, (width, 2 * (rows // 2 + 1)), interpolation=cv2.INTER_LINEAR)[:rows]


def _rain_streaks(rng: np.random.Generator) -> list[Picture]:
    pictures = []
    for _ in range(6):
        picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        for _ in range(170):
            x, y, length = rng.uniform(0, WIDTH), rng.uniform(-20, HEIGHT), rng.uniform(8, 34)
            tone = int(rng.integers(14, 46))
            cv2.line(
                picture,
                (round(x), round(y)),
                (round(x + length * 0.12), round(y + length)),
                (tone, tone, tone),
                1,
                cv2.LINE_AA,
            )
        pictures.append(picture)
    return pictures


def simulate(
    seed: int,
    frames: int,
    anomalies: bool,
    *,
    weather: str = 'mixed',
    scenarios: tuple[str, ...] | None = None,
    every: int = 1,
    town: int | None = None,
    mount: float = 0.0,
    fault: CameraFault | None = None,
) -> Iterator[SimulatedFrame]:
    """A simulated drive, frame by frame.

    Args:
        seed: the same seed gives the same bytes; another one another town, route and traffic.
        frames: how many, 10 for a second unless `every` says otherwise.
        anomalies: whether anomalies happen. Their nominal twins happen in any drive.
        weather: `mixed` (all of them in turn), `sun`, `dusk`, `rain` or `fog`.
        scenarios: names of the catalogue to stage; None: all, in an order of the seed.
        every: draw only every so manieth frame of the drive: more street in fewer pictures.
        town: seed of the town; the drive goes through it at another time, with other traffic and weather. None: `seed`.
        mount: degrees to the right of straight ahead that the camera looks.
        fault: what is wrong with the camera; None: nothing.

    Raises:
        ParameterError: unknown weather or scenario.
    """
    from semanom_ros.simulation.catalogue import named

    chosen = CATALOGUE if scenarios is None else tuple(named(name) for name in scenarios)
    drive = Drive(seed, anomalies, weather, chosen, town, fault, mount)
    for number in range(frames):
        yield drive.frame(number * every)


__all__ = [
    'CAMERA_HEIGHT',
    'FOCAL',
    'HEIGHT',
    'RATE',
    'SURFACES',
    'WIDTH',
    'Drive',
    'Instance',
    'SimulatedFrame',
    'simulate',
]
