"""Progress on the terminal."""

from __future__ import annotations

import sys

from tqdm import tqdm


class Bars:
    """Progress bars on stderr, where that is a terminal."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None

    def begin(self, what: str, total: int, unit: str) -> None:
        self._bar = tqdm(desc=what, total=total, unit=unit, unit_scale=unit == 'B', disable=None, file=sys.stderr,
                         delay=0.5 if unit != 'frame' else 0.0)

    def advance(self, amount: int) -> None:
        assert self._bar is not None
        self._bar.update(amount)

    def end(self) -> None:
        assert self._bar is not None
        self._bar.close()
