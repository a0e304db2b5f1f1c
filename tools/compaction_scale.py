"""How long compaction takes, and how far what it drops lies from what it keeps, against the number of embeddings.

`python -m tools.compaction_scale --database DIR --output DIR [--sizes 1e4 1e5 1e6 1e7]` makes sets of embeddings of a
recorded database: its own, as a vehicle would record them that drives the same streets again and again. Each time every
embedding is a little different. They are turned into more dimensions, which changes no distance among them, and lie in
half precision in one file: those of single precision are never in memory at once. Where it is quick enough, the exact
greedy k-centre is made of the same, and the memory bank of anomalib's MH-PatchCore by its own code (`pip install
anomalib`).
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from semanom_ros.benchmarks.machine import machine
from semanom_ros.benchmarks.memory import in_own_process, peak_mb
from semanom_ros.benchmarks.synthetic_database import key
from semanom_ros.core.curation.reduction import measured, ranking
from semanom_ros.core.database.points import Points
from semanom_ros.core.database.published import read_manifest
from semanom_ros.errors import SemanomError

_BLOCK = 1 << 14  # embeddings read at a time
_JITTER, _JITTER_SIGMA = 2e-3, 1.0  # distance between two looks at the same thing: median, and spread of its logarithm
_GREEDY = 5e8  # embeddings times those kept up to which the exact greedy k-centre is made
_BANK = 2e8  # and the memory bank of MH-PatchCore
_WIDTH, _HEIGHT, _MARGIN = 460, 480, 64
_TOP = 160  # for the names of the lines
_COLOURS = (('#1f4e79', '#72b7b2', '#e45756', '#f2a93b'), ('#54a24b', '#b7d9a8', '#b279a2', '#9d755d'))


class HalfPrecisionFile:
    """Embeddings in a file, half precision on the disk, of unit length and single precision when they are read."""

    def __init__(self, path: Path, dimension: int) -> None:
        self.path = path
        self.shape = path.stat().st_size // (2 * dimension), dimension

    def blocks(self) -> Iterator[tuple[int, torch.Tensor]]:
        """In order."""
        count, dimension = self.shape
        with open(self.path, 'rb', buffering=0) as file:
            for start in range(0, count, _BLOCK):
                rows = min(_BLOCK, count - start)
                half = torch.from_numpy(np.fromfile(file, np.float16, rows * dimension).reshape(rows, dimension))
                yield start, torch.nn.functional.normalize(half.float(), dim=1)


class First:
    """The first of some points."""

    def __init__(self, points: Points, count: int) -> None:
        self._points = points
        self.shape = count, points.shape[1]

    def blocks(self) -> Iterator[tuple[int, torch.Tensor]]:
        """In order."""
        for start, block in self._points.blocks():
            if start >= self.shape[0]:
                return
            yield start, block[:self.shape[0] - start]


def write_embeddings(database: Path, path: Path, count: int, dimension: int) -> None:
    """A file of so many embeddings, see above; one that is there already stays.

    The order is that of drives: all embeddings of the database, then all of them once more.
    """
    if path.exists() and path.stat().st_size >= 2 * count * dimension:
        return
    manifest = read_manifest(database)
    own = manifest.description.dimension
    base = np.concatenate([np.fromfile(database / part.name / 'vectors.f32', '<f4').reshape(-1, own)
                           for part in manifest.parts])
    square = np.random.default_rng(0).standard_normal((dimension, own))
    turn = torch.from_numpy(np.linalg.qr(square)[0].T.astype(np.float32))  # (own, dimension), its rows at right angles
    generator = torch.Generator().manual_seed(1)
    with open(path, 'wb') as file:
        for start in tqdm(range(0, count, _BLOCK), desc='embeddings', unit_scale=_BLOCK):
            rows = np.arange(start, min(start + _BLOCK, count)) % len(base)
            vectors = torch.from_numpy(base[rows]) @ turn
            length = (2 * _JITTER * torch.exp(_JITTER_SIGMA * torch.randn(len(rows), 1, generator=generator))).sqrt()
            vectors += torch.randn(vectors.shape, generator=generator) * (length / math.sqrt(dimension))
            file.write(torch.nn.functional.normalize(vectors, dim=1).half().numpy().tobytes())


def compaction(path: Path, dimension: int, count: int, share: float, distance: float) -> dict[str, Any]:
    """What a compaction takes and gives; in a process of its own, for its memory."""
    points = First(HalfPrecisionFile(path, dimension), count)
    size = max(1, round(share * count))
    idle, begun, used = peak_mb(), time.perf_counter(), _cpu_s()
    ranked = ranking(points, distance, size, progress=_Told())
    ranked_s = time.perf_counter() - begun
    kept = ranked.first(size)
    near = measured(points, ranked, kept, progress=_Told())
    return {'vectors': count, 'kept': len(kept), 'cells': int(ranked.cell_of.max()) + 1, 'radius': float(near.max()),
            'mean': float(near.mean(dtype=np.float64)), 'p99': float(np.quantile(near, 0.99)),
            'seconds': time.perf_counter() - begun, 'of_that_measured_s': time.perf_counter() - begun - ranked_s,
            'cpu_seconds': _cpu_s() - used, 'peak_mb': peak_mb(), 'before_mb': idle,
            'single_precision_mb': 4e-6 * count * dimension, 'load_average': _load()}


def exact_greedy(path: Path, dimension: int, count: int, share: float) -> dict[str, Any]:
    """The same of the exact greedy k-centre: all embeddings in memory, one cell."""
    from semanom_ros.core.curation import reduction

    reduction.WHOLE = count
    points, size = First(HalfPrecisionFile(path, dimension), count), max(1, round(share * count))
    begun, used = time.perf_counter(), _cpu_s()
    ranked = ranking(points, 0.0, size)
    near = measured(points, ranked, ranked.first(size))
    return {'radius': float(near.max()), 'mean': float(near.mean(dtype=np.float64)),
            'seconds': time.perf_counter() - begun, 'cpu_seconds': _cpu_s() - used, 'peak_mb': peak_mb()}


def merge_reduce(path: Path, dimension: int, count: int, share: float) -> dict[str, Any] | None:
    """The same of anomalib's MergeReduceMemoryBank, with blocks that may keep as much as the bank; None: not here."""
    try:
        from anomalib.models.image.mh_patchcore.components import MergeReduceMemoryBank
    except ImportError:
        return None
    points, size = First(HalfPrecisionFile(path, dimension), count), max(1, round(share * count))
    begun, used = time.perf_counter(), _cpu_s()
    bank = MergeReduceMemoryBank(memory_bank_size=size, local_coreset_size=size)
    for _, block in points.blocks():
        bank.update(block)
    bank.finalize()
    seconds, cpu = time.perf_counter() - begun, _cpu_s() - used
    kept = bank.bank.float()
    near = torch.cat([((2 - 2 * (block @ kept.T).amax(dim=1)) / 2).clamp(min=0) for _, block in points.blocks()])
    return {'radius': float(near.max()), 'mean': float(near.double().mean()), 'kept': len(kept), 'seconds': seconds,
            'cpu_seconds': cpu, 'peak_mb': peak_mb()}


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _load() -> float:
    return float(Path('/proc/loadavg').read_text().split()[0])


