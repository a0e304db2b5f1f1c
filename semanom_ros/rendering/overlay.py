"""The overlay: a frame and what the detector says about it, as a picture for people."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from semanom_ros.core.drift.drift_monitor import Drift, DriftState
from semanom_ros.core.picture_decoder import decode_thumbnail
from semanom_ros.core.results import Anomaly, FrameResult, Reason, Verdict, region_mask

Picture = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]  # RGB

WHITE: Colour = (255, 255, 255)
GREY: Colour = (190, 194, 202)
INK: Colour = (16, 18, 24)
ALARM: Colour = (220, 38, 54)
CALM: Colour = (22, 128, 106)
DRIFT: Colour = (245, 184, 46)
AMBER: Colour = (245, 176, 20)
VIOLET: Colour = (104, 84, 150)

MAX_LABELS = 12
_HEAT_FULL = 3.0  # times the threshold at which the heat map has its last colour
_HEAT_STEP = 85  # of 255 grey levels: the threshold, so that 255 is _HEAT_FULL
_HEAT_OPACITY = 0.4
_DASH = 3  # strokes of the line that a dash of it is long, and the gap after it
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_BOLD = cv2.FONT_HERSHEY_DUPLEX


def _heat_colours() -> Picture:
    """(1, 256, 3) RGB, by grey level.

    Plasma is perceptually uniform and reads the same to colour-blind people; its dark end is left
    out because it looks like shadow.
    """
    levels = np.clip((np.arange(256) - _HEAT_STEP) / (255 - _HEAT_STEP), 0, 1)
    greys = np.round(90 + levels * 165).astype(np.uint8)[None]
    return np.ascontiguousarray(cv2.applyColorMap(greys, cv2.COLORMAP_PLASMA)[..., ::-1])


_HEAT_COLOURS = _heat_colours()
# full opacity a little above the threshold: the edge of what matters is soft, the rest is even
_HEAT_WEIGHTS = (np.clip((np.arange(256) - _HEAT_STEP) / 34, 0, 1) * _HEAT_OPACITY).astype(np.float32)[None]


class Rect(NamedTuple):
    """Pixels: left, top, width, height."""

    x: int
    y: int
    width: int
    height: int

    def overlap(self, other: Rect) -> int:
        """Pixels that both cover."""
        width = min(self.x + self.width, other.x + other.width) - max(self.x, other.x)
        height = min(self.y + self.height, other.y + other.height) - max(self.y, other.y)
        return max(width, 0) * max(height, 0)


def render_overlay(image: Picture, result: FrameResult, *, max_width: int = 0, evidence: bool = True) -> Picture:
    """Draws a result over its frame.

    From below: the anomaly map, transparent up to the threshold; outlines of the anomalies, and dashed
    ones of what is held back; a banner with verdict, score, threshold and p-value, and below it why a frame is held
    back or unknown; a label for each anomaly; the
    nominal example that resembles the worst anomaly most. A frame that could not be judged loses its colours.

    Each verdict has a word, a sign and a colour: red, amber and violet differ in lightness, for colour-blind people.

    Args:
        image: (H, W, 3) uint8 RGB, the frame of the result; not changed.
        result: what the detector says about it.
        max_width: pixels; a wider image is scaled down to it. 0: no limit.
        evidence: whether to show the nominal example where there is one.

    Returns:
        (h, w, 3) uint8 RGB, of the frame's size unless `max_width` is smaller.
    """
    height, width = image.shape[:2]
    scale = min(1.0, max_width / width) if max_width > 0 else 1.0
    size = max(1, round(width * scale)), max(1, round(height * scale))
    canvas = np.array(cv2.resize(image, size, interpolation=cv2.INTER_AREA) if scale < 1 else image, np.uint8)
    style = _Style.of(canvas)
    zoom = np.array([canvas.shape[1] / width, canvas.shape[0] / height])
    if result.verdict is Verdict.UNKNOWN:
        canvas[:] = cv2.cvtColor(cv2.cvtColor(canvas, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    _draw_heat(canvas, result)
    _draw_outlines(canvas, result, style)
    taken = _draw_banner(canvas, result, style)
    if result.drift.state is DriftState.DRIFTING:
        taken.append(_draw_drift(canvas, result.drift, taken[-1], style))
    shown = result.anomalies[:MAX_LABELS]
    boxes = [_scaled(anomaly.box, zoom) for anomaly in shown]
    if evidence:
        taken += _draw_evidence(canvas, shown, boxes, taken, style)
    _draw_labels(canvas, shown, boxes, taken, result.threshold, style)
    return canvas


def place_labels(boxes: Sequence[Rect], sizes: Sequence[tuple[int, int]], area: tuple[int, int],
                 taken: Sequence[Rect] = ()) -> list[Rect | None]:
    """Finds a free place for a label near each box, the first box first.

    Args:
        boxes: what is labelled, pixels.
        sizes: (width, height) of each label.
        area: (height, width) of the picture.
        taken: where no label may be.

    Returns:
        For each label its place, inside the picture and clear of all others; None where
        there is no room left.
    """
    placed: list[Rect] = []
    places: list[Rect | None] = []
    for box, (width, height) in zip(boxes, sizes, strict=True):
        place = next((candidate for candidate in _candidates(box, width, height, area)
                      if not any(candidate.overlap(other) for other in (*taken, *placed))), None)
        places.append(place)
        if place is not None:
            placed.append(place)
    return places


def heat_colour(level: float) -> Colour:
    """The heat map's colour for a score given in thresholds: at 1 the first colour, from 3 on the last."""
    red, green, blue = _HEAT_COLOURS[0, int(np.clip(level * _HEAT_STEP, 0, 255))]
    return int(red), int(green), int(blue)


