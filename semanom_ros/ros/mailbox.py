"""Between the callbacks that receive frames and the thread that works on them."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

Item = TypeVar('Item')


class Mailbox(Generic[Item]):
    """One slot for each camera that holds its latest item; nothing ever queues.

    A camera that sends faster than the reader works replaces its own item, never that of
    another camera, and the reader takes the cameras in turn, one or several at once.
    """

    def __init__(self) -> None:
        self._ready = threading.Condition()
        self._items: dict[str, Item] = {}  # in the order in which the slots were filled
        self._turns: dict[str, int] = {}  # rises with each camera that is taken
        self._closed = False

    def put(self, camera: str, item: Item) -> bool:
        """Leaves an item; returns whether it replaced one that nobody had taken."""
        with self._ready:
            if self._closed:
                return False
            replaced = camera in self._items
            self._items[camera] = item
            self._ready.notify()
            return replaced

    def waiting(self) -> list[Item]:
        """What nobody has taken yet, the next to be taken first."""
        with self._ready:
            return [self._items[camera] for camera in self._in_turn()]

    def take(self, most: int = 1) -> list[Item] | None:
        """Waits for an item; what waits, of so many cameras at most, in their turn. None once the mailbox is closed."""
        with self._ready:
            self._ready.wait_for(lambda: self._closed or self._items)
            if self._closed:
                return None
            cameras = self._in_turn()[:most]
            for camera in cameras:
                self._turns.pop(camera, None)
                self._turns[camera] = 1 + max(self._turns.values(), default=0)
            return [self._items.pop(camera) for camera in cameras]

    def _in_turn(self) -> list[str]:
        """Cameras that have an item: the one that has not been taken for longest first."""
        return sorted(self._items, key=lambda camera: self._turns.get(camera, 0))

    def close(self) -> None:
        """Throws away what is left and wakes the reader."""
        with self._ready:
            self._closed = True
            self._items.clear()
            self._ready.notify_all()
