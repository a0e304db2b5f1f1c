"""The difference of two versions of a database as text, JSON and a page."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from semanom_ros import __version__
from semanom_ros.core.curation.differences import USUAL, Difference, Held, OwnFrame, Stream, Version
from semanom_ros.core.picture_decoder import decode_thumbnail
from semanom_ros.errors import DatabaseError


def as_text(found: Difference) -> list[str]:
    """For people, in lines."""
    total = found.total
    lines = [f'{found.after} against {found.before}',
             *(f'  {sentence}' for sentence in (_sentence('new', total.after, found.before, found.usual[0]),
                                                _sentence('gone', total.before, found.after, found.usual[1]))),
             f'  {"frames before":>13} {"now":>9} {"new":>9} {"covered":>8} {"gone":>9} {"covered":>8} '
             f'{"vectors before":>14} {"now":>12}']
    lines += [_row(stream, stream.topic) for stream in found.cameras if len(found.cameras) > 1]
    lines += [_row(stream, f'{stream.source} {stream.topic}') for stream in found.recordings]
    return [*lines, '  covered: of the embeddings in frames that one side alone has, the share that is no farther from '
            f'the other than {USUAL:.0%} of its own are from its rest']


def _sentence(what: str, own: Held, other: Version, usual: float | None) -> str:
    if not own.own_frames:
        return f'{what}: no frame'
    text = f'{what}: {own.own_frames:,} frames with {own.own_vectors:,} embeddings'
    compared = 'them' if own.compared == own.own_frames else f'those in {own.compared:,} frames'
    if own.covered is not None and usual is not None:
        return (f'{text}; {_share(own.covered)} of {compared} covered by {_name(other)} (within {usual:.3g}; '
                f'{own.distance:.3g} away on average)')
    if own.distance is None:
        return f'{text}; none of them could be compared'
    return (f'{text}; {own.distance:.3g} from {_name(other)} on average, which is too small, or too compacted, to say '
            'what is usual in it')


def _name(version: Version) -> str:
    return f'{version.path.name} version {version.manifest.version}'


def _row(stream: Stream, name: str) -> str:
    before, after = stream.before, stream.after
    return (f'  {before.frames:>13,} {after.frames:>9,} {after.own_frames:>9,} {_share(after.covered):>8} '
            f'{before.own_frames:>9,} {_share(before.covered):>8} {before.vectors:>14,} {after.vectors:>12,}  {name}')


def _share(share: float | None) -> str:
    return '-' if share is None else f'{share:.0%}'


def as_json(found: Difference) -> dict[str, Any]:
    """What JSON can hold of it: all but the pictures."""
    def version(one: Version) -> dict[str, Any]:
        own = one.manifest.versions[-1]
        return {'path': str(one.path), **asdict(own)}

    def frames(own: Sequence[OwnFrame]) -> list[dict[str, Any]]:
        return [{'source': one.record.source, 'topic': one.record.topic, 'stamp_ns': one.record.stamp_ns,
                 'covered': one.covered, 'distance': one.distance, 'farthest': one.farthest, 'box': one.box,
                 'nearest': {'source': one.nearest.source, 'topic': one.nearest.topic,
                             'stamp_ns': one.nearest.stamp_ns, 'box': one.nearest.box}} for one in own]

    return {'before': version(found.before), 'after': version(found.after),
            'usual': {'before': found.usual[0], 'after': found.usual[1]}, 'total': asdict(found.total),
            'cameras': [asdict(stream) for stream in found.cameras],
            'recordings': [asdict(stream) for stream in found.recordings],
            'new': frames(found.new), 'gone': frames(found.gone)}


def write_page(path: Path, found: Difference) -> None:
    """Writes one HTML file that needs nothing else.

    Raises:
        DatabaseError: it cannot be written.
    """
    environment = Environment(loader=PackageLoader('semanom_ros.commands'), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)
    several = len(found.cameras) > 1
    page = environment.get_template('database_difference.html').render(
        found=found, version=__version__, share=_share, usual=USUAL, sentences=(
            _sentence('new', found.total.after, found.before, found.usual[0]),
            _sentence('gone', found.total.before, found.after, found.usual[1])),
        groups=(('New', [_card(one, several) for one in found.new], _name(found.before)),
                ('Gone', [_card(one, several) for one in found.gone], _name(found.after))))
    beside = path.with_name(f'{path.name}.new')
    try:
        beside.write_text(page, encoding='utf-8')
        beside.replace(path)
    except OSError as error:
        with suppress(OSError):
            beside.unlink()
        raise DatabaseError(f'{path}: not written ({error.strerror}); make room or give another file') from error


def _card(one: OwnFrame, several: bool) -> dict[str, Any]:
    """What the page shows of a frame, and of what it resembles most; with their cameras, where there are several."""
    height, width = one.record.image_size
    return {'frame': one, 'picture': _picture(one.picture, one.box, (height, width)),
            'nearest': _picture(one.nearest.thumbnail, one.nearest.box, one.nearest.image_size),
            'caption': _caption(one.record.source, one.record.topic if several else '', one.record.stamp_ns),
            'other': _caption(one.nearest.source, one.nearest.topic if several else '', one.nearest.stamp_ns)}


def _caption(source: str, topic: str, stamp_ns: int) -> str:
    when = datetime.fromtimestamp(stamp_ns / 1e9, timezone.utc).strftime('%Y-%m-%d %H:%M:%S')
    return f'{Path(source).name}, {when} UTC' + (f' ({topic})' if topic else '')


def _picture(content: bytes, box: tuple[int, int, int, int], image_size: tuple[int, int]) -> dict[str, Any] | None:
    """A picture inside the page, and the box in it in percent; None where none was kept, or it is none."""
    if not content or decode_thumbnail(content) is None:
        return None
    height, width = image_size
    x, y, box_width, box_height = box
    return {'uri': 'data:image/jpeg;base64,' + base64.b64encode(content).decode(),
            'left': 100 * x / width, 'top': 100 * y / height, 'width': 100 * box_width / width,
            'height': 100 * box_height / height}
