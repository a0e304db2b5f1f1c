"""How long compaction takes, and how far what it drops lies from what it keeps, against the number of embeddings.

`python -m tools.compaction_scale --database DIR --output DIR [--sizes 1e4 1e5 1e6 1e7]` makes sets of embeddings of a
recorded database: its own, as a vehicle would record them that drives the same streets again and again. Each time every
embedding is a little different, by as much as consecutive frames differ. They are turned into more dimensions, which
changes no distance among them, and lie in half precision in one file: embeddings of single precision are never in memory
at once. Where it can, the exact greedy k-centre is made of the same, and the memory bank of anomalib's MH-PatchCore by
its own code (`pip install anomalib`).
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from semanom_ros.benchmarks.figures import written_machine
from semanom_ros.benchmarks.memory import in_own_process, peak_mb
from semanom_ros.benchmarks.synthetic_database import key
from semanom_ros.core.curation.reduction import measured, ranking
from semanom_ros.core.database.points import Points
from semanom_ros.core.database.published import read_manifest
from semanom_ros.errors import SemanomError
