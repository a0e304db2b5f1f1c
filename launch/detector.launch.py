"""Watches cameras for semantic anomalies: the detector, configured and activated, and RViz where wanted."""

from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    IncludeLaunchDescription,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
    TimerAction,
    UnregisterEventHandler,
)
from launch.event_handlers import OnProcessExit, OnProcessStart
from launch.events import Shutdown, matches_action
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import LifecycleNode, Node
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState, StateTransition
from lifecycle_msgs.msg import Transition

from semanom_ros.errors import ParameterError
from semanom_ros.home import expanded
from semanom_ros.parameter_files import DETECTOR
from semanom_ros.ros.foxglove import foxglove_layout
from semanom_ros.ros.launching import (
    BOOLEAN,
    SHARE,
    LaunchedNode,
    config,
    configure_failed,
    image_topic,
    listed,
    rviz,
    shared,
)
from semanom_ros.ros.rviz import rviz_config, template

# After Ctrl-C the detector finishes its frame and frees the GPU; launch's 5 seconds can be too few.
SECONDS_TO_FINISH = '20'

RESPAWN_DELAY_S = 2.0

# DDS takes up to 20 seconds to find that a process was killed: a request may go to its service meanwhile, and is lost.
ASK_AGAIN_S = 10.0


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([
        shared('database'),
        shared('cameras'),
        image_topic('the only one that is there, else the detector\'s own, ~/input/NAME/image'),
        shared('camera_info_topic'),
        shared('segments_topic'),
        shared('depth_topic'),
        shared('points_topic'),
        shared('camera_names'),
        shared('image_transport'),
        config('detector.yaml'),
        DeclareLaunchArgument(
            'autostart', default_value='true', choices=BOOLEAN,
            description='Configure and activate the detector; false: somebody else does.'),
        DeclareLaunchArgument(
            'respawn', default_value='false', choices=BOOLEAN,
            description='Start the detector again when its process ends unasked; with autostart it is configured and '
                        'activated again.'),
        shared('namespace'),
        shared('use_sim_time'),
        rviz('false'),
        DeclareLaunchArgument(
            'foxglove', default_value='',
            description='File that gets a layout of these cameras for Foxglove and Lichtblick, such as '
                        '~/semanom.json; empty: none.'),
        shared('fixed_frame'),
        DeclareLaunchArgument(
            'snapshots', default_value='false', choices=BOOLEAN,
            description='Keep the seconds round alarms, where they show something new: starts the snapshot recorder.'),
        shared('snapshot_folder'),
        shared('snapshot_topics'),
        shared('log_level'),
        OpaqueFunction(function=launch_setup),
    ])  # fmt: skip


def launch_setup(context: LaunchContext) -> list:
    argument = context.launch_configurations
    launched, said = LaunchedNode.of(context, DETECTOR).with_the_only_camera(argument['image_transport'])
    detector = LifecycleNode(
        package='semanom_ros',
        executable='detector',
        name=DETECTOR,
        namespace=argument['namespace'],
        parameters=launched.parameter_files(),
        remappings=launched.remappings(),
        ros_arguments=['--log-level', argument['log_level']],
        sigterm_timeout=SECONDS_TO_FINISH,
        respawn=argument['respawn'] == 'true',
        respawn_delay=RESPAWN_DELAY_S,
        output='screen',
    )
    actions: list = [*said]
    if argument['foxglove']:
        actions.append(foxglove_file(argument['foxglove'], launched))
    if argument['rviz'] == 'true':  # the first: where RViz is missing, launch gives up and forgets what it has started
        actions.append(rviz_node(argument, launched))
    if argument['autostart'] == 'true':  # its handlers come before what they wait for
        actions += autostart(detector, launched.name)
    if argument['snapshots'] == 'true':
        actions.append(snapshot_recorder(argument, launched))
    return [*actions, detector]


