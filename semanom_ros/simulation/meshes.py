"""Solids: vehicles, furniture, street furniture.

Frame of every mesh: x forward, y left, z up, on the ground at z = 0, metres.
"""

from __future__ import annotations

import itertools
import math
from functools import cache

from semanom_ros.simulation.painter import Colour, Mesh

GLASS: Colour = (46, 56, 66)
RUBBER: Colour = (28, 28, 30)
RIM: Colour = (150, 152, 156)
LAMP: Colour = (250, 246, 226)
TAIL: Colour = (196, 24, 28)
UNDER: Colour = (44, 42, 42)

CAR_PAINTS: tuple[Colour, ...] = (
    (180, 26, 30),
    (32, 60, 130),
    (230, 230, 228),
    (36, 38, 42),
    (150, 154, 160),
    (70, 96, 70),
    (206, 168, 60),
    (110, 40, 46),
    (90, 140, 170),
    (196, 190, 176),
    (62, 66, 74),
    (214, 96, 40),
)
# side profiles (x, z), from the rear bumper over the roof to the front; then the windows' outlines
_PROFILES: dict[str, dict[str, list[tuple[float, float]]]] = {
    'sedan': {
        'body': [
            (-2.2, 0.35),
            (-2.25, 0.8),
            (-2.1, 0.98),
            (-1.5, 1.02),
            (-0.95, 1.45),
            (0.35, 1.47),
            (1.0, 1.0),
            (1.95, 0.88),
            (2.2, 0.7),
            (2.2, 0.33),
        ],
        'window': [(-1.35, 1.02), (-0.9, 1.38), (-0.32, 1.40), (-0.32, 1.0)],
        'window2': [(-0.22, 1.0), (-0.22, 1.40), (0.32, 1.39), (0.85, 1.0)],
    },
    'hatch': {
        'body': [
            (-1.85, 0.35),
            (-1.95, 0.85),
            (-1.85, 1.05),
            (-1.5, 1.5),
            (0.2, 1.54),
            (0.95, 1.02),
            (1.7, 0.9),
            (1.95, 0.7),
            (1.95, 0.33),
        ],
        'window': [(-1.55, 1.05), (-1.35, 1.42), (-0.4, 1.46), (-0.4, 1.03)],
        'window2': [(-0.3, 1.03), (-0.3, 1.46), (0.16, 1.45), (0.8, 1.03)],
    },
    'estate': {
        'body': [
            (-2.3, 0.35),
            (-2.35, 0.9),
            (-2.2, 1.1),
            (-1.95, 1.52),
            (0.3, 1.54),
            (1.0, 1.04),
            (1.95, 0.92),
            (2.25, 0.7),
            (2.25, 0.33),
        ],
        'window': [(-2.05, 1.1), (-1.85, 1.45), (-0.4, 1.47), (-0.4, 1.05)],
        'window2': [(-0.3, 1.05), (-0.3, 1.47), (0.25, 1.46), (0.85, 1.05)],
    },
    'suv': {
        'body': [
            (-2.2, 0.5),
            (-2.25, 1.0),
            (-2.15, 1.2),
            (-1.85, 1.76),
            (0.3, 1.8),
            (0.95, 1.25),
            (1.95, 1.12),
            (2.2, 0.9),
            (2.2, 0.48),
        ],
        'window': [(-1.95, 1.22), (-1.72, 1.68), (-0.4, 1.71), (-0.4, 1.22)],
        'window2': [(-0.3, 1.22), (-0.3, 1.71), (0.25, 1.70), (0.82, 1.22)],
    },
    'van': {
        'body': [
            (-2.5, 0.4),
            (-2.55, 2.15),
            (-2.4, 2.3),
            (1.2, 2.3),
            (1.95, 1.35),
            (2.45, 1.1),
            (2.55, 0.8),
            (2.55, 0.4),
        ],
        'window': [(0.4, 1.45), (0.4, 2.05), (1.1, 2.05), (1.65, 1.42)],
    },
}
CARS = ('sedan', 'hatch', 'estate', 'suv')
VEHICLES = (*CARS, 'van', 'bus', 'truck')
LENGTHS = {'sedan': 4.5, 'hatch': 3.9, 'estate': 4.6, 'suv': 4.4, 'van': 5.1, 'bus': 11.0, 'truck': 8.0}


