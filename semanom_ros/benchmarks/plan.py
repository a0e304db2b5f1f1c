"""What is measured, on what."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from semanom_ros.core.database.index import faiss
from semanom_ros.core.embedding.embedder import Embedder
from semanom_ros.settings import Settings

IMAGE_SIZE = (720, 1280)


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


def drive(count: int) -> Iterator[npt.NDArray[np.uint8]]:
    """(720, 1280, 3) uint8 pictures of a smooth pattern that moves under noise, the same at every run."""
    height, width = IMAGE_SIZE
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 236, (30, 60, 3), np.uint8)
    pattern = np.asarray(cv2.resize(coarse, (2 * width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
    noise = generator.integers(0, 20, (height, 2 * width, 3), np.uint8)
    for number in range(count):
        shift, other = 16 * number % width, 37 * number % width
        yield pattern[:, shift:shift + width] + noise[:, other:other + width]


def forward_pass(embedder: Embedder) -> Callable[[], None]:
    """The encoder alone, on one picture that is ready on its device."""
    images = embedder.preprocessor(list(drive(1)))

    def run() -> None:
        embedder.encoder.encode(images)
        synchronize(embedder.encoder.device)
    return run


def synchronize(device: torch.device) -> None:
    """Waits for what a GPU has still to do."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def in_turn(functions: Mapping[str, Callable[[], object]], repeats: int, what: str) -> dict[str, list[float]]:
    """Milliseconds of each function, `repeats` times, one after the other, after one round that does not count."""
    milliseconds: dict[str, list[float]] = {name: [] for name in functions}
    for turn in tqdm(range(repeats + 1), desc=what, leave=False, disable=None):
        for name, function in functions.items():
            begin = time.perf_counter()
            function()
            if turn:
                milliseconds[name].append((time.perf_counter() - begin) * 1e3)
    return milliseconds


def summary(milliseconds: list[float]) -> dict[str, float]:
    """Median and 95 % quantile."""
    return {'median_ms': round(statistics.median(milliseconds), 3),
            'p95_ms': round(float(np.quantile(milliseconds, 0.95)), 3)}


def ratio(above: list[float], below: list[float]) -> float:
    """Quotient of the medians."""
    return round(statistics.median(above) / statistics.median(below), 4)


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures were taken on."""
    cpu = platform.processor()
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
        cpu = next(line.split(':', 1)[1].strip() for line in lines if line.startswith('model name'))
    except (OSError, StopIteration):
        pass
    return {
        'cpu': cpu, 'cores': os.cpu_count(), 'torch_threads': torch.get_num_threads(),
        'memory_gb': round(os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9, 1),
        'load_average': round(os.getloadavg()[0], 2),
        'gpu': torch.cuda.get_device_name(device) if device.type == 'cuda' else None,
        'system': f'{platform.system()} {platform.machine()}', 'python': platform.python_version(),
        'torch': torch.__version__, 'faiss': faiss.__version__, 'faiss_gpus': faiss.get_num_gpus(),
    }
