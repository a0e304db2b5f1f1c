"""Recording into a nominal database: streaming, resumable, published at the end."""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from semanom_ros.core.curation.publishing import Recipe, publish
from semanom_ros.core.database.folder_files import kind_of, make_folder, open_to_change, read_inside, remove_folder
from semanom_ros.core.database.manifest import HELD_OUT, RECORDED, Manifest
from semanom_ros.core.database.published import JOURNAL, STAGING
from semanom_ros.core.database.storage import (
    LARGEST_BOX,
    STAMPS,
    FrameRecord,
    NominalAddition,
    PartWriter,
    checked,
    pieces_of,
    write_durably,
)
from semanom_ros.core.database.transaction import DESCRIPTION, UNFINISHED, Transaction
from semanom_ros.core.embedding.description import EmbeddingDescription, parse_description
from semanom_ros.core.fields import Fields, parse_json
from semanom_ros.core.progress import SILENT, Progress
from semanom_ros.errors import DatabaseError

logger = logging.getLogger(__name__)

MOST_NAMED = 3
"""Recordings that a change names."""

LARGEST_DESCRIPTION = 1 << 20
LARGEST_LINE = 1 << 20
"""Bytes of a line of the journal: beyond any path and topic."""


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
    def begin(cls, path: Path, description: EmbeddingDescription, *, append: bool = False) -> DatabaseWriter:
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

    def __init__(self, path: Path, description: EmbeddingDescription, append: bool) -> None:
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
                part = entry.open(self.path, description.dimension)
                self._keys.update(part.record(index, False).key for index in range(len(part.frames)))
            self._parts: dict[bool, PartWriter] = {}
            self._open_staging()
        except BaseException as error:
            self._transaction.close()
            if isinstance(error, OSError):
                raise self._transaction.not_written(error) from error
            raise

    def _refuse(self, other: EmbeddingDescription, whose: str, remedy: str) -> None:
        difference = other.difference(self.description)
        if difference:
            field, found, expected = difference
            raise DatabaseError(f'{self.path}: {field} of {whose}: found {found}, expected {expected} (in use now); '
                                f'{remedy}')

    def _open_staging(self) -> None:
        described = self._staging / DESCRIPTION
        if kind_of(described):
            remedy = f'finish it with those settings or delete {self._staging}'
            try:
                with Fields(parse_json(read_inside(self._staging, DESCRIPTION, LARGEST_DESCRIPTION))) as fields:
                    other = parse_description(fields)
            except ValueError as error:
                raise DatabaseError(f'{described}: unreadable ({error}); delete {self._staging}') from error
            self._refuse(other, 'the unfinished recording', remedy)
        else:
            make_folder(self._staging)
            write_durably(described, json.dumps(asdict(self.description)).encode())
        self._journal = open_to_change(self._staging / JOURNAL)
        self._resume()

    def _resume(self) -> None:
        """Counts in every whole frame of the journal, and cuts off what follows."""
        whole = 0
        while line := self._journal.readline(LARGEST_LINE):
            try:
                with Fields(parse_json(line if line.endswith(b'\n') else b'')) as item:
                    record, vectors, thumbnail, crc32 = _confirmed(item)
            except ValueError:
                break
            part = self._part(record.held_out)
            pieces = part.read(vectors, thumbnail)
            if _checksum(pieces) != crc32:
                break
            part.register(record, pieces)
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

    def has(self, source_sha256: str, topic: str, stamp_ns: int) -> bool:
        """Whether this frame is in the database or in this recording already."""
        return (source_sha256, topic, int(stamp_ns)) in self._keys

    def add(self, addition: NominalAddition) -> bool:
        """Adds one frame; it survives the end of the process once this returns.

        Args:
            addition: the frame; the thumbnail of one that is held out is not kept.

        Returns:
            False when the frame was there already; nothing is added then.

        Raises:
            DatabaseError: embeddings that are not finite or not of unit length; the disk is full.
        """
        record = addition.record
        if record.key in self._keys:
            return False
        frame = checked(record, addition.vectors, addition.boxes, addition.positions, self.description.dimension)
        picture = b'' if record.held_out else addition.thumbnail
        part = self._part(record.held_out)
        try:
            part.append(frame, picture)
            line = {**asdict(record), 'vectors': len(frame.vectors), 'thumbnail': len(picture),
                    'crc32': _checksum(pieces_of(frame, picture))}
            self._journal.write(json.dumps(line).encode() + b'\n')
            self._journal.flush()
        except OSError as error:
            raise self._transaction.not_written(error) from error
        self._keys.add(record.key)
        return True

    def commit(self, recipe: Recipe | None = None, progress: Progress = SILENT) -> Manifest:
        """Publishes what was added as a new version, and ends the recording.

        Args:
            recipe: what it is for; None: for the same as the current version, see `publish`.
            progress: is told.

        Returns:
            The manifest of the new version; of the current one when nothing was added.

        Raises:
            DatabaseError: no nominal embedding in it.
        """
        transaction, current = self._transaction, self._transaction.current
        try:
            if not self.frames and not self.held_out_frames and current:
                return current
            if not self.frames and not current:
                raise DatabaseError(f'{self.path}: found no nominal frame to store, expected at least one; '
                                    'record frames that are not all held out')
            entries = list(current.parts) if current else []
            entries += [transaction.add_part(part, HELD_OUT if held_out else RECORDED)
                        for held_out, part in sorted(self._parts.items()) if part.frames]
            change = f'recorded {self.frames} frames, {self.held_out_frames} held out, of {self._recordings()}'
            self._staging.rename(transaction.folder)
            return publish(transaction, self.description, entries, change, recipe, progress=progress)
        except OSError as error:
            raise transaction.not_written(error) from error
        finally:
            self.close()

    def _recordings(self) -> str:
        """What the frames are of, for people."""
        paths = dict.fromkeys(path for part in self._parts.values() for path in part.sources)
        names = [path if path.startswith('live:') else Path(path).name for path in paths]
        more = f' and {len(names) - MOST_NAMED} more' if len(names) > MOST_NAMED else ''
        return ', '.join(names[:MOST_NAMED]) + more

    def close(self) -> None:
        """Stops without publishing; `begin` goes on from here. What has no frame yet leaves nothing."""
        with suppress(OSError):  # of a full disk: what it did not take was not confirmed
            self._journal.close()
        for part in self._parts.values():
            part.close()
        if not self.frames and not self.held_out_frames:
            with suppress(OSError, DatabaseError):  # something else is in it
                remove_folder(self._staging, UNFINISHED.fullmatch)
        self._transaction.close()

    def __enter__(self) -> DatabaseWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _confirmed(item: Fields) -> tuple[FrameRecord, int, int, int]:
    """Record, vectors, bytes of the thumbnail and checksum of a frame, from a line of the journal."""
    height, width = item.pair('image_size', LARGEST_BOX)
    record = FrameRecord(
        item.text('source'), item.text('source_sha256'), item.text('topic'),
        item.count('stamp_ns', STAMPS.start, STAMPS.stop), (height, width), item.flag('held_out'))
    return record, item.count('vectors'), item.count('thumbnail'), item.count('crc32')


def _checksum(pieces: Sequence[bytes]) -> int:
    value = 0
    for piece in pieces:
        value = zlib.crc32(piece, value)
    return value
