"""What `semanom doctor` says of machines that are set up badly, made of folders that look like theirs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from semanom_ros.commands import machine_checks
from semanom_ros.commands.findings import DoubtError, ProblemError


def installation(folder: Path, version: str) -> str:
    (folder / 'torch').mkdir(parents=True)
    (folder / 'torch' / '__init__.py').touch()
    metadata = folder / f'torch-{version}.dist-info'
    metadata.mkdir()
    (metadata / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: torch\nVersion: {version}\n')
    return str(folder)


def test_a_vendors_torch_that_pip_hides_is_found(tmp_path: Path) -> None:
    ours = installation(tmp_path / 'user', '2.11.0')
    vendors = installation(tmp_path / 'system', '2.5.0a0+872d972e41.nv24.08')
    with pytest.raises(ProblemError, match=r'2\.11\.0 in .*hides 2\.5\.0a0\+872d972e41\.nv24\.08') as told:
        machine_checks.torch_installations([ours, vendors], tmp_path / 'no')
    assert told.value.advice.startswith(f'{sys.executable} -m pip uninstall torch')
    with pytest.raises(DoubtError, match='the first hides the others'):
        machine_checks.torch_installations([vendors, ours], tmp_path / 'no')
    assert '2.11.0' in machine_checks.torch_installations([ours, ours, str(tmp_path)], tmp_path / 'no')


def test_a_jetson_with_the_torch_of_pypi_is_found(tmp_path: Path) -> None:
    import torch

    (tmp_path / 'release').touch()
    ours = installation(tmp_path / 'user', '2.11.0')
    if not torch.cuda.is_available():
        with pytest.raises(ProblemError, match='a Jetson, whose GPU') as told:
            machine_checks.torch_installations([ours], tmp_path / 'release')
        assert 'jetson' in told.value.advice
    vendors = installation(tmp_path / 'vendor', '2.5.0+nv24.08')
    assert 'nv24.08' in machine_checks.torch_installations([vendors], tmp_path / 'release')


@pytest.mark.parametrize(('files', 'allowed'), [
    ({'cpu.max': '150000 100000'}, 2), ({'cpu.max': 'max 100000'}, 0), ({}, 0),
    ({'cpu/cpu.cfs_quota_us': '100000', 'cpu/cpu.cfs_period_us': '100000'}, 1),
    ({'cpu/cpu.cfs_quota_us': '-1', 'cpu/cpu.cfs_period_us': '100000'}, 0), ({'cpu.max': 'damaged'}, 0)])
def test_cpus_of_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str],
                             allowed: int) -> None:
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: set(range(16)))
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + '\n')
    assert machine_checks.cpus_allowed(tmp_path) == (allowed or 16)


def test_threads_that_do_not_fit_the_cpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: set(range(8)))
    (tmp_path / 'cpu.max').write_text('200000 100000')
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 8)
    with pytest.raises(DoubtError, match='8 threads on 2 CPUs') as told:
        machine_checks.threads(tmp_path)
    assert told.value.advice == 'export OMP_NUM_THREADS=2'
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 1)
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    with pytest.raises(DoubtError, match='stay idle'):
        machine_checks.threads(tmp_path)
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 2)
    assert machine_checks.threads(tmp_path)


def test_two_kinds_of_openmp_are_told_apart_from_two_copies(tmp_path: Path) -> None:
    maps = tmp_path / 'maps'
    line = '7f0000000000-7f0000001000 r-xp 00000000 08:01 42                     {}\n'
    copies = [line.format('/env/torch.libs/libgomp-a34b3233.so.1'), line.format('/usr/lib/libgomp.so.1'),
              line.format('/usr/lib/libcompress.so'), line.format('[heap]')]
    maps.write_text(''.join(copies))
    assert machine_checks.openmp(maps) == 'GNU: torch.libs/libgomp-a34b3233.so.1, lib/libgomp.so.1'
    maps.write_text(''.join([*copies, line.format('/opt/conda/lib/libiomp5.so')]))
    with pytest.raises(DoubtError, match=r'2 different runtimes.*Intel: lib/libiomp5\.so'):
        machine_checks.openmp(maps)


def test_shared_memory_that_is_too_small_or_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = os.statvfs(tmp_path)

    def with_free(bytes: int) -> None:
        monkeypatch.setattr(os, 'statvfs', lambda path: os.statvfs_result(
            [1, 1, bytes, bytes, bytes, *tuple(space)[5:]]))

    with_free(64 << 20)
    with pytest.raises(DoubtError, match='64 of 64 MiB free') as told:
        machine_checks.shared_memory(tmp_path, middleware='rmw_fastrtps_cpp')
    assert '--shm-size' in told.value.advice
    with_free(1 << 30)
    (tmp_path / 'fastdds_0123').write_bytes(bytes(100))
    assert '1 files of Fast DDS' in machine_checks.shared_memory(tmp_path, middleware='rmw_fastrtps_cpp')
    monkeypatch.setattr(os, 'access', lambda path, mode: False)
    with pytest.raises(DoubtError, match='another user'):
        machine_checks.shared_memory(tmp_path, middleware='rmw_fastrtps_cpp')
    with pytest.raises(ProblemError, match='is not there'):
        machine_checks.shared_memory(tmp_path / 'gone', middleware='rmw_fastrtps_cpp')


def test_small_buffers_of_sockets(tmp_path: Path) -> None:
    kernel = tmp_path / 'rmem_max'
    kernel.write_text('212992\n')
    with pytest.raises(DoubtError, match=r'0\.2 MiB') as told:
        machine_checks.shared_memory(kernel=kernel, middleware='rmw_cyclonedds_cpp')
    assert told.value.advice.startswith('sudo sysctl -w net.core.rmem_max')
    kernel.write_text('2147483647')
    assert 'rmw_zenoh_cpp' in machine_checks.shared_memory(kernel=kernel, middleware='rmw_zenoh_cpp')


def test_the_python_of_the_nodes(tmp_path: Path) -> None:
    """A colcon workspace names it in the script, a pip installation in a second one behind a shell's."""
    script = tmp_path / 'lib' / 'semanom_ros' / 'detector'
    script.parent.mkdir(parents=True)
    with pytest.raises(ProblemError, match='found no lib/semanom_ros/detector'):
        machine_checks.python_of_the_nodes(tmp_path)
    script.write_text('#!/bin/sh\n')
    (tmp_path / 'bin').mkdir()
    (tmp_path / 'bin' / 'detector').write_text(f'#!{sys.executable}\n')
    assert machine_checks.python_of_the_nodes(tmp_path).startswith(sys.executable)
    bare = tmp_path / 'bin' / 'python3'
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E "$@"\n')  # without site-packages
    bare.chmod(0o755)
    script.write_text(f'#!{bare}\n')
    with pytest.raises(ProblemError, match=r'runs the nodes and has no .*torch.*; this is') as told:
        machine_checks.python_of_the_nodes(tmp_path)
    assert told.value.advice.startswith(f'{bare} -m pip install')
    script.write_text('#!/nowhere/python3\n')
    with pytest.raises(ProblemError, match='does not run'):
        machine_checks.python_of_the_nodes(tmp_path)


def test_backends_that_are_here_and_what_brings_the_others() -> None:
    found = machine_checks.backends()
    assert 'compile (torch ' in found
