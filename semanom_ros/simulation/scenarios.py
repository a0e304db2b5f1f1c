"""How each scenario of the catalogue, and its nominal twin, is put on the street."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Protocol

import cv2
import numpy as np

from semanom_ros.simulation import textures
from semanom_ros.simulation.catalogue import Scenario
from semanom_ros.simulation.meshes import CAR_PAINTS, CARS, LENGTHS, solid, vehicle
from semanom_ros.simulation.painter import Picture, Texture
from semanom_ros.simulation.textures import KERB_EDGE, PAVEMENT_EDGE
from semanom_ros.simulation.things import (
    Bicycle,
    Board,
    Card,
    Figure,
    Flat,
    Lamp,
    Lying,
    Part,
    Pole,
    Shadow,
    Solid,
    Thing,
    furniture,
    hoarding,
    paints,
    sign,
    sign_texture,
    traffic_light,
    turn,
    vehicle_parts,
)
from semanom_ros.simulation.town import LANE, Town, Wanted


class Motion(Protocol):
    """What a scenario has to know of the camera's vehicle."""

    def time_at(self, s: float) -> float:
        """When it is at s, seconds."""

    def speed(self, time: float) -> float:
        """m/s."""


@dataclass
class Staging:
    """A scenario, put on the street.

    Attributes:
        things: what it adds.
        wanted: what it asks of the rest of the block.
        swerve: metres to the right by which the camera's vehicle passes it; 0: it need not.
    """

    things: list[Thing]
    wanted: Wanted = field(default_factory=Wanted)
    swerve: float = 0.0


@dataclass
class _Place:
    """Where and when a scenario happens."""

    town: Town
    rng: np.random.Generator
    s: float
    time: float
    speed: float


def stage(town: Town, scenario: Scenario, anomalous: bool, s: float, motion: Motion, index: int) -> Staging:
    """Puts a scenario, or its nominal twin, at s.

    Args:
        town: where.
        scenario: which.
        anomalous: the anomaly itself; False: its twin.
        s: metres along the route.
        motion: how the camera's vehicle moves.
        index: of the block, for the random numbers.
    """
    time = motion.time_at(s)
    place = _Place(town, town.rng(6, index + 1000), s, time, motion.speed(time))
    staging = _STAGES[scenario.name](place, anomalous)
    if not anomalous and staging.things[0].t > KERB_EDGE:  # no parked van hides the twin
        staging.wanted.clear_kerb = True
    for thing in staging.things:
        thing.scenario = scenario.name
    return staging


def _in_lane(place: _Place, name: str, caption: str, parts: list[Part], heading: float = 0.0) -> Staging:
    """Something that stands in our lane; we pass it on the left."""
    thing = Thing(name, caption, parts, place.s, LANE + place.rng.uniform(0.1, 0.7), heading=heading, anomalous=True)
    return Staging([thing], Wanted(clear_road=True), -3.2)


def _follow(place: _Place, thing: Thing, gap: float = 13.0) -> Thing:
    """A vehicle ahead of us, nearest (`gap` metres) when we are at the scenario, then it pulls away."""
    s, time, speed = place.s, place.time, place.speed

    def motion(now: float) -> tuple[float, float]:
        d = now - time
        return speed * d + gap + 1.7 * abs(d) ** 1.25, 0.0

    return replace(thing, s=s, motion=motion, active=(time - 8, time + 8))


def _on_pavement(
    place: _Place, name: str, caption: str, parts: list[Part], t: float = KERB_EDGE + 1.2, heading: float = 0.0
) -> Staging:
    return Staging([Thing(name, caption, parts, place.s, t, heading=heading)])


def _stop_sign(place: _Place, anomalous: bool) -> Staging:
    if anomalous:
        board = Texture(textures.billboard(place.rng, 'stop sign'))
        return Staging(
            [
                Thing(
                    'billboard',
                    'a picture of a stop sign on a billboard',
                    hoarding(board, 5.0),
                    place.s,
                    PAVEMENT_EDGE - 0.8,
                    heading=0.2,
                    anomalous=True,
                )
            ],
            Wanted(junction='none', clear_right=True),
        )
    town = place.town
    advert = town.adverts[place.rng.integers(len(town.adverts))]
    return Staging(
        [
            Thing(
                'billboard',
                'a billboard with an advertisement',
                hoarding(advert, 4.5),
                place.s + 6,
                PAVEMENT_EDGE - 0.8,
                heading=0.2,
            )
        ],
        Wanted(junction='stop', clear_right=True),
    )


