"""Files of verdicts: appended to, merged by copying, cut by a crash."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest

from semanom_ros.errors import SemanomError
from semanom_ros.review.precision import precision
from semanom_ros.review.verdict_files import Opinion, Thing, VerdictFolder, agreed, beside, disagree, standing

DAY = 86_400 * 10**9


def thing(number: int = 0) -> Thing:
    return Thing('a' * 64, '/camera/image_raw/compressed', 1_700_000_000 * 10**9 + number * DAY, (10, 20, 30, 40))


def test_what_is_added_is_read(tmp_path: Path) -> None:
    own = VerdictFolder(tmp_path / 'verdicts', 'Änne/../x', 'robot')
    added = [own.add(Opinion.NOMINAL, thing(), '/bags/one', score=1.5, kind='sign'),
             own.add(Opinion.MISSED, thing(1), '/bags/one')]
    assert own.read() == added
    assert own.own.parent == own.path  # whatever an author is called
    assert [path.name for path in own.path.iterdir()] == [own.own.name]


def test_folders_are_merged_by_copying(tmp_path: Path) -> None:
    one, two = (VerdictFolder(tmp_path / name, name, 'robot') for name in ('anna', 'ben'))
    one.add(Opinion.NOMINAL, thing(), 'a')
    two.add(Opinion.ANOMALY, thing(), 'a', kind='cow')
    two.add(Opinion.ANOMALY, thing(1), 'a', kind='cow')
    one.add(Opinion.SKIP, thing(1), 'a')
    shutil.copy(two.own, one.path)
    shutil.copy(two.own, one.path / 'the same once more.jsonl')
    (one.path / 'notes.txt').write_text('not a verdict')
    read = one.read()
    assert [verdict.order for verdict in read] == sorted(verdict.order for verdict in read)
    assert len(read) == 4
    counts = standing(read)
    assert disagree(counts[thing()])
    assert agreed(counts[thing()]) is None
    assert agreed(counts[thing(1)]).kind == 'cow'  # who skips does not differ


def test_the_latest_of_an_author_counts_and_is_taken_back_by_that_author_alone(tmp_path: Path) -> None:
    anna, ben = VerdictFolder(tmp_path, 'anna', 'm'), VerdictFolder(tmp_path, 'ben', 'm')
    anna.add(Opinion.NOMINAL, thing(), 'a')
    later = anna.add(Opinion.ANOMALY, thing(), 'a')
    ben.revoke(later)
    assert standing(anna.read())[thing()]['anna'].opinion is Opinion.ANOMALY
    anna.revoke(later)
    assert standing(anna.read())[thing()]['anna'].opinion is Opinion.NOMINAL


def test_a_line_that_was_cut_costs_itself_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    own = VerdictFolder(tmp_path, 'anna', 'm')
    first, second = own.add(Opinion.NOMINAL, thing(), 'a'), own.add(Opinion.NOMINAL, thing(1), 'a')
    content = own.own.read_bytes()
    own.own.write_bytes(content[:-20])
    third = own.add(Opinion.SKIP, thing(2), 'a')
    with caplog.at_level(logging.WARNING):
        assert own.read() == [first, third]
    assert len(caplog.records) == 1
    assert '1 of 3 lines' in caplog.text
    own.own.write_bytes(content)
    assert own.read() == [first, second]


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / 'other.jsonl').write_text('{"a": 1}\n[2]\nx\n')
    with pytest.raises(SemanomError, match=r'other\.jsonl: found 3 lines and no verdict .* move the file'):
        VerdictFolder(tmp_path, 'anna', 'm').read()
    (tmp_path / 'file').write_text('')
    with pytest.raises(SemanomError, match='expected a folder'):
        VerdictFolder(tmp_path / 'file')


@pytest.mark.parametrize('bad', [
    {'box': [1, 2, 3]}, {'box': [1, 2, 3, -4]}, {'stamp_ns': 10**30}, {'stamp_ns': True}, {'score': float('nan')},
    {'opinion': 'nothing'}, {'time': 'today'}, {'id': '../x'}, {'author': ''}, {'recording_sha256': 'b'}])
def test_lines_with_bad_fields_are_passed_over(tmp_path: Path, bad: dict) -> None:
    own = VerdictFolder(tmp_path, 'anna', 'm')
    good = own.add(Opinion.NOMINAL, thing(), 'a', score=1.5)
    with open(own.own, 'a') as file:
        file.write(json.dumps({**json.loads(good.line()), 'id': 'c' * 32, **bad}) + '\n')
    assert own.read() == [good]


def test_precision_by_day_and_kind(tmp_path: Path) -> None:
    own = VerdictFolder(tmp_path, 'anna', 'm')
    for number, opinion, kind in ((0, Opinion.ANOMALY, 'cow'), (1, Opinion.NOMINAL, ''), (1, Opinion.NOMINAL, 'sign'),
                                  (2, Opinion.MISSED, 'cow'), (3, Opinion.SKIP, '')):
        own.add(opinion, thing(number), 'a', kind=kind)
    found = precision(own.read())
    assert (found['anomaly'], found['nominal'], found['missed'], found['skipped']) == (1, 1, 1, 1)
    assert found['precision'] == 0.5
    assert list(found['days']) == ['2023-11-14', '2023-11-15', '2023-11-16']
    assert found['days']['2023-11-16']['precision'] is None
    assert found['kinds']['cow'] == {'anomaly': 1, 'nominal': 0, 'missed': 1, 'precision': 1.0}
    assert found['kinds']['sign']['precision'] == 0.0
    assert precision([])['precision'] is None


def test_verdicts_lie_beside_their_database(tmp_path: Path) -> None:
    assert beside(tmp_path / 'nominal') == tmp_path / 'nominal_verdicts'
