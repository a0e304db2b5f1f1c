"""The interface that every backend has, and what they share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from semanom_ros.errors import EncoderError

Files = Mapping[str, bytes]
"""What an engine is kept as: contents by name. Never pickle, nor code for this processor."""
Network = Callable[[torch.Tensor], torch.Tensor]
"""Images (B, 3, H, W) float32, RGB, 0..1 -> features (B, rows, columns, D) float32, both on the engine's device."""


@dataclass(frozen=True)
class Request:
    """What an engine is made, and loaded, for.

    Attributes:
        encoder: its name, for messages.
        precision: `fp32`, `bf16`, `fp16` or `int8`; of those that the backend has.
        device: where it computes.
        input_size: (height, width), pixels.
    """

    encoder: str
    precision: str
    device: torch.device
    input_size: tuple[int, int]


@runtime_checkable
class Backend(Protocol):
    """A library that runs networks. One object stands for it, and holds nothing.

    Its module is imported for a listing: it imports the library only when an engine is made or loaded.

    Attributes:
        precisions: that it has, the usual one first.
        devices: types of devices that it computes on: `cpu`, `cuda`.
        libraries: distributions whose versions an engine belongs to; the first is what must be installed.
        needs: further distributions that making an engine needs.
        largest_batch: pictures that an engine takes at once; None: any number.
        keeps_network: whether an engine is PyTorch's own network, which is loaded with it.
    """

    precisions: tuple[str, ...]
    devices: tuple[str, ...]
    libraries: tuple[str, ...]
    needs: tuple[str, ...]
    largest_batch: int | None
    keeps_network: bool

    def build(self, network: nn.Module, asked: Request, pictures: Sequence[torch.Tensor]) -> Files:
        """Makes an engine.

        Args:
            network: as Network, in fp32, on the device that it is for.
            asked: what for.
            pictures: nominal ones, (1, 3, H, W) each, that int8 finds its ranges with; empty for the others.

        Raises:
            Exception: whatever the library raises where it cannot.
        """

    def load(self, files: Files, asked: Request, network: nn.Module | None) -> Network:
        """The network of an engine.

        Args:
            files: from `build`.
            asked: what it was made for.
            network: PyTorch's in that precision on that device, where the backend `keeps_network`.

        Raises:
            Exception: whatever the library raises where it cannot.
        """


def versions(backend: Backend) -> dict[str, str]:
    """Versions of a backend's libraries.

    Raises:
        EncoderError: one is not installed.
    """
    found = {}
    for library in backend.libraries:
        try:
            found[library] = version(library)
        except PackageNotFoundError as error:
            raise _missing(library) from error
    return found


def check_can_build(backend: Backend, precision: str) -> None:
    """Complains where a library is missing that making an engine needs.

    Raises:
        EncoderError: names it.
    """
    versions(backend)
    for library in backend.needs:
        name, _, only_for = library.partition(':')
        if only_for not in ('', precision):
            continue
        try:
            version(name)
        except PackageNotFoundError as error:
            raise _missing(name) from error


def _missing(library: str) -> EncoderError:
    extra = {'nncf': 'openvino', 'onnx': 'onnxruntime'}.get(library, library)
    known = extra in ('openvino', 'onnxruntime')
    how = f"pip install 'semanom_ros[{extra}]' or {library}" if known else f'install {library} as its vendor says'
    return EncoderError(f'library {library}: not installed, expected it for this backend; {how}')


@contextmanager
def traceable() -> Iterator[None]:
    """PyTorch's fused attention, which no exporter knows, is off meanwhile."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
