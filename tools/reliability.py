"""The table of docs/reliability.md, from what the tests of faults counted.

    python -m pytest --long --reliability out/reliability.jsonl
    python -m tools.reliability out/reliability.jsonl

`make reliability` runs both.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path

from semanom_ros import __version__

PAGE = Path(__file__).resolve().parent.parent / 'docs' / 'reliability.md'
COUNTS = ('tried', 'survived', 'lost')
BEGIN, END = '<!-- table: begin (made by `make reliability`) -->', '<!-- table: end -->'


def table(tallies: list[dict[str, str | int]]) -> str:
    """The counts as Markdown, by area. A fault that several processes tried has several tallies."""
    sums: dict[tuple[str, ...], list[int]] = {}
    for tally in tallies:
        for key in ((str(tally['area']), str(tally['fault'])), ('**all**', '')):
            counts = sums.setdefault(key, [0, 0, 0])
            counts[:] = [count + int(tally[name]) for count, name in zip(counts, COUNTS, strict=True)]
    lines = ['| area | fault | tried | survived | lost |', '|---|---|---:|---:|---:|']
    for (area, fault), counts in sorted(sums.items(), key=lambda item: (item[0][0].startswith('**'), item[0])):
        lines.append(f'| {area} | {fault} | ' + ' | '.join(f'{count:,}' for count in counts) + ' |')
    return '\n'.join(lines)


def main() -> None:
    """Writes the table between its marks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('tallies', type=Path, metavar='FILE')
    tallies = [json.loads(line) for line in parser.parse_args().tallies.read_text().splitlines()]
    before, rest = PAGE.read_text().split(BEGIN)
    _, after = rest.split(END)
    made = f'semanom_ros {__version__}, Python {platform.python_version()}, {platform.machine()}'
    PAGE.write_text(f'{before}{BEGIN}\n{table(tallies)}\n\n{made}.\n{END}{after}')


if __name__ == '__main__':
    main()
