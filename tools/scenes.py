"""Training scenes: the town's things in places and poses where they are usual and where they are not.

A foundation model trained on the web has seen cows, sofas, overturned cars and crowds. The
small encoder of this package has only its simulator to learn from, so its training drives
show those things too: the catalogue's scenarios and their twins, and random compositions
(anything on the road, on the pavement, in the air, on a roof, on a facade; upright or
overturned; large or small), each with a caption. Their towns have seeds of `TOWN_SEEDS`,
which `semanom simulate` is not meant to use.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from semanom_ros.simulation.drive import RATE, Drive, SimulatedFrame
from semanom_ros.simulation.meshes import CARS
from semanom_ros.simulation.painter import FloatArray, Texture
from semanom_ros.simulation.scenarios import animal_parts, crowd, moon_parts, smoke_parts, trunk_parts
from semanom_ros.simulation.textures import KERB_EDGE, PAVEMENT_EDGE, billboard
from semanom_ros.simulation.things import (
    Bicycle,
    Figure,
    Lying,
    Part,
    Shadow,
    Stage,
    Thing,
    furniture,
    hoarding,
    sign,
    sign_texture,
    traffic_light,
    turn,
    vehicle_parts,
)
from semanom_ros.simulation.town import BLOCK, LANE, SURFACES, Block, Town

TOWN_SEEDS = range(1_000_000, 2_000_000)
FURNITURE = ('sofa', 'chair', 'table', 'fridge', 'mattress', 'tyre', 'wheel', 'box', 'cone', 'barrier', 'bin', 'bench')
NAMES = {'wheel': 'tyre'}
SURFACE_CAPTIONS = tuple(f'the {name}' if name else '' for name in SURFACES)
LIFTED = 'in the air'
USUAL_CAPTIONS = frozenset(
    (
        *SURFACE_CAPTIONS,
        'a bench on the pavement',
        'a billboard with an advertisement',
        *(f'a {name} coming towards us in the opposite lane' for name in ('car', 'van', 'bus', 'truck')),
        *(f'a {name} driving ahead' for name in ('car', 'van', 'bus', 'truck')),
        'a car parked at the kerb',
        'a car parked in front of a house',
        'a car waiting in the side street',
        'a cardboard box on the pavement',
        'a construction site on the pavement',
        'a cow on a meadow',
        'a crowd on the pavement',
        'a cyclist riding on the road',
        'a dog walking on the pavement',
        'a fence beside the street',
        'a litter bin on the pavement',
        'a person crossing at the crosswalk',
        'a person standing on the pavement',
        'a person walking on the pavement',
        'a puddle at the kerb',
        'a speed sign on its pole',
        'a stop sign on its pole',
        'a street lamp on the pavement',
        'a traffic light on its pole',
        'a tree beside the street',
        'a van parked at the kerb',
        'a warning sign on its pole',
        'a yellow moon in the sky',
        'smoke from a chimney',
    )
)
"""What nominal drives show, the anomalies' twins among them; every other caption is of something out of place."""


def frames(seed: int, count: int, stride: int = 5) -> Iterator[SimulatedFrame]:
    """Training frames, `stride` / RATE seconds apart, a new town and weather after every 40.

    Args:
        seed: the same seed gives the same frames.
        count: how many.
        stride: frames of the drive from one to the next.
    """
    made = 0
    while made < count:
        rng = np.random.default_rng([seed, made])
        town_seed = TOWN_SEEDS.start + int(rng.integers(len(TOWN_SEEDS)))
        drive = _Composed(
            town_seed, bool(rng.random() < 0.7), str(rng.choice(('sun', 'sun', 'dusk', 'rain', 'fog', 'mixed')))
        )
        for k in range(min(40, count - made)):
            yield drive.frame(k * stride)
        made += 40


class _Composed(Drive):
    """A drive with random compositions in most of its blocks."""

    def block(self, index: int) -> Block:
        new = index not in self._blocks
        block = super().block(index)
        rng = self.town.rng(20, index + 1000)
        if new and rng.random() < 0.6:
            for _ in range(int(rng.integers(1, 5))):
                block.things.append(
                    composition(self.town, rng, (index + rng.random()) * BLOCK, self._motion.time_at(index * BLOCK))
                )
        return block

    def _look(self, time: float, s: float) -> tuple[float, float, float]:
        # other lanes and heights of the camera than in the evaluated drives
        ego = super()._look(time, s)
        rng = self.town.rng(21, round(time * RATE))
        self._camera.position = (
            self._camera.position + self._camera.axes[0] * rng.normal(0, 0.25) + (0, 0, rng.normal(0, 0.05))
        )
        return ego


