"""`semanom learn`: what belongs where, from the recordings that a database was made from."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy.typing as npt
from tqdm.contrib.logging import logging_redirect_tqdm

from semanom_ros.commands.options import add_parameter_options, parameters_of
from semanom_ros.commands.progress_bars import Bars
from semanom_ros.core.curation import operations
from semanom_ros.core.database import NominalDatabase
from semanom_ros.core.embedding.embedder import Embedder
from semanom_ros.core.frames import Frame
from semanom_ros.core.plausibility.learning import learn_plausibility
from semanom_ros.core.scoring.calibration import calibrate, view_settings
from semanom_ros.parameters import METHOD
from semanom_ros.recordings.bags import BagReader


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument('bags', nargs='+', type=Path, metavar='BAG',
                        help='the recordings that the database was made from')
    parser.add_argument('--database', type=Path, required=True, metavar='DIR', help='nominal database')
    parser.add_argument('--image-topic', nargs='+', default=[''], dest='image_topics', metavar='T',
                        help='needed where a recording has several')
    parser.add_argument('--composites', type=_count, default=1200, metavar='N',
                        help='pictures with transplants to learn from (default 1200)')
    parser.add_argument('--seed', type=int, default=0, metavar='N', help='of the choice of transplants (default 0)')
    add_parameter_options(parser)


def run(arguments: argparse.Namespace) -> None:
    """Learns, calibrates with what was learned, and publishes the next version of the database."""
    parameters = {**parameters_of(arguments, METHOD), 'segmenter_every_n': 1}  # no transplant follows another
    embedder = Embedder.load(parameters)
    database = NominalDatabase.open(arguments.database, device=embedder.encoder.device, **view_settings(parameters))
    database.check_compatible(embedder.encoder, embedder.preprocessor.sha256, embedder.variant, embedder.settings)
    with logging_redirect_tqdm():
        model = learn_plausibility(database, embedder, _frames(arguments.bags, arguments.image_topics), parameters,
                                   arguments.composites, Bars(), arguments.seed)
        database.close()

        def calibrated(candidate: NominalDatabase) -> dict[str, npt.NDArray[Any]]:
            view = candidate.view(device=embedder.encoder.device, **view_settings(parameters))
            return calibrate(view, parameters, model)

        published = operations.calibrate(arguments.database, calibrated, Bars())
    print(f'{arguments.database}: version {published.manifest.version} knows what belongs where, '
          f'from {arguments.composites} pictures with transplants')


def _frames(bags: list[Path], topics: list[str]) -> Iterator[Frame]:
    for bag in bags:
        with BagReader(bag) as reader:
            yield from reader.images([reader.image_topic(topic) for topic in topics])


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f'found {text}, expected at least 1')
    return value
