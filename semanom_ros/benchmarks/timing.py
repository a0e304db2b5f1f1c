"""Things timed in turn, and what their times say."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from tqdm import tqdm

_RESAMPLES = 2000


def synchronize(device: torch.device) -> None:
    """Waits for what a GPU has still to do."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def in_turn(functions: Mapping[str, Callable[[], object]], repeats: int, what: str) -> dict[str, list[float]]:
    """Milliseconds of each function, `repeats` times, one after the other, after one round that does not count."""
    milliseconds: dict[str, list[float]] = {name: [] for name in functions}
    for turn in tqdm(range(repeats + 1), desc=what, leave=False, disable=None):
        for name, function in functions.items():
            begin = time.perf_counter()
            function()
            if turn:
                milliseconds[name].append((time.perf_counter() - begin) * 1e3)
    return milliseconds


def summary(milliseconds: Sequence[float]) -> dict[str, float]:
    """Median and 95 % quantile."""
    return {'median_ms': round(statistics.median(milliseconds), 3),
            'p95_ms': round(float(np.quantile(milliseconds, 0.95)), 3)}


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Quotient of the medians, four digits; NaN where either holds nothing."""
    return _rounded(statistics.median(above) / statistics.median(below)) if above and below else math.nan


def interval(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Lower and upper end of a 95 % bootstrap interval of `ratio`.

    Both are resampled on their own: a load that comes and goes hits the two of them at different moments. What was
    measured once does not widen it.
    """
    generator = np.random.default_rng(0)
    medians = [np.median(generator.choice(np.asarray(values, np.float64), (_RESAMPLES, len(values))), axis=1)
               for values in (above, below)]
    return [_rounded(float(end)) for end in np.quantile(medians[0] / medians[1], (0.025, 0.975))]


def _rounded(value: float) -> float:
    return float(f'{value:.4g}')
