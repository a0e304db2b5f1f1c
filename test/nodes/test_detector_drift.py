"""What the detector says, over DDS, when driving is no longer like the nominal drives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus

from semanom_ros.msg import AnomalyArray, AnomalyScore, DatabaseInfo, Drift

SECOND = 1_000_000_000
NOMINAL_S, NIGHT_S = 12, 30


def test_drift_is_published_dated_and_named_and_nominal_streets_are_not_drifting(active: Callable[..., Any]) -> None:
    one = active()
    scores, arrays = one.listen(AnomalyScore, 'camera/score'), one.listen(AnomalyArray, 'camera/anomalies')
    info = one.listen(DatabaseInfo, 'database_info', latched=True)

    def send(second: int, picture: np.ndarray) -> None:
        one.send(picture, second * SECOND)
        one.spin_until(lambda: len(scores) > second - 1000 and len(arrays) > second - 1000, what='a score')

    for second in range(1000, 1000 + NOMINAL_S):
        send(second, one.street(5000 + second))
    assert scores[0].drift.state == Drift.UNKNOWN
    assert scores[-1].drift.state == Drift.LIKE_NOMINAL
    assert info[-1].drift_frames >= 60
    assert info[-1].drift_minutes > 1
    assert not info[-1].drifting
    begun = 1000 + NOMINAL_S
    for second in range(begun, begun + NIGHT_S):
        send(second, one.street(5000 + second) // 4)
    found = [score for score in scores if score.drift.state == Drift.DRIFTING]
    assert found
    assert begun < found[0].header.stamp.sec < begun + NIGHT_S - 5
    assert abs(found[0].drift.since.sec - begun) <= 6
    assert found[0].drift.strength >= np.log10(1 / 0.05)
    assert found[0].drift.what.startswith('whole picture')
    assert arrays[-1].drift == scores[-1].drift
    one.spin_until(lambda: list(info[-1].drifting) == ['camera'], what='the camera among those that drift')
    status = one.status(': camera', lambda status: 'unlike the nominal drives' in status.message)
    assert status.level == DiagnosticStatus.WARN
    assert one.values(status)['drift'] == 'drifting'
