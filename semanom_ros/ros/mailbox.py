"""Between the callbacks that receive frames and the thread that works on them."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

Item = TypeVar('Item')


class Mailbox(Generic[Item]):
    """One slot for each camera that holds its latest item; nothing ever queues.

    A camera that sends faster than the reader works replaces its own item, never that of
    another camera, and the reader takes the cameras in turn.
    """

    def __init__(self) -> None:
        self._ready = threading.Condition()
        self._items: dict[str, Item] = {}  # in the order in which the slots were filled
        self._closed = False

    def put(self, camera: str, item: Item) -> bool:
        """Leaves an item; returns whether it replaced one that nobody had taken."""
        with self._ready:
            if self._closed:
                return False
            replaced = camera in self._items
            self._items[camera] = item  # a replaced item keeps its turn
            self._ready.notify()
            return replaced

    def waiting(self) -> list[Item]:
        """What nobody has taken yet, the next to be taken first."""
        with self._ready:
            return list(self._items.values())

    def take(self) -> Item | None:
        """Waits for an item; None once the mailbox is closed."""
        with self._ready:
            self._ready.wait_for(lambda: self._closed or self._items)
            if self._closed:
                return None
            return self._items.pop(next(iter(self._items)))

    def close(self) -> None:
        """Throws away what is left and wakes the reader."""
        with self._ready:
            self._closed = True
            self._items.clear()
            self._ready.notify_all()
