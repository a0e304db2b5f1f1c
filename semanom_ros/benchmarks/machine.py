"""What figures were taken on."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch

from semanom_ros.core.database.index import faiss


def machine(device: torch.device) -> dict[str, Any]:
    """Processor, memory, load, GPU, and the versions of what computes."""
    cpu = platform.processor()
    lines = _lines('/proc/cpuinfo')
    cpu = next((line.split(':', 1)[1].strip() for line in lines if line.startswith('model name')), cpu)
    flags = next((line.split(':', 1)[1].split() for line in lines if line.startswith('flags')), [])
    return {
        'cpu': cpu, 'cores': os.cpu_count(), 'torch_threads': torch.get_num_threads(),
        'instructions': [flag for flag in ('avx2', 'avx512f', 'avx512_vnni', 'amx_bf16', 'amx_int8') if flag in flags],
        'memory_gb': round(os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9, 1),
        'load_average': round(os.getloadavg()[0], 2),
        'gpu': torch.cuda.get_device_name(device) if device.type == 'cuda' else None,
        'system': f'{platform.system()} {platform.machine()}', 'python': platform.python_version(),
        'torch': torch.__version__, 'faiss': faiss.__version__,
    }


def free_memory(device: torch.device) -> int:
    """Bytes that can still be had, on a GPU or of the machine."""
    if device.type == 'cuda':
        return torch.cuda.mem_get_info(device)[0]
    return next(int(line.split()[1]) * 1024 for line in _lines('/proc/meminfo') if line.startswith('MemAvailable'))


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
