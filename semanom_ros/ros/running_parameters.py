"""The parameters that running nodes have."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any

import rclpy
from rcl_interfaces.srv import GetParameters, ListParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import parameter_value_to_python

SEEN_S = 1.5
"""So long it is looked for nodes: discovery tells of those on this computer sooner."""

ANSWER_S = 3.0


def running_parameters(names: Collection[str]) -> dict[str, dict[str, Any]]:
    """Every parameter of the nodes with one of these names, in whatever namespace, by the node's full name.

    A node that does not answer within ANSWER_S, such as one that is loading, has none.
    """
    context = rclpy.Context()
    rclpy.init(context=context, args=[])
    try:
        node = rclpy.create_node('semanom_parameter_reading', context=context, enable_rosout=False,
                                 start_parameter_services=False)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(node)
        try:
            found = _named(node, executor, names)
            return {name: _parameters(node, executor, name) for name in found}
        finally:
            executor.shutdown()
            node.destroy_node()
    finally:
        rclpy.shutdown(context=context)


def _named(node: Node, executor: SingleThreadedExecutor, names: Collection[str]) -> list[str]:
    end = time.monotonic() + SEEN_S
    found: set[str] = set()
    while not found and time.monotonic() < end:
        executor.spin_once(timeout_sec=0.1)
        found = {f'{namespace.rstrip("/")}/{name}' for name, namespace in node.get_node_names_and_namespaces()
                 if name in names}
    return sorted(found)


def _parameters(node: Node, executor: SingleThreadedExecutor, name: str) -> dict[str, Any]:
    listed = _answer(node, executor, ListParameters, f'{name}/list_parameters', ListParameters.Request())
    if listed is None:
        return {}
    asked = GetParameters.Request(names=listed.result.names)
    got = _answer(node, executor, GetParameters, f'{name}/get_parameters', asked)
    if got is None:
        return {}
    return dict(zip(asked.names, map(parameter_value_to_python, got.values), strict=False))


def _answer(node: Node, executor: SingleThreadedExecutor, kind: Any, service: str, request: Any) -> Any:
    client: Any = node.create_client(kind, service)
    try:
        if not client.wait_for_service(timeout_sec=ANSWER_S):
            return None
        future = client.call_async(request)
        executor.spin_until_future_complete(future, timeout_sec=ANSWER_S)
        return future.result() if future.done() else None
    finally:
        node.destroy_client(client)
