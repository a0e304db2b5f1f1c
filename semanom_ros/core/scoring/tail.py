"""The upper tail of nominal scores, beyond what so many frames say by themselves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

SHARE = 0.25  # of the scores that make the tail
CENSORED = 0.1  # of the tail whose size is not looked at, at least one: so no single frame decides
FEWEST = 8  # scores that a tail is fitted to


@dataclass(frozen=True)
class Tail:
    """Peaks over a threshold with an exponential tail, the Gumbel case of extreme-value theory.

    J. Pickands, "Statistical inference using extreme order statistics", Annals of Statistics, 1975; S. Coles, "An
    Introduction to Statistical Modeling of Extreme Values", 2001. The shape is not fitted: with the tens of frames of a
    first drive its error would be larger than what it mends. The highest scores are censored: they count as at least as
    high as the highest that is looked at, so that one unusual nominal frame moves the tail by its rank only.

    Attributes:
        start: score from which on it holds.
        share: of the nominal scores that lie above, (0, 1].
        scale: mean excess, >= 0; 0 where scores do not vary.
    """

    start: float
    share: float
    scale: float

    @classmethod
    def fit(cls, ascending: npt.NDArray[np.floating]) -> Tail:
        """Of nominal scores (n,), at least one, in rising order."""
        n = len(ascending)
        count = min(n, max(FEWEST, round(SHARE * n)))
        start = float(ascending[n - count - 1]) if count < n else float(ascending[0])
        excess = ascending[n - count:].astype(np.float64) - start
        censored = max(1, round(CENSORED * count)) if count > 1 else 0
        highest = excess[count - censored - 1]
        # The most likely mean of exponential values of which some are known to be at least as high as the highest.
        scale = float((excess[:count - censored].sum() + censored * highest) / (count - censored))
        return cls(start, count / n, scale)

    def level(self, rate: float) -> float:
        """Score that a share of nominal frames lies above, for rates up to `share`."""
        return self.start + self.scale * float(np.log(self.share / rate))

    def survival(self, score: float) -> float:
        """Share of nominal frames that lie above a score, which is at least `start`."""
        return self.share * float(np.exp(-(score - self.start) / self.scale)) if self.scale > 0 else 0.0
