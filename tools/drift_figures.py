"""How soon the drift monitor speaks, and how often it should not: figures and a plot on simulated drives.

`python -m tools.drift_figures --output DIR` records a nominal drive in the sun, follows other drives through the same
town and one through another, prints a line for each and draws the evidence over time (`drift.png`). Everything goes
through the package's own recorder and pipeline, a frame a second.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from semanom_ros.core.curation import operations
from semanom_ros.core.drift.drift_monitor import Drift, DriftState
from semanom_ros.core.drift.drift_reference import sample_of
from semanom_ros.core.frames import Frame
from semanom_ros.core.pipeline import CameraState, Judge
from semanom_ros.core.progress import SILENT
from semanom_ros.recordings.nominal_recording import record_bags
from semanom_ros.settings import Settings
from semanom_ros.simulation import simulate
from semanom_ros.simulation.camera_faults import CameraFault
from semanom_ros.simulation.drive import RATE
from semanom_ros.simulation.drive_bag import write_bag

TOWN, OTHER_TOWN = 2101, 2102
EVERY = round(RATE)  # frames of the simulation from one that is drawn to the next: a second
ONSET_S = 30.0
_WIDTH, _HEIGHT, _MARGIN = 1200, 230, 54


@dataclass(frozen=True)
class Followed:
    """A drive.

    Attributes:
        name: for people.
        options: of `simulate`, besides the number of frames.
        onset_s: when it begins to be unlike the nominal drives; None: it never does.
        plotted: whether it is drawn.
    """

    name: str
    options: dict[str, Any]
    onset_s: float | None = None
    plotted: bool = False


def drives(nominal: int) -> list[Followed]:
    """All drives, `nominal` nominal ones and as many with anomalies among them."""
    sun: dict[str, Any] = {'anomalies': False, 'weather': 'sun', 'town': TOWN}
    found = [Followed(f'nominal {k}', {**sun, 'seed': 2200 + k}, plotted=k == 0) for k in range(nominal)]
    found += [Followed(f'anomalies {k}', {**sun, 'seed': 2300 + k, 'anomalies': True}, plotted=k == 0)
              for k in range(nominal)]
    found += [Followed(weather, {**sun, 'seed': 2400, 'weather': weather}, 0.0, weather == 'rain')
              for weather in ('dusk', 'rain', 'fog')]
    found.append(Followed('camera turned by 3 degrees',
                          {**sun, 'seed': 2410, 'fault': CameraFault(turn=3.0, start=ONSET_S)}, ONSET_S, True))
    found.append(Followed('camera turned by 10 degrees',
                          {**sun, 'seed': 2411, 'fault': CameraFault(turn=10.0, start=ONSET_S)}, ONSET_S))
    found += [Followed(f'dirty lens {k}',  # where the dirt is, is the seed's
                       {**sun, 'seed': 2420 + k, 'fault': CameraFault(dirt=0.1, start=ONSET_S)}, ONSET_S, k == 1)
              for k in range(3)]
    found.append(Followed('another town', {'anomalies': False, 'weather': 'sun', 'seed': OTHER_TOWN}, 0.0))
    return found


def database(folder: Path, seconds: int, settings: Settings) -> Path:
    """Records the nominal drive, unless the folder is there already."""
    if not folder.exists():
        with tempfile.TemporaryDirectory() as scratch:
            bag = Path(scratch) / 'nominal'
            write_bag(tqdm(simulate(TOWN, seconds, False, weather='sun', every=EVERY), total=seconds, desc='nominal'),
                      bag)
            record_bags([bag], folder, settings, SILENT)
    elif Judge.load(settings.method, folder).drift_reference is None:
        operations.calibrate(folder)
    return folder


def follow(judge: Judge, drive: Followed, seconds: int) -> list[tuple[float, Drift]]:
    """What is said at each second."""
    state, said = CameraState(), []
    frames = simulate(frames=seconds, every=EVERY, **drive.options)
    for number, shown in enumerate(tqdm(frames, total=seconds, desc=drive.name, leave=False, disable=None)):
        result = judge.process(Frame(shown.image, shown.stamp_ns), state)
        said.append((float(number), result.drift))
    return said


def line(drive: Followed, said: list[tuple[float, Drift]], start_ns: int) -> str:
    """A row of the table."""
    drifting = [(second, drift) for second, drift in said if drift.state is DriftState.DRIFTING]
    strongest = max(drift.strength for _, drift in said)
    if not drifting:
        verdict = 'never said'
    else:
        second, drift = drifting[0]
        since = (drift.since_ns - start_ns) / 1e9
        delay = '' if drive.onset_s is None else f' (delay {second - drive.onset_s:.0f} s)'
        verdict = f'said at {second:.0f} s{delay}, since {since:.0f} s, {drift.what}; {len(drifting) / len(said):.0%}'
    return f'{drive.name:30}{strongest:7.2f}  {verdict}'


def plot(path: Path, curves: list[tuple[Followed, list[tuple[float, Drift]]]], level: float) -> None:
    """Evidence over time, one below the other."""
    low, high = -3.0, 6.0
    canvas = np.full((_HEIGHT * len(curves), _WIDTH, 3), 255, np.uint8)
    for row, (drive, said) in enumerate(curves):
        top, bottom = row * _HEIGHT + 30, (row + 1) * _HEIGHT - 34
        seconds = [second for second, _ in said]

        def x(second: float, last: float = max(seconds)) -> int:
            return round(_MARGIN + (_WIDTH - 2 * _MARGIN) * second / last)

        def y(value: float, top: int = top, bottom: int = bottom) -> int:
            return round(bottom - (bottom - top) * (float(np.clip(value, low, high)) - low) / (high - low))

        for value in range(int(low), int(high) + 1, 3):
            cv2.line(canvas, (_MARGIN, y(value)), (_WIDTH - _MARGIN, y(value)), (225, 225, 225), 1)
            _text(canvas, f'{value}', 20, y(value) + 5)
        for second in range(0, int(max(seconds)) + 1, 30):
            _text(canvas, f'{second} s', x(second) - 10, bottom + 20)
        cv2.line(canvas, (_MARGIN, y(-np.log10(level))), (_WIDTH - _MARGIN, y(-np.log10(level))), (60, 60, 200), 1)
        if drive.onset_s:
            cv2.line(canvas, (x(drive.onset_s), top), (x(drive.onset_s), bottom), (180, 140, 40), 1)
        points = np.array([(x(second), y(drift.strength)) for second, drift in said], np.int32)
        cv2.polylines(canvas, [points], False, (110, 90, 30), 2, cv2.LINE_AA)
        for second, drift in said:
            if drift.state is DriftState.DRIFTING:
                cv2.circle(canvas, (x(second), y(drift.strength)), 3, (40, 40, 210), -1, cv2.LINE_AA)
        what = next((drift.what for _, drift in said if drift.state is DriftState.DRIFTING), 'like the nominal drives')
        _text(canvas, f'{drive.name}: {what}', _MARGIN, row * _HEIGHT + 20, 0.55)
        _text(canvas, 'log10 of the evidence; red: drifting is said', _WIDTH - _MARGIN - 300, row * _HEIGHT + 20)
    cv2.imwrite(str(path), canvas)


def _text(canvas: np.ndarray, text: str, x: int, y: int, size: float = 0.42) -> None:
    cv2.putText(canvas, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, size, (40, 40, 40), 1, cv2.LINE_AA)


def cost_ms(judge: Judge, repeats: int = 200) -> tuple[float, float]:
    """Milliseconds of one sample, and of one frame at RATE: of RATE frames one is looked at."""
    reference, rng = judge.drift_reference, np.random.default_rng(0)
    rows, columns = judge.database.manifest.description.grid_size
    positions = rng.random((rows * columns, 2), np.float32)
    distances = rng.random(rows * columns, np.float32)
    nearest = rng.integers(0, len(judge.database), rows * columns)
    monitor, begin = CameraState().drift, time.perf_counter()
    for second in range(repeats):
        monitor.update(reference, 0.05, second * 1_000_000_000, lambda second=second: sample_of(
            distances + second % 7, positions, judge.database.positions_of(nearest)))
    sample = (time.perf_counter() - begin) / repeats * 1e3
    return sample, sample / RATE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--output', type=Path, required=True, help='folder for the database, the table and the plot')
    parser.add_argument('--recorded', type=int, default=600, help='seconds of the nominal drive (default 600)')
    parser.add_argument('--seconds', type=int, default=180, help='of every other drive (default 180)')
    parser.add_argument('--nominal', type=int, default=3, help='nominal drives, and drives with anomalies (default 3)')
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    settings = Settings()
    judge = Judge.load(settings.method, database(arguments.output / 'database', arguments.recorded, settings))
    reference, level = judge.drift_reference, settings.method.drift.level
    if reference is None:
        raise SystemExit('; '.join(judge.warnings))
    start_ns = next(simulate(0, 1, False)).stamp_ns
    lines = [f'{reference.frames} nominal samples, {reference.minutes:.1f} minutes; drift_level {level:g} in an hour: '
             f'said from {-np.log10(level):.2f} on', f'{"drive":30}highest  what was said']
    curves = []
    for drive in drives(arguments.nominal):
        said = follow(judge, drive, arguments.seconds)
        lines.append(line(drive, said, start_ns))
        print(lines[-1], flush=True)
        if drive.plotted:
            curves.append((drive, said))
    lines.append('cost: {:.3f} ms for a sample, {:.3f} ms for each of {:g} frames a second'.format(
        *cost_ms(judge), RATE))
    text = '\n'.join(lines) + '\n'
    (arguments.output / 'drift.txt').write_text(text)
    print(text)
    plot(arguments.output / 'drift.png', curves, level)


if __name__ == '__main__':
    main()
