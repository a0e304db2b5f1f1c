"""What a detector takes from the start of its process until it is configured, step by step.

`start` measures it; run as a program this module is what is measured: a process that takes the steps and prints their
seconds.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from statistics import median

import numpy as np
from tqdm import tqdm

from semanom_ros.benchmarks.figures import Found
from semanom_ros.benchmarks.plan import Plan
from semanom_ros.benchmarks.synthetic_database import database_of, indexed, key
from semanom_ros.core.database.nominal_database import NominalDatabase
from semanom_ros.core.embedding.embedder import Embedder
from semanom_ros.core.frames import Frame
from semanom_ros.core.pipeline import Judge, calibration_of
from semanom_ros.ros import outputs  # noqa: F401  # what a node imports beside the pipeline: rclpy and the messages
from semanom_ros.settings import Settings

STEPS = ('import', 'weights', 'database', 'calibration', 'warm-up')


def start(plan: Plan, embedder: Embedder, found: Found) -> None:
    """All steps over the first two, with the largest of the databases, whose calibration is stored.

    Files are in the cache: the database was just written, and what is imported and loaded is in this process already.
    It is opened as a detector opens it, with its checksums compared.
    """
    size = max(plan.sizes)
    path = database_of(plan.scratch, embedder, size)
    if embedder.encoder.device.type == 'cpu':
        indexed(path)
    settings = plan.settings.changed({'standardize': False, 'variant': 'grid'})
    seconds: dict[str, list[float]] = defaultdict(list)
    for _ in tqdm(range(plan.few), desc='start', leave=False, disable=None):
        for step, spent in _in_process(settings, path).items():
            seconds[step].append(spent)
    wholes = [sum(steps) for steps in zip(*seconds.values(), strict=True)]
    needed = [sum(steps) for steps in zip(seconds['import'], seconds['weights'], strict=True)]
    found.put_ratio('start_over_import_and_weights', wholes, needed)
    found.details['start'] = {'vectors': key(size), **{f'{step}_s': round(median(seconds[step]), 3) for step in STEPS}}


def _in_process(settings: Settings, database: Path) -> dict[str, float]:
    """Seconds of each step in a process of its own."""
    command = [sys.executable, '-m', __name__, json.dumps(settings.values()), str(database), str(time.time())]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {step: float(value) for step, value in json.loads(done.stdout.splitlines()[-1]).items()}


def main() -> None:
    """Takes the steps: what `Judge.load` does."""
    given, database, begun = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])
    ends = [time.time()]
    method = Settings.of(json.loads(given)).method
    embedder = Embedder.load(method)
    ends.append(time.time())
    opened = NominalDatabase.open(database, method.search, device=embedder.encoder.device)
    ends.append(time.time())
    calibration = calibration_of(opened, method)
    ends.append(time.time())
    judge = Judge(embedder, opened, method, calibration)
    judge.score(embedder.embed([Frame(np.zeros((*embedder.encoder.input_size, 3), np.uint8), 0)])[0])
    ends.append(time.time())
    sys.stdout.write(json.dumps(dict(zip(STEPS, np.diff([begun, *ends]).tolist(), strict=True))) + '\n')


if __name__ == '__main__':
    main()
