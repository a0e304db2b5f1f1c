"""Options that several commands share."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semanom_ros.core.database.published import read_manifest
from semanom_ros.core.embedding.description import EmbeddingDescription
from semanom_ros.errors import DatabaseError, EncoderError, ParameterError
from semanom_ros.parameter_files import DETECTOR, read_yaml
from semanom_ros.parameter_yaml import value_of
from semanom_ros.settings import EncoderSettings, Settings

if TYPE_CHECKING:
    from semanom_ros.core.curation.publishing import Recipe

log = logging.getLogger(__name__)

# What needs PyTorch is imported where it is used: commands that declare these options may need none of it.


def add_parameter_options(parser: argparse.ArgumentParser, node: str = DETECTOR) -> None:
    """Adds `--config` and `--set`; of a file the command takes what is for `node`."""
    parser.set_defaults(node=node)
    parser.add_argument('--config', type=Path, metavar='YAML', help='ROS parameter file, the same that the nodes take')
    parser.add_argument('--set', action='append', default=[], metavar='NAME=VALUE', dest='settings',
                        help='one parameter, over the file\'s; may be given several times')


def given_parameters(arguments: argparse.Namespace) -> dict[str, Any]:
    """The parameters that the options give, unchecked.

    Raises:
        ParameterError: the file is unreadable, or a setting is none.
    """
    given: dict[str, Any] = read_yaml(arguments.config, arguments.node) if arguments.config else {}
    for setting in arguments.settings:
        name, equals, value = setting.partition('=')
        name = name.strip()
        if not equals or not name or name.endswith(':'):
            found = ':=' if name.endswith(':') else 'no name or no ='
            raise ParameterError(f'--set {setting}: found {found}, expected NAME=VALUE; correct it')
        given[name] = value_of(f'--set {name}', value)
    return given


def settings_of(arguments: argparse.Namespace) -> Settings:
    """What the options give, the defaults for the rest.

    Raises:
        ParameterError: the file is unreadable, or a name or value is bad.
    """
    return Settings.of(given_parameters(arguments))


def settings_with(databases: Sequence[Path], arguments: argparse.Namespace) -> Settings:
    """What the options give, for the rest what the databases were made with and calibrated for.

    Encoder, input size, variant and segmenter are those that made the embeddings; what is given must fit, and nothing
    is loaded to find out. How they are searched and scored is what the calibration was made for, so that none is made
    anew for an option that was not repeated; what is given comes before it.

    Args:
        databases: of one encoder, of different variants.
        arguments: with those of `add_parameter_options`.

    Raises:
        DatabaseError: no database, or what is given, or another of the databases, was not made with the same.
        ParameterError: see `settings_of`.
    """
    from semanom_ros.core.embedding.recorded_parameters import parameters_of, unsaid

    given = given_parameters(arguments)
    checked = Settings.of(given)
    said = {name: value for name, value in checked.values().items() if name in given and not unsaid(name, value)}
    made = {path: read_manifest(path).description for path in databases}
    variants = [description.variant for description in made.values()]
    if said.get('variant') in variants:  # of several databases each has its own
        del said['variant']
    recorded: dict[str, Any] = {}
    for path, description in sorted(made.items(), key=lambda item: item[1].variant == 'instance'):
        _check_given(path, description, said)
        _check_alike(path, description, databases[0], made[databases[0]])
        recorded |= parameters_of(description)  # those of the segmenter last: the grid has none
    settings = Settings.of({**recorded, **_calibrated_for(databases, said), **said})
    if 'encoder' not in said and 'encoder_weights' not in said:
        _check_here(databases[0], made[databases[0]], settings.method.encoder)
    return settings


def recipe_with(database: Path, arguments: argparse.Namespace) -> Recipe | None:
    """What a changed database is to be for: as before, but for what the options say; None: as before altogether.

    Raises:
        DatabaseError: no database.
        ParameterError: see `settings_of`.
    """
    if not arguments.config and not arguments.settings:
        return None
    from semanom_ros.core.curation.publishing import Recipe

    given = settings_of(arguments).values()
    said = {name: value for name, value in given.items() if name in given_parameters(arguments)}
    return Recipe.of(Settings.of({**_calibrated_for([database], said), **said}).method)


def _check_given(path: Path, description: EmbeddingDescription, said: dict[str, Any]) -> None:
    from semanom_ros.core.embedding.recorded_parameters import contradiction

    different = contradiction(said, description)
    if different:
        name, found, expected = different
        raise DatabaseError(f'{path}: parameter {name}: found {found}, expected {expected}, which the database was '
                            'made with; leave it out, or name a database that was recorded with it')


def _check_alike(path: Path, description: EmbeddingDescription, first: Path, other: EmbeddingDescription) -> None:
    """Two variants share the encoder, and how pictures come to it."""
    own, its = (dict(one.settings) for one in (description, other))
    for name in ('segmenter', 'segment_embedding'):
        own.pop(name, None)
        its.pop(name, None)
    for name, found, expected in (
            ('encoder', description.encoder, other.encoder), ('input_size', description.input_size, other.input_size),
            ('encoder_weights', description.weights_sha256[:12], other.weights_sha256[:12]), ('settings', own, its)):
        if found != expected:
            raise DatabaseError(f'{path}: {name}: found {found}, expected {expected} as in {first}; give databases of '
                                'one encoder')


def _calibrated_for(databases: Sequence[Path], said: dict[str, Any]) -> dict[str, Any]:
    """Parameters of search and score that calibrations were made for; where they differ, the first database's."""
    from semanom_ros.core.curation.publishing import read_recipe

    found: dict[str, Any] = {}
    for path in databases:
        recipe = read_recipe(path)
        for name, value in {**recipe.search.values(), **recipe.score.values()}.items():
            if found.setdefault(name, value) != value and name not in said:
                log.warning('%s: is calibrated for %s %s, %s for %s, which is taken; the other is calibrated anew in '
                            'memory', path, name, value, databases[0], found[name])
    return found


def _check_here(path: Path, description: EmbeddingDescription, settings: EncoderSettings) -> None:
    from semanom_ros.core.embedding.registry import find_encoder_weights

    try:
        find_encoder_weights(settings)
    except EncoderError as error:
        raise DatabaseError(f'{path}: was made with encoder {settings.name}, weights {description.weights} (SHA-256 '
                            f'{description.weights_sha256[:12]}), which are not found ({error}); name where they lie '
                            'now with --set encoder=NAME or --set encoder_weights=FILE') from error
