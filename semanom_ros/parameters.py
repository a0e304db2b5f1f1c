"""The one table of parameters.

Node declarations, `config/*.yaml`, the README's tables and the command line all
come from it. `python -m semanom_ros.parameters` writes the generated files anew;
a test fails when they differ.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from semanom_ros.errors import ParameterError

_OF_EVERY_NODE = ('use_sim_time', 'qos_overrides', 'start_type_description_service')

METHOD, NODE, DETECTOR, RECORDER = 'method', 'node', 'detector', 'recorder'

SEGMENT_EMBEDDINGS = ('patches', 'crop')
SEGMENTERS = ('embedding', 'torchvision', 'owlv2+sam2', 'sam2', 'sam', 'topic')

Value = bool | int | float | str | list[int] | list[float] | list[str]


@dataclass(frozen=True)
class Parameter:
    """One parameter: its default fixes its type.

    Attributes:
        name: ROS parameter name.
        default: value when nothing is given; lists are never empty, so that their type is known.
        description: what it does, with its unit.
        group: `method` (detector, recorder and evaluator), `node` (detector and recorder), `detector` or `recorder`.
        minimum, maximum: inclusive bounds, for numbers and the items of lists.
        choices: the allowed strings.
        live: may be changed while the detector is active; the others are read at configure.
    """

    name: str
    default: Value
    description: str
    group: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    live: bool = False

    def check(self, value: Any) -> Value:
        """Returns `value` in the parameter's type.

        Raises:
            ParameterError: wrong type, out of bounds, or not among the choices.
        """
        wanted = type(self.default)
        if wanted is float and type(value) is int:
            value = float(value)
        if isinstance(self.default, list) and isinstance(value, Iterable) and not isinstance(value, str):
            value = list(value)
            item = type(self.default[0])
            if item is float:
                value = [float(v) if type(v) is int else v for v in value]
            if any(type(v) is not item for v in value):
                raise self._error(value, f'a list of {item.__name__}')
        elif type(value) is not wanted:
            raise self._error(value, f'a {wanted.__name__}')
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int | float) and not isinstance(number, bool):
                if self.minimum is not None and not number >= self.minimum:
                    raise self._error(value, f'at least {self.minimum:g}')
                if self.maximum is not None and not number <= self.maximum:
                    raise self._error(value, f'at most {self.maximum:g}')
        if self.choices and value not in self.choices:
            raise self._error(value, f'one of {", ".join(self.choices)}')
        return value

    def _error(self, value: Any, expected: str) -> ParameterError:
        return ParameterError(f'parameter {self.name}: found {value!r}, expected {expected}; correct it')


TABLE: tuple[Parameter, ...] = (
    # -- encoder
    Parameter('encoder', 'semanom-tiny', 'vision foundation model: `open_clip:MODEL`, `timm:MODEL`, '
              '`torchscript:/path/file.ts`, or the shipped `semanom-tiny`', METHOD),
    Parameter('encoder_weights', '', 'weights: a pretrained tag, a file (.safetensors, .pt), `local-dir:/path`, or '
              '`random:SEED`; empty: what `semanom models fetch` fetched', METHOD),
    Parameter('encoder_features', 'tokens', 'patch features: `tokens` of encoder_layer, or the value projection of the '
              'last block (`maskclip`), aligned with text', METHOD, choices=('tokens', 'maskclip')),
    Parameter('encoder_layer', -1, 'transformer block whose tokens are used; -1: the last', METHOD, minimum=-64,
              maximum=63),
    Parameter('input_size', [0, 0], 'height and width that the encoder sees, in pixels; 0: the encoder\'s own', METHOD,
              minimum=0, maximum=8192),
    Parameter('device', 'auto', '`auto`, `cpu`, `cuda` or `cuda:N`', METHOD),
    Parameter('precision', 'auto', 'arithmetic of the encoder; auto: bf16 on a GPU that has it, else fp32', METHOD,
              choices=('auto', 'fp32', 'fp16', 'bf16')),
    # -- queries
    Parameter('variant', 'grid', 'what is compared with the database: every patch, or segments with the grid where no '
              'segment is', METHOD, choices=('grid', 'instance')),
    Parameter('segmenter', 'embedding', 'instance masks: `embedding` (training-free, from the patch embeddings), '
              '`torchvision` (Mask R-CNN), `owlv2+sam2` (as in the paper), `sam2` or `sam` (masks of everything), or '
              '`topic` (from another node or a simulator)', METHOD, choices=SEGMENTERS),
    Parameter('segment_embedding', 'patches', 'what stands for a segment: `patches`, the mean of its patch embeddings, '
              'or `crop`, the embedding of the picture cut out round it, for CLIP encoders of open_clip with '
              'encoder_features `maskclip`: one more pass of the encoder for each segment', METHOD,
              choices=SEGMENT_EMBEDDINGS),
    Parameter('segmenter_weights', '', 'weights of the segmenter: a file for `torchvision`, a folder for `sam2` and '
              '`sam`, two with a comma between for `owlv2+sam2`; empty: what `semanom models fetch` fetched', METHOD),
    Parameter('segmenter_prompts', '', 'text file with one prompt a line, for `owlv2+sam2`; empty: the shipped ones, '
              'for driving', METHOD),
    Parameter('segmenter_every_n', 1, 'find masks in every n-th frame of a camera; between, the last ones move with '
              'the picture', METHOD, minimum=1, maximum=1000),
    Parameter('segments_topics', [''], 'in recordings, the topic of the masks of each image topic, for the segmenter '
              '`topic`; live they come on `~/input/NAME/segments`', METHOD),
    Parameter('max_segments', 256, 'most segments that one image may have', METHOD, minimum=1, maximum=1000),
    Parameter('label_vocabulary', '', 'text file with one label a line, for zero-shot labels with a CLIP encoder; '
              'empty: no labels', METHOD),
    # -- score
    Parameter('neighbours', 1, 'nearest nominal embeddings that a distance is the mean of', METHOD, minimum=1,
              maximum=64),
    Parameter('density_neighbours', 0, 'PatchCore\'s re-weighting: nearest neighbours of the nearest nominal embedding '
              'that a distance is compared with, 9 in that paper; 0: none', METHOD, minimum=0, maximum=64),
    Parameter('standardize', True, 'bring each dimension of the embeddings to zero mean and unit variance over '
              'the nominal database before they are compared (never those of semanom-tiny); false: the paper\'s method',
              METHOD),
    Parameter('position_weight', 0.0, 'weight of the image position in the comparison: added to a distance for the '
              'squared difference, the image being 1 wide and high; 0: the paper\'s method', METHOD, minimum=0.0,
              maximum=10.0),
    Parameter('scale_weight', 0.0, 'weight of the size in the comparison of segments: added to a distance for things '
              'twice as large, four times that for things four times as large; 0: the paper\'s method', METHOD,
              minimum=0.0, maximum=10.0),
    Parameter('frame_score_fraction', 0.002, 'share of the highest patch scores whose mean is the frame score; 0: the '
              'maximum', METHOD, minimum=0.0, maximum=1.0),
    Parameter('calibrate_by_region', True, 'divide distances by what is usual at that place of the image (those of '
              'semanom-tiny only after `semanom learn`)', METHOD),
    Parameter('plausibility', True, 'score by what `semanom learn` has learned of what belongs where, if the database '
              'holds it; false: by the distance alone', METHOD),
    Parameter('false_alarm_rate', 0.01, 'share of nominal frames that may raise an alarm; sets the threshold', METHOD,
              minimum=0.0001, maximum=0.5, live=True),
    Parameter('false_alarms_per_minute', 0.0, 'alarms, each a run of frames, that nominal driving may raise in a '
              'minute before the filter; sets the threshold in place of false_alarm_rate unless 0', METHOD, minimum=0.0,
              maximum=600.0, live=True),
    Parameter('pixel_threshold', 0.5, 'how far an anomaly reaches round its core, which is above the alarm level 1.0: '
              'the anomaly map\'s value above which pixels belong to it', METHOD, minimum=0.05, maximum=1.0, live=True),
    # -- filter
    Parameter('filter_spatial', True, 'drop regions that are too small or at the image border', METHOD, live=True),
    Parameter('filter_min_area', 0.0005, 'smallest region, as a share of the image', METHOD, minimum=0.0, maximum=1.0,
              live=True),
    Parameter('filter_border', 0.0, 'width of the image border where regions are dropped, as a share of the image',
              METHOD, minimum=0.0, maximum=0.4, live=True),
    Parameter('filter_agreement', 0.0, 'share of its segment that a region must fill, where segments are known; 0: any',
              METHOD, minimum=0.0, maximum=1.0, live=True),
    Parameter('filter_temporal', True, 'report an anomaly only when it persists', METHOD, live=True),
    Parameter('filter_persistence', 0.3, 'seconds that an anomaly must persist', METHOD, minimum=0.0, maximum=10.0,
              live=True),
    # -- what both nodes take
    Parameter('database', '', 'folder of the nominal database', NODE),
    Parameter('camera_names', ['camera'], 'cameras; each has its topics `~/input/NAME/...`', NODE),
    Parameter('image_transport', 'raw', 'what the cameras send: `raw` (Image on `~/input/NAME/image`) or `compressed` '
              '(CompressedImage on `~/input/NAME/image/compressed`)', NODE, choices=('raw', 'compressed')),
    Parameter('segments_wait', 0.2, 'seconds that a frame waits for its masks, for the segmenter `topic`; without them '
              'it is compared patch by patch', NODE, minimum=0.0, maximum=10.0),
    # -- detector
    Parameter('max_age', 0.0, 'seconds; a frame that is older by its stamp is dropped before it costs anything; 0: no '
              'limit, as replayed recordings without /clock need', DETECTOR, minimum=0.0, maximum=3600.0, live=True),
    Parameter('image_rectified', False, 'the images are rectified: bearings come from P of the CameraInfo, not from K '
              'and D', DETECTOR),
    Parameter('marker_distance', 10.0, 'distance from the camera at which outlines of anomalies are drawn, in metres',
              DETECTOR, minimum=0.1, maximum=1000.0, live=True),
    Parameter('marker_lifetime', 1.0, 'seconds that markers stay when no further frame comes', DETECTOR,
              minimum=0.0, maximum=60.0, live=True),
    Parameter('overlay_max_width', 1280, 'widest overlay, in pixels; 0: as wide as the image', DETECTOR,
              minimum=0, maximum=16384, live=True),
    Parameter('overlay_evidence', True, 'show the nearest nominal example in the overlay', DETECTOR, live=True),
    Parameter('overlay_jpeg_quality', 85, 'quality of the compressed overlay', DETECTOR, minimum=1, maximum=100,
              live=True),
    Parameter('image_timeout', 2.0, 'seconds without an image from a camera after which diagnostics report an error',
              DETECTOR, minimum=0.1, maximum=3600.0, live=True),
    Parameter('latency_limit', 1.0, 'seconds from receiving an image to its score; when the median is longer, '
              'diagnostics warn', DETECTOR, minimum=0.001, maximum=60.0, live=True),
    # -- recorder
    Parameter('bags', [''], 'nominal recordings: rosbag2 folders, .mcap or .db3 files; empty: record the live cameras',
              RECORDER),
    Parameter('image_topics', [''], 'image topics to read from the recordings; empty: the only one in each', RECORDER),
    Parameter('append', False, 'add to the database where it exists already', RECORDER),
    Parameter('every_n', 1, 'take every n-th frame of a camera', RECORDER, minimum=1, maximum=100000),
    Parameter('rate', 0.0, 'frames per second to take of a camera at most, by their stamps; 0: all', RECORDER,
              minimum=0.0, maximum=1000.0),
    Parameter('held_out_share', 0.2, 'share of the drive, in whole stretches of time, that is kept aside for '
              'calibration; 0: none, then there are no thresholds', RECORDER, minimum=0.0, maximum=0.5),
    Parameter('thumbnail_size', 160, 'longer side of the pictures kept as evidence, in pixels; 0: keep none', RECORDER,
              minimum=0, maximum=1024),
    Parameter('index', 'auto', 'search on a CPU: `auto` gives a database of 50,000 embeddings and more an approximate '
              'index, `exact` never', RECORDER, choices=('auto', 'exact')),
    Parameter('duration', 0.0, 'seconds after which a live recording ends; 0: when it is stopped', RECORDER,
              minimum=0.0, maximum=1000000.0),
    Parameter('queue_size', 30, 'live frames that may wait for the encoder; beyond, frames are dropped, counted and '
              'reported', RECORDER, minimum=1, maximum=1000),
)


def table(*groups: str) -> tuple[Parameter, ...]:
    """The parameters of these groups, in the table's order."""
    return tuple(p for p in TABLE if p.group in groups)


