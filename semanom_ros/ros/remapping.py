"""What the launch files' arguments mean: which topics the nodes' cameras are connected to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import yaml
from rclpy.exceptions import InvalidTopicNameException
from rclpy.validate_topic_name import validate_topic_name

from semanom_ros.errors import ParameterError
from semanom_ros.home import expanded


def words(argument: str) -> list[str]:
    """The items of a launch argument: `front`, or `[front, rear]`; none for an empty one."""
    text = argument.strip()
    items = (text[1:-1] if text.startswith('[') and text.endswith(']') else text).split(',')
    return [item for item in (item.strip().strip('\'"') for item in items) if item]


@dataclass(frozen=True)
class GivenCameras:
    """Cameras that were named together with their topics.

    Attributes:
        names: of the cameras.
        image_topics: of each.
        info_topics: CameraInfo topic of each; []: beside the images.
        transport: `raw` or `compressed`; '' where there are none.
    """

    names: list[str]
    image_topics: list[str]
    info_topics: list[str]
    transport: str

    @classmethod
    def of(cls, argument: str) -> GivenCameras:
        """From the launch argument `cameras`.

        Args:
            argument: `front:=/front/image_raw,rear:=/rear/image_raw`, or a YAML file that holds the image topic of each
                name, or its `image_topic` and `camera_info_topic`; '': none.

        Raises:
            ParameterError: it is none of these, or one camera is compressed and another is not.
        """
        text = argument.strip()
        if not text:
            return cls([], [], [], '')
        entries = _entries(text) if ':=' in text else _file_entries(text)
        names = [name for name, _, _ in entries]
        if len(set(names)) < len(names):
            raise ParameterError(f'cameras: found {", ".join(names)}, expected every name once; correct it')
        images, infos = [image for _, image, _ in entries], [info for _, _, info in entries]
        if any(infos) and not all(infos):
            raise ParameterError('cameras: found a camera_info_topic for some of them, expected one for each or for '
                                 'none; correct it')
        compressed = {topic.endswith('/compressed') for topic in images}
        if len(compressed) > 1:
            raise ParameterError(f'cameras: found {", ".join(images)}, expected all raw or all compressed; choose one '
                                 'kind, or start a detector for each')
        return cls(names, images, infos if all(infos) else [], 'compressed' if compressed == {True} else 'raw')


_FORMS = ('front:=/front/image_raw,rear:=/rear/image_raw, or a YAML file with `front: /front/image_raw` for each, or '
          '`front: {image_topic: ..., camera_info_topic: ...}`')


def _entries(text: str) -> list[tuple[str, str, str]]:
    """Name, image topic and '' of each `name:=topic`."""
    entries = []
    for word in words(text):
        name, assigned, topic = word.partition(':=')
        if not (name and assigned and topic) or ':=' in topic:
            raise ParameterError(f'cameras: found {word}, expected {_FORMS}; correct it')
        entries.append((name.strip(), topic.strip(), ''))
    return entries


def _file_entries(text: str) -> list[tuple[str, str, str]]:
    """Name, image topic and CameraInfo topic of each camera in a YAML file."""
    path = expanded(text)
    try:
        size = path.stat().st_size if path.is_file() else 0
        content = yaml.safe_load(path.read_text()) if 0 < size < _LARGEST_FILE else None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ParameterError(f'cameras: {path}: unreadable ({error}), expected {_FORMS}') from error
    if not isinstance(content, dict) or not content:
        found = 'no such file' if not path.exists() else 'something else'
        raise ParameterError(f'cameras: {path}: found {found}, expected {_FORMS}; correct it')
    entries = []
    for name, given in content.items():
        topics = {'image_topic': given} if isinstance(given, str) else given
        if not isinstance(name, str) or not isinstance(topics, dict) or 'image_topic' not in topics \
                or topics.keys() - {'image_topic', 'camera_info_topic'} \
                or not all(isinstance(topic, str) and topic for topic in topics.values()):
            raise ParameterError(f'cameras: {path}: found something else for {name!r:.40}, expected {_FORMS}; '
                                 'correct it')
        entries.append((name, topics['image_topic'], topics.get('camera_info_topic', '')))
    return entries


_LARGEST_FILE = 1 << 16  # bytes

BESIDE = {'segments_topic': 'segments', 'depth_topic': 'depth', 'points_topic': 'points'}
"""Inputs of a camera beside its images and CameraInfo, by the arguments of the launch files that name their topics."""


def camera_remappings(
    cameras: Sequence[str],
    image_topics: Sequence[str],
    info_topics: Sequence[str],
    transport: str,
    beside: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> list[tuple[str, str]]:
    """Remapping rules from the nodes' inputs to the cameras' topics.

    Args:
        cameras: names, as in the parameter `camera_names`.
        image_topics: image topic of each camera, with or without `/compressed`; none: no rules.
        info_topics: CameraInfo topic of each camera; none: `camera_info` beside each image topic.
        transport: `raw` or `compressed`, as in the parameter `image_transport`.
        beside: what comes beside the images, by its argument of BESIDE, a topic for each camera; none: the nodes' own.

    Raises:
        ParameterError: there are more or fewer topics than cameras, or a topic of compressed
            images where raw ones are wanted; or something is no topic.
    """
    given = {'image_topic': image_topics, 'camera_info_topic': info_topics, **beside}
    for name, topics in given.items():
        if topics and len(topics) != len(cameras):
            raise ParameterError(
                f'{name}: found {len(topics)} ({", ".join(topics)}), expected one for each of the {len(cameras)} '
                f'cameras ({", ".join(cameras)}); give lists of the same length: camera_names:=[front,rear] '
                f'{name}:=[/front/...,/rear/...]'
            )
        for topic in topics:
            try:
                validate_topic_name(topic)
            except InvalidTopicNameException as error:
                raise ParameterError(f'{name}: found {topic}, expected the name of a topic; correct it') from error
    rules = []
    for camera, topic in zip(cameras, image_topics, strict=False):
        base = topic.removesuffix('/compressed')
        if transport == 'compressed':
            rules.append((f'~/input/{camera}/image/compressed', f'{base}/compressed'))
        elif base != topic:
            raise ParameterError(
                f'image_topic: found {topic}, expected a topic of raw images; add image_transport:=compressed'
            )
        else:
            rules.append((f'~/input/{camera}/image', topic))
        if not info_topics:
            rules.append((f'~/input/{camera}/camera_info', '/'.join([*base.split('/')[:-1], 'camera_info'])))
    rules += [(f'~/input/{camera}/camera_info', topic) for camera, topic in zip(cameras, info_topics, strict=False)]
    for name, topics in beside.items():
        rules += [(f'~/input/{camera}/{BESIDE[name]}', topic) for camera, topic in zip(cameras, topics, strict=False)]
    return rules
