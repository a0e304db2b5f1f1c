"""Message definitions: those of ROS 2 and of this package, and those that a recording brings along."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from rosbags.interfaces import Nodetype
from rosbags.interfaces.typing import Typesdict
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from semanom_ros.errors import BagError
from semanom_ros.recordings.storage_file import Topic, line

_FIXED = ('sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage', 'sensor_msgs/msg/CameraInfo')
"""Types that never changed. A recording converted from ROS 1 calls their fields otherwise (`K` for `k`)."""
_LONGEST, _MOST_TYPES = 1 << 18, 500  # characters of a definition, and types in it: far more than any of ROS has
_MOST_ELEMENTS = 4096  # of a fixed array of strings or messages: parsers are generated with a line for each
_HEADER = 'std_msgs/msg/Header'
_SEPARATOR = re.compile(r'^=+\n(?:IDL: .*\n)?', re.M)


@cache
def typestore() -> Typestore:
    """Message definitions of ROS 2 Kilted and of this package.

    Raises:
        BagError: the package's .msg files are not where an installation has them.
    """
    store = get_typestore(Stores.ROS2_KILTED)
    for folder in (place for parent in Path(__file__).resolve().parents
                   for place in (parent / 'msg', parent / 'share' / 'semanom_ros' / 'msg')):
        definitions = sorted(folder.glob('*.msg'))
        if definitions:
            for path in definitions:
                store.register(get_types_from_msg(path.read_text(), f'semanom_ros/msg/{path.stem}'))
            return store
    raise BagError(f'{Path(__file__).parent}: found no message definitions of semanom_ros in a share folder above it, '
                   'expected share/semanom_ros/msg; install the package again')


class Definitions:
    """The definitions of a recording itself, and the standard ones where it carries none (before ROS 2 Iron)."""

    def __init__(self, path: Path, topics: Iterable[Topic]) -> None:
        """
        Args:
            path: of the recording, for errors.
            topics: of it, with their definitions.
        """
        self._path = path
        self._topics: dict[str, Topic] = {}
        for topic in topics:
            if topic.definition:
                self._topics.setdefault(topic.type, topic)
        self._stores: dict[str, Typestore] = {}

    def store(self, type: str) -> Typestore:
        """A store that knows a type.

        Raises:
            BagError: there is no definition of it, or one that cannot be used.
        """
        if type in _FIXED:
            return typestore()
        if type not in self._stores:
            self._stores[type] = self._own(type)
        return self._stores[type]

    def cdr(self, type: str, message: bytes) -> bytes:
        """A message in the serialization of ROS 1 in that of ROS 2.

        Raises:
            BagError: as `store`.
            SerdeError: the message does not fit its definition.
        """
        return bytes(self.store(type).ros1_to_cdr(message, type))

    def _own(self, type: str) -> Typestore:
        known = self._topics.get(type)
        if known is None:
            if type not in typestore().fielddefs:
                raise BagError(f'{self._path}: found no definition of {type}, expected one in the recording; '
                               'record it with ROS 2 Iron or newer')
            return typestore()
        try:
            store = get_typestore(Stores.EMPTY)
            store.register(_types(known))
            store.get_msgdef(type)  # generates the parsers
        except Exception as error:  # of whatever stands there
            raise BagError(f'{self._path}: the definition of {type} cannot be used ({line(error)}); record the topic '
                           f'{known.name} again, or leave it out') from error
        return store


def _types(topic: Topic) -> Typesdict:
    """Fields of a type and of those in it."""
    if len(topic.definition) > _LONGEST:
        raise ValueError(f'it has {len(topic.definition)} characters, expected at most {_LONGEST}')
    if (count := len(_SEPARATOR.findall(topic.definition))) > _MOST_TYPES:
        raise ValueError(f'it has {count} types, expected at most {_MOST_TYPES}')
    types: Typesdict = {}
    if topic.idl:
        for text in _SEPARATOR.split(topic.definition):
            if text:
                types.update(get_types_from_idl(text))
    else:
        types.update(get_types_from_msg(topic.definition, topic.type))
    for name, (_, fields) in types.items():
        for field, (kind, content) in fields:
            if kind == Nodetype.ARRAY and int(content[1]) > _MOST_ELEMENTS and (
                    content[0][0] != Nodetype.BASE or content[0][1][0] == 'string'):
                raise ValueError(f'{name} has {content[1]} times {field}, expected at most {_MOST_ELEMENTS}')
    if topic.encoding == 'ros1':  # whose conversion knows the Header, and that times are primitive
        ours = typestore().fielddefs
        if _HEADER in types:
            types[_HEADER] = ours[_HEADER]
        for name in ('builtin_interfaces/msg/Time', 'builtin_interfaces/msg/Duration'):
            types.setdefault(name, ours[name])
    return types