def caption(anomaly: Anomaly) -> str:
    """Track, label and score in few characters."""
    number = f'#{anomaly.track_id} ' if anomaly.track_id else ''
    return f'{number}{anomaly.label + " " if anomaly.label else ""}{anomaly.score:.2f}'


@dataclass(frozen=True)
class _Style:
    """Sizes that follow the picture's, in pixels.

    Attributes:
        text: scale of the font.
        line: thickness of lines.
        pad: space around text.
        row: height of a line of text.
    """

    text: float
    line: int
    pad: int
    row: int

    @classmethod
    def of(cls, canvas: Picture) -> _Style:
        height, width = canvas.shape[:2]
        row = max(8.0, min(height / 30, width / 40))
        return cls(text=row / 28, line=max(1, round(row / 14)), pad=max(2, round(row * 0.42)), row=round(row))

    def measure(self, text: str, font: int = _FONT) -> int:
        return int(cv2.getTextSize(text, font, self.text, self.stroke)[0][0])

    @property
    def stroke(self) -> int:
        return max(1, round(self.text))

    def write(self, canvas: Picture, text: str, x: int, middle: int, colour: Colour, font: int = _FONT) -> int:
        """Writes text that starts at x, centred on a height; returns where it ends."""
        # the height of a capital, so that lines with and without descenders stand on one line
        capital = cv2.getTextSize('H', font, self.text, self.stroke)[0][1]
        cv2.putText(canvas, text, (x, middle + capital // 2), font, self.text, colour, self.stroke, cv2.LINE_AA)
        return x + self.measure(text, font)


def _scaled(box: tuple[int, int, int, int], zoom: npt.NDArray[np.float64]) -> Rect:
    left, top = np.floor(np.array(box[:2]) * zoom).astype(int)
    right, bottom = np.ceil((np.array(box[:2]) + box[2:]) * zoom).astype(int)
    return Rect(int(left), int(top), int(right - left), int(bottom - top))


def _shade(canvas: Picture, rect: Rect, colour: Colour, opacity: float) -> None:
    part = canvas[rect.y:rect.y + rect.height, rect.x:rect.x + rect.width]
    cv2.addWeighted(part, 1 - opacity, np.full_like(part, colour), opacity, 0, dst=part)


def _draw_heat(canvas: Picture, result: FrameResult) -> None:
    """Blends the anomaly map where it is above the alarm level, and nowhere else."""
    if result.scores is None or result.verdict is Verdict.UNKNOWN:
        return
    height, width = canvas.shape[:2]
    scores = result.scores.finest
    steps = cv2.convertScaleAbs(scores, alpha=_HEAT_STEP / max(result.threshold, 1e-9))
    # enlarged first and coloured then, so that the edge lies where the outline of the mask does
    interpolation = cv2.INTER_AREA if scores.shape[0] > height else cv2.INTER_LINEAR
    steps = cv2.resize(steps, (width, height), interpolation=interpolation)
    x, y, w, h = cv2.boundingRect(cv2.threshold(steps, _HEAT_STEP, 255, cv2.THRESH_BINARY)[1])
    if not w:
        return
    steps, part = steps[y:y + h, x:x + w], canvas[y:y + h, x:x + w]
    colours = cv2.LUT(cv2.merge([steps, steps, steps]), _HEAT_COLOURS)
    cv2.blendLinear(colours, part, cv2.LUT(steps, _HEAT_WEIGHTS), cv2.LUT(steps, 1 - _HEAT_WEIGHTS), dst=part)


def _draw_outlines(canvas: Picture, result: FrameResult, style: _Style) -> None:
    """Anomalies in white; what is held back in thin amber dashes."""
    if result.held_back_regions:
        held_back = region_mask(result.held_back_regions, result.image_size)
        for contour in _contours(canvas, held_back, cv2.CHAIN_APPROX_NONE):
            _draw_dashes(canvas, contour, style)
    if result.regions:
        contours = _contours(canvas, result.mask, cv2.CHAIN_APPROX_SIMPLE)
        cv2.drawContours(canvas, contours, -1, INK, 2 * style.line + 1, cv2.LINE_AA)
        cv2.drawContours(canvas, contours, -1, WHITE, style.line, cv2.LINE_AA)


def _contours(canvas: Picture, mask: npt.NDArray[np.uint8], points: int) -> list[npt.NDArray[np.int32]]:
    """Outlines of a mask (H, W) of the frame, in pixels of the canvas; `points`: which, of OpenCV's CHAIN_APPROX."""
    height, width = canvas.shape[:2]
    smaller = cv2.threshold(cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA), 127, 255,
                            cv2.THRESH_BINARY)[1]
    return [np.asarray(contour, np.int32) for contour in cv2.findContours(smaller, cv2.RETR_LIST, points)[0]]


def _draw_dashes(canvas: Picture, contour: npt.NDArray[np.int32], style: _Style) -> None:
    dash = max(4, _DASH * (style.line + 1))
    starts = range(0, len(contour), 2 * dash)
    dashes = [contour[start:start + dash] for start in starts]
    cv2.polylines(canvas, dashes, False, INK, style.line + 2, cv2.LINE_AA)
    cv2.polylines(canvas, dashes, False, AMBER, style.line, cv2.LINE_AA)


class _State(NamedTuple):
    """How a verdict is shown."""

    word: str
    colour: Colour
    ink: Colour
    sign: str


_STATES = {
    Verdict.ANOMALOUS: _State('ANOMALY', ALARM, WHITE, '!'), Verdict.NOMINAL: _State('NOMINAL', CALM, WHITE, 'v'),
    Verdict.UNKNOWN: _State('UNKNOWN', VIOLET, WHITE, '?')}
_HELD_BACK = _State('HELD BACK', AMBER, INK, '=')


def _draw_banner(canvas: Picture, result: FrameResult, style: _Style) -> list[Rect]:
    """Verdict, score against threshold, p-value; what does not fit is left out from the right. Below it why."""
    width = canvas.shape[1]
    banner = Rect(0, 0, width, min(canvas.shape[0], style.row + 3 * style.pad))
    _shade(canvas, banner, INK, 0.78)
    middle = banner.height // 2
    state = _HELD_BACK if result.held_back else _STATES[result.verdict]
    pill = style.row + style.measure(state.word, _BOLD) + 3 * style.pad
    cv2.rectangle(canvas, (0, 0), (pill, banner.height - 1), state.colour, cv2.FILLED)
    _draw_sign(canvas, state, style.pad + style.row // 2, middle, style)
    style.write(canvas, state.word, 2 * style.pad + style.row, middle, state.ink, _BOLD)
    x = pill + 2 * style.pad
    known = not math.isnan(result.score)
    score = f'{result.score if known else result.raw_score:.2f}'
    rest = f'/ {result.threshold:.2f}   p {_p_value(result.p_value)}' if known else 'before calibration'
    gauge = 6 * style.row
    needed = style.measure('score ') + style.measure(score, _BOLD) + style.pad + style.measure(rest)
    if x + needed + 2 * style.pad <= width and not math.isnan(result.raw_score):
        x = style.write(canvas, 'score ', x, middle, GREY)
        x = style.write(canvas, score, x, middle, WHITE, _BOLD) + style.pad
        x = style.write(canvas, rest, x, middle, GREY) + 2 * style.pad
    colour = state.colour
    if known and x + gauge + 2 * style.pad <= width:
        _draw_gauge(canvas, result, Rect(x, middle - style.row // 4, gauge, max(3, style.row // 2)), colour, style)
        x += gauge + 3 * style.pad
    seconds = f'{result.camera}   {result.stamp_ns // 1_000_000_000}.{result.stamp_ns // 1_000_000 % 1000:03d} s'
    for text in (seconds, result.camera):
        start = width - style.measure(text) - style.pad
        if start >= x:
            style.write(canvas, text, start, middle, GREY)
            break
    return [banner] if result.reason is Reason.NONE else [banner, _draw_reason(canvas, result, banner, style)]


def _draw_reason(canvas: Picture, result: FrameResult, banner: Rect, style: _Style) -> Rect:
    """Why a frame is held back or unknown, below the banner; what does not fit is cut off."""
    state = _HELD_BACK if result.held_back else _STATES[result.verdict]
    height, width = canvas.shape[:2]
    text = _printable(f'{result.reason.words}: {result.explanation.partition("; ")[0]}')  # without what to do about it
    most = width - 2 * style.pad
    if style.measure(text) > most:
        while text and style.measure(text + '...') > most:
            text = text[:-1]
        text += '...'
    strip = Rect(0, banner.height, min(width, style.measure(text) + 2 * style.pad),
                 min(height - banner.height, style.row + 2 * style.pad))
    if strip.height > 0:
        _shade(canvas, strip, INK, 0.78)
        edge = strip.y + strip.height - 1
        cv2.line(canvas, (strip.x, edge), (strip.x + strip.width - 1, edge), state.colour, style.line)
        style.write(canvas, text, style.pad, strip.y + strip.height // 2, WHITE)
    return strip


def _draw_sign(canvas: Picture, state: _State, x: int, y: int, style: _Style) -> None:
    """A tick, two bars (it waits), a triangle with an exclamation mark, or a question mark; centred on (x, y)."""
    half, line = max(2, style.row // 2), max(1, style.row // 7)
    if state.sign == 'v':
        tick = np.array([(x - half, y), (x - half // 3, y + half * 2 // 3), (x + half, y - half * 2 // 3)], np.int32)
        cv2.polylines(canvas, [tick], False, state.ink, line, cv2.LINE_AA)
    elif state.sign == '=':
        high, wide = half * 3 // 4, max(1, half // 2 - 1)
        for left in (x - wide - max(1, half // 4), x + max(1, half // 4)):
            cv2.rectangle(canvas, (left, y - high), (left + wide, y + high), state.ink, cv2.FILLED)
    elif state.sign == '!':
        foot, wide = y + half * 3 // 4, half * 6 // 5
        cv2.fillPoly(canvas, [np.array([(x, y - half), (x + wide, foot), (x - wide, foot)], np.int32)], state.ink,
                     cv2.LINE_AA)
        cv2.line(canvas, (x, y - half // 3), (x, y + half // 6), state.colour, line)
        cv2.line(canvas, (x, foot - line), (x, foot - line), state.colour, line)
    else:
        style.write(canvas, '?', x - style.measure('?', _BOLD) // 2, y, state.ink, _BOLD)


def _draw_drift(canvas: Picture, drift: Drift, banner: Rect, style: _Style) -> Rect:
    """One line below the banner."""
    text = f'drifting: {drift.what}'
    line = Rect(0, banner.height, min(canvas.shape[1], style.measure(text) + 2 * style.pad),
                min(canvas.shape[0] - banner.height, style.row + style.pad))
    _shade(canvas, line, DRIFT, 0.85)
    style.write(canvas, text, style.pad, line.y + line.height // 2, INK)
    return line


def _draw_gauge(canvas: Picture, result: FrameResult, bar: Rect, colour: Colour, style: _Style) -> None:
    """The score on a bar whose middle is the threshold."""
    filled = round(bar.width * min(result.score / max(2 * result.threshold, 1e-9), 1))
    _shade(canvas, bar, WHITE, 0.22)
    if filled:
        cv2.rectangle(canvas, (bar.x, bar.y), (bar.x + filled - 1, bar.y + bar.height - 1), colour, cv2.FILLED)
    tick = bar.x + bar.width // 2
    cv2.line(canvas, (tick, bar.y - style.pad // 2), (tick, bar.y + bar.height - 1 + style.pad // 2), WHITE, style.line)


def _draw_labels(canvas: Picture, anomalies: Sequence[Anomaly], boxes: Sequence[Rect], taken: Sequence[Rect],
                 threshold: float, style: _Style) -> None:
    texts = [_printable(caption(anomaly)) for anomaly in anomalies]
    chip = max(3, style.row // 3)
    height = style.row + style.pad
    sizes = [(chip + style.measure(text) + 2 * style.pad, height) for text in texts]
    places = place_labels(boxes, sizes, canvas.shape[:2], taken)
    for anomaly, text, box, place in zip(anomalies, texts, boxes, places, strict=True):
        if place is None:
            continue
        _draw_leader(canvas, box, place, style)
        _shade(canvas, place, INK, 0.78)
        colour = heat_colour(anomaly.score / max(threshold, 1e-9))
        cv2.rectangle(canvas, (place.x, place.y), (place.x + chip - 1, place.y + height - 1), colour, cv2.FILLED)
        style.write(canvas, text, place.x + chip + style.pad, place.y + height // 2, WHITE)


def _draw_leader(canvas: Picture, box: Rect, place: Rect, style: _Style) -> None:
    """A line from a label to its box, where the two do not touch."""
    near_x = int(np.clip(place.x + place.width // 2, box.x, box.x + box.width - 1))
    near_y = int(np.clip(place.y + place.height // 2, box.y, box.y + box.height - 1))
    from_x = int(np.clip(near_x, place.x, place.x + place.width - 1))
    from_y = int(np.clip(near_y, place.y, place.y + place.height - 1))
    if max(abs(from_x - near_x), abs(from_y - near_y)) > 2 * style.pad:
        cv2.line(canvas, (from_x, from_y), (near_x, near_y), INK, 2 * style.line + 1, cv2.LINE_AA)
        cv2.line(canvas, (from_x, from_y), (near_x, near_y), WHITE, style.line, cv2.LINE_AA)


def _draw_evidence(canvas: Picture, anomalies: Sequence[Anomaly], boxes: Sequence[Rect], taken: Sequence[Rect],
                   style: _Style) -> list[Rect]:
    """The nominal example nearest to the worst anomaly, in the corner where it hides least.

    Nothing where no example has a thumbnail, or the picture is too small for it.
    """
    examples = (anomaly.nearest for anomaly in anomalies if anomaly.nearest is not None and anomaly.nearest.thumbnail)
    example = next(examples, None)
    thumbnail = None if example is None else decode_thumbnail(example.thumbnail)
    if example is None or thumbnail is None:
        return []
    height, width = canvas.shape[:2]
    thumbnail_height, thumbnail_width = thumbnail.shape[:2]
    title = 'nearest nominal'
    inner = max(round(width * 0.2), style.measure(title) + style.pad)
    size = inner, max(1, round(inner * thumbnail_height / thumbnail_width))
    frame = Rect(0, 0, size[0] + 2, size[1] + style.row + style.pad + 2)
    if frame.width > width // 2 or frame.height > height // 2:
        return []
    right, bottom = width - frame.width - style.pad, height - frame.height - style.pad
    top = style.pad + max((rect.y + rect.height for rect in taken), default=0)
    corners = [(right, bottom), (style.pad, bottom), (right, top), (style.pad, top)]
    frame = min((frame._replace(x=x, y=y) for x, y in corners),
                key=lambda corner: sum(corner.overlap(box) for box in boxes))
    _shade(canvas, frame, INK, 1.0)
    interpolation = cv2.INTER_AREA if size[0] < thumbnail_width else cv2.INTER_LINEAR
    x, y = frame.x + 1, frame.y + 1
    canvas[y:y + size[1], x:x + size[0]] = cv2.resize(thumbnail, size, interpolation=interpolation)
    if all(example.image_size):  # where in it
        left, top, across, down = _scaled(example.box, np.array(size) / example.image_size[::-1])
        wider = max(0, style.pad - min(across, down) // 2)  # a patch alone would be a dot
        first = max(x, x + left - wider), max(y, y + top - wider)
        last = min(x + size[0], x + left + across + wider) - 1, min(y + size[1], y + top + down + wider) - 1
        cv2.rectangle(canvas, first, last, INK, 3)
        cv2.rectangle(canvas, first, last, WHITE, 1)
    style.write(canvas, title, x + style.pad // 2, frame.y + frame.height - (style.row + style.pad) // 2, GREY)
    cv2.rectangle(canvas, (frame.x, frame.y), (frame.x + frame.width - 1, frame.y + frame.height - 1), GREY, 1)
    return [frame]


def _candidates(box: Rect, width: int, height: int, area: tuple[int, int]) -> Iterator[Rect]:
    """Places for a label, the best first: at the box's edges, then anywhere, the nearest first."""
    limit_x, limit_y = area[1] - width, area[0] - height
    if limit_x < 0 or limit_y < 0:
        return
    right, bottom = box.x + box.width, box.y + box.height
    wanted = [(box.x, box.y - height), (box.x, bottom), (right - width, box.y - height), (right - width, bottom),
              (right, box.y), (box.x - width, box.y)]
    edges = [Rect(min(max(x, 0), limit_x), min(max(y, 0), limit_y), width, height) for x, y in wanted]
    yield from (rect for rect in edges if not rect.overlap(box))
    yield from edges
    step = max(1, height // 2)
    grid = [Rect(x, y, width, height) for y in range(0, limit_y + 1, step) for x in range(0, limit_x + 1, 2 * step)]
    grid.sort(key=lambda rect: (rect.x + width / 2 - box.x - box.width / 2) ** 2
              + (rect.y + height / 2 - box.y - box.height / 2) ** 2)
    yield from grid


def _printable(text: str) -> str:
    """OpenCV's own fonts know ASCII only."""
    return text.encode('ascii', 'replace').decode()


def _p_value(value: float) -> str:
    return f'{value:.3f}' if value >= 0.001 else '< 0.001'
