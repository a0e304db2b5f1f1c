"""bench.json as the tables of benchmarks/README.md.

`python -m semanom_ros.benchmarks.bench_table FILE` prints them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from semanom_ros.benchmarks.figures import OVERALL, PER_ENCODER, Figure

DASH = '–'
"""Stands where nothing was measured."""


def markdown(result: Mapping[str, Any]) -> str:
    """Tables of a bench.json: figures by encoder, those measured once, backends; of what was measured."""
    encoders: Mapping[str, Any] = result['encoders']
    names = [encoder['details']['encoder']['name'] for encoder in encoders.values()]
    lines = [_line('figure', 'goal', *encoders), _line(*['---'] * (2 + len(encoders)))]
    for figure in PER_ENCODER:
        cells = [_cell(figure, encoder, encoder['intervals']) for encoder in encoders.values()]
        if set(cells) != {DASH}:
            lines.append(_line(figure.words, _goals(figure, names), *cells))
    first: Mapping[str, Any] = next(iter(encoders.values()), {'intervals': {}})
    once = [_line(figure.words, _goals(figure, []), _cell(figure, result, first['intervals']))
            for figure in OVERALL if figure.of(result) is not None]
    if once:
        lines += ['', _line('with the first encoder', 'goal', 'figure'), _line('---', '---', '---'), *once]
    known = {name: value for name, value in result['backends'].items() if value}
    if known:
        lines += ['', _line('backend', 'times as fast', '95 %', 'largest score error', 'verdicts equal'),
                  _line(*['---'] * 5)]
        lines += [_line(name, f'{value["speedup"]:.2f}', _ends(value['interval']), f'{value["score_error"]:.1e}',
                        'yes' if value['verdicts_equal'] else 'no') for name, value in known.items()]
    return '\n'.join(lines) + '\n'


def _cell(figure: Figure, result: Mapping[str, Any], intervals: Mapping[str, list[float]]) -> str:
    value = figure.of(result)
    if value is None:
        return DASH
    ends = intervals.get(figure.key)
    return shown(value) + (f' ({_ends(ends)})' if ends else '')


def shown(value: float) -> str:
    """A figure with three digits."""
    return f'{value:.3g}' if abs(value) < 100 else f'{value:.0f}'


def _ends(ends: list[float]) -> str:
    return f'{shown(ends[0])} to {shown(ends[1])}'


def _goals(figure: Figure, encoders: list[str]) -> str:
    """`<= 1.05`, or one for each encoder where they differ."""
    sign = '<=' if figure.at_most else '>='
    goals = [figure.goal_of(name) for name in encoders or ['']]
    if all(goal == goals[0] for goal in goals):
        return DASH if goals[0] is None else f'{sign} {goals[0]:g}'
    return '; '.join(DASH if goal is None else f'{sign} {goal:g}' for goal in goals)


def _line(*cells: str) -> str:
    return f'| {" | ".join(cells)} |'


if __name__ == '__main__':
    sys.stdout.write(markdown(json.loads(Path(sys.argv[1]).read_text())))
