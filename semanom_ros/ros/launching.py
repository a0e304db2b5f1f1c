"""What the launch files share: arguments, and what they come to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext
from launch.actions import DeclareLaunchArgument, LogInfo
from launch.logging import launch_config
from launch_ros.events.lifecycle import StateTransition
from rclpy.exceptions import InvalidNamespaceException
from rclpy.validate_namespace import validate_namespace

from semanom_ros.errors import ParameterError
from semanom_ros.home import expanded
from semanom_ros.parameter_files import read_yaml
from semanom_ros.parameter_yaml import NodeSection, sections_of
from semanom_ros.ros.camera_search import search
from semanom_ros.ros.remapping import BESIDE, GivenCameras, camera_remappings, words
from semanom_ros.settings import Settings

SHARE = Path(get_package_share_directory('semanom_ros'))
BOOLEAN = ['true', 'false']
LEVELS = ['debug', 'info', 'warn', 'error', 'fatal']

_ARGUMENTS: dict[str, dict[str, Any]] = {
    'database': {'default_value': '', 'description': 'Folder of the nominal database; empty: as in config.'},
    'camera_info_topic': {
        'default_value': '',
        'description': 'CameraInfo topic, or one for each camera; empty: camera_info beside the image topic.'},
    'segments_topic': {
        'default_value': '',
        'description': 'Topic of the masks, or one for each camera, for the segmenter `topic`; empty: the node\'s '
                       'own, ~/input/NAME/segments.'},
    'depth_topic': {
        'default_value': '',
        'description': 'Topic of depth images registered to the camera, or one for each camera: they measure how far '
                       'anomalies are; empty: as in config.'},
    'points_topic': {
        'default_value': '',
        'description': 'Topic of a point cloud that measures how far anomalies are, or one for each camera; empty: as '
                       'in config.'},
    'cameras': {
        'default_value': '',
        'description': 'Several cameras in one: front:=/front/image_raw,rear:=/rear/image_raw, or a YAML file of their '
                       'topics; instead of camera_names, image_topic and camera_info_topic.'},
    'camera_names': {
        'default_value': '', 'description': 'Name of the camera, or of each: [front,rear]; empty: as in config.'},
    'image_transport': {
        'default_value': '', 'choices': ['', 'raw', 'compressed'],
        'description': 'What the cameras send; empty: as in config.'},
    'namespace': {'default_value': '', 'description': 'Namespace of the node.'},
    'use_sim_time': {
        'default_value': '', 'choices': ['', *BOOLEAN],
        'description': 'Take the time from /clock: with a simulator, or a bag played with --clock; empty: as in '
                       'config.'},
    'snapshot_folder': {
        'default_value': '', 'description': 'Folder that gets the snapshots; empty: as in config.'},
    'snapshot_topics': {
        'default_value': '',
        'description': 'Topics that are kept beside images and results: [/tf,/tf_static,/odom]; empty: as in config.'},
    'fixed_frame': {
        'default_value': 'base_link',
        'description': 'What RViz shows stands still in this frame; without /tf, give the images\' own.'},
    'log_level': {'default_value': 'info', 'choices': LEVELS, 'description': 'Least severity that the node logs.'},
}


def shared(name: str) -> DeclareLaunchArgument:
    """The declaration of an argument that several launch files have."""
    return DeclareLaunchArgument(name, **_ARGUMENTS[name])


def config(file: str) -> DeclareLaunchArgument:
    """The declaration of `config`, with a file of the package's own as its default."""
    return DeclareLaunchArgument(
        'config', default_value=str(SHARE / 'config' / file),
        description='ROS parameter file; what it leaves out has its default.')


def image_topic(empty: str) -> DeclareLaunchArgument:
    """The declaration of `image_topic`; `empty` says what is meant where none is given."""
    return DeclareLaunchArgument(
        'image_topic', default_value='',
        description=f'Image topic, or one for each camera: [/front/image_raw,/rear/image_raw]; empty: {empty}.')


def rviz(default: str) -> DeclareLaunchArgument:
    """The declaration of `rviz`."""
    return DeclareLaunchArgument(
        'rviz', default_value=default, choices=BOOLEAN, description='Show the detections in RViz.')


def listed(values: Sequence[str]) -> str:
    """As a launch argument has several: `[a,b]`; '' for none."""
    return f'[{",".join(values)}]' if values else ''


def full_name(*parts: str) -> str:
    """A name in namespaces, `/robot/node`; '' for none."""
    return ''.join(f'/{part}' for whole in parts for part in whole.split('/') if part)


def configure_failed(event: object) -> bool:
    """Whether a lifecycle node has just failed to configure."""
    return (isinstance(event, StateTransition) and event.start_state in ('configuring', 'errorprocessing')
            and event.goal_state == 'unconfigured')


