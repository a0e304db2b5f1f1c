"""Simpler methods for the same table: what a foundation model's embeddings have to beat."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from semanom_ros.core.curation import operations
from semanom_ros.core.database import read_manifest
from semanom_ros.core.embedding.embedder import Embedder
from semanom_ros.core.embedding.encoders.encoder import Encoder
from semanom_ros.core.frames import Frame
from semanom_ros.core.progress import SILENT, Progress
from semanom_ros.core.scoring.calibration import calibrator
from semanom_ros.errors import BagError, DatabaseError, EncoderError
from semanom_ros.evaluation.detectors import Detectors, Row, Verdict
from semanom_ros.parameters import METHOD, NODE, RECORDER, Value, resolve
from semanom_ros.recordings.nominal_recording import record_bags

CORESET_SHARE = 0.1
"""Share of the nominal embeddings that the PatchCore row keeps: PatchCore-10 % of the paper."""

CORESET_CANDIDATES = 100_000
"""Of larger databases the coreset is a share of so many embeddings, evenly spread: its time grows with the square."""

PATCHCORE: dict[str, Value] = {
    'variant': 'grid', 'neighbours': 1, 'density_neighbours': 9, 'frame_score_fraction': 0.0, 'position_weight': 0.0,
    'scale_weight': 0.0, 'standardize': False, 'calibrate_by_region': False, 'plausibility': False}
"""Its settings: nearest neighbour, 9 neighbours for the re-weighting, the maximum as the frame's score."""


