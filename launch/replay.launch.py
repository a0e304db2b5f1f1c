"""Plays a recording to the detector and shows what it finds in RViz."""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    IncludeLaunchDescription,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
)
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.event_handlers import OnStateTransition

from semanom_ros.errors import BagError
from semanom_ros.ros.bags import COMPRESSED_IMAGE, BagReader
from semanom_ros.ros.remapping import words

SHARE = Path(get_package_share_directory('semanom_ros'))
BOOLEAN = ['true', 'false']


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([
        DeclareLaunchArgument('bag', description='Recording to play: folder of a rosbag2.'),
        DeclareLaunchArgument(
            'database', default_value='', description='Folder of the nominal database; empty: as in config.'),
        DeclareLaunchArgument(
            'image_topic', default_value='',
            description='Image topic, or one for each camera: [/front/image_raw,/rear/image_raw]; empty: the only '
                        'one in the recording.'),
        DeclareLaunchArgument(
            'camera_info_topic', default_value='',
            description='CameraInfo topic, or one for each camera; empty: camera_info beside the image topic.'),
        DeclareLaunchArgument(
            'camera_names', default_value='',
            description='Name of the camera, or of each: [front,rear]; empty: as in config.'),
        DeclareLaunchArgument(
            'config', default_value=str(SHARE / 'config' / 'detector.yaml'),
            description='ROS parameter file; what it leaves out has its default.'),
        DeclareLaunchArgument('namespace', default_value='', description='Namespace of the detector.'),
        DeclareLaunchArgument('rate', default_value='1.0', description='How many times as fast as recorded.'),
        DeclareLaunchArgument(
            'rviz', default_value='true', choices=BOOLEAN, description='Show the detections in RViz.'),
        DeclareLaunchArgument(
            'fixed_frame', default_value='base_link',
            description='What RViz shows stands still in this frame; without /tf, give the images\' own.'),
        DeclareLaunchArgument(
            'log_level', default_value='info', choices=['debug', 'info', 'warn', 'error', 'fatal'],
            description='Least severity that the detector logs.'),
        OpaqueFunction(function=launch_setup),
    ])  # fmt: skip


def launch_setup(context: LaunchContext) -> list:
    argument = context.launch_configurations
    bag = Path(argument['bag']).expanduser()
    with BagReader(bag) as reader:
        image_topics = [reader.image_topic(topic) for topic in words(argument['image_topic']) or ['']]
        kinds = {reader.topics[topic] for topic in image_topics}
        clock = [] if '/clock' in reader.topics else ['--clock']
    if len(kinds) > 1:
        raise BagError(f'{bag}: found {", ".join(image_topics)} both raw and compressed, expected one kind; choose')
    forwarded = ('database', 'camera_info_topic', 'camera_names', 'config', 'namespace', 'rviz', 'fixed_frame',
                 'log_level')
    detector = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(SHARE / 'launch' / 'detector.launch.py')),
        launch_arguments={
            **{name: argument[name] for name in forwarded},
            'image_topic': f'[{",".join(image_topics)}]',
            'image_transport': 'compressed' if kinds == {COMPRESSED_IMAGE} else 'raw',
            'use_sim_time': 'true',
            'autostart': 'true',
        }.items(),
    )
    player = ExecuteProcess(
        cmd=['ros2', 'bag', 'play', str(bag), *clock, '--rate', argument['rate']], name='player', output='screen'
    )
    # No frame is played past a detector that still loads.
    play = OnStateTransition(goal_state='active', entities=[player], handle_once=True)
    if argument['rviz'] == 'true':
        end = [LogInfo(msg='The recording is at its end. Ctrl-C ends detector and RViz.')]
    else:
        end = [LogInfo(msg='The recording is at its end.'), EmitEvent(event=Shutdown(reason='end of the recording'))]
    return [
        RegisterEventHandler(play),
        RegisterEventHandler(OnProcessExit(target_action=player, on_exit=end)),
        detector,
    ]
