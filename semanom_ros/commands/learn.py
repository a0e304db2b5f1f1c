"""`semanom learn`: what belongs where, from the recordings that a database was made from."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path

from tqdm.contrib.logging import logging_redirect_tqdm

from semanom_ros.commands.numbers import whole
from semanom_ros.commands.options import add_parameter_options, settings_with
from semanom_ros.commands.progress_bars import Bars
from semanom_ros.core.frames import Frame
from semanom_ros.errors import BagError
from semanom_ros.recordings.bags import BagReader


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument('bags', nargs='+', type=Path, metavar='BAG',
                        help='the recordings that the database was made from')
    parser.add_argument('--database', type=Path, required=True, metavar='DIR', help='nominal database')
    parser.add_argument('--image-topic', nargs='+', default=[''], dest='image_topics', metavar='T',
                        help='needed where a recording has several')
    parser.add_argument('--composites', type=whole(1), default=1200, metavar='N',
                        help='pictures with transplants to learn from (default 1200)')
    parser.add_argument('--seed', type=whole(0), default=0, metavar='N',
                        help='of the choice of transplants (default 0)')
    add_parameter_options(parser)


def run(arguments: argparse.Namespace) -> None:
    """Learns, calibrates with what was learned, and publishes the next version of the database."""
    from semanom_ros.core.curation import operations  # PyTorch, which takes seconds to import
    from semanom_ros.core.curation.publishing import Learned, Recipe
    from semanom_ros.core.database.nominal_database import NominalDatabase
    from semanom_ros.core.embedding.embedder import Embedder
    from semanom_ros.core.plausibility.learning import learn_plausibility

    method = settings_with([arguments.database], arguments).method.changed(
        {'segmenter_every_n': 1})  # no transplant follows another
    embedder = Embedder.load(method)
    database = NominalDatabase.open(arguments.database, method.search, device=embedder.encoder.device)
    database.check_compatible(embedder.description)
    with logging_redirect_tqdm():
        frames = _frames(arguments.bags, arguments.image_topics, method.encoder.bit_depth)
        model = learn_plausibility(database, embedder, frames, method.score, arguments.composites, Bars(),
                                   arguments.seed)
        manifest = operations.calibrate(arguments.database, Recipe.of(method),
                                        Learned(model, arguments.composites, arguments.seed), Bars())
    print(f'{arguments.database}: version {manifest.version} knows what belongs where, '
          f'from {arguments.composites} pictures with transplants')


def _frames(bags: list[Path], topics: list[str], bit_depth: int) -> Iterator[Frame]:
    """The frames of recordings; of a damaged one those before the damage, as a database was made of them."""
    for bag in bags:
        with BagReader(bag) as reader:
            frames = reader.images([reader.image_topic(topic) for topic in topics],  # raises where a topic will not do
                                   bit_depth=bit_depth)
            try:
                yield from frames
            except BagError as error:
                logging.warning('%s; what came before is learned from', error)
