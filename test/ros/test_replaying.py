"""What of a recording is played, and what is said of it afterwards."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import rclpy

from semanom_ros.msg import AnomalyScore

PLAYER = """
import sys, rclpy
from semanom_ros.msg import AnomalyScore
from rclpy.qos import QoSProfile
rclpy.init()
node = rclpy.create_node('scores')
publisher = node.create_publisher(AnomalyScore, '/score', QoSProfile(depth=50))
while not publisher.get_subscription_count():
    rclpy.spin_once(node, timeout_sec=0.01)
unknown, nominal = AnomalyScore.VERDICT_UNKNOWN, AnomalyScore.VERDICT_NOMINAL
late = AnomalyScore.REASON_LATE
for second, verdict, reason in ((1, nominal, 0), (2, unknown, late), (3, nominal, 0), (3, unknown, 1)):
    score = AnomalyScore(verdict=verdict, reason=reason, explanation='no picture' if reason == 1 else '')
    score.header.stamp.sec = second
    publisher.publish(score)
publisher.wait_for_all_acked()
sys.exit(int(sys.argv[1]))
"""


@pytest.mark.parametrize(('frames', 'status', 'said'), [
    (3, 0, r'front: all 3 frames have a score, 1 of them unknown: no picture'),
    (6, 0, r'front: 3 of 6 frames have a score, 1 of them unknown: no picture\. Newer .* \(rate:=0\.9\)'),
])
def test_frames_with_a_score_are_counted(ros_domain_id: int, tmp_path: Path, frames: int, status: int,
                                         said: str) -> None:
    """The player speaks for the detector; a publisher of the test stands in for it until then."""
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node('detector', context=context)
    node.create_publisher(AnomalyScore, '/score', 10)
    (tmp_path / 'player.py').write_text(PLAYER)
    try:
        done = subprocess.run(
            [sys.executable, '-m', 'semanom_ros.ros.replaying', '--score', 'front', '/score', str(frames), '--rate',
             '2',
             '--', sys.executable, str(tmp_path / 'player.py'), str(status)],
            check=False, capture_output=True, text=True, timeout=90, env={**os.environ, 'PYTHONWARNINGS': 'ignore'})
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)
    assert done.returncode == status, done.stderr
    assert re.search(said, done.stdout + done.stderr)
