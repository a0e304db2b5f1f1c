"""`semanom db compact`: fewer vectors that stand for all, as many as a vehicle has room and time for."""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from semanom_ros.commands.db import compacted
from semanom_ros.commands.options import recipe_with, settings_of, settings_with
from semanom_ros.commands.progress_bars import Bars
from semanom_ros.core.curation import operations
from semanom_ros.core.curation.budget import Budget, Choice, Fitting
from semanom_ros.core.curation.publishing import read_recipe
from semanom_ros.core.database.index_file import coordinates
from semanom_ros.core.database.manifest import RECORDED, Manifest
from semanom_ros.core.database.published import read_calibration
from semanom_ros.core.embedding.device import resolve_device
from semanom_ros.core.embedding.embedder import Embedder
from semanom_ros.core.scoring.calibration import Calibration
from semanom_ros.errors import ParameterError
from semanom_ros.evaluation.detectors import Detectors
from semanom_ros.evaluation.replay import CameraTopics, Topics
from semanom_ros.evaluation.runner import METRICS, SCORES, evaluate


def compact(arguments: argparse.Namespace, before: Manifest, done: Callable[[Manifest], None]) -> Iterator[str]:
    """Compacts as the options say, and yields what there is to say about it, line by line.

    Args:
        arguments: of the command.
        before: the current version.
        done: is told the new version, as soon as there is one: what is measured afterwards may be interrupted.

    Raises:
        SemanomError: there is nothing to go by, a budget cannot be met, or a recording will not do.
    """
    path, size = arguments.database, arguments.size
    budgeted = arguments.budget_mb is not None or arguments.budget_ms is not None
    if arguments.share is not None:
        size = max(1, round(arguments.share * before.vectors))
    if not arguments.distance and size is None and not budgeted:
        raise ParameterError('compact: found nothing to go by, expected --distance, --size, --share, --budget-mb or '
                             '--budget-ms')
    if not budgeted and arguments.device != 'cpu':
        raise ParameterError(f'compact: found --device {arguments.device} and no budget, expected --budget-mb or '
                             '--budget-ms beside it; give one, or leave --device out')
    recipe, fitting = recipe_with(path, arguments), None
    if budgeted:
        device = resolve_device(arguments.device)
        recipe = replace(recipe or read_recipe(path), device=device)
        fitting = Fitting(Budget(arguments.budget_mb, arguments.budget_ms, device), recipe, Bars())
        recorded = sum(part.vectors for part in before.parts if part.kind == RECORDED)
        most = fitting.most(recorded, before.description.dimension + coordinates(recipe.search))
        size = most if size is None else min(size, most)
    if arguments.truth_topic and not arguments.check_bag:
        raise ParameterError(f'compact: found --truth-topic {arguments.truth_topic} and no recording, expected '
                             '--check-bag beside it; give one, or leave --truth-topic out')
    checked = _Check(arguments)
    was = checked.evaluated()
    scores = _nominal_scores(path, before)
    manifest = operations.compact(path, distance=arguments.distance, size=size, fit=fitting, recipe=recipe,
                                  progress=Bars())
    done(manifest)
    for line in compacted(manifest):
        yield f'  {line}'
    if manifest.learned is not None:
        yield ('  what semanom learn has learned stays as it was learned, with the distances to all embeddings; from '
               'frames that were compacted it cannot be learned anew')
    if fitting is not None:
        yield from _tried(fitting)
    rate = settings_of(arguments).method.alarm.false_alarm_rate
    yield from _verdicts(scores, _nominal_scores(path, manifest), rate)
    yield from checked.compared(was, checked.evaluated())


