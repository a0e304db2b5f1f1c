"""semanom_ros: semantic anomaly detection for cameras on robots and vehicles.

Local embeddings of a vision foundation model are compared with a database of
embeddings from nominal drives (M. P. Ronecker et al., arXiv 2505.07998).
"""

import os
from pkgutil import extend_path

from semanom_ros.bounds import MAX_PIXELS

# Before PyTorch is imported: its threads would spin while they wait for each other, which on a computer whose cores
# are busy with other work makes a forward pass ten times slower.
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')

# Before OpenCV is imported: each of its decoders compares what it has read from the header with this. What it cannot
# decode is said by whoever asked for it, once, and need not be said by OpenCV with every picture.
os.environ.setdefault('OPENCV_IO_MAX_IMAGE_PIXELS', str(MAX_PIXELS))
os.environ.setdefault('OPENCV_LOG_LEVEL', 'FATAL')

# The generated `semanom_ros.msg` may live in another folder than these sources
# (source tree, editable install, colcon --symlink-install).
__path__ = extend_path(__path__, __name__)

__version__ = '0.1.0'
