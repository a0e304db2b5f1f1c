"""What `semanom doctor` examines of the machine: shared memory, threads, and which Python has which libraries."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from semanom_ros.commands.findings import DoubtError, ProblemError
from semanom_ros.errors import EncoderError

MEBI = 1 << 20
SEGMENT = 64 * MEBI
"""Bytes of shared memory that one process takes with `config/fastdds_large_images.xml`."""

DATAGRAM_BUFFER = 2 * MEBI
"""Bytes of a socket's buffer below which a middleware without shared memory loses parts of raw pictures."""

SCAN_S = 20.0
_OPENMP = re.compile(r'/lib(gomp|iomp5|omp)\b[^/]*\.so[^/]*$')
_OPENMP_NAMES = {'gomp': 'GNU', 'iomp5': 'Intel', 'omp': 'LLVM'}
_VENDOR = re.compile(r'\+.*(nv\d|tegra|jp\d|rocm)', re.I)
_LIBRARIES = ('rclpy', 'numpy', 'torch', 'torchvision', 'open_clip', 'timm', 'faiss', 'rosbags', 'scipy')
"""What the nodes cannot start without."""

_LOOK = ('import importlib.util, json, sys; '
         'print(json.dumps([name for name in sys.argv[1:] if not importlib.util.find_spec(name)]))')


def shared_memory(folder: Path = Path('/dev/shm'), kernel: Path = Path('/proc/sys/net/core/rmem_max'),
                  middleware: str = '') -> str:
    """Whether pictures find room between processes.

    Args:
        folder: of POSIX shared memory.
        kernel: file with the largest buffer of a socket.
        middleware: '': the one in use.
    """
    if not middleware:
        import rclpy

        middleware = rclpy.get_rmw_implementation_identifier()
    if 'fastrtps' not in middleware:
        return _datagrams(kernel, middleware)
    if not folder.is_dir():
        raise ProblemError(f'{folder} is not there: processes exchange pictures by UDP',
                           f'sudo mount -t tmpfs tmpfs {folder}; in Docker: docker run --ipc host')
    space = os.statvfs(folder)
    total, free = space.f_blocks * space.f_frsize, space.f_bavail * space.f_frsize
    segments = [path for path in folder.iterdir() if re.match('fast(rtps|dds)_', path.name)]
    foreign = [path for path in segments if not os.access(path, os.R_OK | os.W_OK)]
    taken = sum(path.stat().st_size for path in segments if path.exists())
    found = (f'{folder}: {free / MEBI:.0f} of {total / MEBI:.0f} MiB free; {len(segments)} files of Fast DDS, '
             f'{taken / MEBI:.0f} MiB')
    if free < 2 * SEGMENT:
        raise DoubtError(
            f'{found}; expected {2 * SEGMENT // MEBI} MiB free for a camera and the detector',
            f'fastdds shm clean, then sudo mount -o remount,size=1G {folder}; in Docker: docker run --shm-size 1g')
    if foreign:
        raise DoubtError(f'{found}; {len(foreign)} belong to another user: what its nodes send may not arrive here',
                         'run all nodes as one user, or export FASTDDS_BUILTIN_TRANSPORTS=UDPv4 for all of them')
    return found


def _datagrams(kernel: Path, middleware: str) -> str:
    try:
        largest = int(kernel.read_text())
    except (OSError, ValueError):
        return f'{middleware}: the largest buffer of a socket is unknown here'
    found = f'{middleware}: buffers of sockets have up to {largest / MEBI:.1f} MiB'
    if largest < DATAGRAM_BUFFER:
        raise DoubtError(f'{found}, expected {DATAGRAM_BUFFER // MEBI} MiB: parts of raw pictures may get lost',
                         'sudo sysctl -w net.core.rmem_max=2147483647, and the same line in /etc/sysctl.d')
    return found


