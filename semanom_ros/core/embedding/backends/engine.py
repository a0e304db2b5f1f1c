"""An engine as an encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from semanom_ros.core.embedding.backends.backend import Backend, Files, Network, Request, check_can_build
from semanom_ros.core.embedding.backends.certificate import Certificate, EncoderFacts
from semanom_ros.core.embedding.device import DTYPES
from semanom_ros.core.embedding.encoders.encoder import Encoder
from semanom_ros.core.embedding.encoders.network import NetworkEncoder, unit_length
from semanom_ros.core.embedding.registry import load_backend
from semanom_ros.core.embedding.weight_store import reason
from semanom_ros.errors import EncoderError

PROBE_TOLERANCE = 0.01
"""Euclidean distance of mean embeddings: far above what the order of sums changes, far below another network's."""


class EngineEncoder(Encoder):
    """The network of an engine as an encoder; what it says of itself is what its original says.

    Args:
        facts: what it was made of.
        asked: backend's name, precision, device.
        network: of the engine.

    Raises:
        EncoderError: it does not run, or gives something else than features of that shape.
    """

    def __init__(self, facts: EncoderFacts, backend: str, asked: Request, network: Network,
                 largest_batch: int | None) -> None:
        self.name, self.weights, self.weights_sha256 = facts.name, facts.weights, facts.weights_sha256
        self.settings = dict(facts.settings)
        self.input_size, self.grid_size, self.dimension = facts.input_size, facts.grid_size, facts.dimension
        self.wants_standardizing = facts.wants_standardizing
        self.wants_calibration_by_place = facts.wants_calibration_by_place
        self.device, self.dtype = asked.device, DTYPES.get(asked.precision, torch.int8)
        self.largest_batch = largest_batch
        self.certificate: Certificate | None = None
        self._engine, self._network = f'{backend}-{asked.precision}', network
        try:
            embeddings = self.encode(probe_picture(self.input_size).to(self.device))
        except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
            raise EncoderError(f'engine {self._engine} of {self.name}: does not run on {self.device} '
                               f'({reason(error)}); {remedy(backend)}') from error
        if not embeddings.isfinite().all():
            raise EncoderError(f'engine {self._engine} of {self.name}: found NaN or infinity in its embeddings, '
                               'expected numbers; choose another precision or backend')
        self.probe = embeddings.mean(dim=(0, 1, 2)).cpu()

    @torch.inference_mode()
    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """See Encoder.encode."""
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, *self.input_size):
            raise EncoderError(f'encoder {self.name}: found images of shape {tuple(images.shape)}, '
                               f'expected (B, 3, {self.input_size[0]}, {self.input_size[1]})')
        features = self._network(images)
        expected = (len(images), *self.grid_size, self.dimension)
        if tuple(features.shape) != expected:
            raise EncoderError(f'engine {self._engine} of {self.name}: found features of shape '
                               f'{tuple(features.shape)}, expected {expected}; {remedy(self._engine.split("-")[0])}')
        return unit_length(features)

    def check(self, certificate: Certificate) -> None:
        """Complains where it computes otherwise than where it was certified, and takes the certificate on.

        Raises:
            EncoderError: it does.
        """
        expected = torch.tensor(certificate.probe)
        distance = float((self.probe - expected).norm()) if self.probe.shape == expected.shape else float('inf')
        if not distance <= PROBE_TOLERANCE:
            raise EncoderError(f'engine {self._engine} of {self.name}: found embeddings {distance:.2g} away from those '
                               f'that it was certified with, expected at most {PROBE_TOLERANCE:g}; '
                               f'{remedy(certificate.backend)}')
        self.certificate = certificate


@dataclass(frozen=True)
class BuiltEngine:
    """An engine that was just made: what it is kept as, and loaded."""

    files: Files
    encoder: EngineEncoder


def build_engine(original: NetworkEncoder, name: str, precision: str, pictures: Sequence[torch.Tensor]
                 ) -> BuiltEngine:
    """Makes an engine of an encoder in fp32.

    Args:
        original: on the device that the engine is for.
        name: of the backend.
        precision: one that it has.
        pictures: (1, 3, H, W) each, for int8.

    Raises:
        EncoderError: no such backend, a library is missing, or it cannot.
    """
    backend = load_backend(name)
    check_can_serve(name, backend, precision, original.device)
    check_can_build(backend, precision)
    asked = Request(original.name, precision, original.device, original.input_size)
    try:
        files = backend.build(original.module, asked, pictures)
    except Exception as error:  # whatever the library raises
        raise EncoderError(f'engine {name}-{precision} of {original.name}: cannot be made '
                           f'({type(error).__name__}: {reason(error)}); choose another backend or precision') from error
    return BuiltEngine(files, load_engine(EncoderFacts.of(original), name, asked, files, original.module))


def load_engine(facts: EncoderFacts, name: str, asked: Request, files: Files, network: nn.Module | None
                ) -> EngineEncoder:
    """The encoder of an engine's files.

    Raises:
        EncoderError: it cannot be loaded, or does not run.
    """
    backend = load_backend(name)
    try:
        loaded = backend.load(files, asked, network)
    except EncoderError:
        raise
    except Exception as error:  # whatever the library raises
        raise EncoderError(f'engine {name}-{asked.precision} of {facts.name}: cannot be loaded '
                           f'({type(error).__name__}: {reason(error)}); {remedy(name)}') from error
    return EngineEncoder(facts, name, asked, loaded, backend.largest_batch)


def check_can_serve(name: str, backend: Backend, precision: str, device: torch.device) -> None:
    """Complains of a precision or device that a backend does not have.

    Raises:
        EncoderError: it has not.
    """
    if precision not in backend.precisions:
        raise EncoderError(f'backend {name}: precision: found {precision}, expected one of '
                           f'{", ".join(backend.precisions)}; correct it')
    if device.type not in backend.devices:
        raise EncoderError(f'backend {name}: device: found {device.type}, expected {" or ".join(backend.devices)}; '
                           'set device, or choose another backend')


def remedy(backend: str) -> str:
    """What to do about an engine that will not do."""
    return f'make it anew: semanom export --database DIR --backend {backend}'


def probe_picture(size: tuple[int, int]) -> torch.Tensor:
    """(1, 3, H, W) float32: smooth stripes of many directions, the same everywhere."""
    y, x = torch.meshgrid(torch.linspace(0, 1, size[0]), torch.linspace(0, 1, size[1]), indexing='ij')
    waves = [(torch.sin(6.28318 * (a * x + b * y)) + 1) / 2 for a, b in ((3.0, 1.0), (-2.0, 5.0), (7.0, -4.0))]
    return torch.stack(waves)[None].float()
