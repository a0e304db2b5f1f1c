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
from dataclasses import asdict
from pathlib import Path
from typing import Any

from semanom_ros.commands import machine_checks
from semanom_ros.commands.camera_checks import camera_findings
from semanom_ros.commands.findings import Finding, ProblemError
from semanom_ros.commands.options import add_parameter_options, settings_of
from semanom_ros.commands.report_bundle import check_place, write_bundle
from semanom_ros.errors import ParameterError, SemanomError
from semanom_ros.home import expanded
from semanom_ros.parameter_files import NODES
from semanom_ros.ros.middleware import large_image_settings
from semanom_ros.settings import Settings

PATIENCE_S = 10.0
"""For a message between two nodes of this machine."""

LONGEST_S = 600.0
"""Of listening to a camera."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument('--json', action='store_true', help='print the findings as JSON')
    parser.add_argument('--topic', metavar='TOPIC', help='also listen to this image topic: rate, stamps, clock, QoS')
    parser.add_argument('--seconds', type=float, default=5.0, metavar='S', help='how long to listen (default: 5)')
    parser.add_argument('--bundle', type=Path, metavar='FILE.zip',
                        help='write findings, versions, parameters in force and the database\'s manifest into an '
                             'archive for an issue: no pictures, and secrets struck out')
    parser.add_argument('--log', type=Path, metavar='FILE', help='add the last lines of this log to the archive')
    add_parameter_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Examines this machine; 0 when all that is required works, else 1."""
    if not 0 < arguments.seconds <= LONGEST_S:
        raise ParameterError(f'--seconds: found {arguments.seconds:g}, expected more than 0, {LONGEST_S:g} at most; '
                             'correct it')
    if arguments.log is not None and arguments.bundle is None:
        raise ParameterError('--log: found no --bundle, expected one; name the archive that the log goes into')
    if arguments.bundle is not None:
        check_place(arguments.bundle)
    settings = settings_of(arguments)
    findings = []
    for finding in examine(settings, arguments.topic, arguments.seconds):
        findings.append(finding)
        if not arguments.json:
            print(finding, flush=True)
    failed = [finding.name for finding in findings if finding.failed]
    if arguments.json:
        print(json.dumps({'ok': not failed, 'findings': [asdict(finding) for finding in findings]}, indent=2))
    else:
        print(f'\nNot usable: {", ".join(failed)}.' if failed else '\nAll that is required works.')
    if arguments.bundle is not None:
        _bundle(arguments, settings, findings)
    return 1 if failed else 0


def _bundle(arguments: argparse.Namespace, settings: Settings, findings: list[Finding]) -> None:
    parameters: dict[str, Any] = {}
    if any(finding.name == 'ROS 2' and finding.status == 'ok' for finding in findings):
        from semanom_ros.ros.running_parameters import running_parameters

        parameters = dict(running_parameters(NODES))
    databases = [str(given['database']) for given in (*parameters.values(), settings.values()) if given.get('database')]
    parameters[str(arguments.config or 'defaults')] = settings.values()
    names = write_bundle(arguments.bundle, findings, parameters, [expanded(path) for path in databases], arguments.log)
    print(f'{arguments.bundle}: {", ".join(names)}; look through it before you attach it.', file=sys.stderr)


def examine(settings: Settings, topic: str | None = None, seconds: float = 5.0) -> Iterator[Finding]:
    """Tries every prerequisite, one after the other, and listens to a camera where one is named.

    Args:
        settings: whose weights and database are looked for.
        topic: of a camera's images.
        seconds: how long to listen to it.
    """
    for name, required, check in CHECKS:
        yield _examined(name, required, check)
    yield _examined('configuration', False, lambda: _configuration(settings))
    yield _examined('database', False, lambda: _database(settings))
    if topic is not None:
        try:
            yield from camera_findings(topic, seconds)
        except Exception as error:  # rclpy is not there, or the name is none; ROS 2 has its line above
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            yield Finding('camera', 'broken', True, f'{topic}: {first}', 'name its image topic: ros2 topic list -t')


