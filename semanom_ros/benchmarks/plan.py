"""What is measured, on what."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from semanom_ros.benchmarks.timing import in_turn, synchronize
from semanom_ros.core.embedding.embedder import Embedder
from semanom_ros.settings import Settings

IMAGE_SIZE = (720, 1280)
CAMERAS = 6


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        settings: of all that is measured.
        scratch: folder for bags and databases.
        sizes: vectors of the databases that are searched.
        repeats: how often each thing is timed; medians are reported.
        frames: of the bag that is recorded.
        burst_s: seconds of the burst of images.
    """

    settings: Settings
    scratch: Path
    sizes: tuple[int, ...]
    repeats: int
    frames: int
    burst_s: float

    @property
    def few(self) -> int:
        """Repeats of what takes long."""
        return max(1, self.repeats // 3)


def drive(count: int, between: bool = False) -> Iterator[npt.NDArray[np.uint8]]:
    """(720, 1280, 3) uint8 pictures of a smooth pattern that moves under noise, the same at every run.

    Args:
        count: how many.
        between: those between the others: what a database of the others resembles and does not hold.
    """
    height, width = IMAGE_SIZE
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 236, (30, 60, 3), np.uint8)
    pattern = np.asarray(cv2.resize(coarse, (2 * width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
    noise = generator.integers(0, 20, (height, 2 * width, 3), np.uint8)
    for number in range(count):
        shift, other = 16 * number % width + 8 * between, 37 * number % width + 18 * between
        yield pattern[:, shift:shift + width] + noise[:, other:other + width]


def forward_pass(embedder: Embedder, batch: int = 1) -> Callable[[], None]:
    """The encoder alone, on pictures that are ready on its device, so many at once."""
    images = embedder.preprocessor(list(drive(batch)))

    def run() -> None:
        embedder.encoder.encode(images)
        synchronize(embedder.encoder.device)
    return run


def bare_times(embedder: Embedder, repeats: int) -> tuple[list[float], dict[str, float]]:
    """What an image takes at best where nothing but the encoder runs.

    Returns:
        Milliseconds an image, of passes over one picture or over CAMERAS at once, whichever is faster; and the medians
        of both.
    """
    passes = {1: forward_pass(embedder), CAMERAS: forward_pass(embedder, CAMERAS)}
    times = in_turn({str(batch): run for batch, run in passes.items()}, repeats, 'forward')
    each = {batch: [milliseconds / batch for milliseconds in times[str(batch)]] for batch in passes}
    medians = {batch: float(np.median(values)) for batch, values in each.items()}
    best = min(medians, key=medians.__getitem__)
    return each[best], {f'batch_of_{batch}_ms_an_image': round(median, 3) for batch, median in medians.items()}
