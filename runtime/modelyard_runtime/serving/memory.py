"""Memory of models: what the process holds, what it may hold, and giving back what is no longer used. All in bytes."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from modelyard_runtime.errors import OutOfMemory
from modelyard_runtime.hardware import available_memory, dtype_for, memory_limit, return_freed
from modelyard_runtime.setting_types import bytes_of, shown

if TYPE_CHECKING:
    from modelyard_runtime.serving.facts import Facts
    from modelyard_runtime.settings import ServeSettings

_REMEDY = "give it more memory (in a manifest spec.resources.memory), or choose a smaller model"
#: What safetensors calls data types of weights that become larger in float32.
_NARROW = frozenset({"BF16", "F16", "F8_E4M3", "F8_E5M2"})


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


def estimate(folder: Path) -> int:
    """Returns about what a model takes at least, by the size of its weights' files; they are what is known before it is loaded."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def least(folder: Path, facts: Facts, settings: ServeSettings) -> int:
    """Returns about what a model takes at least: its files, or its parameters where these compute in more bits than they are stored in."""
    stored = estimate(folder)
    device = settings.device if settings.device != "auto" or _devices() else "cpu"
    if dtype_for(settings.dtype, device) != "float32" or settings.quantization != "none" or facts.dtype not in _NARROW:
        return stored
    return max(stored, 4 * facts.parameters)


def check_free(name: str, needed: int) -> None:
    """Raises OutOfMemory when so many bytes are not free. The kernel would end the process without a word; devices say it themselves."""
    free = available_memory()
    if _devices() is None and needed > free:
        raise OutOfMemory(f"{name} needs {shown(needed)} at least, and {shown(free)} are free", _REMEDY)


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
