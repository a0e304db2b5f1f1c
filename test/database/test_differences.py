"""Diff: what is new, what went, and how much of that the other side covers."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from semanom_ros import cli
from semanom_ros.core.curation import operations
from semanom_ros.core.curation.differences import MOST_SHOWN, Version, difference
from semanom_ros.core.curation.publishing import Recipe
from semanom_ros.core.curation.selection import Selection
from semanom_ros.core.curation.writer import DatabaseWriter
from semanom_ros.core.database.nominal_database import PLAIN, NominalDatabase
from semanom_ros.core.database.published import read_manifest, read_version
from semanom_ros.core.database.storage import FrameRecord, NominalAddition, thumbnail
from semanom_ros.errors import DatabaseError

SECOND = 10**9
CENTRES = 8


def street(place: int, count: int, bag: str, topic: str = '/front', first: int = 0):
    """Frames whose embeddings lie round one of some places; another place is at a right angle to it."""
    picture = np.full((12, 16, 3), (30 * place, 90, 60), np.uint8)
    for i in range(count):
        noise = np.random.default_rng(1000 * place + i).standard_normal((6, 16)) * 0.02
        vectors = np.eye(16)[place * 2] + noise
        vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
        boxes = np.array([[40 * n, 20, 40, 30] for n in range(6)], np.int32)
        yield NominalAddition(FrameRecord(f'/drives/{bag}', (bag * 64)[:64], topic, (first + i) * SECOND, (480, 640)),
                              vectors, boxes, np.full((6, 2), 0.5, np.float32), thumbnail(picture, 160))


@pytest.fixture
def recorded(description):
    """Records frames into a database: recorded(path, frames)."""

    def made(path: Path, frames) -> Path:
        with DatabaseWriter.begin(path, description, append=True) as writer:
            for frame in frames:
                writer.add(frame)
            writer.commit(Recipe(PLAIN))
        return path

    return made


def current(path: Path, number: int | None = None) -> Version:
    return Version(path, read_version(path, number))


def test_what_is_new_and_how_much_of_it_was_covered(tmp_path, recorded):
    path = recorded(tmp_path / 'database', street(0, 20, 'a'))
    recorded(path, [*street(0, 10, 'b', first=50), *street(1, 5, 'b', '/rear')])
    found = difference(current(path, 1), current(path))
    assert not found.gone
    assert (found.total.before.frames, found.total.after.frames) == (20, 35)
    assert (found.total.after.own_frames, found.total.after.own_vectors, found.total.after.compared) == (15, 90, 15)
    assert (found.total.before.own_frames, found.total.before.covered, found.total.before.distance) == (0, None, None)
    front, rear = found.cameras
    assert (front.topic, front.before.frames, front.after.frames, front.after.own_frames) == ('/front', 20, 30, 10)
    assert (rear.topic, rear.before.frames, rear.after.own_frames) == ('/rear', 0, 5)
    assert front.after.covered > 0.8, 'the same street'
    assert rear.after.covered == 0
    assert rear.after.distance == pytest.approx(1, abs=0.1), 'at a right angle'
    assert {(one.source, one.topic) for one in found.recordings} == {
        ('/drives/a', '/front'), ('/drives/b', '/front'), ('/drives/b', '/rear')}
    # what resembles it least comes first, no two of one moment, with its picture and the nearest that there was
    assert [one.record.topic for one in found.new[:2]] == ['/rear', '/rear']
    for before, after in zip(found.new[:2], found.new[1:2], strict=False):
        assert abs(before.record.stamp_ns - after.record.stamp_ns) > 2 * SECOND
    first = found.new[0]
    assert first.picture
    assert first.nearest.source == '/drives/a'
    assert first.farthest == pytest.approx(first.nearest.distance)
    assert first.box in {(40 * n, 20, 40, 30) for n in range(6)}


def test_what_went(tmp_path, recorded):
    path = recorded(tmp_path / 'database', [*street(0, 20, 'a'), *street(1, 20, 'b')])
    operations.remove(path, Selection(('b',)))
    found = difference(current(path, 1), current(path))
    assert not found.new
    assert (found.total.before.own_frames, found.total.after.own_frames) == (20, 0)
    assert found.total.before.covered == 0, 'nothing that is left is like it'
    assert {one.record.source for one in found.gone} == {'/drives/b'}
    assert found.usual[0] is None
    assert found.usual[1] > 0


def test_a_version_and_itself_and_other_files_of_the_same(tmp_path, recorded):
    path = recorded(tmp_path / 'database', [*street(0, 9, 'a'), *street(1, 9, 'b')])
    operations.compact(path, size=20)
    found = difference(current(path, 1), current(path))
    assert (found.total.before.own_frames, found.total.after.own_frames) == (0, 0), 'its frames are still known'
    assert (found.total.before.vectors, found.total.after.vectors) == (108, 20)
    assert found.new == found.gone == ()


def test_a_database_too_small_to_say_what_is_usual(tmp_path, recorded):
    one, other = recorded(tmp_path / 'one', street(0, 1, 'a')), recorded(tmp_path / 'other', street(1, 3, 'b'))
    found = difference(current(one), current(other))
    assert found.usual[0] is None
    assert found.total.after.covered is None, 'unknown, not covered'
    assert found.total.after.distance > 0.5


def test_frames_that_were_reviewed_are_counted_each_time(tmp_path, recorded):
    path = recorded(tmp_path / 'database', street(0, 9, 'a'))
    again = next(street(2, 1, 'a', first=3))
    for _ in range(2):
        operations.accept(NominalDatabase.open(path), [again])
    found = difference(current(path, 2), current(path))
    assert (found.total.after.frames, found.total.after.own_frames) == (11, 1)
    assert found.new[0].record.source == 'reviewed:/drives/a'


def test_no_more_pictures_than_fit_a_page(tmp_path, recorded):
    one = recorded(tmp_path / 'one', street(0, 9, 'a'))
    other = recorded(tmp_path / 'other', (
        addition for place in range(CENTRES) for addition in street(place, 12, f'{place}')))
    assert len(difference(current(one), current(other)).new) == MOST_SHOWN


def test_what_cannot_be_compared_is_one_line(tmp_path, recorded, description):
    one = recorded(tmp_path / 'one', street(0, 9, 'a'))
    with DatabaseWriter.begin(tmp_path / 'other', replace(description, encoder='timm:large')) as writer:
        for frame in street(0, 3, 'b'):
            writer.add(frame)
        writer.commit()
    with pytest.raises(DatabaseError) as caught:
        difference(current(one), current(tmp_path / 'other'))
    assert str(caught.value) == (f'{tmp_path / "other"}: encoder: found timm:large, expected timm:small as in {one}; '
                                 'compare databases of one encoder and variant')
    file = one / 'v000001' / 'recorded' / 'boxes.i32'
    file.write_bytes(file.read_bytes()[:-1] + b'!')
    with pytest.raises(DatabaseError, match=r'boxes\.i32: found SHA-256'):
        difference(current(one), current(one))


# -- on the command line


def test_the_command(tmp_path, recorded, capsys):
    path = recorded(tmp_path / 'database', street(0, 20, 'a'))
    assert cli.main(['db', 'diff', str(path)]) == 2
    assert 'found version 1, expected one that another came before' in capsys.readouterr().err
    recorded(path, street(1, 5, 'b<img>', '/rear'))
    page = tmp_path / 'page.html'
    assert cli.main(['db', 'diff', str(path), '--html', str(page)]) == 0
    out = capsys.readouterr().out
    assert f'{path} version 2 against {path} version 1' in out
    assert 'new: 5 frames with 30 embeddings; 0% of them covered by database version 1 (within ' in out
    assert 'gone: no frame' in out
    assert re.search(r'^ +0 +5 +5 +0% +0 +- +0 +30  /drives/b<img> /rear$', out, re.MULTILINE)
    written = page.read_text()
    assert written.count('data:image/jpeg;base64,') == 4, 'two moments, each beside what it resembles most'
    assert '<img>' not in written.replace('<img src=', '')
    assert 'http' not in written, 'it needs nothing else'
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ['page.html']
    assert cli.main(['db', 'diff', str(path), '--json', '--from', '1', '--to', '2']) == 0
    told = json.loads(capsys.readouterr().out)
    assert told['total']['after']['own_frames'] == 5
    assert told['before']['version'] == 1
    assert told['new'][0]['nearest']['source'] == '/drives/a'
    assert cli.main(['db', 'diff', str(path), str(path), '--to', '1']) == 0
    assert 'gone: 5 frames' in capsys.readouterr().out
    assert cli.main(['db', 'diff', str(path), '--from', '7']) == 2
    assert 'version: found 7, expected one before 2 that keeps its files (1)' in capsys.readouterr().err
    assert cli.main(['db', 'diff', str(path), '--html', str(tmp_path / 'nowhere' / 'page.html')]) == 2
    assert 'page.html: not written' in capsys.readouterr().err
    assert read_manifest(path).version == 2
