"""The steps of `semanom demo`, which need PyTorch and ROS."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
from tqdm import tqdm

from semanom_ros.commands.options import given_parameters
from semanom_ros.commands.progress_bars import Bars
from semanom_ros.core.embedding.embedder import Embedder
from semanom_ros.errors import SemanomError
from semanom_ros.evaluation.detectors import VARIANTS, Detectors, Row
from semanom_ros.evaluation.live_run import LiveRun, run_live
from semanom_ros.evaluation.metric_table import short_table
from semanom_ros.evaluation.result_bag import PREFIX
from semanom_ros.evaluation.runner import evaluate
from semanom_ros.evaluation.video import write_video
from semanom_ros.recordings.bags import BagReader
from semanom_ros.recordings.images import image_from_compressed, stamp_ns
from semanom_ros.recordings.nominal_recording import record_bags
from semanom_ros.ros.outputs import ANOMALIES, OVERLAY_JPEG
from semanom_ros.settings import EncoderSettings, Settings
from semanom_ros.simulation import simulate
from semanom_ros.simulation.drive import RATE
from semanom_ros.simulation.drive_bag import write_bag

MARKER = '.semanom_demo'
# Its nominal distances are the same all over the picture. At 10 Hz the filter takes single frames back.
_TINY_SETTINGS = {'false_alarm_rate': 0.05}
_TEST_SEED = 1000  # added to the seed: another town
_PICTURES = 12
_LIVE = Row('grid', filtered=True)  # what the live detector is
_NOMINAL_EVERY = round(RATE)  # one picture a second: a database wants variety, not every frame


def run(arguments: argparse.Namespace) -> int:
    """Simulates, records, detects live, evaluates, and says where the report is."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the detector is stopped on the way out
    begun = time.monotonic()
    given = given_parameters(arguments)
    if given.get('encoder', EncoderSettings().name) == EncoderSettings().name:
        given = {**_TINY_SETTINGS, **given}
    settings = Settings.of(given)
    folder = _begin(arguments.output)
    nominal, test = folder / 'recordings' / 'nominal_drive', folder / 'recordings' / 'test_drive'

    with _step(1, 'simulate a nominal drive, and one with anomalies through another town'):
        _simulate(nominal, arguments.seed, arguments.nominal_seconds, False, _NOMINAL_EVERY)
        _simulate(test, arguments.seed + _TEST_SEED, arguments.seconds, True, 1)
    with _step(2, 'record the nominal drive: a database of patches and one of instances'):
        databases, embedder = _record(nominal, folder / 'databases', settings)
    with _step(3, 'play the other drive to the detector, a lifecycle node in a process of its own'):
        live = _watch(test, databases[0], settings, folder / 'live')
        for name, value in live.facts().items():
            print(f'      {name}: {value}')
    with _step(4, 'evaluate the same recording offline, every frame'):
        write_video(folder / 'live', PREFIX + OVERLAY_JPEG.name, folder / 'overlay.mp4')
        detectors = Detectors(settings.method, databases, (), (False, True), embedder)
        content = evaluate([test], detectors, folder / 'evaluation', settings=settings, shown=_LIVE,
                           video=folder / 'overlay.mp4', live=live.facts())
    with _step(5, 'pictures'):
        _write_overlays(folder / 'live', folder / 'overlays')
        for file in (folder / 'evaluation').iterdir():
            file.rename(folder / file.name)
        (folder / 'evaluation').rmdir()
    rows = [(Row(row['variant'], row['filter']).name, row) for row in content['results']]
    print(f'\n{short_table(rows)}\n')
    for name, path in (('report', 'report.html'), ('video', 'overlay.mp4'), ('pictures', 'overlays'),
                       ('live result bag', 'live'), ('metrics', 'metrics.json')):
        print(f'{name:16s} {folder / path}')
    print(f'{time.monotonic() - begun:.0f} s altogether')
    return 0


def _begin(output: Path) -> Path:
    """The empty output folder; an earlier demo's is cleared.

    Raises:
        SemanomError: something else is there.
    """
    folder = output.absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if not (folder / MARKER).is_file():
            raise SemanomError(f'{output}: found something that is no demo, expected an empty or new folder; give '
                               'another --output')
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).touch()
    return folder


def _simulate(path: Path, seed: int, seconds: float, anomalies: bool, every: int) -> None:
    frames = max(1, round(seconds * RATE / every))
    drive = simulate(seed, frames, anomalies, every=every)
    write_bag(tqdm(drive, total=frames, desc=path.name, unit='frame', file=sys.stderr, disable=None), path)


def _record(nominal: Path, folder: Path, settings: Settings) -> tuple[list[Path], Embedder]:
    """A database for each variant, and the embedder of the instance variant."""
    embedder = Embedder.load(settings.method.changed({'variant': 'instance'}))
    for variant in VARIANTS:
        own = embedder if variant == embedder.variant else embedder.without_segments()
        record_bags([nominal], folder / variant, settings.changed({'variant': variant}), Bars(), own)
    return [folder / variant for variant in VARIANTS], embedder


def _watch(bag: Path, database: Path, settings: Settings, target: Path) -> LiveRun:
    with BagReader(bag) as reader:
        topic = reader.image_topic()
        frames = reader.counts[topic]
    with tqdm(total=frames, desc='live', unit='frame', file=sys.stderr, disable=None) as bar:
        return run_live(bag, topic, database, settings.changed({'variant': 'grid'}), target,
                        lambda published: bar.update(published - bar.n))


def _write_overlays(bag: Path, folder: Path) -> None:
    """The overlays of the highest scores, at least two seconds apart, as the detector published them."""
    with BagReader(bag) as reader:
        scores = {stamp_ns(message): message.score for _, _, message in reader.messages([PREFIX + ANOMALIES.name])}
        chosen: list[int] = []
        for stamp in sorted(scores, key=lambda stamp: -scores[stamp]):
            if len(chosen) < _PICTURES and all(abs(stamp - other) > 2e9 for other in chosen):
                chosen.append(stamp)
        folder.mkdir()
        for _, _, message in reader.messages([PREFIX + OVERLAY_JPEG.name]):
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
