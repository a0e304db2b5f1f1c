"""Recording into a nominal database: streaming, resumable, published at the end."""

from __future__ import annotations

import json
import logging
import shutil
import zlib
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt

from semanom_ros.core.curation.publishing import Calibrate, IndexSettings, publish
from semanom_ros.core.database.database import NominalDatabase
from semanom_ros.core.database.manifest import HELD_OUT, RECORDED, DatabaseDescription, PartEntry, parse_description
from semanom_ros.core.database.storage import (
    Array,
    FrameRecord,
    Part,
    PartWriter,
    checked,
    encode_thumbnail,
    write_durably,
)
from semanom_ros.core.database.transaction import JOURNAL, STAGING, Transaction
from semanom_ros.core.progress import SILENT, Progress
from semanom_ros.errors import DatabaseError

logger = logging.getLogger(__name__)

DESCRIPTION = 'description.json'


class DatabaseWriter:
    """Adds frames to a nominal database, new or existing.

    Frames are appended to files in `staging`, each confirmed by a line in a journal that
    holds a checksum of its bytes. Whatever ends the process, the next `begin` goes on
    after the last whole frame. `commit` makes a new version of the database of it.

    Attributes:
        path: the database.
        description: what makes the embeddings.
        frames, held_out_frames: added and not yet committed, those found in an interrupted recording included.
    """

    @classmethod
    def begin(cls, path: Path, description: DatabaseDescription, *, append: bool = False) -> DatabaseWriter:
        """Begins a recording, or goes on with one that was interrupted.

        Args:
            path: folder of the database.
            description: what makes the embeddings.
            append: a finished database may be there, and gets a new version.

        Raises:
            DatabaseError: another writer is at work; a finished database is there and `append` is
                off; what is there was made otherwise.
        """
        return cls(path, description, append)

    def __init__(self, path: Path, description: DatabaseDescription, append: bool) -> None:
        self.path, self.description = Path(path), description
        self._transaction = Transaction(self.path)
        try:
            self._staging = self.path / STAGING
            current = self._transaction.current
            if current:
                if not (append or self._staging.exists() or self._transaction.recovered):
                    raise DatabaseError(f'{self.path}: found a finished database (version {current.version}), expected '
                                        'none; add to it with --append or give another folder')
                self._refuse(current.description, 'the database', 'record with those settings or give another folder')
            self._keys: set[tuple[str, str, int]] = set()
            for entry in current.parts if current else ():
                part = Part(self.path / entry.name, description.dimension)
                self._keys.update(part.record(index, False).key for index in range(len(part.frames)))
                part.close()
            self._parts: dict[bool, PartWriter] = {}
            self._open_staging()
        except BaseException:
            self._transaction.close()
            raise

    def _refuse(self, other: DatabaseDescription, whose: str, remedy: str) -> None:
        difference = other.difference(self.description)
        if difference:
            field, found, expected = difference
            raise DatabaseError(f'{self.path}: {field} of {whose}: found {found}, expected {expected} (in use now); '
                                f'{remedy}')

    def _open_staging(self) -> None:
        described = self._staging / DESCRIPTION
        if described.exists():
            remedy = f'finish it with those settings or delete {self._staging}'
            try:
                other = parse_description(json.loads(described.read_bytes()))
            except (ValueError, KeyError, TypeError) as error:
                raise DatabaseError(f'{described}: unreadable ({error}); delete {self._staging}') from error
            self._refuse(other, 'the unfinished recording', remedy)
        else:
            self._staging.mkdir(exist_ok=True)
            write_durably(described, json.dumps(asdict(self.description)).encode())
        self._journal = open(self._staging / JOURNAL, 'a+b')  # noqa: SIM115 - open until close()
        self._resume()

    def _resume(self) -> None:
        """Counts in every whole frame of the journal, and cuts off what follows."""
        self._journal.seek(0)
        whole = 0
        for line in self._journal:
            try:
                item = json.loads(line) if line.endswith(b'\n') else None
                if item is None:
                    break
                record = FrameRecord(item['source'], item['source_sha256'], item['topic'], item['stamp_ns'],
                                     tuple(item['image_size']), item['held_out'])
            except (ValueError, KeyError, TypeError):
                break
            part = self._part(record.held_out)
            if _checksum(*part.read(item['vectors'], item['thumbnail'])) != item['crc32']:
                break
            part.register(record, item['vectors'], item['thumbnail'])
            self._keys.add(record.key)
            whole += len(line)
        self._journal.truncate(whole)
        self._journal.seek(whole)
        for part in self._parts.values():
            part.truncate()
        if whole:
            logger.info('%s: going on with an interrupted recording of %d frames', self.path,
                        self.frames + self.held_out_frames)

    def _part(self, held_out: bool) -> PartWriter:
        if held_out not in self._parts:
            folder = self._staging / (HELD_OUT if held_out else RECORDED)
            self._parts[held_out] = PartWriter(folder, self.description.dimension)
        return self._parts[held_out]

    @property
    def frames(self) -> int:
        return self._parts[False].frames if False in self._parts else 0

    @property
    def held_out_frames(self) -> int:
        return self._parts[True].frames if True in self._parts else 0

    @property
    def vectors(self) -> int:
        """Nominal embeddings that the next version will hold."""
        current = self._transaction.current
        return (current.vectors if current else 0) + (self._parts[False].vectors if False in self._parts else 0)

    @property
    def exact_vectors(self) -> int:
        """Those of them that no approximate index covers yet."""
        current = self._transaction.current
        return self.vectors - (current.index.vectors if current and current.index else 0)

    def has(self, source_sha256: str, topic: str, stamp_ns: int) -> bool:
        """Whether this frame is in the database or in this recording already."""
        return (source_sha256, topic, int(stamp_ns)) in self._keys

    def add(self, frame: FrameRecord, vectors: Array, boxes: Array, positions: Array,
            thumbnail: npt.NDArray[np.uint8] | None = None) -> bool:
        """Adds one frame; it survives the end of the process once this returns.

        Args:
            frame: where it comes from.
            vectors: (n, D) unit-length embeddings, NumPy or torch.
            boxes: (n, 4) x, y, width, height in source pixels.
            positions: (n, 2) centres, 0 to 1.
            thumbnail: (h, w, 3) uint8 RGB, kept for frames that are not held out.

        Returns:
            False when the frame was there already; nothing is added then.

        Raises:
            DatabaseError: embeddings that are not finite or not of unit length; the disk is full.
        """
        if frame.key in self._keys:
            return False
        stored = checked(frame, vectors, boxes, positions, self.description.dimension)
        picture = b'' if frame.held_out else encode_thumbnail(thumbnail)
        part = self._part(frame.held_out)
        try:
            part.append(*stored, picture)
            checksum = _checksum(*(array.tobytes() for array in stored[1:]), picture)
            line = {**asdict(frame), 'vectors': len(stored.vectors), 'thumbnail': len(picture), 'crc32': checksum}
            self._journal.write(json.dumps(line).encode() + b'\n')
            self._journal.flush()
        except OSError as error:
            raise self._transaction.not_written(error) from error
        self._keys.add(frame.key)
        return True

    def commit(self, calibrate: Calibrate | None = None, progress: Progress = SILENT,
               index: IndexSettings | None = None) -> NominalDatabase:
        """Publishes what was added as a new version, and ends the recording.

        Args:
            calibrate: makes the calibration arrays from the database as it will be.
            progress: is told how far the checksums are.
            index: approximate index to be built; None: as the database has it.

        Returns:
            The database, opened; the current version unchanged when nothing was added.

        Raises:
            DatabaseError: no nominal embedding in it.
        """
        transaction, current = self._transaction, self._transaction.current
        try:
            if not self.frames and not self.held_out_frames and current:
                self.close()
                shutil.rmtree(self._staging)
                return NominalDatabase.open(self.path, verify=False)
            if not self.frames and not current:
                raise DatabaseError(f'{self.path}: found no nominal frame to store, expected at least one; '
                                    'record frames that are not all held out')
            entries = list(current.parts) if current else []
            for held_out, part in sorted(self._parts.items()):
                if part.frames:
                    part.finish()
                    kind = HELD_OUT if held_out else RECORDED
                    entries.append(PartEntry(f'{transaction.folder.name}/{kind}', kind, part.vectors, part.frames))
            self._staging.rename(transaction.folder)
            change = f'recorded {self.frames} frames, {self.held_out_frames} held out'
            return publish(transaction, self.description, entries, change, calibrate=calibrate, index=index,
                           progress=progress)
        except OSError as error:
            raise transaction.not_written(error) from error
        finally:
            self.close()

    def close(self) -> None:
        """Stops without publishing; `begin` goes on from here."""
        self._journal.close()
        for part in self._parts.values():
            part.close()
        self._transaction.close()

    def __enter__(self) -> DatabaseWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _checksum(*pieces: bytes | memoryview) -> int:
    value = 0
    for piece in pieces:
        value = zlib.crc32(piece, value)
    return value
