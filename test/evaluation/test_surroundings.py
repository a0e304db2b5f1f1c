"""Distances of a simulated drive, as the evaluation reads them from its recording."""

from __future__ import annotations

import json

import numpy as np
import pytest

from semanom_ros.core.localization.regions_of_map import Region
from semanom_ros.core.results import FrameResult, ScoreMap, Verdict
from semanom_ros.errors import BagError
from semanom_ros.evaluation.detectors import Ranked
from semanom_ros.evaluation.measurement import Measurement
from semanom_ros.evaluation.surroundings import SurroundingsReader
from semanom_ros.recordings.bags import BagReader, BagWriter
from semanom_ros.simulation.catalogue import named
from semanom_ros.simulation.drive import RATE, Drive
from semanom_ros.simulation.drive_bag import write_bag
from semanom_ros.simulation.town import BLOCK

FAR, NEAR = 30.0, 15.0


@pytest.fixture(scope='module')
def frames():
    """Two frames of a drive, 30 m and 15 m before a fridge in the lane."""
    drive = Drive(8, True, 'sun', (named('fridge_in_lane'),))
    return [drive.frame(int(drive.time_at(2.5 * BLOCK - metres) * RATE)) for metres in (FAR, NEAR)]


@pytest.fixture(scope='module')
def bag(frames, tmp_path_factory):
    path = tmp_path_factory.mktemp('surroundings') / 'drive'
    write_bag(frames, path)
    return path


def result(frame, region=None):
    """Calm, or alarmed with one region, a (rows, columns) slice of the picture."""
    regions = ()
    if region is not None:
        (y, x) = region
        box = (x.start, y.start, x.stop - x.start, y.stop - y.start)
        regions = (Region(box, np.ones((box[3], box[2]), bool), box[2] * box[3], (x.start, y.start)),)
    pixels = np.zeros(frame.image.shape[:2], np.float32)
    return Ranked(FrameResult(frame.stamp_ns, 'camera', pixels.shape, 2.0, 0.5, 0.1, 1.0, Verdict.of(bool(regions)),
                              ScoreMap.of_pixels(pixels), 0.5, regions=regions), 2.0, pixels, 1.0)


def test_distances_are_read_in_step(frames, bag):
    with SurroundingsReader(bag) as reader:
        assert reader.at(frames[0].stamp_ns - 1, (360, 640)) is None
        for frame, metres in zip(frames, (FAR, NEAR), strict=True):
            told = reader.at(frame.stamp_ns, (360, 640))
            fridge = next(k for k, one in frame.instances.items() if one.anomalous)
            assert told.distances == {fridge: pytest.approx(frame.distances[fridge], abs=0.006)}
            assert told.speed == pytest.approx(frame.speed, abs=0.001)
            distance = told.nearest(frame.anomaly_mask == 255)
            assert metres - 3 < distance < metres + 1
            assert distance == told.distances[fridge]
            assert np.isnan(told.nearest(frame.anomaly_mask == 0))


def test_an_alarm_beside_the_anomaly_reports_nothing(frames, bag):
    """The first alarm lies elsewhere; the second one on the fridge, at 15 m."""
    measurement = Measurement()
    rows, columns = np.nonzero(frames[1].anomaly_mask == 255)
    on_it = (slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1))
    with SurroundingsReader(bag) as reader:
        for frame, region in zip(frames, ((slice(0, 9), slice(0, 9)), on_it), strict=True):
            told = reader.at(frame.stamp_ns, (360, 640))
            measurement.add(result(frame, region), frame.anomaly_mask, 0, 0, told)
    figures = measurement.metrics(0.01)
    assert figures['events_noticed'] == figures['events'] == 1
    distance = float(measurement.frames['distance_m'][1])
    assert figures['warning'] == {'anomalies': 1, 'distance_m': distance, 'seconds': pytest.approx(
        distance / frames[1].speed, abs=0.001)}
    assert [(one['begin'], one['noticed']) for one in figures['noticed_by_distance']] == [
        (10, 1), (15, 0), (20, 0), (30, 1)]


def test_a_recording_that_tells_no_distances_has_none(tmp_path, frames, bag):
    """As one of an earlier simulator, or of a camera."""
    with BagReader(bag) as reader, BagWriter(tmp_path / 'before') as writer:
        for topic, stamp, message in reader.messages():
            if topic == '/ground_truth/scenario':
                content = json.loads(message.data)
                for one in content['instances'].values():
                    del one['distance']
                message = writer.typestore.types['std_msgs/msg/String'](json.dumps(content))
            writer.write(topic, message, stamp)
    with SurroundingsReader(tmp_path / 'before') as reader:
        assert reader.at(frames[0].stamp_ns, (360, 640)) is None


def test_what_is_unreadable_is_one_line(tmp_path, frames):
    with BagWriter(tmp_path / 'odd') as writer:
        writer.write('/ground_truth/scenario', writer.typestore.types['std_msgs/msg/String']('{"instances": 3}'), 5)
        mask = np.zeros((4, 4), np.uint8)
        writer.write_image('/ground_truth/instances', mask, 'mono8', 5, 'camera')
    with SurroundingsReader(tmp_path / 'odd') as reader, \
            pytest.raises(BagError, match='scenario at 5 ns is unreadable'):
        reader.at(5, (4, 4))
