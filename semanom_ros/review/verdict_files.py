"""Verdicts of people, as files that can be copied together.

A folder of verdicts holds one file for each author and machine, `AUTHOR@MACHINE.jsonl`, of one JSON object a line.
Lines are only ever appended, so folders of several vehicles are merged by copying their files into one. What counts is
decided when they are read: of each author the latest verdict on a thing that was not taken back; authors who differ are
shown, and neither wins.
"""

from __future__ import annotations

import fcntl
import getpass
import json
import logging
import math
import os
import platform
import re
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from semanom_ros.core.database.storage import LARGEST_BOX, STAMPS
from semanom_ros.errors import SemanomError

SUFFIX = '.jsonl'
LARGEST_LINE = 65536
"""Bytes of a verdict."""
LONGEST_WORD = 200
"""Characters of an author, a machine and a kind."""
_HEX = re.compile(r'[0-9a-f]{64}')
_ID = re.compile(r'[0-9a-f]{32}')

log = logging.getLogger(__name__)


class Opinion(str, Enum):
    """What a person says about a thing in a frame."""

    NOMINAL = 'nominal'
    """Flagged, and harmless: a false alarm."""
    ANOMALY = 'anomaly'
    """Flagged, and rightly."""
    MISSED = 'missed'
    """An anomaly that was not flagged; its box is drawn."""
    SKIP = 'skip'
    """Looked at, and not decided."""
    REVOKED = 'revoked'
    """An earlier verdict is taken back."""


class Thing(NamedTuple):
    """What a verdict is about.

    Attributes:
        recording_sha256: which recording, wherever it lies: see `BagReader.fingerprint`.
        topic: of its images.
        stamp_ns: of the frame, nanoseconds.
        box: x, y, width, height in pixels of the source image.
    """

    recording_sha256: str
    topic: str
    stamp_ns: int
    box: tuple[int, int, int, int]


@dataclass(frozen=True)
class ReviewVerdict:
    """One line of a file.

    Attributes:
        id: 32 hexadecimal digits, random: the same line in two files is one verdict.
        time: when it was given, UTC, ISO 8601 with microseconds.
        author: who gave it.
        machine: where.
        opinion: what it says.
        thing: what it is about.
        recording: path of the recording when it was given, where it is looked for first.
        score: calibrated score of the thing, 1 is the alarm level; None: it was not flagged.
        kind: of thing, in the author's words; '': not said.
        revokes: id of the verdict that is taken back; '': none.
    """

    id: str
    time: str
    author: str
    machine: str
    opinion: Opinion
    thing: Thing
    recording: str
    score: float | None = None
    kind: str = ''
    revokes: str = ''

    @property
    def order(self) -> tuple[str, str]:
        """Verdicts of all files are in the order of time, then id."""
        return self.time, self.id

    def line(self) -> bytes:
        """As it is stored."""
        content = {**asdict(self), 'opinion': self.opinion.value, **self.thing._asdict()}
        del content['thing']
        return (json.dumps(content, sort_keys=True) + '\n').encode()

    @classmethod
    def parsed(cls, line: bytes) -> ReviewVerdict:
        """What a line says.

        Raises:
            ValueError: it is no verdict; says which field.
        """
        content = json.loads(line)
        if not isinstance(content, dict):
            raise ValueError('it is no object')
        word = {name: _text(content, name) for name in ('author', 'machine', 'kind', 'revokes')}
        box, stamp, score = content.get('box'), content.get('stamp_ns'), content.get('score')
        if not isinstance(box, list) or len(box) != 4 or not all(
                type(one) is int and 0 <= one <= LARGEST_BOX for one in box):
            raise ValueError('box is not four whole numbers, 0 or more')
        if type(stamp) is not int or stamp not in STAMPS:
            raise ValueError('stamp_ns is no stamp of ROS')
        if score is not None and not (isinstance(score, (int, float)) and math.isfinite(score)):
            raise ValueError('score is no number')
        time, sha256 = _text(content, 'time', 40), _text(content, 'recording_sha256')
        datetime.strptime(time, '%Y-%m-%dT%H:%M:%S.%fZ')
        if not _ID.fullmatch(_text(content, 'id')) or not _HEX.fullmatch(sha256) or not word['author']:
            raise ValueError('id, recording_sha256 or author is none')
        thing = Thing(sha256, _text(content, 'topic', 4096), stamp, (box[0], box[1], box[2], box[3]))
        return cls(content['id'], time, word['author'], word['machine'], Opinion(content.get('opinion')), thing,
                   _text(content, 'recording', 4096), score, word['kind'], word['revokes'])


def _text(content: Mapping[str, Any], name: str, longest: int = LONGEST_WORD) -> str:
    value = content.get(name)
    if not isinstance(value, str) or len(value) > longest:
        raise ValueError(f'{name} is no text of at most {longest} characters')
    return value


def beside(database: Path) -> Path:
    """The folder of verdicts that belongs to a database: `nominal` -> `nominal_verdicts`."""
    path = database.absolute()
    return path.with_name(f'{path.name}_verdicts')


