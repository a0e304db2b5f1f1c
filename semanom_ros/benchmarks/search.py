"""Search in large nominal databases, and the same in anomalib."""

from __future__ import annotations

import importlib
import logging
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from tqdm import tqdm

from semanom_ros.benchmarks.plan import Plan, forward_pass, in_turn, ratio, summary, synchronize
from semanom_ros.core.curation.operations import build_index
from semanom_ros.core.curation.publishing import NPROBE, IndexSettings, Recipe, suggested_factory
from semanom_ros.core.curation.writer import DatabaseWriter
from semanom_ros.core.database.nominal_database import INDEXED_FROM, PLAIN, NominalDatabase
from semanom_ros.core.database.storage import FrameRecord, NominalAddition
from semanom_ros.core.embedding.embedder import Embedder
from semanom_ros.core.embedding.preprocessing import PatchGrid
from semanom_ros.core.embedding.queries import patch_boxes

log = logging.getLogger(__name__)

_CENTRES = 4096
_SPREAD = 0.5  # length of the noise on a centre of length 1


def key(size: int) -> str:
    """`1e5` for 100000, as in bench.json."""
    mantissa, exponent = f'{size:.15e}'.split('e')
    return f'{float(mantissa):g}e{int(exponent)}'


def search(plan: Plan, embedder: Embedder) -> dict[str, Any]:
    """One frame's queries against databases of each size, over the forward pass.

    On the CPU large databases have an index as `semanom db index` builds it; exact search is timed
    beside it. The vectors are clustered as patch embeddings are, but they are not real ones.
    """
    ratios: dict[str, float] = {}
    details: dict[str, Any] = {}
    forward, queries = forward_pass(embedder), _queries(embedder)
    for size in plan.sizes:
        path = _database(plan, embedder, size)
        exact = NominalDatabase.open(path, device=embedder.encoder.device, verify=False)
        functions: dict[str, Callable[[], object]] = {'forward': forward, 'exact': _searching(exact, queries)}
        fast, about = 'exact', dict[str, Any](queries=len(queries), dimension=queries.shape[1])
        if exact.device.type == 'cpu' and size >= INDEXED_FROM:
            indexed = _indexed(path, size)
            fast, functions['indexed'] = 'indexed', _searching(indexed, queries)
            errors = np.abs(indexed.search(queries)[0] - exact.search(queries)[0])
            about |= {'index': suggested_factory(size), 'nprobe': NPROBE, 'distance_error_mean': float(errors.mean()),
                      'distance_error_p99': float(np.quantile(errors, 0.99))}
        times = in_turn(functions, plan.repeats, f'search {key(size)}')
        ratios[key(size)] = ratio(times[fast], times['forward'])
        details[key(size)] = about | {name: summary(values) for name, values in times.items()}
    return {'search_over_forward': ratios, 'details': {'search': details}}


