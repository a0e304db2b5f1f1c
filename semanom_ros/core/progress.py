"""Who is told how far a long piece of work is."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Is told of one stage after the other; `semanom_ros.commands` draws bars of it."""

    def begin(self, what: str, total: int, unit: str) -> None:
        """A stage begins.

        Args:
            what: of the work, for people.
            total: units of it.
            unit: `frame`, `vector`, `B` (bytes), ...
        """

    def advance(self, amount: int) -> None:
        """So many units more are done."""

    def end(self) -> None:
        """The stage is over."""


class NoProgress:
    """Tells nobody."""

    def begin(self, what: str, total: int, unit: str) -> None:
        pass

    def advance(self, amount: int) -> None:
        pass

    def end(self) -> None:
        pass


SILENT = NoProgress()
