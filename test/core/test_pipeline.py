"""Frames through the whole pipeline, against real databases."""

from __future__ import annotations

import dataclasses
import math
import re

import numpy as np
import pytest

from semanom_ros.core import pipeline
from semanom_ros.core.database.storage import Part
from semanom_ros.core.frames import Frame, Segments
from semanom_ros.core.pipeline import CameraState, Judge
from semanom_ros.core.results import Reason, Verdict
from semanom_ros.errors import DatabaseError, ParameterError


def weakly(judge, frame, score=1.05):
    """Scores of a frame as if its frame score were this one: no single look at that is enough."""
    scores = judge.score(judge.embedder.embed([frame])[0])
    ratio = score / scores.score
    return dataclasses.replace(scores, score=score, scores=scores.scores * np.float32(ratio))


def distances(scores):
    """(rows, columns) distance of each patch."""
    return scores.distances[scores.queries.owners]


@pytest.mark.parametrize('variant', ['grid', 'instance'])
def test_a_planted_thing_is_found_where_it_is(world, variant):
    judge, state = world.judge(
        world.settings(variant=variant, filter_temporal=False, false_alarm_rate=0.02)), CameraState()
    clean = judge.process(Frame(world.street(1000), 0), state)
    found = judge.process(Frame(world.with_thing(world.street(1001), 96, 40), 10**9), state)
    assert found.anomalous
    assert found.score > 1 > clean.score
    assert found.p_value == pytest.approx(1 / 41)
    strongest = found.anomalies[0]
    x, y, w, h = strongest.box
    assert 90 <= x + w / 2 <= 134
    assert 34 <= y + h / 2 <= 78
    assert found.mask[56, 112] == 255
    assert found.mask[:20, :60].max() == 0
    assert strongest.area == found.mask.astype(bool).sum()
    assert np.abs(strongest.contour - [112, 56]).max() < 40
    assert found.anomaly_map.shape == (120, 160)


