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
BEGIN, END = '<!-- table: begin (made by `make reliability`) -->', '<!-- table: end -->'


def table(tallies: list[dict[str, str | int]]) -> str:
    """The counts as Markdown, by area."""
    lines = ['| area | fault | tried | survived | lost |', '|---|---|---:|---:|---:|']
    for tally in sorted(tallies, key=lambda row: (row['area'], row['fault'])):
        lines.append('| {area} | {fault} | {tried:,} | {survived:,} | {lost:,} |'.format(**tally))
    tried, survived, lost = (sum(int(row[name]) for row in tallies) for name in ('tried', 'survived', 'lost'))
    lines.append(f'| **all** | {len(tallies)} faults | {tried:,} | {survived:,} | {lost:,} |')
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