def composition(town: Town, rng: np.random.Generator, s: float, time: float) -> Thing:
    """Something, somewhere, in some pose.

    Args:
        town: for its people.
        rng: decides all.
        s: metres along the route.
        time: when the camera gets there, seconds.
    """
    kind = rng.random()
    if kind < 0.3:
        return _vehicle(town, rng, s)
    if kind < 0.5:
        return _person(town, rng, s, time)
    if kind < 0.62:
        name = str(rng.choice(('cow', 'deer', 'horse', 'dog')))
        return _placed(rng, name, animal_parts(rng, name), s, 'standing ')
    if kind < 0.84:
        piece = str(rng.choice(FURNITURE))
        name = NAMES.get(piece, piece)
        posture = 'lying ' if name == 'tyre' else 'standing '
        thing = _placed(rng, name, furniture(rng, piece), s, posture)
        if thing.caption in ('a tyre lying on the road',):
            thing.caption = 'a loose tyre on the road'
        return thing
    return _other(town, rng, s)


def _placed(rng: np.random.Generator, name: str, parts: list[Part], s: float, posture: str) -> Thing:
    """On the road, on the pavement or in the air."""
    heading = rng.uniform(0, 2 * math.pi)
    where = rng.random()
    if where < 0.55:
        return Thing(name, f'a {name} {posture}on the road', parts, s, rng.uniform(-3.2, 3.4), heading=heading)
    if where < 0.85:
        side = rng.choice((-1, 1))
        caption = {
            'bench': 'a bench on the pavement',
            'bin': 'a litter bin on the pavement',
            'box': 'a cardboard box on the pavement',
            'dog': 'a dog walking on the pavement',
        }.get(name, f'a {name} {posture}on the pavement')
        return Thing(name, caption, parts, s, side * rng.uniform(KERB_EDGE + 0.5, PAVEMENT_EDGE - 0.4), heading=heading)
    return Thing(name, f'a {name} {LIFTED}', parts[1:], s, rng.uniform(-5, 6), z=rng.uniform(1.5, 6), heading=heading)


def _vehicle(town: Town, rng: np.random.Generator, s: float) -> Thing:
    kind = str(rng.choice((*CARS, *CARS, 'van', 'truck', 'bus')))
    name = 'car' if kind in CARS else kind
    pose = str(rng.choice(('side', 'roof', 'across', 'air', 'facade', 'wrong', 'ahead')))
    parts = vehicle_parts(rng, kind, lights=pose in ('wrong', 'ahead'), shadow=pose not in ('air', 'facade'))
    half = 1.25 if kind in ('bus', 'truck') else 0.9
    if pose in ('side', 'roof'):
        caption = f'a {name} lying on its {pose} on the road'
        rotation = turn(roll=math.pi if pose == 'roof' else rng.choice((-1, 1)) * math.pi / 2)
        height = {'bus': 3.0, 'truck': 3.4, 'van': 2.3}.get(kind, 1.5) if pose == 'roof' else half
        return Thing(
            name,
            caption,
            [_Upright(parts[0]), *parts[1:]],
            s,
            rng.uniform(-2, 3),
            z=height,
            heading=rng.uniform(0, 6.3),
            rotation=rotation,
        )
    if pose == 'across':
        return Thing(
            name,
            f'a {name} standing across the road',
            parts,
            s,
            rng.uniform(-2, 2.5),
            heading=math.pi / 2 * rng.choice((-1, 1)) + rng.uniform(-0.5, 0.5),
        )
    if pose == 'air':
        return Thing(
            name,
            f'a {name} {LIFTED}',
            parts,
            s,
            rng.uniform(-4, 5),
            z=rng.uniform(1.5, 6),
            heading=rng.uniform(0, 6.3),
            rotation=turn(0, rng.uniform(-0.6, 0.6), rng.uniform(-0.6, 0.6)),
        )
    if pose == 'facade':
        return Thing(
            name,
            f'a {name} hanging on a facade',
            parts,
            s,
            rng.choice((-1, 1)) * (PAVEMENT_EDGE + 0.4),
            z=rng.uniform(2, 7),
            heading=math.pi * rng.integers(2),
            rotation=turn(pitch=rng.uniform(-1.4, 1.4)),
        )
    if pose == 'wrong':
        return Thing(
            name,
            f'a {name} coming towards us in our lane',
            parts,
            s,
            LANE + rng.uniform(-0.4, 0.6),
            heading=math.pi + rng.uniform(-0.1, 0.1),
        )
    return Thing(name, f'a {name} driving ahead', parts, s, LANE, heading=rng.uniform(-0.05, 0.05), speed=0.0)


class _Upright:
    """A part that stays on the ground while its thing is overturned: the shadow."""

    def __init__(self, part: Part):
        self._part = part

    def draw(self, stage: Stage, position: FloatArray, rotation: FloatArray, identity: int | None) -> None:
        """Draws it."""
        yaw = math.atan2(rotation[1, 0], rotation[0, 0])
        self._part.draw(stage, position, turn(yaw), identity)


