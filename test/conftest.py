"""Fixtures that every test may use."""

from __future__ import annotations

import fcntl
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before anything imports torch or FAISS: a forked process (the tests that kill writers fork) would wait for OpenMP's
# threads for ever, since only the forking thread lives on in it; a single thread needs none.
os.environ['OMP_NUM_THREADS'] = '1'
# A shell's background jobs ignore SIGINT, and so would every process that a test starts and then interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope='session')
def driving_data() -> Path:
    """Real driving data, kept outside the repository; tests that need it skip without it."""
    folder = Path(os.environ.get('SEMANOM_TEST_DATA', REPOSITORY.parent / 'shared' / 'data'))
    if not (folder / 'bags').is_dir():
        pytest.skip('no real driving data: set SEMANOM_TEST_DATA to its folder')
    return folder


@pytest.fixture
def ros_domain_id(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A ROS_DOMAIN_ID that no other test on this machine uses at the same time, set in the environment."""
    folder = Path(tempfile.gettempdir()) / 'semanom_ros_test_domains'
    folder.mkdir(exist_ok=True)
    for domain_id in range(1, 100):
        with open(folder / str(domain_id), 'w') as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            monkeypatch.setenv('ROS_DOMAIN_ID', str(domain_id))
            monkeypatch.setenv('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
            yield domain_id
            return
    pytest.fail('all ROS domain ids are in use by other tests')
