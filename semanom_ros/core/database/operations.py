"""Looking after nominal databases: each operation makes a new version in one step."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from semanom_ros.core.database.database import NominalDatabase
from semanom_ros.core.database.manifest import DatabaseDescription, PartEntry
from semanom_ros.core.database.storage import Progress, arrays_to_bytes
from semanom_ros.core.database.transaction import Transaction

Calibrate = Callable[[NominalDatabase], dict[str, npt.NDArray[np.generic]]]
"""Makes calibration arrays from a database that is about to be published."""


def publish(transaction: Transaction, description: DatabaseDescription, parts: Iterable[PartEntry], change: str,
            calibrate: Calibrate | None = None, progress: Progress | None = None) -> NominalDatabase:
    """Makes the next version of these parts, calibrates it, and opens it."""
    manifest = transaction.candidate(description, parts, change, progress)
    transaction.folder.mkdir(exist_ok=True)
    if calibrate:
        database = NominalDatabase(transaction.root, manifest)
        arrays = calibrate(database)
        database.close()
        if arrays:
            file = transaction.folder / 'calibration.npz'
            file.write_bytes(arrays_to_bytes(dict(arrays)))
            manifest = transaction.add_file(manifest, file).replace(calibration=transaction.relative(file))
    transaction.publish(manifest)
    return NominalDatabase(transaction.root, manifest)
