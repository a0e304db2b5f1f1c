"""Nodes that one bad call does not end."""

from __future__ import annotations

import difflib
import functools
import inspect
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rcl_interfaces.srv import SetParameters, SetParametersAtomically
from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from rclpy.service import Service
from rclpy.subscription import Subscription
from rclpy.timer import Timer

SERVICE = QoSProfile(depth=100)
"""Of services of our own: so many calls at once are answered, where the default forgets all but ten."""

_KINDS = 100  # of faults that are told apart, most


class GuardedNode(Node):
    """A node whose callbacks may fail: that is logged once and counted, a service answers, and the node goes on.

    rclpy lets an exception in a callback out of `spin`, which ends the node, or a thread of it. Parameter services are
    guarded as well; they raise for values of a type that does not exist.
    """

    def __init__(self, name: str, **kwargs: Any) -> None:
        """
        Args:
            name: of the node.
            kwargs: for Node.
        """
        self._guard_lock = threading.Lock()
        self._faults = Counter[str]()
        self._reported = Counter[str]()
        super().__init__(name, **kwargs)

    def failed(self, where: str, error: BaseException) -> None:
        """Takes note of an exception that nobody expected."""
        what = f'{where} failed: {error!r}'.replace('\n', ' ')[:500]
        with self._guard_lock:
            known = what in self._faults or len(self._faults) >= _KINDS
            self._faults[what if what in self._faults or not known else 'other callbacks failed'] += 1
        if not known:
            self.get_logger().error(f'{where} failed: {"".join(traceback.format_exception(error))}')

    def new_faults(self) -> list[str]:
        """What has failed since the last call, with how often, for diagnostics."""
        with self._guard_lock:
            new, self._reported = self._faults - self._reported, self._faults.copy()
        return [f'{what} ({times} times); the log has the traceback of the first' for what, times in new.items()]

    def create_timer(self, timer_period_sec: float, callback: Any, *args: Any, **kwargs: Any) -> Timer:
        """As every node, guarded."""
        return super().create_timer(timer_period_sec, self._guarded('timer', callback), *args, **kwargs)

    def create_subscription(self, msg_type: Any, topic: str, callback: Any, *args: Any,
                            **kwargs: Any) -> Subscription[Any]:
        """As every node, guarded, and without default event handlers.

        Those are destroyed with the subscription, and an executor with several threads that has just gathered them then
        raises InvalidHandle out of `spin`.
        """
        kwargs.setdefault('event_callbacks', SubscriptionEventCallbacks(use_default_callbacks=False))
        return super().create_subscription(
            msg_type, topic, self._guarded(f'subscription of {topic}', callback), *args, **kwargs)

    def create_publisher(self, *args: Any, **kwargs: Any) -> Publisher[Any]:
        """As every node, without default event handlers; see `create_subscription`."""
        kwargs.setdefault('event_callbacks', PublisherEventCallbacks(use_default_callbacks=False))
        return super().create_publisher(*args, **kwargs)

    def create_service(self, srv_type: Any, srv_name: str, callback: Any, **kwargs: Any) -> Service[Any, Any]:
        """As every node; where the callback fails, the answer says so if it has a field for that."""
        if srv_type in (SetParameters, SetParametersAtomically):
            callback = functools.partial(self._set_parameters, callback)

        async def answer(request: Any, response: Any) -> Any:
            try:
                answered = callback(request, response)
                return await answered if inspect.isawaitable(answered) else answered
            except Exception as error:
                self.failed(f'service {srv_name}', error)
                refused = srv_type.Response()
                if hasattr(refused, 'message'):
                    refused.message = f'internal failure: {error!r}'
                return refused

        return super().create_service(srv_type, srv_name, answer, **kwargs)

    def _set_parameters(self, callback: Callable[[Any, Any], Any], request: Any, response: Any) -> Any:
        """Sets each parameter by itself, or all at once, whatever was asked for; refuses what rclpy fails at."""
        at_once = isinstance(request, SetParametersAtomically.Request)
        for parameters in [request.parameters] if at_once else [[one] for one in request.parameters]:
            try:
                self._find(parameters)
                done = callback(type(request)(parameters=parameters), type(response)())
                results = [done.result] if at_once else done.results
            except Exception as error:
                if not isinstance(error, ValueError | TypeError):  # those: the caller's, as a type that there is not
                    self.failed('setting parameters', error)
                names = ', '.join(one.name for one in parameters)
                results = [SetParametersResult(successful=False, reason=f'parameter {names:.200}: refused, {error}')]
            if at_once:
                response.result = results[0]
            else:
                response.results += results
        return response

    def _find(self, parameters: Sequence[Any]) -> None:
        """Says of parameters which of them there are not; rclpy names none.

        Raises:
            ValueError: one is not declared.
        """
        for name in (one.name for one in parameters if not self.has_parameter(one.name)):
            known = difflib.get_close_matches(name, self.get_parameters_by_prefix(''), n=1)
            meant = f'{known[0]}, or another' if known else 'one'
            raise ValueError(f'found none called {name:.100}, expected {meant} that ros2 param list shows; correct it')

    def _guarded(self, where: str, callback: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(callback)  # rclpy looks at how many arguments it takes
        def guarded(*given: Any) -> None:
            try:
                callback(*given)
            except Exception as error:
                if self.context.ok():  # else: nothing can be published any more
                    self.failed(where, error)

        return guarded


def transition(callback: Callable[[Any, LifecycleState], TransitionCallbackReturn]
               ) -> Callable[[Any, LifecycleState], TransitionCallbackReturn]:
    """A lifecycle callback of a GuardedNode whose exception is noted; rclpy makes an error of it without a word."""

    @functools.wraps(callback)
    def noted(node: GuardedNode, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return callback(node, state)
        except Exception as error:
            node.failed(callback.__name__, error)
            return TransitionCallbackReturn.ERROR

    return noted


class GuardedExecutor(SingleThreadedExecutor):
    """Spins a GuardedNode; what cannot be read, as a request that is no message, is as if it had not come.

    rclpy lets that out of `spin` as well, and keeps the callback group locked.
    """

    def __init__(self, node: GuardedNode) -> None:
        super().__init__(context=node.context)
        self._guarded_node = node
        self.add_node(node)

    def _take_subscription(self, *given: Any) -> Any:
        return self._taken('receiving a message', super()._take_subscription, *given)

    def _take_service(self, *given: Any) -> Any:
        return self._taken('receiving a request', super()._take_service, *given)

    def _taken(self, where: str, take: Callable[..., Any], *given: Any) -> Any:
        try:
            return take(*given)
        except Exception as error:
            if self._guarded_node.context.ok():
                self._guarded_node.failed(where, error)
            return None
