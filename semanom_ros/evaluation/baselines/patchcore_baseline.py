"""PatchCore on our encoder's patch embeddings: what the encoder gives without our scoring."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from semanom_ros.core.curation import operations
from semanom_ros.core.curation.publishing import EXACT, IndexSettings, Recipe
from semanom_ros.core.database.published import read_manifest
from semanom_ros.core.embedding.embedder import Embedder
from semanom_ros.core.embedding.encoders.encoder import Encoder
from semanom_ros.core.frames import Frame
from semanom_ros.core.progress import SILENT, Progress
from semanom_ros.errors import DatabaseError
from semanom_ros.evaluation.baselines import Baseline, BaselineContext
from semanom_ros.evaluation.detectors import Detectors, Method, Ranked, Row
from semanom_ros.parameters import Value
from semanom_ros.settings import MethodSettings

CORESET_SHARE = 0.1
"""Share of the nominal embeddings that the PatchCore row keeps: PatchCore-10 % of the paper."""

CORESET_OF = 100_000
"""Of larger databases the coreset has the size of a share of so many embeddings."""

PATCHCORE: dict[str, Value] = {
    'variant': 'grid', 'neighbours': 1, 'density_neighbours': 9, 'frame_score_fraction': 0.0, 'position_weight': 0.0,
    'scale_weight': 0.0, 'standardize': False, 'calibrate_by_region': False, 'plausibility': False}
"""Its settings: nearest neighbour, 9 neighbours for the re-weighting, the maximum as the frame's score."""


class PatchCoreMethod:
    """PatchCore (K. Roth et al., CVPR 2022) on our encoder's patch embeddings.

    A greedy coreset of the nominal embeddings, the distance to the nearest one re-weighted
    by local density, the maximum as the frame's score; only the threshold is calibrated.
    Other than in the paper, embeddings are not averaged over their neighbours (those of a
    transformer have seen the whole picture), their distance is the cosine distance, and
    every patch is re-weighted, not only the highest.

    Attributes:
        rows: one.
        false_alarm_rate: see Method.
    """

    def __init__(self, settings: MethodSettings, databases: Sequence[Path], encoder: Encoder, folder: Path,
                 progress: Progress = SILENT) -> None:
        """Makes the coreset, of a copy of a nominal database.

        Args:
            settings: of our own methods; those of `PATCHCORE` take the place of the same.
            databases: ours; the one of the variant grid is taken.
            encoder: that it was made with.
            folder: where the copy is to be.
            progress: is told.

        Raises:
            DatabaseError: none of the databases is of the variant grid, or it is corrupt.
        """
        grid = [path for path in databases if read_manifest(path).description.variant == 'grid']
        if not grid:
            raise DatabaseError(f'{databases[0]}: found the variant instance, expected a database of the variant grid '
                                'for the baseline patchcore; give one with --database')
        own = settings.changed(PATCHCORE)
        shutil.copytree(grid[0], folder)
        size = max(1, round(CORESET_SHARE * min(read_manifest(folder).vectors, CORESET_OF)))
        recipe = Recipe(own.search, own.score, IndexSettings(EXACT), encoder.device)
        operations.compact(folder, size=size, recipe=recipe, progress=progress)
        self._detectors = Detectors(own, [folder], ('grid',), (False,), Embedder(encoder))
        self.false_alarm_rate = self._detectors.false_alarm_rate
        self.rows: tuple[Row, ...] = (Row('grid', baseline='PatchCore'),)

    def process(self, frame: Frame) -> list[Ranked]:
        """The verdict on the next frame."""
        return self._detectors.process(frame)

    def reset(self) -> None:
        """Nothing is kept between frames."""

    def details(self) -> dict[str, Any]:
        """How many nominal vectors are left of how large a share."""
        return {'vectors': self._detectors.databases['grid'].manifest.vectors, 'coreset_share': CORESET_SHARE}


class _PatchCore:
    name = 'patchcore'
    help = 'a coreset of the grid database, scored as PatchCore does'

    def add_arguments(self, group: Any) -> None:
        """Has none."""

    def make(self, context: BaselineContext) -> Method:
        return PatchCoreMethod(context.settings, context.databases, context.detectors.embedder.encoder,
                               context.scratch, context.progress)


BASELINE: Baseline = _PatchCore()