def _light_on_truck(place: _Place, anomalous: bool) -> Staging:
    truck = Thing('truck', 'a truck driving ahead', vehicle_parts(place.rng, 'truck'), place.s, LANE)
    if not anomalous:
        return Staging([_follow(place, truck)], Wanted(clear_road=True, junction='lights', clear_right=True))
    followed = _follow(place, truck)
    dark: dict[str, tuple[float, float, float]] = {'red': (255, 50, 40), 'amber': (64, 48, 12), 'green': (14, 52, 26)}
    back = turn(math.pi)
    lamp: list[Part] = [
        Pole(1.2, 0.05, (70, 74, 74), (-4.12, 0.5, 0.8)),
        Solid(solid('lamp'), dark, (-4.2, 0.5, 1.7), back),
        Solid(solid('lamp'), dark, (-4.2, -0.45, 1.3), back),
        Lamp((255, 60, 40), 0.4, (-4.35, 0.5, 2.53), 0.5, -1),
        Lamp((255, 60, 40), 0.4, (-4.35, -0.45, 2.13), 0.5, -1),
    ]
    light = replace(
        followed,
        name='traffic light',
        caption='a traffic light carried on a truck',
        parts=lamp,
        anomalous=True,
        depth_bias=-4,
    )
    return Staging([followed, light], Wanted(clear_road=True, junction='none'))


def _lying(place: _Place, anomalous: bool) -> Staging:
    if anomalous:
        return _in_lane(
            place,
            'person',
            'a person lying on the road',
            [Shadow(1.0, 1.9, 0.35), Lying(place.town.somebody(place.rng))],
            heading=place.rng.uniform(-0.5, 0.5),
        )
    return Staging(
        [place.town.walker(place.rng, place.s + k * 3, KERB_EDGE + 1 + k * 0.6, place.time) for k in range(2)]
    )


def _car_on_side(place: _Place, anomalous: bool) -> Staging:
    kind = str(place.rng.choice(CARS))
    if not anomalous:
        return Staging([place.town.parked(place.rng, place.s, 1, kind)], Wanted(clear_kerb=True))
    body = Solid(vehicle(kind), paints(CAR_PAINTS[place.rng.integers(len(CAR_PAINTS))]))
    side = float(place.rng.choice((-1, 1)))
    body.rotation = turn(roll=side * math.pi / 2)
    body.offset = (0, side * 0.8, 0.9)
    staging = _in_lane(
        place,
        'car',
        'a car lying on its side on the road',
        [Shadow(LENGTHS[kind], 1.9), body],
        heading=place.rng.uniform(0.3, 1.3),
    )
    staging.things[0].t = LANE + 0.8
    return staging


def _wrong_way(place: _Place, anomalous: bool) -> Staging:
    kind = str(place.rng.choice(CARS))
    car = place.town.driving(place.rng, kind, place.s, place.time, True, 5.0)
    if not anomalous:
        return Staging([car], Wanted(clear_road=True))
    car.t, car.caption, car.anomalous = LANE + 0.2, 'a car coming towards us in our lane', True
    return Staging([car], Wanted(clear_road=True, clear_kerb=True), -3.3)


def _bicycle_on_roof(place: _Place, anomalous: bool) -> Staging:
    kind = str(place.rng.choice(('hatch', 'estate', 'sedan')))
    car = _follow(place, Thing('car', 'a car driving ahead', vehicle_parts(place.rng, kind), place.s, LANE), 9.0)
    seed = place.town.somebody(place.rng)
    if anomalous:
        rider = replace(
            car,
            name='cyclist',
            caption='a cyclist on the roof of a car',
            parts=[Bicycle(seed, (-0.2, 0, 0), rider=seed + 1)],
            z=1.5,
            anomalous=True,
            depth_bias=-0.5,
        )
        rider.heading = 1.2
        return Staging([car, rider], Wanted(clear_road=True))
    bike = place.town.cyclist(place.rng, place.s, 3.3, place.time, 5.0)
    return Staging([car, bike], Wanted(clear_road=True), -0.6)


