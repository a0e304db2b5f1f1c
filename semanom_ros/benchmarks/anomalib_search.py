"""Scoring a frame whose patch features are ready, in anomalib's AnomalyDINO and here."""

from __future__ import annotations

import importlib
import logging
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
import torch
from torch import nn

from semanom_ros.benchmarks.figures import Found
from semanom_ros.benchmarks.machine import free_memory
from semanom_ros.benchmarks.memory import in_own_process, peak_mb
from semanom_ros.benchmarks.plan import Plan
from semanom_ros.benchmarks.synthetic_database import database_of, indexed, key, queries_of
from semanom_ros.benchmarks.timing import in_turn, summary, synchronize
from semanom_ros.core.database.nominal_database import NominalDatabase
from semanom_ros.core.embedding.embedder import Embedder

log = logging.getLogger(__name__)


def against_anomalib(plan: Plan, embedder: Embedder, found: Found) -> None:
    """anomalib's time over ours, on one memory bank; and the peak memory of either in a process of its own.

    Both find the nearest neighbour of every patch, the mean of the highest 1 % as the frame's score,
    and an anomaly map of the encoder's input size.
    """
    queries, device = queries_of(embedder), embedder.encoder.device
    grid = embedder.encoder.grid_size
    patch_size = embedder.encoder.input_size[0] // grid[0]
    try:
        _anomaly_dino(queries, patch_size)
    except ImportError as error:
        log.info('anomalib: not measured (%s); pip install anomalib', error)
        return
    for size in plan.sizes:
        needed, available = 3 * 4 * len(queries) * size, free_memory(device)
        if needed > available:
            log.info('anomalib %s: not measured, its distance matrices need %.1f GB and %.1f GB are free', key(size),
                     needed / 1e9, available / 1e9)
            continue
        path = database_of(plan.scratch, embedder, size)
        if device.type == 'cpu':
            indexed(path)
        theirs, ours = _Theirs(path, queries, grid, patch_size), _Ours(path, queries, grid, patch_size)
        times = in_turn({'theirs': theirs, 'ours': ours}, plan.few, f'anomalib {key(size)}')
        found.put_ratio(f'anomalib_over_ours.{key(size)}', times['theirs'], times['ours'])
        about: dict[str, Any] = {'score_difference': abs(theirs.score - ours.score),
                                 **{name: summary(values) for name, values in times.items()}}
        if device.type == 'cpu':
            peaks = {side.__name__: in_own_process(_peak, side, path, queries, grid, patch_size)
                     for side in (_Theirs, _Ours)}
            about |= {'theirs_peak_mb': round(peaks['_Theirs'], 1), 'ours_peak_mb': round(peaks['_Ours'], 1)}
            found.put('anomalib_memory_over_ours', round(peaks['_Theirs'] / peaks['_Ours'], 3))
        found.details.setdefault('anomalib', {})[key(size)] = about


class _Ours:
    """A frame scored here; `score` is the last."""

    def __init__(self, path: Path, queries: torch.Tensor, grid: tuple[int, int], patch_size: int) -> None:
        self._database = NominalDatabase.open(path, device=queries.device, verify=False)
        self._queries, self._grid = queries, grid
        self._size = grid[1] * patch_size, grid[0] * patch_size
        self.score = 0.0

    def __call__(self) -> None:
        distances = self._database.search(self._queries)[0][:, 0]
        top = max(1, len(distances) // 100)
        self.score = float(np.partition(distances, -top)[-top:].mean())
        cv2.resize(distances.reshape(self._grid), self._size, interpolation=cv2.INTER_LINEAR)


class _Theirs:
    """The same in anomalib."""

    def __init__(self, path: Path, queries: torch.Tensor, grid: tuple[int, int], patch_size: int) -> None:
        self._model = _anomaly_dino(queries, patch_size)
        database = NominalDatabase.open(path, verify=False)
        bank = np.concatenate([frame.vectors for frame in database.frames()])
        self._model.memory_bank = torch.from_numpy(bank).to(queries.device)
        self._picture = torch.zeros(1, 3, grid[0] * patch_size, grid[1] * patch_size, device=queries.device)
        self.score = 0.0

    def __call__(self) -> None:
        with torch.inference_mode():
            self.score = float(self._model(self._picture).pred_score)
        synchronize(self._picture.device)


class _Ready(nn.Module):
    """Stands where anomalib has its DINOv2: the patch features are there already, the same for both."""

    def __init__(self, queries: torch.Tensor, patch_size: int) -> None:
        super().__init__()
        self.queries, self.patch_size = queries, patch_size

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {'blocks.11': self.queries[None]}


def _peak(side: type[_Ours] | type[_Theirs], path: Path, queries: torch.Tensor, grid: tuple[int, int],
          patch_size: int) -> float:
    scored = side(path, queries, grid, patch_size)
    for _ in range(3):
        scored()
    return peak_mb()


def _anomaly_dino(queries: torch.Tensor, patch_size: int) -> Any:
    module = importlib.import_module('anomalib.models.image.anomaly_dino.torch_model')
    with mock.patch.object(module, 'TimmFeatureExtractor', return_value=_Ready(queries, patch_size)):
        return module.AnomalyDINOModel().eval().to(queries.device)
