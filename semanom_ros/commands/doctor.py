"""`semanom doctor`: what is installed, what of it works, and what to do about the rest."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from semanom_ros.errors import SemanomError
from semanom_ros.ros.middleware import large_image_settings

PATIENCE_S = 10.0
"""For a message between two nodes of this machine."""


class _ProblemError(Exception):
    """What is wrong, and what to do about it."""

    def __init__(self, found: str, advice: str, missing: bool = False) -> None:
        super().__init__(found)
        self.found, self.advice, self.missing = found, advice, missing


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        name: what was examined.
        status: `ok`, `missing` or `broken`.
        required: whether semanom_ros cannot do its work without it.
        found: version, and what was tried.
        advice: what to do; '' where all is well.
    """

    name: str
    status: str
    required: bool
    found: str
    advice: str = ''


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument('--json', action='store_true', help='print the findings as JSON')


def run(arguments: argparse.Namespace) -> int:
    """Examines this machine; 0 when all that is required works, else 1."""
    findings = []
    for finding in examine():
        findings.append(finding)
        if not arguments.json:
            print(_line(finding), flush=True)
    failed = [finding.name for finding in findings if finding.required and finding.status != 'ok']
    if arguments.json:
        print(json.dumps({'ok': not failed, 'findings': [asdict(finding) for finding in findings]}, indent=2))
    else:
        print(f'\nNot usable: {", ".join(failed)}.' if failed else '\nAll that is required works.')
    return 1 if failed else 0


def examine() -> Iterator[Finding]:
    """Tries every prerequisite, one after the other."""
    for name, required, check in CHECKS:
        try:
            yield Finding(name, 'ok', required, check())
        except _ProblemError as problem:
            yield Finding(name, 'missing' if problem.missing else 'broken', required, problem.found, problem.advice)
        except SemanomError as error:
            yield Finding(name, 'broken', required, str(error))
        except ModuleNotFoundError as error:
            package = (error.name or name).split('.')[0]
            yield Finding(name, 'missing', required, f'no module {error.name}', _install(package))
        except Exception as error:  # whatever a damaged installation may throw
            first = (str(error).strip().splitlines() or [''])[0]
            yield Finding(name, 'broken', required, f'{type(error).__name__}: {first}', _reinstall(name))


def _line(finding: Finding) -> str:
    mark = finding.status if finding.status == 'ok' or not finding.required else finding.status.upper()
    advice = f'\n{"":29}-> {finding.advice}' if finding.advice else ''
    return f'{mark:8} {finding.name:20}{finding.found}{advice}'


def _distribution() -> str:
    return os.environ.get('ROS_DISTRO', '')


def _install(package: str) -> str:
    """How a package gets here: from pip, or with ROS."""
    try:
        requirements = importlib.metadata.requires('semanom_ros') or []
    except importlib.metadata.PackageNotFoundError:
        requirements = []
    wanted = _PIP_NAMES.get(package, package).replace('_', '-')
    for requirement in requirements:
        if requirement.lower().replace('_', '-').startswith(wanted):
            return f'pip install "{requirement.split(";")[0].strip()}"'
    if package == 'semanom_ros':
        return 'build semanom_ros: make setup, or colcon build and source install/setup.bash'
    if package in _FROM_PYPI and not _distribution():
        return 'source a ROS 2 installation, or make setup'
    return f'apt install ros-{_distribution() or "$ROS_DISTRO"}-{package.replace("_", "-")}, and source ROS 2'


def _reinstall(name: str) -> str:
    return f'reinstall it; if that does not help, report this line with {name} in the title'


_PIP_NAMES = {'cv2': 'opencv-python-headless', 'faiss': 'faiss', 'open_clip': 'open-clip-torch', 'yaml': 'pyyaml'}
_FROM_PYPI = ('rclpy', 'sensor_msgs', 'std_msgs', 'rosgraph_msgs', 'ament_index_python')


def _python() -> str:
    return f'{sys.version.split()[0]}, {sys.executable}'


def _middleware() -> str:
    """With an implementation that is not there, rclpy ends the process that imports it: another one tries."""
    wanted = os.environ.get('RMW_IMPLEMENTATION', '')
    if not wanted:
        return 'the default one; RMW_IMPLEMENTATION is not set'
    done = subprocess.run([sys.executable, '-c', 'import rclpy'], capture_output=True, text=True)
    if done.returncode:
        del os.environ['RMW_IMPLEMENTATION']  # the rest is examined with the default one
        raise _ProblemError(
            f'RMW_IMPLEMENTATION is {wanted}, which rclpy cannot load',
            f'unset RMW_IMPLEMENTATION, or {_install(wanted)}',
        )
    return wanted


