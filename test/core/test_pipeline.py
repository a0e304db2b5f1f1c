"""Frames through the whole pipeline, against real databases."""

from __future__ import annotations

import json

import numpy as np
import pytest

from semanom_ros.core.curation.recorder import describe
from semanom_ros.core.database import DatabaseWriter, FrameRecord
from semanom_ros.core.frames import Frame, Segments
from semanom_ros.core.pipeline import Pipeline
from semanom_ros.core.scoring.calibration import calibrate, made_for, stored_parameters
from semanom_ros.errors import DatabaseError, ParameterError


@pytest.mark.parametrize('variant', ['grid', 'instance'])
def test_a_planted_thing_is_found_where_it_is(world, variant):
    pipeline = world.pipeline(world.parameters(variant=variant, filter_temporal=False))
    clean = pipeline.process(Frame(world.street(1000), 0))
    found = pipeline.process(Frame(world.with_thing(world.street(1001), 96, 40), 10**9))
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
    pipeline = world.pipeline(world.parameters(filter_temporal=False))
    anomaly = pipeline.process(Frame(world.with_thing(world.street(1), 96, 40), 0)).anomalies[0]
    assert anomaly.nearest is not None
    assert anomaly.nearest.source == 'drive'
    assert anomaly.nearest.stamp_ns % 10**9 == 0
    assert anomaly.nearest.distance == anomaly.raw_score
    assert anomaly.nearest.thumbnail is not None


def test_what_is_recorded_has_no_distance(world):
    """Recorder and detector see a frame alike: a recorded picture is found again exactly."""
    pipeline = world.pipeline()
    scores = pipeline.score(pipeline.embedder.embed([Frame(world.street(7), 0)])[0])
    assert scores.raw_map.shape == (12, 16)
    assert scores.raw_map.max() < 1e-5
    assert scores.score == 0


def test_scores_do_not_depend_on_the_batch(world):
    pipeline = world.pipeline()
    frames = [Frame(world.with_thing(world.street(i), 20 * i, 30), i) for i in range(3)]
    together = [pipeline.score(embedding) for embedding in pipeline.embedder.embed(frames)]
    alone = [pipeline.score(pipeline.embedder.embed([frame])[0]) for frame in frames]
    for one, other in zip(together, alone, strict=True):
        assert one.score == pytest.approx(other.score, abs=1e-4)
        np.testing.assert_allclose(one.raw_map, other.raw_map, atol=1e-5)


def test_frames_of_other_sizes_get_the_same_score(world):
    pipeline = world.pipeline(world.parameters(filter_temporal=False))
    image = world.with_thing(world.street(1), 96, 40)
    small = pipeline.process(Frame(image, 0))
    large = pipeline.process(Frame(image.repeat(3, axis=0).repeat(3, axis=1), 0))
    assert large.anomaly_map.shape == (360, 480)
    assert large.anomalous
    x, _, w, _ = large.anomalies[0].box
    assert 90 <= (x + w / 2) / 3 <= 134
    assert large.score == pytest.approx(small.score, rel=0.2)


def test_cameras_have_tracks_of_their_own(world):
    pipeline = world.pipeline(world.parameters(filter_persistence=0.2))
    image = world.with_thing(world.street(1), 96, 40)
    for stamp in (0, 100_000_000, 200_000_000):
        front = pipeline.process(Frame(image, stamp, camera='front'))
    rear = pipeline.process(Frame(image, 200_000_000, camera='rear'))
    assert front.anomalous
    assert front.anomalies[0].track_id == 1
    assert front.anomalies[0].age_ns == 200_000_000
    assert not rear.anomalous
    assert rear.score > rear.threshold  # surprising, but not yet for long enough
    pipeline.reset('front')
    assert not pipeline.process(Frame(image, 300_000_000, camera='front')).anomalous


def test_labels_come_from_the_vocabulary(world, tmp_path):
    vocabulary = tmp_path / 'labels.txt'
    vocabulary.write_text('# things\ncow\nsofa\n\n')
    pipeline = world.pipeline(world.parameters(filter_temporal=False, label_vocabulary=str(vocabulary)))
    anomaly = pipeline.process(Frame(world.with_thing(world.street(1), 96, 40), 0)).anomalies[0]
    assert anomaly.label in ('cow', 'sofa')
    assert -1 <= anomaly.label_score <= 1
    vocabulary.write_text('# nothing\n')
    with pytest.raises(ParameterError, match='holds no label'):
        Pipeline.load(world.parameters(label_vocabulary=str(vocabulary)), tmp_path / 'database',
                      world.embedder(world.parameters()))


