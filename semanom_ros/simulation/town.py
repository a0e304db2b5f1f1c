"""The town: its route, its ground, its houses and what is usual in its street."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from semanom_ros.simulation import textures
from semanom_ros.simulation.meshes import CARS, LENGTHS, solid
from semanom_ros.simulation.painter import Colour, FloatArray, Texture
from semanom_ros.simulation.textures import HALF_STREET, KERB_EDGE, PAVEMENT_EDGE, ROAD_EDGE, TILE_LENGTH
from semanom_ros.simulation.things import (
    Bicycle,
    Board,
    Card,
    Figure,
    Lamp,
    Pole,
    Shadow,
    Solid,
    Stage,
    Thing,
    hoarding,
    paints,
    sign,
    sign_texture,
    traffic_light,
    vehicle_parts,
)

BLOCK = 35.0  # metres of route planned at a time
SURFACES = ('', 'sky', 'road', 'pavement', 'verge', 'building')  # identities below FIRST_THING
SKY, ROAD, PAVEMENT, VERGE, BUILDING = range(1, 6)
FIRST_THING = 16
LANE = 1.75
STEP = 0.5


class Route:
    """A street that winds through the town, as long as it is asked for.

    Args:
        rng: decides its bends.
    """

    def __init__(self, rng: np.random.Generator):
        self._rng = rng
        self._x, self._y, self._yaw, self._curvature = [0.0], [0.0], [0.0], [0.0]
        self._bend(50, 0.0)

    def _bend(self, length: float, angle: float) -> None:
        n = round(length / STEP)
        for k in range(n):
            curvature = angle / length * (1 - math.cos(2 * math.pi * (k + 0.5) / n))
            yaw = self._yaw[-1] + curvature * STEP
            middle = (yaw + self._yaw[-1]) / 2
            self._x.append(self._x[-1] + STEP * math.cos(middle))
            self._y.append(self._y[-1] + STEP * math.sin(middle))
            self._yaw.append(yaw)
            self._curvature.append(curvature)

    def _reach(self, s: float) -> int:
        while (len(self._x) - 2) * STEP < s:
            self._bend(self._rng.uniform(25, 70), 0.0)
            angle = self._rng.uniform(0.25, 1.35) * self._rng.choice((-1, 1))
            self._bend(abs(angle) * self._rng.uniform(60, 95) + 12, angle)  # smallest radius about 30 m
        return max(0, min(int(s / STEP), len(self._x) - 2))

    def centre(self, s: float) -> tuple[float, float, float]:
        """x, y in metres and heading in radians of the centre line; straight on before its start."""
        k = self._reach(s)
        f = s / STEP - k
        return (
            self._x[k] + f * (self._x[k + 1] - self._x[k]),
            self._y[k] + f * (self._y[k + 1] - self._y[k]),
            self._yaw[k] + max(0.0, f) * (self._yaw[k + 1] - self._yaw[k]),
        )

    def point(self, s: float, t: float, z: float = 0.0) -> FloatArray:
        """(3,) world position."""
        x, y, yaw = self.centre(s)
        return np.array([x + t * math.sin(yaw), y - t * math.cos(yaw), z])

    def curvature(self, s: float) -> float:
        """1/m, positive to the left."""
        return self._curvature[self._reach(s)]


@dataclass
class House:
    """One building; its front stands along the street."""

    front: Texture
    height: float
    wall: Colour
    roof: Colour
    pitched: bool
    corners: FloatArray  # (4, 3): front left and right as seen from the street, back right and left, at the ground
    s: float
    t: float

    def draw(self, stage: Stage, identity: int) -> None:
        """Draws its visible sides."""
        canvas = stage.canvas
        eye = canvas.camera.position
        a, b, c, d = self.corners
        up = np.array([0, 0, self.height])
        distance = float(np.linalg.norm((a + b) / 2 - eye))
        inward = (c + d) / 2 - (a + b) / 2
        inward = inward / np.linalg.norm(inward)
        along = (b - a) / np.linalg.norm(b - a)
        for p, q, normal in ((b, c, along), (d, a, -along)):
            if normal @ (eye - p) > 0:
                tone = canvas.tone(self.wall, stage.light(normal) * 0.9, distance)
                canvas.polygon(np.array([p, q, q + up, p + up]), tone, identity)
                if self.pitched:
                    ridge = (p + q) / 2 + up + (0, 0, 2.6)
                    canvas.polygon(np.array([p + up, q + up, ridge]), tone, identity)
        if self.pitched:
            ridge = (inward * 4.0) + (0, 0, self.height + 2.6)
            eaves = inward * -0.3 + (0, 0, self.height - 0.1)
            slope = stage.light(np.array([-inward[0] * 0.55, -inward[1] * 0.55, 0.83]))
            canvas.polygon(
                np.array([a + eaves, b + eaves, b + ridge, a + ridge]),
                canvas.tone(self.roof, slope, distance),
                identity,
            )
        canvas.quad(self.front, a + up, b - a, -up, identity, stage.light(-inward))


@dataclass
class Block:
    """BLOCK metres of the street.

    Attributes:
        index: its place along the route.
        tiles: kinds of its ground tiles, in the route's order.
        houses, things: what is in it.
    """

    index: int
    tiles: list[str]
    houses: list[House] = field(default_factory=list)
    things: list[Thing] = field(default_factory=list)


@dataclass
class Wanted:
    """What a scenario asks of the block that it is in.

    Attributes:
        clear_road: no traffic in either lane.
        clear_kerb: no parked cars.
        junction: `lights`, `stop` or `none`; '' leaves it to chance.
        meadow: the right side is a fenced meadow.
        clear_pavement: nobody on the pavements.
        clear_right: no trees, lamps and signs on the right.
    """

    clear_road: bool = False
    clear_kerb: bool = False
    junction: str = ''
    meadow: bool = False
    clear_pavement: bool = False
    clear_right: bool = False


class Town:
    """Looks, route and street of one seed.

    Args:
        seed: the same seed gives the same town.
        traffic: seed of who parks, walks and drives there; None: as on the day that belongs to the town's seed.
    """

    def __init__(self, seed: int, traffic: int | None = None):
        self.seed, self._traffic = seed, traffic
        rng = self.rng(0)
        self.route = Route(self.rng(1))
        order = rng.permutation(len(textures.WALLS))
        self.walls = tuple(textures.WALLS[i] for i in order[:6])
        self.roofs: tuple[Colour, ...] = tuple(
            [(120, 66, 50), (84, 80, 82), (104, 84, 66), (70, 76, 86)][i] for i in rng.permutation(4)[:2]
        )
        paving: list[Colour] = [(160, 156, 150), (150, 138, 124), (140, 142, 146), (172, 160, 140)]
        verge: list[Colour] = [(98, 124, 66), (120, 116, 104), (86, 112, 70), (128, 128, 88)]
        self.paving, self.verge = paving[rng.integers(4)], verge[rng.integers(4)]
        leaves: list[Colour] = [(86, 122, 58), (104, 126, 60), (70, 108, 62), (150, 124, 50), (116, 132, 70)]
        self.leaves = leaves[rng.integers(5)]
        self.tiles = {
            kind: [
                Texture(textures.ground_tile(self.rng(2, i, j), kind, self.paving, self.verge))
                for j in range(3 if kind == 'plain' else 1)
            ]
            for i, kind in enumerate(('plain', 'parking', 'crosswalk', 'stop', 'junction'))
        }
        self.trees = [
            (
                kind,
                Texture(textures.tree(self.rng(3, i, j), kind, textures.shade(self.leaves, rng.uniform(0.85, 1.15)))),
            )
            for i, kind in enumerate(('broad', 'poplar', 'conifer', 'bush'))
            for j in range(3 if kind == 'broad' else 2)
        ]
        self.adverts = [
            Texture(textures.billboard(self.rng(4, k), subject)) for k, subject in enumerate(textures.ADVERTS * 2)
        ]

    def rng(self, *purpose: int) -> np.random.Generator:
        """A generator of its own for each purpose, so that one part's draws do not move another's."""
        return np.random.default_rng([self.seed, *purpose])

    # -- makers

    def somebody(self, rng: np.random.Generator) -> int:
        """One of the people who live here: the seed of a `Figure`."""
        return self.seed * 100 + int(rng.integers(40))

    def tree(self, rng: np.random.Generator, s: float, t: float, kind: str = '') -> Thing:
        """A tree or a bush."""
        options = [(k, texture) for k, texture in self.trees if kind in ('', k) and (kind or k != 'bush')]
        name, texture = options[rng.integers(len(options))]
        height = {'broad': 6.5, 'poplar': 9.0, 'conifer': 7.5, 'bush': 2.6}[name] * rng.uniform(0.8, 1.2)
        width = height * 0.75
        shadow: list = [Shadow(width * 0.6, width * 0.6, 0.4)] if name != 'bush' else []
        return Thing('tree', 'a tree beside the street', [*shadow, Card(texture, width, height)], s, t)

    def walker(self, rng: np.random.Generator, s: float, t: float, time: float) -> Thing:
        """A pedestrian who is at s at that time."""
        speed = float(rng.choice((-1, 1)) * rng.uniform(0.8, 1.6))
        seed = self.somebody(rng)
        return Thing(
            'person',
            'a person walking on the pavement',
            [Shadow(0.6, 0.6, 0.4), Figure(seed, 0.9, size=rng.uniform(0.92, 1.05))],
            s - speed * time,
            t,
            heading=0.0 if speed > 0 else math.pi,
            speed=speed,
        )

    def parked(self, rng: np.random.Generator, s: float, side: int, kind: str = '') -> Thing:
        """A vehicle at the kerb."""
        kind = kind or str(rng.choice((*CARS, *CARS, 'van')))
        name = 'car' if kind in CARS else kind
        return Thing(
            name,
            f'a {name} parked at the kerb',
            vehicle_parts(rng, kind, lights=False),
            s,
            side * 4.65 + rng.uniform(-0.1, 0.1),
            heading=(0.0 if side > 0 else math.pi) + rng.uniform(-0.03, 0.03),
        )

    def driving(
        self, rng: np.random.Generator, kind: str, s: float, time: float, oncoming: bool, speed: float
    ) -> Thing:
        """A vehicle in its own lane, at s at that time."""
        name = 'car' if kind in CARS else kind
        v = -speed if oncoming else speed
        where = f'a {name} coming towards us in the opposite lane' if oncoming else f'a {name} driving ahead'
        return Thing(
            name,
            where,
            vehicle_parts(rng, kind),
            s - v * time,
            -LANE if oncoming else LANE,
            heading=math.pi if oncoming else 0.0,
            speed=v,
        )

    def cyclist(self, rng: np.random.Generator, s: float, t: float, time: float, speed: float) -> Thing:
        """A cyclist at s at that time; negative speed comes towards us."""
        return Thing(
            'cyclist',
            'a cyclist riding on the road',
            [Shadow(1.6, 0.5, 0.35), Bicycle(self.somebody(rng), rider=self.somebody(rng))],
            s - speed * time,
            t,
            heading=0.0 if speed > 0 else math.pi,
            speed=speed,
        )

    # -- the street

    def block(self, index: int, time: float, wanted: Wanted, night: float) -> Block:
        """A block with what is usual there.

        Args:
            index: its place along the route.
            time: when the camera gets there, seconds; what moves is met about then.
            wanted: what a scenario asks for.
            night: 0 to 1, for lit windows.
        """
        rng = self.rng(5, index + 1000)  # a few blocks lie behind the start
        other = None if self._traffic is None else np.random.default_rng([self._traffic, 7, index + 1000])

        def traffic(make: Callable[[np.random.Generator], list[Thing]]) -> list[Thing]:
            usual = make(rng)  # drawn in any case, so that the town stays as it is
            return usual if other is None else make(other)

        start = index * BLOCK
        count = round(BLOCK / TILE_LENGTH)
        chance = rng.random()
        junction = wanted.junction or ('lights' if chance < 0.16 else 'stop' if chance < 0.26 else 'none')
        parking = rng.random() < 0.5
        block = Block(index, ['parking' if parking else 'plain'] * count)
        if junction in ('lights', 'stop'):
            block.tiles[2:6] = ['crosswalk' if junction == 'lights' else 'stop', 'junction', 'junction', 'plain']
            self._junction(block, rng, junction, start, time)
        gap = (start + 3 * TILE_LENGTH - 1, start + 5 * TILE_LENGTH + 1) if junction in ('lights', 'stop') else None
        for side in (-1, 1):
            meadow = (wanted.meadow and side > 0) or (not wanted.meadow and rng.random() < 0.12)
            if meadow:
                self._meadow(block, rng, side, start)
            else:
                self._houses(block, rng, side, start, gap, night)
            if not (wanted.clear_right and side > 0):
                self._furniture(block, rng, side, start, gap, meadow)
            if not wanted.clear_kerb:
                block.things += traffic(partial(self._parked_row, side, start, gap, parking))
            if not wanted.clear_pavement:
                block.things += traffic(partial(self._walkers, side, start, time))
        if not wanted.clear_road:
            block.things += traffic(partial(self._driving, start, time))
        return block

    def _parked_row(
        self, side: int, start: float, gap: tuple[float, float] | None, parking: bool, rng: np.random.Generator
    ) -> list[Thing]:
        things = []
        s = start + rng.uniform(2, 6)
        while s < start + BLOCK - 3:
            kind = str(rng.choice((*CARS, 'van')))
            if (gap is None or not gap[0] - 8 < s < gap[1] + 5) and rng.random() < (0.75 if parking else 0.35):
                things.append(self.parked(rng, s, side, kind))
            s += LENGTHS[kind] + rng.uniform(1, 4)
        return things

    def _walkers(self, side: int, start: float, time: float, rng: np.random.Generator) -> list[Thing]:
        return [
            self.walker(
                rng, start + rng.uniform(0, BLOCK), side * rng.uniform(KERB_EDGE + 0.5, PAVEMENT_EDGE - 0.5), time
            )
            for _ in range(int(rng.integers(0, 4)))
        ]

    def _driving(self, start: float, time: float, rng: np.random.Generator) -> list[Thing]:
        things = []
        for _ in range(int(rng.choice((0, 1, 1, 2)))):
            kind = str(rng.choice((*CARS, *CARS, 'van', 'bus', 'truck')))
            things.append(self.driving(rng, kind, start + rng.uniform(0, BLOCK), time, True, rng.uniform(6, 10)))
        if rng.random() < 0.25:
            things.append(self.cyclist(rng, start + rng.uniform(10, BLOCK), -3.2, time, -rng.uniform(3.5, 5.5)))
        return things

    def _houses(
        self,
        block: Block,
        rng: np.random.Generator,
        side: int,
        start: float,
        gap: tuple[float, float] | None,
        night: float,
    ) -> None:
        s = start
        while s < start + BLOCK - 2:
            length = min(rng.uniform(7, 13), start + BLOCK - s)
            if start + BLOCK - s - length < 4:
                length = start + BLOCK - s
            a, b = s, s + length - (rng.uniform(0.8, 3) if rng.random() < 0.2 else 0)
            s += length
            if gap and a < gap[1] and b > gap[0]:
                if a < gap[0] - 4:
                    b = gap[0]
                elif b > gap[1] + 4:
                    a = gap[1]
                else:
                    continue
            back = rng.uniform(0, 0.8) if rng.random() < 0.8 else rng.uniform(1, 2.5)
            self._house(block, rng, side, a, b, PAVEMENT_EDGE + back, night)
        if gap:  # the side street ends at a house
            middle = (gap[0] + gap[1]) / 2
            self._house(block, rng, side, middle - 14, middle + 14, PAVEMENT_EDGE + 30, night)

    def _house(
        self, block: Block, rng: np.random.Generator, side: int, a: float, b: float, t: float, night: float
    ) -> None:
        floors = int(rng.choice((2, 3, 3, 4, 5)))
        front = Texture(
            textures.facade(rng, min(b - a, 14), floors, self.walls, bool(rng.random() < 0.45), night * 0.55)
        )
        first, last = (a, b) if side < 0 else (b, a)  # left and right as seen from the street
        corners = np.array(
            [self.route.point(s, side * u) for s, u in ((first, t), (last, t), (last, t + 8), (first, t + 8))]
        )
        r, g, b = front.pixels[len(front.pixels) // 4 :, 3:8].mean(axis=(0, 1)).tolist()  # no window reaches the edge
        block.houses.append(
            House(
                front,
                3.4 + 3.0 * (floors - 1),
                (r, g, b),
                self.roofs[rng.integers(2)],
                bool(rng.random() < 0.6),
                corners,
                (a + b) / 2,
                side * t,
            )
        )

    def _meadow(self, block: Block, rng: np.random.Generator, side: int, start: float) -> None:
        for k in range(4):
            block.things.append(self.tree(rng, start + k * 9 + rng.uniform(0, 8), side * rng.uniform(22, 34)))
        fence: list = []
        for k in range(8):
            fence.append(Pole(1.15, 0.06, (134, 112, 84), (k * BLOCK / 7 - BLOCK / 2, 0, 0)))
        block.things.append(
            Thing(
                'fence',
                'a fence beside the street',
                fence,
                start + BLOCK / 2,
                side * (PAVEMENT_EDGE + 0.8),
                depth_bias=8,
            )
        )

    def _furniture(
        self,
        block: Block,
        rng: np.random.Generator,
        side: int,
        start: float,
        gap: tuple[float, float] | None,
        meadow: bool,
    ) -> None:
        s = start + rng.uniform(0, 6)
        while s < start + BLOCK:
            free = gap is None or not gap[0] - 3 < s < gap[1] + 3
            pick = rng.random()
            t = side * (KERB_EDGE + 0.55)
            if free and pick < 0.32:
                block.things.append(self.tree(rng, s, t))
            elif free and pick < 0.5:
                block.things.append(
                    Thing(
                        'lamp post',
                        'a street lamp on the pavement',
                        [
                            Shadow(0.5, 0.5, 0.3),
                            Pole(5.6, 0.07, (72, 76, 78), (0, 0, 0), reach=1.2 * side),
                            Lamp((255, 214, 150), 1.6, (0, 1.1 * side, 5.45)),
                        ],
                        s,
                        t,
                    )
                )
            elif free and pick < 0.56:
                block.things.append(
                    Thing(
                        'bin',
                        'a litter bin on the pavement',
                        [Shadow(0.6, 0.6), Solid(solid('bin'), paints((60, 92, 72)))],
                        s,
                        t,
                    )
                )
            elif free and pick < 0.61:
                block.things.append(
                    Thing(
                        'bench',
                        'a bench on the pavement',
                        [Shadow(0.6, 1.8), Solid(solid('bench'), paints((140, 98, 58)))],
                        s,
                        side * (PAVEMENT_EDGE - 0.4),
                        heading=math.pi / 2 * side,
                    )
                )
            elif free and pick < 0.66 and side > 0:
                block.things.append(
                    Thing(
                        'speed sign',
                        'a speed sign on its pole',
                        sign(sign_texture(str(rng.choice((30, 50, 70))))),
                        s,
                        t,
                    )
                )
            elif free and pick < 0.70 and side > 0:
                block.things.append(
                    Thing('warning sign', 'a warning sign on its pole', sign(sign_texture('warning')), s, t)
                )
            elif free and pick < 0.77:
                block.things.append(
                    Thing(
                        'billboard',
                        'a billboard with an advertisement',
                        hoarding(self.adverts[rng.integers(len(self.adverts))], rng.uniform(3.2, 4.8)),
                        s,
                        side * (PAVEMENT_EDGE - (0.6 if not meadow else -2)),
                        heading=0.25 * side,
                    )
                )
            elif free and pick < 0.82 and not meadow:
                block.things.append(self.tree(rng, s, side * (PAVEMENT_EDGE - 0.4), 'bush'))
            elif free and pick < 0.86 and not meadow:
                advert = self.adverts[rng.integers(len(self.adverts))]
                block.things.append(
                    Thing(
                        'billboard',
                        'a billboard with an advertisement',
                        [Board(advert, 2.6, 1.5, (0, 0, 3.2), back=None)],
                        s,
                        side * (PAVEMENT_EDGE - 0.05),
                        heading=math.pi / 2 * side,
                    )
                )
            s += rng.uniform(4, 9)

    def _junction(self, block: Block, rng: np.random.Generator, kind: str, start: float, time: float) -> None:
        s = start + 2 * TILE_LENGTH + 0.3
        if kind == 'lights':
            state = str(rng.choice(('green', 'green', 'red', 'amber')))
            block.things.append(
                Thing('traffic light', 'a traffic light on its pole', traffic_light(state), s, KERB_EDGE + 0.4)
            )
            block.things.append(
                Thing('traffic light', 'a traffic light on its pole', traffic_light(state), s + 12.5, -KERB_EDGE - 0.4)
            )
            if rng.random() < 0.5:
                seed = self.somebody(rng)
                block.things.append(
                    Thing(
                        'person',
                        'a person crossing at the crosswalk',
                        [Shadow(0.6, 0.6, 0.4), Figure(seed)],
                        s + 2.2,
                        5.0,
                        heading=math.pi / 2,
                        motion=_crossing(time, float(rng.uniform(-6, -2))),
                    )
                )
        else:
            block.things.append(
                Thing(
                    'stop sign', 'a stop sign on its pole', sign(sign_texture('stop'), 0.85), s + 3.0, KERB_EDGE + 0.4
                )
            )
        if rng.random() < 0.6:  # somebody waits in the side street
            side = int(rng.choice((-1, 1)))
            waiting = str(rng.choice(CARS))
            block.things.append(
                Thing(
                    'car',
                    'a car waiting in the side street',
                    vehicle_parts(rng, waiting),
                    start + 4 * TILE_LENGTH + 1.6 * side,
                    side * 9.5,
                    heading=math.pi / 2 * side,
                )
            )


def _crossing(time: float, lead: float) -> Callable[[float], tuple[float, float]]:
    def motion(now: float) -> tuple[float, float]:
        walked = (now - time - lead) * 1.3
        return 0.0, -min(13.0, max(-3.0, walked))

    return motion


def ground_outline(kind: str) -> list[tuple[float, float, int]]:
    """(left, right, surface) bands across the street, for the identities of a ground tile."""
    if kind == 'junction':
        return [(-HALF_STREET, HALF_STREET, ROAD)]
    return [
        (-HALF_STREET, -PAVEMENT_EDGE, VERGE),
        (-PAVEMENT_EDGE, -ROAD_EDGE, PAVEMENT),
        (-ROAD_EDGE, ROAD_EDGE, ROAD),
        (ROAD_EDGE, PAVEMENT_EDGE, PAVEMENT),
        (PAVEMENT_EDGE, HALF_STREET, VERGE),
    ]
