"""Whole methods here and in anomalib: quality, latency and memory on one drive with one encoder."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
import torch
from torch import nn

from semanom_ros.benchmarks.figures import Found
from semanom_ros.benchmarks.memory import in_own_process, peak_mb
from semanom_ros.benchmarks.plan import Plan
from semanom_ros.core.embedding.embedder import Embedder
from semanom_ros.core.frames import Frame
from semanom_ros.core.progress import SILENT
from semanom_ros.core.results import FrameResult, ScoreMap, Verdict
from semanom_ros.evaluation.baselines.patchcore_baseline import CORESET_SHARE, PatchCoreMethod
from semanom_ros.evaluation.detectors import Detectors, Method, Ranked, Row
from semanom_ros.evaluation.measurement import rounded
from semanom_ros.evaluation.replay import Topics, replay
from semanom_ros.parameters import Value
from semanom_ros.recordings.bags import BagReader
from semanom_ros.recordings.nominal_recording import record_bags
from semanom_ros.settings import Settings
from semanom_ros.simulation import simulate
from semanom_ros.simulation.drive_bag import write_bag

log = logging.getLogger(__name__)

NOMINAL_SEED, DRIVE_SEED = 101, 202
EVERY_N = 5
"""Of the nominal frames so many-th are recorded: anomalib's coreset takes time by the square of their number."""

ANOMALY_DINO: dict[str, Value] = {
    'variant': 'grid', 'neighbours': 1, 'density_neighbours': 0, 'position_weight': 0.0, 'scale_weight': 0.0,
    'standardize': False, 'calibrate_by_region': False, 'plausibility': False}
"""Our settings for what AnomalyDINO does (S. Damm et al., WACV 2025), beside the mean of the highest 1 %."""


def compare(plan: Plan, out: Found) -> None:
    """AnomalyDINO and PatchCore through anomalib and through ours, and ours as it is by default.

    Each in a process of its own, on the same simulated drives, with the same frames recorded and the same encoder;
    latency is from the picture to the frame's score and map of patches (anomalib's enlarged). Without anomalib its
    rows are missing.
    """
    nominal, drive = plan.scratch / 'simulated-nominal', plan.scratch / 'simulated-drive'
    write_bag(simulate(NOMINAL_SEED, EVERY_N * plan.frames, False), nominal)
    write_bag(simulate(DRIVE_SEED, 5 * plan.frames, True), drive)
    found: dict[str, Any] = {}
    scores: dict[str, list[float]] = {}
    for name in METHODS:
        if name.startswith('anomalib') and importlib.util.find_spec('anomalib') is None:
            log.info('%s: not measured; pip install anomalib', name)
            continue
        found[name], scores[name] = in_own_process(
            _measure, name, nominal, drive, plan.scratch / f'method-{len(found)}', plan.settings)
    different = None
    if 'anomalib AnomalyDINO' in scores:
        pairs = zip(scores['anomalib AnomalyDINO'], scores['semanom AnomalyDINO'], strict=True)
        different = max(abs(theirs - ours) for theirs, ours in pairs)
    out.details['methods'] = {'nominal_frames': plan.frames, 'test_frames': 5 * plan.frames, 'rows': found,
                              'score_difference': different}


def _measure(name: str, nominal: Path, drive: Path, folder: Path, settings: Settings
             ) -> tuple[dict[str, Any], list[float]]:
    """Figures of one method, and its raw frame scores."""
    if name.startswith('anomalib'):
        importlib.import_module('anomalib.models')
    embedder = Embedder.load(settings.method.changed({'variant': 'grid'}))
    embedder.encoder.warm_up()
    before, begin = peak_mb(), time.perf_counter()
    method = METHODS[name](embedder, nominal, folder, settings.changed({'every_n': EVERY_N, 'append': False}))
    ready, learned = time.perf_counter() - begin, peak_mb()
    row = method.rows[0]
    figures = replay([drive], [method], row, folder / 'replay', Topics()).measurements[row]
    metrics = figures.metrics()
    content = {
        **{group: metrics[group] for group in ('frame', 'pixel', 'latency_ms')}, **method.details(),
        'nominal_s': ready, 'encoder_mb': before, 'nominal_peak_mb': learned, 'peak_mb': peak_mb()}
    return rounded(content), figures.frames['raw_score'].tolist()


def _ours(embedder: Embedder, nominal: Path, folder: Path, settings: Settings) -> Method:
    record_bags([nominal], folder / 'database', settings.changed({'variant': 'grid'}), SILENT, embedder)
    return Detectors(settings.method, [folder / 'database'], ('grid',), (False,), embedder)


