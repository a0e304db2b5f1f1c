"""Plays a recording to the detector and says how much of it was judged: what `replay.launch.py` runs."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from rclpy.node import Node

from semanom_ros.errors import printable
from semanom_ros.msg import AnomalyScore
from semanom_ros.ros.background import background_node
from semanom_ros.ros.qos import OUTPUT

CONNECT_S = 10.0
"""So long the detector is waited for before the player starts."""

SILENT_S = 3.0
"""When the player has ended and so long no score has come, none will."""


class _Count:
    """The frames of one camera that have a score."""

    def __init__(self, node: Node, topic: str, frames: int) -> None:
        self.frames = frames
        self.judged = self.unknown = 0
        self.why = ''
        self.when = time.monotonic()
        self.subscription = node.create_subscription(AnomalyScore, topic, self._receive, OUTPUT)

    def _receive(self, score: AnomalyScore) -> None:
        self.when = time.monotonic()
        if score.reason == AnomalyScore.REASON_LATE:  # the verdict follows
            return
        self.judged += 1
        if score.verdict == AnomalyScore.VERDICT_UNKNOWN:
            self.unknown += 1
            self.why = self.why or score.explanation

    @property
    def done(self) -> bool:
        return self.judged >= self.frames

    def line(self, rate: float) -> str:
        """What came of the frames."""
        unknown = f', {self.unknown} of them unknown: {printable(self.why)}' if self.unknown else ''
        if self.done:
            return f'all {self.frames} frames have a score{unknown}'
        if not self.judged:
            return (f'none of {self.frames} frames has a score: the log above and /diagnostics say what the detector '
                    'received')
        slower = rate * self.judged / self.frames * 0.9
        return (f'{self.judged} of {self.frames} frames have a score{unknown}. Newer ones replaced the others before '
                f'the detector took them: play slower (rate:={slower:.2g}), or judge every frame with `semanom '
                'evaluate`')


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the player; when it has ended, waits for the last scores.

    Returns:
        0 when the recording was played to its end, or was interrupted; otherwise the player's exit status.
    """
    parser = argparse.ArgumentParser(prog='replay')
    parser.add_argument('--score', nargs=3, action='append', default=[], metavar=('CAMERA', 'TOPIC', 'FRAMES'))
    parser.add_argument('--rate', type=float, default=1.0)
    parser.add_argument('player', nargs='+')
    given = parser.parse_args(arguments)
    interrupted = threading.Event()
    players: list[subprocess.Popen[bytes]] = []

    def stop(number: int, frame: object) -> None:
        interrupted.set()
        for player in players:
            player.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    with background_node('semanom_replay', int(os.environ.get('ROS_DOMAIN_ID') or 0)) as node:
        counts = {camera: _Count(node, topic, int(frames)) for camera, topic, frames in given.score}
        end = time.monotonic() + CONNECT_S
        while (time.monotonic() < end and not interrupted.is_set()
               and not all(count.subscription.get_publisher_count() for count in counts.values())):
            interrupted.wait(0.05)
        if interrupted.is_set():
            return 0
        players.append(subprocess.Popen(given.player, start_new_session=True))  # a terminal's Ctrl-C comes through us
        if interrupted.is_set():
            players[0].send_signal(signal.SIGINT)
        status = players[0].wait()
        if interrupted.is_set():
            return 0
        if status:
            print(f'The player ended with status {status} before the end of the recording.', file=sys.stderr)
            return abs(status)
        ended = time.monotonic()
        while (not all(count.done or time.monotonic() - max(count.when, ended) > SILENT_S for count in counts.values())
               and not interrupted.wait(0.05)):
            pass
        for camera, count in counts.items():
            print(f'{camera}: {count.line(given.rate)}', flush=True)
    return 0


if __name__ == '__main__':
    sys.exit(main())
