"""How long the stages of a frame take, on devices that are only told what to do and do it later."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

Milliseconds = Callable[[], dict[str, float]]
"""By stage; waits for a GPU where it has not come so far."""


class StageClock:
    """Takes the time between laps, on a GPU by events in its present stream: nothing waits for it meanwhile."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._last = self._mark()
        self._laps: list[tuple[str, float | torch.cuda.Event, float | torch.cuda.Event]] = []

    def lap(self, stage: str) -> None:
        """What was done since the last lap was this stage."""
        now = self._mark()
        self._laps.append((stage, self._last, now))
        self._last = now

    def shared(self, count: int) -> Milliseconds:
        """What asks for the laps so far, each shared by so many frames."""
        laps = tuple(self._laps)
        return lambda: {stage: _between(begin, end) / count for stage, begin, end in laps}

    def _mark(self) -> float | torch.cuda.Event:
        if self._device.type != 'cuda':
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event


def _between(begin: float | torch.cuda.Event, end: float | torch.cuda.Event) -> float:
    """Milliseconds."""
    if isinstance(begin, float) or isinstance(end, float):
        assert isinstance(begin, float)
        assert isinstance(end, float)
        return (end - begin) * 1e3
    end.synchronize()
    return begin.elapsed_time(end)
