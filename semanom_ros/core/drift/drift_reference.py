"""What nominal driving looks like to the drift monitor: a sample a second of the nominal drives.

A sample of a frame is 50 numbers, see `sample_of`: how far each of 6 x 8 cells of the image is from the nominal
database, and where in the image what resembles it was. Neighbouring frames are nearly the same picture, so one frame a
second is taken, live and of the reference alike, and blocks of them are bet on; what is left of the likeness of
neighbouring blocks is taken out by a first-order autoregression, and a vehicle that stands adds little.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from semanom_ros.core.drift.betting import Reference, Values

CELL_ROWS, CELL_COLUMNS = 6, 8
CELLS = CELL_ROWS * CELL_COLUMNS
REGION_ROWS, REGION_COLUMNS = 3, 4
REGIONS = REGION_ROWS * REGION_COLUMNS

PERIOD_S = 1.0
"""Between samples; longer where the nominal drives were recorded with fewer frames."""

LONGEST_PERIOD_S = 10.0
"""Nominal frames further apart than that are stills: nothing is known of how they follow each other."""

SMALLEST = 60
"""Nominal samples that a reference needs; with fewer no evidence could ever suffice."""

BLOCK = 3
"""Samples that are bet on together, by the least strange of them: longer than a thing fills the picture in passing."""

REGION_BLOCKS = 2
"""Blocks that a region must be strange in, in every sample, to count once: things stay in one place for longer."""

DELTA = 0.01
"""Probability that the reference misleads: that its confidence bounds do not hold."""

SHIFTS = ('shifted right', 'shifted left', 'shifted down', 'shifted up')
"""What the last columns but the regions look for."""

COLUMNS = 1 + len(SHIFTS)
"""Whole picture, and SHIFTS; the regions have columns of their own."""

_OFFSET = 1e-4  # cosine distance: added before the logarithm, so that frames recorded twice are not infinitely near
_MISSING = -1000.0  # stands for a cell without queries where arrays are stored
_JITTER = 0.9  # of the period: stamps of cameras are not quite even
_STANDING = 0.25  # of the usual change from sample to sample, below which the vehicle stands

Array = npt.NDArray[np.float32]


def sample_of(distances: Array, positions: Array, matched: Array) -> Array:
    """(50,) float32 what is looked at of one frame.

    Args:
        distances: (N,) of its queries to the nominal database.
        positions: (N, 2) of the queries in the image, 0 to 1.
        matched: (N, 2) where in their images the nominal embeddings were that are nearest.

    Returns:
        The mean logarithm of the distances in each of CELLS, row by row, NaN where no query is; and how far to the
        right of, and below, their matches the queries are, the mean of the cells without a quarter on either side.
    """
    sample = np.full(CELLS + 2, np.nan, np.float32)
    finite = np.isfinite(distances)
    if not finite.any():
        return sample
    distances, positions, matched = distances[finite], positions[finite], matched[finite]
    column = np.clip((positions[:, 0] * CELL_COLUMNS).astype(np.int64), 0, CELL_COLUMNS - 1)
    row = np.clip((positions[:, 1] * CELL_ROWS).astype(np.int64), 0, CELL_ROWS - 1)
    cell = row * CELL_COLUMNS + column
    counts = np.bincount(cell, minlength=CELLS)
    logarithms = np.log(np.maximum(distances, 0) + _OFFSET)
    with np.errstate(invalid='ignore'):
        by_cell = np.stack([np.bincount(cell, weights, CELLS) / counts
                            for weights in (logarithms, *(positions - matched).T)])
    sample[:CELLS] = by_cell[0]
    sample[CELLS:] = _middle(by_cell[1:])
    return sample


def drift_arrays(samples: npt.ArrayLike, stamps_ns: npt.ArrayLike, streams: npt.ArrayLike, names: Sequence[str] = ()
                 ) -> dict[str, npt.NDArray]:
    """Arrays of the calibration that a reference is made of.

    Args:
        samples: (n, 50) of nominal frames, each compared with a database that lacks it and what is near it in time.
        stamps_ns: (n,) nanoseconds.
        streams: (n,) a number for each camera of each recording.
        names: of the streams.

    Returns:
        `drift_samples` (m, 50) float32, `drift_stamps` (m,) int64 and `drift_streams` (m,) int32: samples at least
        PERIOD_S apart, stream by stream, in time; without what could not be compared with anything. And `drift_names`.
    """
    samples = np.asarray(samples, np.float32).reshape(-1, CELLS + 2)
    stamps, numbers = np.asarray(stamps_ns, np.int64), np.asarray(streams, np.int32)
    kept: list[int] = []
    for index in np.lexsort((stamps, numbers)):
        new = not kept or numbers[kept[-1]] != numbers[index]
        if np.isfinite(samples[index, CELLS:]).all() and (
                new or stamps[index] - stamps[kept[-1]] >= _JITTER * PERIOD_S * 1e9):
            kept.append(int(index))
    return {'drift_samples': np.nan_to_num(samples[kept], nan=_MISSING), 'drift_stamps': stamps[kept],
            'drift_streams': numbers[kept], 'drift_names': np.array(names, np.str_)}


def stored_samples(arrays: Mapping[str, npt.NDArray]) -> Values:
    """(m, 50) the samples in arrays that `drift_arrays` made."""
    samples = np.asarray(arrays['drift_samples'], np.float64)
    return np.where(samples == _MISSING, np.nan, samples)


@dataclass(frozen=True)
class Column:
    """One statistic of blocks of samples.

    Attributes:
        level, scale: mean and standard deviation over the reference.
        memory: correlation of neighbouring blocks, 0 to 0.95.
        first: nominal values of a block that follows none.
        following: nominal values of what the one before does not explain.
    """

    level: float
    scale: float
    memory: float
    first: Reference
    following: Reference

    @classmethod
    def of(cls, values: Values, before: Values) -> Column:
        """From the values (m,) of overlapping blocks, and those of the blocks just before them, NaN where none is."""
        level, scale = float(values.mean()), max(float(values.std()), 1e-6)
        values, before = (values - level) / scale, (before - level) / scale
        known = np.isfinite(before)
        memory = float(np.clip((values * before)[known].mean() if known.any() else 0.0, 0.0, 0.95))
        worth = len(values) / BLOCK * (1 - memory) / (1 + memory)
        rest = _unexplained(values, before, memory)[known]
        return cls(level, scale, memory, Reference.of(values, worth, DELTA / 2),
                   Reference.of(rest if known.any() else values, known.sum() / BLOCK, DELTA / 2))

    def payoffs(self, value: float, before: float) -> Values:
        """(len(EXPONENTS),) payoffs of bets on a block after another, NaN: after none."""
        value, before = (value - self.level) / self.scale, (before - self.level) / self.scale
        if np.isnan(before):
            return self.first.payoffs(value)
        return self.following.payoffs(_unexplained(value, before, self.memory))


def _unexplained(values, before, memory):  # type: ignore[no-untyped-def]  # numbers or arrays of them
    return (values - memory * before) / np.sqrt(1 - memory ** 2)


@dataclass(frozen=True)
class DriftReference:
    """The nominal drives as the monitor compares with them.

    Attributes:
        frames: how many samples.
        period_s: between them.
        centre, spread: (50,) mean and standard deviation of each number of a sample.
        columns: nominal values of the statistics.
        regions: nominal values of each region's.
        standing: change from sample to sample, see `_changes`, below which the vehicle stands.
    """

    frames: int
    period_s: float
    centre: Values
    spread: Values
    columns: tuple[Column, ...]
    regions: tuple[Reference, ...]
    standing: float

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray]) -> tuple[DriftReference | None, str]:
        """From what `drift_arrays` returned; None, and why, where that makes no reference."""
        if 'drift_samples' not in arrays:
            return None, 'drift is unknown: the database holds no reference for it; run semanom db calibrate'
        samples = stored_samples(arrays)
        stamps, streams = arrays['drift_stamps'], arrays['drift_streams']
        if len(samples) < SMALLEST:
            return None, (f'drift is unknown: found {len(samples)} nominal frames a second or more apart, expected at '
                          f'least {SMALLEST}; record longer drives')
        gaps = np.diff(stamps)[np.diff(streams) == 0] / 1e9
        period = max(PERIOD_S, float(np.median(gaps))) if len(gaps) else np.inf
        if period > LONGEST_PERIOD_S:
            return None, (f'drift is unknown: found nominal frames {period:.0f} s apart, expected at most '
                          f'{LONGEST_PERIOD_S:g} s; record continuous drives')
        with np.errstate(invalid='ignore'):
            known = np.isfinite(samples).sum(axis=0) >= SMALLEST // 2
            samples = np.where(known, samples, np.nan)
            centre = np.where(known, np.nanmean(np.where(known, samples, 0), axis=0), 0.0)
            spread = np.where(known, np.nanstd(np.where(known, samples, 0), axis=0), 1.0)
        spread = np.maximum(spread, 1e-6)
        follows = np.r_[False, (np.diff(streams) == 0) & (np.diff(stamps) <= 1.5e9 * period)]
        scaled = (samples - centre) / spread
        changes = _changes(scaled * spread)
        standing = _STANDING * float(np.median(changes[follows])) if follows.any() else 0.0
        moving = ~follows | (changes > standing)
        scaled, follows = scaled[moving], follows[moving]
        starts, before = _runs(follows, BLOCK)
        values = np.array([block_values(scaled[start:start + BLOCK]) for start in starts])
        place = {start: number for number, start in enumerate(starts)}
        earlier = np.array([values[place[start]] if start in place else np.full(COLUMNS, np.nan) for start in before])
        longer, _ = _runs(follows, REGION_BLOCKS * BLOCK)
        if len(longer) < SMALLEST // 2:
            return None, (f'drift is unknown: found {len(longer)} stretches of {REGION_BLOCKS * BLOCK * period:.0f} s '
                          f'of nominal driving, expected at least {SMALLEST // 2}; record longer drives')
        strange = np.array([region_values(scaled[start:start + REGION_BLOCKS * BLOCK]) for start in longer])
        return cls(len(scaled), period, centre, spread,
                   tuple(Column.of(*both) for both in zip(values.T, earlier.T, strict=True)),
                   tuple(Reference.of(one, len(one) / (REGION_BLOCKS * BLOCK), DELTA) for one in strange.T),
                   standing), ''

    @property
    def minutes(self) -> float:
        """Of driving that the samples stand for."""
        return self.frames * self.period_s / 60

    def standardized(self, sample: Array) -> Values:
        """(50,) a sample by what is usual at each place."""
        return (sample - self.centre) / self.spread

    def stands(self, sample: Values, before: Values) -> bool:
        """Whether nothing has changed between two standardized samples."""
        return bool(_changes(np.stack([before, sample]) * self.spread)[1] <= self.standing)


def block_values(block: Values) -> Values:
    """(COLUMNS,) statistics of standardized samples (BLOCK, 50), each by the least strange sample.

    The whole picture: the mean of the cells without a quarter on either side, so that a thing that fills less than a
    quarter of the picture does not matter; and the SHIFTS.
    """
    right, down = block[:, CELLS], block[:, CELLS + 1]
    return np.stack([_middle(block[:, :CELLS]), right, -right, down, -down]).min(axis=1)


def region_values(block: Values) -> Values:
    """(REGIONS,) how strange each region is in all of some standardized samples (m, 50): cells at their least."""
    least = block[:, :CELLS].min(axis=0).reshape(REGION_ROWS, 2, REGION_COLUMNS, 2)
    return least.mean(axis=(1, 3)).ravel()


def _middle(cells: Values) -> Values:
    """(n,) mean of the known ones of cells (n, CELLS) without a quarter on either side."""
    ordered = np.sort(cells, axis=1)  # what is not known comes last
    count, rank = np.isfinite(ordered).sum(axis=1, keepdims=True), np.arange(CELLS)
    middle = (rank >= count // 4) & (rank < count - count // 4)
    return np.where(middle, ordered, 0).sum(axis=1) / np.maximum(middle.sum(axis=1), 1)


def _runs(follows: npt.NDArray[np.bool_], length: int) -> tuple[list[int], list[int]]:
    """First samples of all runs of so many that follow each other, and of the runs just before; -1 where none is."""
    since = np.zeros(len(follows), np.int64)  # samples in one go, up to and with each
    for index, goes_on in enumerate(follows):
        since[index] = since[index - 1] + 1 if goes_on and index else 1
    starts = [index - length + 1 for index in range(len(follows)) if since[index] >= length]
    return starts, [start - length if since[start + length - 1] >= 2 * length else -1 for start in starts]


def _changes(samples: Values) -> Values:
    """(n,) mean change of the distances since the sample before, as a share of what is usual; infinite for the first.

    Of the distances, not of their logarithms: what is far from everything nominal, a lens that is covered, does not
    stand because it stays so.

    Args:
        samples: (n, 50) minus what is usual.
    """
    steps = np.abs(np.diff(np.exp(samples[:, :CELLS]), axis=0))
    known = np.isfinite(steps)
    return np.r_[np.inf, np.where(known, steps, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)]
