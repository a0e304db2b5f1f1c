"""What a person finds harmless does not raise the alarm again; other things do."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from semanom_ros.core.database.nominal_database import NominalDatabase
from semanom_ros.core.embedding.segmenters.segmenter import Segmenter
from semanom_ros.core.frames import Frame, Segments
from semanom_ros.core.pipeline import CameraState, evidence_for


def striped(world, image, x, y, size=32):
    """Another thing than the checkered square of `world.with_thing`."""
    result = image.copy()
    stripes = np.indices((size, size))[0] // 4 % 2
    result[y:y + size, x:x + size] = np.where(stripes[..., None] > 0, [255, 255, 0], [0, 0, 255])
    return result


@pytest.mark.parametrize('variant', ['grid', 'instance'])
def test_an_accepted_alarm_does_not_come_back(world, variant):
    judge, state = world.judge(world.settings(variant=variant, filter_temporal=False)), CameraState()
    frame = Frame(world.with_thing(world.street(200), 64, 48), 200 * 10**9, topic='/camera', source='later')
    flagged = judge.process(frame, state)
    assert flagged.anomalous
    addition = evidence_for(frame, flagged)
    assert 0 < len(addition.vectors) < 0.4 * flagged.scores.patches.size
    again = Frame(world.with_thing(world.street(201), 64, 48), 201 * 10**9, topic='/camera')
    before = judge.process(again, state)
    accepted = judge.accepting([addition])
    assert accepted.database.manifest.version == 2
    for after in (accepted, judge.with_database(judge.database.path)):
        assert not after.process(again, CameraState()).anomalous
        assert after.process(again, CameraState()).score < 0.7 * flagged.score
        other = after.process(Frame(striped(world, world.street(202), 64, 48), 202 * 10**9), CameraState())
        assert other.anomalous
    # a thread that still has the judge from before gets from it what it always got
    assert judge.process(again, state).score == before.score
    assert judge.database.manifest.version == 1
    reviewed = NominalDatabase.open(judge.database.path).frames()[-1]
    assert reviewed.record.source == 'reviewed:later'
    # what was accepted lies where the thing was
    x, y = (reviewed.positions * (160, 120)).T
    assert ((x > 64 - 10) & (x < 96 + 10) & (y > 48 - 10) & (y < 80 + 10)).mean() > 0.7


def test_what_is_accepted_without_the_filter_is_all_above_the_threshold(world):
    judge = world.judge(world.settings(filter_temporal=False, filter_spatial=False))
    frame = Frame(world.with_thing(world.street(200), 64, 48), 200 * 10**9, topic='/camera')
    flagged = judge.process(frame, CameraState())
    addition = evidence_for(frame, flagged)
    assert len(addition.vectors) <= (flagged.scores.patches > flagged.pixel_threshold).sum()
    assert addition.record.source == 'live:/camera'
    assert addition.thumbnail


class Fickle(Segmenter):
    """Other masks each time it is asked: stripes that move on, as no segmenter's that a seed decides."""

    name, max_segments = 'fickle', 16

    def __init__(self) -> None:
        self.asked = 0

    def segment(self, frame: Frame, patches: torch.Tensor) -> Segments:
        self.asked += 1
        height, width = frame.image.shape[:2]
        stripes = ((np.arange(width) + 7 * self.asked) // 20 % 8 + 1).astype(np.int32)
        return Segments(np.ascontiguousarray(np.broadcast_to(stripes, (height, width))), np.ones(8, np.float32),
                        ('',) * 8)


def test_what_is_accepted_is_what_was_judged(world, monkeypatch):
    """No second look at the picture: neither encoder nor segmenter is asked, and no memory of masks is touched."""
    settings = world.settings(variant='instance', filter_temporal=False, segmenter_every_n=3)
    segmenter = Fickle()
    judge = world.judge(settings, world.embedder(settings, segmenter))
    encoded, encode = [], world.encoder.encode
    monkeypatch.setattr(world.encoder, 'encode', lambda images: encoded.append(len(images)) or encode(images))
    state = CameraState()
    frame = Frame(world.with_thing(world.street(200), 64, 48), 200 * 10**9, topic='/camera')
    flagged = judge.process(frame, state)
    assert flagged.anomalous
    asked, seen, remembered = segmenter.asked, list(encoded), state.masks.last
    addition = evidence_for(frame, flagged)
    accepted = judge.accepting([addition])
    assert (segmenter.asked, encoded) == (asked, seen)
    assert state.masks.last is remembered
    # each embedding is one that was compared, of the masks that were found then
    compared = flagged.queries.vectors.numpy()
    for vector, box in zip(addition.vectors.numpy(), addition.boxes, strict=True):
        own = np.flatnonzero((compared == vector).all(axis=1))
        assert (flagged.queries.boxes[own] == box).all(axis=1).any()
    stored = accepted.database.frames()[-1]
    np.testing.assert_array_equal(stored.vectors, addition.vectors.numpy())
    distances, _ = accepted.database.search(addition.vectors, 1, stored.places)
    assert distances.max() < 1e-6
