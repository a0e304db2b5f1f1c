"""The steps of `semanom demo`, which need PyTorch and ROS."""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import cv2
from tqdm import tqdm

from semanom_ros.commands.demo_folder import DemoFolder
from semanom_ros.commands.options import given_parameters
from semanom_ros.commands.side_by_side import side_by_side
from semanom_ros.core.embedding.embedder import Embedder
from semanom_ros.evaluation.detectors import VARIANTS, Detectors, Row
from semanom_ros.evaluation.live_run import LiveRun, facts_of, run_live
from semanom_ros.evaluation.metric_table import short_table
from semanom_ros.evaluation.replay import CameraTopics, Topics
from semanom_ros.evaluation.result_bag import NODE, PREFIX
from semanom_ros.evaluation.runner import SCORES, evaluate
from semanom_ros.evaluation.video import write_moving_picture, write_video
from semanom_ros.recordings.bags import BagReader
from semanom_ros.recordings.images import image_from_compressed, stamp_ns
from semanom_ros.ros.outputs import ANOMALIES, OVERLAY_JPEG
from semanom_ros.settings import EncoderSettings, Settings
from semanom_ros.simulation.drive import RATE
from semanom_ros.simulation.drive_bag import CAMERA, image_topic, truth_topic

VIDEO, MOVING_PICTURE = 'overlay.mp4', 'overlay.webp'
_SETTINGS = 'parameters.yaml'
# Its nominal distances are the same all over the picture. At 10 Hz the filter takes single frames back.
_TINY_SETTINGS = {'false_alarm_rate': 0.05}
_TEST_SEED = 1000  # added to the seed: another town
_PICTURES = 12
_BEFORE_NS, _AFTER_NS = 2_500_000_000, 3_500_000_000  # of the moment when an anomaly is noticed, in the moving picture
_LIVE = Row('grid', filtered=True)  # what the live detector is
_MOUNTS = {'front': 0, 'left': -40, 'right': 40}  # degrees to the right, where there are several cameras
_NOMINAL_EVERY = round(RATE)  # one picture a second: a database wants variety, not every frame


