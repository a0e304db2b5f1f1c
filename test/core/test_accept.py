"""What a person finds harmless does not raise the alarm again; other things do."""

from __future__ import annotations

import numpy as np
import pytest

from semanom_ros.core.database import NominalDatabase
from semanom_ros.core.frames import Frame


def striped(world, image, x, y, size=32):
    """Another thing than the checkered square of `world.with_thing`."""
    result = image.copy()
    stripes = np.indices((size, size))[0] // 4 % 2
    result[y:y + size, x:x + size] = np.where(stripes[..., None] > 0, [255, 255, 0], [0, 0, 255])
    return result


@pytest.mark.parametrize('variant', ['grid', 'instance'])
def test_an_accepted_alarm_does_not_come_back(world, variant):
    settings = world.parameters(variant=variant, filter_temporal=False)
    pipeline = world.pipeline(settings)
    frame = Frame(world.with_thing(world.street(200), 64, 48), 200 * 10**9, topic='/camera', source='later')
    flagged = pipeline.process(frame)
    assert flagged.anomalous
    addition = pipeline.evidence_for(frame, flagged)
    assert 0 < len(addition.vectors) < 0.4 * flagged.patch_map.size
    assert pipeline.database.accept([addition]) == 2
    after = pipeline.with_database(pipeline.database.path)
    again = Frame(world.with_thing(world.street(201), 64, 48), 201 * 10**9, topic='/camera')
    assert not after.process(again).anomalous
    assert after.process(again).score < 0.7 * flagged.score
    other = after.process(Frame(striped(world, world.street(202), 64, 48), 202 * 10**9))
    assert other.anomalous
    reviewed = NominalDatabase.open(pipeline.database.path).frames()[-1]
    assert reviewed.record.source == 'reviewed:later'
    # what was accepted lies where the thing was
    x, y = (reviewed.positions * (160, 120)).T
    assert ((x > 64 - 10) & (x < 96 + 10) & (y > 48 - 10) & (y < 80 + 10)).mean() > 0.7


def test_what_is_accepted_without_the_filter_is_all_above_the_threshold(world):
    pipeline = world.pipeline(world.parameters(filter_temporal=False, filter_spatial=False))
    frame = Frame(world.with_thing(world.street(200), 64, 48), 200 * 10**9, topic='/camera')
    flagged = pipeline.process(frame)
    addition = pipeline.evidence_for(frame, flagged)
    assert len(addition.vectors) <= (flagged.patch_map > flagged.pixel_threshold).sum()
    assert addition.frame.source == 'live:/camera'
    assert addition.thumbnail is not None