@cache
def vehicle(kind: str) -> Mesh:
    """A vehicle of one of VEHICLES; its paint is named `paint`, the second one `second`."""
    if kind == 'bus':
        return _bus()
    if kind == 'truck':
        return _truck()
    profile, half = _PROFILES[kind], 0.98 if kind in ('van', 'suv') else 0.88
    body = profile['body']
    waist = 1.05 if kind != 'suv' else 1.25
    mesh = Mesh()

    def side(x: float, z: float, sign: int) -> tuple[float, float, float]:
        lean = 0.22 * max(0.0, z - waist) / 0.5 if kind != 'van' else 0.04 * max(0.0, z - 1.2)
        return x, sign * (half - lean), z

    left = mesh.add([side(x, z, 1) for x, z in reversed(body)][::-1], 'paint')
    right = mesh.add([side(x, z, -1) for x, z in body][::-1], 'paint')
    for face, sign in ((left, 1), (right, -1)):
        turn = -1 if sign > 0 else 1
        low = min(z for _, z in body)
        x0, x1 = body[0][0], body[-1][0]

        def decal(
            points: list[tuple[float, float]], colour: Colour | str, f: int = face, s: int = sign, t: int = turn
        ) -> None:
            corners = [side(x, z, s) for x, z in points]
            mesh.add([(x, y + s * 0.004, z) for x, y, z in corners][:: -1 if t > 0 else 1], colour, f)

        decal([(x0, low), (x0, low + 0.16), (x1, low + 0.16), (x1, low)], (40, 40, 42))
        decal(
            [(x0 + 0.05, waist - 0.2), (x0 + 0.05, waist - 0.15), (x1 - 0.1, waist - 0.17), (x1 - 0.1, waist - 0.21)],
            'line',
        )
        for name in ('window', 'window2'):
            if name in profile:
                decal(profile[name], GLASS)
        for x in (-0.27, 0.95):
            decal([(x, low + 0.18), (x, waist - 0.05), (x + 0.03, waist - 0.05), (x + 0.03, low + 0.18)], 'line')
    n = len(body)
    for k in range(n):
        (xa, za), (xb, zb) = body[k], body[(k + 1) % n]
        bottom = k == n - 1
        face = mesh.add(
            [side(xa, za, 1), side(xa, za, -1), side(xb, zb, -1), side(xb, zb, 1)], UNDER if bottom else 'paint'
        )
        steep = abs(zb - za) > 0.25
        high = min(za, zb) >= waist - 0.12 and max(za, zb) > waist + 0.3
        if high and steep:  # wind screen, rear window
            if kind == 'van' and xa < 0:
                continue
            mesh.add(
                [_towards(p, 0.1) for p in (side(xa, za, 1), side(xa, za, -1), side(xb, zb, -1), side(xb, zb, 1))],
                GLASS,
                face,
            )
    if kind == 'van':
        mesh.add([(1.23, 0.75, 2.2), (1.23, -0.75, 2.2), (1.9, -0.85, 1.4), (1.9, 0.85, 1.4)], GLASS)
    x0, x1 = body[0][0] - 0.06, body[-1][0] + 0.012
    z = waist - 0.28
    front = mesh.add(
        [(x1, -half * 0.98, 0.4), (x1, half * 0.98, 0.4), (x1, half * 0.98, z), (x1, -half * 0.98, z)], 'paint'
    )
    rear = mesh.add(
        [(x0, half * 0.98, 0.4), (x0, -half * 0.98, 0.4), (x0, -half * 0.98, z + 0.12), (x0, half * 0.98, z + 0.12)],
        'paint',
    )
    for sign in (-1, 1):
        y0, y1 = sorted((sign * half * 0.62, sign * half * 0.95))
        mesh.add(
            [
                (x1 + 0.01, y0, z - 0.16),
                (x1 + 0.01, y1, z - 0.16),
                (x1 + 0.01, y1, z - 0.02),
                (x1 + 0.01, y0, z - 0.02),
            ],
            LAMP,
            front,
            0.45,
        )
        mesh.add(
            [
                (x0 - 0.01, y1, z - 0.12),
                (x0 - 0.01, y0, z - 0.12),
                (x0 - 0.01, y0, z + 0.08),
                (x0 - 0.01, y1, z + 0.08),
            ],
            TAIL,
            rear,
            0.35,
        )
    mesh.add(
        [(x1 + 0.01, -0.42, 0.5), (x1 + 0.01, 0.42, 0.5), (x1 + 0.01, 0.42, z - 0.06), (x1 + 0.01, -0.42, z - 0.06)],
        (34, 34, 36),
        front,
    )
    mesh.add(
        [(x1 + 0.02, -0.26, 0.46), (x1 + 0.02, 0.26, 0.46), (x1 + 0.02, 0.26, 0.56), (x1 + 0.02, -0.26, 0.56)],
        (235, 235, 230),
        front,
    )
    mesh.add(
        [(x0 - 0.02, 0.26, 0.55), (x0 - 0.02, -0.26, 0.55), (x0 - 0.02, -0.26, 0.66), (x0 - 0.02, 0.26, 0.66)],
        (235, 225, 150),
        rear,
    )
    wheelbase = 1.32 if kind != 'van' else 1.6
    for x in (-wheelbase, wheelbase):
        _wheels(mesh, x, half, 0.33 if kind not in ('suv', 'van') else 0.38)
    return mesh


