"""ROS beside a program that is no node: domains of its own, nodes that spin in the background."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import rclpy
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node

from semanom_ros.errors import SemanomError
from semanom_ros.ros.middleware import large_image_settings

DOMAINS = range(101, 49, -1)
"""Ids for replays; all below 102 are free of the system's own ports everywhere."""


def domain_environment(domain: int) -> dict[str, str]:
    """Environment variables of processes in a domain that does not leave this machine, and where images arrive."""
    return {'ROS_DOMAIN_ID': str(domain), 'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST', 'ROS_STATIC_PEERS': '',
            'PYTHONUNBUFFERED': '1', **large_image_settings()}


@contextmanager
def claimed_domain(domains: Sequence[int] = DOMAINS) -> Iterator[int]:
    """A ROS domain id that nobody else on this machine claims, whoever its user is.

    A name of a socket without a file (abstract, Linux) says so: it is gone with the process, needs no permission, and
    no link leads elsewhere. Processes that inherit it (`close_fds=False`) hold the claim as well, so that a node which
    outlives us is not met by whoever comes next.

    Args:
        domains: ids to choose from.

    Raises:
        SemanomError: all are in use.
    """
    for domain in domains:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as claim:
            try:
                claim.bind(f'\0semanom_ros.domain.{domain}')
            except OSError:
                continue
            claim.set_inheritable(True)
            yield domain
            return
    raise SemanomError(f'ROS domain ids: found all of {min(domains)} to {max(domains)} in use, expected a free one; '
                       'wait until another replay has ended')


@contextmanager
def private_domain() -> Iterator[int]:
    """A ROS domain id that no other replay on this machine uses; discovery stays on this machine.

    Raises:
        SemanomError: all are in use.
    """
    before = {name: os.environ.get(name) for name in domain_environment(0)}
    with claimed_domain() as domain:
        os.environ.update(domain_environment(domain))
        try:
            yield domain
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


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
