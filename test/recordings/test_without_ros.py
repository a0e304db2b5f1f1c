"""Recordings need no ROS: neither rclpy nor a message package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = '''
import json, re, sys
from pathlib import Path

ROS = re.compile(r'(rclpy|rosidl\\w*|ament\\w*|launch\\w*|cv_bridge|semanom_ros\\.msg|'
                 r'\\w+_msgs|\\w+_interfaces|\\w+_srvs)(\\.|$)')

class NoRos:
    def find_spec(self, name, path=None, target=None):
        if ROS.match(name):
            raise ImportError(f'{name}: there is no ROS here')

sys.meta_path.insert(0, NoRos())
for name in ('rclpy', 'sensor_msgs.msg', 'builtin_interfaces.msg', 'semanom_ros.msg'):
    try:
        __import__(name)
    except ImportError:
        continue
    raise AssertionError(f'{name} was imported')

from semanom_ros.core.progress import SILENT
from semanom_ros.recordings.bags import BagReader, BagWriter
from semanom_ros.recordings.nominal_recording import record_bags
from semanom_ros.settings import Settings

bag, database, given = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
with BagReader(bag) as reader, BagWriter(bag.with_name('copy'), sys.argv[4]) as writer:
    for topic, type, stamp, cdr in reader.raw():
        writer.write_cdr(topic, type, cdr, stamp)
recording = record_bags([bag.with_name('copy')], database, Settings.of(given), SILENT)
print(recording.summary.frames, recording.manifest.version, recording.manifest.vectors, recording.manifest.calibrated)
assert not [name for name in sys.modules if ROS.match(name)]
'''


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_a_recording_becomes_a_database_without_ros(tmp_path: Path, drives: Any, given: dict[str, Any],
                                                    storage: str) -> None:
    done = subprocess.run(
        [sys.executable, '-c', PROGRAM, drives('drive', storage=storage), tmp_path / 'database', json.dumps(given),
         storage], env={name: value for name, value in os.environ.items() if name != 'AMENT_PREFIX_PATH'},
        check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ['40', '1', f'{40 * 12}', 'True']
