"""`semanom evaluate`: recordings through the detector's pipeline, measured."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from semanom_ros.commands.fleet_options import add_fleet_options, workers_of
from semanom_ros.commands.numbers import whole
from semanom_ros.commands.options import add_parameter_options, settings_with
from semanom_ros.commands.progress_bars import Bars
from semanom_ros.errors import ParameterError
from semanom_ros.evaluation.baselines import BaselineContext, all_baselines
from semanom_ros.evaluation.detectors import Detectors
from semanom_ros.evaluation.exports.chosen import exports_of
from semanom_ros.evaluation.metric_table import terminal_line
from semanom_ros.evaluation.replay import CameraTopics, Topics
from semanom_ros.evaluation.runner import REPORT, check_output, evaluate
from semanom_ros.fleet.fleet_evaluation import measured_by


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument('bags', nargs='+', type=Path, metavar='BAG', help='rosbag2 folder, .mcap, .db3 or .bag file')
    parser.add_argument('--database', type=Path, action='append', required=True, metavar='DIR',
                        help='nominal database; give one for each variant to compare both')
    parser.add_argument('--output', type=Path, required=True, metavar='DIR',
                        help='folder for metrics.json, report.html, scores.csv and result bags')
    parser.add_argument('--variant', choices=('grid', 'instance', 'all'), default='all',
                        help='all (default): every variant that there is a database of')
    parser.add_argument('--filter', choices=('on', 'off', 'all'), default='all',
                        help='with the filter, without it, or both (default)')
    parser.add_argument('--image-topic', action='append', default=[], metavar='T',
                        help='needed where a recording has several; given again, that camera is evaluated too, as a '
                             'recording of its own')
    parser.add_argument('--truth-topic', action='append', default=[], metavar='T',
                        help='mono8 masks with the images\' stamps: 0 nominal, 128 ignore, 255 anomalous '
                             '(default: /ground_truth/anomaly_mask where there is one); one for each image topic')
    parser.add_argument('--truth-instances', nargs='+', default=(), metavar='CLASS[:ACTOR]',
                        help='the truth topic holds CARLA\'s instance segmentation, and these are anomalous: semantic '
                             'classes, or single actors, in numbers (14:231)')
    parser.add_argument('--min-anomaly-pixels', type=whole(1), default=1, metavar='N',
                        help='anomalous pixels from which on a frame counts as anomalous; with fewer, but some, it '
                             'counts as neither anomalous nor nominal (default 1)')
    parser.add_argument('--rerun', type=Path, metavar='FILE.rrd',
                        help='write the frames and what is said about them as a recording of Rerun, too')
    parser.add_argument('--fiftyone', type=Path, metavar='DIR',
                        help='write them as a folder that FiftyOne opens, too')
    add_parameter_options(parser)
    add_fleet_options(parser)
    group = parser.add_argument_group('baselines, for the same table')
    baselines = all_baselines()
    group.add_argument('--baseline', choices=[baseline.name for baseline in baselines], action='append', default=[],
                       help='; '.join(f'{baseline.name}: {baseline.help}' for baseline in baselines))
    for baseline in baselines:
        baseline.add_arguments(group)


def run(arguments: argparse.Namespace) -> int:
    """Evaluates and says where the report is."""
    workers = workers_of(arguments)
    if workers is not None and arguments.baseline:
        raise ParameterError(f'--baseline {arguments.baseline[0]}: found it with --engine, expected the detector '
                             'alone; evaluate with baselines in one process')
    for option in ('rerun', 'fiftyone'):
        if workers is not None and getattr(arguments, option) is not None:
            raise ParameterError(f'--{option} {getattr(arguments, option)}: found it with --engine, expected frames '
                                 'that this process judges; export in one process')
    check_output(arguments.output, [*arguments.bags, *arguments.database])
    cameras = _cameras(arguments.image_topic, arguments.truth_topic)
    exports = exports_of(arguments.output, arguments.rerun, arguments.fiftyone)
    settings = settings_with(arguments.database, arguments)
    variants = () if arguments.variant == 'all' else (arguments.variant,)
    filters = {'on': (True,), 'off': (False,), 'all': (False, True)}[arguments.filter]
    detectors = Detectors(settings.method, arguments.database, variants, filters)
    with tempfile.TemporaryDirectory(prefix='semanom_baselines_') as scratch:
        baselines = [
            baseline.make(BaselineContext(arguments, settings.method, arguments.database, detectors,
                                          Path(scratch) / baseline.name, Bars()))
            for baseline in all_baselines() if baseline.name in arguments.baseline]
        topics = Topics(cameras, tuple(arguments.truth_instances),
                        min_anomaly_pixels=arguments.min_anomaly_pixels)
        elsewhere = None if workers is None else measured_by(
            workers, arguments.storage or str(arguments.output.parent / f'.{arguments.output.name}.fleet'), detectors,
            None, topics, settings, Bars())
        content = evaluate(arguments.bags, detectors, arguments.output, topics, baselines=baselines, settings=settings,
                           elsewhere=elsewhere, exports=exports)
    names = [row.name for method in (detectors, *baselines) for row in method.rows]
    for name, figures in zip(names, (*content['results'], *content['baselines']), strict=True):
        print(terminal_line(name, figures))
    for path in (arguments.output / REPORT, arguments.rerun, arguments.fiftyone):
        if path is not None:
            print(path)
    return 2 if content['left_out'] else 0


def _cameras(images: list[str], truths: list[str]) -> tuple[CameraTopics, ...]:
    """What each camera's pictures and masks are called.

    Raises:
        ParameterError: not one topic of masks for each of pictures, or two cameras of one name.
    """
    images = images or ['']
    if truths and len(truths) != len(images):
        raise ParameterError(f'--truth-topic: found {len(truths)} for {len(images)} image topics, expected one for '
                             'each; name them in the same order, or none')
    cameras = tuple(CameraTopics(image, truth) for image, truth in
                    zip(images, truths or [''] * len(images), strict=True))
    if len({camera.name for camera in cameras}) < len(cameras):
        raise ParameterError(f'--image-topic: found {", ".join(images)}, expected topics that begin with the names of '
                             'their cameras, each its own; evaluate them one by one')
    return cameras
