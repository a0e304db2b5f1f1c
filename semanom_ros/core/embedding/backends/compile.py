"""torch.compile: PyTorch's own network, compiled when it is loaded; CUDA graphs on GPUs."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

import torch
from torch import nn

from semanom_ros.core.embedding.backends.backend import Backend, Files, Network, Request
from semanom_ros.errors import EncoderError

NAMES = ('compile',)


class Compile:
    """See Backend. An engine has no files: what the compiler makes is code, and is kept in PyTorch's own cache."""

    precisions: tuple[str, ...] = ('bf16', 'fp32', 'fp16')
    devices: tuple[str, ...] = ('cpu', 'cuda')
    libraries: tuple[str, ...] = ('torch',)
    needs: tuple[str, ...] = ()
    largest_batch: int | None = None
    keeps_network = True

    def build(self, network: nn.Module, asked: Request, pictures: Sequence[torch.Tensor]) -> Files:
        """See Backend.build."""
        return {}

    def load(self, files: Files, asked: Request, network: nn.Module | None) -> Network:
        """See Backend.load. A number of pictures that was not met before is compiled for when it comes.

        Raises:
            EncoderError: a CPU's code needs a C++ compiler, and there is none.
        """
        assert network is not None
        on_gpu = asked.device.type == 'cuda'
        if not on_gpu and not any(map(shutil.which, ('g++', 'c++', 'clang++'))):
            raise EncoderError('backend compile: found no C++ compiler, expected one; apt install g++, or choose '
                               'another backend')
        compiled = torch.compile(network, mode='reduce-overhead' if on_gpu else 'default', dynamic=False)

        @torch.inference_mode()
        def run(images: torch.Tensor) -> torch.Tensor:
            if on_gpu:  # a graph writes into memory of its own, over what it gave before
                torch.compiler.cudagraph_mark_step_begin()
                return compiled(images).float().clone()
            return compiled(images).float()
        return run


FAMILY: Backend = Compile()
