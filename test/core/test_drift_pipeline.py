"""Drift through the pipeline: the reference of a real database, and what becomes of it when the database changes."""

from __future__ import annotations

import re

import numpy as np
import pytest

from semanom_ros import cli
from semanom_ros.core.curation import operations
from semanom_ros.core.curation.coverage import coverage
from semanom_ros.core.drift.drift_monitor import DriftState
from semanom_ros.core.drift.drift_reference import DriftReference
from semanom_ros.core.frames import Frame
from semanom_ros.core.pipeline import CameraState, Judge, evidence_for
from semanom_ros.errors import DatabaseError

SECOND = 10**9


@pytest.mark.parametrize('variant', ['grid', 'instance'])
def test_a_drive_like_the_recorded_one_with_things_on_it_is_told_from_a_darker_one(world, variant):
    judge, state = world.judge(world.settings(variant=variant), recorded=120, held_out=0), CameraState()
    assert judge.drift_reference is not None
    assert judge.drift_reference.frames == 120
    drifts = []
    for second in range(40):
        picture = world.street(400 + second)
        if 12 <= second < 18:
            picture = world.with_thing(picture, 20 + 10 * (second - 12), 48)
        drifts.append(judge.process(Frame(picture, (1000 + second) * SECOND), state).drift)
    assert {drift.state for drift in drifts[6:]} == {DriftState.LIKE_NOMINAL}
    for second in range(40, 85):
        picture = world.street(400 + second) // 3
        drifts.append(judge.process(Frame(picture, (1000 + second) * SECOND), state).drift)
    assert drifts[-1].state is DriftState.DRIFTING
    assert abs(drifts[-1].since_ns / SECOND - 1040) <= 6


def test_it_goes_on_with_other_live_settings_and_after_a_person_accepted_something(world):
    judge, state = world.judge(recorded=120, held_out=0), CameraState()
    for second in range(20):
        judge.process(Frame(world.street(400 + second), (1000 + second) * SECOND), state)
    frame = Frame(world.with_thing(world.street(500), 64, 48), 1020 * SECOND, topic='/camera', source='later')
    flagged = judge.process(frame, state)
    accepted = judge.accepting([evidence_for(frame, flagged)])
    assert accepted.drift_reference is judge.drift_reference
    for after in (accepted, judge.live({'drift_level': 0.001})):
        drift = after.process(Frame(world.street(501), 1022 * SECOND), state).drift
        assert drift.state is DriftState.LIKE_NOMINAL  # nothing of what was seen is forgotten
    assert not Judge.load(judge.settings, accepted.database.path, judge.embedder).process(
        Frame(world.street(502), 1030 * SECOND), CameraState()).drift.what


def test_an_appended_database_has_a_reference_of_all_its_drives(world):
    settings = world.settings()
    database = world.database(settings, recorded=80, held_out=0)
    before, _ = DriftReference.from_arrays(database.calibration)
    other = world.database(settings, name='other', recorded=90, held_out=0,
                           frame=lambda i: Frame(world.street(1000 + i), i * SECOND))
    operations.merge(database.path, [other.path])
    judge = Judge.load(settings, database.path, world.embedder(settings))
    assert before is not None
    assert judge.drift_reference is not None
    assert judge.drift_reference.frames > before.frames


def test_a_calibration_without_a_reference_says_that_it_must_be_made_anew(world):
    database = world.database(recorded=80, held_out=0)
    arrays = {name: array for name, array in database.calibration.items() if not name.startswith('drift_')}
    made, doubt = DriftReference.from_arrays(arrays)
    assert made is None
    assert 'run semanom db calibrate' in doubt
    database.calibration = arrays
    judge = Judge(world.embedder(world.settings()), database, world.settings())
    assert doubt in judge.warnings
    assert judge.process(Frame(world.street(300), 1000 * SECOND), CameraState()).drift.state is DriftState.UNKNOWN
    with pytest.raises(DatabaseError, match='run semanom db calibrate'):
        coverage(database)


def test_coverage_finds_the_stretch_that_is_unlike_the_rest_and_says_what_to_record(world, capsys):
    def picture(second: int) -> np.ndarray:
        return world.street(second) // 3 if 60 <= second < 63 else world.street(second)

    database = world.database(recorded=140, held_out=0, picture=picture)
    found = coverage(database)
    assert found.stretches[0].start_s == 60
    assert found.stretches[0].ratio > 1.4
    assert found.stretches[1].ratio < 1.2
    dark = found.lights[0]
    assert dark.name == 'dark'
    assert 0 < dark.share < 0.1
    assert found.regions.shape == (3, 4)
    assert cli.main(['db', 'coverage', str(database.path)]) == 0
    printed = capsys.readouterr().out.strip().splitlines()
    assert len([line for line in printed if re.match(' +(upper|middle|lower) ', line)]) == 3
    assert printed[-1].startswith('Record next the streets of drive /camera at 60 to ')
    assert 'a drive where it is dark' in printed[-1]
    assert printed[-1].count('.') >= 1


def test_coverage_of_a_database_that_cannot_be_compared_with_itself_is_one_line(world, capsys):
    database = world.database(recorded=3, held_out=0)
    assert cli.main(['db', 'coverage', str(database.path)]) == 2
    assert capsys.readouterr().err.strip().count('\n') == 0
