"""Procedural pictures: facades, ground, signs, billboards, trees, people and animals.

Everything is drawn from a `numpy.random.Generator`; nothing is loaded from disk. Sprites
are drawn four times larger with hard edges and averaged down, which smooths them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

from semanom_ros.simulation.painter import Colour, Picture

FACADE_SCALE = 26  # texels per metre
GROUND_SCALE = 28
TILE_LENGTH = 5.0  # metres of street per ground tile
HALF_STREET = 16.0  # metres of ground drawn to either side of the centre line
ROAD_EDGE, KERB_EDGE, PAVEMENT_EDGE = 5.7, 5.95, 9.2


def shade(colour: Colour, factor: float) -> Colour:
    """A darker or lighter colour."""
    r, g, b = (min(255.0, max(0.0, float(c) * factor)) for c in colour)
    return r, g, b


def random_colour(rng: np.random.Generator, low: int, high: int) -> Colour:
    """A colour with each channel from low to high."""
    r, g, b = rng.integers(low, high, 3).tolist()
    return r, g, b


def noise(rng: np.random.Generator, height: int, width: int, cell: int) -> npt.NDArray[np.float32]:
    """(height, width) smooth noise of zero mean, about -1 to 1, with features of `cell` texels."""
    coarse = rng.standard_normal((height // cell + 2, width // cell + 2)).astype(np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) * 0.5


def grain(picture: Picture, rng: np.random.Generator, fine: float, coarse: float, cell: int = 24) -> Picture:
    """A picture with material noise on it."""
    h, w = picture.shape[:2]
    bumps = fine * rng.standard_normal((h, w)).astype(np.float32) + coarse * noise(rng, h, w, cell)
    return np.clip(picture.astype(np.float32) + bumps[..., None], 0, 255).astype(np.uint8)


def _smooth(size: tuple[int, int], draw: Callable[[Picture, float], None], scale: int = 4) -> Picture:
    """(h, w, 4): what `draw` paints on a transparent picture `scale` times larger."""
    large = np.zeros((size[0] * scale, size[1] * scale, 4), np.uint8)
    draw(large, float(scale))
    alpha = large[..., 3:].astype(np.float32)
    weighted = cv2.resize(large[..., :3] * (alpha / 255), (size[1], size[0]), interpolation=cv2.INTER_AREA)
    small = cv2.resize(alpha, (size[1], size[0]), interpolation=cv2.INTER_AREA)
    rgb = weighted / np.maximum(small[..., None] / 255, 1e-3)
    return np.dstack([np.clip(rgb, 0, 255), small]).astype(np.uint8)


def _fill(picture: Picture, points: list[tuple[float, float]], colour: Colour, scale: float) -> None:
    cv2.fillPoly(picture, [np.rint(np.array(points) * scale).astype(np.int32)], (*colour, 255)[: picture.shape[2]])


def _disc(
    picture: Picture,
    centre: tuple[float, float],
    axes: tuple[float, float],
    colour: Colour,
    scale: float,
    angle: float = 0.0,
) -> None:
    cv2.ellipse(
        picture,
        (round(centre[0] * scale), round(centre[1] * scale)),
        (max(1, round(axes[0] * scale)), max(1, round(axes[1] * scale))),
        angle,
        0,
        360,
        (*colour, 255)[: picture.shape[2]],
        -1,
    )


def _limb(picture: Picture, points: list[tuple[float, float]], width: float, colour: Colour, scale: float) -> None:
    for a, b in itertools.pairwise(points):
        cv2.line(
            picture,
            (round(a[0] * scale), round(a[1] * scale)),
            (round(b[0] * scale), round(b[1] * scale)),
            (*colour, 255)[: picture.shape[2]],
            max(1, round(width * scale)),
        )
    for p in points:
        _disc(picture, p, (width / 2, width / 2), colour, scale)


# -- facades

WALLS: tuple[Colour, ...] = (
    (196, 178, 150),
    (172, 96, 74),
    (205, 196, 180),
    (150, 120, 100),
    (188, 150, 110),
    (160, 160, 158),
    (214, 190, 140),
    (140, 86, 70),
    (180, 188, 190),
    (206, 160, 140),
    (130, 134, 140),
    (222, 214, 196),
)
SHOP_PAINTS: tuple[Colour, ...] = (
    (40, 80, 60),
    (120, 30, 36),
    (30, 50, 90),
    (60, 44, 34),
    (24, 24, 28),
    (150, 110, 40),
    (70, 30, 80),
)


def facade(
    rng: np.random.Generator, width: float, floors: int, palette: tuple[Colour, ...], shop: bool, lit: float
) -> Picture:
    """A house front.

    Args:
        rng: decides everything else.
        width: metres; the height is 3.4 m and 3 m for each further floor.
        floors: number of floors.
        palette: wall colours of the town.
        shop: whether the ground floor is a shop.
        lit: share of the windows with light behind them.
    """
    px = FACADE_SCALE
    w, h = round(width * px), round((3.4 + 3.0 * (floors - 1)) * px)
    wall = palette[rng.integers(len(palette))]
    picture = np.empty((h, w, 3), np.uint8)
    picture[:] = wall
    if wall[0] > wall[2] * 1.5 or rng.random() < 0.25:  # brick courses
        picture[::4] = shade(wall, 0.86)
        for row in range(0, h, 4):
            picture[row : row + 4, (row % 8) * 1 :: 8] = shade(wall, 0.9)
    picture = grain(picture, rng, 4, 7, 40)
    frame: Colour = (230, 228, 222) if rng.random() < 0.6 else (70, 62, 56)
    glass: Colour = (58, 70, 84) if rng.random() < 0.6 else (84, 98, 110)
    count = max(1, round(width / rng.uniform(2.0, 2.9)))
    pitch = w / count
    ww, wh = int(px * rng.uniform(1.0, 1.4)), int(px * rng.uniform(1.35, 1.9))
    shutters = rng.random() < 0.3
    shutter = random_colour(rng, 40, 130)
    for floor in range(1 if shop else 0, floors):
        base = h - round((3.4 + 3.0 * (floor - 1)) * px) if floor else h
        top = base - (round(3.0 * px) if floor else round(3.4 * px)) + round(0.75 * px)
        if floor:
            cv2.rectangle(picture, (0, base - 3), (w, base), shade(wall, 1.12), -1)
        door = rng.integers(count) if floor == 0 else -1
        for column in range(count):
            x = round(pitch * (column + 0.5) - ww / 2)
            if column == door:
                colour = random_colour(rng, 40, 140)
                cv2.rectangle(picture, (x, h - round(2.3 * px)), (x + ww, h), shade(wall, 0.7), -1)
                cv2.rectangle(picture, (x + 3, h - round(2.2 * px)), (x + ww - 3, h), colour, -1)
                cv2.rectangle(
                    picture, (x + 7, h - round(2.0 * px)), (x + ww - 7, h - round(1.2 * px)), shade(colour, 1.3), -1
                )
                continue
            _window(picture, rng, x, top, ww, wh, frame, glass, lit)
            if shutters and floor:
                for side in (x - ww // 2 - 1, x + ww + 1):
                    cv2.rectangle(picture, (side, top), (side + ww // 2, top + wh), shutter, -1)
                    picture[top : top + wh : 4, max(0, side) : max(0, side + ww // 2)] = shade(shutter, 0.8)
    if shop:
        _shop(picture, rng, lit)
    cv2.rectangle(picture, (0, 0), (w, round(0.35 * px)), shade(wall, 1.15), -1)  # cornice
    cv2.rectangle(picture, (0, round(0.35 * px)), (w, round(0.45 * px)), shade(wall, 0.7), -1)
    picture[:, :2] = shade(wall, 0.6)
    dirt = np.linspace(0, 1, h, dtype=np.float32)[:, None, None] ** 4 * 22
    return np.clip(picture - dirt, 0, 255).astype(np.uint8)


def _window(
    picture: Picture, rng: np.random.Generator, x: int, y: int, w: int, h: int, frame: Colour, glass: Colour, lit: float
) -> None:
    glow = rng.random() < lit
    pane = (250, 214, 140) if glow else shade(glass, rng.uniform(0.7, 1.25))
    cv2.rectangle(picture, (x - 2, y - 2), (x + w + 2, y + h + 2), frame, -1)
    cv2.rectangle(picture, (x, y), (x + w, y + h), pane, -1)
    if not glow:  # the sky in the upper part of the pane
        cv2.fillPoly(picture, [np.array([(x, y), (x + w, y), (x + w, y + h // 4), (x, y + h // 2)])], shade(pane, 1.35))
    if rng.random() < 0.5:
        curtain = (214, 206, 190) if not glow else (236, 190, 120)
        cv2.rectangle(picture, (x, y), (x + w // 5, y + h), curtain, -1)
        cv2.rectangle(picture, (x + w - w // 5, y), (x + w, y + h), curtain, -1)
    cv2.line(picture, (x + w // 2, y), (x + w // 2, y + h), frame, 2)
    cv2.line(picture, (x, y + h // 3), (x + w, y + h // 3), frame, 2)
    cv2.rectangle(picture, (x - 5, y + h + 2), (x + w + 5, y + h + 5), shade(frame, 0.85), -1)


def _shop(picture: Picture, rng: np.random.Generator, lit: float) -> None:
    px = FACADE_SCALE
    h, w = picture.shape[:2]
    top = h - round(3.3 * px)
    paint = SHOP_PAINTS[rng.integers(len(SHOP_PAINTS))]
    cv2.rectangle(picture, (0, top), (w, h), paint, -1)
    inside: Colour = (255, 226, 170) if lit > 0.2 else (90, 92, 96)
    door = round(w * rng.uniform(0.3, 0.7))
    for left, right in ((5, door - 16), (door + 16, w - 5)):
        if right - left < 10:
            continue
        cv2.rectangle(picture, (left, top + px), (right, h - px // 2), inside, -1)
        for x in range(left + 3, right - 6, 9):  # goods
            colour = tuple(rng.integers(50, 220, 3).tolist())
            tall = int(rng.uniform(0.2, 0.6) * 1.6 * px)
            cv2.rectangle(picture, (x, h - px // 2 - tall), (x + int(rng.integers(4, 8)), h - px // 2), colour, -1)
        cv2.fillPoly(
            picture,
            [np.array([(left, top + px), (left + (right - left) // 3, top + px), (left, h - px)])],
            shade(inside, 1.2),
        )
    cv2.rectangle(picture, (door - 12, top + px), (door + 12, h), shade(inside, 0.8), -1)
    cv2.rectangle(picture, (door - 12, top + px), (door + 12, h), shade(paint, 1.5), 2)
    sign = [(235, 225, 200), (240, 210, 90), (230, 90, 80), (240, 240, 240)][rng.integers(4)]
    x = w // 8
    for _ in range(int(rng.integers(4, 9))):  # a sign of letter-like strokes
        wide = int(rng.integers(7, 14))
        cv2.rectangle(picture, (x, top + 6), (x + wide, top + 18), sign, 2 if rng.random() < 0.5 else -1)
        x += wide + 6
        if x > w - w // 8:
            break
    if rng.random() < 0.5:
        colours = (tuple(rng.integers(90, 230, 3).tolist()), (235, 232, 225))
        for k, x in enumerate(range(0, w, 12)):
            cv2.rectangle(picture, (x, top + px - 4), (x + 12, top + px + 12), colours[k % 2], -1)


# -- ground


def ground_tile(rng: np.random.Generator, kind: str, paving: Colour, verge: Colour) -> Picture:
    """TILE_LENGTH metres of street from the left edge to the right one, the far end on top.

    Args:
        rng: decides the wear.
        kind: `plain`, `parking`, `crosswalk`, `stop` or `junction` (a side street on either side).
        paving, verge: colours of the pavement and of what is behind it.
    """
    px = GROUND_SCALE
    h, w = round(TILE_LENGTH * px), round(2 * HALF_STREET * px)
    asphalt: Colour = (88, 88, 92)
    picture = np.empty((h, w, 3), np.uint8)

    def across(left: float, right: float, colour: Colour, y0: float = 0.0, y1: float = TILE_LENGTH) -> None:
        a, b = round((left + HALF_STREET) * px), round((right + HALF_STREET) * px)
        picture[round(y0 * px) : round(y1 * px), max(0, a) : max(0, b)] = colour

    across(-HALF_STREET, HALF_STREET, verge)
    if kind == 'junction':
        across(-HALF_STREET, HALF_STREET, asphalt)
    else:
        for side in (-1, 1):
            across(min(side * PAVEMENT_EDGE, side * ROAD_EDGE), max(side * PAVEMENT_EDGE, side * ROAD_EDGE), paving)
        across(-ROAD_EDGE, ROAD_EDGE, asphalt)
        for side in (-1, 1):
            across(min(side * ROAD_EDGE, side * KERB_EDGE), max(side * ROAD_EDGE, side * KERB_EDGE), (176, 174, 168))
            across(
                min(side * ROAD_EDGE, side * (ROAD_EDGE - 0.3)),
                max(side * ROAD_EDGE, side * (ROAD_EDGE - 0.3)),
                (70, 70, 72),
            )
    picture = grain(picture, rng, 6, 5, 60)
    if kind != 'junction':  # slabs
        for side in (-1, 1):
            for t in np.arange(KERB_EDGE, PAVEMENT_EDGE, 0.65):
                across(side * t, side * t + 0.04, shade(paving, 0.8))
            for y in np.arange(0, TILE_LENGTH, 0.625):
                across(
                    min(side * KERB_EDGE, side * PAVEMENT_EDGE),
                    max(side * KERB_EDGE, side * PAVEMENT_EDGE),
                    shade(paving, 0.84),
                    y,
                    y + 0.04,
                )
    wheel = np.zeros((1, w, 1), np.float32)
    t_axis = (np.arange(w) / px - HALF_STREET)[None, :, None]
    for t in (-2.5, -1.0, 1.0, 2.5):  # darker wheel tracks
        wheel -= 7 * np.exp(-(((t_axis - t) / 0.3) ** 2)).astype(np.float32)
    picture = np.clip(picture + wheel, 0, 255).astype(np.uint8)
    for _ in range(int(rng.integers(0, 3))):  # patches and cracks
        x, y = int(rng.uniform(11, 21) * px), int(rng.uniform(0, TILE_LENGTH) * px)
        cv2.rectangle(picture, (x, y), (x + int(rng.integers(15, 50)), y + int(rng.integers(10, 40))), (76, 76, 80), -1)
    white: Colour = (214, 214, 210)
    if kind in ('plain', 'parking'):
        across(-0.07, 0.07, white, 0.0, 2.5)
    if kind == 'parking':
        for side in (-1, 1):
            across(side * 3.5 - 0.05, side * 3.5 + 0.05, white)
            across(min(side * 3.5, side * ROAD_EDGE), max(side * 3.5, side * ROAD_EDGE), white, 0.0, 0.1)
    if kind == 'crosswalk':
        for t in np.arange(-5.2, 5.2, 1.0):
            across(t, t + 0.5, white, 0.8, 4.2)
    if kind == 'stop':
        across(-0.07, 0.07, white)
        across(0.1, 3.5, white, 1.0, 1.45)
    wear = rng.random((h, w, 1)) < 0.12
    return np.where(wear, np.clip(picture.astype(np.int16) - 14, 0, 255).astype(np.uint8), picture)


# -- signs and billboards


def stop_sign() -> Picture:
    """(96, 96, 4): a red octagon with STOP."""

    def draw(p: Picture, s: float) -> None:
        for radius, colour in ((47, (240, 240, 240)), (44, (192, 22, 30))):
            _fill(
                p,
                [
                    (48 + radius * math.cos(math.pi * (k + 0.5) / 4), 48 + radius * math.sin(math.pi * (k + 0.5) / 4))
                    for k in range(8)
                ],
                colour,
                s,
            )
        cv2.putText(
            p,
            'STOP',
            (round(10 * s), round(57 * s)),
            cv2.FONT_HERSHEY_SIMPLEX,
            0.93 * s,
            (245, 245, 245, 255),
            round(5 * s),
        )

    return _smooth((96, 96), draw, 3)


def speed_sign(limit: int) -> Picture:
    """(96, 96, 4): a red ring with a number."""

    def draw(p: Picture, s: float) -> None:
        _disc(p, (48, 48), (47, 47), (200, 24, 32), s)
        _disc(p, (48, 48), (36, 36), (244, 244, 240), s)
        cv2.putText(
            p,
            str(limit),
            (round(19 * s), round(62 * s)),
            cv2.FONT_HERSHEY_SIMPLEX,
            1.45 * s,
            (20, 20, 20, 255),
            round(6 * s),
        )

    return _smooth((96, 96), draw, 3)


def warning_sign() -> Picture:
    """(96, 96, 4): a red and white triangle."""

    def draw(p: Picture, s: float) -> None:
        _fill(p, [(48, 4), (94, 88), (2, 88)], (200, 24, 32), s)
        _fill(p, [(48, 22), (80, 80), (16, 80)], (244, 244, 240), s)
        _fill(p, [(44, 38), (52, 38), (50, 62), (46, 62)], (20, 20, 20), s)
        _disc(p, (48, 70), (4, 4), (20, 20, 20), s)

    return _smooth((96, 96), draw, 3)


ADVERTS = ('landscape', 'drink', 'face', 'letters', 'shapes')


def billboard(rng: np.random.Generator, subject: str) -> Picture:
    """(144, 256, 3): an advertisement; the subject is one of ADVERTS, or `stop sign`."""
    h, w = 144, 256
    a, b = (np.array(rng.integers(60, 240, 3), np.float32) for _ in range(2))
    ramp = np.linspace(0, 1, h, dtype=np.float32)[:, None, None]
    picture = np.broadcast_to(a * (1 - ramp) + b * ramp, (h, w, 3)).astype(np.uint8).copy()

    def colour() -> Colour:
        r, g, b = rng.integers(30, 250, 3).tolist()
        return r, g, b

    if subject == 'landscape':
        picture[:] = (150 + 60 * (1 - ramp) + np.array([0, 20, 45], np.float32)).astype(np.uint8)
        _disc(picture, (190, 35), (16, 16), (255, 236, 150), 1)
        for base, shore in ((70, (90, 110, 130)), (95, (60, 110, 70)), (120, (220, 200, 140))):
            xs = np.arange(0, w + 16, 16)
            ys = base + rng.uniform(-22, 12, len(xs))
            _fill(picture, [*zip(xs.tolist(), ys.tolist(), strict=True), (w, h), (0, h)], shore, 1)
    elif subject == 'drink':
        tint = colour()
        _fill(picture, [(96, 30), (160, 30), (150, 140), (106, 140)], tint, 1)
        _fill(picture, [(100, 60), (156, 60), (152, 100), (104, 100)], (245, 240, 230), 1)
        _disc(picture, (128, 30), (32, 7), shade(tint, 1.4), 1)
    elif subject == 'face':
        skin = SKINS[rng.integers(len(SKINS))]
        _disc(picture, (128, 150), (62, 40), colour(), 1)
        _disc(picture, (128, 62), (45, 54), shade((60, 40, 30), rng.uniform(0.5, 2.5)), 1)
        _disc(picture, (128, 75), (35, 45), skin, 1)
        for x in (114, 142):
            _disc(picture, (x, 68), (5, 3), (30, 30, 30), 1)
        _disc(picture, (128, 98), (13, 5), (170, 50, 60), 1)
    elif subject == 'letters':
        x = 12
        while x < 230:
            wide = int(rng.integers(12, 26))
            cv2.rectangle(picture, (x, 38), (x + wide, 100), colour(), -1 if rng.random() < 0.4 else 5)
            x += wide + 9
        cv2.rectangle(picture, (12, 114), (180, 124), colour(), -1)
    elif subject == 'shapes':
        for _ in range(7):
            _disc(
                picture, (rng.uniform(0, w), rng.uniform(0, h)), (rng.uniform(12, 50), rng.uniform(12, 50)), colour(), 1
            )
    elif subject == 'stop sign':
        sign = cv2.resize(stop_sign(), (124, 124), interpolation=cv2.INTER_AREA)
        window = picture[10:134, 66:190]
        alpha = sign[..., 3:].astype(np.float32) / 255
        window[:] = (window * (1 - alpha) + sign[..., :3] * alpha).astype(np.uint8)
    cv2.rectangle(picture, (0, 0), (w - 1, h - 1), (60, 60, 64), 5)
    return grain(picture, rng, 3, 0)


def painted_road(rng: np.random.Generator) -> Picture:
    """(160, 160, 3): a road that runs to the horizon under a sky, for the back of a truck."""
    h = w = 160
    ramp = np.linspace(0, 1, 70, dtype=np.float32)[:, None, None]
    picture = np.empty((h, w, 3), np.uint8)
    picture[:70] = (np.array([120, 160, 215]) * (1 - ramp) + np.array([205, 218, 228]) * ramp).astype(np.uint8)
    picture[70:] = (104, 134, 74)
    _fill(picture, [(78, 70), (82, 70), (150, 160), (10, 160)], (92, 92, 96), 1)
    for y0, y1 in ((76, 80), (86, 94), (102, 116), (128, 152)):
        _fill(
            picture,
            [
                (80 - (y0 - 70) / 30, y0),
                (80 + (y0 - 70) / 30, y0),
                (80 + (y1 - 70) / 30, y1),
                (80 - (y1 - 70) / 30, y1),
            ],
            (225, 225, 220),
            1,
        )
    for x in (18, 44, 118, 146):
        _disc(picture, (x, 62 - abs(x - 80) / 10), (12, 14), (58, 96, 50), 1)
    return grain(picture, rng, 3, 3)


# -- plants


def tree(rng: np.random.Generator, kind: str, leaves: Colour) -> Picture:
    """(320, 240, 4): `broad`, `poplar`, `conifer` or `bush`."""

    def draw(p: Picture, s: float) -> None:
        if kind != 'bush':
            bark: Colour = (92, 72, 54)
            _fill(p, [(56, 160), (65, 160), (62, 80), (59, 80)], bark, s)
            _limb(p, [(60, 105), (44, 82)], 3, bark, s)
            _limb(p, [(60, 100), (78, 76)], 3, bark, s)
        blobs = []
        for _ in range(420 if kind != 'bush' else 200):
            angle, radius = rng.uniform(0, 2 * math.pi), math.sqrt(rng.random())
            if kind == 'broad':
                x, y = 60 + 50 * radius * math.cos(angle), 58 + 46 * radius * math.sin(angle)
            elif kind == 'poplar':
                x, y = 60 + 20 * radius * math.cos(angle), 66 + 62 * radius * math.sin(angle)
            elif kind == 'conifer':
                y = rng.uniform(6, 138)
                x = 60 + (y - 2) / 138 * 42 * rng.uniform(-1, 1)
            else:
                x, y = 60 + 50 * radius * math.cos(angle), 134 + 22 * radius * math.sin(angle)
            blobs.append((x + y * 0.4, x, y))
        for key, x, y in sorted(blobs, reverse=True):
            bright = np.clip(1.25 - (key - 20) / 130, 0.5, 1.3) * rng.uniform(0.8, 1.15)
            size = rng.uniform(2, 6.5)
            _disc(p, (x, y), (size, size * rng.uniform(0.6, 1)), shade(leaves, bright), s)

    return _smooth((320, 240), lambda p, s: draw(p, 2 * s), 2)


def fallen_trunk(rng: np.random.Generator, leaves: Colour) -> Picture:
    """(100, 300, 4): a tree that lies on its side, roots on the left."""

    def draw(p: Picture, s: float) -> None:
        bark: Colour = (96, 74, 54)
        _fill(p, [(12, 62), (180, 70), (180, 86), (12, 92)], bark, s)
        _fill(p, [(12, 62), (180, 70), (180, 74), (12, 70)], shade(bark, 1.35), s)
        for _ in range(14):
            _limb(p, [(14, rng.uniform(66, 88)), (rng.uniform(0, 8), rng.uniform(36, 98))], 3, shade(bark, 0.7), s)
        for _ in range(190):
            x, y = rng.uniform(130, 296), rng.uniform(14, 94)
            if ((x - 215) / 88) ** 2 + ((y - 58) / 44) ** 2 < 1:
                _disc(p, (x, y), (rng.uniform(4, 9), rng.uniform(3, 7)), shade(leaves, rng.uniform(0.5, 1.25)), s)

    return _smooth((100, 300), draw, 2)


# -- people and animals

SKINS: tuple[Colour, ...] = ((232, 190, 160), (205, 156, 120), (150, 104, 74), (98, 66, 48))


def person(rng: np.random.Generator, phase: float, view: str, posture: str = 'walking') -> Picture:
    """(150, 84, 4): a person, 1.8 m in 144 texels.

    Args:
        rng: decides clothes, skin and hair; the same generator state gives the same person.
        phase: of the stride, 0 to 1.
        view: `front`, `back` or `side` (facing right).
        posture: `walking`, `standing`, or `riding` (a bicycle).
    """
    coat = random_colour(rng, 30, 215)
    trousers = random_colour(rng, 25, 110)
    skin = SKINS[rng.integers(len(SKINS))]
    hair = shade((70, 48, 34), rng.uniform(0.3, 2.4))
    stout = rng.uniform(0.88, 1.18)
    bag = rng.random() < 0.3
    skirt = rng.random() < 0.2

    def draw(p: Picture, s: float) -> None:
        swing = math.sin(2 * math.pi * phase) * (1.0 if posture == 'walking' else 0.08)
        cx = 42.0
        hip, shoulder = (cx, 78.0), (cx, 36.0)
        if posture == 'riding':
            hip, shoulder = (cx - 8, 80.0), (cx + 8, 44.0)
        if view == 'side':
            for sign, dark in ((-1, 0.75), (1, 1.0)):
                a = sign * swing * 0.55
                if posture == 'riding':
                    a = sign * math.sin(2 * math.pi * phase)
                    knee, foot = (hip[0] + 19, hip[1] + 18 - 6 * a), (hip[0] + 12 + 4 * a, hip[1] + 42 - 8 * a)
                else:
                    knee = (hip[0] + 30 * math.sin(a) + 3, hip[1] + 31 * math.cos(a))
                    foot = (knee[0] + 30 * math.sin(a - 0.25 * max(0, -a)), min(146, knee[1] + 33 * math.cos(a)))
                _limb(p, [hip, knee, foot], 10 * stout, shade(trousers, dark), s)
                _limb(p, [foot, (foot[0] + 7, foot[1] + 1)], 6, (30, 26, 24), s)
                elbow = (shoulder[0] - 16 * sign * swing, shoulder[1] + 22)
                hand = (elbow[0] + 6 - 6 * sign * swing, elbow[1] + 17)
                if posture == 'riding':
                    elbow, hand = (shoulder[0] + 11, shoulder[1] + 16), (shoulder[0] + 24, shoulder[1] + 22)
                if sign < 0:
                    _limb(p, [shoulder, elbow, hand], 8, shade(coat, 0.7), s)
            _limb(p, [hip, (shoulder[0], shoulder[1] + 6)], 19 * stout, coat, s)
            if skirt:
                _fill(
                    p,
                    [
                        (hip[0] - 10, hip[1] - 6),
                        (hip[0] + 10, hip[1] - 6),
                        (hip[0] + 15, hip[1] + 24),
                        (hip[0] - 14, hip[1] + 24),
                    ],
                    coat,
                    s,
                )
            _limb(p, [shoulder, elbow, hand], 8, shade(coat, 1.18), s)
            _disc(p, hand, (4, 4), skin, s)
            if bag:
                _disc(p, (shoulder[0] - 12, shoulder[1] + 18), (8, 14), shade(trousers, 1.6), s)
            head = (shoulder[0] + 3, shoulder[1] - 18)
            _disc(p, head, (9, 11), skin, s)
            _disc(p, (head[0] - 2, head[1] - 4), (9, 8), hair, s)
        else:
            for sign in (-1, 1):
                lift = max(0.0, sign * swing) * 10
                _limb(
                    p,
                    [(cx + sign * 6 * stout, 78), (cx + sign * 7 * stout, 110 - lift / 2), (cx + sign * 7, 144 - lift)],
                    11 * stout,
                    shade(trousers, 1.0 if sign > 0 else 0.88),
                    s,
                )
                _disc(p, (cx + sign * 7, 145 - lift), (6, 4), (30, 26, 24), s)
                _limb(
                    p,
                    [
                        (cx + sign * 15 * stout, 40),
                        (cx + sign * 19 * stout, 62),
                        (cx + sign * 17 * stout, 80 - sign * swing * 5),
                    ],
                    8,
                    shade(coat, 0.85),
                    s,
                )
                _disc(p, (cx + sign * 17 * stout, 82 - sign * swing * 5), (4, 4), skin, s)
            _fill(
                p, [(cx - 15 * stout, 36), (cx + 15 * stout, 36), (cx + 12 * stout, 82), (cx - 12 * stout, 82)], coat, s
            )
            _disc(p, (cx, 37), (15 * stout, 5), coat, s)
            if skirt:
                _fill(p, [(cx - 12, 76), (cx + 12, 76), (cx + 17, 104), (cx - 17, 104)], coat, s)
            if bag and view == 'back':
                _disc(p, (cx, 56), (11, 15), shade(trousers, 1.6), s)
            _disc(p, (cx, 19), (9, 12), skin, s)
            _disc(p, (cx, 14 if view == 'front' else 17), (10, 8 if view == 'front' else 11), hair, s)

    return _smooth((150, 84), draw, 2)


def bicycle(rng: np.random.Generator, side: bool) -> Picture:
    """(100, 160, 4) from the side, 1.75 m in 160 texels, or (100, 40, 4) from behind."""
    paint = random_colour(rng, 40, 220)

    def draw(p: Picture, s: float) -> None:
        if not side:
            _limb(p, [(20, 38), (20, 98)], 4, (26, 26, 28), s)
            _limb(p, [(6, 22), (34, 22)], 3, (60, 60, 64), s)
            _limb(p, [(20, 22), (20, 50)], 3, paint, s)
            _disc(p, (20, 40), (3, 3), (220, 40, 40), s)
            return
        for x in (32, 126):
            cv2.circle(p, (round(x * s), round(68 * s)), round(28 * s), (26, 26, 28, 255), round(4 * s))
            for k in range(6):
                a = k * math.pi / 6
                cv2.line(
                    p,
                    (round((x - 27 * math.cos(a)) * s), round((68 - 27 * math.sin(a)) * s)),
                    (round((x + 27 * math.cos(a)) * s), round((68 + 27 * math.sin(a)) * s)),
                    (150, 150, 150, 200),
                    max(1, round(0.6 * s)),
                )
        for start, end in (
            ((32, 68), (56, 28)),
            ((32, 68), (72, 70)),
            ((72, 70), (56, 28)),
            ((72, 70), (112, 26)),
            ((58, 32), (110, 26)),
            ((126, 68), (108, 12)),
        ):
            _limb(p, [start, end], 4, paint, s)
        _limb(p, [(48, 22), (64, 22)], 5, (30, 26, 24), s)
        _limb(p, [(108, 12), (118, 10)], 4, (50, 50, 54), s)

    return _smooth((100, 160 if side else 40), draw, 3)


def animal(rng: np.random.Generator, kind: str) -> Picture:
    """(120, 180, 4), from the side, facing right: `cow`, `deer`, `horse` or `dog`."""
    coat: Colour = {'cow': (225, 220, 212), 'deer': (150, 104, 66), 'horse': (96, 62, 42), 'dog': (170, 130, 84)}[kind]
    coat = shade(coat, rng.uniform(0.85, 1.1))
    dark = shade(coat, 0.75)
    legs = {'cow': 11.0, 'deer': 6.0, 'horse': 9.0, 'dog': 8.0}[kind]
    deep = {'cow': 50.0, 'deer': 34.0, 'horse': 42.0, 'dog': 32.0}[kind]

    def draw(p: Picture, s: float) -> None:
        for x, tint in ((52, 0.7), (118, 0.7), (42, 1.0), (128, 1.0)):
            _limb(p, [(x, 70), (x + rng.uniform(-3, 3), 94), (x, 116)], legs, shade(coat, tint), s)
            _disc(p, (x, 117), (legs * 0.55, 3), (40, 34, 30), s)
        _limb(p, [(46, 56), (126, 56)], deep, coat, s)
        if kind == 'cow':
            for _ in range(6):
                _disc(
                    p,
                    (rng.uniform(34, 134), rng.uniform(38, 74)),
                    (rng.uniform(8, 18), rng.uniform(6, 13)),
                    (42, 34, 30),
                    s,
                )
            _disc(p, (56, 82), (9, 6), (226, 170, 160), s)
        head = {'cow': (158, 40), 'deer': (152, 16), 'horse': (156, 18), 'dog': (156, 36)}[kind]
        _limb(p, [(130, 46), (head[0] - 8, head[1] + 4)], deep * 0.45, coat, s)
        _limb(p, [head, (head[0] + 14, head[1] + 7)], 16 if kind != 'deer' else 11, coat, s)
        _disc(p, (head[0] + 16, head[1] + 8), (6, 6), dark, s)
        _disc(p, (head[0] - 6, head[1] - 9), (4, 8), dark, s, -25)
        if kind == 'deer':
            for dx in (-10, 4):
                _limb(p, [(head[0] - 3, head[1] - 6), (head[0] + dx, max(2, head[1] - 15))], 2, (120, 100, 76), s)
        if kind == 'horse':
            _limb(p, [(130, 30), (head[0] - 10, head[1] - 4)], 6, (30, 22, 18), s)
        _limb(p, [(26, 46), (18, 80 if kind != 'dog' else 34)], 4, dark, s)
        _disc(p, (head[0] + 3, head[1] - 1), (2, 2), (16, 12, 10), s)

    return _smooth((120, 180), draw, 3)


def smoke(rng: np.random.Generator, tint: float) -> Picture:
    """(128, 192, 4): a bank of smoke; tint is its grey level, 0 to 255."""
    alpha = np.zeros((128, 192), np.float32)
    for _ in range(60):
        x, y, r = rng.uniform(30, 162), rng.uniform(24, 120), rng.uniform(14, 34)
        ys, xs = np.mgrid[0:128, 0:192].astype(np.float32)
        alpha = np.maximum(alpha, np.clip(1 - ((xs - x) ** 2 + (ys - y) ** 2) / r**2, 0, 1) * rng.uniform(0.5, 1))
    soft = cv2.GaussianBlur(alpha, (0, 0), 5)
    grey = tint + 34 * noise(rng, 128, 192, 14) + 8 * rng.standard_normal((128, 192)).astype(np.float32)
    return np.dstack(
        [np.clip(np.repeat(grey[..., None], 3, axis=2), 0, 255), np.clip(soft * 1.5, 0, 0.97) * 255]
    ).astype(np.uint8)


def backdrop(rng: np.random.Generator, haze: Colour) -> Picture:
    """(96, 2048, 4): the far town and its hills all round, 360 degrees, the horizon at the lower edge."""
    picture = np.zeros((96, 2048, 4), np.uint8)
    xs = np.arange(0, 2049, 32)
    for height, tone in ((46, 0.93), (30, 0.86)):
        ys = 96 - height * (0.5 + 0.5 * rng.random(len(xs)))
        ys[-1] = ys[0]
        _fill(picture, [*zip(xs.tolist(), ys.tolist(), strict=True), (2048, 96), (0, 96)], shade(haze, tone), 1)
    x = 0
    while x < 2048:
        wide, tall = int(rng.integers(10, 40)), int(rng.integers(8, 34))
        cv2.rectangle(picture, (x, 96 - tall), (x + wide, 96), (*shade(haze, rng.uniform(0.7, 0.84)), 255), -1)
        if rng.random() < 0.04:  # a church tower
            cv2.rectangle(picture, (x + 4, 96 - tall - 30), (x + 12, 96), (*shade(haze, 0.74), 255), -1)
        x += wide + int(rng.integers(0, 14))
    return picture
