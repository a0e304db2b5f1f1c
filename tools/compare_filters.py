"""What the temporal filter costs and spares: no filter, persistence for 0.3 s, and evidence, on the same frames.

python -m tools.compare_filters BAG... --database DIR [--rates 0.01 0.02 0.05] [--every N] [--set NAME=VALUE]

An event is noticed when a frame of it is anomalous. The added delay is that behind no filter, the median over the
events that both notice.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from semanom_ros.commands.options import add_parameter_options, settings_of
from semanom_ros.core.database.published import read_manifest
from semanom_ros.core.frames import Frame
from semanom_ros.core.localization.frame_clock import FrameClock
from semanom_ros.core.localization.regions_of_map import Region
from semanom_ros.core.localization.tracking import Tracker
from semanom_ros.core.pipeline import CameraState, Judge
from semanom_ros.core.results import FrameResult
from semanom_ros.core.scoring.scorer import FrameScores
from semanom_ros.evaluation.metrics import ANOMALOUS
from semanom_ros.evaluation.sequences import Timelines, timeline
from semanom_ros.evaluation.truth import TruthReader
from semanom_ros.recordings.bags import BagReader
from semanom_ros.settings import Settings

PERSISTENCE_NS = 300_000_000
FILTERS = ('none', 'persistence', 'evidence')


class Persistence:
    """What is seen for 0.3 s along a track, in half of the pictures: the rule that evidence replaces."""

    def __init__(self) -> None:
        self._clock, self._tracker = FrameClock(), Tracker(drift=0.0)

    def update(self, frame: Frame, found: tuple[Region, ...]) -> bool:
        """Whether one of the regions above the alarm level has persisted; takes one frame after another."""
        boxes = np.array([region.box for region in found], np.float32).reshape(-1, 4)
        tracks = self._tracker.update(frame.image, self._clock.advance(frame.stamp_ns, frame.received_ns), boxes)
        self._tracker.tracks = [t for t in self._tracker.tracks
                                if t.pictures - t.seen <= 1 or t.unseen_ns <= PERSISTENCE_NS]
        return any(t.age_ns >= PERSISTENCE_NS and 2 * t.seen >= t.pictures for t in tracks)


@dataclass
class Compared:
    """One asked rate: judges, and what the filters say.

    Attributes:
        judges: of `none` (spatial part too) and `evidence`.
        alarms: of each filter, one list for each recording.
    """

    judges: tuple[Judge, Judge]
    alarms: dict[str, list[list[bool]]] = field(default_factory=lambda: {name: [] for name in FILTERS})
    _states: tuple[CameraState, CameraState] = field(default_factory=lambda: (CameraState(), CameraState()))
    _persistence: Persistence = field(default_factory=Persistence)

    def begin(self) -> None:
        """Before each recording."""
        for lists in self.alarms.values():
            lists.append([])
        self._states, self._persistence = (CameraState(), CameraState()), Persistence()

    def add(self, scores: FrameScores) -> None:
        """Takes the next frame, scored at whatever level."""
        own = at_level(scores, self.judges[0].level)
        plain, result = (judge.filter(own, state) for judge, state in zip(self.judges, self._states, strict=True))
        persists = self._persistence.update(scores.embedding.frame, plain.regions if plain.anomalous else ())
        for name, alarm in zip(FILTERS, (_above(plain), persists, result.anomalous), strict=True):
            self.alarms[name][-1].append(alarm)


def at_level(scores: FrameScores, level: float) -> FrameScores:
    """The same for another alarm level."""
    ratio = scores.level / level
    return replace(scores, scores=scores.scores * np.float32(ratio), score=scores.score * ratio, level=level)


def _above(result: FrameResult) -> bool:
    return result.score > result.threshold


def frames_of(bag: Path, every: int) -> Iterator[tuple[Frame, bool]]:
    """Every so many-th frame of a recording, and whether it holds an anomaly."""
    with BagReader(bag) as reader, TruthReader(BagReader(bag)) as truths:
        for frame in islice(reader.images(), 0, None, every):
            truth = truths.at(frame.stamp_ns, frame.size)
            yield frame, truth is not None and bool((truth == ANOMALOUS).any())


def compare(bags: list[Path], database: Path, settings: Settings, rates: list[float], every: int) -> dict[float, str]:
    """A line of the table for each rate."""
    method = settings.method.changed({'variant': read_manifest(database).description.variant})
    judge = Judge.load(method, database)
    compared = {}
    for rate in rates:
        asked = judge.live({'false_alarm_rate': rate})
        compared[rate] = Compared((asked.live({'filter_temporal': False}), asked.live({'filter_temporal': True})))
    stamps: list[npt.NDArray[np.int64]] = []
    truths: list[npt.NDArray[np.int8]] = []
    for bag in bags:
        for one in compared.values():
            one.begin()
        seen, masks = [], CameraState().masks
        for frame, anomalous in tqdm(frames_of(bag, every), desc=bag.name, unit='frame', disable=None):
            scores = judge.score(judge.embedder.embed([frame], [masks])[0])
            for one in compared.values():
                one.add(scores)
            seen.append((frame.stamp_ns, anomalous))
        stamps.append(np.array([stamp for stamp, _ in seen], np.int64))
        truths.append(np.array([anomalous for _, anomalous in seen], np.int8))
    lines = {}
    for rate, one in compared.items():
        times = {name: Timelines([timeline(stamp, np.array(alarms), truth, np.zeros(len(alarms), np.bool_))
                                  for stamp, truth, alarms in zip(stamps, truths, lists, strict=True)])
                 for name, lists in one.alarms.items()}
        lines[rate] = line(rate, times)
    return lines


def line(rate: float, times: dict[str, Timelines]) -> str:
    """A row of the table: what happened with each filter, the one without first."""
    plain = times['none'].events
    cells = [f'{rate:g}', f'{len(plain)}']
    for name, its in times.items():
        both = [(before.delay_s, after.delay_s) for before, after in zip(plain, its.events, strict=True)]
        added = [after - before for before, after in both if before is not None and after is not None]
        noticed = sum(event.delay_s is not None for event in its.events)
        false = its.false_alarms_per_minute()
        cells += [f'{noticed}', f'{np.median(added):.2f}' if added and name != 'none' else '',
                  '' if false is None else f'{false:.2f}']
    return '| ' + ' | '.join(cells) + ' |'


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('bags', nargs='+', type=Path, metavar='BAG', help='recordings with ground truth')
    parser.add_argument('--database', type=Path, required=True, metavar='DIR', help='nominal database')
    parser.add_argument('--rates', nargs='+', type=float, default=[0.01, 0.02, 0.05], metavar='SHARE',
                        help='false alarm rates that are asked for')
    parser.add_argument('--every', type=int, default=1, metavar='N', help='take every N-th frame only')
    add_parameter_options(parser)
    arguments = parser.parse_args()
    lines = compare(arguments.bags, arguments.database, settings_of(arguments), arguments.rates, arguments.every)
    columns = [f'{name}: {what}' for name in FILTERS for what in ('noticed', 'added delay, s', 'false alarms a minute')]
    print('| ' + ' | '.join(['asked', 'events', *columns]) + ' |')
    print('|' + '---|' * (len(columns) + 2))
    print(*lines.values(), sep='\n')


if __name__ == '__main__':
    main()
