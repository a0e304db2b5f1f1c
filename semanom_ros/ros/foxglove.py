"""What Foxglove and Lichtblick show of a detector: a layout for its cameras and their topics.

`python -m semanom_ros.ros.foxglove` writes those that are shipped, `config/foxglove_layout*.json`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

from semanom_ros.core.results import Verdict
from semanom_ros.parameter_files import DETECTOR
from semanom_ros.recordings.bags import camera_info_topic
from semanom_ros.rendering.overlay import ALARM, AMBER, CALM, GREY, VIOLET, Colour

FILE = 'foxglove_layout.json'
SHIPPED: dict[str, tuple[str, ...]] = {FILE: ('camera',), 'foxglove_layout_3_cameras.json': ('front', 'left', 'right')}
"""Cameras of the files in `config/`."""

_LEVELS_SHOWN = 2.0
"""Times the alarm level at which the anomaly map is brightest, and the plot of the scores ends."""

_ORDER = (('unknown', Verdict.UNKNOWN, VIOLET), ('nominal', Verdict.NOMINAL, CALM),
          ('ANOMALY', Verdict.ANOMALOUS, ALARM))


def foxglove_layout(node: str, cameras: Sequence[str], image_topics: Sequence[str] = (), compressed: bool = False,
                    recorded: Collection[str] = (), fixed_frame: str = '') -> str:
    """The layout, as Foxglove and Lichtblick import it.

    For each camera: its picture with the annotations, the overlay, whether it is anomalous, and whether that is held
    back; of the first also the anomaly map. Scores, states, markers and diagnostics of all cameras stand below.

    Args:
        node: full name of the detector.
        cameras: their names.
        image_topics: of the cameras; none: the detector's own.
        compressed: what the cameras send.
        recorded: topics of a recording that is to be shown; a picture that is there as JPEG only is shown from that.
        fixed_frame: that the 3D view shows; '': the viewer chooses.
    """
    panels: dict[str, dict[str, Any]] = {}

    def panel(kind: str, name: str, title: str, **config: Any) -> str:
        key = f'{kind}!{name}'
        # each program reads its own name of the same thing
        panels[key] = {'foxglovePanelTitle': title, 'lichtblickPanelTitle': title, **config}
        return key

    columns = []
    for number, camera in enumerate(cameras):
        own, images = f'{node}/{camera}', (image_topics[number] if image_topics else f'{node}/input/{camera}/image')
        base = images.removesuffix('/compressed')
        columns.append(_stacked(
            panel('Image', f'{camera}_camera', f'{camera}: annotations', imageMode={
                'imageTopic': _sent(base, recorded, compressed), 'calibrationTopic': camera_info_topic(base),
                'annotations': {f'{own}/annotations': {'visible': True}}, 'synchronize': False}),
            panel('Image', f'{camera}_overlay', f'{camera}: overlay',
                  imageMode={'imageTopic': _sent(f'{own}/overlay', recorded)}),
            _beside(
                panel('Indicator', f'{camera}_verdict', f'{camera}: verdict', path=f'{own}/score.verdict',
                      style='background', fallbackColor=_hex(GREY), fallbackLabel='no frames',
                      rules=[_rule(str(int(verdict)), label, colour) for label, verdict, colour in _ORDER]),
                panel('Indicator', f'{camera}_held_back', f'{camera}: held back', path=f'{own}/score.held_back',
                      style='background', fallbackColor=_hex(GREY), fallbackLabel='no frames',
                      rules=[_rule('true', 'HELD BACK', AMBER), _rule('false', 'not held back', GREY)])),
            shares=(42, 42, 16)))
    first = f'{node}/{cameras[0]}'
    pictures = _beside(*columns)
    scores = panel('Plot', 'scores', 'score (1 is the alarm level)', paths=[
        *(_path(f'{node}/{camera}/score.score', camera) | {'enabled': True} for camera in cameras),
        # a number is a line across the plot
        {'value': '1', 'label': 'alarm level', 'color': _hex(ALARM), 'enabled': True, 'timestampMethod': 'receiveTime'},
    ], minYValue=0, maxYValue=2 * _LEVELS_SHOWN, showLegend=True, legendDisplay='floating', showPlotValuesInLegend=True,
        showXAxisLabels=True, showYAxisLabels=True, isSynced=True, xAxisVal='timestamp', sidebarDimension=240)
    states = panel('StateTransitions', 'states', 'verdict, reason and drift', isSynced=True, paths=[
        _path(f'{node}/{camera}/score.{field}', f'{camera}: {label}') for camera in cameras
        for field, label in (('verdict', 'verdict'), ('reason', 'reason'), ('drift.state', 'drift'))])
    anomaly_map = panel('Image', 'anomaly_map', f'{cameras[0]}: anomaly map', imageMode={
        'imageTopic': f'{first}/anomaly_map', 'colorMode': 'colormap', 'colorMap': 'turbo', 'minValue': 0,
        'maxValue': _LEVELS_SHOWN})
    mask = panel('Image', 'mask', f'{cameras[0]}: mask', imageMode={'imageTopic': _sent(f'{first}/mask', recorded)})
    scene = panel('3D', 'scene', 'anomalies', topics={f'{node}/{camera}/markers': {'visible': True}
                                                      for camera in cameras},
                  layers={'grid': {'layerId': 'foxglove.Grid', 'visible': True, 'size': 40, 'divisions': 40}},
                  imageMode={}, **({'followTf': fixed_frame} if fixed_frame else {}))
    health = panel('DiagnosticSummary', 'health', 'diagnostics', topicToRender='/diagnostics', minLevel=0,
                   pinnedIds=[], hardwareIdFilter='', sortByLevel=True)
    below = _beside(_stacked(scores, states, shares=(55, 45)), _stacked(anomaly_map, mask, shares=(50, 50)), scene,
                    health)
    layout = {'configById': panels, 'globalVariables': {}, 'userNodes': {}, 'playbackConfig': {'speed': 1},
              'layout': _stacked(pictures, below, shares=(62, 38))}
    return json.dumps(layout, indent=1) + '\n'


def _sent(topic: str, recorded: Collection[str], compressed: bool = False) -> str:
    jpeg = f'{topic}/compressed'
    return jpeg if compressed or (topic not in recorded and jpeg in recorded) else topic


def _path(value: str, label: str) -> dict[str, Any]:
    return {'value': value, 'label': label, 'timestampMethod': 'headerStamp'}


def _rule(value: str, label: str, colour: Colour) -> dict[str, str]:
    return {'operator': '=', 'rawValue': value, 'label': label, 'color': _hex(colour)}


def _hex(colour: Colour) -> str:
    return '#' + bytes(colour).hex()


def _beside(*parts: Any) -> Any:
    """Panels from left to right, equally wide."""
    return _split('row', parts, [1] * len(parts))


def _stacked(*parts: Any, shares: Sequence[int]) -> Any:
    """Panels from above, with these shares of the height."""
    return _split('column', parts, shares)


def _split(direction: str, parts: Sequence[Any], shares: Sequence[int]) -> Any:
    """Nested pairs, as the viewers have it."""
    def pair(done: tuple[Any, int], one: tuple[Any, int]) -> tuple[Any, int]:
        (second, below), (first, share) = done, one
        return {'direction': direction, 'first': first, 'second': second,
                'splitPercentage': round(100 * share / (share + below), 2)}, share + below

    (last, share), *others = reversed(list(zip(parts, shares, strict=True)))
    return reduce(pair, others, (last, share))[0]


def shipped_layouts() -> dict[str, str]:
    """Content of the files in `config/`, by name; the cameras of several send on /NAME/image_raw."""
    return {file: foxglove_layout(f'/{DETECTOR}', cameras, [f'/{camera}/image_raw' for camera in cameras])
            for file, cameras in SHIPPED.items()}


if __name__ == '__main__':
    folder = Path(__file__).resolve().parents[2] / 'config'
    for name, text in shipped_layouts().items():
        (folder / name).write_text(text)
