"""Simpler and other methods for the same table: what the detector has to beat.

Every module in this folder is a baseline: its `BASELINE` says how it is asked for and made. Nothing else needs to name
it.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from semanom_ros.core.progress import Progress
from semanom_ros.evaluation.detectors import Detectors, Method
from semanom_ros.settings import MethodSettings


@dataclass(frozen=True)
class BaselineContext:
    """What a baseline can be made of.

    Attributes:
        arguments: of the command line, those that the baselines added among them.
        settings: of our own methods.
        databases: folders of our nominal databases, one for each variant.
        detectors: our methods; their embedder may be shared.
        scratch: a folder of the baseline's own, which does not exist yet and is gone after the evaluation.
        progress: is told.
    """

    arguments: argparse.Namespace
    settings: MethodSettings
    databases: Sequence[Path]
    detectors: Detectors
    scratch: Path
    progress: Progress


class Baseline(Protocol):
    """A method that `--baseline NAME` adds to the table.

    Attributes:
        name: on the command line.
        help: a few words on what it does.
    """

    name: str
    help: str

    def add_arguments(self, group: Any) -> None:
        """Adds its options to a group of an ArgumentParser; their help begins with its name."""

    def make(self, context: BaselineContext) -> Method:
        """What judges the frames.

        Raises:
            SemanomError: it lacks an option, a recording or a database.
        """


def all_baselines() -> list[Baseline]:
    """The baselines of this folder, by name of their modules."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return [importlib.import_module(f'{__name__}.{name}').BASELINE for name in names]
