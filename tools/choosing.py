"""The measured tables of docs/choosing.md, from the files in benchmarks/results that they were measured into.

    python -m tools.choosing
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
PAGE = REPOSITORY / 'docs' / 'choosing.md'
RESULTS = REPOSITORY / 'benchmarks' / 'results'
FILES = ('cpu.json', 'gpu_h200.json')
BEGIN, END = '<!-- {} -->\n\n', '\n<!-- end -->'


def encoders() -> str:
    """A row for each encoder that was measured on each machine."""
    lines = ['| machine | encoder | input | patches | forward ms | frame ms | frames/s | six cameras, images/s |',
             '|---|---|---|---|---|---|---|---|']
    for file in FILES:
        result = json.loads((RESULTS / file).read_text())
        machine = result['machine']
        name = machine['gpu'] or f'{machine["cores"]} cores, no GPU'
        for measured in result['encoders'].values():
            details = measured['details']
            encoder, stages = details['encoder'], details['stages']
            height, width = encoder['input_size']
            rows, columns = encoder['grid_size']
            frame = stages['pipeline']['median_ms']
            six = details.get('six_cameras', details['six_cameras_in_process'])['images_a_second']
            lines.append(f'| {name} | `{encoder["name"]}`, {_precision(encoder["precision"])} | {height}x{width} | '
                         f'{rows}x{columns} | {_figure(stages["forward"]["median_ms"])} | {_figure(frame)} | '
                         f'{_figure(1e3 / frame)} | {_figure(six)} |')
    return '\n'.join(lines) + '\n'


def backends() -> str:
    """A row for each engine that was measured on each machine."""
    lines = ['| machine | backend | times as fast | largest score error | verdicts equal |', '|---|---|---|---|---|']
    for file in FILES:
        result = json.loads((RESULTS / file).read_text())
        machine = result['machine']['gpu'] or f'{result["machine"]["cores"]} cores'
        for name, value in result['backends'].items():
            if value:
                low, high = value['interval']
                lines.append(f'| {machine} | {name} | {value["speedup"]:.2f} '
                             f'({low:.2f} to {high:.2f}) | {value["score_error"]:.1e} | '
                             f'{"yes" if value["verdicts_equal"] else "no"} |')
    return '\n'.join(lines) + '\n'


def segments() -> str:
    """What segments cost beside patches."""
    lines = ['| machine | encoder | a frame of the grid, ms | of instances, ms | of which masks, ms |',
             '|---|---|---|---|---|']
    for file in FILES:
        result: dict[str, Any] = json.loads((RESULTS / file).read_text())
        for measured in result['encoders'].values():
            found = measured['details'].get('instance')
            if found:
                times = ' | '.join(_figure(found[name]['median_ms']) for name in ('grid', 'instance', 'segment'))
                lines.append(f'| {result["machine"]["cores"]} cores | `{measured["details"]["encoder"]["name"]}` | '
                             f'{times} |')
    return '\n'.join(lines) + '\n'


def page(text: str) -> str:
    """The page with the tables as they should be."""
    for table in (encoders, backends, segments):
        begin = BEGIN.format(table.__name__)
        pattern = re.escape(begin) + '.*?' + re.escape(END)
        text, count = re.subn(pattern, lambda _: begin + table() + END, text, count=1, flags=re.DOTALL)  # noqa: B023
        if not count:
            raise SystemExit(f'{PAGE}: found no place for {table.__name__}, expected {begin.strip()} and {END.strip()}')
    return text


def _figure(value: float) -> str:
    return f'{value:.3g}' if value < 1000 else f'{value:.0f}'


def _precision(name: str) -> str:
    return {'float32': 'fp32', 'bfloat16': 'bf16', 'float16': 'fp16'}[name]


if __name__ == '__main__':
    PAGE.write_text(page(PAGE.read_text()))