def _tried(fitting: Fitting) -> list[str]:
    """What was measured for a budget."""
    lines = [f'  search for all {fitting.patches:,} patches of a frame, on this machine; distances of nominal frames '
             'are too large by (mean, 99 %)']

    def line(one: Choice) -> str:
        mark = '->' if one is fitting.chosen else '  '
        how = 'all, exactly' if not one.index.nprobe else f'{one.index.factory}, nprobe {one.index.nprobe}'
        return (f'  {mark} {one.codes:10} {one.vectors:>11,} vectors {one.megabytes:>9,.1f} MB '
                f'{one.milliseconds:>8.2f} ms  {one.error_mean:.2g} {one.error_p99:.2g}  {how}'
                + ('' if one.fits else ' (too slow)'))

    return lines + [line(one) for one in fitting.tried]


def _nominal_scores(path: Path, manifest: Manifest) -> tuple[Calibration, dict[tuple[int, int], float]] | None:
    """Frame scores of a calibration, by stream and stamp; None where there is none."""
    arrays = read_calibration(path, manifest)
    if not arrays:
        return None
    keys = zip(arrays['frame_streams'].tolist(), arrays['frame_stamps'].tolist(), strict=True)
    return Calibration.from_arrays(arrays), dict(zip(keys, arrays['frame_scores'].tolist(), strict=True))


def _verdicts(before: tuple[Calibration, dict[tuple[int, int], float]] | None,
              after: tuple[Calibration, dict[tuple[int, int], float]] | None, rate: float) -> list[str]:
    """How verdicts on the nominal frames that calibrate change, each compared with the rest of the database."""
    if before is None or after is None:
        return ['  nominal frames: no calibration on both sides to compare']
    levels = [one[0].alarm_level(rate).level for one in (before, after)]
    shared = sorted(before[1].keys() & after[1].keys())
    alarms = np.array([[one[1][key] > level for key in shared]
                       for one, level in zip((before, after), levels, strict=True)])
    return [f'  nominal frames: {int(alarms[0].sum())} of {len(shared)} above the alarm level before, '
            f'{int(alarms[1].sum())} after, {int((alarms[0] != alarms[1]).sum())} verdicts differ; the level goes '
            f'from {levels[0]:.3g} to {levels[1]:.3g}']


@dataclass(frozen=True)
class _Evaluated:
    """What an evaluation found: metrics.json, and the verdicts by row of the table and frame."""

    content: Mapping[str, Any]
    verdicts: Mapping[tuple[str, str, str, str], str]


class _Check:
    """Recordings that are evaluated before and after."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self._embedder: Embedder | None = None

    def evaluated(self) -> _Evaluated | None:
        """The database as it is now; None where there are no recordings."""
        bags, path = self._arguments.check_bag, self._arguments.database
        if not bags:
            return None
        settings = settings_with([path], self._arguments)
        detectors = Detectors(settings.method, [path], (), (False, True), self._embedder)
        self._embedder = detectors.embedder
        with tempfile.TemporaryDirectory(prefix='semanom_check_') as scratch:
            output = Path(scratch) / 'evaluation'
            topics = Topics((CameraTopics(truth=self._arguments.truth_topic),))
            evaluate(bags, detectors, output, topics, settings=settings)
            with open(output / SCORES, newline='') as file:
                verdicts = {(row['filter'], row['bag'], row['topic'], row['stamp_ns']): row['verdict']
                            for row in csv.DictReader(file)}
            return _Evaluated(json.loads((output / METRICS).read_text()), verdicts)

    def compared(self, before: _Evaluated | None, after: _Evaluated | None) -> list[str]:
        """What differs."""
        if before is None or after is None:
            return []
        lines = []
        for was, now in zip(before.content['results'], after.content['results'], strict=True):
            own = [key for key in before.verdicts if key[0] == str(int(was['filter']))]
            differ = sum(before.verdicts[key] != after.verdicts[key] for key in own)
            name = was['variant'] + (' + filter' if was['filter'] else '')
            lines.append(f'  {name}: ' + ', '.join(
                f'{scale} AUROC {_shown(was[scale]["auroc"])} -> {_shown(now[scale]["auroc"])}'
                for scale in ('frame', 'pixel')) + f', {differ} of {len(own)} verdicts differ')
        return lines


def _shown(value: float | None) -> str:
    return 'not known' if value is None else f'{value:.4f}'