@lru_cache(maxsize=8)
def _trunk(seed: int) -> Texture:
    rng = np.random.default_rng(seed)
    return Texture(textures.fallen_trunk(rng, (86, 118, 60)))


def trunk_parts(rng: np.random.Generator) -> list[Part]:
    """A tree that lies on its side."""
    return [Shadow(1.6, 8.0, 0.4), Card(_trunk(int(rng.integers(8))), 8.4, 2.8)]


def _tree_across(place: _Place, anomalous: bool) -> Staging:
    if not anomalous:
        return Staging([place.town.tree(place.rng, place.s, KERB_EDGE + 0.8, 'broad')])
    tree = Thing('tree', 'a tree lying across the road', trunk_parts(place.rng), place.s, 3.0, anomalous=True)
    return Staging([tree], Wanted(clear_road=True, clear_kerb=True), -4.2)


@lru_cache(maxsize=64)
def _animal(kind: str, seed: int, flipped: bool) -> Texture:
    picture = textures.animal(np.random.default_rng(seed), kind)
    return Texture(np.ascontiguousarray(picture[:, ::-1]) if flipped else picture)


ANIMAL_SIZES = {'cow': (2.5, 1.67), 'deer': (2.0, 1.5), 'horse': (2.7, 2.0), 'dog': (1.05, 0.7)}


def animal_parts(rng: np.random.Generator, kind: str) -> list[Part]:
    """An animal, seen from its side."""
    width, height = ANIMAL_SIZES[kind]
    return [
        Shadow(0.8, width * 0.8, 0.4),
        Card(_animal(kind, int(rng.integers(12)), bool(rng.random() < 0.5)), width, height),
    ]


def _cow(place: _Place, anomalous: bool) -> Staging:
    if anomalous:
        return _in_lane(place, 'cow', 'a cow standing on the road', animal_parts(place.rng, 'cow'))
    things = [
        Thing(
            'cow',
            'a cow on a meadow',
            animal_parts(place.rng, 'cow'),
            place.s + d,
            PAVEMENT_EDGE + place.rng.uniform(2.5, 8),
        )
        for d in (-6, 1, 7)
    ]
    return Staging(things, Wanted(meadow=True, clear_kerb=True))


def _deer(place: _Place, anomalous: bool) -> Staging:
    if anomalous:
        return _in_lane(place, 'deer', 'a deer standing on the road', animal_parts(place.rng, 'deer'))
    owner = place.town.walker(place.rng, place.s, KERB_EDGE + 1.6, place.time)
    dog = replace(
        owner,
        name='dog',
        caption='a dog walking on the pavement',
        parts=animal_parts(place.rng, 'dog'),
        t=KERB_EDGE + 0.8,
    )
    return Staging([owner, dog])


def _sofa(place: _Place, anomalous: bool) -> Staging:
    if anomalous:
        return _in_lane(
            place,
            'sofa',
            'a sofa standing on the road',
            furniture(place.rng, 'sofa'),
            heading=place.rng.uniform(0, 6.3),
        )
    bench = Thing(
        'bench',
        'a bench on the pavement',
        [Shadow(0.6, 1.8), Solid(solid('bench'), paints((140, 98, 58)))],
        place.s,
        PAVEMENT_EDGE - 0.6,
        heading=math.pi / 2,
    )
    boxes = [
        Thing(
            'box',
            'a cardboard box on the pavement',
            furniture(place.rng, 'box'),
            place.s + 2 + k * 0.9,
            PAVEMENT_EDGE - 0.7,
            heading=place.rng.uniform(0, 1),
        )
        for k in range(2)
    ]
    return Staging([bench, *boxes])


