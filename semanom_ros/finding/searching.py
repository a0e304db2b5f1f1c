"""`semanom find` as a function: opens what is searched, asks, ranks, says where it is, writes page, JSON and clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from semanom_ros.core.progress import Progress
from semanom_ros.errors import BagError
from semanom_ros.finding.clip_bags import Stretch, write_clips
from semanom_ros.finding.clip_page import Found, write_found
from semanom_ros.finding.clips import find
from semanom_ros.finding.embedded_recordings import EmbeddedRecordings
from semanom_ros.finding.opening import Lying, Places, links
from semanom_ros.finding.questions import Question


@dataclass(frozen=True)
class Export:
    """What is to be written of the clips.

    Attributes:
        folder: that they go to, each as a bag.
        topics: to keep; empty: all.
        margin_s: seconds before and behind each.
    """

    folder: Path
    topics: Sequence[str] = ()
    margin_s: float = 2.0


def search(recordings: EmbeddedRecordings, question: Question, count: int, output: Path, progress: Progress,
           places: Places, served_at: str = '', export: Export | None = None) -> tuple[list[Found], list[str]]:
    """Finds clips and writes about them.

    A recording that is not there any more is found by what is stored of it; what cannot be opened or exported is said.

    Args:
        recordings: to search.
        question: what is looked for.
        count: of clips, at most.
        output: folder for page and JSON.
        progress: is told.
        places: where recordings lie.
        served_at: address that recordings are served at, for links; '': none.
        export: of the clips; None: none.

    Returns:
        What was found, and lines about it for people.

    Raises:
        BagError: a clip's folder is there already, or a topic is not.
    """
    found, lying = [], []
    for clip in find(recordings, question, count, progress):
        here = places.of(clip.record)
        stamp = clip.record.stamp_ns
        since = (stamp + here.ahead_ns - here.start_ns) / 1e9 if here else None
        found.append(Found(clip, str(here.path) if here else clip.record.source,
                           places.missing.get(clip.record.source_sha256 or clip.record.source, ''),
                           links(here, stamp, served_at), since))
        lying.append(here)
    notes = list(places.missing.values())
    if export is not None:
        exported, left_out = _export(found, lying, export)
        found = [replace(one, exported=exported.get(place)) for place, one in enumerate(found)]
        notes += left_out
    write_found(output, question, found, recordings.frames, notes)
    return found, notes


def _export(found: Sequence[Found], lying: Sequence[Lying | None], export: Export) -> tuple[dict[int, Path], list[str]]:
    """The bag of each clip that could be written, by its place, and lines about the others."""
    by_recording: dict[Path, list[tuple[int, Stretch]]] = {}
    notes, margin = [], round(export.margin_s * 1e9)
    for place, (one, here) in enumerate(zip(found, lying, strict=True)):
        if here is None:
            notes.append(f'clip {place + 1} is not exported: {one.missing}')
            continue
        path = export.folder / f'{place + 1:03d}_{here.path.stem}_{max(0.0, one.since_start_s or 0.0):.0f}s'
        if path.exists():
            raise BagError(f'{path}: exists already; remove it, or give another folder with --export')
        stretch = Stretch(one.clip.start_ns + here.ahead_ns - margin, one.clip.end_ns + here.ahead_ns + margin, path)
        by_recording.setdefault(here.path, []).append((place, stretch))
    written: dict[int, Path] = {}
    for recording, clips in by_recording.items():
        notes += write_clips(recording, [stretch for _, stretch in clips], export.topics)
        written |= {place: stretch.path for place, stretch in clips}
    return written, notes
