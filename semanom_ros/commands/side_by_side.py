"""`semanom` commands in processes of their own, at the same time."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from semanom_ros.errors import SemanomError

_POLL_S, _STOP_S = 0.1, 10.0


def side_by_side(commands: Sequence[Sequence[str | int | Path]]) -> None:
    """Runs commands at the same time and shares the cores among them; prints each as it would be typed.

    When one fails, or we are interrupted, the others are stopped.

    Args:
        commands: arguments of `semanom`.

    Raises:
        SemanomError: one failed; what it said on stderr says why.
    """
    threads = str(max(1, (os.cpu_count() or 1) // len(commands)))
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for place, command in enumerate(commands):
            words = [str(word) for word in command]
            print(f'      semanom {shlex.join(words)}', flush=True)
            processes.append(subprocess.Popen(
                [sys.executable, '-m', 'semanom_ros.cli', *words], stdout=subprocess.DEVNULL,
                start_new_session=True,  # a terminal's Ctrl-C is for us, we stop them
                env={**os.environ, 'OMP_NUM_THREADS': threads, 'TQDM_POSITION': str(place), 'TQDM_LEAVE': '0'}))
        running = list(zip(processes, commands, strict=True))
        while running:
            time.sleep(_POLL_S)
            for process, command in running:
                if process.poll():
                    raise SemanomError(f'semanom {command[0]}: found exit status {process.returncode}, expected 0; see '
                                       'what it says above')
            running = [one for one in running if one[0].returncode is None]
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_S)
            process.kill()
