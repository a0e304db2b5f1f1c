"""Makes a nominal database: from recordings, or from the cameras while driving."""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from semanom_ros.parameters import DETECTOR, METHOD, NODE, RECORDER, read_yaml, resolve
from semanom_ros.ros.remapping import camera_remappings, words

SHARE = Path(get_package_share_directory('semanom_ros'))
BOOLEAN = ['true', 'false']
# After Ctrl-C the recorder still calibrates and writes the database; launch must not lose patience.
SECONDS_TO_FINISH = '3600'


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([
        DeclareLaunchArgument(
            'database', default_value='', description='Folder of the nominal database to make; empty: as in config.'),
        DeclareLaunchArgument(
            'bags', default_value='',
            description='Recording, or several: [/data/monday,/data/tuesday]; empty: as in config, and where there '
                        'is none either, the live cameras until Ctrl-C.'),
        DeclareLaunchArgument(
            'image_topic', default_value='',
            description='Image topic, or one for each camera: [/front/image_raw,/rear/image_raw]; empty: in '
                        'recordings the only one, live the recorder\'s own, ~/input/NAME/image.'),
        DeclareLaunchArgument(
            'camera_names', default_value='',
            description='Name of the camera, or of each: [front,rear]; empty: as in config.'),
        DeclareLaunchArgument(
            'image_transport', default_value='', choices=['', 'raw', 'compressed'],
            description='What the cameras send; empty: as in config.'),
        DeclareLaunchArgument(
            'append', default_value='', choices=['', *BOOLEAN],
            description='Add to the database where it exists already; empty: as in config.'),
        DeclareLaunchArgument(
            'config', default_value=str(SHARE / 'config' / 'recorder.yaml'),
            description='ROS parameter file; what it leaves out has its default.'),
        DeclareLaunchArgument('namespace', default_value='', description='Namespace of the recorder.'),
        DeclareLaunchArgument(
            'use_sim_time', default_value='false', choices=BOOLEAN,
            description='Take the time from /clock: with a simulator, or a bag played with --clock.'),
        DeclareLaunchArgument(
            'log_level', default_value='info', choices=['debug', 'info', 'warn', 'error', 'fatal'],
            description='Least severity that the recorder logs.'),
        OpaqueFunction(function=launch_setup),
    ])  # fmt: skip


def launch_setup(context: LaunchContext) -> list:
    argument = context.launch_configurations
    config = Path(argument['config']).expanduser()
    settings = resolve(read_yaml(config), METHOD, NODE, DETECTOR, RECORDER)
    cameras = words(argument['camera_names']) or settings['camera_names']
    transport = argument['image_transport'] or settings['image_transport']
    bags = words(argument['bags']) or [bag for bag in settings['bags'] if bag]
    image_topics = words(argument['image_topic'])

    overrides = {'use_sim_time': argument['use_sim_time'] == 'true', 'camera_names': cameras}
    for name in ('database', 'image_transport'):
        if argument[name]:
            overrides[name] = ParameterValue(argument[name], value_type=str)
    if argument['append']:
        overrides['append'] = argument['append'] == 'true'
    if bags:
        overrides['bags'] = bags
        if image_topics:
            overrides['image_topics'] = image_topics
    return [
        Node(
            package='semanom_ros',
            executable='nominal_recorder',
            name='nominal_recorder',
            namespace=argument['namespace'],
            parameters=[str(config), overrides],
            remappings=[] if bags else camera_remappings(cameras, image_topics, [], transport),
            ros_arguments=['--log-level', argument['log_level']],
            sigterm_timeout=SECONDS_TO_FINISH,
            output='screen',
        )
    ]
