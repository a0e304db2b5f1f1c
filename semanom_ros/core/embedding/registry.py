"""Families of encoders and of segmenters, and backends, found through Python entry points.

A package makes a family known by an entry point of the group `semanom_ros.encoders` or `semanom_ros.segmenters`, a
backend by one of `semanom_ros.backends`. Its name is the family's, its object fulfils `EncoderFamily`,
`SegmenterFamily` or `backends.backend.Backend`. In another package's `pyproject.toml`:

    [project.entry-points."semanom_ros.encoders"]
    ours = "our_package.our_module:FAMILY"

Then `encoder: ours:MODEL` works in every node and command. An encoder is named `FAMILY`, or `FAMILY:MODEL` where its
family has several; a segmenter is named as its family. This package's own families are found the same way. A family's
module is imported when the family is used, or listed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from tqdm import tqdm

from semanom_ros.core.embedding import weight_store
from semanom_ros.core.embedding.card import Card
from semanom_ros.errors import EncoderError, SegmenterError, SemanomError
from semanom_ros.settings import EncoderSettings, QuerySettings

if TYPE_CHECKING:  # PyTorch, which a listing does without
    import torch

    from semanom_ros.core.embedding.backends.backend import Backend
    from semanom_ros.core.embedding.encoders.encoder import Encoder
    from semanom_ros.core.embedding.segmenters.segmenter import Segmenter

_PACKAGE = 'semanom_ros'


@runtime_checkable
class EncoderFamily(Protocol):
    """Encoders that are loaded in the same way, such as the models of a library.

    One object stands for a family. It holds no model, and has no state that a call changes. Nothing but `fetch` uses
    the network. Errors that a user can act on are EncoderErrors of one line: the thing, what was found, what was
    expected, what to do.
    """

    def load(self, settings: EncoderSettings, device: torch.device) -> Encoder:
        """Loads an encoder from this machine.

        Args:
            settings: `name` is the encoder's, with its family's: see `model_of`; `device` is resolved already. What
                the family cannot give (`features`, `layer`, `input_size`, `precision`) is refused, never passed over.
            device: where it computes.

        Raises:
            EncoderError: no such model, weights missing or unfit, or settings that do not fit it.
            ParameterError: no such precision.
        """

    def find(self, name: str, weights: str) -> Path | None:
        """Where the weights lie on this machine.

        Args:
            name: of the encoder, with its family's.
            weights: as in the parameter `encoder_weights`.

        Returns:
            The file that `load` would read; None where it reads none (random weights).

        Raises:
            EncoderError: no such model or weights, or not on this machine.
        """

    def fetch(self, name: str, weights: str, store: Path) -> str:
        """Fetches weights once, with a progress bar, and checks them.

        Args:
            name: of the encoder, with its family's.
            weights: which; '': the usual ones.
            store: folder of fetched models, see `weight_store.fetch`, which puts a folder into place at once.

        Returns:
            What to give `encoder_weights`, e.g. `local-dir:/folder`. In the default store they are also found
            without being named.

        Raises:
            EncoderError: no such model or weights, nothing to fetch, not reachable, or a wrong checksum.
        """

    def cards(self) -> Iterable[Card]:
        """The models to recommend, each with its licence, dimension and input size and whether its weights are here;
        and what else of the family was fetched. An iterator lets a listing show progress.
        """


@runtime_checkable
class SegmenterFamily(Protocol):
    """A segmenter, or several that are loaded in the same way.

    As EncoderFamily, with SegmenterErrors. Its module is also imported for `needs_masks`: it imports what is slow to
    import only when it loads.

    Attributes:
        needs_masks: whether its segmenters take the masks that come with the frames, from another node, a recording
            or a simulator, and cannot do without.
    """

    needs_masks: bool

    def load(self, settings: QuerySettings, device: torch.device) -> Segmenter:
        """Loads a segmenter from this machine.

        Args:
            settings: `segmenter` is its name, `segmenter_weights` as in the parameter; it gives at most `max_segments`
                segments. `segmenter_every_n` is not its concern.
            device: where it computes.

        Raises:
            SegmenterError: weights missing or unfit.
            ParameterError: a file that it needs is unusable.
        """

    def fetch(self, name: str, weights: str, store: Path) -> str:
        """Fetches weights once, with a progress bar, and checks them.

        Args:
            name: of the segmenter.
            weights: which; '': the usual ones.
            store: folder of fetched models, see `weight_store.fetch`, which puts a folder into place at once.

        Returns:
            What to give `segmenter_weights`. In the default store they are also found without being named.

        Raises:
            SegmenterError: no such weights, nothing to fetch, not reachable, or a wrong checksum.
        """

    def cards(self) -> Iterable[Card]:
        """Its segmenters, each with its weights, their licence and whether they are here."""


@dataclass(frozen=True)
class _Kind:
    """A kind of what is found so."""

    name: str
    protocol: Any  # mypy takes no protocol for a type of values
    error: type[SemanomError]

    @property
    def group(self) -> str:
        """Of its entry points."""
        return f'{_PACKAGE}.{self.name}s'


_ENCODERS = _Kind('encoder', EncoderFamily, EncoderError)
_SEGMENTERS = _Kind('segmenter', SegmenterFamily, SegmenterError)


def load_encoder(settings: EncoderSettings) -> Encoder:
    """Loads an encoder from this machine; never uses the network.

    Raises:
        EncoderError: unknown encoder, weights missing or unfit, or settings that do not fit it.
        ParameterError: no such device or precision.
    """
    from semanom_ros.core.embedding.device import resolve_device

    return _encoder_family(settings.name).load(settings, resolve_device(settings.device))


def find_encoder_weights(settings: EncoderSettings) -> Path | None:
    """The file that `load_encoder` reads the weights from; None where it reads none.

    Raises:
        EncoderError: unknown encoder, or its weights are not on this machine.
    """
    return _encoder_family(settings.name).find(settings.name, settings.weights)


def load_segmenter(settings: QuerySettings, device: torch.device) -> Segmenter:
    """Loads a segmenter from this machine; never uses the network. It finds masks in every frame.

    Raises:
        SegmenterError: unknown segmenter, or weights missing or unfit.
        ParameterError: a file that it needs is unusable.
    """
    return _segmenter_family(settings.segmenter).load(settings, device)


def load_backend(name: str) -> Backend:
    """The backend of that name, as in the parameter `backend`.

    Raises:
        EncoderError: unknown.
    """
    from semanom_ros.core.embedding.backends.backend import Backend

    return _family(_Kind('backend', Backend, EncoderError), name)


def backend_names() -> list[str]:
    """Of the installed backends, sorted.

    Raises:
        EncoderError: semanom_ros itself is not installed.
    """
    return sorted(_entry_points(_Kind('backend', object, EncoderError)))


def needs_masks(settings: QuerySettings) -> bool:
    """Whether the settings ask for masks that come with the frames; loads no segmenter.

    Raises:
        SegmenterError: unknown segmenter.
    """
    return settings.variant == 'instance' and _segmenter_family(settings.segmenter).needs_masks


def family_names() -> dict[str, list[str]]:
    """Names of the installed families, sorted, of `encoder` and of `segmenter`.

    Raises:
        EncoderError, SegmenterError: semanom_ros itself is not installed.
    """
    return {kind.name: sorted(_entry_points(kind)) for kind in (_ENCODERS, _SEGMENTERS)}


def cards() -> list[Card]:
    """What every family recommends, and what was fetched. A family that cannot say gets a card that says why.

    Raises:
        EncoderError, SegmenterError: semanom_ros itself is not installed.
    """
    found: list[Card] = []
    with tqdm(desc='models', leave=False, disable=None) as bar:
        for kind in (_ENCODERS, _SEGMENTERS):
            asked: list[Any] = []  # one family may have several names
            for name in _entry_points(kind):
                try:
                    family = _family(kind, name)
                    if any(family is other for other in asked):
                        continue
                    asked.append(family)
                    for card in family.cards():
                        found.append(card)
                        bar.update()
                except SemanomError as error:
                    found.append(Card(kind.name, name, '', False, str(error)))
                except (Exception, SystemExit) as error:  # whatever another package's raises
                    found.append(Card(kind.name, name, '', False, f'it cannot list its models: {_said(error)}'))
    return found


def fetch(name: str, weights: str, store: Path | None) -> dict[str, str]:
    """Fetches the weights of an encoder or a segmenter.

    Args:
        name: as in the parameter `segmenter`, or else `encoder`.
        weights: which, e.g. a tag; '': the one in the name, or the usual ones.
        store: folder of fetched models; None: the default store.

    Returns:
        The parameters that name what was fetched.

    Raises:
        EncoderError, SegmenterError: unknown, nothing to fetch, not reachable, or a wrong checksum.
    """
    encoders, segmenters = _entry_points(_ENCODERS), _entry_points(_SEGMENTERS)
    if name not in segmenters and name.partition(':')[0] not in encoders:
        raise EncoderError(f'model {name!r}: no such family, expected an encoder of {", ".join(encoders)}, or a '
                           f'segmenter, one of {", ".join(segmenters)}; correct it, or install the package that has it')
    kind = _SEGMENTERS if name in segmenters else _ENCODERS
    family = _family(kind, name if kind is _SEGMENTERS else name.partition(':')[0])
    return {kind.name: name, f'{kind.name}_weights': family.fetch(name, weights, store or weight_store.store())}


def model_of(name: str) -> str:
    """An encoder's name without its family's, e.g. `ViT-B-16` of `open_clip:ViT-B-16`.

    Raises:
        EncoderError: it names no model.
    """
    family, _, model = name.partition(':')
    if not model:
        raise EncoderError(f'encoder {name!r}: names no model, expected {family}:MODEL; correct it')
    return model


def _encoder_family(name: str) -> EncoderFamily:
    return _family(_ENCODERS, name.partition(':')[0])


def _segmenter_family(name: str) -> SegmenterFamily:
    return _family(_SEGMENTERS, name)


def _entry_points(kind: _Kind) -> dict[str, list[EntryPoint]]:
    """Of each family's name, sorted."""
    found: dict[str, list[EntryPoint]] = {}
    for point in sorted(entry_points(group=kind.group), key=lambda point: (point.name, point.value)):
        found.setdefault(point.name, []).append(point)
    if not any(point.module.startswith(f'{_PACKAGE}.') for points in found.values() for point in points):
        raise kind.error(f'{kind.name}s: found no entry points {kind.group} of {_PACKAGE} itself, it is not installed; '
                         f'install {_PACKAGE} (make setup, pip install -e .)')
    return found


