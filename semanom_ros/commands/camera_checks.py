"""What `semanom doctor --topic` says of a camera: who sends, how often, and what its stamps are worth."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from semanom_ros.commands.findings import Finding
from semanom_ros.recordings.bags import COMPRESSED_IMAGE, IMAGE
from semanom_ros.ros.middleware import PROFILES

if TYPE_CHECKING:
    from semanom_ros.ros.camera_listening import Heard

SLOW_HZ = 2.0
"""Below it tracks have too few frames to add evidence up along."""

UNEVEN = 4.0
"""Times the usual distance of two frames; a longer gap is a hole."""

LATE_S = 0.5
AHEAD_S = 0.02
OTHER_CLOCK_S = 600.0
LOST_SHARE = 0.1


def camera_findings(topic: str, seconds: float) -> Iterator[Finding]:
    """Listens to a camera as the detector does, and judges what was heard."""
    from semanom_ros.ros.camera_listening import listen

    yield from judged(listen(topic, seconds), seconds)


def judged(heard: Heard, seconds: float) -> Iterator[Finding]:
    """What is to be said of a camera that was listened to for some seconds."""
    if heard.kind not in (IMAGE, COMPRESSED_IMAGE):
        yield _no_camera(heard)
        return
    senders = '; '.join(heard.publishers)
    if len(heard.publishers) > 1:
        yield Finding('camera: publishers', 'doubtful', True, f'{len(heard.publishers)} on {heard.topic}: {senders}',
                      'stop one of them, or remap it: the pictures of two cameras on one topic look like jumps')
    else:
        yield Finding('camera: publishers', 'ok', True, f'{senders}; matches the detector\'s subscription (best '
                      'effort, volatile, keeps 1)')
    if not heard.received:
        yield Finding('camera: images', 'broken', True, f'none came on {heard.topic}, though somebody publishes there',
                      _delivery(heard, 'ros2 topic hz ' + heard.topic + ' beside the camera; if it gets some there, '
                                'look at firewall, ROS_DOMAIN_ID and RMW_IMPLEMENTATION on both computers'))
        return
    yield _rate(heard, seconds)
    yield _pictures(heard)
    yield _stamps(heard)
    yield _clock(heard)
    yield _camera_info(heard)


def _no_camera(heard: Heard) -> Finding:
    seen = f'; cameras that are there: {", ".join(heard.cameras)}' if heard.cameras else '; no camera is there'
    if heard.kind:
        return Finding('camera', 'broken', True, f'{heard.topic} has {heard.kind}, expected {IMAGE} or '
                       f'{COMPRESSED_IMAGE}{seen}', 'name its image topic: ros2 topic list -t')
    advice = f'semanom doctor --topic {heard.cameras[0]}' if heard.cameras else \
        'start the camera; if it runs, compare ROS_DOMAIN_ID and RMW_IMPLEMENTATION of both terminals'
    return Finding('camera', 'missing', True, f'nobody publishes {heard.topic}{seen}', advice)


def _delivery(heard: Heard, otherwise: str) -> str:
    """What lets large images through."""
    if heard.kind == COMPRESSED_IMAGE:
        return otherwise
    return (f'export {PROFILES} for the camera\'s process, see large images above, or take its compressed topic; else '
            f'{otherwise}')


def _rate(heard: Heard, seconds: float) -> Finding:
    count, gaps = len(heard.received), np.diff(heard.received)
    if not len(gaps):
        return Finding('camera: rate', 'doubtful', False, f'one image in {seconds:g} s', 'listen longer: --seconds 30')
    rate = len(gaps) / max(float(gaps.sum()), 1e-9)
    found = f'{rate:.1f} Hz, gaps of {np.median(gaps) * 1e3:.0f} ms, at most {gaps.max() * 1e3:.0f} ms'
    if heard.lost > LOST_SHARE * count:
        return Finding('camera: rate', 'doubtful', False, f'{found}; {heard.lost} lost on their way, {count} came',
                       _delivery(heard, 'a network that carries them, or a lower rate'))
    if rate < SLOW_HZ:
        return Finding('camera: rate', 'doubtful', False, f'{found}; expected at least {SLOW_HZ:g} Hz',
                       'raise the camera\'s rate: evidence adds up over frames')
    if gaps.max() > UNEVEN * np.median(gaps):
        return Finding('camera: rate', 'doubtful', False, f'{found}: holes', 'look at exposure, USB bandwidth and the '
                       'load of the camera\'s computer')
    return Finding('camera: rate', 'ok', False, found)


def _pictures(heard: Heard) -> Finding:
    if heard.fault:
        return Finding('camera: images', 'broken', True, heard.fault, 'mend the camera driver, or set its encoding: '
                       'docs/pictures.md lists those that are read')
    sizes = ', '.join(f'{width}x{height}' for height, width in sorted(heard.sizes))
    found = f'{sizes}, {", ".join(sorted(heard.encodings))}, {heard.bytes / 1e6:.2f} MB'
    if heard.frame_ids == {''}:
        return Finding('camera: images', 'doubtful', False, f'{found}; frame_id is empty: RViz places no markers',
                       'set the frame of the camera driver')
    return Finding('camera: images', 'ok', True, f'{found}, frame {", ".join(sorted(heard.frame_ids))}')


def _stamps(heard: Heard) -> Finding:
    stamps = np.array(heard.stamps)
    steps = np.diff(stamps)
    missing, standing, back = int((stamps == 0).sum()), int((steps == 0).sum()), int((steps < 0).sum())
    mend = 'mend the camera driver: stamps should be those of the exposure'
    if missing:
        return Finding('camera: stamps', 'broken', True, f'{missing} of {len(stamps)} images have none', mend)
    if standing:
        return Finding('camera: stamps', 'broken', True,
                       f'{standing} of {len(stamps)} images have the stamp of the one before: frames are unknown', mend)
    if back:
        return Finding('camera: stamps', 'doubtful', False, f'{back} go back: a recording that started again, or two '
                       'cameras on one topic', 'stop one of them')
    if len(steps) and len(heard.received) == len(stamps):
        lasted = heard.received[-1] - heard.received[0]
        pace = float(steps.sum()) / max(lasted, 1e-9)
        if lasted > 1 and not 0.8 < pace < 1.25:
            return Finding('camera: stamps', 'doubtful', False, f'they run {pace:.2f} times as fast as the images come',
                           'a recording at another rate: fine; a camera: mend the driver')
    return Finding('camera: stamps', 'ok', True, 'every image has a later one than that before')


def _clock(heard: Heard) -> Finding:
    known = [came - stamp for came, stamp in zip(heard.received, heard.stamps, strict=False) if stamp]
    if not known:
        return Finding('camera: clock', 'missing', False, 'unknown without stamps')
    age, most = float(np.median(known)), float(np.max(known))
    found = f'stamps are {age * 1e3:.0f} ms old when images come, at most {most * 1e3:.0f} ms'
    if abs(age) > OTHER_CLOCK_S:
        far = f'stamps are {abs(age) / 86400:.1f} days {"behind" if age > 0 else "ahead of"} this computer\'s clock'
        if heard.clock:
            return Finding('camera: clock', 'ok', False, f'{far}; somebody publishes /clock',
                           'start the detector with use_sim_time:=true')
        return Finding('camera: clock', 'broken', False, f'{far}, and nobody publishes /clock',
                       'a recording: ros2 bag play --clock, and use_sim_time:=true; a camera: synchronize the clocks')
    if age < -AHEAD_S:
        return Finding('camera: clock', 'doubtful', False, f'stamps are {-age * 1e3:.0f} ms ahead of this computer\'s '
                       'clock', 'synchronize the clocks: chronyc sources on both computers, or PTP')
    if age > LATE_S:
        return Finding('camera: clock', 'doubtful', False, f'{found}; expected at most {LATE_S * 1e3:.0f} ms',
                       'synchronize the clocks (chronyc sources on both computers); if they are, images queue up: make '
                       'the queue of the camera driver shorter, or send compressed ones')
    return Finding('camera: clock', 'ok', False, found)


def _camera_info(heard: Heard) -> Finding:
    if not heard.infos:
        return Finding('camera: CameraInfo', 'missing', False, f'none on {heard.info_topic}: no bearings, markers and '
                       'distances', 'publish it, or remap ~/input/NAME/camera_info')
    if heard.info_fault:
        found, _, advice = heard.info_fault.rpartition('; ')
        return Finding('camera: CameraInfo', 'broken', False, found, advice)
    return Finding('camera: CameraInfo', 'ok', False, f'{heard.infos} on {heard.info_topic}; bearings can be computed')
