"""Whether a camera's driving is still like the nominal drives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from semanom_ros.core.drift.betting import Values, Wealth
from semanom_ros.core.drift.drift_reference import (
    BLOCK,
    CELLS,
    COLUMNS,
    LONGEST_PERIOD_S,
    REGION_BLOCKS,
    REGION_COLUMNS,
    REGION_ROWS,
    REGIONS,
    SHIFTS,
    DriftReference,
    block_values,
    region_values,
)

WHOLE = 'whole picture'

HORIZON_S = 3600.0
"""The time that the level is asked for."""

STANDING_S = 30.0
"""A vehicle that stands sees the same all the time, which counts once in that time."""

_STAKES = np.r_[0.5, np.full(len(SHIFTS), 0.25 / len(SHIFTS)), np.full(REGIONS, 0.25 / REGIONS)]
_MEMORY = 10  # blocks in which bets on a drift must have lost for it to be over
_OVER = 0.5  # of a unit that was bet, so much is left then
_LEAST = 2 * BLOCK  # samples before anything is said
_RECENT = 0.1  # share of the newest sample in the running mean of the cells
_OUTSTANDING = 1.5  # standard deviations that regions must stand out by to be what drifts
_PLACES = tuple(f'{vertical} {horizontal}'.strip() for vertical in ('upper', 'middle', 'lower')
                for horizontal in ('left', 'centre left', 'centre right', 'right'))


class DriftState(IntEnum):
    """Whether p-values and thresholds still mean what they say."""

    UNKNOWN = 0
    """Too few frames yet, or the database holds no reference."""
    LIKE_NOMINAL = 1
    DRIFTING = 2


@dataclass(frozen=True)
class Drift:
    """What is said about a camera's driving.

    Attributes:
        state: the verdict.
        since_ns: when the drift began, as far as that can be told, nanoseconds by the frames' stamps; else 0.
        strength: log10 of the evidence against driving being nominal.
        what: drifts: WHOLE, perhaps with a direction that it is shifted in, or a part of it such as `upper left`; else
            ''.
    """

    state: DriftState = DriftState.UNKNOWN
    since_ns: int = 0
    strength: float = 0.0
    what: str = ''

    def __str__(self) -> str:
        """The same for people."""
        if self.state is not DriftState.DRIFTING:
            return self.state.name.lower().replace('_', ' ')
        since = datetime.fromtimestamp(self.since_ns / 1e9, timezone.utc).strftime('%H:%M:%S')
        return f'unlike the nominal drives since {since} UTC (evidence 10^{self.strength:.1f}, {self.what})'


class DriftMonitor:
    """Follows one camera, a sample a second.

    Evidence is the wealth of bets against the null that driving is nominal, shared between the whole picture (half), a
    shift of it (a quarter) and the regions (a quarter), see `betting.Wealth`. Where it reaches 1 / level, the camera
    drifts; it does so until the same bets have lost for half a minute. On nominal drives that happens within an hour
    with a probability of at most `level`, and of DELTA for each statistic whose reference misleads.
    """

    def __init__(self) -> None:
        self._reference: DriftReference | None = None
        self._last_ns = 0
        self._restart()

    def _restart(self) -> None:
        horizon = max(1, round(HORIZON_S / (self._reference.period_s if self._reference else 1)))
        self._columns = Wealth(COLUMNS, max(1, horizon // BLOCK), _MEMORY)
        self._regions = Wealth(REGIONS, max(1, horizon // BLOCK // REGION_BLOCKS), _MEMORY // REGION_BLOCKS)
        self._before: Values | None = None
        self._before_ns = self._moved_ns = 0
        self._earlier = np.full(COLUMNS, np.nan)
        self._block: list[Values] = []
        self._stamps: list[int] = []
        self._recent = np.zeros(CELLS)
        self._count = 0
        self._level = 0.0
        self._drift = Drift()

    def update(self, reference: DriftReference | None, level: float, stamp_ns: int,
               sample: Callable[[], npt.NDArray[np.float32]]) -> Drift:
        """Takes the camera's next frame.

        Args:
            reference: nominal drives; None: the state stays unknown. With another one than before everything begins
                anew, as where stamps go back.
            level: probability with which nominal driving may be called drifting within an hour.
            stamp_ns: of the frame.
            sample: makes it, see `sample_of`; called for one frame a second only.
        """
        if reference is not self._reference or stamp_ns < self._last_ns:
            self._reference = reference
            self._restart()
        self._last_ns = stamp_ns
        if reference is None:
            return self._drift
        looked, passed = False, (stamp_ns - self._before_ns) / 1e9
        if self._before is None or passed >= 0.9 * reference.period_s:
            scaled = reference.standardized(sample())
            if np.isfinite(scaled[CELLS:]).all():
                self._take(reference, scaled, stamp_ns, passed)
                looked = True
        if looked or level != self._level:
            self._level, self._drift = level, self._verdict(level)
        return self._drift

    def _take(self, reference: DriftReference, scaled: Values, stamp_ns: int, passed: float) -> None:
        if self._before is not None:
            if stamp_ns - self._moved_ns < STANDING_S * 1e9 and reference.stands(scaled, self._before):
                self._before_ns = stamp_ns
                return
            if passed > 1.5 * reference.period_s:  # frames come less often than nominal ones did, or there was a pause
                self._earlier = np.full(COLUMNS, np.nan)
            if passed > LONGEST_PERIOD_S:
                self._block.clear()
                self._stamps.clear()
        self._before, self._before_ns = scaled, stamp_ns
        self._moved_ns = stamp_ns
        self._block.append(scaled)
        self._stamps.append(stamp_ns)
        self._count += 1
        share = max(_RECENT, 1 / self._count)
        self._recent += share * (np.nan_to_num(scaled[:CELLS]) - self._recent)
        if len(self._block) % BLOCK == 0:
            values = block_values(np.stack(self._block[-BLOCK:]))
            self._columns.bet(np.stack([
                column.payoffs(value, before)
                for column, value, before in zip(reference.columns, values, self._earlier, strict=True)], axis=1),
                self._stamps[-BLOCK])
            self._earlier = values
        if len(self._block) == REGION_BLOCKS * BLOCK:
            strange = region_values(np.stack(self._block))
            self._regions.bet(np.stack([nominal.payoffs(value) for nominal, value in
                                        zip(reference.regions, strange, strict=True)], axis=1), self._stamps[0])
            self._block.clear()
            self._stamps.clear()

    def _verdict(self, level: float) -> Drift:
        wealth = _STAKES * np.r_[self._columns.total, self._regions.total]
        total = float(wealth.sum())
        strength = float(np.log10(max(total, 1e-12)))
        drifting = total >= 1 / level
        if drifting and float((_STAKES * np.r_[self._columns.recent, self._regions.recent]).sum()) < _OVER:
            self._columns.forget()
            self._regions.forget()
            drifting = False
        if not drifting:
            state = DriftState.LIKE_NOMINAL if self._count >= _LEAST else DriftState.UNKNOWN
            return Drift(state, 0, strength)
        leading = int(wealth.argmax())
        since = np.r_[self._columns.since, self._regions.since][leading]
        return Drift(DriftState.DRIFTING, int(since), strength, self._what(leading))

    def _what(self, leading: int) -> str:
        """Names the column that has won most, in the light of which regions stand out lately."""
        if 0 < leading < COLUMNS:
            return f'{WHOLE}, {SHIFTS[leading - 1]}'
        regions = self._recent.reshape(REGION_ROWS, 2, REGION_COLUMNS, 2).mean(axis=(1, 3)).ravel()
        outstanding = regions > np.median(regions) + _OUTSTANDING
        if leading >= COLUMNS and outstanding[leading - COLUMNS]:
            return _PLACES[leading - COLUMNS]
        return _PLACES[int(regions.argmax())] if 0 < outstanding.sum() <= REGIONS // 4 else WHOLE
