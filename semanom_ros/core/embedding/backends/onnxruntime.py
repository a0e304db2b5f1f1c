"""ONNX Runtime: fp32 and int8 on CPUs."""

from __future__ import annotations

import io
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from semanom_ros.core.embedding.backends.backend import Backend, Files, Network, Request, traceable

NAMES = ('onnxruntime',)
MODEL = 'model.onnx'
INPUT, OUTPUT = 'images', 'features'
OPSET = 17


def to_onnx(network: nn.Module, input_size: tuple[int, int], device: torch.device) -> bytes:
    """A network as ONNX, for any number of pictures."""
    content = io.BytesIO()
    with traceable(), warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of the tracer: sizes are fixed on purpose
        # This exporter needs no further library.
        torch.onnx.export(network, (torch.zeros(1, 3, *input_size, device=device),), content,  # type: ignore[arg-type]
                          dynamo=False,
                          input_names=[INPUT], output_names=[OUTPUT], opset_version=OPSET,
                          dynamic_axes={INPUT: {0: 'pictures'}, OUTPUT: {0: 'pictures'}})
    return content.getvalue()


class OnnxRuntime:
    """See Backend."""

    precisions: tuple[str, ...] = ('fp32', 'int8')
    devices: tuple[str, ...] = ('cpu',)
    libraries: tuple[str, ...] = ('onnxruntime',)
    needs: tuple[str, ...] = ('onnx',)
    largest_batch: int | None = None
    keeps_network = False

    def build(self, network: nn.Module, asked: Request, pictures: Sequence[torch.Tensor]) -> Files:
        """See Backend.build."""
        content = to_onnx(network, asked.input_size, torch.device('cpu'))
        return {MODEL: _quantized(content, pictures) if asked.precision == 'int8' else content}

    def load(self, files: Files, asked: Request, network: nn.Module | None) -> Network:
        """See Backend.load. As many threads as PyTorch has."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        # Its threads would otherwise wait at full speed while PyTorch and FAISS compute.
        options.add_session_config_entry('session.intra_op.allow_spinning', '0')
        session = onnxruntime.InferenceSession(files[MODEL], options, providers=['CPUExecutionProvider'])

        def run(images: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(session.run([OUTPUT], {INPUT: images.contiguous().numpy()})[0])
        return run


def _quantized(content: bytes, pictures: Sequence[torch.Tensor]) -> bytes:
    """A model whose products are in int8, with ranges as nominal pictures use them."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Pictures(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter(pictures)

        def get_next(self) -> dict[str, Any] | None:
            picture = next(self._left, None)
            return None if picture is None else {INPUT: picture.numpy()}

    with tempfile.TemporaryDirectory(prefix='semanom_engine_') as folder:
        plain, prepared, quantized = (str(Path(folder, name)) for name in ('plain', 'prepared', 'quantized'))
        Path(plain).write_bytes(content)
        quant_pre_process(plain, prepared, skip_symbolic_shape=True)
        quantize_static(prepared, quantized, Pictures(), quant_format=QuantFormat.QDQ, per_channel=True,
                        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
                        op_types_to_quantize=['MatMul', 'Gemm', 'Conv'])
        return Path(quantized).read_bytes()


FAMILY: Backend = OnnxRuntime()