def _towards(p: tuple[float, float, float], share: float) -> tuple[float, float, float]:
    return p[0], p[1] * (1 - share), p[2]


def _wheels(mesh: Mesh, x: float, half: float, radius: float) -> None:
    for sign in (-1, 1):
        y = sign * (half + 0.01)
        inner, outer = mesh.cylinder((x, y - sign * 0.2, radius), 1, sign * 0.22, radius, RUBBER, RUBBER, sides=14)
        del inner
        ring = [
            (
                x + radius * 0.6 * math.cos(k * math.pi / 5),
                y + sign * 0.03,
                radius + radius * 0.6 * math.sin(k * math.pi / 5),
            )
            for k in range(10)
        ]
        mesh.add(ring[::-1] if sign > 0 else ring, RIM, outer)


def _bus() -> Mesh:
    mesh = Mesh()
    faces = mesh.box((-5.5, -1.25, 0.35), (5.5, 1.25, 3.0), 'paint')
    for side, sign in (('left', 1), ('right', -1)):

        def panel(
            x0: float, x1: float, z0: float, z1: float, colour: Colour | str, side: str = side, sign: int = sign
        ) -> None:
            y = sign * 1.255
            mesh.add(
                [(x0, y, z0), (x1, y, z0), (x1, y, z1), (x0, y, z1)][:: -1 if sign > 0 else 1], colour, faces[side]
            )

        panel(-5.5, 5.5, 0.35, 0.6, (40, 40, 42))
        panel(-5.5, 5.5, 0.95, 1.25, 'second')
        for k in range(7):
            panel(-5.2 + 1.5 * k, -3.85 + 1.5 * k, 1.45, 2.55, GLASS)
        if sign < 0:
            for x in (-0.5, 4.0):
                panel(x, x + 1.1, 0.5, 2.6, (70, 78, 86))
    for x, face, turn in ((5.505, 'front', 1), (-5.505, 'back', -1)):
        mesh.add([(x, -1.1, 1.1), (x, 1.1, 1.1), (x, 1.1, 2.45), (x, -1.1, 2.45)][::turn], GLASS, faces[face])
        mesh.add(
            [(x, -0.8, 2.55), (x, 0.8, 2.55), (x, 0.8, 2.85), (x, -0.8, 2.85)][::turn],
            (250, 180, 40) if turn > 0 else (50, 50, 50),
            faces[face],
            0.4,
        )
        for y in (-0.95, 0.75):
            mesh.add(
                [(x, y, 0.65), (x, y + 0.25, 0.65), (x, y + 0.25, 0.9), (x, y, 0.9)][::turn],
                LAMP if turn > 0 else TAIL,
                faces[face],
                0.4,
            )
    for x in (-3.2, 3.6):
        _wheels(mesh, x, 1.24, 0.48)
    return mesh


