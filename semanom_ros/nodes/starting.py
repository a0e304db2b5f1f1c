"""What starts the nodes: their imports take seconds, in which a signal must end the process as later."""

from __future__ import annotations

import importlib
import os
import signal
import sys

from semanom_ros.home import name_the_user


def detector() -> int:
    """Starts `semanom_detector`; its exit status."""
    return _start('semanom_ros.nodes.detector', interrupted=0)


def nominal_recorder() -> int:
    """Starts `nominal_recorder`; its exit status."""
    return _start('semanom_ros.nodes.nominal_recorder', interrupted=130)


def snapshot_recorder() -> int:
    """Starts `snapshot_recorder`; its exit status."""
    return _start('semanom_ros.nodes.snapshot_recorder', interrupted=0)


def _start(module: str, interrupted: int) -> int:
    """Runs a module's `main`.

    Args:
        module: of the node.
        interrupted: exit status after a signal while it is imported: nothing is held then, and a KeyboardInterrupt
            would be whatever the library that is being imported makes of it.
    """

    def end(number: int, frame: object) -> None:
        sys.stderr.flush()
        os._exit(interrupted)

    name_the_user()
    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    main = importlib.import_module(module).main
    for number, handler in before.items():
        signal.signal(number, handler)
    status = int(main())
    for number in before:  # the node has ended: another Ctrl-C while the interpreter does would change the status
        signal.signal(number, signal.SIG_IGN)
    return status
