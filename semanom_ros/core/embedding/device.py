"""Where and in what arithmetic networks compute."""

from __future__ import annotations

import torch

from semanom_ros.errors import ParameterError

DTYPES = {'fp32': torch.float32, 'fp16': torch.float16, 'bf16': torch.bfloat16}


def resolve_device(name: str) -> torch.device:
    """The device that the parameter `device` names; `auto` is the first GPU where there is one, else the CPU.

    Raises:
        ParameterError: no such device here.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == 'auto':
        name = 'cuda' if gpus else 'cpu'
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ('cpu', 'cuda'):
        raise ParameterError(f'parameter device: found {name!r}, expected auto, cpu, cuda or cuda:N; correct it')
    if device.type == 'cuda':
        device = torch.device('cuda', device.index or 0)
        if device.index >= gpus:
            raise ParameterError(f'parameter device: {name} is not there, PyTorch sees {gpus} CUDA GPUs; use auto or '
                                 'cpu, or see `semanom doctor`')
    return device


def resolve_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The arithmetic that the parameter `precision` names; `auto` is bf16 on a GPU that has it, else fp32.

    Raises:
        ParameterError: not a known precision.
    """
    if precision == 'auto':
        has_bf16 = device.type == 'cuda' and torch.cuda.get_device_capability(device) >= (8, 0)
        return torch.bfloat16 if has_bf16 else torch.float32
    if precision not in DTYPES:
        raise ParameterError(f'parameter precision: found {precision!r}, expected auto, {", ".join(DTYPES)}; '
                             'correct it')
    return DTYPES[precision]