@dataclass(frozen=True)
class LaunchedNode:
    """What the arguments of a node's launch file come to.

    Attributes:
        name: of the node, with its namespace.
        config: parameter file.
        settings: its parameters, with the defaults of what it leaves out.
        cameras: their names.
        transport: `raw` or `compressed`.
        image_topics: as given; [] for none.
        info_topics: CameraInfo topics, likewise.
        beside: other topics of the cameras, by their arguments, those of BESIDE; [] for none.
        overrides: parameters that the arguments set.
    """

    name: str
    config: Path
    settings: Settings
    cameras: list[str]
    transport: str
    image_topics: list[str]
    info_topics: list[str]
    beside: dict[str, list[str]]
    overrides: dict[str, Any]

    @classmethod
    def of(cls, context: LaunchContext, node: str) -> LaunchedNode:
        """From the arguments of a launch, for the node of this name.

        Raises:
            ParameterError: the parameter file, the cameras or the namespace will not do.
        """
        argument = context.launch_configurations
        try:
            validate_namespace(full_name(argument['namespace']) or '/')
        except InvalidNamespaceException as error:
            raise ParameterError(f'namespace: found {argument["namespace"]}, expected words of letters, digits and '
                                 'underscores with / between; correct it') from error
        file = expanded(argument['config'])
        settings = Settings.of(read_yaml(file, node, full_name(argument['namespace'])))
        given = GivenCameras.of(argument.get('cameras', ''))
        other = [name for name in ('camera_names', 'image_topic', 'camera_info_topic') if argument.get(name)]
        if given.names and other:
            raise ParameterError(f'cameras: found {", ".join(other)} too, expected one or the other; leave one out')
        names = given.names or words(argument['camera_names']) or list(settings.cameras.camera_names)
        overrides: dict[str, Any] = {'camera_names': names}
        if given.transport and not argument.get('image_transport'):
            overrides['image_transport'] = given.transport
        if argument.get('use_sim_time'):
            overrides['use_sim_time'] = argument['use_sim_time'] == 'true'
        overrides |= {name: argument[name] for name in ('database', 'image_transport') if argument.get(name)}
        beside = {name: words(argument.get(name, '')) for name in BESIDE}
        if len(beside['points_topic']) == 1:  # a lidar sees what all cameras see
            beside['points_topic'] *= len(names)
        if sensors := [name for name in ('depth_topic', 'points_topic') if beside[name]]:
            if len(sensors) > 1:
                raise ParameterError('points_topic: found depth_topic too, expected one or the other; leave one out')
            overrides['distance_sensor'] = BESIDE[sensors[0]]
        return cls(full_name(argument['namespace'], node), file, settings, names,
                   overrides.get('image_transport', settings.cameras.image_transport),
                   given.image_topics or words(argument['image_topic']),
                   given.info_topics or words(argument.get('camera_info_topic', '')), beside, overrides)

    def with_the_only_camera(self, asked_transport: str) -> tuple[LaunchedNode, list[LogInfo]]:
        """The same with the only camera in the graph where none was named, and what is to be said about that.

        Args:
            asked_transport: argument `image_transport`; '': whatever the camera sends.
        """
        if self.image_topics or len(self.cameras) != 1:
            return self, []
        found = search(f'{self.name}/input/{self.cameras[0]}/image', asked_transport)
        said = [LogInfo(msg=found.line)]
        if not found.topic:
            return self, said
        overrides = {**self.overrides, 'image_transport': found.transport}
        return replace(self, image_topics=[found.topic], transport=found.transport, overrides=overrides), said

    def remappings(self) -> list[tuple[str, str]]:
        """From the node's inputs to the cameras' topics.

        Raises:
            ParameterError: see `camera_remappings`.
        """
        return camera_remappings(self.cameras, self.image_topics, self.info_topics, self.transport, self.beside)

    def parameter_files(self) -> list[Path]:
        """The parameter file, and one of what the arguments set, which lies with the launch's logs.

        It is written here, as launch_ros leaves out quotes that rcl needs (`1e5`, `y` and `nan` may be names). Of the
        sections that fit a node rcl takes the last, and of a name that comes again the first is the place: only under
        all of them the arguments come before everything.
        """
        file = self.log_file('.yaml')
        names = [*(section.name for section in self._sections()), self.name]
        content = {name: {'ros__parameters': self.overrides} for name in names}
        file.write_text(json.dumps(content, ensure_ascii=False))  # JSON is YAML, all of whose texts have quotes
        return [self.config, file]

    @property
    def sim_time(self) -> bool:
        """Whether the node takes the time from /clock."""
        given = [section.values['use_sim_time'] for section in self._sections() if 'use_sim_time' in section.values]
        return bool(self.overrides.get('use_sim_time', given[-1] if given else False))

    def _sections(self) -> list[NodeSection]:
        """Of the parameter file, those that are for the node."""
        namespace, _, node = self.name.rpartition('/')
        return [section for section in sections_of(self.config) if section.fits(node, namespace)]

    def log_file(self, ending: str) -> Path:
        """A file of the node's own among the launch's logs."""
        return Path(launch_config.log_dir) / (self.name.strip('/').replace('/', '.') + ending)