def _ours_as_anomaly_dino(embedder: Embedder, nominal: Path, folder: Path, settings: Settings) -> Method:
    patches = embedder.encoder.grid_size[0] * embedder.encoder.grid_size[1]
    share = max(1, int(0.01 * patches)) / patches
    return _ours(embedder, nominal, folder, settings.changed(
        {**ANOMALY_DINO, 'frame_score_fraction': share, 'held_out_share': 0.0}))


def _ours_as_patchcore(embedder: Embedder, nominal: Path, folder: Path, settings: Settings) -> Method:
    own = settings.changed({**ANOMALY_DINO, 'held_out_share': 0.0})
    record_bags([nominal], folder / 'database', own, SILENT, embedder)
    return PatchCoreMethod(settings.method, [folder / 'database'], embedder.encoder, folder / 'coreset')


class _Features(nn.Module):
    """Stands where anomalib has its feature extractor: our encoder, under the name of the layer that is asked for."""

    def __init__(self, embedder: Embedder, layer: str, as_tokens: bool) -> None:
        super().__init__()
        self._encoder, self._layer, self._as_tokens = embedder.encoder, layer, as_tokens
        self.patch_size = self._encoder.input_size[0] // self._encoder.grid_size[0]

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        patches = self._encoder.encode(images)
        return {self._layer: patches.flatten(1, 2) if self._as_tokens else patches.permute(0, 3, 1, 2)}


class AnomalibMethod:
    """A model of anomalib as a row of the table, without a verdict: anomalib takes thresholds from known anomalies.

    Attributes:
        rows: one.
        false_alarm_rate: none.
    """

    def __init__(self, name: str, model: Any, embedder: Embedder, nominal: Path, settings: Settings) -> None:
        """
        Args:
            name: of the row.
            model: takes images in training, then `fitted`; afterwards gives `pred_score` and `anomaly_map`.
            embedder: the model's features come from its encoder.
            nominal: recording.
            settings: which frames are taken.
        """
        self.rows: tuple[Row, ...] = (Row('grid', baseline=name),)
        self.false_alarm_rate: float | None = None
        self._model, self._embedder = model.to(embedder.encoder.device), embedder
        self._model.train()
        with BagReader(nominal) as reader, torch.no_grad():
            for number, frame in enumerate(reader.images(reader.image_topic(''))):
                if number % settings.recorder.every_n == 0:
                    self._model(embedder.preprocessor([frame.image]))
            if hasattr(self._model, 'fit'):
                self._model.fit()
            else:
                self._model.subsample_embedding(CORESET_SHARE)
        self._model.eval()

    def process(self, frame: Frame) -> list[Ranked]:
        """The verdict on the next frame."""
        begin = time.perf_counter()
        with torch.inference_mode():
            found = self._model(self._embedder.preprocessor([frame.image]))
            score, pixels = float(found.pred_score), found.anomaly_map[0, 0].float().cpu().numpy()
        milliseconds = (time.perf_counter() - begin) * 1e3
        height, width = frame.image.shape[:2]
        enlarged = np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
        result = FrameResult(frame.stamp_ns, frame.camera, (height, width), score, score, 1.0, float('inf'),
                             Verdict.NOMINAL, ScoreMap.of_pixels(enlarged), float('inf'))
        return [Ranked(result, score, enlarged, milliseconds)]

    def reset(self) -> None:
        """Nothing is kept between frames."""

    def details(self) -> dict[str, Any]:
        """How many nominal vectors it compares with."""
        return {'vectors': len(self._model.memory_bank)}


def _anomalib_dino(embedder: Embedder, nominal: Path, folder: Path, settings: Settings) -> Method:
    module = importlib.import_module('anomalib.models.image.anomaly_dino.torch_model')
    features = _Features(embedder, 'blocks.11', as_tokens=True)
    with mock.patch.object(module, 'TimmFeatureExtractor', return_value=features):
        return AnomalibMethod('AnomalyDINO', module.AnomalyDINOModel(), embedder, nominal, settings)


def _anomalib_patchcore(embedder: Embedder, nominal: Path, folder: Path, settings: Settings) -> Method:
    module = importlib.import_module('anomalib.models.image.patchcore.torch_model')
    torch.manual_seed(0)  # its coreset begins at a random point
    with mock.patch.object(module, 'TimmFeatureExtractor', return_value=_Features(embedder, 'patches', False)):
        return AnomalibMethod('PatchCore', module.PatchcoreModel(('patches',)), embedder, nominal, settings)


METHODS: dict[str, Callable[[Embedder, Path, Path, Settings], Method]] = {
    'semanom AnomalyDINO': _ours_as_anomaly_dino, 'anomalib AnomalyDINO': _anomalib_dino,
    'semanom PatchCore': _ours_as_patchcore, 'anomalib PatchCore': _anomalib_patchcore,
    'semanom grid, as by default': _ours}
