"""Makes a nominal database: from recordings, or from the cameras while driving."""

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch_ros.actions import Node

from semanom_ros.parameter_files import RECORDER
from semanom_ros.ros.launching import BOOLEAN, LaunchedNode, config, image_topic, shared
from semanom_ros.ros.remapping import words

# After Ctrl-C the recorder still calibrates and writes the database; launch must not lose patience.
SECONDS_TO_FINISH = '3600'


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([
        shared('database'),
        DeclareLaunchArgument(
            'bags', default_value='',
            description='Recording, or several: [/data/monday,/data/tuesday]; empty: as in config, and where there '
                        'is none either, the live cameras until Ctrl-C.'),
        shared('cameras'),
        image_topic('the only one there is, live else the recorder\'s own, ~/input/NAME/image'),
        shared('segments_topic'),
        shared('camera_names'),
        shared('image_transport'),
        DeclareLaunchArgument(
            'append', default_value='', choices=['', *BOOLEAN],
            description='Add to the database where it exists already; empty: as in config.'),
        config('recorder.yaml'),
        shared('namespace'),
        shared('use_sim_time'),
        shared('log_level'),
        OpaqueFunction(function=launch_setup),
    ])  # fmt: skip


def launch_setup(context: LaunchContext) -> list:
    argument = context.launch_configurations
    launched = LaunchedNode.of(context, RECORDER)
    bags = words(argument['bags']) or [bag for bag in launched.settings.recorder.bags if bag]
    said: list = []
    if not bags:
        launched, said = launched.with_the_only_camera(argument['image_transport'])
    overrides = launched.overrides
    if argument['append']:
        overrides['append'] = argument['append'] == 'true'
    if bags:
        overrides['bags'] = bags
        if launched.image_topics:
            overrides['image_topics'] = launched.image_topics
        if launched.beside['segments_topic']:
            overrides['segments_topics'] = launched.beside['segments_topic']
    return [
        *said,
        Node(
            package='semanom_ros',
            executable='nominal_recorder',
            name=RECORDER,
            namespace=argument['namespace'],
            parameters=launched.parameter_files(),
            remappings=[] if bags else launched.remappings(),
            ros_arguments=['--log-level', argument['log_level']],
            sigterm_timeout=SECONDS_TO_FINISH,
            output='screen',
        )
    ]
