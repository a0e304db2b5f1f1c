"""The operating points of databases over recordings with ground truth, for several false-alarm rates, in one pass.

    python -m tools.operating_points BAG... --database DIR... [--rates 0.01 0.02 0.05] [--stills]

prints a table: for each database and rate the share of nominal frames that alarm, the anomalies noticed, and those
noticed at the level that gives the asked rate on each recording's own nominal frames. Scores are the detector's, before
the filter; a database is taken as it is stored, with what it has learned. `--stills`: each frame is an anomaly of its
own.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest
from tqdm import tqdm

from semanom_ros.commands.options import add_parameter_options, settings_with
from semanom_ros.core.database.published import read_manifest
from semanom_ros.core.embedding.embedder import Embedder
from semanom_ros.core.pipeline import Judge
from semanom_ros.core.scoring.calibration import Calibration
from semanom_ros.core.scoring.timeline import runs
from semanom_ros.evaluation.metrics import ANOMALOUS
from semanom_ros.evaluation.operating_point import level_for
from semanom_ros.evaluation.truth import TruthReader
from semanom_ros.recordings.bags import BagReader


@dataclass(frozen=True)
class Scored:
    """One recording as one database sees it: stamps, whether frames are anomalous, scores before the alarm level."""

    stamps: npt.NDArray[np.int64]
    anomalous: npt.NDArray[np.bool_]
    scores: npt.NDArray[np.float64]

    def noticed(self, level: float, stills: bool) -> tuple[int, int]:
        """How many anomalies have a frame above a level, and how many there are."""
        above = self.scores > level
        if stills:
            return int((above & self.anomalous).sum()), int(self.anomalous.sum())
        events = runs(self.stamps, self.anomalous)
        return sum(bool(above[first:last + 1].any()) for first, last in events), len(events)


def score(bags: Sequence[Path], judges: Sequence[Judge], embedder: Embedder) -> list[list[Scored]]:
    """Of each judge, each recording; every frame is embedded once."""
    found: list[list[Scored]] = [[] for _ in judges]
    for bag in bags:
        rows = []
        with BagReader(bag) as reader, TruthReader(BagReader(bag)) as truths:
            topic = reader.image_topic()
            for frame in tqdm(reader.images(topic), total=reader.counts[topic], desc=bag.name, unit='frame'):
                truth = truths.at(frame.stamp_ns, frame.size)
                if truth is None:
                    continue
                embedding = embedder.embed([frame])[0]
                grid = replace(embedding, segments=None)
                scores = [judge.score(embedding if judge.embedder.segmenter is not None else grid) for judge in judges]
                raw = [one.score * one.level for one in scores]
                rows.append((frame.stamp_ns, bool((truth == ANOMALOUS).any()), raw))
        for number, scored in enumerate(found):
            scored.append(Scored(np.array([row[0] for row in rows]), np.array([row[1] for row in rows]),
                                 np.array([row[2][number] for row in rows])))
    return found


def line(scored: Sequence[Scored], calibration: Calibration, asked: float, stills: bool) -> str:
    """One row of the table."""
    alarm = calibration.alarm_level(asked)
    nominal = np.concatenate([one.scores[~one.anomalous] for one in scored])
    alarmed = int((nominal > alarm.level).sum())
    interval = binomtest(alarmed, len(nominal)).proportion_ci(0.95, 'exact')
    noticed, oracle, anomalies = 0, 0, 0
    for one in scored:
        own, count = one.noticed(alarm.level, stills)
        best, _ = one.noticed(level_for(one.scores[~one.anomalous], asked), stills)
        noticed, oracle, anomalies = noticed + own, oracle + best, anomalies + count
    supported = '' if alarm.rate == asked else f' (level for {100 * (alarm.rate or 0):.2g} %)'
    return (f'{100 * asked:g} %{supported} | {100 * alarmed / len(nominal):.1f} % [{100 * interval.low:.1f}, '
            f'{100 * interval.high:.1f}] of {len(nominal)} | {noticed} of {anomalies} | {oracle} | '
            f'{noticed / oracle if oracle else float("nan"):.2f}')


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs it."""
    parser = argparse.ArgumentParser(prog='python -m tools.operating_points', description=__doc__.splitlines()[0])
    parser.add_argument('bags', nargs='+', type=Path, metavar='BAG')
    parser.add_argument('--database', nargs='+', type=Path, required=True, dest='databases', metavar='DIR')
    parser.add_argument('--rates', nargs='+', type=float, default=(0.01, 0.02, 0.05))
    parser.add_argument('--stills', action='store_true', help='each anomalous frame is an anomaly of its own')
    add_parameter_options(parser)
    given = parser.parse_args(arguments)
    variants = [read_manifest(path).description.variant for path in given.databases]
    widest = max(zip(variants, given.databases, strict=True), key=lambda pair: pair[0])[1]  # instance after grid
    embedder = Embedder.load(settings_with([widest], given).method)
    judges = []
    for path, variant in zip(given.databases, variants, strict=True):
        own = embedder if variant == embedder.variant else embedder.without_segments()
        judges.append(Judge.load(settings_with([path], given).method, path, own))
    found = score(given.bags, judges, embedder)
    print('| database | asked | got [95 %] | noticed | at the oracle level | efficiency |\n|---|---|---|---|---|---|')
    for path, variant, judge, scored in zip(given.databases, variants, judges, found, strict=True):
        learned = ', learned' if judge.database.manifest.learned else ''
        calibration = Calibration.stored(path, judge.database.manifest)
        for rate in given.rates:
            print(f'| {path.name} ({variant}{learned}) | {line(scored, calibration, rate, given.stills)} |')
    return 0


if __name__ == '__main__':
    sys.exit(main())
