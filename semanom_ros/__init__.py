"""semanom_ros: semantic anomaly detection for cameras on robots and vehicles.

Local embeddings of a vision foundation model are compared with a database of
embeddings from nominal drives (M. P. Ronecker et al., arXiv 2505.07998).
"""

import os
from pkgutil import extend_path

# Before PyTorch is imported: its threads would spin while they wait for each other, which on a computer whose cores
# are busy with other work makes a forward pass ten times slower.
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')

# Before OpenCV is imported: it warns on stderr of each file that it cannot read, which is said in an error anyway.
os.environ.setdefault('OPENCV_LOG_LEVEL', 'ERROR')

# The generated `semanom_ros.msg` may live in another folder than these sources
# (source tree, editable install, colcon --symlink-install).
__path__ = extend_path(__path__, __name__)

__version__ = '0.1.0'
