"""Numbers as arguments of commands: one that will not do is one line that says what will."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def whole_number(least: int) -> Callable[[str], int]:
    """A `type` of argparse: whole numbers from `least` on."""
    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f'found {text}, expected a whole number from {least} on')
        return value
    return read


def number(expected: str, fits: Callable[[float], bool]) -> Callable[[str], float]:
    """A `type` of argparse: numbers that fit; `expected` says which these are."""
    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float('nan')
        if not fits(value):
            raise argparse.ArgumentTypeError(f'found {text}, expected {expected}')
        return value
    return read