def _tyre(place: _Place, anomalous: bool) -> Staging:
    if anomalous:
        return _in_lane(
            place,
            'tyre',
            'a loose tyre on the road',
            furniture(place.rng, str(place.rng.choice(('tyre', 'wheel')))),
            heading=place.rng.uniform(0, 6.3),
        )
    car = place.town.parked(place.rng, place.s, 1, 'suv')
    car.parts = [*car.parts, Solid(solid('wheel'), paints((40, 40, 42)), (-2.38, 0, 0.62), turn(math.pi / 2))]
    return Staging([car], Wanted(clear_kerb=True))


def _facade_car(place: _Place, anomalous: bool) -> Staging:
    kind = str(place.rng.choice(CARS))
    parts = vehicle_parts(place.rng, kind, lights=False, shadow=not anomalous)
    if anomalous:
        pose = turn(pitch=place.rng.uniform(-1.2, -0.2))
        car = Thing(
            'car',
            'a car hanging on a facade',
            parts,
            place.s,
            PAVEMENT_EDGE + 0.4,
            z=place.rng.uniform(2.8, 4.2),
            heading=math.pi * place.rng.integers(2),
            rotation=pose,
            anomalous=True,
        )
        return Staging([car], Wanted(junction='none', clear_right=True))
    car = Thing(
        'car',
        'a car parked in front of a house',
        parts,
        place.s,
        PAVEMENT_EDGE - 2.0,
        heading=-math.pi / 2 * place.rng.choice((-1, 1)),
    )
    return Staging([car], Wanted(junction='none', clear_pavement=True, clear_right=True))


@lru_cache(maxsize=1)
def _moon_texture() -> Texture:
    picture = np.zeros((128, 128, 4), np.uint8)
    cv2.circle(picture, (64, 64), 62, (255, 214, 110, 255), -1, cv2.LINE_AA)
    for x, y, r in ((44, 46, 14), (80, 72, 18), (58, 92, 10), (88, 38, 8)):
        cv2.circle(picture, (x, y), r, (238, 192, 90, 255), -1, cv2.LINE_AA)
    return Texture(picture)


def moon_parts(size: float) -> list[Part]:
    """A yellow moon; its apparent size in metres at its place."""
    return [Card(_moon_texture(), size, size, own_light=1.0)]


def _moon(place: _Place, anomalous: bool) -> Staging:
    s = place.s
    if anomalous:
        light = Thing('traffic light', 'a traffic light on its pole', traffic_light('red'), s, KERB_EDGE + 0.4)
        moon = Thing(
            'moon',
            'a yellow moon beside a traffic light',
            moon_parts(0.9),
            s + 1.0,
            KERB_EDGE - 0.7,
            z=2.8,
            anomalous=True,
        )
        return Staging([light, moon], Wanted(junction='none', clear_kerb=True, clear_right=True))
    light = Thing('traffic light', 'a traffic light on its pole', traffic_light('amber'), s - 5, KERB_EDGE + 0.4)
    moon = Thing('moon', 'a yellow moon in the sky', moon_parts(1.8), s + 30, -1.0, z=13.0)
    return Staging([light, moon], Wanted(junction='none', clear_right=True))


def _truck_picture(place: _Place, anomalous: bool) -> Staging:
    town = place.town
    truck = _follow(
        place, Thing('truck', 'a truck driving ahead', vehicle_parts(place.rng, 'truck'), place.s, LANE), 12.0
    )
    picture = (
        Texture(textures.painted_road(place.rng)) if anomalous else town.adverts[place.rng.integers(len(town.adverts))]
    )
    board = Board(
        picture, 2.36, 2.36 if anomalous else 1.5, (-4.04, 0, 1.0 if anomalous else 1.6), turn(math.pi), back=None
    )
    if anomalous:
        road = replace(
            truck,
            name='picture',
            caption='a road painted on the back of a truck',
            parts=[board],
            anomalous=True,
            depth_bias=-4,
        )
        return Staging([truck, road], Wanted(clear_road=True))
    truck.parts = [*truck.parts, board]
    return Staging([truck], Wanted(clear_road=True))


@lru_cache(maxsize=16)
def _smoke_texture(seed: int, tint: int) -> Texture:
    return Texture(textures.smoke(np.random.default_rng(seed), tint))