def _family(kind: _Kind, name: str) -> Any:
    """The object that a family's entry point names.

    Raises:
        EncoderError, SegmenterError: unknown, of two packages, or it cannot be imported.
    """
    known = _entry_points(kind)
    if name not in known:
        raise kind.error(f'{kind.name} {name!r}: no such family, expected one of {", ".join(known)}; correct it, or '
                         'install the package that has it')
    if len(known[name]) > 1:
        packages = ' and '.join(map(_whose, known[name]))
        raise kind.error(f'{kind.name} {name}: found in {packages}, expected one package; uninstall the others')
    point = known[name][0]
    try:
        family = point.load()
    except (Exception, SystemExit) as error:  # whatever importing another package raises
        raise kind.error(f'{kind.name} {name}: {_whose(point)} cannot be imported ({_said(error)}); install what it '
                         'needs, see `semanom doctor`') from error
    if not isinstance(family, kind.protocol):
        raise kind.error(f'{kind.name} {name}: {_whose(point)}: found {type(family).__name__}, expected what '
                         f'{kind.protocol.__name__} of {__name__} asks for; correct that package')
    return family


def _whose(point: EntryPoint) -> str:
    """The package of an entry point and what it points to, for messages."""
    return f'{point.value} of {f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown package"}'


def _said(error: BaseException) -> str:
    return f'{type(error).__name__}: {weight_store.reason(error)}'
