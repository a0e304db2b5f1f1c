"""The bond by which Nav2's lifecycle manager knows that a node it has activated is alive: the node's half of bond_core.

`bondpy` has it too, in threads of its own: they beat on while the executor hangs, and Nav2, whose nodes are of C++,
does not install it. So the few lines stand here, on the node's executor.
"""

from __future__ import annotations

import uuid
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile

from semanom_ros.errors import ParameterError

TOPIC = 'bond'
"""In the node's namespace, as the manager's."""

TIMEOUT_S = 4.0
"""Announced beside the period, for people who look for mismatches: the manager goes by its own `bond_timeout`."""

SHORTEST_S = 0.01
"""Between heartbeats: the executor has other things to do."""

_QOS = QoSProfile(depth=10)


class ManagerBond:
    """Heartbeats under the node's name, until it is broken. For the executor's thread.

    Nobody is waited for: without a manager they are unheard, and one that starts late, or again, hears them. That a
    manager died changes nothing here, as with Nav2's own nodes.
    """

    def __init__(self, node: Node, period_s: float) -> None:
        """Begins at once.

        Args:
            node: in whose name.
            period_s: seconds between heartbeats.

        Raises:
            ImportError: the package bond, of the messages, is not installed.
        """
        from bond.msg import Status

        self._node, self._type, self._period_s = node, Status, period_s
        self._id, self._instance = node.get_name(), str(uuid.uuid4())
        self._wanted = True  # the manager has not said that it broke the bond
        self._publisher = node.create_publisher(Status, TOPIC, _QOS)
        self._subscription = node.create_subscription(Status, TOPIC, self._on_status, _QOS)
        # real time, because a paused recording stops the ROS clock
        self._timer = node.create_timer(period_s, self._beat, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._beat()

    def end(self) -> None:
        """Tells the manager, as far as anything can be told, and takes the topic away."""
        self._node.destroy_timer(self._timer)
        self._node.destroy_subscription(self._subscription)
        if self._node.context.ok():
            self._say(active=False)
        self._node.destroy_publisher(self._publisher)

    def _beat(self) -> None:
        if self._wanted:
            self._say(active=True)

    def _on_status(self, status: Any) -> None:
        if status.id != self._id or status.instance_id == self._instance:
            return
        self._wanted = status.active
        if not status.active:
            self._say(active=False)  # it waits for this before it lets go

    def _say(self, active: bool) -> None:
        status = self._type(id=self._id, instance_id=self._instance, active=active, heartbeat_timeout=TIMEOUT_S,
                            heartbeat_period=self._period_s)
        status.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(status)


def manager_waits(node: Node) -> bool:
    """Whether somebody in the node's namespace keeps bonds."""
    topic = node.resolve_topic_name(TOPIC)
    return bool(node.count_publishers(topic) or node.count_subscribers(topic))


def check_period(period_s: float) -> None:
    """Refuses heartbeats that would leave the executor no time.

    Raises:
        ParameterError: neither 0, for none, nor SHORTEST_S or more.
    """
    if 0 < period_s < SHORTEST_S:
        raise ParameterError(f'parameter bond_heartbeat_period: found {period_s:g} s, expected 0 for no bond, or '
                             f'{SHORTEST_S:g} at least; correct it')
