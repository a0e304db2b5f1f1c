"""What the libraries say goes into the log of the node that uses them: with a severity, and to /rosout."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from rclpy.node import Node

from semanom_ros.errors import without_secrets


@contextmanager
def library_log(node: Node) -> Iterator[None]:
    """Hands what Python's logging and warnings get to a node's logger meanwhile.

    From this package everything from INFO on, from others warnings; FAISS tells of each of its libraries that it tries.
    """
    handler = _NodeHandler(node)
    root, own = logging.getLogger(), logging.getLogger('semanom_ros')
    before = own.level
    own.setLevel(logging.INFO)
    root.addHandler(handler)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.removeHandler(handler)
        own.setLevel(before)


class _NodeHandler(logging.Handler):
    def __init__(self, node: Node) -> None:
        super().__init__()
        self._node = node

    def emit(self, record: logging.LogRecord) -> None:
        own = record.name.split('.')[0] == 'semanom_ros'
        if record.levelno < (logging.INFO if own else logging.WARNING) or not self._node.context.ok():
            return
        try:
            text = without_secrets(self.format(record))
            if not own:
                text = f'{record.name}: {text}'
            log = self._node.get_logger()
            # a line for each: rclpy holds a line of code to one severity
            if record.levelno >= logging.CRITICAL:
                log.fatal(text)
            elif record.levelno >= logging.ERROR:
                log.error(text)
            elif record.levelno >= logging.WARNING:
                log.warning(text)
            else:
                log.info(text)
        except Exception:
            self.handleError(record)