def _large_images() -> str:
    """Fast DDS, the default, has half a megabyte of shared memory: less than a raw picture."""
    import rclpy

    settings = large_image_settings()
    if settings and 'fastrtps' in rclpy.get_rmw_implementation_identifier():
        raise _ProblemError(
            'Fast DDS has its default shared memory: raw images may get lost between processes',
            'for the cameras\' processes: export ' + ' '.join(f'{name}={value}' for name, value in settings.items()),
            missing=True,
        )
    return 'the middleware is set up for them' if not settings else 'not Fast DDS: nothing to set up here'


def _ros() -> str:
    """A message must come back over DDS."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from std_msgs.msg import String

    context = rclpy.Context()
    rclpy.init(context=context, args=[])
    try:
        node = rclpy.create_node(f'semanom_doctor_{os.getpid()}', context=context, enable_rosout=False)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(node)
        received: list[String] = []
        topic = f'/semanom_doctor_{os.getpid()}'
        node.create_subscription(String, topic, received.append, 10)
        publisher = node.create_publisher(String, topic, 10)
        end = time.monotonic() + PATIENCE_S
        while not received and time.monotonic() < end:
            if publisher.get_subscription_count():
                publisher.publish(String(data='?'))
            executor.spin_once(timeout_sec=0.05)
        executor.shutdown()
        node.destroy_node()
        implementation = rclpy.get_rmw_implementation_identifier()
        domain = os.environ.get('ROS_DOMAIN_ID', '0')
    finally:
        rclpy.shutdown(context=context)
    where = _distribution() or 'from PyPI'
    if not received:
        raise _ProblemError(
            f'{where}, {implementation}: no message came through in {PATIENCE_S:g} s in domain {domain}',
            'look at RMW_IMPLEMENTATION, ROS_AUTOMATIC_DISCOVERY_RANGE, the firewall, and the space in /dev/shm',
        )
    return f'{where}, {implementation}; a message came through in domain {domain}'


def _messages() -> str:
    from rclpy.serialization import deserialize_message, serialize_message

    from semanom_ros.msg import Anomaly, AnomalyArray

    sent = AnomalyArray(camera='doctor', anomalies=[Anomaly(track_id=1)])
    if deserialize_message(serialize_message(sent), AnomalyArray) != sent:
        raise _ProblemError('a message changed on its way', 'build the messages again')
    return f'{Path(sys.modules["semanom_ros.msg"].__path__[0])}; serialized and read back'


def _share() -> str:
    from ament_index_python.packages import PackageNotFoundError, get_package_share_directory

    try:
        return str(get_package_share_directory('semanom_ros'))
    except (PackageNotFoundError, OSError):
        raise _ProblemError(
            'semanom_ros is not in AMENT_PREFIX_PATH: ros2 launch and ros2 run do not find it',
            f'source install/setup.bash, or export AMENT_PREFIX_PATH={sys.prefix}',
            missing=True,
        ) from None


def _numpy() -> str:
    """The compiled parts of messages and OpenCV, which break with a NumPy that they were not built for."""
    import cv2
    import numpy as np
    from rclpy.serialization import deserialize_message, serialize_message
    from sensor_msgs.msg import CameraInfo

    matrix = np.arange(9, dtype=np.float64)
    if not np.array_equal(deserialize_message(serialize_message(CameraInfo(k=matrix)), CameraInfo).k, matrix):
        raise _ProblemError(f'{np.__version__}: an array changed in a message', 'see cv_bridge below')
    cv2.cvtColor(np.zeros((4, 4, 3), np.uint8), cv2.COLOR_RGB2BGR)
    return f'{np.__version__}, OpenCV {cv2.__version__}; arrays pass through messages and OpenCV'


def _torch() -> str:
    import torch

    with torch.inference_mode():
        torch.nn.functional.conv2d(torch.ones(1, 3, 8, 8), torch.ones(4, 3, 2, 2)).sum().item()
    return f'{torch.__version__}; computes on the CPU with {torch.get_num_threads()} threads'


def _torchvision() -> str:
    import torch
    import torchvision

    try:
        torchvision.ops.nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([1.0]), 0.5)
    except RuntimeError as error:
        raise _ProblemError(
            f'{torchvision.__version__} does not fit torch {torch.__version__}: {str(error).splitlines()[0]}',
            'install the pair that setup.py pins, in one pip command',
        ) from error
    return torchvision.__version__


def _gpu() -> str:
    import torch

    if torch.version.cuda is None:
        raise _ProblemError(
            f'torch {torch.__version__} is a build without CUDA',
            'on a machine with an NVIDIA GPU: pip install --force-reinstall the pair that setup.py pins',
            missing=True,
        )
    if not torch.cuda.is_available():
        raise _ProblemError(
            f'torch {torch.__version__} sees none; everything runs on the CPU',
            f'if there is one: look at nvidia-smi, the driver must know CUDA {torch.version.cuda}',
            missing=True,
        )
    devices = []
    for index in range(torch.cuda.device_count()):
        torch.ones(64, 64, device=f'cuda:{index}').matmul(torch.ones(64, 64, device=f'cuda:{index}')).sum().item()
        free, total = torch.cuda.mem_get_info(index)
        devices.append(f'{torch.cuda.get_device_name(index)}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free')
    return f'CUDA {torch.version.cuda}: {"; ".join(devices)}'


def _faiss() -> str:
    import faiss
    import numpy as np

    vectors = np.eye(8, dtype=np.float32)
    index = faiss.IndexFlatIP(8)
    index.add(vectors)
    if not np.array_equal(index.search(vectors, 1)[1].ravel(), np.arange(8)):
        raise _ProblemError(f'{faiss.__version__}: a search found the wrong vectors', 'reinstall faiss')
    return faiss.__version__


def _encoder() -> str:
    import torch

    from semanom_ros.core.embedding.registry import load_encoder
    from semanom_ros.settings import EncoderSettings

    encoder = load_encoder(EncoderSettings(device='cpu'))
    begin = time.perf_counter()
    rows, columns = encoder.encode(torch.zeros(1, 3, *encoder.input_size)).shape[1:3]
    return (
        f'{rows}x{columns} patches of {encoder.dimension} numbers in {1e3 * (time.perf_counter() - begin):.0f} ms '
        'on the CPU'
    )


def _weights() -> str:
    from semanom_ros.core.embedding.registry import cards
    from semanom_ros.settings import EncoderSettings

    here = [card.name for card in cards()
            if card.kind == 'encoder' and card.present and card.name != EncoderSettings().name]
    if not here:
        raise _ProblemError(
            'no weights of real-world encoders', 'semanom models list, then semanom models fetch MODEL', missing=True
        )
    return ', '.join(here)


def _bags() -> str:
    import numpy as np

    from semanom_ros.recordings.bags import STORAGES, BagReader, BagWriter

    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    for storage in STORAGES:
        with tempfile.TemporaryDirectory() as folder:
            with BagWriter(Path(folder, 'bag'), storage) as writer:
                writer.write_image('/image', image, 'rgb8', 1, 'camera')
            with BagReader(Path(folder, 'bag')) as reader:
                if not np.array_equal(next(iter(reader.images('/image'))).image, image):
                    raise _ProblemError(f'{storage}: a picture changed in a recording', 'reinstall rosbags')
    return f'rosbags {importlib.metadata.version("rosbags")}; wrote and read {" and ".join(STORAGES)}'


def _video() -> str:
    import imageio_ffmpeg

    return f'ffmpeg {imageio_ffmpeg.get_ffmpeg_version()}'


def _cv_bridge() -> str:
    from semanom_ros.recordings import cv_bridge_conversion

    use = 'semanom_ros needs it for rare encodings of images only'
    if not cv_bridge_conversion.is_here():
        raise _ProblemError(f'not here; {use}', '', missing=True)
    if fault := cv_bridge_conversion.fault():
        raise _ProblemError(
            fault, f'{use}, other nodes may need it: pip install the NumPy that ROS was built with ("numpy<2")')
    return 'converts an image'


def _module(name: str, purpose: str) -> Callable[[], str]:
    def check() -> str:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
            raise _ProblemError(f'not here; {purpose}', _install(name), missing=True) from None
        try:
            return importlib.metadata.version(_PIP_NAMES.get(name, name))
        except importlib.metadata.PackageNotFoundError:
            return 'imports'

    return check


def _ros_package(name: str, purpose: str) -> Callable[[], str]:
    def check() -> str:
        from ament_index_python.packages import PackageNotFoundError, get_package_prefix

        try:
            return str(get_package_prefix(name))
        except (PackageNotFoundError, OSError):
            raise _ProblemError(f'not here; {purpose}', _install(name), missing=True) from None

    return check


CHECKS: tuple[tuple[str, bool, Callable[[], str]], ...] = (
    ('Python', True, _python),
    ('ROS middleware', True, _middleware),
    ('ROS 2', True, _ros),
    ('large images', False, _large_images),
    ('messages', True, _messages),
    ('ament index', False, _share),
    ('NumPy', True, _numpy),
    ('PyTorch', True, _torch),
    ('torchvision', True, _torchvision),
    ('GPU', False, _gpu),
    ('FAISS', True, _faiss),
    ('open_clip', True, _module('open_clip', 'for CLIP encoders and semanom-tiny')),
    ('timm', True, _module('timm', 'for DINOv2 and DINOv3')),
    ('semanom-tiny', True, _encoder),
    ('other encoders', False, _weights),
    ('recordings', True, _bags),
    ('video', False, _video),
    ('cv_bridge', False, _cv_bridge),
    ('launch_ros', False, _module('launch_ros', 'for ros2 launch')),
    ('vision_msgs', False, _module('vision_msgs', 'for ~/NAME/detections')),
    ('foxglove_msgs', False, _module('foxglove_msgs', 'for ~/NAME/annotations')),
    ('ros2bag', False, _ros_package('ros2bag', 'for replay.launch.py')),
    ('rviz2', False, _ros_package('rviz2', 'for rviz:=true')),
)
