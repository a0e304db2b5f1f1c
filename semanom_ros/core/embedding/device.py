"""Where and in what arithmetic networks compute."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

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
    if precision == 'int8':
        raise ParameterError('parameter precision: found int8, which engines alone have, expected auto, '
                             f'{", ".join(DTYPES)} for PyTorch; make one with `semanom export`, or correct it')
    if precision not in DTYPES:
        raise ParameterError(f'parameter precision: found {precision!r}, expected auto, {", ".join(DTYPES)}; '
                             'correct it')
    return DTYPES[precision]


_INSTRUCTIONS = ('asimd', 'asimddp', 'i8mm', 'bf16', 'avx2', 'avx_vnni', 'avx512f', 'avx512_vnni', 'avx512_bf16',
                 'amx_bf16', 'amx_int8')


def device_identity(device: torch.device) -> str:
    """What an engine belongs to: the GPU with its driver, or the processor with what it computes networks with."""
    if device.type == 'cuda':
        driver = _value(Path('/proc/driver/nvidia/version'), 'NVRM version') or 'unknown'
        return f'{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}, driver {driver}'
    facts = Path('/proc/cpuinfo')
    flags = (_value(facts, 'flags') or _value(facts, 'Features')).split()
    name = _value(facts, 'model name') or _value(facts, 'CPU part') or 'unknown processor'
    return f'{name} ({" ".join(flag for flag in _INSTRUCTIONS if flag in flags)})'


def _value(path: Path, name: str) -> str:
    """Of a line `name: value` of a file of the kernel's; '' where there is none."""
    with suppress(OSError):
        for line in path.read_text(errors='replace').splitlines():
            key, colon, value = line.partition(':')
            if colon and key.strip() == name:
                return value.strip()
    return ''
