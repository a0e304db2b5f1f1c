"""`semanom bench` runs, and writes what it promises."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from semanom_ros.benchmarks.bench_chart import STAGES, stages_of, svg
from semanom_ros.benchmarks.bench_table import markdown
from semanom_ros.benchmarks.encoder_results import nothing
from semanom_ros.benchmarks.engine_backends import backends
from semanom_ros.benchmarks.figures import OVERALL, PER_ENCODER, VIT_S, Found
from semanom_ros.benchmarks.plan import Plan
from semanom_ros.benchmarks.synthetic_database import key
from semanom_ros.benchmarks.timing import interval, ratio
from semanom_ros.cli import main
from semanom_ros.commands.bench import BENCHMARKS
from semanom_ros.core.embedding.embedder import Embedder
from semanom_ros.settings import Settings

REPOSITORY = Path(__file__).resolve().parents[2]

PROMISED = {'end_to_end_over_forward', 'throughput_over_forward', 'six_cameras_over_forward', 'search_over_forward',
            'record_over_forward', 'evaluate_over_forward', 'instance_over_grid', 'backends', 'anomalib_over_ours',
            'received_fps_720p', 'machine'}
"""Keys that others read."""


@pytest.mark.timeout(900)  # it takes a minute, and ten times that where six processes want the same core
def test_quick_run_measures_all_but_methods_and_backends(tmp_path: Path) -> None:
    """In a process of its own: Fast DDS reads its profile once."""
    only = [name for name in BENCHMARKS if name not in ('methods', 'backends')]  # those take minutes
    command = [sys.executable, '-m', 'semanom_ros.cli', 'bench', '--quick', '--output', str(tmp_path), '--scratch',
               str(tmp_path), '--only', *only, '--set', 'encoder=timm:test_vit', '--set', 'encoder_weights=random:0']
    environment = {name: value for name, value in os.environ.items() if name != 'FASTDDS_DEFAULT_PROFILES_FILE'}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=800)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / 'bench.json').read_text())
    assert result.keys() >= PROMISED
    (encoder,) = result['encoders'].values()
    for figure in (*PER_ENCODER, *OVERALL):
        if figure.key.partition('.')[0] not in ('search_over_forward', 'anomalib_over_ours',
                                                'anomalib_memory_over_ours', 'dropped_at_three_times_the_rate'):
            assert figure.of(result) > 0, figure.key
            assert figure.of(encoder) == figure.of(result)
            assert figure.words in done.stdout
    for name, (low, high) in encoder['intervals'].items():
        assert 0 < low <= high, name
    details = encoder['details']
    assert 0 < result['dropped_at_three_times_the_rate'] < 1
    assert details['overload']['sent'] - details['overload']['scored'] == sum(details['overload']['dropped'].values())
    assert result['search_over_forward']['1e4'] > 0
    assert details['search']['1e4']['distance_error_p99'] < 1e-5  # searched exactly, and so is what it is compared with
    for name in ('search_over_forward', 'anomalib_over_ours'):
        assert (result[name]['1e5'], result[name]['1e6']) == (None, None)
    assert details['record']['frames'] == details['evaluate']['frames'] == 20
    assert len(details['six_cameras']['latency']) == 6
    assert {'decode', 'preprocess', 'encode', 'search', 'score', 'filter'} <= details['stages']['of_forward'].keys()
    assert all(0.5 < growth < 2 for growth in result['memory_growth'].values())
    assert details['encoder']['grid_size'] == [10, 10]
    assert result['machine']['cores'] == os.cpu_count()
    assert sorted(path.name for path in tmp_path.iterdir()) == ['bench.json', 'bench.svg']
    assert ElementTree.parse(tmp_path / 'bench.svg').getroot().tag.endswith('svg')


def test_a_precision_is_measured_beside_fp32_and_an_unknown_backend_is_null(tmp_path, caplog):
    caplog.set_level('INFO')
    settings = Settings().changed({'encoder': 'timm:test_vit', 'encoder_weights': 'random:0'})
    plan = Plan(settings, tmp_path, sizes=(), repeats=3, frames=20, burst_s=0.0)
    found = Found()
    backends(plan, Embedder.load(settings.method), found, [('torch', 'bf16'), ('abacus', 'fp32')])
    one = found.values['backends']['torch-bf16']
    assert one['interval'][0] <= one['speedup'] <= one['interval'][1]
    assert 0 < one['score_error'] < 1
    assert found.values['backends']['abacus-fp32'] is None
    assert 'backend abacus-fp32: not measured' in caplog.text
    assert 0 < found.details['backends']['torch-bf16']['above_the_level'] < 12, 'verdicts on both sides of the level'


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


def test_the_interval_of_a_ratio_widens_with_noise():
    still, noisy = [100.0] * 20, [100.0 + 60 * (turn % 2) for turn in range(20)]
    assert interval(still, [50.0] * 20) == [2.0, 2.0] == [ratio(still, [50.0]), 2.0]
    low, high = interval(noisy, [50.0] * 20)
    assert low < ratio(noisy, [50.0]) < high


def found_with(**figures: float) -> dict:
    found = Found()
    for name, value in figures.items():
        found.put(name, value)
    found.put_ratio('search_over_forward.1e5', [2.0, 2.1], [100.0, 101.0])
    found.details |= {'encoder': {'name': VIT_S},
                      'stages': {'of_forward': {'encode': 1.0, 'search': 0.02, 'decode': 0.01, 'preprocess': 0.03}}}
    result = nothing()
    found.onto(result)
    result['encoders'] = {f'{VIT_S} 364x644': found.content()}
    return result


def test_the_table_holds_what_was_measured_beside_its_goal():
    table = markdown(found_with(end_to_end_over_forward=1.12)).splitlines()
    assert table[0] == f'| figure | goal | {VIT_S} 364x644 |'
    assert '| end to end / forward | <= 1.05 | 1.12 |' in table
    assert any(line.startswith('| search / forward, 1e5 | <= 0.03 | 0.0204 (0.0198 to 0.021') for line in table)
    assert len(table) == 4, 'nothing else was measured'


def test_the_chart_gives_what_no_stage_takes_to_publishing():
    result = found_with(end_to_end_over_forward=1.12)
    (encoder,) = result['encoders'].values()
    stages = stages_of(encoder)
    assert list(stages) == [stage for stage in STAGES if stage in stages]
    assert stages['publish'] == pytest.approx(0.06)
    texts = [element.text for element in ElementTree.fromstring(svg(result)).iter('{http://www.w3.org/2000/svg}text')]
    assert {'publish', '1.12', 'end to end / forward', 'search / forward, 1e5'} <= set(texts)
    assert 'record: time a frame / forward' not in texts


def test_the_readme_holds_the_tables_of_the_results():
    result = json.loads((REPOSITORY / 'benchmarks' / 'results' / 'cpu.json').read_text())
    assert markdown(result) in (REPOSITORY / 'benchmarks' / 'README.md').read_text(), (
        'put what `python -m semanom_ros.benchmarks.bench_table benchmarks/results/cpu.json` prints there')


def test_the_gpu_benchmark_needs_no_ros(tmp_path):
    """On the CPU, with neither rclpy nor our messages to be had."""
    program = ('import runpy, sys; sys.modules.update({name: None for name in ("rclpy", "semanom_ros.msg", '
               '"sensor_msgs", "std_msgs")}); runpy.run_path(sys.argv[0], run_name="__main__")')
    script = REPOSITORY / 'benchmarks' / 'gpu.py'
    command = [sys.executable, '-c', f'import sys; sys.argv = sys.argv[1:]; {program}', str(script), '--device', 'cpu',
               '--quick', '--output', str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / 'gpu.json').read_text())
    assert result.keys() >= PROMISED
    (encoder,) = result['encoders'].values()
    assert encoder['pipeline_over_forward'] > 0
    assert encoder['six_cameras_in_process_over_forward'] > 0
    assert result['search_over_forward']['1e4'] > 0
    assert encoder['details']['gpu']['score_error_to_cpu'] == 0, 'it was the CPU'
    assert encoder['details']['gpu']['same_weights'] is True
