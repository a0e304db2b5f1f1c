"""What workers do for an evaluation: replay whole recordings, because tracks and drift go on from frame to frame."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from semanom_ros.core.database.storage import sha256_of
from semanom_ros.evaluation.detectors import Detectors, Row
from semanom_ros.evaluation.replay import CameraTopics, Topics, Unmeasured, measure
from semanom_ros.fleet.shared_storage import SharedStorage
from semanom_ros.settings import Settings

MEASURED = 'measured'


def begin(order: Mapping[str, Any], storage: SharedStorage) -> EvaluationWork:
    """Loads the encoder and opens the databases."""
    settings = Settings.of(order['parameters'])
    detectors = Detectors(settings.method, [Path(path) for path in order['databases']], order['variants'],
                          order['filters'])
    told: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value
                            for name, value in order['topics'].items()}
    told['cameras'] = tuple(CameraTopics(**camera) for camera in told['cameras'])
    return EvaluationWork(settings, detectors, Row(**order['shown']), Topics(**told), storage)


def about(detectors: Detectors) -> dict[str, Any]:
    """What must be the same wherever recordings are measured."""
    return {'encoder weights': detectors.embedder.encoder.weights_sha256,
            **{f'{variant} database': database.manifest.identity for variant, database in detectors.databases.items()},
            'rows': [asdict(row) for row in detectors.rows]}


class EvaluationWork:
    """A worker with its detectors loaded."""

    def __init__(self, settings: Settings, detectors: Detectors, shown: Row, topics: Topics, storage: SharedStorage
                 ) -> None:
        self._settings, self._detectors, self._shown, self._topics = settings, detectors, shown, topics
        self._storage = storage
        self.about = about(detectors)
        self.methods = {'measure': self.measure}

    def measure(self, index: int, bag: str, camera: Mapping[str, str], name: str, stored: str) -> dict[str, Any]:
        """Replays a recording and stores what is measured, and the result bag.

        Returns:
            `folder` in the storage, and of its `files` size and SHA-256.
        """
        scratch = Path(tempfile.mkdtemp(prefix='semanom_fleet_'))
        try:
            (scratch / stored).parent.mkdir()
            one = Unmeasured(index, Path(bag), CameraTopics(**camera), name, scratch / stored)
            measure(one, [self._detectors], self._shown, scratch, self._topics, self._settings.detector)
            files = {}
            for path in sorted(path for path in scratch.rglob('*') if path.is_file()):
                with open(path, 'rb', buffering=0) as file:
                    files[path.relative_to(scratch).as_posix()] = path.stat().st_size, sha256_of(file)
            folder = f'{MEASURED}/{index}-{uuid.uuid4().hex[:12]}'
            self._storage.put(scratch, folder)
            return {'folder': folder, 'files': files}
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
