"""The search of one frame in large nominal databases, over the forward pass."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from semanom_ros.benchmarks.figures import Found
from semanom_ros.benchmarks.given_embeddings import embedder_of, frames_of
from semanom_ros.benchmarks.plan import Plan, forward_pass
from semanom_ros.benchmarks.synthetic_database import database_of, drive_of, indexed, key, queries_of
from semanom_ros.benchmarks.timing import in_turn, summary
from semanom_ros.core.database.nominal_database import NominalDatabase
from semanom_ros.core.embedding.embedder import Embedder
from semanom_ros.core.frames import Frame
from semanom_ros.core.pipeline import CameraState, Judge

_CHUNK = 1 << 17  # vectors that are compared exactly at once


def search(plan: Plan, embedder: Embedder, found: Found) -> None:
    """The stage `search` of consecutive frames of one camera, in databases of each size, over the forward pass.

    The frames go through the whole pipeline behind the encoder, since level and memory decide how far a search must go;
    on the CPU large databases have an index as `semanom db index` builds it. Beside it the same frame's search without
    either (`alone`), an exact one, and the error of the distances.
    """
    device, forward = embedder.encoder.device, forward_pass(embedder)
    given = embedder_of(embedder, drive_of(embedder, plan.repeats + 1))
    settings, queries = plan.settings.method.changed({'standardize': False, 'variant': 'grid'}), queries_of(embedder)
    for size in plan.sizes:
        path = database_of(plan.scratch, embedder, size)
        if device.type == 'cpu':
            indexed(path)
        database = NominalDatabase.open(path, settings.search, device=device, verify=False)
        pipeline = _Pipeline(Judge(given, database, settings), frames_of(given, plan.repeats + 1))

        def alone(database: NominalDatabase = database) -> None:
            database.search(queries)

        times = in_turn({'forward': forward, 'pipeline': pipeline, 'alone': alone}, plan.repeats, f'search {key(size)}')
        found.put_ratio(f'search_over_forward.{key(size)}', pipeline.searched[1:], times['forward'])
        begin = time.perf_counter()
        exact = _exact(database, queries)
        seconds = time.perf_counter() - begin
        errors, index = np.abs(database.search(queries)[0][:, 0] - exact), database.manifest.index
        found.details.setdefault('search', {})[key(size)] = {
            'queries': len(queries), 'dimension': queries.shape[1], 'forward': summary(times['forward']),
            'search': summary(pipeline.searched[1:]), 'alone': summary(times['alone']),
            'exact_once_ms': round(1e3 * seconds, 1),
            'index': None if index is None else index.factory, 'nprobe': None if index is None else index.nprobe,
            'distance_error_mean': float(errors.mean()), 'distance_error_p99': float(np.quantile(errors, 0.99))}


class _Pipeline:
    """A drive through the pipeline, a frame a call; `searched` are the milliseconds of each search."""

    def __init__(self, judge: Judge, frames: list[Frame]) -> None:
        self._judge, self._state = judge, CameraState()
        self._frames: Iterator[Frame] = iter(frames)
        self.searched: list[float] = []

    def __call__(self) -> None:
        self.searched.append(self._judge.process(next(self._frames), self._state).timings_ms['search'])


def _exact(database: NominalDatabase, queries: torch.Tensor) -> Any:
    """(M,) cosine distance of each query to the nearest of all embeddings, by matrix products."""
    nearest, chunk, waiting = torch.full((len(queries),), -1.0, device=queries.device), [], 0
    frames = database.frames()
    for number, frame in enumerate(frames):
        chunk.append(torch.from_numpy(np.array(frame.vectors)))
        waiting += len(frame.vectors)
        if waiting >= _CHUNK or number == len(frames) - 1:
            products = queries @ torch.cat(chunk).to(queries.device).T
            nearest, chunk, waiting = torch.maximum(nearest, products.amax(dim=1)), [], 0
    return (1 - nearest).cpu().numpy()
