"""Wealth of a gambler who bets that nominal driving has ended: a conformal test martingale.

Every sample is compared with a fixed nominal reference, so what comes after a change never dilutes it (S. Shaer,
Y. Bar, D. Prinster, Y. Romano, "Testing For Distribution Shifts with Conditional Conformal Test Martingales", ICML
2026). A finite reference is not the distribution that it was drawn from, and given the reference p-values are not
uniform: what a bet pays is divided by the most that it may yield on average under nominal driving, given any but a
share `delta` of the references. That costs less than p-values from a confidence band (Dvoretzky, Kiefer, Wolfowitz),
which hold for every bet at once: only the bets that are made need to be fair.

Bets start anew with every sample, so that a change is found whenever it comes: J. Shin, A. Ramdas, A. Rinaldo,
"E-detectors: a nonparametric framework for sequential change detection", 2023.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]

EXPONENTS = np.array([0.15, 0.35, 0.55, 0.75])
"""Of the bets k p^(k - 1), mixed evenly: strong bets on strange samples, and weak ones on a slight shift."""

_DRAWS = 4000  # of references, for the fair price of a bet
_SINGLE = 64  # ranks that are drawn one by one; larger ones, where bets hardly differ, in groups
_GROWTH = 1.05  # between neighbouring groups
_MOST = 1e12  # wealth beyond which winnings are not kept


@dataclass(frozen=True)
class Reference:
    """A sample from nominal driving, and what bets against it are worth.

    Attributes:
        values: (n,) sorted.
        size: how many independent values they are worth, 1 to n.
        prices: (len(EXPONENTS),) the most that a bet yields on average under nominal driving, given the reference.
    """

    values: Values
    size: int
    prices: Values

    @classmethod
    def of(cls, values: npt.ArrayLike, size: float, delta: float) -> Reference:
        """From nominal values.

        Args:
            values: (n,), at least one.
            size: how many independent ones they are worth, at most n.
            delta: share of references whose prices are too low.
        """
        ordered = np.sort(np.asarray(values, np.float64))
        worth = max(1, min(len(ordered), int(size)))
        return cls(ordered, worth, fair_prices(worth, delta))

    def p_values(self, values: npt.ArrayLike) -> Values:
        """Conformal p-values: the larger a value, the smaller; 1 for what is not a number."""
        values = np.asarray(values, np.float64)
        above = len(self.values) - np.searchsorted(self.values, values, side='left')
        p_values = np.maximum((above + 1) / (len(self.values) + 1), 1 / (self.size + 1))
        return np.where(np.isnan(values), 1.0, p_values)

    def payoffs(self, values: npt.ArrayLike) -> Values:
        """(len(EXPONENTS), ...) what one unit bet on values becomes; its mean is at most 1 under nominal driving.

        Of what is not a number nothing is known, and nothing is bet.
        """
        values = np.asarray(values, np.float64)
        shape = (-1,) + (1,) * values.ndim
        exponents, prices = EXPONENTS.reshape(shape), self.prices.reshape(shape)
        return np.where(np.isnan(values), 1.0, exponents * self.p_values(values) ** (exponents - 1) / prices)


@lru_cache(maxsize=256)
def fair_prices(size: int, delta: float) -> Values:
    """(len(EXPONENTS),) 1 - delta quantile, over references of so many values, of the mean of each bet given the
    reference.

    Given the reference, the chance of each rank is a spacing of uniform order statistics: exponential variables over
    their sum.
    """
    # ranks 1 .. size + 1, alone while they are small, then in groups that are taken to pay as their smallest
    firsts = [1]
    while firsts[-1] <= size:
        firsts.append(firsts[-1] + max(1, int((firsts[-1] - _SINGLE) * (_GROWTH - 1))))
    edges = np.minimum(np.array(firsts), size + 2)
    p_values = edges[:-1] / (size + 1)
    weights = np.random.default_rng(size).gamma(np.diff(edges), size=(_DRAWS, len(p_values)))
    chances = weights / weights.sum(axis=1, keepdims=True)
    means = chances @ (EXPONENTS * p_values[:, None] ** (EXPONENTS - 1))
    prices = np.quantile(means, 1 - delta / len(EXPONENTS), axis=0, method='higher')
    prices.setflags(write=False)
    return prices


class Wealth:
    """Wealth of several gamblers at once, each with a column of payoffs.

    With fair payoffs the mean of `total` stays at most 1 through the first `horizon` samples, and it stays below
    1 / alpha through all of them with probability 1 - alpha (Ville); after that, the mean time until it reaches
    1 / alpha is at least 2 horizon / alpha samples.

    Half of the stake is bet from the first sample on, since a drive through the unknown begins with its beginning; the
    other half is spread over the samples of the horizon.
    """

    def __init__(self, columns: int, horizon: int, memory: int) -> None:
        """
        Args:
            columns: gamblers.
            horizon: samples that half of the stake is spread over.
            memory: samples that `recent` looks back.
        """
        self._last: deque[Values] = deque(maxlen=memory)
        self._stake = 0.5 / horizon / len(EXPONENTS)
        self._wealth = np.full((len(EXPONENTS), columns), 0.5 / len(EXPONENTS))
        self._run = np.zeros((len(EXPONENTS), columns))
        self._since = np.zeros((len(EXPONENTS), columns), np.int64)

    def bet(self, payoffs: Values, stamp_ns: int) -> None:
        """One more sample: payoffs (len(EXPONENTS), columns), at a time."""
        self._wealth = np.minimum((self._wealth + self._stake) * payoffs, _MOST)
        begins = self._run <= 1
        self._since = np.where(begins, stamp_ns, self._since)
        self._run = np.minimum(np.where(begins, 1.0, self._run) * payoffs, _MOST)
        self._last.append(payoffs)

    def forget(self) -> None:
        """Gives all winnings away, and goes on with the stakes that are to come: that makes no alarm more likely."""
        self._wealth[:] = 0
        self._run[:] = 0
        self._last.clear()

    @property
    def total(self) -> Values:
        """(columns,) wealth."""
        return self._wealth.sum(axis=0)

    @property
    def recent(self) -> Values:
        """(columns,) what one unit, bet `memory` samples ago, has become; 1 before there are so many."""
        if len(self._last) < (self._last.maxlen or 0):
            return np.ones(self._wealth.shape[1])
        return np.prod(self._last, axis=0).mean(axis=0)

    @property
    def since(self) -> npt.NDArray[np.int64]:
        """(columns,) estimated time of the change, nanoseconds: where the run of bets that won most began (CUSUM)."""
        best = self._run.argmax(axis=0)
        return self._since[best, np.arange(len(best))]
