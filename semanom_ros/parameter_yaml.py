"""Parameter files and values, read with the meaning that ROS gives them, where ROS is not installed as well.

rcl_yaml_param_parser decides on the vehicle what a file says. It reads YAML's events with libyaml and types the scalars
itself, otherwise than YAML libraries do: `1e-3` is a number, `null` is text, `010` is eight. What is here takes the
same steps, with the functions of the C library that it calls; a test holds the two against each other.
"""

from __future__ import annotations

import ctypes
import errno
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from semanom_ros.errors import ParameterError
from semanom_ros.parameters import Value
from semanom_ros.small_files import read_small

DEEPEST = 100
"""Levels of a parameter file."""

_KEY = 'ros__parameters'
_PARSER = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)  # libyaml, as in rcl, where PyYAML was built with it
_STRING_TAG = 'tag:yaml.org,2002:str'
_TRUE = frozenset(('Y', 'y', 'yes', 'Yes', 'YES', 'true', 'True', 'TRUE', 'on', 'On', 'ON'))
_FALSE = frozenset(('N', 'n', 'no', 'No', 'NO', 'false', 'False', 'FALSE', 'off', 'Off', 'OFF'))
_SPECIAL = re.compile(r'[+-]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)')
_TOKEN = re.compile(r'[A-Za-z_][A-Za-z0-9_]*|\*\*?')

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.strtoll.restype, _LIBC.strtoll.argtypes = ctypes.c_longlong, (ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int)
_LIBC.strtod.restype, _LIBC.strtod.argtypes = ctypes.c_double, (ctypes.c_char_p, ctypes.c_void_p)


@dataclass
class NodeSection:
    """What a file gives to the nodes of one name.

    Attributes:
        name: of the node with its namespace, in which `*` stands for one name and `**` for any number of them.
        values: by the parameters' names, those of nested maps joined by dots.
    """

    name: str
    values: dict[str, Value] = field(default_factory=dict)

    @property
    def full_name(self) -> str:
        """With the slash that may be left out in files."""
        return self.name if self.name.startswith('/') else f'/{self.name}'

    @property
    def wild(self) -> bool:
        """Whether it may be for nodes of other names."""
        return self.full_name.rsplit('/', 1)[1].startswith('*')

    def fits(self, node: str, namespace: str | None) -> bool:
        """Whether it is for a node.

        Args:
            node: its name.
            namespace: of it, e.g. `/robot`; None: any.
        """
        if namespace is None:
            return self.wild or self.full_name.rsplit('/', 1)[1] == node
        pattern = re.escape(self.full_name).replace(r'/\*', r'(/\w+)')
        pattern = pattern.replace(r'(/\w+)\*', r'(/\w+)*')
        return re.fullmatch(pattern, '/'.join((namespace.rstrip('/'), node)), re.ASCII) is not None


def sections_of(path: Path) -> list[NodeSection]:
    """The sections of a ROS parameter file (`node: {ros__parameters: {...}}`), in order.

    Raises:
        ParameterError: unreadable, too large, or not of that form.
    """
    try:
        sections: dict[str, NodeSection] = {}
        events = _Events(str(path), read_small(path))
        for event in events:
            if isinstance(event, yaml.MappingStartEvent):
                _read_nodes(events, (), sections)
            elif not isinstance(event, yaml.DocumentEndEvent):
                raise events.error('no mapping', f'node: {{{_KEY}: ...}}')
        if not sections:
            raise ParameterError(f'{path}: found no parameters, expected node: {{{_KEY}: ...}}; give a ROS parameter '
                                 'file')
    except OSError as error:
        raise ParameterError(f'{path}: unreadable ({error.strerror}); give a ROS parameter file') from error
    return list(sections.values())


def value_of(name: str, text: str) -> Value:
    """A value as `-p NAME:=VALUE` of ROS command lines reads it; '' where nothing is given.

    Raises:
        ParameterError: it is no value.
    """
    events = _Events(f'{name}={text:.60}', text.encode(errors='surrogateescape'))
    found: Value = ''
    for event in events:
        if not isinstance(event, yaml.DocumentEndEvent):
            found = _value(events, event) if text.strip() else ''
    return found


def scalar(text: str) -> Value:
    """A word without quotes: a bool, an int, a float or text."""
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    code = text.encode(errors='surrogateescape')
    number = _number(_LIBC.strtoll, code, 0)
    if number is None:
        special = _SPECIAL.fullmatch(text)
        number = _number(_LIBC.strtod, code.lstrip(b'+-.') if special else code)
        if special and number is not None and text.startswith('-'):
            number = -number
    return text if number is None else number


def _number(function: ctypes._NamedFuncPointer, code: bytes, *base: int) -> int | float | None:
    """What a function of the C library makes of the whole of a text, if it does."""
    start = ctypes.create_string_buffer(code)
    end = ctypes.c_void_p()
    ctypes.set_errno(0)
    found = function(ctypes.cast(start, ctypes.c_char_p), ctypes.byref(end), *base)
    whole = end.value == ctypes.addressof(start) + len(code)
    return found if code and whole and ctypes.get_errno() != errno.ERANGE else None


