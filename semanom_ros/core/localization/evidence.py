"""Evidence that adds up while something is looked at: a sequential test by betting.

A p-value p of a look is turned into a bet against chance that pays 1 / (2 sqrt(p)), of which nominal looks pay 1 in the
mean (V. Vovk, R. Wang, "E-values: calibration, combination, and applications", Annals of Statistics 2021). What bets
pay multiplies until it reaches the odds that confirm (A. Wald, "Sequential tests of statistical hypotheses", 1945), and
who has lost everything begins anew (E. S. Page, "Continuous inspection schemes", Biometrika 1954). Neighbouring frames
of a drive are nearly the same picture and no bet of their own: a frame counts by the time since the last one, so the
logarithm of the odds is a time integral and depends little on the frame rate.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

LOOK_S = 0.4  # seconds after which another frame is another look
LEAK = 0.6  # decades of the odds that a look loses which does not show it
MEMORY = 1.0  # decades above what confirms that are remembered at most, so that what has gone is forgotten in time
SMALLEST_P = 1e-300  # a tail may end


@dataclass(frozen=True)
class Surprise:
    """What a look at a score pays, in decades: 0.7 where one of a hundred nominal frames scores as high.

    Attributes:
        survival: p-value of a score before division by the alarm level, (0, 1].
        level: the alarm level.
        rate: false alarm rate that it was asked for. What is above the level is as surprising as that at least, also
            where so few nominal frames are known that no p-value is.
    """

    survival: Callable[[float], float]
    level: float
    rate: float

    def __call__(self, score: float) -> float:
        """Of a calibrated score (1.0 is the alarm level), at least -0.3; below 0 it speaks against an anomaly."""
        p = max(self.survival(score * self.level), SMALLEST_P)
        return -0.5 * math.log10(min(p, self.rate) if score > 1 else p) - math.log10(2)


@dataclass(frozen=True)
class SequentialTest:
    """Evidence for an anomaly: the logarithm to the base of 10 of the odds, at least 0.

    Attributes:
        odds: that confirm, at least 1.
    """

    odds: float

    def first(self, surprise: float) -> float:
        """After the first look."""
        return self._limited(surprise)

    def seen(self, evidence: float, surprise: float, elapsed_s: float) -> float:
        """After another look, so many seconds later; no less than if it were the first."""
        return max(self._limited(evidence + _looks(elapsed_s) * surprise), self.first(surprise))

    def unseen(self, evidence: float, elapsed_s: float) -> float:
        """After a frame that does not show it."""
        return self._limited(evidence - _looks(elapsed_s) * LEAK)

    def confirms(self, evidence: float) -> bool:
        """Whether it is enough."""
        return evidence >= math.log10(self.odds) - 1e-9  # sums of tenths

    def _limited(self, evidence: float) -> float:
        return min(max(evidence, 0.0), math.log10(self.odds) + MEMORY)


def _looks(elapsed_s: float) -> float:
    """That a frame counts as, so many seconds after the one before."""
    return min(elapsed_s / LOOK_S, 1.0)
