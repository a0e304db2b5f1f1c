"""Plays a recording to the detector and shows what it finds in RViz."""

import math
import sys
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
from launch.events.process import ProcessExited
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import LifecycleNode
from launch_ros.event_handlers import OnStateTransition

from semanom_ros.errors import BagError, ParameterError, SemanomError
from semanom_ros.parameter_files import DETECTOR
from semanom_ros.recordings.bags import COMPRESSED_IMAGE, BagReader
from semanom_ros.ros.launching import (
    SHARE,
    LaunchedNode,
    config,
    configure_failed,
    full_name,
    image_topic,
    listed,
    rviz,
    shared,
)
from semanom_ros.ros.middleware import large_image_settings
from semanom_ros.ros.remapping import words


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([
        DeclareLaunchArgument('bag', description='Recording to play: folder of a rosbag2.'),
        shared('database'),
        image_topic('the only one in the recording'),
        shared('camera_info_topic'),
        shared('segments_topic'),
        shared('depth_topic'),
        shared('points_topic'),
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
    rate = rate_of(argument['rate'])
    launched = LaunchedNode.of(context, DETECTOR)
    with BagReader(bag) as reader:
        image_topics = [reader.image_topic(topic) for topic in words(argument['image_topic']) or ['']]
        kinds = {reader.topics[topic] for topic in image_topics}
        # A recorded clock is that of the stamps; the player's own is by the time of reception.
        clock, recorded_clock = ([], ['/clock']) if '/clock' in reader.topics else (['--clock'], [])
        played = [*reader.replayed_topics, *recorded_clock]
        frames = [reader.counts[topic] for topic in image_topics]
        bag = playable(reader)
    if len(kinds) > 1:
        raise BagError(f'{bag}: found {", ".join(image_topics)} both raw and compressed, expected one kind; choose')
    forwarded = ('database', 'camera_info_topic', 'segments_topic', 'depth_topic', 'points_topic', 'camera_names',
                 'config', 'namespace', 'rviz', 'fixed_frame', 'log_level')
    detector = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(SHARE / 'launch' / 'detector.launch.py')),
        launch_arguments={
            **{name: argument[name] for name in forwarded},
            'image_topic': listed(image_topics),
            'image_transport': 'compressed' if kinds == {COMPRESSED_IMAGE} else 'raw',
            'use_sim_time': 'true',
            'autostart': 'true',
        }.items(),
    )
    scores = [
        part
        for camera, count in zip(launched.cameras, frames, strict=False)
        for part in ('--score', camera, f'{full_name(argument["namespace"], DETECTOR)}/{camera}/score', str(count))
    ]
    play = ['ros2', 'bag', 'play', str(bag), *clock, '--rate', argument['rate'], '--topics', *played]
    player = ExecuteProcess(
        cmd=[sys.executable, '-m', 'semanom_ros.ros.replaying', *scores, '--rate', str(rate), '--', *play],
        additional_env=large_image_settings(),
        name='player',
        output='screen',
    )

    def player_ended(event: ProcessExited, context: LaunchContext) -> list:
        if context.is_shutdown:
            return []
        if event.returncode:
            raise SemanomError(f'the player ended with status {event.returncode}, expected 0; its log above says why')
        if argument['rviz'] == 'true':
            return [LogInfo(msg='The recording is at its end. Ctrl-C ends detector and RViz.')]
        return [LogInfo(msg='The recording is at its end.'), EmitEvent(event=Shutdown(reason='end of the recording'))]

    def detector_ended(event: ProcessExited, context: LaunchContext) -> None:
        if not context.is_shutdown:
            raise SemanomError(f'the detector ended with status {event.returncode}; its log above says why')

    def not_configured(context: LaunchContext) -> None:
        raise SemanomError('the detector is not configured; its log above says why')

    return [
        # No frame is played past a detector that still loads.
        RegisterEventHandler(OnStateTransition(goal_state='active', entities=[player], handle_once=True)),
        RegisterEventHandler(
            OnStateTransition(matcher=configure_failed, entities=[OpaqueFunction(function=not_configured)])
        ),
        RegisterEventHandler(OnProcessExit(target_action=player, on_exit=player_ended)),
        RegisterEventHandler(
            OnProcessExit(target_action=lambda action: isinstance(action, LifecycleNode), on_exit=detector_ended)
        ),
        detector,
    ]


def playable(reader: BagReader) -> Path:
    """What `ros2 bag play` takes of a recording: its folder, or its file.

    Raises:
        BagError: that plays no such recording.
    """
    if (reader.path / 'metadata.yaml').is_file() or reader.path.suffix in ('.mcap', '.db3'):
        return reader.path
    raise BagError(f'{reader.path}: found no recording that ros2 bag play takes, expected a folder with metadata.yaml, '
                   'or a .mcap or .db3 file; convert it (rosbags-convert, ros2 bag reindex, zstd -d), or let `semanom '
                   'evaluate` read it as it is')


def rate_of(text: str) -> float:
    """The rate that an argument gives.

    Raises:
        ParameterError: it is none.
    """
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not 0 < rate < math.inf:
        raise ParameterError(f'rate: found {text}, expected a number above 0; 1.0 plays as fast as recorded')
    return rate
