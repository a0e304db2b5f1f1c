"""The parameters that embeddings were made with: remembered beside them, so that nobody must repeat them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from semanom_ros.core.embedding.description import EmbeddingDescription
from semanom_ros.core.embedding.registry import find_encoder_weights
from semanom_ros.core.embedding.weight_store import LOCAL_FOLDER, RANDOM, sha256_of_file
from semanom_ros.home import expanded
from semanom_ros.parameters import Affects, Value
from semanom_ros.settings import EncoderSettings, MethodSettings, QuerySettings

_SEGMENTER_FILES = ('segmenter_weights', 'segmenter_prompts')


def asked_parameters(settings: MethodSettings) -> dict[str, Value]:
    """What affects embeddings, by name; files and folders with their whole path, so that it can be asked anywhere."""
    asked = settings.values(Affects.EMBEDDING)
    family, colon, model = settings.encoder.name.partition(':')
    asked['encoder'] = f'{family}{colon}{_whole(model, files_only=True)}'
    asked['encoder_weights'] = _whole(settings.encoder.weights, files_only=True)
    for name in _SEGMENTER_FILES:
        asked[name] = ','.join(map(_whole, str(asked[name]).split(',')))
    return asked


def parameters_of(description: EmbeddingDescription) -> dict[str, Any]:
    """What to ask for to get such embeddings again.

    Where the parameters were not recorded, they are told from the rest of the description, as far as it goes: of a
    file it knows the name alone.
    """
    if description.parameters:
        return dict(description.parameters)
    told: dict[str, Any] = {'encoder': description.encoder, 'input_size': list(description.input_size),
                            'variant': description.variant}
    if description.weights.startswith(RANDOM):
        told['encoder_weights'] = description.weights
    made = description.settings
    if 'features' in made:
        told['encoder_features'] = made['features']
    if made.get('features') == 'tokens' and (layer := _layer(made)) is not None:
        told['encoder_layer'] = layer
    return {**told, **{name: made[name] for name in ('segmenter', 'segment_embedding') if name in made}}


def contradiction(given: Mapping[str, Any], description: EmbeddingDescription) -> tuple[str, Any, Any] | None:
    """The first parameter that was given and makes other embeddings, with both values; None when there is none.

    What only a loaded model could tell is not looked at.

    Args:
        given: parameters by name, checked.
        description: of the embeddings.

    Raises:
        EncoderError: the weights that were given are not on this machine.
    """
    made, known = description.settings, parameters_of(description)
    told: dict[str, Any] = {'encoder': description.encoder, 'input_size': list(description.input_size),
                            'encoder_features': made.get('features'), 'variant': description.variant,
                            'bit_depth': known.get('bit_depth', 0)}
    if description.variant == 'instance':
        told |= {'segmenter': made.get('segmenter'), 'segment_embedding': made.get('segment_embedding', 'patches')}
    for name, expected in told.items():
        if name in given and expected is not None and given[name] != expected and not (
                name == 'encoder' and _named(given[name]) == expected):
            return name, given[name], expected
    if 'encoder_layer' in given and known.get('encoder_layer') != given['encoder_layer']:
        layers = [given['encoder_layer'], known.get('encoder_layer')]
        if given['encoder_layer'] >= 0 and (layer := _layer(made)) is not None:
            layers[1] = layer
        if None not in layers and layers[0] != layers[1] and (layers[0] < 0) == (layers[1] < 0):
            return 'encoder_layer', layers[0], layers[1]
    if 'encoder' in given or 'encoder_weights' in given:
        return _other_weights(given, known, description)
    return None


def _layer(made: Mapping[str, Any]) -> int | None:
    """The layer in an encoder's settings; None where there is none, or one of another package calls it otherwise."""
    layer = str(made.get('layer'))
    return int(layer) if layer.isascii() and layer.isdigit() else None


def _other_weights(given: Mapping[str, Any], known: Mapping[str, Any], description: EmbeddingDescription
                   ) -> tuple[str, str, str] | None:
    both = {**known, **given}
    settings = EncoderSettings().changed({name: both[name] for name in ('encoder', 'encoder_weights') if name in both})
    name = 'encoder_weights' if 'encoder_weights' in given else 'encoder'
    if settings.weights.startswith(RANDOM) or description.weights.startswith(RANDOM):
        differ = settings.weights != description.weights
        return ('encoder_weights', settings.weights, description.weights) if differ else None
    file = find_encoder_weights(settings)
    if file is not None and (found := sha256_of_file(file)) != description.weights_sha256:
        return name, f'{given[name]} (SHA-256 {found[:12]})', \
            f'{description.weights} (SHA-256 {description.weights_sha256[:12]})'
    return None


def unsaid(name: str, value: Any) -> bool:
    """Whether a parameter's value says nothing: the encoder's own input size, and whatever weights there are."""
    defaults = {**EncoderSettings().values(), **QuerySettings().values()}
    return name in ('input_size', 'encoder_weights', *_SEGMENTER_FILES) and value == defaults[name]


def _named(encoder: str) -> str:
    """An encoder's name with its file's, if it is one, in place of the whole path."""
    family, colon, model = encoder.partition(':')
    return f'{family}{colon}{Path(model).name}'


def _whole(text: str, files_only: bool = False) -> str:
    """The whole path of a file or folder that is there; whatever else as it is."""
    prefix = LOCAL_FOLDER if text.startswith(LOCAL_FOLDER) else ''
    path = expanded(text.removeprefix(prefix))
    there = text and (path.is_file() if files_only and not prefix else path.exists())
    return f'{prefix}{path.resolve()}' if there else text