def _examined(name: str, required: bool, check: Callable[[], str]) -> Finding:
    try:
        return Finding(name, 'ok', required, check())
    except ProblemError as problem:
        return Finding(name, problem.status, required, problem.found, problem.advice)
    except SemanomError as error:
        return Finding(name, 'broken', required, str(error))
    except ModuleNotFoundError as error:
        package = (error.name or name).split('.')[0]
        return Finding(name, 'missing', required, f'no module {error.name}', _install(package))
    except Exception as error:  # whatever a damaged installation may throw
        first = (str(error).strip().splitlines() or [''])[0]
        return Finding(name, 'broken', required, f'{type(error).__name__}: {first}', _reinstall(name))


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
        return f'the default one; RMW_IMPLEMENTATION is not set{_reach()}'
    done = subprocess.run([sys.executable, '-c', 'import rclpy'], capture_output=True, text=True)
    if done.returncode:
        del os.environ['RMW_IMPLEMENTATION']  # the rest is examined with the default one
        raise ProblemError(
            f'RMW_IMPLEMENTATION is {wanted}, which rclpy cannot load',
            f'unset RMW_IMPLEMENTATION, or {_install(wanted)}',
        )
    return f'{wanted}{_reach()}'


def _reach() -> str:
    """How far nodes look for each other, where that was set."""
    said = ''.join(f', {name} is {os.environ[name]}' for name in ('ROS_AUTOMATIC_DISCOVERY_RANGE', 'ROS_LOCALHOST_ONLY')
                   if os.environ.get(name))
    addresses = ('ROS_STATIC_PEERS', 'ROS_DISCOVERY_SERVER')  # which are nobody else's business
    return said + ''.join(f', {name} is set' for name in addresses if os.environ.get(name))


