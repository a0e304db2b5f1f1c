"""The operating point: whether the false-alarm rate that was asked for comes out, and what it costs.

Ranking metrics say what the scores could do at the best threshold; these say what the product does at its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

from semanom_ros.core.results import Verdict
from semanom_ros.evaluation.sequences import Timeline

CONFIDENCE = 0.95
"""Of the interval of the rate that was got."""


@dataclass(frozen=True)
class OperatingPoint:
    """One method at its threshold. Counts are of frames that are known to be nominal, and of anomalies.

    An anomaly is an event: anomalous frames without a longer pause; a frame of its own where frames lie further apart.

    Attributes:
        asked: share of nominal frames that may alarm; None where something else sets the threshold.
        nominal, alarmed: nominal frames that could be judged, and those of them whose verdict is anomalous.
        anomalies: events.
        noticed: events with an alarm while in view.
        oracle_level: the smallest level above which no more than the asked share of these very nominal frames score,
            as a share of the threshold; None without nominal frames or a rate that was asked for.
        noticed_at_oracle: events with a frame score above that level, before any filter.
    """

    asked: float | None
    nominal: int
    alarmed: int
    anomalies: int
    noticed: int
    oracle_level: float | None
    noticed_at_oracle: int | None

    @classmethod
    def of(cls, parts: Sequence[tuple[npt.NDArray, Timeline]], asked: float | None) -> OperatingPoint:
        """Of sequences: their frames (of FRAME_TYPE) and what happened.

        The level is sought among the scores before the filter in a filtered row as well: a filter has looked at nothing
        below the product's threshold, so that nobody knows what it would have left of that.
        """
        judged = [(frames['truth'] == 0) & (frames['verdict'] != Verdict.UNKNOWN) for frames, _ in parts]
        nominal = np.concatenate([np.zeros(0), *(
            frames['frame_score'][own] for (frames, _), own in zip(parts, judged, strict=True))])
        alarmed = sum(int(frames['alarm'][own].sum()) for (frames, _), own in zip(parts, judged, strict=True))
        events = [(frames, event) for frames, line in parts for event in line.events]
        noticed = sum(event.delay_s is not None for _, event in events)
        if asked is None or not len(nominal):
            return cls(asked, len(nominal), alarmed, len(events), noticed, None, None)
        level = level_for(nominal, asked)
        seen = sum(bool((frames['frame_score'][event.start:event.stop + 1] > level).any()) for frames, event in events)
        threshold = next(float(frames['threshold'][-1]) for frames, _ in parts if len(frames))
        return cls(asked, len(nominal), alarmed, len(events), noticed, level / threshold, seen)

    @property
    def got(self) -> float | None:
        """Share of the nominal frames that alarm; None without any."""
        return self.alarmed / self.nominal if self.nominal else None

    @property
    def interval(self) -> list[float] | None:
        """[low, high] of `got` by Clopper and Pearson, as if frames were independent; None without nominal frames."""
        if not self.nominal:
            return None
        found = binomtest(self.alarmed, self.nominal).proportion_ci(CONFIDENCE, 'exact')
        return [float(found.low), float(found.high)]

    @property
    def efficiency(self) -> float | None:
        """Anomalies noticed of those that are noticed at the oracle's level; above 1 where more false alarms came than
        were asked for. None where that level is unknown or shows none."""
        return self.noticed / self.noticed_at_oracle if self.noticed_at_oracle else None


def level_for(nominal: npt.NDArray[np.float64], asked: float) -> float:
    """The smallest level above which at most the asked share of nominal scores (N,), N > 0, lies.

    With fewer than 1 / asked of them it is the highest.
    """
    allowed = int(np.floor(asked * len(nominal) + 1e-9))
    return float(np.sort(nominal)[::-1][min(allowed, len(nominal) - 1)])
