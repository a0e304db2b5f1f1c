"""What was found, for people (one HTML page that needs nothing else) and for programs (JSON)."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from semanom_ros import __version__
from semanom_ros.core.database.storage import write_durably
from semanom_ros.finding.clips import Clip
from semanom_ros.finding.questions import Question

PAGE, DATA = 'find.html', 'find.json'


@dataclass(frozen=True)
class Found:
    """A clip, and how it is opened.

    Attributes:
        clip: of a recording.
        recording: where that lies now; its old path where it is `missing`.
        missing: why it cannot be opened; '' where it can.
        links: see `opening.links`.
        since_start_s: seconds from the recording's first message to the frame that fits best; None: not known.
        exported: bag that the clip was written to; None: none.
    """

    clip: Clip
    recording: str
    missing: str
    links: Mapping[str, str]
    since_start_s: float | None = None
    exported: Path | None = None


def write_found(folder: Path, question: Question, found: Sequence[Found], frames: int, notes: Sequence[str]) -> None:
    """Writes PAGE and DATA.

    Args:
        folder: that they go to.
        question: what was looked for.
        found: the best first.
        frames: that were searched.
        notes: what is to be known about it, one line each.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = {'question': question.words, 'frames_searched': frames, 'notes': list(notes),
               'clips': [_described(rank, one) for rank, one in enumerate(found, 1)]}
    write_durably(folder / DATA, (json.dumps(content, indent=2) + '\n').encode())
    environment = Environment(loader=PackageLoader('semanom_ros.finding'), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)
    environment.filters['picture'] = _picture
    highest = max((one.clip.similarity for one in found), default=1.0)
    page = environment.get_template(PAGE).render(
        question=question, found=found, frames=frames, notes=notes, version=__version__, highest=max(highest, 1e-9),
        clock=_clock)
    write_durably(folder / PAGE, page.encode())


def _described(rank: int, one: Found) -> dict[str, Any]:
    clip = one.clip
    return {
        'rank': rank, 'similarity': round(clip.similarity, 4), 'recording': one.recording,
        'recording_sha256': clip.record.source_sha256, 'topic': clip.record.topic, 'stamp_ns': clip.record.stamp_ns,
        'start_ns': clip.start_ns, 'end_ns': clip.end_ns, 'frames': clip.frames, 'box': list(clip.box),
        'image_size': list(clip.record.image_size), 'nominal': clip.nominal, 'missing': one.missing,
        'links': dict(one.links), 'exported': str(one.exported) if one.exported else ''}


def _picture(jpeg: bytes) -> str:
    return f'data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}'


def _clock(seconds: float) -> str:
    """12:05.3, or 1:12:05.3."""
    minutes, rest = divmod(max(0.0, seconds), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f'{hours}:{minutes:02d}:{rest:04.1f}' if hours else f'{minutes}:{rest:04.1f}'
