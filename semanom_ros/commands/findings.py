"""What `semanom doctor` finds: one line for each thing that it examined."""

from __future__ import annotations

from dataclasses import dataclass


class ProblemError(Exception):
    """What is wrong, and what to do about it."""

    status = 'broken'

    def __init__(self, found: str, advice: str, missing: bool = False) -> None:
        super().__init__(found)
        self.found, self.advice = found, advice
        if missing:
            self.status = 'missing'


class DoubtError(ProblemError):
    """It works, but slower or less reliably than it could."""

    status = 'doubtful'


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        name: what was examined.
        status: `ok`, `doubtful`, `missing` or `broken`.
        required: whether semanom_ros cannot do its work without it.
        found: version, and what was tried.
        advice: what to do; '' where all is well.
    """

    name: str
    status: str
    required: bool
    found: str
    advice: str = ''

    @property
    def failed(self) -> bool:
        """Whether semanom_ros cannot do its work because of it."""
        return self.required and self.status in ('missing', 'broken')

    def __str__(self) -> str:
        mark = self.status.upper() if self.failed else self.status
        advice = f'\n{"":29}-> {self.advice}' if self.advice else ''
        return f'{mark:8} {self.name:20}{self.found}{advice}'