def run(arguments: argparse.Namespace) -> int:
    """Simulates, records, detects live, evaluates, and says where the report is."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the detector is stopped on the way out
    begun = time.monotonic()
    given = given_parameters(arguments)
    if given.get('encoder', EncoderSettings().name) == EncoderSettings().name:
        given = {**_TINY_SETTINGS, **given}
    settings = Settings.of(given)
    embedder = Embedder.load(settings.method.changed({'variant': 'instance'}))
    folder = DemoFolder(arguments.output)
    nominal, test = folder.path / 'recordings' / 'nominal_drive', folder.path / 'recordings' / 'test_drive'
    databases = [folder.path / 'databases' / variant for variant in VARIANTS]
    mounts = {CAMERA: 0} if arguments.cameras == 1 else dict(list(_MOUNTS.items())[:arguments.cameras])
    images = {camera: f'{image_topic(camera)}/compressed' for camera in mounts}
    drives = [arguments.seed, arguments.nominal_seconds, arguments.seconds, mounts]
    made_with = [*drives, settings.values(), repr(embedder.description)]
    first = next(iter(mounts))
    folder.clear(recordings=drives, databases=made_with)
    parameters = folder.path / _SETTINGS
    parameters.write_text(json.dumps({'/**': {'ros__parameters': settings.values()}}, ensure_ascii=False, indent=1))

    with _step(1, 'simulate a nominal drive, and one with anomalies through another town'):
        if folder.begin('recordings'):
            rig = [word for camera, turn in mounts.items() for word in ('--camera', f'{camera}={turn}')]
            side_by_side([
                ['simulate', nominal, '--seed', arguments.seed, '--every', _NOMINAL_EVERY,
                 '--frames', _frames(arguments.nominal_seconds, _NOMINAL_EVERY), *rig],
                ['simulate', test, '--seed', arguments.seed + _TEST_SEED, '--anomalies',
                 '--frames', _frames(arguments.seconds), *rig]])
            folder.end('recordings', drives)
    with _step(2, 'record the nominal drive: a database of patches and one of instances'):
        if folder.begin('databases'):
            side_by_side([['record', nominal, '--database', database, '--config', parameters,
                           '--set', f'variant={database.name}', '--image-topic', *images.values()]
                          for database in databases])
            folder.end('databases', made_with)
    with _step(3, 'play the other drive to the detector, a lifecycle node in a process of its own'):
        live = facts_of(_watch(test, images, databases[0], settings, folder.path / 'live'))
        for name, value in live.items():
            print(f'      {name}: {value}')
    with _step(4, 'evaluate the same recording offline, every frame'):
        write_video(folder.path / 'live', f'{NODE}/{first}/{OVERLAY_JPEG.name}', folder.path / VIDEO)
        detectors = Detectors(settings.method, databases, (), (False, True), embedder)
        topics = Topics(tuple(CameraTopics(topic, truth_topic(camera)) for camera, topic in images.items()))
        content = evaluate([test], detectors, folder.path / 'evaluation', topics, settings=settings, shown=_LIVE,
                           video=folder.path / VIDEO, live=live)
    with _step(5, 'pictures'):
        _write_overlays(folder.path / 'live', first, folder.path / 'overlays')
        for file in (folder.path / 'evaluation').iterdir():
            file.rename(folder.path / file.name)
        (folder.path / 'evaluation').rmdir()
        moment = noticed_moment(folder.path / SCORES, _LIVE)
        if moment:
            bag, *span = moment
            write_moving_picture(folder.path / 'bags' / bag, PREFIX + OVERLAY_JPEG.name,
                                 folder.path / MOVING_PICTURE, *span)
    rows = [(Row(row['variant'], row['filter']).name, row) for row in content['results']]
    rows += [(f'{recording["name"].removeprefix(test.name + "_")}: {_LIVE.name}', row)
             for recording in content['recordings'] for row in recording['results']
             if (row['variant'], row['filter']) == (_LIVE.variant, _LIVE.filtered)]
    print(f'\n{short_table(rows)}\n')
    for name, path in (('report', 'report.html'), ('video', VIDEO), ('moving picture', MOVING_PICTURE),
                       ('pictures', 'overlays'), ('live result bag', 'live'), ('metrics', 'metrics.json')):
        if (folder.path / path).exists():
            print(f'{name:16s} {folder.path / path}')
    print(f'{time.monotonic() - begun:.0f} s altogether')
    return 0


def noticed_moment(scores: Path, row: Row) -> tuple[str, int, int] | None:
    """Recording, first and last stamp in nanoseconds, round the longest run of frames that show an anomaly and are
    flagged.

    Args:
        scores: scores.csv of an evaluation.
        row: by whose verdicts.

    Returns:
        None where no anomaly was noticed.
    """
    with open(scores, newline='') as file:
        own = [line for line in csv.DictReader(file) if (line['variant'], line['filter'], line['baseline']) == (
            row.variant, str(int(row.filtered)), row.baseline)]
    runs = [list(lines) for (noticed, _), lines in itertools.groupby(
        own, lambda line: (line['truth'] == '1' and line['alarm'] == '1', line['bag'])) if noticed]
    if not runs:
        return None
    first = max(runs, key=len)[0]
    return first['bag'], int(first['stamp_ns']) - _BEFORE_NS, int(first['stamp_ns']) + _AFTER_NS


def _frames(seconds: float, every: int = 1) -> int:
    return max(1, round(seconds * RATE / every))


def _watch(bag: Path, images: Mapping[str, str], database: Path, settings: Settings, target: Path
           ) -> dict[str, LiveRun]:
    with BagReader(bag) as reader:
        frames = sum(reader.counts[topic] for topic in images.values())
    with tqdm(total=frames, desc='live', unit='frame', file=sys.stderr, disable=None) as bar:
        return run_live(bag, images, database, settings.changed({'variant': 'grid'}), target,
                        lambda published: bar.update(published - bar.n))


def _write_overlays(bag: Path, camera: str, folder: Path) -> None:
    """The overlays of a camera's highest scores, at least two seconds apart, as the detector published them."""
    with BagReader(bag) as reader:
        scores = {stamp_ns(message): message.score
                  for _, _, message in reader.messages([f'{NODE}/{camera}/{ANOMALIES.name}'])}
        chosen: list[int] = []
        for stamp in sorted(scores, key=lambda stamp: -scores[stamp]):
            if len(chosen) < _PICTURES and all(abs(stamp - other) > 2e9 for other in chosen):
                chosen.append(stamp)
        folder.mkdir()
        for _, _, message in reader.messages([f'{NODE}/{camera}/{OVERLAY_JPEG.name}']):
            stamp = stamp_ns(message)
            if stamp in chosen:
                seconds = (stamp - min(scores)) / 1e9
                picture = cv2.cvtColor(image_from_compressed(message), cv2.COLOR_RGB2BGR)
                cv2.imwrite(str(folder / f'{chosen.index(stamp) + 1:02d}_at_{seconds:05.1f}_s.png'), picture)


@contextmanager
def _step(number: int, what: str) -> Iterator[None]:
    print(f'[{number}/5] {what}', flush=True)
    begun = time.monotonic()
    yield
    print(f'      {time.monotonic() - begun:.0f} s', flush=True)