def cpus_allowed(control: Path = Path('/sys/fs/cgroup')) -> int:
    """CPUs that this process may use: those it is bound to, and the share that its container has.

    Args:
        control: where the kernel shows the limits of the control group, of version 2 or 1.
    """
    allowed = len(os.sched_getaffinity(0))
    for names in (('cpu.max',), ('cpu/cpu.cfs_quota_us', 'cpu/cpu.cfs_period_us')):
        try:
            quota, period = ' '.join((control / name).read_text() for name in names).split()
        except (OSError, ValueError):
            continue
        if quota not in ('max', '-1'):
            allowed = min(allowed, math.ceil(int(quota) / int(period)))
    return max(1, allowed)


def threads(control: Path = Path('/sys/fs/cgroup')) -> str:
    """Whether PyTorch starts as many threads as there are CPUs for it."""
    import torch

    allowed, started = cpus_allowed(control), torch.get_num_threads()
    given = os.environ.get('OMP_NUM_THREADS', '')
    found = (f'PyTorch computes with {started} threads on {allowed} CPUs, OMP_NUM_THREADS is {given or "not set"}; '
             f'load {os.getloadavg()[0]:.1f}')
    if started > allowed:
        raise DoubtError(f'{found}: they wait for each other', f'export OMP_NUM_THREADS={allowed}')
    if started == 1 < allowed and given:
        raise DoubtError(f'{found}: the others stay idle where no GPU computes',
                         f'unset OMP_NUM_THREADS, or export OMP_NUM_THREADS={allowed}')
    return found


def openmp(maps: Path = Path('/proc/self/maps')) -> str:
    """Which OpenMP runtimes this process has loaded with its libraries.

    Args:
        maps: file in which the kernel shows what is loaded.
    """
    for name in ('torch', 'faiss', 'cv2', 'lightgbm'):
        try:
            importlib.import_module(name)
        except Exception:
            continue  # has a line of its own
    try:
        lines = maps.read_text().splitlines()
    except OSError:
        return 'what is loaded cannot be seen on this system'
    runtimes: dict[str, list[str]] = {}
    for file in sorted({line.split(maxsplit=5)[-1] for line in lines}):
        if match := _OPENMP.search(file):
            runtimes.setdefault(_OPENMP_NAMES[match[1]], []).append(file)
    if not runtimes:
        return 'none is loaded'
    where = '; '.join(f'{name}: {", ".join("/".join(Path(file).parts[-2:]) for file in files)}'
                      for name, files in runtimes.items())
    if len(runtimes) > 1:
        raise DoubtError(
            f'{len(runtimes)} different runtimes in one process, which may slow it down or hang it: {where}',
            'take PyTorch, FAISS and OpenCV from one source: a new virtual environment, and in it python -m pip '
            'install semanom_ros, without what conda or Intel bring')
    return where


def torch_installations(path: Sequence[str] | None = None, jetson: Path = Path('/etc/nv_tegra_release')) -> str:
    """Whether the PyTorch that is imported is the one that belongs on this machine.

    Args:
        path: folders that Python looks in; None: this one's.
        jetson: file that NVIDIA's systems for Jetson have.
    """
    import torch

    found = list(_installations('torch', sys.path if path is None else path))
    said = ', '.join(f'{version} in {folder}' for folder, version in found) or f'{torch.__version__}, without metadata'
    vendors = [version for _, version in found if _VENDOR.search(version)]
    if vendors and not _VENDOR.search(found[0][1]):
        raise ProblemError(f'{said}: the first hides {vendors[0]}, the vendor\'s build for this GPU',
                           f'{sys.executable} -m pip uninstall torch torchvision, until {vendors[0]} is the first')
    if jetson.exists() and not vendors and not torch.cuda.is_available():
        raise ProblemError(f'{said}: a Jetson, whose GPU this build does not know',
                           f'{sys.executable} -m pip uninstall torch torchvision; then install NVIDIA\'s wheels for '
                           'this JetPack, https://pypi.jetson-ai-lab.io')
    if len(found) > 1:
        raise DoubtError(f'{said}: the first hides the others; torchvision must fit it',
                         f'{sys.executable} -m pip uninstall torch torchvision, and install the pair once')
    return said


