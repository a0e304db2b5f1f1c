"""What the snapshot recorder keeps of recordings with ground truth, against keeping everything.

`python -m tools.snapshot_figures BAG... --database DIR` judges every frame as the detector does and decides as the
recorder does, one recording after the other as if they were one drive, and prints bytes and the anomalous things in
view. Sizes are of serialized messages, before compression.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from semanom_ros.core.frames import Frame
from semanom_ros.core.pipeline import CameraState, Judge
from semanom_ros.core.results import Verdict
from semanom_ros.errors import SemanomError
from semanom_ros.finding.novelty import Novelty
from semanom_ros.finding.snapshots import Message, Snapshot, Snapshots, Taken
from semanom_ros.recordings.bags import BagReader
from semanom_ros.recordings.ground_truth import PREFIX, SCENARIO
from semanom_ros.settings import MethodSettings, SnapshotSettings


@dataclass
class Kept:
    """What is left of the recordings under a rule.

    Attributes:
        name: of the rule.
        bytes: of all snapshots.
        kinds, things: anomalies in view: what they are, and each by itself.
        snapshots: how many.
    """

    name: str
    bytes: int = 0
    kinds: set[str] = field(default_factory=set)
    things: set[tuple[str, str]] = field(default_factory=set)
    snapshots: int = 0


@dataclass
class Rule:
    """One rule at work: every alarm, or only what is new."""

    kept: Kept
    snapshots: Snapshots
    novelty: Novelty | None

    def alarm(self, tracks: Sequence[int], when_ns: int, frame: Frame) -> None:
        one = self.snapshots.alarm('camera', tracks, when_ns, f'{len(self.snapshots.counts)}_{when_ns}')
        if one is None:
            return
        evidence = None if self.novelty is None else self.novelty.evidence(frame)
        new = evidence is None or self.novelty is None or self.novelty.is_new(evidence)
        if self.snapshots.decide(one, new) and self.novelty is not None and evidence is not None:
            self.novelty.keep(one.name, evidence)

    def end(self, now_ns: int, truth: dict[int, dict[str, str]], source: str) -> None:
        for one in self.snapshots.due(now_ns):
            if taken := self.snapshots.take(one):
                self._count(one, taken, truth, source)

    def _count(self, one: Snapshot, taken: Taken, truth: dict[int, dict[str, str]], source: str) -> None:
        self.snapshots.written(one, taken, taken.bytes)
        self.kept.bytes += taken.bytes
        self.kept.snapshots += 1
        for message in taken.messages:
            for number, name in truth.get(message.when_ns, {}).items():
                self.kept.kinds.add(name)
                self.kept.things.add((source, number))


def anomalies(bag: Path) -> dict[int, dict[str, str]]:
    """The anomalous things in view at each bag time: names by their numbers."""
    with BagReader(bag) as reader:
        return {when: {number: one['name'] for number, one in json.loads(message.data)['instances'].items()
                       if one['anomalous']} for _, when, message in reader.messages([SCENARIO])}


def measure(bags: Sequence[Path], database: Path, settings: SnapshotSettings) -> None:
    """Prints the table."""
    judge = Judge.load(MethodSettings(), database)
    everything = Kept('everything')
    seconds = unknown = 0.0
    with tempfile.TemporaryDirectory() as scratch:
        rules = [Rule(Kept('every alarm'), Snapshots(settings), None),
                 Rule(Kept('what is new'), Snapshots(settings), Novelty(judge, Path(scratch)))]
        for bag in bags:
            truth, state = anomalies(bag), CameraState()
            for rule in rules:  # bag times of another recording
                rule.snapshots = Snapshots(settings)
            with BagReader(bag) as reader, BagReader(bag) as raw:
                topics = [topic for topic in reader.topics if not topic.startswith(PREFIX)]
                messages = raw.raw(topics)
                pending = next(messages, None)
                first = last = pending[2] if pending else 0
                for frame in tqdm(reader.images(), total=reader.counts[reader.image_topic()], desc=bag.name):
                    while pending and pending[2] <= frame.received_ns:
                        topic, type, when, cdr = pending
                        for rule in rules:
                            rule.snapshots.ring.add(Message(topic, type, when, when, bytes(cdr)))
                        everything.bytes += len(cdr)
                        pending = next(messages, None)
                    result = judge.process(frame, state)
                    unknown += result.verdict is Verdict.UNKNOWN
                    for rule in rules:
                        if result.anomalous:
                            rule.alarm([one.track_id for one in result.anomalies], frame.received_ns, frame)
                        rule.end(frame.received_ns, truth, bag.name)
                    last = frame.received_ns
                for rule in rules:
                    rule.end(last + 10**12, truth, bag.name)
            seconds += (last - first) / 1e9
            for named in truth.values():
                everything.kinds |= set(named.values())
                everything.things |= {(bag.name, number) for number in named}
        print(f'{seconds:.0f} s in {len(bags)} recordings, {unknown:.0f} frames unknown\n\n'
              '| kept | snapshots | MB | kinds in view | things in view | MB for each kind |\n'
              '|---|---|---|---|---|---|')
        for kept in (everything, *(rule.kept for rule in rules)):
            each = f'{kept.bytes / 1e6 / len(kept.kinds):.1f}' if kept.kinds else ''
            print(f'| {kept.name} | {kept.snapshots or ""} | {kept.bytes / 1e6:.1f} | {len(kept.kinds)} | '
                  f'{len(kept.things)} | {each} |')


def main() -> None:
    """Runs it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('bags', type=Path, nargs='+')
    parser.add_argument('--database', type=Path, required=True)
    parser.add_argument('--before', type=float, default=2.0, help='seconds (default 2)')
    parser.add_argument('--after', type=float, default=2.0, help='seconds (default 2)')
    arguments = parser.parse_args()
    try:
        measure(arguments.bags, arguments.database,
                SnapshotSettings(before=arguments.before, after=arguments.after, per_hour=3600))
    except SemanomError as error:
        parser.exit(2, f'{error}\n')


if __name__ == '__main__':
    main()
