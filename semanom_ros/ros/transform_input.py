"""The transforms that a running robot publishes."""

from __future__ import annotations

from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from semanom_ros.errors import ParameterError
from semanom_ros.geometry.transform_tree import TransformTree

_CHANGING = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=100, reliability=ReliabilityPolicy.BEST_EFFORT)
_STATIC = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=100, reliability=ReliabilityPolicy.RELIABLE,
                     durability=DurabilityPolicy.TRANSIENT_LOCAL)


class TransformInput:
    """`/tf` and `/tf_static`, into a tree of frames.

    Attributes:
        tree: what was received.
    """

    def __init__(self, node: Node, parameter: str) -> None:
        """Subscribes.

        Args:
            node: somebody spins it.
            parameter: that needs transforms.

        Raises:
            ParameterError: tf2_msgs is not installed.
        """
        try:
            from tf2_msgs.msg import TFMessage
        except ImportError as error:
            raise ParameterError(f'parameter {parameter}: found no package tf2_msgs, expected it for transforms; apt '
                                 'install ros-$ROS_DISTRO-tf2-msgs, or leave the parameter out') from error
        self.tree = TransformTree()
        self._node = node
        self._subscriptions = [node.create_subscription(TFMessage, '/tf', self._on_changing, _CHANGING),
                               node.create_subscription(TFMessage, '/tf_static', self._on_static, _STATIC)]

    def destroy(self) -> None:
        """Takes the subscriptions away."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []

    def _on_changing(self, message: Any) -> None:
        self.tree.add_message(message, static=False)

    def _on_static(self, message: Any) -> None:
        self.tree.add_message(message, static=True)
