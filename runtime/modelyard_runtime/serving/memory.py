"""Memory of models: what the process holds, what it may hold, and giving back what is no longer used. All in bytes."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import Any

import psutil

from modelyard_runtime.hardware import memory_limit, return_freed
from modelyard_runtime.setting_types import bytes_of


def held() -> int:
    """Returns what this process holds of the memory that counts: its devices' where it has some, else the machine's, unshared."""
    torch = _devices()
    if torch is None:
        return int(psutil.Process().memory_full_info().uss)
    return sum(int(torch.cuda.memory_allocated(index)) for index in range(torch.cuda.device_count()))


def whole() -> int:
    """Returns what there is of the memory that counts."""
    torch = _devices()
    if torch is None:
        return memory_limit()
    return sum(int(torch.cuda.get_device_properties(index).total_memory) for index in range(torch.cuda.device_count()))


def size_of(text: str) -> int:
    """Returns the bytes of ``8Gi``, or of a share such as ``80%`` of what there is."""
    return bytes_of(text, whole)


def shown(count: int) -> str:
    """Returns bytes as people read them: ``1.50 GiB``, ``12 MiB``."""
    return f"{count / (1 << 30):.2f} GiB" if count >= 1 << 30 else f"{count / (1 << 20):.0f} MiB"


def estimate(folder: Path) -> int:
    """Returns about what a model takes at least, by the size of its weights' files; they are what is known before it is loaded."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def give_back() -> None:
    """Returns freed memory to the system: Python's cycles, PyTorch's cached blocks, and what the C library keeps for itself."""
    gc.collect()
    torch = _devices()
    if torch is not None:
        torch.cuda.empty_cache()
    return_freed()


def _devices() -> Any:
    """Returns PyTorch where it is loaded and has devices, else None."""
    torch = sys.modules.get("torch")
    return torch if torch is not None and hasattr(torch, "cuda") and torch.cuda.is_available() else None
