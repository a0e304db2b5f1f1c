"""Nearest neighbours in colour and DCT features: what a foundation model's embeddings have to beat."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from semanom_ros.core.database.published import read_manifest
from semanom_ros.core.embedding.embedder import Embedder
from semanom_ros.core.embedding.encoders.encoder import Encoder
from semanom_ros.core.frames import Frame
from semanom_ros.core.progress import SILENT, Progress
from semanom_ros.errors import BagError, EncoderError
from semanom_ros.evaluation.baselines import Baseline, BaselineContext
from semanom_ros.evaluation.detectors import Detectors, Method, Ranked, Row
from semanom_ros.recordings.nominal_recording import record_bags
from semanom_ros.settings import MethodSettings, RecorderSettings, Settings


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


class DctMethod:
    """Nearest nominal neighbour in colour and DCT features: everything as in our grid variant but the encoder.

    Attributes:
        rows: one.
        false_alarm_rate: see Method.
    """

    def __init__(self, settings: MethodSettings, database: Path, folder: Path, nominal: Sequence[Path] = (),
                 progress: Progress = SILENT) -> None:
        """Records a nominal database of its own.

        Args:
            settings: of our own methods.
            database: ours, for the nominal recordings that it was made from.
            folder: where the baseline's database is to be.
            nominal: the nominal recordings, where they are elsewhere now.
            progress: is told.

        Raises:
            BagError: a nominal recording is gone.
        """
        manifest = read_manifest(database)
        sources = list(nominal)
        topics: tuple[str, ...] = ('',)
        if not sources:
            sources = [Path(source.path) for source in manifest.sources]
            topics = tuple(sorted({topic for source in manifest.sources for topic in source.topics}))
            for source in sources:
                if not source.exists():
                    raise BagError(f'{source}: no longer there, expected the nominal recording that {database} was '
                                   'made from; give --nominal')
        embedder = Embedder(DctEncoder(manifest.description.input_size))
        own = settings.changed({'variant': 'grid', 'standardize': False})
        record_bags(sources, folder, Settings(own, recorder=RecorderSettings(image_topics=topics)), progress, embedder)
        self._detectors = Detectors(own, [folder], ('grid',), (False,), embedder)
        self.false_alarm_rate = self._detectors.false_alarm_rate
        self.rows: tuple[Row, ...] = (Row('grid', baseline='colour + DCT'),)

    def process(self, frame: Frame) -> list[Ranked]:
        """The verdict on the next frame."""
        return self._detectors.process(frame)

    def reset(self) -> None:
        """Nothing is kept between frames."""

    def details(self) -> dict[str, Any]:
        """How many nominal vectors it compares with."""
        return {'vectors': self._detectors.databases['grid'].manifest.vectors}


class _Dct:
    name = 'dct'
    help = 'nearest neighbours in colour and DCT features'

    def add_arguments(self, group: Any) -> None:
        group.add_argument('--nominal', type=Path, action='append', default=[], metavar='BAG',
                           help='dct: the nominal recordings, where they are no longer where the database says')

    def make(self, context: BaselineContext) -> Method:
        return DctMethod(context.settings, context.databases[0], context.scratch, context.arguments.nominal,
                         context.progress)


BASELINE: Baseline = _Dct()