class _Told:
    """Bars."""

    def begin(self, what: str, total: int, unit: str) -> None:
        self._bar = tqdm(desc=what, total=total, unit=unit, mininterval=20, unit_scale=True)

    def advance(self, amount: int) -> None:
        self._bar.update(amount)

    def end(self) -> None:
        self._bar.close()


def chart(results: Sequence[Mapping[str, Any]]) -> str:
    """Time, bound and memory against size, both axes logarithmic, as SVG; of results of several dimensions."""
    times, radii, memory = [], [], []
    for found, colours in zip(results, _COLOURS, strict=False):
        rows, suffix = found['sizes'], f', {found["dimension"]} dimensions'
        times.append(('this' + suffix, colours[0], _line(rows, 'cpu_seconds')))
        radii += [('this' + suffix, colours[0], _line(rows, 'radius')),
                  ('this, mean' + suffix, colours[1], _line(rows, 'mean'))]
        memory += [('peak' + suffix, colours[0], _line(rows, 'peak_mb')),
                   ('embeddings in fp32' + suffix, colours[1], _line(rows, 'single_precision_mb'))]
        for name, key_of, colour in (('exact greedy', 'greedy', colours[2]),
                                     ('MH-PatchCore', 'merge_reduce', colours[3])):
            known = [{**one[key_of], 'vectors': one['vectors']} for one in rows if one.get(key_of)]
            if known:
                times.append((name + suffix, colour, _line(known, 'cpu_seconds')))
                radii.append((name + suffix, colour, _line(known, 'radius')))
    panels = (('Compaction, seconds of one core', times), ('Distance of dropped embeddings: largest, mean', radii),
              ('Memory, MB', memory))
    drawn = [_panel(index * _WIDTH, title, lines) for index, (title, lines) in enumerate(panels)]
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {len(panels) * _WIDTH} {_HEIGHT}" '
            'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="#fff"/>\n'
            + '\n'.join(drawn) + '\n</svg>\n')