def _person(town: Town, rng: np.random.Generator, s: float, time: float) -> Thing:
    pose = str(rng.choice(('lying', 'lying', 'standing', 'walking', 'roof', 'air', 'cyclist', 'pavement')))
    who = town.somebody(rng)
    heading = rng.uniform(0, 6.3)
    road = rng.uniform(-3.2, 3.6)
    if pose == 'lying':
        if rng.random() < 0.7:
            return Thing(
                'person', 'a person lying on the road', [Shadow(1.0, 1.9, 0.35), Lying(who)], s, road, heading=heading
            )
        return Thing(
            'person',
            'a person lying on the pavement',
            [Shadow(1.0, 1.9, 0.35), Lying(who)],
            s,
            KERB_EDGE + 1.5,
            heading=heading,
        )
    if pose == 'roof':
        if rng.random() < 0.5:
            return Thing(
                'cyclist',
                'a cyclist on the roof of a car',
                [*vehicle_parts(rng, 'sedan'), Bicycle(who, (0, 0, 1.5), rider=who)],
                s,
                LANE,
                heading=rng.uniform(-0.5, 0.5),
            )
        return Thing(
            'person',
            'a person on the roof of a car',
            [*vehicle_parts(rng, 'sedan'), Figure(who, 0.0, (0, 0, 1.5))],
            s,
            LANE + rng.choice((0, 3)),
        )
    if pose == 'air':
        return Thing(
            'person', f'a person {LIFTED}', [Figure(who)], s, rng.uniform(-5, 6), z=rng.uniform(1.2, 6), heading=heading
        )
    if pose == 'cyclist':
        return town.cyclist(rng, s, rng.uniform(2.5, 4), time, rng.choice((-1, 1)) * 4.0)
    if pose == 'pavement':
        return Thing(
            'person',
            'a person standing on the pavement',
            [Shadow(0.6, 0.6, 0.4), Figure(who, 0.0)],
            s,
            rng.choice((-1, 1)) * rng.uniform(KERB_EDGE + 0.4, PAVEMENT_EDGE),
            heading=heading,
        )
    return Thing(
        'person',
        f'a person {pose} on the road',
        [Shadow(0.6, 0.6, 0.4), Figure(who, 0.9 if pose == 'walking' else 0.0)],
        s,
        road,
        heading=heading,
    )


def _other(town: Town, rng: np.random.Generator, s: float) -> Thing:
    kind = str(rng.choice(('stop', 'lights', 'poster', 'smoke', 'trunk', 'moon', 'crowd', 'sign')))
    road, side = rng.uniform(-3, 3.4), float(rng.choice((-1, 1)))
    if kind == 'stop':
        return Thing(
            'stop sign', 'a stop sign on its pole', sign(sign_texture('stop'), 0.85), s, side * (KERB_EDGE + 0.4)
        )
    if kind == 'sign':
        return Thing(
            'speed sign',
            'a speed sign on its pole',
            sign(sign_texture(str(rng.choice((30, 50, 70))))),
            s,
            side * (KERB_EDGE + 0.4),
        )
    if kind == 'lights':
        lights = traffic_light(str(rng.choice(('red', 'amber', 'green'))))
        if rng.random() < 0.4:
            return Thing('traffic light', 'a traffic light standing on the road', lights, s, road)
        return Thing('traffic light', 'a traffic light on its pole', lights, s, side * (KERB_EDGE + 0.4))
    if kind == 'poster':
        return Thing(
            'billboard',
            'a picture of a stop sign on a billboard',
            hoarding(Texture(billboard(rng, 'stop sign')), rng.uniform(3.2, 5.2)),
            s,
            side * (PAVEMENT_EDGE - rng.uniform(-2, 0.8)),
            heading=0.25 * side,
        )
    if kind == 'smoke':
        return Thing(
            'smoke', 'smoke over the road', smoke_parts(rng, rng.uniform(3, 8), rng.uniform(2, 4.5), 3), s, road
        )
    if kind == 'trunk':
        return Thing('tree', 'a tree lying across the road', trunk_parts(rng), s, road)
    if kind == 'moon':
        return Thing(
            'moon',
            'a yellow moon in the sky',
            moon_parts(rng.uniform(0.8, 2.0)),
            s + 20,
            rng.uniform(-4, 4),
            z=rng.uniform(6, 13),
        )
    low, high = (0.4, 3.6) if rng.random() < 0.5 else (-3.6, 0.0)
    people = crowd(town, rng, s, low, high, 1, 'a crowd standing on the road', False)[0]
    count = int(rng.integers(4, 9))
    people.parts = [
        Shadow(2.0, 2.4, 0.3),
        *(Figure(town.somebody(rng), 0.0, (rng.uniform(-1.2, 1.2), rng.uniform(-1.5, 1.5), 0)) for _ in range(count)),
    ]
    return people
