"""Plays a recording to the detector and shows what it finds in RViz."""

from pathlib import Path

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
from semanom_ros.recordings.bags import COMPRESSED_IMAGE, BagReader
from semanom_ros.ros.launching import SHARE, config, image_topic, rviz, shared
from semanom_ros.ros.middleware import large_image_settings
from semanom_ros.ros.remapping import words


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([
        DeclareLaunchArgument('bag', description='Recording to play: folder of a rosbag2.'),
        shared('database'),
        image_topic('the only one in the recording'),
        shared('camera_info_topic'),
        shared('segments_topic'),
        shared('camera_names'),
        config('detector.yaml'),
        shared('namespace'),
        DeclareLaunchArgument('rate', default_value='1.0', description='How many times as fast as recorded.'),
        rviz('true'),
        shared('fixed_frame'),
        shared('log_level'),
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
    forwarded = ('database', 'camera_info_topic', 'segments_topic', 'camera_names', 'config', 'namespace', 'rviz',
                 'fixed_frame', 'log_level')
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
        cmd=['ros2', 'bag', 'play', str(bag), *clock, '--rate', argument['rate']],
        additional_env=large_image_settings(),
        name='player',
        output='screen',
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