def resolve(given: Mapping[str, Any], *groups: str) -> dict[str, Value]:
    """Every parameter of the groups: what is given, checked, else the default.

    Raises:
        ParameterError: a name that the groups do not have, or a bad value.
    """
    known = {p.name: p for p in table(*groups)}
    for name in given:
        if name not in known:
            raise ParameterError(f'parameter {name}: not known; expected one of {", ".join(known)}')
    return {p.name: p.check(given[p.name]) if p.name in given else p.default for p in known.values()}


def read_yaml(path: Path) -> dict[str, Any]:
    """Parameters of a ROS parameter file (`node: {ros__parameters: {...}}`), every node's merged.

    What rclpy itself declares for every node, such as `use_sim_time`, is left out.

    Raises:
        ParameterError: unreadable, or not of that form.
    """
    try:
        content = yaml.safe_load(Path(path).read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise ParameterError(f'{path}: unreadable as YAML ({reason}); give a ROS parameter file') from error
    merged: dict[str, Any] = {}
    if not isinstance(content, dict):
        raise ParameterError(f'{path}: found no mapping, expected node: ros__parameters: ...')
    for node, body in content.items():
        if not isinstance(body, dict) or not isinstance(body.get('ros__parameters'), dict):
            raise ParameterError(f'{path}: {node} has no ros__parameters; give a ROS parameter file')
        merged.update(body['ros__parameters'])
    return {name: value for name, value in merged.items() if name.split('.')[0] not in _OF_EVERY_NODE}


def parameter_file(node: str, *groups: str) -> str:
    """A ROS parameter file with every parameter of the groups at its default, explained."""
    lines = [
        f'# The {node}\'s parameters, at their defaults. Written by `python -m semanom_ros.parameters`;',
        '# give the launch files a copy: config:=/path/to/copy.yaml',
        '/**:',
        '  ros__parameters:',
    ]
    for parameter in table(*groups):
        lines += ['', *textwrap.wrap(_explain(parameter), 110, initial_indent='    # ', subsequent_indent='    # ',
                                     break_long_words=False, break_on_hyphens=False)]
        lines.append(f'    {parameter.name}: {_in_yaml(parameter.default)}')
    return '\n'.join(lines) + '\n'


def readme_tables() -> str:
    """The parameters as Markdown tables, one for each group."""
    sections = []
    for title, group in (
        ('The method: detector, recorder and `semanom evaluate`', METHOD),
        ('Both nodes', NODE),
        ('Detector', DETECTOR),
        ('Recorder', RECORDER),
    ):
        rows = '\n'.join(
            f'| `{p.name}`{" ⟳" if p.live else ""} | `{_in_yaml(p.default)}` | {_sentence(p.description)} |'
            for p in table(group)
        )
        sections.append(f'### {title}\n\n| parameter | default | |\n|---|---|---|\n{rows}\n')
    return '\n'.join(sections) + '\n⟳: may be changed while the detector is active; the others are read at configure.\n'


def generated_files(repository: Path) -> dict[Path, str]:
    """What the generated files of a source tree should hold.

    Raises:
        ParameterError: the tree is not that of this package, or its README has no place for the tables.
    """
    readme = repository / 'README.md'
    marked = re.compile(r'(<!-- parameters -->\n).*?(<!-- /parameters -->)', re.DOTALL)
    text = readme.read_text() if readme.exists() else ''
    if not marked.search(text):
        raise ParameterError(f'{readme}: found no lines <!-- parameters --> and <!-- /parameters -->, expected them '
                             'round the tables; run this in a source tree')
    return {
        repository / 'config' / 'detector.yaml': parameter_file('detector', METHOD, NODE, DETECTOR),
        repository / 'config' / 'recorder.yaml': parameter_file('recorder', METHOD, NODE, RECORDER),
        readme: marked.sub(lambda match: f'{match[1]}{readme_tables()}{match[2]}', text),
    }


def _explain(parameter: Parameter) -> str:
    details = []
    if parameter.choices:
        details.append(f'One of {", ".join(parameter.choices)}.')
    if parameter.minimum is not None and parameter.maximum is not None:
        details.append(f'{parameter.minimum:g} to {parameter.maximum:g}.')
    if parameter.live:
        details.append('May be changed while active.')
    return ' '.join([_sentence(parameter.description).replace('`', ''), *details])


def _sentence(description: str) -> str:
    first, rest = description[:1], description[1:]
    return f'{first.upper()}{rest}.'


def _in_yaml(value: Value) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix('\n').removesuffix('\n...')


def main() -> None:
    """Writes the generated files of the source tree that this module lies in."""
    for path, content in generated_files(Path(__file__).resolve().parents[1]).items():
        if not path.exists() or path.read_text() != content:
            path.write_text(content)


if __name__ == '__main__':
    main()
