"""What RViz shows of a detector: `config/semanom.rviz`, for its cameras and their topics."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from pathlib import Path

import yaml

from semanom_ros.errors import SemanomError

FILE = 'semanom.rviz'

MOST_OVERLAYS = 4
"""The window state of the file has places for so many."""

_NODE, _CAMERA_TOPIC = '/semanom_detector/camera', '/camera/image_raw'


def template() -> str:
    """Content of `config/semanom.rviz`, of the source tree or of the installation.

    Raises:
        SemanomError: it is not there.
    """
    for parent in Path(__file__).resolve().parents:
        for place in (parent / 'config' / FILE, parent / 'share' / 'semanom_ros' / 'config' / FILE):
            if place.is_file():
                return place.read_text()
    raise SemanomError(f'{Path(__file__).parent}: found no config/{FILE} in a share folder above it; install the '
                       'package again')


def rviz_config(template: str, node: str, cameras: Sequence[str], image_topics: Sequence[str] = (),
                compressed: bool = False, recorded: Collection[str] = (), fixed_frame: str = '') -> str:
    """The configuration of RViz for a detector.

    Every camera has its overlay and its markers; anomaly map and camera are those of the first. RViz finds the
    transport of pictures by the end of the topic's name: that of a compressed camera must be named in full.

    Args:
        template: content of `config/semanom.rviz`.
        node: full name of the detector.
        cameras: their names.
        image_topics: of the cameras; none: the detector's own.
        compressed: what the cameras send.
        recorded: topics of a recording that is to be shown; a picture that is there as JPEG only is shown from that.
        fixed_frame: '': that of the template.
    """
    content = yaml.safe_load(template)
    base = (image_topics[0] if image_topics else f'{node}/input/{cameras[0]}/image').removesuffix('/compressed')
    displays = []
    for display in content['Visualization Manager']['Displays']:
        topic = display.get('Topic', {}).get('Value', '')
        repeated = cameras[:MOST_OVERLAYS] if display['Name'] in ('Overlay', 'Anomalies') else cameras[:1]
        for number, camera in enumerate(repeated if topic else [''], 1):
            one = copy.deepcopy(display)
            if topic:
                of_camera = topic == _CAMERA_TOPIC
                name = base if of_camera else topic.replace(_NODE, f'{node}/{camera}', 1)
                jpeg = (of_camera and compressed) or (name not in recorded and f'{name}/compressed' in recorded)
                one['Topic']['Value'] = f'{name}/compressed' if jpeg else name
            if number > 1:
                one['Name'] = f'{display["Name"]} {number}'
            displays.append(one)
    content['Visualization Manager']['Displays'] = displays
    if fixed_frame:
        content['Visualization Manager']['Global Options']['Fixed Frame'] = fixed_frame
    return yaml.safe_dump(content, sort_keys=False, width=1_000_000)
