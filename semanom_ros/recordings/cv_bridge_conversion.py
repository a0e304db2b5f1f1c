"""cv_bridge, for the encodings that `images` does not know.

It is ROS's, compiled against one NumPy; with another one it can end the process that imports it. So it is tried once
in a process of its own before it is imported here, and nothing needs it to be there.
"""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from semanom_ros.errors import ImageError

_TRIAL = """
import numpy, cv_bridge
image = numpy.arange(48, dtype=numpy.uint8).reshape(4, 4, 3)
bridge = cv_bridge.CvBridge()
assert (bridge.imgmsg_to_cv2(bridge.cv2_to_imgmsg(image, 'bgr8'), 'rgb8') == image[..., ::-1]).all()
"""
_PATIENCE_S = 30


def is_here() -> bool:
    """Whether it is installed."""
    return importlib.util.find_spec('cv_bridge') is not None


@cache
def fault() -> str:
    """Why cv_bridge cannot be used; '' where it converts an image."""
    if not is_here():
        return 'it is not here'
    try:
        done = subprocess.run([sys.executable, '-c', _TRIAL], capture_output=True, text=True, timeout=_PATIENCE_S)
    except subprocess.TimeoutExpired:
        return f'it does not answer within {_PATIENCE_S} s'
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f'it crashed, exit status {done.returncode}'])[-1]
        return f'does not work with NumPy {np.__version__}: {last}'
    return ''


def rgb_of(message: Any) -> npt.NDArray[np.uint8]:
    """The picture of a `sensor_msgs/Image` by cv_bridge; only where there is no `fault`.

    Args:
        message: its fields are read; of whatever class.

    Returns:
        (height, width, 3) uint8 RGB, contiguous and writable.

    Raises:
        ImageError: cv_bridge makes no picture of it.
    """
    try:
        image = importlib.import_module('cv_bridge').CvBridge().imgmsg_to_cv2(message, 'rgb8')
    except Exception as error:  # its compiled part raises what it likes
        raise ImageError(f'image: found encoding {message.encoding!r}, which cv_bridge cannot convert to colours '
                         f'({" ".join(str(error).split())}); set the camera driver to another one') from error
    image = np.require(image, requirements=['C', 'W'])
    if image.dtype != np.uint8 or image.shape != (message.height, message.width, 3):
        raise ImageError(f'image: found {image.shape} {image.dtype} from cv_bridge for encoding {message.encoding!r}, '
                         f'expected ({message.height}, {message.width}, 3) uint8; set the camera driver to another one')
    return image
