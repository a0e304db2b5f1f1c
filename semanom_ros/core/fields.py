"""JSON that somebody else may have written, field by field: each of the type and in the range that is expected."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

from semanom_ros.errors import printable

LARGEST_TEXT = 1 << 16
LARGEST_COUNT = 1 << 53

T = TypeVar('T')


def parse_json(content: bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is none, holds NaN or infinity, or lies too deep.
    """
    try:
        return json.loads(content, parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError('nested too deep') from error


def _refuse(name: str) -> NoReturn:
    raise ValueError(f'{name} is no JSON')


class Fields:
    """The fields of a JSON object, each of which must be asked for.

    `with Fields(content, 'parts[0]') as fields:` complains at its end of those that nobody asked for. All complaints
    are a ValueError that names the field, what was found and what was expected.
    """

    def __init__(self, content: Any, name: str = '') -> None:
        """Of an object that is called so in complaints; '': the whole text."""
        self._name, self._known = name, set[str]()
        if not isinstance(content, dict):
            self.wrong('', content, 'an object')
        self._content: dict[str, Any] = content

    def __enter__(self) -> Fields:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        unknown = sorted(self._content.keys() - self._known)
        if error is None and unknown:
            self.wrong(unknown[0], self._content[unknown[0]], 'no such field')

    def wrong(self, field: str, found: Any, expected: str) -> NoReturn:
        """Complains of a field."""
        where = printable(self._path(field[:80])) or 'the whole'
        text = repr(found)
        raise ValueError(f'{where}: found {text if len(text) <= 80 else text[:77] + "..."}, expected {expected}')

    def _path(self, field: str) -> str:
        return '.'.join(part for part in (self._name, field) if part)

    def get(self, field: str) -> Any:
        """A field's value, whatever it is."""
        self._known.add(field)
        if field not in self._content:
            self.wrong(field, None, 'a value')
        return self._content[field]

    def optional(self, field: str, read: Callable[[str], T], default: T) -> T:
        """A field by one of the methods here, or the default where it is missing."""
        return read(field) if field in self._content else default

    def text(self, field: str) -> str:
        """Of at most LARGEST_TEXT characters."""
        value = self.get(field)
        if not isinstance(value, str) or len(value) > LARGEST_TEXT or '\0' in value:
            self.wrong(field, value, f'a text of at most {LARGEST_TEXT} characters')
        return value

    def matching(self, field: str, pattern: str, expected: str) -> str:
        """A text of a form."""
        value = self.text(field)
        if not re.fullmatch(pattern, value):
            self.wrong(field, value, expected)
        return value

    def choice(self, field: str, choices: tuple[str, ...]) -> str:
        """One of some texts."""
        value = self.text(field)
        if value not in choices:
            self.wrong(field, value, f'one of {", ".join(choices)}')
        return value

    def count(self, field: str, least: int = 0, most: int = LARGEST_COUNT) -> int:
        """A whole number within bounds."""
        value = self.get(field)
        if type(value) is not int or not least <= value <= most:
            self.wrong(field, value, f'a whole number, {least} to {most}')
        return value

    def number(self, field: str, least: float) -> float:
        """A finite number from `least` on."""
        value = self.get(field)
        if type(value) not in (int, float) or not least <= value < float('inf'):
            self.wrong(field, value, f'a number, {least:g} or more')
        return float(value)

    def flag(self, field: str) -> bool:
        """True or false."""
        value = self.get(field)
        if type(value) is not bool:
            self.wrong(field, value, 'true or false')
        return value

    def pair(self, field: str, most: int) -> tuple[int, int]:
        """Two whole numbers from 1 on."""
        value = self.get(field)
        if not isinstance(value, list) or len(value) != 2 or not all(
                type(one) is int and 1 <= one <= most for one in value):
            self.wrong(field, value, f'two whole numbers, 1 to {most}')
        return value[0], value[1]

    def mapping(self, field: str) -> Mapping[str, Any]:
        """An object, whatever it holds."""
        value = self.get(field)
        if not isinstance(value, dict):
            self.wrong(field, value, 'an object')
        return value

    def texts(self, field: str) -> tuple[str, ...]:
        """A list of texts."""
        value = self.get(field)
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            self.wrong(field, value, 'a list of texts')
        return tuple(value)

    def items(self, field: str, read: Callable[[Fields], T]) -> tuple[T, ...]:
        """A list of objects, each read by a function of its fields."""
        value = self.get(field)
        if not isinstance(value, list):
            self.wrong(field, value, 'a list')
        found = []
        for number, item in enumerate(value):
            with Fields(item, self._path(f'{field}[{number}]')) as fields:
                found.append(read(fields))
        return tuple(found)

    def item(self, field: str, read: Callable[[Fields], T]) -> T:
        """An object, read by a function of its fields."""
        with Fields(self.get(field), self._path(field)) as fields:
            return read(fields)

    def item_or_none(self, field: str, read: Callable[[Fields], T]) -> T | None:
        """The same, or None for null."""
        return None if self.get(field) is None else self.item(field, read)
