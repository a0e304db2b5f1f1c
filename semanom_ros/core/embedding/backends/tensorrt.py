"""TensorRT on NVIDIA's GPUs, where it is installed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from semanom_ros.core.embedding.backends.backend import Backend, Files, Network, Request
from semanom_ros.core.embedding.backends.onnxruntime import INPUT, OUTPUT, to_onnx

NAMES = ('tensorrt',)
PLAN = 'engine.plan'
LARGEST_BATCH, USUAL_BATCH = 8, 1


class TensorRt:
    """See Backend. An engine is for one kind of GPU, driver and version of the library."""

    precisions: tuple[str, ...] = ('fp16', 'bf16', 'fp32')
    devices: tuple[str, ...] = ('cuda',)
    libraries: tuple[str, ...] = ('tensorrt',)
    needs: tuple[str, ...] = ()
    largest_batch: int | None = LARGEST_BATCH
    keeps_network = False

    def build(self, network: nn.Module, asked: Request, pictures: Sequence[torch.Tensor]) -> Files:
        """See Backend.build."""
        import tensorrt as trt

        builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
        definition = builder.create_network(0)
        parser = trt.OnnxParser(definition, trt.Logger(trt.Logger.ERROR))
        if not parser.parse(to_onnx(network, asked.input_size, asked.device)):
            raise RuntimeError(str(parser.get_error(0)))
        config = builder.create_builder_config()
        if asked.precision != 'fp32':
            config.set_flag(getattr(trt.BuilderFlag, asked.precision.upper()))
        profile = builder.create_optimization_profile()
        profile.set_shape(INPUT, *((batch, 3, *asked.input_size) for batch in (1, USUAL_BATCH, LARGEST_BATCH)))
        config.add_optimization_profile(profile)
        plan = builder.build_serialized_network(definition, config)
        if plan is None:
            raise RuntimeError('the builder made no engine')
        return {PLAN: bytes(plan)}

    def load(self, files: Files, asked: Request, network: nn.Module | None) -> Network:
        """See Backend.load."""
        import tensorrt as trt

        runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        engine: Any = runtime.deserialize_cuda_engine(files[PLAN])
        if engine is None:
            raise RuntimeError('the file is no engine of this GPU and version of TensorRT')
        context = engine.create_execution_context()

        def run(images: torch.Tensor) -> torch.Tensor:
            images = images.contiguous()
            context.set_input_shape(INPUT, tuple(images.shape))
            features = torch.empty(tuple(context.get_tensor_shape(OUTPUT)), dtype=torch.float32, device=images.device)
            context.set_tensor_address(INPUT, images.data_ptr())
            context.set_tensor_address(OUTPUT, features.data_ptr())
            stream = torch.cuda.current_stream(images.device)
            if not context.execute_async_v3(stream.cuda_stream):
                raise RuntimeError('TensorRT did not run the engine')
            images.record_stream(stream)
            return features
        return run


FAMILY: Backend = TensorRt()