class VerdictFolder:
    """The verdicts of a folder, and the file in it that one author's are appended to."""

    def __init__(self, path: Path, author: str = '', machine: str = '') -> None:
        """
        Args:
            path: of the folder; made with the first verdict.
            author: whose verdicts are added; '': the user.
            machine: where; '': this one's name.

        Raises:
            SemanomError: the path is none of a folder.
        """
        if path.exists() and not path.is_dir():
            raise SemanomError(f'{path}: found a file, expected a folder of verdicts; give another --verdicts')
        self.path = path
        self.author = (author or getpass.getuser())[:LONGEST_WORD]
        self.machine = (machine or platform.node() or 'unknown')[:LONGEST_WORD]

    @property
    def own(self) -> Path:
        """The file of this author on this machine."""
        names = (quote(name, safe=' ')[:100] for name in (self.author, self.machine))
        return self.path / ('@'.join(names) + SUFFIX)

    def read(self) -> list[ReviewVerdict]:
        """All verdicts, in order, each once. A line that was cut is passed over, with one warning for its file.

        Raises:
            SemanomError: a file cannot be read, or holds no verdict but something else.
        """
        found: dict[str, ReviewVerdict] = {}
        for path in sorted(self.path.glob(f'*{SUFFIX}')) if self.path.is_dir() else ():
            found |= {one.id: one for one in _read(path)}
        return sorted(found.values(), key=lambda one: one.order)

    def add(self, opinion: Opinion, thing: Thing, recording: str, *, score: float | None = None, kind: str = '',
            revokes: str = '') -> ReviewVerdict:
        """Appends a verdict, to the disk; see `ReviewVerdict`.

        Raises:
            SemanomError: it cannot be written.
        """
        now = datetime.now(timezone.utc).strftime('%Y-%m-%dT%H:%M:%S.%fZ')
        verdict = ReviewVerdict(uuid.uuid4().hex, now, self.author, self.machine, opinion, thing, recording, score,
                                kind[:LONGEST_WORD], revokes)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with open(self.own, 'ab+', buffering=0) as file:
                fcntl.flock(file, fcntl.LOCK_EX)  # another window of the same author
                end = file.seek(0, os.SEEK_END)
                whole = not end or os.pread(file.fileno(), 1, end - 1) == b'\n'
                line = (b'' if whole else b'\n') + verdict.line()  # a line that was cut stays one of its own
                if file.write(line) != len(line):
                    raise OSError(0, 'the disk is full')
                os.fsync(file.fileno())
        except OSError as error:
            raise SemanomError(f'{self.own}: the verdict cannot be written ({error.strerror}); make room, or give '
                               'another --verdicts') from error
        return verdict

    def revoke(self, verdict: ReviewVerdict) -> ReviewVerdict:
        """Takes a verdict of this author back, by a line that says so."""
        return self.add(Opinion.REVOKED, verdict.thing, verdict.recording, revokes=verdict.id)


def _read(path: Path) -> list[ReviewVerdict]:
    found, bad, why = [], 0, ''
    try:
        with open(path, 'rb') as file:
            while line := file.readline(LARGEST_LINE):
                if not line.strip():
                    continue
                try:
                    found.append(ReviewVerdict.parsed(line))
                except (ValueError, RecursionError) as error:
                    bad, why = bad + 1, why or str(error)
                    while line and not line.endswith(b'\n'):
                        line = file.readline(LARGEST_LINE)
    except OSError as error:
        raise SemanomError(f'{path}: cannot be read ({error.strerror}); change its permissions') from error
    if bad and not found and bad > 1:
        raise SemanomError(f'{path}: found {bad} lines and no verdict among them ({why}), expected what semanom review '
                           'writes; move the file elsewhere')
    if bad:
        log.warning('%s: %d of %d lines are no verdicts and are passed over (the first: %s)', path, bad,
                    bad + len(found), why)
    return found


def standing(verdicts: Iterable[ReviewVerdict]) -> dict[Thing, dict[str, ReviewVerdict]]:
    """What counts: of each thing each author's latest verdict that was not taken back.

    Args:
        verdicts: in any order.

    Returns:
        Verdicts by author, by thing; no thing without any.
    """
    verdicts = sorted(verdicts, key=lambda one: one.order)
    authors = {one.id: one.author for one in verdicts}
    gone = {one.revokes for one in verdicts
            if one.opinion is Opinion.REVOKED and authors.get(one.revokes) == one.author}
    found: dict[Thing, dict[str, ReviewVerdict]] = {}
    for one in verdicts:
        if one.opinion is not Opinion.REVOKED and one.id not in gone:
            found.setdefault(one.thing, {})[one.author] = one
    return found


def agreed(by_author: Mapping[str, ReviewVerdict]) -> ReviewVerdict | None:
    """The latest of the decided verdicts on a thing where all of them say the same; None: none is, or they differ."""
    decided = sorted((one for one in by_author.values() if one.opinion is not Opinion.SKIP), key=lambda one: one.order)
    return decided[-1] if len({one.opinion for one in decided}) == 1 else None


def disagree(by_author: Mapping[str, ReviewVerdict]) -> bool:
    """Whether authors decided differently."""
    return len({one.opinion for one in by_author.values() if one.opinion is not Opinion.SKIP}) > 1