def _large_images() -> str:
    """Fast DDS, the default, has half a megabyte of shared memory: less than a raw picture."""
    import rclpy

    settings = large_image_settings()
    if settings and 'fastrtps' in rclpy.get_rmw_implementation_identifier():
        raise ProblemError(
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
        raise ProblemError(
            f'{where}, {implementation}: no message came through in {PATIENCE_S:g} s in domain {domain}',
            'start its router: ros2 run rmw_zenoh_cpp rmw_zenohd' if 'zenoh' in implementation else
            'look at RMW_IMPLEMENTATION, ROS_AUTOMATIC_DISCOVERY_RANGE, the firewall, and the space in /dev/shm',
        )
    return f'{where}, {implementation}; a message came through in domain {domain}'


def _messages() -> str:
    from rclpy.serialization import deserialize_message, serialize_message

    from semanom_ros.msg import Anomaly, AnomalyArray

    sent = AnomalyArray(camera='doctor', anomalies=[Anomaly(track_id=1)])
    if deserialize_message(serialize_message(sent), AnomalyArray) != sent:
        raise ProblemError('a message changed on its way', 'build the messages again')
    return f'{Path(sys.modules["semanom_ros.msg"].__path__[0])}; serialized and read back'


def _share() -> str:
    from ament_index_python.packages import PackageNotFoundError, get_package_share_directory

    try:
        return str(get_package_share_directory('semanom_ros'))
    except (PackageNotFoundError, OSError):
        raise ProblemError(
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
        raise ProblemError(f'{np.__version__}: an array changed in a message', 'see cv_bridge below')
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
        raise ProblemError(
            f'{torchvision.__version__} does not fit torch {torch.__version__}: {str(error).splitlines()[0]}',
            'install the pair that setup.py pins, in one pip command',
        ) from error
    return torchvision.__version__


def _gpu() -> str:
    import torch

    if torch.version.cuda is None:
        raise ProblemError(
            f'torch {torch.__version__} is a build without CUDA',
            'on a machine with an NVIDIA GPU: pip install --force-reinstall the pair that setup.py pins',
            missing=True,
        )
    if not torch.cuda.is_available():
        raise ProblemError(
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
        raise ProblemError(f'{faiss.__version__}: a search found the wrong vectors', 'reinstall faiss')
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
        raise ProblemError(
            'no weights of real-world encoders', 'semanom models list, then semanom models fetch MODEL', missing=True
        )
    return ', '.join(here)


def _configuration(settings: Settings) -> str:
    """The weights of what the parameters name."""
    from semanom_ros.core.embedding.registry import cards, find_encoder_weights

    encoder, queries = settings.method.encoder, settings.method.queries
    file = find_encoder_weights(encoder)
    found = f'encoder {encoder.name}: {file or "no weights needed"}'
    if queries.variant == 'grid':
        return found
    here = [card for card in cards() if card.kind == 'segmenter' and card.name == queries.segmenter]
    if here and not any(card.present for card in here) and not queries.segmenter_weights:
        raise ProblemError(f'segmenter {queries.segmenter}: its weights are not here',
                           f'semanom models fetch {queries.segmenter}', missing=True)
    return f'{found}; segmenter {queries.segmenter}'


def _database(settings: Settings) -> str:
    from semanom_ros.core.database.published import read_manifest

    path = expanded(settings.cameras.database)
    try:
        manifest = read_manifest(path)
    except SemanomError as error:
        found, _, advice = str(error).rpartition('; ')
        raise ProblemError(found, advice, missing=not path.exists()) from None
    made = manifest.description
    if not manifest.calibrated:
        raise ProblemError(f'{path}: version {manifest.version} is not calibrated: every frame is unknown',
                           f'semanom db calibrate {path}')
    return f'{path}: version {manifest.version}, {manifest.vectors} vectors of {made.encoder}'


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
                    raise ProblemError(f'{storage}: a picture changed in a recording', 'reinstall rosbags')
    return f'rosbags {importlib.metadata.version("rosbags")}; wrote and read {" and ".join(STORAGES)}'


def _video() -> str:
    import imageio_ffmpeg

    return f'ffmpeg {imageio_ffmpeg.get_ffmpeg_version()}'


def _cv_bridge() -> str:
    from semanom_ros.recordings import cv_bridge_conversion

    use = 'semanom_ros needs it for rare encodings of images only'
    if not cv_bridge_conversion.is_here():
        raise ProblemError(f'not here; {use}', '', missing=True)
    if fault := cv_bridge_conversion.fault():
        raise ProblemError(
            fault, f'{use}, other nodes may need it: pip install the NumPy that ROS was built with ("numpy<2")')
    return 'converts an image'


def _module(name: str, purpose: str) -> Callable[[], str]:
    def check() -> str:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
            raise ProblemError(f'not here; {purpose}', _install(name), missing=True) from None
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
            raise ProblemError(f'not here; {purpose}', _install(name), missing=True) from None

    return check


CHECKS: tuple[tuple[str, bool, Callable[[], str]], ...] = (
    ('Python', True, _python),
    ('ROS middleware', True, _middleware),
    ('ROS 2', True, _ros),
    ('large images', False, _large_images),
    ('shared memory', False, machine_checks.shared_memory),
    ('messages', True, _messages),
    ('ament index', False, _share),
    ('Python of the nodes', False, machine_checks.python_of_the_nodes),
    ('NumPy', True, _numpy),
    ('PyTorch', True, _torch),
    ('PyTorch installed', False, machine_checks.torch_installations),
    ('torchvision', True, _torchvision),
    ('GPU', False, _gpu),
    ('FAISS', True, _faiss),
    ('open_clip', True, _module('open_clip', 'for CLIP encoders and semanom-tiny')),
    ('timm', True, _module('timm', 'for DINOv2 and DINOv3')),
    ('semanom-tiny', True, _encoder),
    ('other encoders', False, _weights),
    ('backends', False, machine_checks.backends),
    ('threads', False, machine_checks.threads),
    ('OpenMP', False, machine_checks.openmp),
    ('recordings', True, _bags),
    ('video', False, _video),
    ('cv_bridge', False, _cv_bridge),
    ('launch_ros', False, _module('launch_ros', 'for ros2 launch')),
    ('tf2_msgs', False, _module('tf2_msgs', 'for distances, see ground_frame')),
    ('bond', False, _module('bond', "for the bond of Nav2's lifecycle manager")),
    ('vision_msgs', False, _module('vision_msgs', 'for ~/NAME/detections')),
    ('foxglove_msgs', False, _module('foxglove_msgs', 'for ~/NAME/annotations')),
    ('ros2bag', False, _ros_package('ros2bag', 'for replay.launch.py')),
    ('rviz2', False, _ros_package('rviz2', 'for rviz:=true')),
)
