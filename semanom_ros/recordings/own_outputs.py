"""What a detector published into a recording, told from what a vehicle sent.

A recording of everything (`ros2 bag record -a`) on a vehicle with a detector holds its pictures, which are no cameras,
and its results, which a replay must not mix with new ones.
"""

from __future__ import annotations

from collections.abc import Mapping

from semanom_ros.parameter_files import DETECTOR

_RESULTS = ('semanom_ros/msg/AnomalyArray', 'semanom_ros/msg/AnomalyScore')
_NAMES = ('anomalies', 'score', 'markers', 'mask', 'anomaly_map', 'overlay', 'overlay/compressed', 'detections',
          'annotations', 'obstacles')
"""Of `ros/outputs.py`; a test compares."""
_INFORMATION = 'semanom_ros/msg/DatabaseInfo'
_STATUS = '/diagnostics'


def own_outputs(topics: Mapping[str, str]) -> set[str]:
    """Topics on which a detector published.

    Those of the node `semanom_detector` in any namespace, or of one that tells of its database and of a camera; those
    beside results, wherever they were remapped to; and /diagnostics, of which a detector wrote a part.

    Args:
        topics: type of every topic, by name.
    """
    own = {name for name, type in topics.items() if type.startswith('semanom_ros/msg/')}
    beside = {name.rpartition('/')[0] for name in own if topics[name] in _RESULTS}
    own |= {f'{folder}/{output}' for folder in beside for output in _NAMES}
    nodes = {name.rpartition('/')[0] for name, type in topics.items() if type == _INFORMATION}
    nodes &= {folder.rpartition('/')[0] for folder in beside}  # nothing but the information was remapped otherwise
    for name in topics:
        for node in (f'/{DETECTOR}', *filter(None, nodes)):
            _, found, below = f'{name}/'.partition(f'{node}/')
            if found and not below.startswith('input/'):
                own.add(name)
    if own:
        own.add(_STATUS)
    return own & topics.keys()
