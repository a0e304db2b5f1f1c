"""Workers that are actors of a Ray cluster: one for each GPU, or for some cores of the processor.

Only plain data goes through Ray, which serializes it with cloudpickle: whoever may speak to a cluster's ports may run
code on it, see docs/fleet.md.
"""

from __future__ import annotations

import logging
import os
import socket
from typing import Any

from semanom_ros.errors import ParameterError, SemanomError
from semanom_ros.fleet.scheduling import Answer, Loss
from semanom_ros.fleet.worker import Worker

LONGEST_ANSWER_S = 10.0
MOST_CORES = 4
"""Cores of a worker: more take longer for each, as threads wait for each other."""


class RayActors:
    """See `Workers`."""

    def __init__(self, address: str = '', wanted: int = 0) -> None:
        """
        Args:
            address: of the cluster, as `ray.init` takes it (`auto`, `HOST:6379`, `ray://HOST:10001`); '': that of
                RAY_ADDRESS, else one of this machine alone, for as long as this process runs.
            wanted: workers; 0: as many as there are GPUs, or, without one, as the cores carry.

        Raises:
            ParameterError: Ray is not installed.
        """
        try:
            import ray
        except ImportError as error:
            raise ParameterError(f'--engine ray: found no Ray ({error}), expected it on every machine; '
                                 "pip install 'ray[default]>=2.9', or use --engine processes") from error
        self._ray = ray
        self._address, self.wanted = address, wanted
        self._actors: dict[int, Any] = {}
        self._asked: dict[Any, int] = {}
        self._made: tuple[str, str, int] = ('', '', 0)
        self._resources: dict[str, Any] = {}
        self._connected = False

    def open(self, kind: str, storage: str) -> None:
        ray = self._ray
        if not ray.is_initialized():
            try:
                self._knock()
                ray.init(address=self._address or None, logging_level=logging.ERROR, include_dashboard=None)
            except Exception as error:  # ConnectionError, RuntimeError, ValueError, ...: by what it met
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise SemanomError(f'--address {self._address or os.environ.get("RAY_ADDRESS", "")}: found no Ray '
                                   f'cluster that takes this driver ({reason}), expected one that runs with this '
                                   'version of Ray and Python; start it with ray start --head, see docs/fleet.md'
                                   ) from error
            self._connected = True
        nodes = [node['Resources'] for node in ray.nodes() if node['Alive']]
        with_gpu = [node for node in nodes if node.get('GPU', 0) >= 1]
        if with_gpu:
            cores = min(MOST_CORES, *(max(1, int(node.get('CPU', 1) // node['GPU'])) for node in with_gpu))
            carried = sum(int(node['GPU']) for node in with_gpu)
        else:
            able = [int(node['CPU']) for node in nodes if node.get('CPU', 0) >= 1]
            if not able:
                raise SemanomError(f'--address {self._address}: found no node with a core or GPU, expected one; see '
                                   '`ray status`')
            cores = min(MOST_CORES, *able)
            carried = sum(count // cores for count in able)
        self.wanted = self.wanted or carried
        self._resources = {'num_cpus': cores, 'num_gpus': 1 if with_gpu else 0}
        self._made = kind, storage, cores

    def _knock(self) -> None:
        """Ray itself goes on for minutes where nobody listens at an address."""
        host, _, port = self._address.removeprefix('ray://').rpartition(':')
        if host and port.isdecimal():
            socket.create_connection((host, int(port)), LONGEST_ANSWER_S).close()

    def start(self, number: int) -> None:
        # Not restarted by Ray: what it was asked then would be unknown to it.
        actor = self._ray.remote(Worker).options(
            name=f'semanom {self._made[0]} {number}', max_restarts=0, max_task_retries=0, **self._resources)
        self._actors[number] = actor.remote(*self._made)

    def give(self, number: int, name: str, method: str, arguments: dict[str, Any]) -> None:
        self._asked[self._actors[number].call.options(name=name).remote(method, arguments)] = number

    def stop(self, number: int) -> None:
        self._asked = {reference: other for reference, other in self._asked.items() if other != number}
        self._ray.kill(self._actors.pop(number))

    def next_event(self, timeout_s: float) -> Answer | Loss | None:
        ready, _ = self._ray.wait(list(self._asked), num_returns=1, timeout=timeout_s)
        if not ready:
            return None
        number = self._asked.pop(ready[0])
        try:
            return Answer(number, self._ray.get(ready[0]))
        except self._ray.exceptions.RayError as error:
            self._actors.pop(number, None)
            return Loss(number, ' '.join(str(error).split())[:300])

    def close(self) -> None:
        for actor in self._actors.values():
            self._ray.kill(actor)
        self._actors.clear()
        self._asked.clear()
        if self._connected:
            self._ray.shutdown()
            self._connected = False
