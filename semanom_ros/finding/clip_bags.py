"""Clips of recordings as recordings of their own, with the original messages."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from semanom_ros.errors import BagError
from semanom_ros.recordings.bags import BagReader, BagWriter

LATCHED = ('/tf_static', '/robot_description', '/map')
"""Topics whose messages hold from then on: a clip has those that came before it, too."""


class Stretch(NamedTuple):
    """A stretch of a recording in bag time, nanoseconds, and the folder that it is written to."""

    start_ns: int
    end_ns: int
    path: Path


def write_clips(recording: Path, clips: Sequence[Stretch], topics: Collection[str] = ()) -> list[str]:
    """Writes stretches of a recording as MCAP, in one pass over it, with its own message definitions.

    Args:
        recording: to read.
        clips: what to write, at least one; they may overlap.
        topics: to keep; empty: all.

    Returns:
        Lines about what was left out.

    Raises:
        BagError: a topic is not there, or a clip cannot be written; none of them is left then.
    """
    notes: list[str] = []
    with BagReader(recording) as reader, ExitStack() as stack:
        for topic in topics:
            if topic not in reader.topics:
                raise BagError(f'{recording}: found no topic {topic}, expected one of '
                               f'{", ".join(sorted(reader.topics))}; correct --topics')
        definitions = {}
        for topic in topics or reader.topics:
            try:
                definitions[topic] = reader.definitions(topic)
            except BagError as error:
                notes.append(f'{topic} is left out: {error}')
        writers = [stack.enter_context(BagWriter(clip.path)) for clip in clips]
        for writer in writers:
            for topic, known in definitions.items():
                writer.declare(topic, reader.topics[topic], topic in LATCHED, known)
        last = max(clip.end_ns for clip in clips)
        try:
            for topic, type, time_ns, cdr in reader.raw(definitions):
                if time_ns > last:
                    break
                for clip, writer in zip(clips, writers, strict=True):
                    holds = topic in LATCHED and time_ns < clip.start_ns
                    if holds or clip.start_ns <= time_ns <= clip.end_ns:
                        writer.write_cdr(topic, type, cdr, max(time_ns, clip.start_ns))
        except BagError as error:  # it breaks off; what came before is in the clips
            notes.append(f'{error}; the clips hold what came before')
    return notes
