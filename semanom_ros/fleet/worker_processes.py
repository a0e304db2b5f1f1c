"""Workers that are processes of this machine, each with its share of the processor's cores.

They are asked and answer in JSON, a line each, through their standard input and output.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from typing import IO, Any

from semanom_ros.fleet.scheduling import Answer, Loss
from semanom_ros.fleet.worker import Worker

LONGEST_END_S = 5.0
"""Seconds that a worker has to clear up after itself."""


class WorkerProcesses:
    """See `Workers`."""

    def __init__(self, wanted: int, threads: int = 0) -> None:
        """
        Args:
            wanted: processes.
            threads: of each; 0: the cores that this process may use, shared among them.
        """
        self.wanted = wanted
        self._threads = threads or max(1, len(os.sched_getaffinity(0)) // wanted)
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._events: queue.SimpleQueue[Answer | Loss] = queue.SimpleQueue()
        self._arguments: list[str] = []

    @property
    def pids(self) -> list[int]:
        """Of those that run."""
        return [process.pid for process in self._processes.values() if process.poll() is None]

    def open(self, kind: str, storage: str) -> None:
        self._arguments = [kind, storage, str(self._threads)]

    def start(self, number: int) -> None:
        environment = {**os.environ, 'OMP_NUM_THREADS': str(self._threads), 'MKL_NUM_THREADS': str(self._threads),
                       'OPENBLAS_NUM_THREADS': str(self._threads), 'TQDM_DISABLE': '1'}
        # In a session of its own: Ctrl-C on the terminal is for the driver, which ends its workers.
        process = subprocess.Popen([sys.executable, '-m', 'semanom_ros.fleet.worker_processes', *self._arguments],
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment,
                                   start_new_session=True)
        self._processes[number] = process
        threading.Thread(target=self._listen, args=(number, process), daemon=True, name=f'worker {number}').start()

    def _listen(self, number: int, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if line.endswith(b'\n'):
                self._events.put(Answer(number, json.loads(line)))
        code = process.wait()
        self._events.put(Loss(number, f'ended by {signal.Signals(-code).name}' if code < 0 else f'exit status {code}'))

    def give(self, number: int, name: str, method: str, arguments: dict[str, Any]) -> None:
        stdin = self._processes[number].stdin
        assert stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended; `_listen` tells
            stdin.write(json.dumps([method, arguments]).encode() + b'\n')
            stdin.flush()

    def stop(self, number: int) -> None:
        self._end([self._processes.pop(number)])

    def next_event(self, timeout_s: float) -> Answer | Loss | None:
        with contextlib.suppress(queue.Empty):
            while True:
                event = self._events.get(timeout=timeout_s)
                if event.worker in self._processes:
                    if isinstance(event, Loss):
                        self._end([self._processes.pop(event.worker)])
                    return event
        return None

    def close(self) -> None:
        self._end(list(self._processes.values()))
        self._processes.clear()

    @staticmethod
    def _end(processes: list[subprocess.Popen[bytes]]) -> None:
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(LONGEST_END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdin is not None:
                with contextlib.suppress(OSError):
                    process.stdin.close()


def _serve(kind: str, storage: str, threads: int, questions: io.FileIO, answers: IO[bytes]) -> None:
    """Answers until there are no more questions, which is also when the driver has ended."""
    asked: queue.SimpleQueue[list[Any]] = queue.SimpleQueue()

    def read() -> None:
        for line in questions:
            asked.put(json.loads(line))
        os.kill(os.getpid(), signal.SIGTERM)  # also in the middle of something

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=read, daemon=True).start()
    worker = Worker(kind, storage, threads)
    while True:
        answers.write(json.dumps(worker.call(*asked.get())).encode() + b'\n')
        answers.flush()


if __name__ == '__main__':
    import logging

    logging.basicConfig(level=logging.WARNING, format='%(message)s', stream=sys.stderr)
    with os.fdopen(os.dup(1), 'wb') as output:
        os.dup2(2, 1)  # what libraries print is not an answer
        # Without a buffer, whose lock a thread that still reads would have when the interpreter ends.
        questions = open(0, 'rb', buffering=0, closefd=False)  # noqa: SIM115
        _serve(sys.argv[1], sys.argv[2], int(sys.argv[3]), questions, output)