def _truck() -> Mesh:
    mesh = Mesh()
    cargo = mesh.box((-4.0, -1.2, 0.95), (2.0, 1.2, 3.4), 'second')
    mesh.box((-4.0, -1.1, 0.55), (2.0, 1.1, 0.95), (50, 50, 52))
    cab = mesh.box((2.15, -1.15, 0.55), (4.0, 1.15, 2.7), 'paint')
    mesh.add([(4.005, -1.0, 1.6), (4.005, 1.0, 1.6), (4.005, 1.0, 2.5), (4.005, -1.0, 2.5)], GLASS, cab['front'])
    mesh.add([(4.005, -0.7, 0.8), (4.005, 0.7, 0.8), (4.005, 0.7, 1.4), (4.005, -0.7, 1.4)], (40, 40, 42), cab['front'])
    for y in (-1.05, 0.8):
        mesh.add(
            [(4.01, y, 0.7), (4.01, y + 0.25, 0.7), (4.01, y + 0.25, 0.95), (4.01, y, 0.95)], LAMP, cab['front'], 0.4
        )
    for sign, side in ((1, 'left'), (-1, 'right')):
        y = sign * 1.155
        mesh.add(
            [(2.9, y, 1.6), (3.85, y, 1.6), (3.85, y, 2.4), (2.9, y, 2.4)][:: -1 if sign > 0 else 1], GLASS, cab[side]
        )
        y = sign * 1.205
        mesh.add(
            [(-3.6, y, 1.7), (1.4, y, 1.7), (1.4, y, 2.6), (-3.6, y, 2.6)][:: -1 if sign > 0 else 1],
            'paint',
            cargo[side],
        )
    mesh.add(
        [(-4.005, 0.02, 0.98), (-4.005, -0.02, 0.98), (-4.005, -0.02, 3.38), (-4.005, 0.02, 3.38)],
        (90, 90, 92),
        cargo['back'],
    )
    rear = mesh.add([(-4.01, 1.15, 0.6), (-4.01, -1.15, 0.6), (-4.01, -1.15, 0.95), (-4.01, 1.15, 0.95)], (60, 60, 62))
    for y in (-0.85, 1.1):
        mesh.add(
            [(-4.02, y, 0.68), (-4.02, y - 0.25, 0.68), (-4.02, y - 0.25, 0.88), (-4.02, y, 0.88)], TAIL, rear, 0.4
        )
    for x in (-2.6, -1.5, 2.9):
        _wheels(mesh, x, 1.14, 0.48)
    return mesh


