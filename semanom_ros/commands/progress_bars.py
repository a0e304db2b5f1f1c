"""Progress on the terminal, or in a log."""

from __future__ import annotations

import sys
from typing import TextIO

from tqdm import tqdm

LOG_INTERVAL_S = 60.0  # between two lines in a log; what takes less time leaves none


class Bars:
    """Progress on stderr: bars where that is a terminal, elsewhere a line now and then."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None

    def begin(self, what: str, total: int, unit: str) -> None:
        common = {'desc': what, 'total': total, 'unit': unit, 'unit_scale': unit == 'B'}
        if sys.stderr.isatty():
            self._bar = tqdm(**common, file=sys.stderr, delay=0.5 if unit != 'frame' else 0.0)
        else:
            self._bar = tqdm(**common, file=_Lines(sys.stderr), delay=LOG_INTERVAL_S, mininterval=LOG_INTERVAL_S,
                             maxinterval=LOG_INTERVAL_S, bar_format='{desc}: {n_fmt} of {total_fmt}, {remaining} left')

    def advance(self, amount: int) -> None:
        assert self._bar is not None
        self._bar.update(amount)

    def end(self) -> None:
        assert self._bar is not None
        self._bar.close()


class _Lines:
    """Makes a line of what a bar writes over itself."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        line = text.strip()
        if line:
            self._stream.write(f'{line}\n')

    def flush(self) -> None:
        self._stream.flush()
