"""`semanom export`: an engine of a database's encoder, with its certificate."""

from __future__ import annotations

import argparse
from pathlib import Path

from tqdm.contrib.logging import logging_redirect_tqdm

from semanom_ros.commands.numbers import whole
from semanom_ros.commands.options import add_parameter_options, settings_with
from semanom_ros.commands.progress_bars import Bars
from semanom_ros.errors import ParameterError


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument('--database', type=Path, required=True, metavar='DIR', help='nominal database')
    parser.add_argument('--backend', required=True, metavar='NAME',
                        help='compile, openvino, onnxruntime, tensorrt, or one of another package')
    parser.add_argument('--precision', default='', choices=('fp32', 'bf16', 'fp16', 'int8'),
                        help='of the engine; default: the usual one of the backend')
    parser.add_argument('--recording', nargs='+', action='extend', type=Path, default=[], dest='recordings',
                        metavar='BAG', help='nominal recordings to compare with; default: those that the database was '
                        'made from')
    parser.add_argument('--frames', type=whole(1), default=200, metavar='N',
                        help='nominal frames to compare with, and as many with transplants (default 200)')
    parser.add_argument('--calibrate', action='store_true',
                        help='give the engine a calibration of its own, made with its embeddings: for one whose '
                        'verdicts would differ otherwise')
    add_parameter_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Makes the engine, compares, and says what came of it; 2 where it will be refused."""
    from semanom_ros.core.curation.certification import export  # PyTorch, which takes seconds to import
    from semanom_ros.core.database.engines import ENGINES, TORCH, objection
    from semanom_ros.core.database.nominal_database import NominalDatabase
    from semanom_ros.core.database.published import read_manifest
    from semanom_ros.core.embedding.embedder import Embedder
    from semanom_ros.recordings.nominal_frames import NominalFrames

    if arguments.backend == TORCH:
        raise ParameterError('--backend: found torch, which every database has, expected what makes engines; see '
                             'semanom export --help')
    method = settings_with([arguments.database], arguments).method.changed(
        {'precision': 'fp32', 'backend': TORCH, 'segmenter_every_n': 1})
    database = NominalDatabase.open(arguments.database, method.search)
    frames = NominalFrames(database, arguments.recordings, method)
    original = Embedder.load(method)
    with logging_redirect_tqdm():
        certificate = export(arguments.database, method, original, arguments.backend, arguments.precision, frames,
                             arguments.frames, arguments.calibrate, Bars())
    print(certificate.describe())
    why = objection(arguments.database, certificate, read_manifest(arguments.database))
    print(why or f'{arguments.database / ENGINES / certificate.name}.json')
    return 2 if why else 0
