"""What the launch files' arguments mean: which topics the nodes' cameras are connected to."""

from __future__ import annotations

from collections.abc import Sequence

from rclpy.exceptions import InvalidTopicNameException
from rclpy.validate_topic_name import validate_topic_name

from semanom_ros.errors import ParameterError


def words(argument: str) -> list[str]:
    """The items of a launch argument: `front`, or `[front, rear]`; none for an empty one."""
    text = argument.strip()
    items = (text[1:-1] if text.startswith('[') and text.endswith(']') else text).split(',')
    return [item for item in (item.strip().strip('\'"') for item in items) if item]


def camera_remappings(
    cameras: Sequence[str],
    image_topics: Sequence[str],
    info_topics: Sequence[str],
    transport: str,
    segments_topics: Sequence[str] = (),
) -> list[tuple[str, str]]:
    """Remapping rules from the nodes' inputs to the cameras' topics.

    Args:
        cameras: names, as in the parameter `camera_names`.
        image_topics: image topic of each camera, with or without `/compressed`; none: no rules.
        info_topics: CameraInfo topic of each camera; none: `camera_info` beside each image topic.
        transport: `raw` or `compressed`, as in the parameter `image_transport`.
        segments_topics: topic of each camera's masks, for the segmenter `topic`; none: the nodes' own.

    Raises:
        ParameterError: there are more or fewer topics than cameras, or a topic of compressed
            images where raw ones are wanted; or something is no topic.
    """
    given = {'image_topic': image_topics, 'camera_info_topic': info_topics, 'segments_topic': segments_topics}
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
    rules += [(f'~/input/{camera}/segments', topic) for camera, topic in zip(cameras, segments_topics, strict=False)]
    return rules
