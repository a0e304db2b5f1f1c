"""Tasks for workers: who does which, what is tried again, who is taken out."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NamedTuple, Protocol

from semanom_ros.errors import SemanomError

TRIES = 3
"""Times that a task is tried before it is given up."""
LONGEST_START_S = 600.0
"""Seconds in which nobody is at work and no worker comes, after which none is expected any more."""

log = logging.getLogger(__name__)


class Answer(NamedTuple):
    """What a worker returned, see `Worker.call`."""

    worker: int
    result: dict[str, Any]


class Loss(NamedTuple):
    """A worker ended; `why` in words."""

    worker: int
    why: str


class Workers(Protocol):
    """Workers somewhere, each of which does one thing after the other.

    Attributes:
        wanted: how many there should be.
    """

    wanted: int

    def open(self, kind: str, storage: str) -> None:
        """Comes before everything else: what they are for, and the URL of the shared storage."""

    def start(self, number: int) -> None:
        """Begins a worker."""

    def give(self, number: int, name: str, method: str, arguments: dict[str, Any]) -> None:
        """Asks a worker, new or idle, for something; `name` is for people."""

    def stop(self, number: int) -> None:
        """Ends a worker; no event comes of it."""

    def next_event(self, timeout_s: float) -> Answer | Loss | None:
        """Waits for what happens next; None where nothing did."""

    def close(self) -> None:
        """Ends all of them; may be called again."""


@dataclass
class Task:
    """Something for any worker.

    Attributes:
        name: for people.
        method, arguments: see `Worker.call`; plain data.
        group: what is given up with it when it fails.
        weight: units of the progress.
    """

    name: str
    method: str
    arguments: dict[str, Any]
    group: str
    weight: int = 1
    tried: int = field(default=0, init=False)


class Done(NamedTuple):
    """A task that was done."""

    task: Task
    result: dict[str, Any]


class Failed(NamedTuple):
    """A task that was given up, and why, in one line."""

    task: Task
    line: str


class Fleet:
    """Workers with a queue; a context manager.

    A worker that ends, however it ends, is replaced, and what it was doing is given to another. One that can do nothing
    (its disk is full, it does not reach the storage TRIES times in a row) is taken out for good. A task that fails
    TRIES times is given up.

    Attributes:
        lost: workers that ended on their own.
    """

    def __init__(self, workers: Workers, kind: str, storage: str, order: str,
                 welcome: Callable[[Mapping[str, Any]], None]) -> None:
        """
        Args:
            workers: not opened yet.
            kind: what they are for, see `worker.KINDS`.
            storage: URL of the shared storage.
            order: what they are told at first; JSON, which lies in the storage as ORDER, too.
            welcome: is given what each worker says about itself; raises where it will not do.
        """
        self._workers, self._welcome = workers, welcome
        self._idle: set[int] = set()
        self._coming: set[int] = set()
        self._busy: dict[int, Task] = {}
        self._started = 0
        self._starts_failed = 0
        self._last_fault = ''
        self._unreached: Counter[int] = Counter()  # times in a row that a worker did not reach the storage
        self.lost = 0
        self._kind, self._storage, self._order = kind, storage, order

    def __enter__(self) -> Fleet:
        try:
            self._workers.open(self._kind, self._storage)
            for _ in range(self._workers.wanted):
                self._start()
        except BaseException:
            self._workers.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
                 ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the workers."""
        self._workers.close()

    def first(self) -> None:
        """Waits until one worker is ready.

        Raises:
            SemanomError: none can begin, or one does not fit to the others.
        """
        while not self._idle and not self._busy:
            self._step()

    def run(self, tasks: Iterable[Task]) -> Iterator[Done | Failed]:
        """Has tasks done, in any order.

        Raises:
            SemanomError: there is no worker left, or one does not fit to the others.
        """
        waiting = deque(tasks)
        given_up: set[str] = set()
        while waiting or self._busy:
            while waiting and self._idle:
                task = waiting.popleft()
                if task.group in given_up:
                    continue
                task.tried += 1
                number = self._idle.pop()
                self._busy[number] = task
                self._workers.give(number, task.name, task.method, task.arguments)
            if not waiting and not self._busy:
                return
            outcome = self._step()
            if isinstance(outcome, Task):  # nobody's fault but the machine's
                outcome.tried -= 1
                waiting.appendleft(outcome)
            elif isinstance(outcome, Failed):
                task, line = outcome
                if task.group in given_up:
                    continue
                if task.tried < TRIES:
                    log.warning('%s: is tried again (%s)', task.name, line)
                    waiting.append(task)
                else:
                    given_up.add(task.group)
                    yield outcome
            elif outcome is not None and outcome.task.group not in given_up:
                yield outcome

    def _start(self) -> None:
        self._started += 1
        self._coming.add(self._started)
        self._workers.start(self._started)
        self._workers.give(self._started, 'begin', 'begin', {'order': self._order})

    def _step(self) -> Done | Failed | Task | None:
        """What becomes of the next event."""
        if not self._idle and not self._busy and not self._coming:
            raise SemanomError(f'no worker is left: {self._last_fault or "none could begin"}')
        alone = not self._idle and not self._busy
        event = self._workers.next_event(LONGEST_START_S)
        if event is None:
            if alone:
                raise SemanomError(f'found no worker that begins within {LONGEST_START_S:.0f} s, expected '
                                   f'{self._workers.wanted}; see `ray status` for what the cluster lacks')
            return None
        number = event.worker
        if isinstance(event, Loss):
            return self._lost(number, event.why)
        task = self._busy.pop(number, None)
        if 'done' in event.result:
            if task is None:
                self._coming.discard(number)
                self._welcome(event.result['done'])
            self._idle.add(number)
            del self._unreached[number]
            return None if task is None else Done(task, event.result['done'])
        line = event.result['line']
        if event.result['fault'] == 'task' and task is not None:
            self._idle.add(number)
            return Failed(task, line)
        if event.result['fault'] == 'storage' and task is not None:
            self._unreached[number] += 1
            if self._unreached[number] < TRIES:
                log.warning('%s: is tried again (%s)', task.name, line)
                self._idle.add(number)
                return task
        log.warning('a worker is taken out: %s', line)
        self._last_fault = line
        self._coming.discard(number)
        self._workers.stop(number)
        return task

    def _lost(self, number: int, why: str) -> Failed | None:
        self.lost += 1
        self._idle.discard(number)
        task = self._busy.pop(number, None)
        if number in self._coming:
            self._coming.discard(number)
            self._starts_failed += 1
            self._last_fault = f'a worker ended before it was ready ({why}); see the messages above'
        if self._starts_failed < TRIES * self._workers.wanted:
            self._start()
        return None if task is None else Failed(task, f'the worker was lost: {why}')
