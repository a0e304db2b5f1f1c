"""What one worker does, in whatever process: plain data in, plain data out."""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import traceback
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, Protocol

from semanom_ros import __version__
from semanom_ros.errors import SemanomError
from semanom_ros.fleet.shared_storage import SharedStorage, StorageError

KINDS = {'record': 'recording_work', 'evaluate': 'evaluation_work'}
"""Modules of this package with a `begin(order, storage) -> Work`, by what they are for."""
ORDER = 'order.json'
"""In the shared storage: what all workers were told, so that they see that it is shared."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

log = logging.getLogger(__name__)


class Work(Protocol):
    """Something that workers were made ready for: an encoder is loaded, databases are opened.

    Attributes:
        methods: what can be asked for, by name.
        about: what must be the same with all workers.
    """

    methods: Mapping[str, Callable[..., dict[str, Any]]]
    about: Mapping[str, Any]


class Worker:
    """One worker. It is made at once; `begin` loads what it needs.

    Ray makes an actor of it, `worker_processes` runs it in a process.
    """

    def __init__(self, kind: str, storage: str, threads: int) -> None:
        """
        Args:
            kind: of KINDS.
            storage: URL of the shared storage.
            threads: that it may compute with; 0: as many as PyTorch finds right.
        """
        self._kind, self._storage, self._threads = kind, storage, threads
        self._work: Work | None = None

    def call(self, method: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Does something that can be asked for.

        Args:
            method: `begin`, or one of those of its work.
            arguments: of it, plain data.

        Returns:
            `{'done': ...}`; or `{'fault': ..., 'line': ...}`, where the fault is of the `task` (another worker may
            try), of the `storage` (which may come back) or of the `machine` (this worker is of no use).
        """
        try:
            if method == 'begin':
                return {'done': self._begin(**arguments)}
            assert self._work is not None
            return {'done': self._work.methods[method](**arguments)}
        except Exception as error:
            return _fault(error, loading=method == 'begin')

    def _begin(self, order: str) -> dict[str, Any]:
        storage = SharedStorage(self._storage)
        if storage.read(ORDER) != order.encode():
            raise StorageError(f'{storage.shown}: {socket.gethostname()} does not find there what the driver wrote, '
                               'expected one place that all machines share; mount it on every machine under this '
                               'name, or give a URL')
        told = json.loads(order)
        if told['version'] != __version__:
            raise SemanomError(f'{socket.gethostname()}: found semanom_ros {__version__}, expected {told["version"]} '
                               'as the driver has; install one version on every machine')
        import cv2
        import torch

        if self._threads:
            torch.set_num_threads(self._threads)
            cv2.setNumThreads(self._threads)
        self._work = import_module(f'semanom_ros.fleet.{KINDS[self._kind]}').begin(told, storage)
        return {'machine': socket.gethostname(), 'process': os.getpid(), 'about': dict(self._work.about)}


def _fault(error: Exception, loading: bool) -> dict[str, Any]:
    """What became of a task, for the driver."""
    full = isinstance(error, OSError) and error.errno in FULL
    if isinstance(error, SemanomError):
        said = str(error)
    elif isinstance(error, OSError):
        said = f'{error.filename or "a file"}: {error.strerror or error}'
    else:
        log.error('%s', traceback.format_exc())
        last = (str(error).strip() or 'nothing more is known').splitlines()[-1]  # a network's holds its own traceback
        said = f'{type(error).__name__}: {last.strip()}'
    if full or loading:
        fault = 'machine'
        if full:
            said = f'{socket.gethostname()}: {said}; make room on its disk, or point TMPDIR to another'
    else:
        fault = 'storage' if isinstance(error, StorageError) else 'task'
    return {'fault': fault, 'line': ' '.join(said.split())}
