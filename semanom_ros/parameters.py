"""What a parameter is: a row of the one table, a field of a frozen dataclass.

The table itself is `settings.py`. A section of it is a dataclass whose fields are made by `row`: the field's type is
what code sees, the row says the rest. Node declarations, `config/*.yaml`, the README's tables and the command line
all come from the rows.
"""

from __future__ import annotations

import difflib
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from typing import Any, TypeVar

from semanom_ros.errors import ParameterError

Value = bool | int | float | str | list[int] | list[float] | list[str]
"""As ROS and YAML have it."""

_ROW = 'row'
_Own = TypeVar('_Own', bound='Section')


class Affects(Enum):
    """What another value of a parameter makes different."""

    EMBEDDING = 'embedding'
    """What is compared: the database should have been recorded with the same, and is refused where its embeddings would
    not fit (`EmbeddingDescription`)."""

    SEARCH = 'search'
    """How a database is viewed: the space in which neighbours are sought, so its index too."""

    SCORE = 'score'
    """Scores before the alarm level. With SEARCH, what a calibration depends on."""

    LIVE = 'live'
    """What is decided anew for every frame; may change while the detector is active."""

    RUN = 'run'
    """Where, on what and how long something runs; read at configure."""

    START = 'start'
    """What a node may do; fixed when it starts, so that nobody on the network changes it."""


@dataclass(frozen=True)
class Parameter:
    """One parameter: its default fixes its type.

    Attributes:
        name: ROS parameter name.
        default: value when nothing is given; lists are never empty, so that their type is known.
        description: what it does, with its unit.
        affects: what another value makes different.
        minimum, maximum: inclusive bounds, for numbers and the items of lists.
        choices: the allowed strings.
        length: of a list; 0: any.
    """

    name: str
    default: Value
    description: str
    affects: Affects
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    length: int = 0

    @property
    def live(self) -> bool:
        """Whether it may change while the detector is active."""
        return self.affects is Affects.LIVE

    @property
    def fixed(self) -> bool:
        """Whether it is fixed when a node starts; what is neither that nor live is read at configure."""
        return self.affects is Affects.START

    def check(self, value: Any) -> Value:
        """Returns `value` in the parameter's type.

        Raises:
            ParameterError: wrong type, out of bounds, or not among the choices.
        """
        wanted = type(self.default)
        if wanted is float and type(value) is int:
            value = float(value)
        if isinstance(self.default, list):
            item = type(self.default[0])
            if not isinstance(value, list | tuple | array):
                raise self._error(value, self._listed)
            value = list(value)
            if item is float:
                value = [float(v) if type(v) is int else v for v in value]
            if not value or any(type(v) is not item for v in value) or (self.length and len(value) != self.length):
                raise self._error(value, self._listed)
        elif type(value) is not wanted:
            quoted = ' (in quotes where it looks like another type)' if wanted is str else ''
            raise self._error(value, f'{"an" if wanted is int else "a"} {wanted.__name__}{quoted}')
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int | float) and not isinstance(number, bool):
                if self.minimum is not None and not number >= self.minimum:
                    raise self._error(value, f'at least {self.minimum:g}')
                if self.maximum is not None and not number <= self.maximum:
                    raise self._error(value, f'at most {self.maximum:g}')
        if self.choices and value not in self.choices:
            raise self._error(value, f'one of {", ".join(self.choices)}')
        return value

    @property
    def _listed(self) -> str:
        assert isinstance(self.default, list)
        return f'a list of {self.length or ""}{" " if self.length else ""}{type(self.default[0]).__name__}'

    def _error(self, value: Any, expected: str) -> ParameterError:
        return ParameterError(f'parameter {self.name}: found {value!r:.200}, expected {expected}; correct it')


@dataclass(frozen=True)
class _Row:
    """A parameter whose name may be that of its field."""

    name: str
    default: Value
    description: str
    affects: Affects
    bounds: Mapping[str, Any]

    def parameter(self, field_name: str) -> Parameter:
        return Parameter(self.name or field_name, self.default, self.description, self.affects, **self.bounds)


def row(default: Any, description: str, affects: Affects, *, name: str = '', **bounds: Any) -> Any:
    """A field of a section that is a parameter.

    Args:
        default: of the field's type; a tuple stands for a list.
        description: what it does, with its unit.
        affects: what another value makes different.
        name: ROS parameter name, where it is not the field's.
        bounds: `minimum`, `maximum`, `choices`, `length`, see Parameter.
    """
    value = list(default) if isinstance(default, tuple) else default
    return field(default=default, metadata={_ROW: _Row(name, value, description, affects, bounds)})


@dataclass(frozen=True)
class Section:
    """A part of the table: a frozen dataclass whose fields are rows or sections."""

    @classmethod
    def table(cls) -> dict[str, Parameter]:
        """Its parameters by name, in order."""
        return {parameter.name: parameter for _, parameter in cls._leaves()}

    @classmethod
    def of(cls: type[_Own], given: Mapping[str, Any]) -> _Own:
        """What is given by parameter name, checked; the defaults for the rest.

        Raises:
            ParameterError: a name that the section does not have, or a bad value.
        """
        return cls().changed(given)

    def changed(self: _Own, given: Mapping[str, Any]) -> _Own:
        """The same with some parameters changed, by name.

        Raises:
            ParameterError: a name that the section does not have, or a bad value.
        """
        known = self.table()
        for name in given:
            if name not in known:
                meant = difflib.get_close_matches(name, known)
                raise ParameterError(f'parameter {name}: not known; expected one of {", ".join(meant or known)}'
                                     f'{", or another one" if meant else ""}')
        checked = {name: known[name].check(value) for name, value in given.items()}
        return self._with(checked) if checked else self

    def live(self: _Own, given: Mapping[str, Any]) -> _Own:
        """The same with some parameters changed that may change while the detector is active.

        Raises:
            ParameterError: unknown, not live, or a bad value.
        """
        free = [parameter.name for parameter in self.table().values() if parameter.live]
        for name in given:
            if name not in free:
                raise ParameterError(f'parameter {name}: cannot change while loaded; expected one of '
                                     f'{", ".join(sorted(free))}')
        return self.changed(given)

    def values(self, *affects: Affects) -> dict[str, Value]:
        """Every parameter's value by name, as ROS and YAML have it; only of those that affect something, if named."""
        found = {}
        for path, parameter in self._leaves():
            if not affects or parameter.affects in affects:
                value: Any = self
                for name in path:
                    value = getattr(value, name)
                found[parameter.name] = list(value) if isinstance(value, tuple) else value
        return found

    @classmethod
    def _leaves(cls) -> Iterator[tuple[tuple[str, ...], Parameter]]:
        for one in fields(cls):
            if _ROW in one.metadata:
                yield (one.name,), one.metadata[_ROW].parameter(one.name)
            else:
                inner: Any = one.default
                yield from (((one.name, *path), parameter) for path, parameter in inner._leaves())

    def _with(self: _Own, checked: Mapping[str, Value]) -> _Own:
        changes: dict[str, Any] = {}
        for one in fields(self):
            if _ROW in one.metadata:
                name = one.metadata[_ROW].name or one.name
                if name in checked:
                    value = checked[name]
                    changes[one.name] = tuple(value) if isinstance(value, list) else value
            else:
                changes[one.name] = getattr(self, one.name)._with(checked)
        return replace(self, **changes)