class DctEncoder(Encoder):
    """Patch features without any learning: mean colour, and how much detail there is at which scale and direction.

    A patch of 16 x 16 pixels becomes the mean of its three YCbCr channels and the
    magnitudes of the 15 lowest two-dimensional DCT-II coefficients of its luma after the
    constant one; a constant beside them keeps dark and grey patches apart when the
    whole is brought to length 1.
    """

    _PATCH, _FREQUENCIES = 16, 4

    def __init__(self, input_size: tuple[int, int]) -> None:
        """
        Args:
            input_size: (height, width), pixels; rounded down to whole patches.

        Raises:
            EncoderError: smaller than a patch.
        """
        rows, columns = (side // self._PATCH for side in input_size)
        if not rows or not columns:
            raise EncoderError(f'baseline dct: found input_size {list(input_size)}, expected at least {self._PATCH} '
                               'pixels in each direction; set input_size')
        self.name, self.weights, self.settings = 'colour+DCT', 'none', {}
        self.weights_sha256 = hashlib.sha256(b'colour+DCT 1').hexdigest()
        self.input_size = (rows * self._PATCH, columns * self._PATCH)
        self.grid_size = (rows, columns)
        self.dimension = 4 + self._FREQUENCIES ** 2 - 1
        self.device, self.dtype = torch.device('cpu'), torch.float32
        places = torch.arange(self._PATCH) + 0.5
        self._basis = torch.cos(math.pi / self._PATCH * places[None] * torch.arange(self._FREQUENCIES)[:, None])
        self._to_ycbcr = torch.tensor([[0.299, 0.587, 0.114], [-0.169, -0.331, 0.5], [0.5, -0.419, -0.081]])

    @torch.inference_mode()
    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """(B, rows, columns, 19) unit length, from images (B, 3, H, W)."""
        rows, columns = self.grid_size
        channels = torch.einsum('dc,bchw->bdhw', self._to_ycbcr, images)
        patches = channels.reshape(len(images), 3, rows, self._PATCH, columns, self._PATCH).permute(0, 2, 4, 1, 3, 5)
        spectrum = torch.einsum('ky,brcyx,lx->brckl', self._basis, patches[:, :, :, 0], self._basis) / self._PATCH
        colour = patches.mean(dim=(-2, -1))
        constant, detail = torch.full_like(colour[..., :1], 0.5), spectrum.abs().flatten(3)[..., 1:]
        features = torch.cat([constant, colour, detail], dim=-1)
        return F.normalize(features, dim=-1)


class DctBaseline:
    """Nearest nominal neighbour in colour and DCT features: everything as in our grid variant but the encoder.

    Attributes:
        rows: one.
    """

    def __init__(self, parameters: Mapping[str, Value], database: Path, folder: Path, nominal: Sequence[Path] = (),
                 progress: Progress = SILENT) -> None:
        """Records a nominal database of its own.

        Args:
            parameters: of the group `method`.
            database: ours, for the nominal recordings that it was made from.
            folder: where the baseline's database is to be.
            nominal: the nominal recordings, where they are elsewhere now.
            progress: is told.

        Raises:
            BagError: a nominal recording is gone.
        """
        sources = list(nominal)
        manifest = read_manifest(database)
        for source in manifest.sources if not nominal else ():
            sources.append(Path(source.path))
            if not sources[-1].exists():
                raise BagError(f'{source.path}: no longer there, expected the nominal recording that {database} was '
                               'made from; give --nominal')
        height, width = manifest.description.input_size
        embedder = Embedder(DctEncoder((height, width)))
        settings = {**parameters, 'variant': 'grid', 'standardize': False}
        topics = sorted({topic for source in manifest.sources for topic in source.topics}) if not nominal else ['']
        recording = resolve({**settings, 'image_topics': topics}, METHOD, NODE, RECORDER)
        record_bags(sources, folder, recording, progress, embedder)
        self._detectors = Detectors(settings, [folder], ('grid',), (False,), embedder)
        self.rows: tuple[Row, ...] = (Row('grid', baseline='colour + DCT'),)

    def process(self, frame: Frame) -> list[Verdict]:
        """The verdict on the next frame."""
        return self._detectors.process(frame)

    def reset(self) -> None:
        """Nothing is kept between frames."""

    def details(self) -> dict[str, Any]:
        """How many nominal vectors it compares with."""
        return {'vectors': self._detectors.databases['grid'].manifest.vectors}


class PatchCoreBaseline:
    """PatchCore (K. Roth et al., CVPR 2022) on our encoder's patch embeddings: what the encoder gives without ours.

    A greedy coreset of the nominal embeddings, the distance to the nearest one re-weighted
    by local density, the maximum as the frame's score; only the threshold is calibrated.
    Other than in the paper, embeddings are not averaged over their neighbours (those of a
    transformer have seen the whole picture), their distance is the cosine distance, and
    every patch is re-weighted, not only the highest.

    Attributes:
        rows: one.
    """

    def __init__(self, parameters: Mapping[str, Value], databases: Sequence[Path], encoder: Encoder, folder: Path,
                 progress: Progress = SILENT) -> None:
        """Makes the coreset, of a copy of a nominal database.

        Args:
            parameters: of the group `method`; those of `PATCHCORE` take the place of the same.
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
        settings = resolve({**parameters, **PATCHCORE}, METHOD)
        operations.merge(folder, grid, progress=progress).close()
        size = max(1, round(CORESET_SHARE * min(read_manifest(folder).vectors, CORESET_CANDIDATES)))
        operations.compact(folder, size=size, candidates=CORESET_CANDIDATES,
                           calibrate=calibrator(folder, settings, progress), progress=progress).close()
        self._detectors = Detectors(settings, [folder], ('grid',), (False,), Embedder(encoder))
        self.rows: tuple[Row, ...] = (Row('grid', baseline='PatchCore'),)

    def process(self, frame: Frame) -> list[Verdict]:
        """The verdict on the next frame."""
        return self._detectors.process(frame)

    def reset(self) -> None:
        """Nothing is kept between frames."""

    def details(self) -> dict[str, Any]:
        """How many nominal vectors are left of how large a share."""
        return {'vectors': self._detectors.databases['grid'].manifest.vectors, 'coreset_share': CORESET_SHARE}
