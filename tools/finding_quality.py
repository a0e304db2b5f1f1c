"""How well `semanom find` and `semanom mine` do on simulated drives, whose ground truth says what each frame shows.

    python -m tools.finding_quality find --index INDEX --pictures BAG
    python -m tools.finding_quality mine BAG... --database DIR
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from semanom_ros.core.frames import Frame
from semanom_ros.core.pipeline import Judge
from semanom_ros.core.progress import SILENT
from semanom_ros.errors import SemanomError
from semanom_ros.finding.clips import JOIN_NS, Clip, find
from semanom_ros.finding.embedded_recordings import EmbeddedRecordings, embedder_for
from semanom_ros.finding.mining import Candidate, Mined, greedy, survey
from semanom_ros.finding.questions import Likeness, Question, inside, words
from semanom_ros.recordings.bags import BagReader
from semanom_ros.recordings.ground_truth import INSTANCES, SCENARIO
from semanom_ros.recordings.images import labels_from_message, stamp_ns
from semanom_ros.settings import MethodSettings

ASKED = ('a cow standing on the road', 'a deer standing on the road', 'a tree lying across the road',
         'a car lying on its side on the road', 'a cyclist on the roof of a car', 'a flooded road',
         'a construction site on the pavement')
LEAST_PIXELS = 400  # of a thing that a picture is to show
DRAWS = 1000


def shown(bag: Path) -> dict[int, dict[str, dict]]:
    """What each frame shows, by its stamp: instances by their numbers."""
    with BagReader(bag) as reader:
        return {time_ns: json.loads(message.data)['instances'] for _, time_ns, message in reader.messages([SCENARIO])}


def stretches(stamps: Sequence[int]) -> int:
    """In how many stretches frames lie that follow each other by JOIN_NS at most."""
    return int(bool(stamps)) + int((np.diff(sorted(stamps)) > JOIN_NS).sum())


def picture_of(bag: Path, caption: str) -> tuple[Frame, tuple[int, int, int, int]] | None:
    """The frame that shows a thing largest, and its box."""
    truth, best = shown(bag), (LEAST_PIXELS, 0, (0, 0, 0, 0))
    with BagReader(bag) as reader:
        for _, _, message in reader.messages([INSTANCES]):
            stamp = stamp_ns(message)
            labels = labels_from_message(message)
            for number, instance in truth.get(stamp, {}).items():
                mask = labels == int(number)
                if instance['caption'] == caption and (pixels := int(mask.sum())) > best[0]:
                    y, x = np.nonzero(mask)
                    best = pixels, stamp, (int(x.min()), int(y.min()), int(np.ptp(x)) + 1, int(np.ptp(y)) + 1)
        frame = next(reader.images(wanted=lambda _, stamp: stamp == best[1]), None)
    return None if frame is None else (frame, best[2])


def measure_find(index: Path, pictures: Sequence[Path]) -> None:
    """Prints a line for each thing: the share of the first clips that show it, by words and by a picture."""
    recordings = EmbeddedRecordings([], [index])
    embedder = embedder_for(MethodSettings())
    truth = {sha256: shown(Path(path)) for sha256, path in recordings.sources().items()}
    print('| looked for | stretches that show it | among the first so many (10 at most): words | first | picture | '
          'first |\n|---|---|---|---|---|---|')
    for caption in ASKED:
        own = {sha256: [stamp for stamp, instances in frames.items()
                        if any(one['caption'] == caption for one in instances.values())]
               for sha256, frames in truth.items()}
        there = min(10, sum(map(stretches, own.values())))

        def right(clip: Clip, own: dict[str, list[int]] = own) -> bool:
            return any(clip.start_ns <= stamp <= clip.end_ns for stamp in own[clip.record.source_sha256])

        cells = []
        shot = next(filter(None, (picture_of(bag, caption) for bag in pictures)), None)
        questions: list[Question | None] = [words(caption, embedder, index), None]
        if shot is not None:
            frame, box = shot
            queries = embedder.queries(embedder.embed([frame])[0])
            questions[1] = Likeness(caption, queries.vectors.cpu().numpy()[inside(queries.boxes, box)], frame.size)
        for question in questions:
            if question is None:
                cells += ['no picture', '']
                continue
            hits = [right(clip) for clip in find(recordings, question, 50)]
            first = hits.index(True) + 1 if any(hits) else None
            cells += [f'{sum(hits[:there])} of {there}', str(first or 'beyond 50')]
        print(f'| {caption} | {sum(map(stretches, own.values()))} | {" | ".join(cells)} |', flush=True)


def measure_mine(bags: Sequence[Path], database: Path, rate: float) -> None:
    """Prints how many different anomalies are in view in the first so many frames: mined, by score alone, at random."""
    judge = Judge.load(MethodSettings().changed({'false_alarm_rate': rate}), database)
    everything: list[Candidate] = []
    truth: dict[str, dict[int, dict[str, dict]]] = {}
    for bag in bags:
        with BagReader(bag) as reader:
            truth[str(reader.path)] = shown(bag)
    found = survey(bags, judge, '', 10**9, frozenset(), [], SILENT, everything.append)
    mined = greedy(found.candidates, Mined(judge.database), 10**9)
    by_score = sorted(everything, key=lambda one: -one.score)

    def things(source: str, stamp: int) -> set[tuple[str, str]]:
        return {(source, number) for number, one in truth[source][stamp].items() if one['anomalous']}

    def count(chosen: Sequence[Candidate]) -> int:
        return len(set().union(*(things(one.evidence.record.source, one.evidence.record.stamp_ns) for one in chosen)))

    frames = [(source, stamp) for source, known in truth.items() for stamp in known]
    generator = np.random.default_rng(0)
    print(f'{len(frames)} frames, {found.flagged} above the alarm level, '
          f'{len(set().union(*(things(*frame) for frame in frames)))} anomalies; mined until nothing new is left: '
          f'{len(mined)}\n\n| frames | mined | by score alone | at random |\n|---|---|---|---|')
    for size in sorted({size for size in (5, 10, 20, len(mined)) if size <= len(mined)}):
        chance = [len(set().union(*(things(*frames[place]) for place in generator.choice(len(frames), size, False))))
                  for _ in range(DRAWS)]
        print(f'| {size} | {count(mined[:size])} | {count(by_score[:size])} | {np.mean(chance):.1f} |')


def main() -> None:
    """Runs one of both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_subparsers(dest='what', required=True)
    finding = what.add_parser('find')
    finding.add_argument('--index', type=Path, required=True)
    finding.add_argument('--pictures', type=Path, nargs='+', required=True, metavar='BAG',
                         help='drives that are not in the index, for pictures to look for')
    mining = what.add_parser('mine')
    mining.add_argument('bags', type=Path, nargs='+')
    mining.add_argument('--database', type=Path, required=True)
    mining.add_argument('--false-alarm-rate', type=float, default=0.01)
    arguments = parser.parse_args()
    try:
        if arguments.what == 'find':
            measure_find(arguments.index, arguments.pictures)
        else:
            measure_mine(arguments.bags, arguments.database, arguments.false_alarm_rate)
    except SemanomError as error:
        parser.exit(2, f'{error}\n')


if __name__ == '__main__':
    main()