@cache
def solid(kind: str) -> Mesh:
    """Things that are neither vehicles nor flat, by name, e.g. `sofa`, `cone`, `lamp` (of a traffic light)."""
    mesh = Mesh()
    if kind == 'sofa':
        mesh.box((-0.45, -1.0, 0.15), (0.45, 1.0, 0.45), 'paint')
        mesh.box((-0.45, -1.0, 0.45), (-0.2, 1.0, 0.95), 'paint')
        for y in (-1.05, 0.85):
            mesh.box((-0.45, y, 0.15), (0.45, y + 0.2, 0.68), 'line')
        for y in (-0.78, 0.05):
            mesh.box((-0.2, y, 0.45), (0.45, y + 0.75, 0.58), 'light')
    elif kind == 'chair':
        for x in (-0.25, 0.2):
            for y in (-0.25, 0.2):
                mesh.box((x, y, 0), (x + 0.06, y + 0.06, 0.45), 'line')
        mesh.box((-0.27, -0.27, 0.45), (0.27, 0.27, 0.52), 'paint')
        mesh.box((-0.27, -0.27, 0.52), (-0.2, 0.27, 1.05), 'paint')
    elif kind == 'table':
        for x in (-0.4, 0.34):
            for y in (-0.75, 0.69):
                mesh.box((x, y, 0), (x + 0.07, y + 0.07, 0.7), 'line')
        mesh.box((-0.45, -0.85, 0.7), (0.45, 0.85, 0.77), 'paint')
    elif kind == 'fridge':
        faces = mesh.box((-0.35, -0.35, 0), (0.35, 0.35, 1.75), (232, 232, 230))
        for x, turn in ((0.355, 1), (-0.355, -1)):
            f = faces['front' if turn > 0 else 'back']
            mesh.add([(x, -0.35, 1.1), (x, 0.35, 1.1), (x, 0.35, 1.13), (x, -0.35, 1.13)][::turn], (120, 120, 120), f)
            mesh.add([(x, 0.2, 0.6), (x, 0.25, 0.6), (x, 0.25, 1.05), (x, 0.2, 1.05)][::turn], (90, 90, 90), f)
    elif kind == 'mattress':
        faces = mesh.box((-0.9, -0.7, 0), (0.9, 0.7, 0.25), (226, 222, 230))
        for x in (-0.6, -0.2, 0.2, 0.6):
            mesh.add(
                [(x, -0.7, 0.255), (x + 0.06, -0.7, 0.255), (x + 0.06, 0.7, 0.255), (x, 0.7, 0.255)],
                (150, 170, 205),
                faces['top'],
            )
    elif kind == 'tyre':  # lies flat
        _, top = mesh.cylinder((0, 0, 0), 2, 0.26, 0.42, RUBBER, (40, 40, 42), sides=16)
        inner = Mesh()
        _, hole = inner.cylinder((0, 0, 0), 2, 0.265, 0.2, RUBBER, RUBBER, sides=12)
        mesh.add([inner.points[i] for i in inner.faces[hole]], (16, 16, 18), top)
    elif kind == 'wheel':  # stands
        a, b = mesh.cylinder((0, -0.12, 0.38), 1, 0.24, 0.38, RUBBER, (40, 40, 42), sides=16)
        for y, parent, turn in ((-0.125, a, 1), (0.125, b, -1)):
            ring = [(0.2 * math.cos(k * math.pi / 6), y, 0.38 + 0.2 * math.sin(k * math.pi / 6)) for k in range(12)]
            mesh.add(ring[::turn], (110, 110, 114), parent)
    elif kind == 'box':
        faces = mesh.box((-0.4, -0.5, 0), (0.4, 0.5, 0.7), (176, 134, 88))
        for x, turn in ((0.405, 1), (-0.405, -1)):
            mesh.add(
                [(x, -0.06, 0), (x, 0.06, 0), (x, 0.06, 0.7), (x, -0.06, 0.7)][::turn],
                (206, 176, 130),
                faces['front' if turn > 0 else 'back'],
            )
    elif kind == 'cone':
        mesh.box((-0.2, -0.2, 0), (0.2, 0.2, 0.05), (30, 30, 30))
        rings = [
            (0.15, 0.05, None),
            (0.115, 0.25, (236, 92, 26)),
            (0.09, 0.4, (240, 240, 236)),
            (0.03, 0.75, (236, 92, 26)),
        ]
        for (r0, z0, _), (r1, z1, colour) in itertools.pairwise(rings):
            for k in range(8):
                this, following = k * math.pi / 4, (k + 1) * math.pi / 4
                mesh.add(
                    [
                        (r0 * math.cos(this), r0 * math.sin(this), z0),
                        (r0 * math.cos(following), r0 * math.sin(following), z0),
                        (r1 * math.cos(following), r1 * math.sin(following), z1),
                        (r1 * math.cos(this), r1 * math.sin(this), z1),
                    ],
                    colour or (236, 92, 26),
                )
    elif kind == 'barrier':
        for y in (-0.95, 0.85):
            mesh.box((-0.2, y, 0), (0.2, y + 0.1, 0.12), (40, 40, 40))
            mesh.box((-0.04, y, 0.1), (0.04, y + 0.1, 1.05), (150, 150, 150))
        faces = mesh.box((-0.03, -1.0, 0.7), (0.03, 1.0, 1.0), (240, 240, 236))
        for k in range(4):
            y = -0.98 + k * 0.5
            for x, turn in ((0.035, 1), (-0.035, -1)):
                mesh.add(
                    [(x, y, 0.7), (x, y + 0.25, 0.7), (x, y + 0.4, 1.0), (x, y + 0.15, 1.0)][::turn],
                    (206, 30, 34),
                    faces['front' if turn > 0 else 'back'],
                )
    elif kind == 'bin':
        mesh.cylinder((0, 0, 0), 2, 0.9, 0.28, 'paint', 'line', sides=10)
    elif kind == 'post':  # a broken-off pole that lies on the ground
        mesh.box((-0.1, -0.04, 0), (2.2, 0.04, 0.08), 'paint')
    elif kind == 'bench':
        for y in (-0.8, 0.72):
            mesh.box((-0.2, y, 0), (0.2, y + 0.08, 0.42), (60, 60, 62))
        mesh.box((-0.25, -0.9, 0.42), (0.2, 0.9, 0.48), (140, 98, 58))
        mesh.box((-0.3, -0.9, 0.6), (-0.25, 0.9, 0.9), (140, 98, 58))
    elif kind == 'lamp':  # traffic light: housing with three dark lamps towards +x
        faces = mesh.box((-0.14, -0.19, 0), (0.14, 0.19, 1.0), (34, 36, 36))
        for z in (0.17, 0.5, 0.83):
            ring = [(0.145, 0.12 * math.cos(k * math.pi / 5), z + 0.12 * math.sin(k * math.pi / 5)) for k in range(10)]
            mesh.add(ring, {0.17: 'green', 0.5: 'amber', 0.83: 'red'}[z], faces['front'], 0.75)
        mesh.add(
            [(-0.145, 0.19, 0), (-0.145, -0.19, 0), (-0.145, -0.19, 1), (-0.145, 0.19, 1)], (60, 62, 62), faces['back']
        )
    return mesh
