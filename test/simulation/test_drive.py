"""The simulated drive: deterministic, and its ground truth agrees with its pictures."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytest

from semanom_ros.errors import ParameterError
from semanom_ros.simulation import CATALOGUE, Scenario, SimulatedFrame, simulate
from semanom_ros.simulation.camera_faults import CameraFault, splash
from semanom_ros.simulation.drive import MIN_PIXELS, RATE, Drive
from semanom_ros.simulation.town import BLOCK
from semanom_ros.simulation.weather import WEATHERS

FIRST_SCENARIO = 2.5 * BLOCK  # metres along the route: the first scenario of a drive, an anomaly where there are any


def digest(frames: list[SimulatedFrame]) -> str:
    total = hashlib.sha256()
    for frame in frames:
        for array in (frame.image, frame.anomaly_mask, frame.instance_ids, frame.surfaces):
            total.update(array.tobytes())
        total.update(repr((frame.stamp_ns, frame.instances, frame.ego)).encode())
    return total.hexdigest()


def before(drive: Drive, metres: float) -> SimulatedFrame:
    """The frame so many metres before the drive's first scenario."""
    return drive.frame(int(drive.time_at(FIRST_SCENARIO - metres) * RATE))


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not():
    first, again, other = (digest(list(simulate(seed, 4, True))) for seed in (5, 5, 6))
    assert first == again
    assert first != other


def test_drives_do_not_disturb_each_other():
    alone = digest(list(simulate(5, 3, True)))
    pairs = list(zip(simulate(5, 3, True), simulate(9, 3, False), strict=True))
    assert digest([frame for frame, _ in pairs]) == alone


def test_frames_have_the_documented_shapes_stamps_and_a_camera_that_moves():
    frames = list(simulate(1, 5, False))
    for frame in frames:
        assert frame.image.shape == (360, 640, 3)
        assert frame.image.dtype == np.uint8
        assert frame.anomaly_mask.shape == frame.instance_ids.shape == frame.surfaces.shape == (360, 640)
        assert np.allclose(frame.axes @ frame.axes.T, np.eye(3), atol=1e-9)
        assert np.linalg.det(frame.axes) > 0
    assert {b.stamp_ns - a.stamp_ns for a, b in itertools.pairwise(frames)} == {100_000_000}
    travelled = np.linalg.norm(frames[-1].position - frames[0].position)
    assert 1.5 < travelled < 6  # 0.4 s in a town
    forward = frames[0].axes[2]
    assert (frames[-1].position - frames[0].position) @ forward > 0.9 * travelled


@pytest.mark.parametrize('scenario', CATALOGUE, ids=lambda s: s.name)
def test_an_anomaly_is_marked_while_it_is_in_view_and_its_twin_never(scenario: Scenario):
    drive = Drive(43, True, 'sun', (scenario,))
    approach = (50, 34, 22, 14)  # what is flat on the road counts from near only, what is high leaves the view early
    seen = 0
    for frame in [before(drive, metres) for metres in approach]:
        anomalous = [k for k, instance in frame.instances.items() if instance.anomalous]
        assert all(frame.instances[k].scenario == scenario.name for k in anomalous)
        marked = frame.anomaly_mask == 255
        if frame.scenarios:
            assert frame.scenarios == (scenario.name,)
            assert marked.sum() >= MIN_PIXELS
            assert np.array_equal(marked, np.isin(frame.instance_ids, anomalous))
            seen += 1
        else:
            assert not marked.any()
    assert seen

    twins_seen = 0
    for frame in [before(drive, metres - BLOCK) for metres in approach]:  # the twin is one block on
        twin = [k for k, i in frame.instances.items() if i.scenario == scenario.name and not i.anomalous]
        assert not frame.anomaly_mask[np.isin(frame.instance_ids, twin)].any()
        twins_seen += bool(twin)
    assert twins_seen


def test_nominal_drives_hold_twins_and_mark_nothing():
    drive = Drive(42, False, 'sun')
    frames = [before(drive, metres) for metres in (20, -50, -120)]
    assert all(frame.twins for frame in frames)
    for frame in frames:
        assert not frame.anomaly_mask.any()
        assert frame.scenarios == ()
        assert not any(instance.anomalous for instance in frame.instances.values())


def test_a_far_anomaly_is_ignored_until_it_is_large_enough():
    drive = Drive(41, True, 'sun', tuple(s for s in CATALOGUE if s.name == 'loose_tyre'))
    far = before(drive, 55)
    assert set(np.unique(far.anomaly_mask)) == {0, 128}
    assert 0 < (far.anomaly_mask == 128).sum() < MIN_PIXELS
    assert far.scenarios == ()


def test_every_pixel_is_a_thing_or_a_surface_and_things_keep_their_number():
    frames = list(simulate(8, 3, False, weather='sun'))
    for frame in frames:
        assert np.array_equal(frame.instance_ids == 0, frame.surfaces > 0)
        assert set(np.unique(frame.instance_ids)) - {0} == set(frame.instances)
    common = set(frames[0].instances) & set(frames[2].instances)
    assert len(common) > 10
    for k in common:
        assert frames[0].instances[k] == frames[2].instances[k]
    assert (frames[0].surfaces[0] == 1).any()  # sky above
    assert np.mean(frames[0].surfaces[-1] == 2) > 0.5  # road below


