"""Whether an alarm shows something of which nothing was kept yet.

As in `mining`: a frame is new when it would still raise an alarm if everything kept before were nominal. So the
detector's own calibration says when two things are the same, and no distance has to be chosen.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import zipfile
import zlib
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch

from semanom_ros.core.embedding.description import EmbeddingDescription
from semanom_ros.core.embedding.places import places
from semanom_ros.core.frames import Frame
from semanom_ros.core.pipeline import CameraState, Judge
from semanom_ros.core.results import ALARM
from semanom_ros.finding.mining import Candidate, Mined
from semanom_ros.small_files import LARGEST, read_small

FOLDER = 'kept_embeddings'
"""Below the folder of snapshots: what was kept is known after a restart, and when its recording was moved elsewhere."""

log = logging.getLogger(__name__)


class Novelty:
    """Compares alarms with what was kept. Not for several threads.

    Attributes:
        unusable: files of embeddings that could not be read, or are of another encoder.
    """

    def __init__(self, judge: Judge, folder: Path) -> None:
        """
        Args:
            judge: as the detector has it.
            folder: of the snapshots.

        Raises:
            OSError: the folder cannot be made or read.
        """
        self._judge = judge.live({'filter_temporal': False})  # it sees single frames
        self._identity = _identity(judge.embedder.description)
        self._folder = folder / FOLDER
        self._folder.mkdir(parents=True, exist_ok=True)
        self._kept: dict[str, torch.Tensor] = {}
        self._unstored: dict[str, Candidate] = {}
        self.unusable = 0
        for path in sorted(self._folder.glob('*.npz')):
            try:
                self._kept[path.stem] = self._read(path)
            except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
                self.unusable += 1
                log.warning('%s: left out of what was kept: %s', path, error)
        self._mined = self._all()

    @property
    def known(self) -> int:
        """Snapshots that are known."""
        return len(self._kept)

    def evidence(self, frame: Frame) -> Candidate | None:
        """What makes a frame anomalous; None where that cannot be told, as when its picture is not judged so here."""
        result = self._judge.process(frame, CameraState())
        if not result.anomalous:
            return None
        fraction = self._judge.settings.score.frame_score_fraction
        return Candidate.of(frame, result, '', self._judge.database, fraction)

    def is_new(self, candidate: Candidate) -> bool:
        """Whether it would raise an alarm if all that was kept were nominal."""
        candidate.revalue(self._mined)
        return candidate.worth > ALARM

    def keep(self, name: str, candidate: Candidate) -> None:
        """Takes note of what a snapshot shows, in memory."""
        self._kept[name], self._unstored[name] = candidate.embedded, candidate
        self._mined.take(candidate)

    def forget(self, name: str) -> None:
        """The snapshot did not come about."""
        self._unstored.pop(name, None)
        if self._kept.pop(name, None) is not None:
            self._mined = self._all()

    def store(self, name: str) -> None:
        """Takes note on the disk of what was kept under this name, if it was judged.

        Raises:
            OSError: it cannot be written; nothing is left then.
        """
        candidate = self._unstored.pop(name, None)
        if candidate is None:
            return
        evidence = candidate.evidence
        where = places(np.asarray(evidence.positions), np.asarray(evidence.boxes), evidence.record.image_size)
        content = io.BytesIO()
        np.savez(content, identity=self._identity, vectors=np.asarray(evidence.vectors, np.float32), places=where)
        beside = self._folder / f'{name}.new'
        try:
            beside.write_bytes(content.getvalue())
            os.replace(beside, self._folder / f'{name}.npz')
        except OSError:
            beside.unlink(missing_ok=True)
            raise

    def _read(self, path: Path) -> torch.Tensor:
        with np.load(io.BytesIO(read_small(path)), allow_pickle=False) as stored:
            if str(stored['identity']) != self._identity:
                raise ValueError('of another encoder')
            vectors, where = stored['vectors'], stored['places']
        dimension = self._judge.embedder.description.dimension
        if vectors.shape != (len(where), dimension) or where.shape[1:] != (3,) or vectors.dtype != np.float32 \
                or not np.isfinite(vectors).all() or not np.isfinite(where).all() or vectors.nbytes > LARGEST:
            raise ValueError('found other arrays than expected')
        return self._judge.database.embed(vectors, where.astype(np.float32)).cpu()

    def _all(self) -> Mined:
        mined = Mined(self._judge.database)
        for embedded in self._kept.values():
            mined.add(embedded)
        return mined


def _identity(description: EmbeddingDescription) -> str:
    """What must be equal for embeddings to be comparable."""
    told = {one.name: getattr(description, one.name) for one in fields(description)
            if one.name not in ('weights', 'parameters')}
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=list).encode()).hexdigest()