def smoke_parts(rng: np.random.Generator, width: float, height: float, count: int) -> list[Part]:
    """A cloud of smoke on the ground."""
    tint = int(rng.choice((70, 120, 190)))
    return [
        Card(
            _smoke_texture(int(rng.integers(5)), tint),
            width * rng.uniform(0.6, 1),
            height * rng.uniform(0.6, 1),
            (rng.uniform(-1, 1), rng.uniform(-0.3, 0.3) * width, 0),
        )
        for _ in range(count)
    ]


def _smoke(place: _Place, anomalous: bool) -> Staging:
    if anomalous:
        return Staging(
            [Thing('smoke', 'smoke over the road', smoke_parts(place.rng, 7.0, 4.0, 4), place.s, 1.5, anomalous=True)],
            Wanted(clear_road=True),
        )
    parts = [Card(_smoke_texture(2, 190), 2.6 + k, 2.2 + 0.6 * k, (k * 1.2, 0, k * 1.3)) for k in range(3)]
    return Staging(
        [
            Thing(
                'smoke',
                'smoke from a chimney',
                [Pole(1.2, 0.3, (130, 80, 66), (0, 0, -1.0)), *parts],
                place.s,
                PAVEMENT_EDGE + 3,
                z=15.5,
            )
        ]
    )


def _puddle(rng: np.random.Generator, length: float, width: float) -> np.ndarray:
    angles = np.linspace(0, 2 * math.pi, 28, endpoint=False)
    wobble = 1 + 0.16 * np.sin(3 * angles + rng.uniform(0, 6)) + 0.1 * np.sin(5 * angles + rng.uniform(0, 6))
    return np.stack([np.cos(angles) * wobble * length / 2, np.sin(angles) * wobble * width / 2], axis=1)


def _flood(place: _Place, anomalous: bool) -> Staging:
    rng = place.rng
    if anomalous:
        water = [
            Flat(_puddle(rng, 17, 12.5), (86, 82, 66), 0.9, True),
            Flat(_puddle(rng, 9, 8), (104, 100, 84), 0.4, True, 0.03),
        ]
        return Staging(
            [Thing('water', 'a flooded road', water, place.s, 0.0, anomalous=True, depth_bias=9)],
            Wanted(clear_road=True, clear_kerb=True, junction='none'),
        )
    puddles = [
        Thing(
            'puddle',
            'a puddle at the kerb',
            [Flat(_puddle(rng, rng.uniform(1.5, 3), 0.8), (96, 94, 90), 0.8, True)],
            place.s + d,
            5.1,
            depth_bias=2,
        )
        for d in (-6, 0, 5)
    ]
    return Staging(puddles, Wanted(clear_kerb=True, junction='none'))


def crowd(
    town: Town, rng: np.random.Generator, s: float, low: float, high: float, count: int, caption: str, anomalous: bool
) -> list[Thing]:
    """People who stand together between the lateral positions low and high."""
    return [
        Thing(
            'person',
            caption,
            [Shadow(0.6, 0.6, 0.4), Figure(town.somebody(rng), 0.0, size=rng.uniform(0.9, 1.05))],
            s + rng.uniform(-2, 2.5),
            rng.uniform(low, high),
            heading=rng.uniform(0, 6.3),
            anomalous=anomalous,
        )
        for _ in range(count)
    ]


def _crowd(place: _Place, anomalous: bool) -> Staging:
    if anomalous:
        return Staging(
            crowd(place.town, place.rng, place.s, 0.4, 3.6, 9, 'a crowd standing on the road', True),
            Wanted(clear_road=True, clear_kerb=True),
            -4.0,
        )
    return Staging(
        crowd(place.town, place.rng, place.s, KERB_EDGE + 0.4, PAVEMENT_EDGE - 0.4, 9, 'a crowd on the pavement', False)
    )


def _fallen_sign(place: _Place, anomalous: bool) -> Staging:
    limit = sign_texture(str(place.rng.choice((30, 50, 70))))
    if not anomalous:
        return Staging(
            [Thing('speed sign', 'a speed sign on its pole', sign(limit), place.s, KERB_EDGE + 0.4)],
            Wanted(clear_right=True),
        )
    board = Board(limit, 0.9, 0.9, (-0.2, 0, 0.06), turn(math.pi) @ turn(pitch=-0.95), back=(120, 122, 126))
    post = Solid(solid('post'), paints((150, 152, 154)), (0.3, 0, 0.04))
    return _in_lane(
        place,
        'speed sign',
        'a speed sign lying on the road',
        [Shadow(1.2, 1.0, 0.35), post, board],
        heading=place.rng.uniform(-0.4, 0.4),
    )