def autostart(detector: LifecycleNode, detector_name: str) -> list:
    """Configures the detector when it runs, and activates it when that worked; after a respawn likewise."""
    started, configuring = 0, 0  # the last run of the process, and the last that was seen to configure

    def request(transition: int) -> EmitEvent:
        return EmitEvent(event=ChangeState(lifecycle_node_matcher=matches_action(detector), transition_id=transition))

    # A request to a process that is gone would be waited for without end.
    ended = 'The detector ended before it could be configured: its log above says why.'
    never_ran = OnProcessExit(
        target_action=detector, on_exit=[LogInfo(msg=ended), EmitEvent(event=Shutdown(reason=ended))]
    )

    def on_start(event: object, context: LaunchContext) -> list:
        nonlocal started
        started += 1
        return [*when_configured(started), request(Transition.TRANSITION_CONFIGURE), *ask_again(started)]

    def ask_again(run: int) -> list[TimerAction]:
        """Of a process that was started again; the first has no predecessor that could answer in its place."""

        def ask(context: LaunchContext) -> list:
            if run != started or configuring == run:
                return []
            return [request(Transition.TRANSITION_CONFIGURE), *ask_again(run)]

        return [] if run == 1 else [TimerAction(period=ASK_AGAIN_S, actions=[OpaqueFunction(function=ask)])]

    def seen(event: object) -> bool:
        nonlocal configuring
        if isinstance(event, StateTransition) and event.action is detector and event.goal_state == 'configuring':
            configuring = started
        return False

    def when_configured(run: int) -> list[RegisterEventHandler]:
        """Once for each run of the process: who configures it later, by hand or after mending what failed, has not
        asked for more."""

        def worked(event: object) -> bool:
            return (isinstance(event, StateTransition) and event.action is detector and run == started
                    and (event.start_state, event.goal_state) == ('configuring', 'inactive'))

        activate = OnStateTransition(
            matcher=worked, entities=[request(Transition.TRANSITION_ACTIVATE)], handle_once=True
        )
        failed = OnStateTransition(
            matcher=lambda event: configure_failed(event) and event.action is detector and run == started,
            entities=[
                LogInfo(
                    msg='The detector is not configured: its log above says why. Mend that, then: '
                    f'ros2 lifecycle set {detector_name} configure, and activate'
                ),
                UnregisterEventHandler(activate),
            ],
            handle_once=True,
        )
        return [RegisterEventHandler(activate), RegisterEventHandler(failed)]

    return [
        RegisterEventHandler(never_ran),
        RegisterEventHandler(OnProcessStart(target_action=detector, on_start=on_start)),
        RegisterEventHandler(OnStateTransition(matcher=seen, entities=[])),
        RegisterEventHandler(
            OnStateTransition(
                target_lifecycle_node=detector,
                goal_state='configuring',
                entities=[UnregisterEventHandler(never_ran)],
                handle_once=True,
            )
        ),
    ]


def snapshot_recorder(argument: dict[str, str], launched: LaunchedNode) -> IncludeLaunchDescription:
    """The snapshot recorder on the detector's cameras, with its configuration."""
    forwarded = ('database', 'segments_topic', 'config', 'snapshot_folder', 'snapshot_topics', 'namespace',
                 'use_sim_time', 'log_level')
    return IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(SHARE / 'launch' / 'snapshots.launch.py')),
        launch_arguments={
            **{name: argument[name] for name in forwarded},
            **dict.fromkeys(('cameras', 'depth_topic', 'points_topic'), ''),  # of the detector, in the same context
            'camera_names': listed(launched.cameras),
            'image_topic': listed(launched.image_topics),
            'image_transport': launched.transport,
        }.items(),
    )


def foxglove_file(path: str, launched: LaunchedNode) -> LogInfo:
    """Writes the layout of the detector's cameras, and says where."""
    file, compressed = expanded(path), launched.transport == 'compressed'
    try:
        file.write_text(foxglove_layout(launched.name, launched.cameras, launched.image_topics, compressed))
    except OSError as error:
        raise ParameterError(f'foxglove: {file}: {error.strerror}; give a file in a folder that is there') from error
    return LogInfo(msg=f'layout for Foxglove: {file}; open it there by its menu, Layouts, Import from file')


def rviz_node(argument: dict[str, str], launched: LaunchedNode) -> Node:
    """RViz with the outputs of the detector's cameras; its configuration lies with the launch's logs."""
    file = launched.log_file('.rviz')
    compressed = launched.transport == 'compressed'
    file.write_text(rviz_config(template(), launched.name, launched.cameras, launched.image_topics, compressed))
    return Node(
        package='rviz2',
        executable='rviz2',
        arguments=['-d', str(file), '--fixed-frame', argument['fixed_frame']],
        parameters=[{'use_sim_time': launched.sim_time}],
    )