def test_a_database_of_the_other_variant_is_refused(world):
    path = world.database().path
    instance = world.parameters(variant='instance')
    with pytest.raises(DatabaseError, match=r'variant.*grid.*instance') as caught:
        Pipeline.load(instance, path, world.embedder(instance))
    assert '\n' not in str(caught.value)


def test_one_recorded_frame_is_enough_to_compare_with(world):
    """Without held-out frames the verdict falls back to the distance of the unrelated, and says so."""
    pipeline = world.pipeline(recorded=1, held_out=0)
    assert 'not calibrated' in pipeline.warnings[0]
    result = pipeline.process(Frame(world.street(1), 0))
    assert result.p_value == 1
    assert not result.anomalous
    assert result.score == pytest.approx(result.raw_score)


def test_few_held_out_frames_are_said_to_be_few(world):
    pipeline = world.pipeline(held_out=5)
    assert 'extrapolated' in pipeline.warnings[0]
    assert pipeline.process(Frame(world.with_thing(world.street(1), 96, 40), 0)).score > 1
    pipeline.update({'false_alarm_rate': 0.2})
    assert pipeline.warnings == ()


def test_only_live_parameters_change(world):
    pipeline = world.pipeline()
    before = pipeline.score(pipeline.embedder.embed([Frame(world.with_thing(world.street(1), 96, 40), 0)])[0])
    with pytest.raises(ParameterError, match='encoder'):
        pipeline.update({'encoder': 'other', 'false_alarm_rate': 0.5})
    with pytest.raises(ParameterError, match='false_alarm_rate'):
        pipeline.update({'false_alarm_rate': 2.0})
    assert pipeline.parameters['false_alarm_rate'] == 0.05
    pipeline.update({'false_alarm_rate': 0.5})
    after = pipeline.score(before.embedding)
    assert after.score > before.score  # a lower alarm level
    assert after.threshold == before.threshold == 1


def test_other_parameters_than_recorded_with_calibrate_anew(world):
    path = world.database(settings=world.parameters()).path
    other = world.parameters(neighbours=3, calibrate_by_region=False)
    fresh = Pipeline.load(other, world.database('fresh', settings=other).path, world.embedder(other))
    again = Pipeline.load(other, path, world.embedder(other))
    embedding = fresh.embedder.embed([Frame(world.with_thing(world.street(1), 96, 40), 0)])[0]
    assert again.score(embedding).score == pytest.approx(fresh.score(embedding).score, rel=1e-5)


def test_a_calibration_older_than_a_setting_is_as_good_as_one_with_its_default(world):
    arrays = world.database().calibration
    old = {name: value for name, value in stored_parameters(arrays).items() if name != 'scale_weight'}
    arrays['settings'] = np.frombuffer(json.dumps(old).encode(), np.uint8)
    assert made_for(arrays, world.parameters())
    assert not made_for(arrays, world.parameters(scale_weight=0.1))
    assert not made_for({}, world.parameters())


def test_a_known_thing_of_unknown_size_is_nearer_without_scale_weight(world):
    """A segment that looks like the street, but is four times as high and wide as any that was recorded."""
    image = np.full((world.height, world.width, 3), 90, np.uint8)

    def frame(side: int, second: int) -> Frame:
        labels = np.zeros((world.height, world.width), np.int32)
        labels[20:20 + side, 20:20 + side] = 1
        return Frame(image, second * 10**9, segments=Segments(labels, np.ones(1, np.float32), ('thing',)))

    asked = world.parameters(variant='instance', segmenter='topic', standardize=False, calibrate_by_region=False)
    embedder = world.embedder(asked)
    writer = DatabaseWriter.begin(world.folder / 'sizes', describe(embedder))
    for second in range(8):
        queries = embedder.queries(embedder.embed([frame(16, second)])[0])
        record = FrameRecord('drive', 'f' * 64, '/camera', second * 10**9, image.shape[:2], held_out=second > 5)
        writer.add(record, queries.vectors, queries.boxes, queries.positions, None)
    writer.commit(lambda database: calibrate(database, asked)).close()
    distances = {}
    for weight in (0.0, 0.1):
        pipeline = Pipeline.load({**asked, 'scale_weight': weight}, world.folder / 'sizes', embedder)
        for side in (16, 64):
            distances[weight, side] = float(pipeline.score(embedder.embed([frame(side, 9)])[0]).distances[0])
    assert distances[0.0, 16] == distances[0.1, 16] == distances[0.0, 64] == pytest.approx(0, abs=1e-5)
    # the nearest in size is a single patch of 1/192 of the image, or the thing of 16 pixels
    assert distances[0.1, 64] == pytest.approx(0.1 * np.log2(64 / 16) ** 2, rel=1e-3)