def _line(rows: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    return [(one['vectors'], one[name]) for one in rows]


def _panel(left: float, title: str, lines: list[tuple[str, str, list[tuple[float, float]]]]) -> str:
    points = [point for _, _, line in lines for point in line if point[1] > 0]
    (x0, x1), (y0, y1) = ((math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))))
                          for values in zip(*points, strict=True))
    x1, y1 = max(x1, x0 + 1), max(y1, y0 + 1)

    def place(x: float, y: float) -> tuple[float, float]:
        return (left + _MARGIN + (math.log10(x) - x0) / (x1 - x0) * (_WIDTH - _MARGIN - 24),
                _HEIGHT - 44 - (math.log10(y) - y0) / (y1 - y0) * (_HEIGHT - _TOP - 44))

    shapes = [f'<text x="{left + _MARGIN}" y="20" font-size="14" font-weight="bold">{title}</text>']
    for exponent in range(x0, x1 + 1):
        x, bottom = place(10.0 ** exponent, 10.0 ** y0)
        top = place(10.0 ** exponent, 10.0 ** y1)[1]
        shapes.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}" stroke="#ddd"/>'
                      f'<text x="{x:.1f}" y="{bottom + 16:.1f}" text-anchor="middle">1e{exponent}</text>')
    for exponent in range(y0, y1 + 1):
        x, y = place(10.0 ** x0, 10.0 ** exponent)
        end = place(10.0 ** x1, 10.0 ** exponent)[0]
        shapes.append(f'<line x1="{x:.1f}" x2="{end:.1f}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>'
                      f'<text x="{x - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">1e{exponent}</text>')
    shapes.append(f'<text x="{left + _WIDTH / 2:.1f}" y="{_HEIGHT - 8}" text-anchor="middle">embeddings</text>')
    for number, (name, colour, line) in enumerate(lines):
        placed = [place(*point) for point in line if point[1] > 0]
        path = ' '.join(f'{x:.1f},{y:.1f}' for x, y in placed)
        shapes.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        shapes += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>' for x, y in placed]
        shapes.append(f'<text x="{left + _MARGIN + 8}" y="{40 + 15 * number}" fill="{colour}">{name}</text>')
    return '\n'.join(shapes)


def measure(database: Path, output: Path, scratch: Path, sizes: list[int], dimension: int, share: float,
            distance: float) -> None:
    """Writes compaction_<dimension>.json after each size, and compaction.svg of all such files there."""
    output.mkdir(parents=True, exist_ok=True)
    path = scratch / f'embeddings-{dimension}.f16'
    write_embeddings(database, path, max(sizes), dimension)
    result = output / f'compaction_{dimension}.json'
    found: dict[str, Any] = {'machine': machine(torch.device('cpu')), 'dimension': dimension, 'share': share,
                             'distance': distance, 'jitter': _JITTER, 'sizes': []}
    for count in sizes:
        one = in_own_process(compaction, path, dimension, count, share, distance)
        if share * count * count <= _GREEDY:
            one['greedy'] = in_own_process(exact_greedy, path, dimension, count, share)
        if share * count * count <= _BANK:
            one['merge_reduce'] = in_own_process(merge_reduce, path, dimension, count, share)
        found['sizes'].append(one)
        result.write_text(json.dumps(found, indent=1) + '\n')
        print(key(count), json.dumps(one))
    draw(output)


def draw(output: Path) -> None:
    """The picture of all results in a folder, those of most dimensions first."""
    results = [json.loads(path.read_text()) for path in output.glob('compaction_*.json')]
    (output / 'compaction.svg').write_text(chart(sorted(results, key=lambda one: -one['dimension'])))


def main() -> None:
    """Runs it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--database', type=Path, required=True, help='recorded database')
    parser.add_argument('--output', type=Path, required=True)
    parser.add_argument('--scratch', type=Path, help='folder for the embeddings, 2 bytes a number (default: temporary)')
    parser.add_argument('--sizes', type=float, nargs='+', default=[1e4, 1e5, 1e6, 1e7])
    parser.add_argument('--dimension', type=int, default=384)
    parser.add_argument('--share', type=float, default=0.01, help='of the embeddings that is kept (default 0.01)')
    parser.add_argument('--distance', type=float, default=1e-3, help='of near duplicates (default 0.001)')
    arguments = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as temporary:
            measure(arguments.database, arguments.output, arguments.scratch or Path(temporary),
                    [round(size) for size in arguments.sizes], arguments.dimension, arguments.share,
                    arguments.distance)
    except SemanomError as error:
        parser.exit(2, f'{error}\n')


if __name__ == '__main__':
    main()
