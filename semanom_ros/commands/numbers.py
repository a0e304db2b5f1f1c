"""Numbers on the command line: one line says what was found and what was expected."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable


def whole(least: int) -> Callable[[str], int]:
    """What reads a whole number from `least` on, such as 5 or 1e5."""

    def read(text: str) -> int:
        value = _finite(text)
        if value is None or value != int(value) or value < least:
            raise argparse.ArgumentTypeError(f'found {text}, expected a whole number, {least} or more')
        return int(text) if text.strip().lstrip('+-').isdecimal() else int(value)

    return read


def number(expected: str, fits: Callable[[float], bool]) -> Callable[[str], float]:
    """What reads a finite number that fits; `expected` says so in words."""

    def read(text: str) -> float:
        value = _finite(text)
        if value is None or not fits(value):
            raise argparse.ArgumentTypeError(f'found {text}, expected {expected}')
        return value

    return read


def _finite(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
