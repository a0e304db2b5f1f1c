"""bench.json as a picture: what each stage takes of a frame, and how far the figures are from their goals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from typing import Any

from semanom_ros.benchmarks.bench_table import shown
from semanom_ros.benchmarks.figures import OVERALL, PER_ENCODER, Figure

STAGES = {'decode': '#4c78a8', 'preprocess': '#72b7b2', 'upload': '#9d755d', 'encode': '#bab0ac', 'search': '#e45756',
          'score': '#f2cf5b', 'filter': '#b279a2', 'publish': '#54a24b'}
"""In their order, with their colours; `publish` is all that the pipeline does not see: DDS, messages, waiting."""

_ENCODERS = ('#1f4e79', '#c0504d', '#7f9f3f')
_WIDTH, _LEFT, _RIGHT = 980, 300, 60
_LEAST, _MOST = 0.1, 10.0  # of the axis of goals


def svg(result: Mapping[str, Any]) -> str:
    """The picture, a file of its own."""
    drawing = _Drawing()
    drawing.text(20, 34, 'A frame, stage by stage, in forward passes of the encoder', size=17, weight='bold')
    _stages(drawing, result['encoders'])
    drawing.y += 50
    drawing.text(20, drawing.y, 'Figures over their goals: left of the line the goal is reached', size=17,
                 weight='bold')
    _goals(drawing, result)
    return drawing.svg()


class _Drawing:
    """Shapes from top to bottom; `y` is where the next ones go."""

    def __init__(self) -> None:
        self.y = 34.0
        self._shapes: list[str] = []

    def text(self, x: float, y: float, text: str, *, size: int = 13, anchor: str = 'start', weight: str = 'normal',
             colour: str = '#222') -> None:
        self._shapes.append(f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" '
                            f'font-weight="{weight}" fill="{colour}">{escape(text)}</text>')

    def bar(self, x: float, y: float, width: float, height: float, colour: str, title: str) -> None:
        self._shapes.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height}" fill="{colour}">'
                            f'<title>{escape(title)}</title></rect>')

    def line(self, x: float, top: float, bottom: float, colour: str, dashes: str = '') -> None:
        self._shapes.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}" stroke="{colour}" '
                            f'stroke-dasharray="{dashes}"/>')

    def dot(self, x: float, y: float, colour: str, title: str) -> None:
        self._shapes.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5.5" fill="{colour}">'
                            f'<title>{escape(title)}</title></circle>')

    def svg(self) -> str:
        height = self.y + 24
        return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" width="{_WIDTH}" '
                f'height="{height:.0f}" font-family="sans-serif"><rect width="100%" height="100%" fill="#fff"/>\n'
                + '\n'.join(self._shapes) + '\n</svg>\n')


def stages_of(encoder: Mapping[str, Any]) -> dict[str, float]:
    """What each stage takes, in forward passes, of an encoder's part of bench.json; {} where it was not measured."""
    stages = dict(encoder['details'].get('stages', {}).get('of_forward', {}))
    whole = encoder.get('end_to_end_over_forward')
    if stages and whole is not None:
        stages['publish'] = max(0.0, whole - sum(stages.values()))
    return {stage: stages[stage] for stage in STAGES if stage in stages} | {
        stage: value for stage, value in stages.items() if stage not in STAGES}


def _stages(drawing: _Drawing, encoders: Mapping[str, Any]) -> None:
    all_stages = {name: found for name, encoder in encoders.items() if (found := stages_of(encoder))}
    longest = max([1.2, *(sum(stages.values()) for stages in all_stages.values())])
    scale = (_WIDTH - _LEFT - _RIGHT) / longest
    drawing.y += 22
    x = 20.0
    for stage, colour in STAGES.items():
        drawing.bar(x, drawing.y, 12, 12, colour, stage)
        drawing.text(x + 17, drawing.y + 11, stage)
        x += 36 + 7 * len(stage)
    drawing.y += 34
    top = drawing.y
    for name, stages in all_stages.items():
        drawing.text(_LEFT - 12, drawing.y + 19, name, anchor='end', size=12)
        x = float(_LEFT)
        for stage, value in stages.items():
            drawing.bar(x, drawing.y, value * scale, 28, STAGES.get(stage, '#888'), f'{stage} {value:.3f}')
            if value * scale > 40:
                drawing.text(x + value * scale / 2, drawing.y + 19, shown(value), anchor='middle', size=12)
            x += value * scale
        drawing.text(x + 8, drawing.y + 19, shown(sum(stages.values())), weight='bold')
        drawing.y += 40
    drawing.line(_LEFT + scale, top - 6, drawing.y, '#222', '4 3')
    drawing.text(_LEFT + scale, drawing.y + 12, '1 forward pass', anchor='middle', size=11, colour='#555')
    drawing.y += 14


def _goals(drawing: _Drawing, result: Mapping[str, Any]) -> None:
    encoders: Mapping[str, Any] = result['encoders']
    drawing.y += 24
    x = 20.0
    for name, colour in zip(encoders, _ENCODERS, strict=False):
        drawing.dot(x + 6, drawing.y - 4, colour, name)
        drawing.text(x + 18, drawing.y, name, size=12)
        x += 48 + 6.6 * len(name)
    drawing.y += 26
    top = drawing.y
    rows = [(figure, [(name, encoder) for name, encoder in encoders.items()]) for figure in PER_ENCODER]
    rows += [(figure, [(next(iter(encoders), ''), result)]) for figure in OVERALL]
    shown_rows = []
    for figure, parts in rows:
        dots = [(index, name, value, goal) for index, (name, part) in enumerate(parts)
                if (value := figure.of(part)) is not None and (goal := figure.goal_of(name.split(' ')[0])) is not None]
        if dots:
            shown_rows.append((figure, dots))
    bottom = top + 26 * len(shown_rows)
    for tick in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0):
        colour, dashes = ('#222', '') if tick == 1 else ('#ddd', '2 3')
        drawing.line(_place(tick), top - 14, bottom - 10, colour, dashes)
        drawing.text(_place(tick), bottom + 6, f'{tick:g}', anchor='middle', size=11, colour='#555')
    for figure, dots in shown_rows:
        drawing.text(_LEFT - 12, drawing.y + 5, figure.words, anchor='end', size=12)
        for index, name, value, goal in dots:
            said = f'{name}: {shown(value)}, goal {goal:g}'
            drawing.dot(_place(_over_goal(figure, value, goal)), drawing.y, _ENCODERS[index % len(_ENCODERS)], said)
        drawing.text(_WIDTH - 10, drawing.y + 5, '; '.join(shown(value) for _, _, value, _ in dots), anchor='end',
                     size=11, colour='#555')
        drawing.y += 26
    drawing.y += 10


def _over_goal(figure: Figure, value: float, goal: float) -> float:
    """1 at the goal, less where it is reached."""
    return value / goal if figure.at_most else goal / max(value, 1e-9)


def _place(over_goal: float) -> float:
    """x on the logarithmic axis; what lies beyond its ends stands at them."""
    share = math.log(min(max(over_goal, _LEAST), _MOST) / _LEAST) / math.log(_MOST / _LEAST)
    return _LEFT + share * (_WIDTH - _LEFT - 150)
