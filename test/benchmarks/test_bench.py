"""`semanom bench` runs, and writes what it promises."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from semanom_ros.benchmarks.search import key
from semanom_ros.cli import main
from semanom_ros.commands.bench import BENCHMARKS


@pytest.mark.timeout(900)  # it takes a minute, and ten times that where six processes want the same core
def test_quick_run_measures_all_but_whole_methods(tmp_path: Path) -> None:
    """In a process of its own: Fast DDS reads its profile once."""
    only = [name for name in BENCHMARKS if name != 'methods']  # those take minutes
    command = [sys.executable, '-m', 'semanom_ros.cli', 'bench', '--quick', '--output', str(tmp_path), '--scratch',
               str(tmp_path), '--only', *only, '--set', 'encoder=timm:test_vit', '--set', 'encoder_weights=random:0']
    environment = {name: value for name, value in os.environ.items() if name != 'FASTDDS_DEFAULT_PROFILES_FILE'}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=800)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / 'bench.json').read_text())
    for name in ('end_to_end_over_forward', 'record_over_forward', 'received_fps_720p'):
        assert result[name] > 0
        assert f'{result[name]:g}' in done.stdout
    overload = result['details']['overload']
    assert 0 < result['dropped_at_three_times_the_rate'] < 1
    assert overload['sent'] - overload['scored'] == sum(overload['dropped'].values())
    assert result['search_over_forward']['1e4'] > 0
    for name in ('search_over_forward', 'anomalib_over_ours'):
        assert (result[name]['1e5'], result[name]['1e6']) == (None, None)
    assert result['details']['record']['frames'] == 20
    assert all(0.5 < growth < 2 for growth in result['memory_growth'].values())
    assert result['details']['encoder']['grid_size'] == [10, 10]
    assert result['machine']['cores'] == os.cpu_count()
    assert sorted(path.name for path in tmp_path.iterdir()) == ['bench.json']


@pytest.mark.parametrize(('arguments', 'message'), [
    (['--repeats', '0'], '--repeats 0: expected at least 1'),
    (['--set', 'encoder=timm:test_wit'], "timm has no model 'test_wit'"),
])
def test_bad_input(arguments, message, tmp_path, capsys):
    assert main(['bench', '--quick', '--output', str(tmp_path / 'out'), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def test_sizes_are_whole_numbers(tmp_path, capsys):
    with pytest.raises(SystemExit) as raised:
        main(['bench', '--output', str(tmp_path), '--sizes', '1.5'])
    assert raised.value.code == 2
    assert 'found 1.5, expected a whole number' in capsys.readouterr().err


def test_keys_of_sizes():
    assert [key(size) for size in (10_000, 100_000, 1_000_000, 250_000)] == ['1e4', '1e5', '1e6', '2.5e5']
