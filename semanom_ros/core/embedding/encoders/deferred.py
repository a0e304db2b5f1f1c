"""Families whose libraries take seconds to import: they are imported when a model is used, not when it is listed."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semanom_ros.core.embedding import weight_store
from semanom_ros.core.embedding.card import Card
from semanom_ros.core.embedding.weight_store import HubFile, Owner, Published
from semanom_ros.errors import EncoderError
from semanom_ros.settings import EncoderSettings

if TYPE_CHECKING:
    import torch

    from semanom_ros.core.embedding.encoders.encoder import Encoder


@dataclass(frozen=True)
class Known:
    """What a library says of a model, known without it; a test compares the two.

    Attributes:
        model, tag: of the library.
        repository: on the Hugging Face hub.
        licence, dimension, input_size: see Card.
    """

    model: str
    tag: str
    repository: str
    licence: str
    dimension: int
    input_size: tuple[int, int]


@dataclass(frozen=True)
class DeferredFamily:
    """See EncoderFamily: `FAMILY` of another module, but for its cards, which are told from a table and from files.

    Attributes:
        module: its name.
        library: first folder in the store.
        recommended: models to recommend.
        file_names: of the weights in a folder, the preferred one first.
        config_file: beside them, which describes the model.
        name: (model, tag) -> encoder.
        described: the content of `config_file` -> licence, dimension and input size, as Card has them.
    """

    module: str
    library: str
    recommended: Iterable[Known]
    file_names: tuple[str, ...]
    config_file: str
    name: Callable[[str, str], str]
    described: Callable[[dict[str, Any]], tuple[str, int, tuple[int, int]]]

    @property
    def _family(self) -> Any:
        return importlib.import_module(self.module).FAMILY

    def load(self, settings: EncoderSettings, device: torch.device) -> Encoder:
        """See EncoderFamily.load."""
        return self._family.load(settings, device)

    def find(self, name: str, weights: str) -> Path | None:
        """See EncoderFamily.find."""
        return self._family.find(name, weights)

    def fetch(self, name: str, weights: str, store: Path) -> str:
        """See EncoderFamily.fetch."""
        return self._family.fetch(name, weights, store)

    def cards(self) -> Iterator[Card]:
        """See EncoderFamily.cards."""
        for known in self.recommended:
            files = [HubFile(known.repository, file) for file in self.file_names]
            yield self._card(known.model, known.tag, files, known.licence, known.dimension, known.input_size)
        listed = {(known.model, known.tag) for known in self.recommended}
        for model, tag in weight_store.fetched(self.library):
            if (model, tag) not in listed:
                config = weight_store.store() / self.library / model / tag / self.config_file
                try:
                    facts = self.described(json.loads(config.read_text()))
                except (OSError, ValueError, KeyError, TypeError, AttributeError):
                    facts = '', 0, (0, 0)
                yield self._card(model, tag, [], *facts)

    def _card(self, model: str, tag: str, files: list[HubFile], *facts: Any) -> Card:
        name = self.name(model, tag)
        published = Published(self.library, model, [tag], tag, self.file_names, lambda _: files)
        try:
            return Card('encoder', name, tag, True, str(weight_store.find(Owner('encoder', name), published, tag).file),
                        *facts)
        except EncoderError:
            return Card('encoder', name, tag, False, f'semanom models fetch {name} --weights {tag}', *facts)