def against_anomalib(plan: Plan, embedder: Embedder) -> dict[str, Any]:
    """Scoring a frame whose patch features are ready: anomalib's AnomalyDINO over ours, on one memory bank.

    Both find the nearest neighbour of every patch, the mean of the highest 1 % as the frame's score,
    and an anomaly map of the encoder's input size.
    """
    queries = _queries(embedder)
    try:
        model = _anomaly_dino(embedder, queries)
    except ImportError as error:
        log.info('anomalib: not measured (%s); pip install anomalib', error)
        return {}
    ratios: dict[str, float] = {}
    details: dict[str, Any] = {}
    device, (rows, columns) = embedder.encoder.device, embedder.encoder.grid_size
    height, width = rows * model.patch_size, columns * model.patch_size
    picture = torch.zeros(1, 3, height, width, device=device)
    for size in plan.sizes:
        needed, available = 3 * 4 * len(queries) * size, _free_memory(device)
        if needed > available:
            log.info('anomalib %s: not measured, its distance matrices need %.1f GB and %.1f GB are free', key(size),
                     needed / 1e9, available / 1e9)
            continue
        path = _database(plan, embedder, size)
        if device.type == 'cpu' and size >= INDEXED_FROM:
            _indexed(path, size)
        database = NominalDatabase.open(path, device=device, verify=False)
        bank = np.concatenate([frame.vectors for frame in database.frames()])
        model.memory_bank = torch.from_numpy(bank).to(device)
        scores: dict[str, float] = {}

        def theirs(scores: dict[str, float] = scores) -> None:
            with torch.inference_mode():
                scores['theirs'] = float(model(picture).pred_score)
            synchronize(device)

        def ours(scores: dict[str, float] = scores, database: NominalDatabase = database) -> None:
            distances = database.search(queries)[0][:, 0]
            top = max(1, len(distances) // 100)
            scores['ours'] = float(np.partition(distances, -top)[-top:].mean())
            cv2.resize(distances.reshape(rows, columns), (width, height), interpolation=cv2.INTER_LINEAR)

        times = in_turn({'theirs': theirs, 'ours': ours}, plan.repeats, f'anomalib {key(size)}')
        ratios[key(size)] = ratio(times['theirs'], times['ours'])
        details[key(size)] = {'score_difference': abs(scores['theirs'] - scores['ours']),
                              **{name: summary(values) for name, values in times.items()}}
    return {'anomalib_over_ours': ratios, 'details': {'anomalib': details}}


class _Ready(nn.Module):
    """Stands where anomalib has its DINOv2: the patch features are there already, the same for both."""

    def __init__(self, queries: torch.Tensor, patch_size: int) -> None:
        super().__init__()
        self.queries, self.patch_size = queries, patch_size

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {'blocks.11': self.queries[None]}


def _anomaly_dino(embedder: Embedder, queries: torch.Tensor) -> Any:
    module = importlib.import_module('anomalib.models.image.anomaly_dino.torch_model')
    encoder = embedder.encoder
    ready = _Ready(queries, encoder.input_size[0] // encoder.grid_size[0])
    with mock.patch.object(module, 'TimmFeatureExtractor', return_value=ready):
        return module.AnomalyDINOModel().eval().to(encoder.device)


def _searching(database: NominalDatabase, queries: torch.Tensor) -> Callable[[], object]:
    return lambda: database.search(queries)


def _indexed(path: Path, size: int) -> NominalDatabase:
    """The database with its index."""
    database = NominalDatabase.open(path, verify=False)
    if database.manifest.index is not None:
        return database
    with tqdm(desc=f'index {key(size)}', total=1, leave=False, disable=None):
        build_index(path, IndexSettings(suggested_factory(size)), Recipe(PLAIN))
    return NominalDatabase.open(path, verify=False)


def _database(plan: Plan, embedder: Embedder, size: int) -> Path:
    """A nominal database of `size` clustered vectors, made where it is not there yet."""
    path = plan.scratch / f'database-{key(size)}'
    if path.exists():
        return path
    grid = PatchGrid(*embedder.encoder.grid_size, 720, 1280)
    boxes, positions = patch_boxes(grid), grid.centres()
    frames = math.ceil(size / len(boxes))
    with DatabaseWriter.begin(path, embedder.description) as writer:
        for number, vectors in enumerate(tqdm(_clustered(embedder, frames), desc=f'database {key(size)}', total=frames,
                                              leave=False, disable=None)):
            kept = min(len(boxes), size - number * len(boxes))
            record = FrameRecord('benchmark', '0' * 64, '/camera/image_raw', number * 100_000_000, (720, 1280))
            writer.add(NominalAddition(record, vectors[:kept], boxes[:kept], positions[:kept]))
        writer.commit()
    return path


def _queries(embedder: Embedder) -> torch.Tensor:
    """One frame's queries, near the vectors of the databases but none of them."""
    return torch.from_numpy(next(_clustered(embedder, 1, seed=1))).to(embedder.encoder.device)


def _clustered(embedder: Embedder, frames: int, seed: int = 2) -> Iterator[npt.NDArray[np.float32]]:
    """(patches, D) float32 of unit length for each frame: centres, the same for every seed, with noise."""
    rows, columns = embedder.encoder.grid_size
    dimension = embedder.encoder.dimension
    centres = np.random.default_rng(0).standard_normal((_CENTRES, dimension), np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    generator = np.random.default_rng(seed)
    for _ in range(frames):
        noise = generator.standard_normal((rows * columns, dimension), np.float32)
        vectors = centres[generator.integers(0, _CENTRES, len(noise))] + noise * (_SPREAD / math.sqrt(dimension))
        yield vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _free_memory(device: torch.device) -> int:
    """Bytes."""
    if device.type == 'cuda':
        return torch.cuda.mem_get_info(device)[0]
    lines = Path('/proc/meminfo').read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith('MemAvailable'))