def construction(
    rng: np.random.Generator, s: float, low: float, high: float, caption: str, anomalous: bool
) -> list[Thing]:
    """Barriers, cones, a heap of earth and a warning sign between the lateral positions low and high."""
    middle, width = (low + high) / 2, high - low
    things = [Thing('barrier', caption, furniture(rng, 'barrier'), s - 3, middle, anomalous=anomalous)]
    heap = Texture(_heap(rng))
    things.append(Thing('heap', caption, [Card(heap, width * 0.9, 0.9)], s + 0.5, middle, anomalous=anomalous))
    for d in (-4, -1.5, 1, 3.5):
        things.append(
            Thing('cone', caption, furniture(rng, 'cone'), s + d, low + rng.uniform(-0.1, 0.1), anomalous=anomalous)
        )
    things.append(
        Thing(
            'warning sign',
            caption,
            [Pole(1.0, 0.03), Board(sign_texture('warning'), 0.7, 0.7, (-0.04, 0, 0.8), turn(math.pi))],
            s - 3.3,
            low + 0.3,
            anomalous=anomalous,
        )
    )
    return things


def _heap(rng: np.random.Generator) -> Picture:
    picture = np.zeros((64, 160, 4), np.uint8)
    xs = np.linspace(2, 158, 24)
    ys = 62 - 52 * np.sin(np.pi * (xs - 2) / 156) * (1 + 0.15 * rng.standard_normal(24))
    cv2.fillPoly(
        picture,
        [np.rint(np.stack([np.append(xs, [158, 2]), np.append(ys, [63, 63])], 1)).astype(np.int32)],
        (128, 98, 70, 255),
    )
    picture[..., :3] = textures.grain(picture[..., :3].copy(), rng, 14, 12, 8)
    return picture


def _construction(place: _Place, anomalous: bool) -> Staging:
    if anomalous:
        return Staging(
            construction(place.rng, place.s, 0.5, 3.3, 'a construction site on the road', True),
            Wanted(clear_road=True, clear_kerb=True),
            -3.6,
        )
    return Staging(
        construction(
            place.rng, place.s, KERB_EDGE + 0.5, PAVEMENT_EDGE - 0.3, 'a construction site on the pavement', False
        ),
        Wanted(clear_pavement=True, junction='none', clear_right=True),
    )


def _fridge(place: _Place, anomalous: bool) -> Staging:
    if anomalous:
        return _in_lane(
            place,
            'fridge',
            'a fridge standing on the road',
            furniture(place.rng, 'fridge'),
            heading=place.rng.uniform(0, 6.3),
        )
    return _on_pavement(
        place,
        'bin',
        'a litter bin on the pavement',
        [Shadow(0.6, 0.6), Solid(solid('bin'), paints((60, 92, 72)))],
        KERB_EDGE + 0.6,
    )


_STAGES: dict[str, Callable[[_Place, bool], Staging]] = {
    'stop_sign_on_billboard': _stop_sign,
    'traffic_light_on_truck': _light_on_truck,
    'person_lying_in_lane': _lying,
    'car_on_its_side': _car_on_side,
    'wrong_way_car': _wrong_way,
    'bicycle_on_roof': _bicycle_on_roof,
    'tree_across_road': _tree_across,
    'cow_on_road': _cow,
    'deer_on_road': _deer,
    'sofa_in_lane': _sofa,
    'loose_tyre': _tyre,
    'car_on_facade': _facade_car,
    'moon_beside_traffic_light': _moon,
    'road_painted_on_truck': _truck_picture,
    'smoke_over_road': _smoke,
    'flooded_road': _flood,
    'crowd_in_lane': _crowd,
    'speed_sign_on_road': _fallen_sign,
    'construction_in_lane': _construction,
    'fridge_in_lane': _fridge,
}