def _installations(name: str, path: Iterable[str]) -> Iterable[tuple[str, str]]:
    """Folder and version of every installation of a distribution, in the order in which Python finds them."""
    seen = set()
    for folder in path:
        place = os.path.realpath(folder or '.')
        if place in seen:
            continue
        seen.add(place)
        for one in importlib.metadata.distributions(name=name, path=[place]):
            if Path(place, name, '__init__.py').is_file():
                yield place, one.version


def python_of_the_nodes(prefix: Path | None = None) -> str:
    """Whether the Python that `ros2 run` and `ros2 launch` start the nodes with finds what they need.

    Args:
        prefix: that semanom_ros is installed in; None: the one that ROS finds.
    """
    if prefix is None:
        from ament_index_python.packages import PackageNotFoundError, get_package_prefix

        try:
            prefix = Path(get_package_prefix('semanom_ros'))
        except (PackageNotFoundError, OSError):
            raise ProblemError('ros2 run does not find semanom_ros',
                               f'source install/setup.bash, or export AMENT_PREFIX_PATH={sys.prefix}',
                               missing=True) from None
    python = _interpreter(prefix)
    if not python:
        raise ProblemError(f'{prefix}: found no lib/semanom_ros/detector that a Python runs',
                           'build semanom_ros again: make setup, or colcon build', missing=True)
    try:
        done = subprocess.run([python, '-c', _LOOK, *_LIBRARIES], capture_output=True, text=True, timeout=SCAN_S)
        lacking = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        raise ProblemError(f'{python}: does not run', 'build semanom_ros again: make setup, or colcon build') from None
    if lacking:
        hidden = ''
        if os.environ.get('PYTHONNOUSERSITE') and '/site-packages' not in python:
            hidden = ', PYTHONNOUSERSITE hides what pip install --user has installed'
        ours = '' if os.path.abspath(python) == os.path.abspath(sys.executable) else f'; this is {sys.executable}'
        raise ProblemError(
            f'{python} runs the nodes and has no {", ".join(lacking)}{ours}{hidden}',
            f'{python} -m pip install {" ".join(_install_names(lacking))}, or build the workspace with the Python that '
            'has them: python -m colcon build --symlink-install')
    return f'{python}; finds {", ".join(_LIBRARIES)}'


def _install_names(modules: Sequence[str]) -> list[str]:
    names = {'open_clip': 'open_clip_torch', 'faiss': 'faiss-cpu'}
    return [names.get(module, module) for module in modules if module != 'rclpy']


def _interpreter(prefix: Path) -> str:
    """The Python that runs the detector's executable; '' where none is named.

    With wheels of ROS 2 the executable that ROS finds is a shell's, which goes on to the one of pip.
    """
    for name in ('lib/semanom_ros/detector', 'bin/detector'):
        try:
            with open(prefix / name, 'rb') as file:
                first = file.readline(4096).decode(errors='replace').strip()
        except OSError:
            continue
        words = first.removeprefix('#!').split()
        if words and words[0].endswith('/env'):
            words = [shutil.which(words[-1]) or words[-1]]
        if words and 'python' in Path(words[0]).name:
            return words[0]
    return ''


def backends() -> str:
    """Which backends can make engines here, and load them."""
    from semanom_ros.core.embedding.backends.backend import check_can_build, versions
    from semanom_ros.core.embedding.registry import backend_names, load_backend

    here, reasons = [], []
    for name in backend_names():
        backend = load_backend(name)
        try:
            check_can_build(backend, backend.precisions[0])
            here.append(f'{name} ({", ".join(f"{library} {v}" for library, v in versions(backend).items())})')
        except EncoderError as error:
            reasons.append(f'{name}: {str(error).rpartition("; ")[2]}')
    if not here:
        raise ProblemError('none but PyTorch itself', '; '.join(reasons), missing=True)
    lacking = f'; not here: {"; ".join(reasons)}' if reasons else ''
    return f'{", ".join(here)}; semanom export makes engines{lacking}'
