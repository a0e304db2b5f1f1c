"""OpenVINO: fp32, bf16 and int8 on CPUs."""

from __future__ import annotations

import logging
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from semanom_ros.core.embedding.backends.backend import Backend, Files, Network, Request, traceable

NAMES = ('openvino',)
MODEL, WEIGHTS = 'model.xml', 'model.bin'
# What int8 leaves in floats is computed in bf16 where the processor has it: quicker, and finer than int8.
_HINTS = {'fp32': 'f32', 'bf16': 'bf16', 'int8': 'bf16'}


class OpenVino:
    """See Backend."""

    precisions: tuple[str, ...] = ('bf16', 'fp32', 'int8')
    devices: tuple[str, ...] = ('cpu',)
    libraries: tuple[str, ...] = ('openvino',)
    needs: tuple[str, ...] = ('nncf:int8',)
    largest_batch: int | None = None
    keeps_network = False

    def build(self, network: nn.Module, asked: Request, pictures: Sequence[torch.Tensor]) -> Files:
        """See Backend.build."""
        import openvino

        with traceable():
            model = openvino.convert_model(network, example_input=torch.zeros(1, 3, *asked.input_size))
        model.reshape([-1, 3, *asked.input_size])  # known sizes are quicker; any number of pictures
        if asked.precision == 'int8':
            model = _quantized(model, pictures)
        with tempfile.TemporaryDirectory(prefix='semanom_engine_') as folder:
            openvino.save_model(model, Path(folder, MODEL), compress_to_fp16=False)
            return {name: Path(folder, name).read_bytes() for name in (MODEL, WEIGHTS)}

    def load(self, files: Files, asked: Request, network: nn.Module | None) -> Network:
        """See Backend.load. As many threads as PyTorch has."""
        import openvino

        core = openvino.Core()
        model = core.read_model(files[MODEL], files[WEIGHTS])
        compiled = core.compile_model(model, 'CPU', {
            'INFERENCE_PRECISION_HINT': _HINTS[asked.precision], 'PERFORMANCE_HINT': 'LATENCY',
            'INFERENCE_NUM_THREADS': torch.get_num_threads()})
        request, lock = compiled.create_infer_request(), threading.Lock()

        def run(images: torch.Tensor) -> torch.Tensor:
            with lock:  # a request is for one thread
                found = request.infer([images.contiguous().numpy()], share_inputs=True)[0]
            return torch.from_numpy(np.array(found, np.float32))
        return run


def _quantized(model: object, pictures: Sequence[torch.Tensor]) -> object:
    """A model in int8: weights and activations, as nominal pictures use them; SmoothQuant for transformers."""
    import nncf

    logging.getLogger('nncf').setLevel(logging.WARNING)
    transformer = any(node.get_type_name() in ('Softmax', 'ScaledDotProductAttention')
                      for node in model.get_ops())  # type: ignore[attr-defined]
    return nncf.quantize(
        model, nncf.Dataset([picture.numpy() for picture in pictures]), subset_size=len(pictures),
        preset=nncf.QuantizationPreset.MIXED, fast_bias_correction=True,
        model_type=nncf.ModelType.TRANSFORMER if transformer else None)


FAMILY: Backend = OpenVino()
