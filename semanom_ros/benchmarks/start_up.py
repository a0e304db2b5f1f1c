"""What a detector takes from the start of its process until it is configured.

`start` measures it; run as a program this module is what is measured: a process that takes the steps and prints their
seconds.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np
from tqdm import tqdm

from semanom_ros.benchmarks.figures import Found
from semanom_ros.benchmarks.plan import Plan
from semanom_ros.benchmarks.synthetic_database import database_of, indexed, key
from semanom_ros.core.embedding.embedder import Embedder
from semanom_ros.core.pipeline import Judge
from semanom_ros.ros import outputs  # noqa: F401  # what a node imports beside the pipeline: rclpy and the messages
from semanom_ros.settings import Settings


def start(plan: Plan, embedder: Embedder, found: Found) -> None:
    """A whole start over that of a process that loads the encoder and nothing else, with the largest of the databases,
    whose calibration is stored.

    Files are in the cache: the database was just written, and what is imported and loaded is in this process already.
    The database is opened as a detector opens it, with its checksums compared while the encoder loads.
    """
    size = max(plan.sizes)
    path = database_of(plan.scratch, embedder, size)
    if embedder.encoder.device.type == 'cpu':
        indexed(path)
    settings = plan.settings.changed({'standardize': False, 'variant': 'grid'})
    wholes, needed = [], []
    for _ in tqdm(range(plan.few), desc='start', leave=False, disable=None):
        needed.append(_in_process(settings))
        wholes.append(_in_process(settings, path))
    found.put_ratio('start_over_import_and_weights', [sum(steps) for steps in wholes], [sum(steps) for steps in needed])
    imports, loading = (median(steps) for steps in zip(*wholes, strict=True))
    found.details['start'] = {'vectors': key(size), 'import_s': round(imports, 3), 'load_s': round(loading, 3),
                              'weights_alone_s': round(median(steps[1] for steps in needed), 3)}


def _in_process(settings: Settings, *database: Path) -> tuple[float, float]:
    """Seconds of the imports and of the loading in a process of its own: of the encoder and the database, if any."""
    command = [sys.executable, '-m', __name__, json.dumps(settings.values()), str(time.time()), *map(str, database)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    imports, loading = map(float, json.loads(done.stdout.splitlines()[-1]))
    return imports, loading


def main() -> None:
    """Takes the steps."""
    given, begun, *databases = sys.argv[1:]
    ends = [time.time()]
    method = Settings.of(json.loads(given)).method
    if databases:
        Judge.load(method, Path(databases[0]))
    else:
        Embedder.load(method)
    ends.append(time.time())
    sys.stdout.write(json.dumps(np.diff([float(begun), *ends]).tolist()) + '\n')


if __name__ == '__main__':
    main()
