"""The order in which people number files."""

from __future__ import annotations

import re


def natural_order(name: str) -> list[tuple[str, int]]:
    """A key by which numbers in names count as numbers.

    Sorts `['a10', 'a9', '10', 'a']` as `['10', 'a', 'a9', 'a10']`.
    """
    return [('', int(word)) if word.isdecimal() else (word, 0) for word in re.split(r'(\d+)', name) if word]
