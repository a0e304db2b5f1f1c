"""Keeps the seconds round alarms of a running detector, where they show something new."""

from launch import LaunchContext, LaunchDescription
from launch.actions import OpaqueFunction
from launch_ros.actions import Node

from semanom_ros.parameter_files import DETECTOR, SNAPSHOTS
from semanom_ros.ros.launching import LaunchedNode, config, full_name, image_topic, shared
from semanom_ros.ros.remapping import words

# After Ctrl-C what is new is still written; launch's 5 seconds can be too few.
SECONDS_TO_FINISH = '20'


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([
        shared('database'),
        shared('cameras'),
        image_topic('the only one that is there, else the node\'s own, ~/input/NAME/image'),
        shared('segments_topic'),
        shared('camera_names'),
        shared('image_transport'),
        config('snapshots.yaml'),
        shared('snapshot_folder'),
        shared('snapshot_topics'),
        shared('namespace'),
        shared('use_sim_time'),
        shared('log_level'),
        OpaqueFunction(function=launch_setup),
    ])  # fmt: skip


def launch_setup(context: LaunchContext) -> list:
    argument = context.launch_configurations
    launched, said = LaunchedNode.of(context, SNAPSHOTS).with_the_only_camera(argument['image_transport'])
    if argument['snapshot_folder']:
        launched.overrides['snapshot_folder'] = argument['snapshot_folder']
    if words(argument['snapshot_topics']):
        launched.overrides['snapshot_topics'] = words(argument['snapshot_topics'])
    detector = full_name(argument['namespace'], DETECTOR)
    results = [(f'~/input/{name}/anomalies', f'{detector}/{name}/anomalies') for name in launched.cameras]
    return [
        *said,
        Node(
            package='semanom_ros',
            executable=SNAPSHOTS,
            name=SNAPSHOTS,
            namespace=argument['namespace'],
            parameters=launched.parameter_files(),
            remappings=[*results, *launched.remappings()],
            ros_arguments=['--log-level', argument['log_level']],
            sigterm_timeout=SECONDS_TO_FINISH,
            output='screen',
        ),
    ]
