"""What `semanom doctor --topic` makes of what it heard of a camera."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from semanom_ros.commands.camera_checks import judged
from semanom_ros.recordings.bags import COMPRESSED_IMAGE, IMAGE
from semanom_ros.ros.camera_listening import Heard

TIMES = [1000 + 0.1 * number for number in range(50)]
GOOD = Heard(
    topic='/front/image_raw', kind=IMAGE, cameras=['/front/image_raw'],
    publishers=['/front: best effort, volatile, keeps 5'], received=TIMES, stamps=[time - 0.03 for time in TIMES],
    frame_ids={'front'}, sizes={(720, 1280)}, encodings={'rgb8'}, bytes=2_764_900, info_topic='/front/camera_info',
    infos=50)


def findings(**changes: Any) -> dict[str, Any]:
    return {finding.name.removeprefix('camera: '): finding for finding in judged(replace(GOOD, **changes), 5.0)}


def test_nothing_is_wrong_with_a_good_camera() -> None:
    found = findings()
    assert list(found) == ['publishers', 'rate', 'images', 'stamps', 'clock', 'CameraInfo']
    assert {finding.status for finding in found.values()} == {'ok'}
    assert not any(finding.advice for finding in found.values())
    assert '10.0 Hz' in found['rate'].found
    assert '1280x720, rgb8, 2.76 MB, frame front' in found['images'].found
    assert '30 ms old' in found['clock'].found


@pytest.mark.parametrize(('changes', 'name', 'status', 'said', 'advice'), [
    ({'publishers': ['/a: reliable', '/b: reliable']}, 'publishers', 'doubtful', '2 on /front/image_raw', 'stop one'),
    ({'received': [], 'stamps': []}, 'images', 'broken', 'none came', 'FASTDDS_DEFAULT_PROFILES_FILE'),
    ({'received': TIMES[:1], 'stamps': TIMES[:1]}, 'rate', 'doubtful', 'one image', '--seconds'),
    ({'received': TIMES[::10], 'stamps': TIMES[::10]}, 'rate', 'doubtful', '1.0 Hz', 'raise'),
    ({'received': [*TIMES[:25], *(time + 3 for time in TIMES[25:])]}, 'rate', 'doubtful', 'holes', 'exposure'),
    ({'lost': 40}, 'rate', 'doubtful', '40 lost', 'FASTDDS_DEFAULT_PROFILES_FILE'),
    ({'lost': 40, 'kind': COMPRESSED_IMAGE}, 'rate', 'doubtful', '40 lost', 'a network'),
    ({'fault': 'image: found nonsense'}, 'images', 'broken', 'nonsense', 'driver'),
    ({'frame_ids': {''}}, 'images', 'doubtful', 'frame_id is empty', 'frame'),
    ({'stamps': [0.0] * 50}, 'stamps', 'broken', '50 of 50', 'driver'),
    ({'stamps': [0.0] * 50}, 'clock', 'missing', 'unknown', ''),
    ({'stamps': [1000.0] * 50}, 'stamps', 'broken', '49 of 50', 'driver'),
    ({'stamps': [*TIMES[:25], *TIMES[:25]]}, 'stamps', 'doubtful', '1 go back', 'stop'),
    ({'stamps': [1000 + 0.3 * number for number in range(50)]}, 'stamps', 'doubtful', '3.00 times', 'recording'),
    ({'stamps': [time - 86400 for time in TIMES]}, 'clock', 'broken', '1.0 days behind', '--clock'),
    ({'stamps': [time - 86400 for time in TIMES], 'clock': True}, 'clock', 'ok', '/clock', 'use_sim_time:=true'),
    ({'stamps': [time + 0.2 for time in TIMES]}, 'clock', 'doubtful', '200 ms ahead', 'chronyc'),
    ({'stamps': [time - 2 for time in TIMES]}, 'clock', 'doubtful', '2000 ms old', 'chronyc'),
    ({'infos': 0}, 'CameraInfo', 'missing', '/front/camera_info', 'remap'),
    ({'info_fault': 'CameraInfo: found an uncalibrated camera; calibrate it'}, 'CameraInfo', 'broken', 'uncalibrated',
     'calibrate it')])
def test_each_fault_is_told_with_what_to_do(changes: dict[str, Any], name: str, status: str, said: str,
                                            advice: str) -> None:
    finding = findings(**changes)[name]
    assert finding.status == status
    assert said in finding.found
    assert advice in finding.advice


@pytest.mark.parametrize(('changes', 'said', 'advice'), [
    ({'kind': ''}, 'nobody publishes', 'semanom doctor --topic /front/image_raw'),
    ({'kind': '', 'cameras': []}, 'no camera is there', 'start the camera'),
    ({'kind': 'std_msgs/msg/String'}, 'std_msgs/msg/String', 'ros2 topic list')])
def test_no_camera_is_required_once_it_was_asked_for(changes: dict[str, Any], said: str, advice: str) -> None:
    (finding,) = judged(replace(GOOD, **changes), 5.0)
    assert finding.failed
    assert said in finding.found
    assert advice in finding.advice


def test_jitter_is_no_hole() -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, 50)
    assert findings(received=[time + one for time, one in zip(TIMES, noise, strict=True)])['rate'].status == 'ok'
