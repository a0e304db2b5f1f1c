"""ROS beside a program that is no node: domains of its own, nodes that spin in the background."""

from __future__ import annotations

import fcntl
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import rclpy
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node

from semanom_ros.errors import SemanomError
from semanom_ros.ros.middleware import large_image_settings

_DOMAINS = range(101, 0, -1)  # ids that are free of the system's own ports everywhere


def domain_environment(domain: int) -> dict[str, str]:
    """Environment variables of processes in a domain that does not leave this machine, and where images arrive."""
    return {'ROS_DOMAIN_ID': str(domain), 'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST', 'ROS_STATIC_PEERS': '',
            'PYTHONUNBUFFERED': '1', **large_image_settings()}


@contextmanager
def private_domain() -> Iterator[int]:
    """A ROS domain id that no other replay on this machine uses; discovery stays on this machine.

    Raises:
        SemanomError: all are in use.
    """
    folder = Path(tempfile.gettempdir()) / 'semanom_ros_domains'
    folder.mkdir(exist_ok=True)
    before = {name: os.environ.get(name) for name in domain_environment(0)}
    for domain in _DOMAINS:
        with open(folder / str(domain), 'a') as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue
            os.environ.update(domain_environment(domain))
            try:
                yield domain
            finally:
                for name, value in before.items():
                    os.environ.pop(name, None)
                    if value is not None:
                        os.environ[name] = value
            return
    raise SemanomError(f'{folder}: all ROS domain ids are in use; wait until another replay has ended')


@contextmanager
def background_node(name: str, domain: int) -> Iterator[Node]:
    """A node that is spun in the background, in a context of its own that leaves signals alone."""
    context = Context()
    context.init(domain_id=domain)
    node = rclpy.create_node(name, context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)

    def spin() -> None:
        with suppress(ExternalShutdownException):
            executor.spin()

    thread = threading.Thread(target=spin, name=name, daemon=True)
    thread.start()
    try:
        yield node
    finally:
        executor.shutdown()
        thread.join()
        node.destroy_node()
        context.try_shutdown()
