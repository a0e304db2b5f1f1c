"""What libraries log and warn of is in the node's log, with a severity, and on /rosout."""

from __future__ import annotations

import logging
import warnings

import pytest
import rclpy
from rcl_interfaces.msg import Log
from rclpy.executors import SingleThreadedExecutor

from semanom_ros.ros.library_log import library_log


def test_library_messages_reach_rosout(ros_domain_id: int) -> None:
    context = rclpy.Context()
    rclpy.init(context=context)
    try:
        node, listener = (rclpy.create_node(name, context=context) for name in ('speaker', 'listener'))
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(listener)
        heard: list[Log] = []
        subscription = listener.create_subscription(Log, '/rosout', heard.append, 50)
        while not subscription.get_publisher_count():
            executor.spin_once(timeout_sec=0.05)
        level = logging.getLogger('semanom_ros').level
        with library_log(node):
            for _ in range(2):  # rclpy holds a line of code to one severity
                logging.getLogger('semanom_ros.core').info('loaded')
                logging.getLogger('semanom_ros.core').warning('https://me:word@host is %s', 'slow')
                logging.getLogger('other').info('chatter')
                logging.getLogger('other').error('broken')
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(warnings, 'filters', [])
                warnings.simplefilter('always')
                warnings.warn('old', DeprecationWarning, stacklevel=1)
        logging.getLogger('semanom_ros.core').warning('after')
        assert logging.getLogger('semanom_ros').level == level

        def said() -> list[tuple[int, str]]:
            return [(message.level, message.msg) for message in heard if message.name == 'speaker']

        for _ in range(200):
            if len(said()) >= 7:
                break
            executor.spin_once(timeout_sec=0.05)
        expected = [(20, 'loaded'), (30, 'https://***@host is slow'), (40, 'other: broken')]
        assert said()[:6] == expected * 2
        ((level, text),) = said()[6:]
        assert level == 30
        assert text.startswith('py.warnings: ')
        assert 'DeprecationWarning: old' in text
    finally:
        rclpy.shutdown(context=context)
