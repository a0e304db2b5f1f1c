"""Evidence that adds up while something is looked at: a sequential test.

Logarithms of p-values above a zero point are summed, never below 0, until they reach what confirms (A. Wald,
"Sequential tests of statistical hypotheses", 1945; E. S. Page, "Continuous inspection schemes", Biometrika 1954; that
p-values can be bet on like this: V. Vovk, R. Wang, "E-values: calibration, combination, and applications", Annals of
Statistics 2021). Neighbouring frames of a drive are nearly the same picture and no evidence of their own: what a frame
adds is weighted by the time since the last one, so the sum is a time integral and depends little on the frame rate.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

ZERO = 0.3  # decades: a p-value of one half speaks neither for nor against an anomaly
LOOK_S = 0.5  # seconds after which another frame is another look
LEAK = 1.2  # decades lost by a look that does not show it
MEMORY = 2.0  # times what confirms that is remembered at most, so that what has gone is forgotten in time
SMALLEST_P = 1e-300  # a tail may end


@dataclass(frozen=True)
class Surprise:
    """How surprising scores are, in decades of the p-value: 2 where one of a hundred nominal frames scores as high.

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
        """Of a calibrated score (1.0 is the alarm level), at least 0."""
        p = max(self.survival(score * self.level), SMALLEST_P)
        return -math.log10(min(p, self.rate) if score > 1 else p)


@dataclass(frozen=True)
class SequentialTest:
    """Evidence for an anomaly, in decades.

    Attributes:
        needed: that confirms.
    """

    needed: float

    def first(self, surprise: float) -> float:
        """After the first look."""
        return self._limited(surprise - ZERO)

    def seen(self, evidence: float, surprise: float, elapsed_s: float) -> float:
        """After another look, so many seconds later."""
        return max(self._limited(evidence + _weight(elapsed_s) * (surprise - ZERO)), self.first(surprise))

    def unseen(self, evidence: float, elapsed_s: float) -> float:
        """After a frame that does not show it."""
        return self._limited(evidence - _weight(elapsed_s) * LEAK)

    def confirms(self, evidence: float) -> bool:
        """Whether it is enough."""
        return evidence >= self.needed - 1e-9  # sums of tenths

    def _limited(self, evidence: float) -> float:
        return min(max(evidence, 0.0), MEMORY * self.needed)


def _weight(elapsed_s: float) -> float:
    """Looks that a frame counts as, so many seconds after the one before."""
    return min(elapsed_s / LOOK_S, 1.0)