@pytest.mark.parametrize('weather', WEATHERS)
def test_weather_changes_the_picture_but_not_the_place(weather: str):
    (frame,) = simulate(3, 1, False, weather=weather)
    assert frame.weather == weather
    (sun,) = simulate(3, 1, False, weather='sun')
    assert np.allclose(frame.position, sun.position)
    if weather != 'sun':
        assert np.abs(frame.image.astype(int) - sun.image).mean() > 8


def test_an_unknown_weather_or_scenario_is_refused_in_one_line():
    for arguments in ({'weather': 'snow'}, {'scenarios': ('unicorn',)}):
        with pytest.raises(ParameterError) as raised:
            list(simulate(0, 1, True, **arguments))
        assert '\n' not in str(raised.value)
        assert 'expected one of' in str(raised.value)


def test_the_catalogue_is_complete():
    names = [s.name for s in CATALOGUE]
    assert len(names) == len(set(names)) >= 16
    for scenario in CATALOGUE:
        assert 1 <= scenario.severity <= 5
        assert scenario.kind in ('semantic', 'novel')
        assert scenario.description != scenario.twin
        assert scenario.description
        assert scenario.twin


def test_the_drive_with_anomalies_also_holds_twins_and_clean_stretches():
    drive = Drive(4, True)
    plan = [drive._plan.at(index) for index in range(2, 2 + 3 * len(CATALOGUE))]
    assert {scenario for scenario, anomalous in plan if anomalous} == set(CATALOGUE)
    assert {scenario for scenario, anomalous in plan if scenario and not anomalous} == set(CATALOGUE)
    assert sum(scenario is None for scenario, _ in plan) == len(CATALOGUE)
    nominal = [Drive(4, False)._plan.at(index) for index in range(50)]
    assert not any(anomalous for _, anomalous in nominal)


def test_every_so_manieth_frame_is_that_frame_of_the_whole_drive():
    whole, sparse = list(simulate(5, 7, False)), list(simulate(5, 3, False, every=3))
    assert [frame.stamp_ns for frame in sparse] == [whole[k].stamp_ns for k in (0, 3, 6)]
    assert np.abs(sparse[2].image.astype(int) - whole[6].image).mean() < 3  # but for the sensor's noise


def test_a_fault_of_the_camera_begins_when_it_is_told_to_and_leaves_everything_before_it_as_it_was():
    sound, turned, dirty = (list(simulate(6, 3, False, every=10, fault=fault)) for fault in (
        None, CameraFault(turn=3.0, start=1.0), CameraFault(dirt=0.1, start=1.0)))
    assert digest(turned[:1]) == digest(dirty[:1]) == digest(sound[:1])
    for before, after in zip(sound[1:], turned[1:], strict=True):
        assert np.isclose(np.degrees(np.arccos(before.axes[2] @ after.axes[2])), 3.0, atol=0.01)
        assert before.axes[0] @ after.axes[2] > 0  # to the right
        assert before.ego == after.ego
    for before, after in zip(sound[1:], dirty[1:], strict=True):
        changed = (np.abs(before.image.astype(int) - after.image) > 12).any(axis=2).mean()
        assert 0.03 < changed < 0.25
        assert (before.anomaly_mask == after.anomaly_mask).all()


@pytest.mark.parametrize('share', [0.02, 0.1, 0.3])
def test_a_splash_covers_the_share_that_was_asked_for(share):
    for seed in range(4):
        covered = (splash(np.random.default_rng(seed), 360, 640, share) > 0.3).mean()
        assert share <= covered < share + 0.06


@pytest.mark.parametrize('wrong', [{'turn': 90.0}, {'dirt': 1.5}, {'start': -1.0}, {'turn': float('nan')}])
def test_a_fault_that_makes_no_sense_is_one_line(wrong):
    with pytest.raises(ParameterError, match='expected'):
        CameraFault(**wrong)


@pytest.mark.parametrize(('name', 'half'), [('fridge_in_lane', 0.7), ('car_on_its_side', 2.6),
                                            ('road_painted_on_truck', 4.5)])
def test_distances_are_those_of_the_scene(name: str, half: float):
    """Along the optical axis to the nearest corner: to the middle of its foot, less at most half its length."""
    drive = Drive(8, True, 'sun', tuple(s for s in CATALOGUE if s.name == name))
    seen = []
    for metres in (40, 30, 20, 12):
        number = int(drive.time_at(FIRST_SCENARIO - metres) * RATE)
        frame = drive.frame(number)
        identity = next(k for k, one in frame.instances.items() if one.scenario == name and one.anomalous)
        thing = next(
            one for block in drive._blocks.values() for one in block.things if one.scenario == name and one.anomalous
        )
        along, right = thing.place(number / RATE)
        foot = float((drive.town.route.point(along, right, thing.z) - frame.position) @ frame.axes[2])
        assert foot - half < frame.distances[identity] < foot + 0.3, metres
        seen.append((number / RATE, frame.distances[identity]))
        assert frame.speed == drive._motion.speed(number / RATE)
    (first, far), (last, near) = seen[0], seen[-1]
    if name != 'road_painted_on_truck':  # it stands still: what was driven is what it came nearer
        driven = drive._motion.position(last) - drive._motion.position(first)
        assert far - near == pytest.approx(driven, rel=0.05)
