"""Charts as inline SVG whose lines stretch to any width while their text keeps its size.

The drawing fills a box of 1000 x 1000 units that the browser stretches; axis texts are
HTML beside it, placed in per cent. Colours are CSS classes of the page, so that a chart
follows its light and dark look.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]
_UNITS = 1000.0
_MOST_POINTS = 1200


def nice_ticks(low: float, high: float, most: int) -> list[float]:
    """At most `most` + 1 round values (1, 2 or 5 times a power of ten apart) from `low` to `high`."""
    span = max(high - low, 1e-12)
    power = 10.0 ** np.floor(np.log10(span / most))
    step = next(power * factor for factor in (1, 2, 5, 10, 20) if span / (power * factor) <= most)
    return [float(v) for v in np.arange(np.ceil(low / step - 1e-9), np.floor(high / step + 1e-9) + 1) * step + 0.0]


def number(value: float) -> str:
    """A tick as people write it."""
    return f'{value:g}' if abs(value) < 1e4 else f'{value:,.0f}'


@dataclass
class Chart:
    """One coordinate system.

    Attributes:
        x_range, y_range: what the box spans.
        label: what is shown, for people who cannot see it.
        x_title, y_title: axis titles.
        x_ticks, y_ticks: most ticks.
        square: height equals width, else the page decides.
        x_labels: what stands below the axis, by place, instead of round numbers.
        notes: what stands above the box, by place.
    """

    x_range: tuple[float, float]
    y_range: tuple[float, float]
    label: str
    x_title: str = ''
    y_title: str = ''
    x_ticks: int = 6
    y_ticks: int = 4
    square: bool = False
    x_labels: Mapping[float, str] = field(default_factory=dict)
    notes: Mapping[float, str] = field(default_factory=dict)
    _shapes: list[str] = field(default_factory=list)

    def line(self, x: npt.ArrayLike, y: npt.ArrayLike, style: str) -> None:
        """A line through points; long ones are thinned to the extremes of each pixel column."""
        x, y = thinned(np.asarray(x, np.float64), np.asarray(y, np.float64))
        points = ' '.join(f'{a:.1f},{b:.1f}' for a, b in zip(self._x(x), self._y(y), strict=True))
        self._shapes.append(f'<polyline class="line {style}" points="{points}"/>')

    def dots(self, x: npt.ArrayLike, y: npt.ArrayLike, style: str) -> None:
        """Round marks of constant size."""
        path = ''.join(f'M{a:.1f} {b:.1f}h0' for a, b in
                       zip(self._x(np.asarray(x, np.float64)), self._y(np.asarray(y, np.float64)), strict=True))
        self._shapes.append(f'<path class="dots {style}" d="{path}"/>')

    def span(self, start: float, stop: float, style: str, low: float = 0.0, high: float = 1.0) -> None:
        """A band from x `start` to `stop`, between shares `low` and `high` of the height."""
        left, right = self._x(np.array([start, stop]))
        self._shapes.append(f'<rect class="{style}" x="{left:.1f}" y="{_UNITS * (1 - high):.1f}" '
                            f'width="{max(right - left, 1.5):.1f}" height="{_UNITS * (high - low):.1f}"/>')

    def level(self, y: float, style: str) -> None:
        """A horizontal line across."""
        height = self._y(np.array([y]))[0]
        self._shapes.append(f'<line class="line {style}" x1="0" x2="1000" y1="{height:.1f}" y2="{height:.1f}"/>')

    def html(self) -> str:
        """The chart, to be put into a page that styles it."""
        texts, grid = [], []
        below = self.x_labels or {tick: number(tick) for tick in nice_ticks(*self.x_range, self.x_ticks)}
        for style, labels in (('x', below), ('above', self.notes)):
            for tick, text in labels.items():
                at = self._x(np.array([tick]))[0] / _UNITS * 100
                texts.append(f'<span class="tick {style}" style="left:{at:.2f}%">{escape(text)}</span>')
        for tick in nice_ticks(*self.y_range, self.y_ticks):
            at = self._y(np.array([tick]))[0]
            texts.append(f'<span class="tick y" style="top:{at / _UNITS * 100:.2f}%">{number(tick)}</span>')
            grid.append(f'<line class="grid" x1="0" x2="1000" y1="{at:.1f}" y2="{at:.1f}"/>')
        titles = (f'<span class="title y">{escape(self.y_title)}</span>' if self.y_title else '') + \
                 (f'<span class="title x">{escape(self.x_title)}</span>' if self.x_title else '')
        return (f'<div class="chart{" square" if self.square else ""}"><div class="box">'
                f'<svg viewBox="0 0 1000 1000" preserveAspectRatio="none" role="img" '
                f'aria-label="{escape(self.label)}">{"".join(grid + self._shapes)}</svg>'
                f'{"".join(texts)}</div>{titles}</div>')

    def _x(self, values: Values) -> Values:
        low, high = self.x_range
        return np.clip((values - low) / max(high - low, 1e-12), 0, 1) * _UNITS

    def _y(self, values: Values) -> Values:
        low, high = self.y_range
        return (1 - np.clip((values - low) / max(high - low, 1e-12), 0, 1)) * _UNITS


def thinned(x: Values, y: Values) -> tuple[Values, Values]:
    """The lowest and highest point of each of a few hundred equal parts, so that no peak is lost."""
    if len(x) <= _MOST_POINTS:
        return x, y
    keep: list[int] = [0]
    for part in np.array_split(np.arange(len(x)), _MOST_POINTS // 2):
        keep += sorted({int(part[y[part].argmin()]), int(part[y[part].argmax()])})
    keep.append(len(x) - 1)
    return x[keep], y[keep]


def rate_curve(label: str, x_title: str, y_title: str, curves: Sequence[tuple[npt.ArrayLike, npt.ArrayLike, str]],
               diagonal: bool = False) -> str:
    """A square chart of rates from 0 to 1, one line for each (x, y, style)."""
    chart = Chart((0, 1), (0, 1), label, x_title, y_title, x_ticks=5, y_ticks=5, square=True)
    if diagonal:
        chart.line([0, 1], [0, 1], 'chance')
    for x, y, style in curves:
        chart.line(x, y, style)
    return chart.html()


def share_curve(label: str, x_title: str, edges: Sequence[float], counts: Sequence[int],
                curves: Sequence[tuple[Sequence[float | None], str]]) -> str:
    """A chart of shares from 0 to 1 over bins of equal width.

    Args:
        label, x_title: see Chart.
        edges: where the N bins begin, and the last ends, inf where it does not.
        counts: (N,) of what; written above.
        curves: (N,) shares, None where there are none, and style of each line.
    """
    bins = len(counts)
    chart = Chart((0, bins), (0, 1), label, x_title, 'share noticed', y_ticks=5,
                  x_labels={i: number(edge) if np.isfinite(edge) else '' for i, edge in enumerate(edges)},
                  notes={i + 0.5: f'{count}' for i, count in enumerate(counts)})
    for shares, style in curves:
        known = [(i + 0.5, share) for i, share in enumerate(shares) if share is not None]
        x, y = np.array(known, np.float64).reshape(-1, 2).T
        chart.line(x, y, style)
        chart.dots(x, y, style)
    return chart.html()
