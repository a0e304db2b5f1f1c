"""What RViz shows of a detector: `config/semanom.rviz`, for its cameras and their topics."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import yaml

MOST_OVERLAYS = 4
"""The window state of the file has places for so many."""

_NODE, _CAMERA_TOPIC = '/semanom_detector/camera', '/camera/image_raw'


def rviz_config(template: str, node: str, cameras: Sequence[str], image_topics: Sequence[str] = (),
                compressed: bool = False) -> str:
    """The configuration of RViz for a detector.

    Every camera has its overlay and its markers; anomaly map and camera are those of the first. RViz finds the
    transport of pictures by the end of the topic's name: that of a compressed camera must be named in full.

    Args:
        template: content of `config/semanom.rviz`.
        node: full name of the detector.
        cameras: their names.
        image_topics: of the cameras; none: the detector's own.
        compressed: what the cameras send.
    """
    content = yaml.safe_load(template)
    base = (image_topics[0] if image_topics else f'{node}/input/{cameras[0]}/image').removesuffix('/compressed')
    displays = []
    for display in content['Visualization Manager']['Displays']:
        topic = display.get('Topic', {}).get('Value', '')
        repeated = cameras[:MOST_OVERLAYS] if display['Name'] in ('Overlay', 'Anomalies') else cameras[:1]
        for number, camera in enumerate(repeated if topic else [''], 1):
            one = copy.deepcopy(display)
            if topic == _CAMERA_TOPIC:
                one['Topic']['Value'] = f'{base}/compressed' if compressed else base
            elif topic:
                one['Topic']['Value'] = topic.replace(_NODE, f'{node}/{camera}', 1)
            if number > 1:
                one['Name'] = f'{display["Name"]} {number}'
            displays.append(one)
    content['Visualization Manager']['Displays'] = displays
    return yaml.safe_dump(content, sort_keys=False, width=1_000_000)