class _Events:
    """YAML's events that say something: no nesting costs a stack, and aliases, which ROS refuses, multiply nothing."""

    def __init__(self, source: str, content: bytes) -> None:
        self._source = source
        self._events = yaml.parse(content, Loader=_PARSER)
        self._line = self._depth = 0

    def __iter__(self) -> Iterator[yaml.Event]:
        return self

    def __next__(self) -> yaml.Event:
        try:
            event = next(self._events)
            while isinstance(event, yaml.StreamStartEvent | yaml.StreamEndEvent | yaml.DocumentStartEvent):
                event = next(self._events)
        except (yaml.YAMLError, ValueError) as error:  # text that is not UTF-8 is the other
            reason = ' '.join(str(error).split())
            raise ParameterError(f'{self._source}: unreadable as YAML ({reason}); correct it') from error
        if event.start_mark is not None:
            self._line = event.start_mark.line + 1
        self._depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if self._depth > DEEPEST:
            raise self.error(f'more than {DEEPEST} levels', 'a ROS parameter file')
        if isinstance(event, yaml.AliasEvent):
            raise self.error(f'the alias *{event.anchor}', 'the value itself, as ROS reads no aliases')
        return event

    def error(self, found: str, expected: str) -> ParameterError:
        """The error that something is found in the place of something else."""
        return ParameterError(f'{self._source}: line {self._line}: found {found}, expected {expected}; correct it')


def _read_nodes(events: _Events, path: tuple[str, ...], sections: dict[str, NodeSection]) -> None:
    """A mapping above `ros__parameters`, whose keys are namespaces and names of nodes."""
    for key, event in _items(events):
        if not isinstance(event, yaml.MappingStartEvent):
            if key == _KEY or (isinstance(event, yaml.ScalarEvent) and not event.value):
                raise events.error(f'nothing below {key}', f'{"parameters" if key == _KEY else _KEY} there, indented')
            raise events.error(f'a value of {key}', f'{_KEY} above it, as in node: {{{_KEY}: {{{key}: ...}}}}')
        if key != _KEY:
            _read_nodes(events, (*path, key), sections)
            continue
        name = '/'.join(path)
        if not all(map(_TOKEN.fullmatch, name.removeprefix('/').split('/'))):
            raise events.error(f'{_KEY} of {name!r}', 'the name of a node above it')
        _read_parameters(events, '', sections.setdefault(name, NodeSection(name)).values)


def _read_parameters(events: _Events, prefix: str, values: dict[str, Value]) -> None:
    """A mapping below `ros__parameters`."""
    for key, event in _items(events):
        name = f'{prefix}{key}'
        if isinstance(event, yaml.MappingStartEvent):
            _read_parameters(events, f'{name}.', values)
            continue
        value = _value(events, event)
        if type(values.setdefault(name, value)) is not type(value):
            raise events.error(f'parameter {name} twice, as {type(values[name]).__name__} and {type(value).__name__}',
                               'it once')
        values[name] = value


def _items(events: _Events) -> Iterator[tuple[str, yaml.Event]]:
    """Keys of a mapping, each with the first event of its value."""
    for event in events:
        if isinstance(event, yaml.MappingEndEvent):
            return
        if not isinstance(event, yaml.ScalarEvent) or not event.value:
            raise events.error('a key that is no name', 'a name')
        yield event.value, next(events)


def _value(events: _Events, event: yaml.Event) -> Value:
    """A scalar, or a list of scalars of one type."""
    if isinstance(event, yaml.ScalarEvent):
        return _scalar_of(events, event)
    if not isinstance(event, yaml.SequenceStartEvent):
        raise events.error('a mapping', 'a value or a list of values')
    items: list[bool | int | float | str] = []
    for item in events:
        if isinstance(item, yaml.SequenceEndEvent):
            break
        if not isinstance(item, yaml.ScalarEvent):
            raise events.error('a list or mapping in a list', 'values')
        items.append(_scalar_of(events, item))
        if type(items[-1]) is not type(items[0]):
            raise events.error(f'{items[-1]!r} in a list of {type(items[0]).__name__}', 'values of one type, as ROS '
                               'reads no others (1.0 where the others are no whole numbers)')
    return items  # type: ignore[return-value]  # of one type


def _scalar_of(events: _Events, event: yaml.ScalarEvent) -> bool | int | float | str:
    text: str = event.value
    if '\0' in text:
        raise events.error('a NUL character', 'text')
    if event.style in ("'", '"') or event.tag == _STRING_TAG:
        return text
    if not text:
        raise events.error('no value', "one ('' for none)")
    return scalar(text)  # type: ignore[return-value]  # no list