def test_the_nearest_nominal_example_is_shown(world):
    judge = world.judge(world.settings(filter_temporal=False))
    anomaly = judge.process(Frame(world.with_thing(world.street(1), 96, 40), 0), CameraState()).anomalies[0]
    assert anomaly.nearest is not None
    assert anomaly.nearest.source == 'drive'
    assert anomaly.nearest.stamp_ns % 10**9 == 0
    assert anomaly.nearest.distance == anomaly.raw_score
    # the stored JPEG, byte for byte: nobody decodes it who does not show it
    part = Part(judge.database.path, 'v000001/recorded', 32)
    assert anomaly.nearest.thumbnail == part.thumbnail(anomaly.nearest.stamp_ns // 10**9)
    assert anomaly.nearest.thumbnail.startswith(b'\xff\xd8\xff')
    assert anomaly.nearest.image_size == (120, 160)


def test_what_is_recorded_has_no_distance(world):
    """Recorder and detector see a frame alike: a recorded picture is found again exactly."""
    judge = world.judge()
    scores = judge.score(judge.embedder.embed([Frame(world.street(7), 0)])[0])
    assert distances(scores).shape == (12, 16)
    assert scores.distances.max() < 1e-5
    assert scores.score == 0


def test_scores_do_not_depend_on_the_batch(world):
    judge = world.judge()
    frames = [Frame(world.with_thing(world.street(i), 20 * i, 30), i) for i in range(3)]
    together = [judge.score(embedding) for embedding in judge.embedder.embed(frames)]
    alone = [judge.score(judge.embedder.embed([frame])[0]) for frame in frames]
    for one, other in zip(together, alone, strict=True):
        assert one.score == pytest.approx(other.score, abs=1e-4)
        np.testing.assert_allclose(distances(one), distances(other), atol=1e-5)


def test_frames_of_other_sizes_get_the_same_score(world):
    judge, state = world.judge(world.settings(filter_temporal=False)), CameraState()
    image = world.with_thing(world.street(1), 96, 40)
    small = judge.process(Frame(image, 0), state)
    large = judge.process(Frame(image.repeat(3, axis=0).repeat(3, axis=1), 0), state)
    assert large.anomaly_map.shape == (360, 480)
    assert large.anomalous
    x, _, w, _ = large.anomalies[0].box
    assert 90 <= (x + w / 2) / 3 <= 134
    assert large.score == pytest.approx(small.score, rel=0.2)


def test_cameras_have_tracks_of_their_own(world):
    judge, of_front, of_rear = world.judge(), CameraState(), CameraState()
    image = world.with_thing(world.street(1), 96, 40)

    def look(tenths, camera, state):
        return judge.filter(weakly(judge, Frame(image, tenths * 10**8, camera=camera)), state)

    for tenths in range(11):
        front = look(tenths, 'front', of_front)
    assert front.anomalous
    assert front.anomalies[0].track_id == 1
    assert front.anomalies[0].age_ns == 1_000_000_000
    assert not look(11, 'rear', of_rear).anomalous
    assert look(11, 'front', of_front).anomalous
    assert not look(12, 'front', CameraState()).anomalous, 'a new state knows nothing'


def test_what_is_held_back_says_why(world):
    """Above the threshold, and nominal: with the reason, what it is waiting for, and the regions."""
    frame = Frame(world.with_thing(world.street(1), 96, 40), 10**9)

    def held_back(**given):
        judge = world.judge(world.settings(**given), name=str(given))
        result = judge.filter(weakly(judge, frame), CameraState())
        assert result.score > 1
        assert result.held_back
        assert not result.regions
        assert any(x <= 112 < x + w and y <= 56 < y + h for x, y, w, h in (r.box for r in result.held_back_regions))
        return result

    waiting = held_back()
    assert waiting.reason is Reason.UNCONFIRMED
    assert re.fullmatch(r'evidence [0-9.]+ of 10, seen in 1 of 1 frames', waiting.explanation)
    small = held_back(filter_min_area=0.9)
    assert small.reason is Reason.TOO_SMALL
    assert 'filter_min_area 0.9' in small.explanation
    assert held_back(filter_border=0.4).reason is Reason.AT_BORDER


def test_what_is_not_held_back_has_no_reason(world):
    judge, image = world.judge(), world.with_thing(world.street(1), 96, 40)
    for frame in (Frame(image, 10**9), Frame(world.street(1000), 10**9)):
        result = judge.process(frame, CameraState())
        assert (result.reason, result.explanation, result.held_back) == (Reason.NONE, '', False)


@pytest.mark.parametrize('variant', ['grid', 'instance'])
def test_a_strong_anomaly_is_reported_in_its_first_frame(world, variant):
    """At the defaults, though nothing came before; and again ten seconds later, where each frame is all there is."""
    judge, state = world.judge(world.settings(variant=variant)), CameraState()
    image = world.with_thing(world.street(1), 96, 40)
    assert not judge.process(Frame(world.street(1000), 10**9), state).anomalous
    assert judge.process(Frame(image, 11 * 10**9), state).anomalous
    assert judge.process(Frame(image, 21 * 10**9), state).anomalous


@pytest.mark.parametrize('stamp_ns', [0, 5 * 10**9])
def test_standing_stamps_do_not_silence_the_filter(world, stamp_ns):
    """Weak evidence adds up by the time of reception."""
    judge, state, image = world.judge(), CameraState(), world.with_thing(world.street(1), 96, 40)
    frames = [Frame(image, stamp_ns, received_ns=(number + 1) * 10**8) for number in range(11)]
    verdicts = [judge.filter(weakly(judge, frame), state).anomalous for frame in frames]
    assert not verdicts[0]
    assert verdicts[-1]


def test_what_was_followed_below_the_level_is_reported_as_soon_as_it_is_above(world):
    """The same frame in the end: after a second just below the alarm level, and after a second of empty street."""
    judge = world.judge(world.settings(false_alarm_rate=0.02))
    image = world.with_thing(world.street(1), 96, 40)

    def last(before):
        state = CameraState()
        for number in range(10):
            assert not judge.filter(weakly(judge, Frame(image, number * 10**8), before), state).anomalous
        return judge.filter(weakly(judge, Frame(image, 10**9), 1.01), state).anomalous

    assert last(0.95)
    assert not last(0.1)


def test_labels_come_from_the_vocabulary(world, tmp_path):
    vocabulary = tmp_path / 'labels.txt'
    vocabulary.write_text('# things\ncow\nsofa\n\n')
    settings = world.settings(filter_temporal=False, label_vocabulary=str(vocabulary))
    judge = world.judge(settings)
    anomaly = judge.process(Frame(world.with_thing(world.street(1), 96, 40), 0), CameraState()).anomalies[0]
    assert anomaly.label in ('cow', 'sofa')
    assert -1 <= anomaly.label_score <= 1
    vocabulary.write_text('# nothing\n')
    with pytest.raises(ParameterError, match='holds no label'):
        Judge.load(settings, tmp_path / 'database', judge.embedder)


def test_a_database_of_the_other_variant_is_refused(world):
    path = world.database().path
    instance = world.settings(variant='instance')
    with pytest.raises(DatabaseError, match=r'variant.*grid.*instance') as caught:
        Judge.load(instance, path, world.embedder(instance))
    assert '\n' not in str(caught.value)


def test_one_recorded_frame_is_enough_to_compare_with(world):
    """Without held-out frames there is a distance, but no verdict."""
    judge = world.judge(recorded=1, held_out=0)
    assert 'not calibrated' in judge.warnings[0]
    result = judge.process(Frame(world.street(1), 0), CameraState())
    assert (result.verdict, result.reason) == (Verdict.UNKNOWN, Reason.NOT_CALIBRATED)
    assert math.isnan(result.p_value)
    assert math.isnan(result.score)
    assert 0 < result.raw_score < 2
    assert result.scores is None


def test_few_nominal_frames_are_said_to_be_few(world):
    judge = world.judge(world.settings(false_alarm_rate=0.01), held_out=5)
    assert 'the lowest that 5 nominal frames support' in judge.warnings[0]
    assert judge.process(Frame(world.with_thing(world.street(1), 96, 40), 0), CameraState()).score > 1
    assert len(judge.live({'false_alarm_rate': 0.2}).warnings) < len(judge.warnings)


def test_only_live_parameters_change(world):
    judge = world.judge()
    before = judge.score(judge.embedder.embed([Frame(world.with_thing(world.street(1), 96, 40), 0)])[0])
    with pytest.raises(ParameterError, match='encoder'):
        judge.live({'encoder': 'other', 'false_alarm_rate': 0.5})
    with pytest.raises(ParameterError, match='false_alarm_rate'):
        judge.live({'false_alarm_rate': 2.0})
    changed = judge.live({'false_alarm_rate': 0.5})
    assert changed.settings.alarm.false_alarm_rate == 0.5
    assert judge.settings.alarm.false_alarm_rate == 0.05
    after = changed.score(before.embedding)
    assert after.score > before.score  # a lower alarm level
    assert changed.filter(after, CameraState()).threshold == judge.filter(before, CameraState()).threshold == 1
    assert judge.score(before.embedding).score == before.score


def test_other_parameters_than_recorded_with_calibrate_anew(world):
    path = world.database().path
    other = world.settings(neighbours=3, calibrate_by_region=False)
    fresh = world.judge(other, name='fresh')
    again = Judge.load(other, path, fresh.embedder)
    embedding = fresh.embedder.embed([Frame(world.with_thing(world.street(1), 96, 40), 0)])[0]
    assert again.score(embedding).score == pytest.approx(fresh.score(embedding).score, rel=1e-5)


def test_the_stored_calibration_serves_whoever_asks_for_what_it_was_made_for(world, monkeypatch):
    asked, settings = [], world.settings()
    monkeypatch.setattr(pipeline, 'calibrate', lambda *arguments: asked.append(arguments) or {})
    database = world.database(settings)
    for same in (settings, settings.changed({'false_alarm_rate': 0.2, 'filter_border': 0.1, 'precision': 'fp32'})):
        pipeline.calibration_of(database, same)
    assert not asked
    others = {'neighbours': 2, 'density_neighbours': 3, 'frame_score_fraction': 0.1, 'calibrate_by_region': False,
              'plausibility': False, 'standardize': False, 'position_weight': 0.1, 'scale_weight': 0.1}
    for number, (name, value) in enumerate(others.items(), 1):
        pipeline.calibration_of(database, settings.changed({name: value}))
        assert len(asked) == number, name


def test_a_known_thing_of_unknown_size_is_nearer_without_scale_weight(world):
    """A segment that looks like the street, but is four times as high and wide as any that was recorded."""
    image = np.full((world.height, world.width, 3), 90, np.uint8)

    def frame(side: int, second: int) -> Frame:
        labels = np.zeros((world.height, world.width), np.int32)
        labels[20:20 + side, 20:20 + side] = 1
        return Frame(image, second * 10**9, segments=Segments(labels, np.ones(1, np.float32), ('thing',)))

    asked = world.settings(variant='instance', segmenter='topic', standardize=False, calibrate_by_region=False)
    database = world.database(asked, recorded=6, held_out=2, frame=lambda second: frame(16, second))
    found = {}
    for weight in (0.0, 0.1):
        judge = Judge.load(asked.changed({'scale_weight': weight}), database.path, world.embedder(asked))
        for side in (16, 64):
            found[weight, side] = float(judge.score(judge.embedder.embed([frame(side, 9)])[0]).distances[0])
    assert found[0.0, 16] == found[0.1, 16] == found[0.0, 64] == pytest.approx(0, abs=1e-5)
    # the nearest in size is a single patch of 1/192 of the image, or the thing of 16 pixels
    assert found[0.1, 64] == pytest.approx(0.1 * np.log2(64 / 16) ** 2, rel=1e-3)


def test_a_result_is_complete_when_it_is_made(world):
    """Its parts agree: the map enlarged, the mask of the regions, the anomalies one for each region."""
    judge = world.judge(world.settings(filter_temporal=False))
    result = judge.process(Frame(world.with_thing(world.street(1), 96, 40), 0), CameraState())
    assert result.mask.dtype == np.uint8
    assert set(np.unique(result.mask)) == {0, 255}
    assert len(result.regions) == len(result.anomalies) > 0
    assert (result.mask > 0).sum() == sum(region.area for region in result.regions)
    assert (result.anomaly_map[result.mask > 0] > result.pixel_threshold).all()
    assert result.scores.patches.shape == result.scores.finest.shape == (12, 16)
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.score = 0.0


def test_where_stamps_stand_still_a_frame_is_anomalous_or_unknown(world):
    judge, state = world.judge(world.settings(filter_temporal=False)), CameraState()
    calm, odd = world.street(1), world.with_thing(world.street(1), 96, 40)
    found = [judge.process(Frame(image, stamp), state) for image, stamp in (
        (calm, 5), (calm, 5), (odd, 5), (calm, 6), (calm, 0), (calm, 0))]
    assert [(result.verdict, result.reason) for result in found] == [
        (Verdict.NOMINAL, Reason.NONE), (Verdict.UNKNOWN, Reason.STANDING_STAMPS), (Verdict.ANOMALOUS, Reason.NONE),
        (Verdict.NOMINAL, Reason.NONE), (Verdict.NOMINAL, Reason.NONE), (Verdict.NOMINAL, Reason.NONE)]


@pytest.mark.parametrize(('given', 'reason', 'words'), [
    ({}, Reason.UNCONFIRMED, 'of 10, seen in 1 of 1 frames'),
    ({'filter_temporal': False, 'filter_min_area': 0.9}, Reason.TOO_SMALL, 'smaller than filter_min_area 0.9'),
    ({'filter_min_area': 0.9}, Reason.TOO_SMALL, 'smaller than filter_min_area 0.9'),
    ({'filter_border': 0.4}, Reason.AT_BORDER, 'within filter_border 0.4')])
def test_what_the_filter_drops_is_held_back_with_its_reason(world, given, reason, words):
    judge = world.judge(world.settings(**given))
    frame = Frame(world.with_thing(world.street(1), 110, 40), 0)
    result = judge.filter(weakly(judge, frame), CameraState()) if not given else judge.process(frame, CameraState())
    assert (result.verdict, result.reason, result.held_back) == (Verdict.NOMINAL, reason, True)
    assert words in result.explanation
    assert (result.anomalies, result.regions) == ((), ())
    (region,) = result.held_back_regions
    x, y, w, h = region.box
    assert abs(x + w / 2 - 126) < 12
    assert abs(y + h / 2 - 56) < 12
    open_ = judge.live({'filter_spatial': False, 'filter_temporal': False})
    alarm = open_.process(Frame(world.with_thing(world.street(1), 110, 40), 0), CameraState())
    assert (alarm.verdict, alarm.reason, alarm.held_back_regions) == (Verdict.ANOMALOUS, Reason.NONE, ())
