"""What a model's files say of it, for those who list models. Reads heads of files only."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from modelyard_runtime.model_files import read_object
from modelyard_runtime.models.heads import stored


@dataclass(frozen=True, slots=True)
class Facts:
    """``architecture`` as in config.json, ``dtype`` the one of most parameters as safetensors spells it, ``size`` bytes on disk.

    What is not known is empty or 0.
    """

    architecture: str = ""
    parameters: int = 0
    dtype: str = ""
    size: int = 0

    def shown(self) -> dict[str, Any]:
        """Returns what ``/v1/models`` shows of it: what is known."""
        facts = {"architecture": self.architecture, "parameters": self.parameters, "dtype": self.dtype, "size": self.size}
        return {name: value for name, value in facts.items() if value}


def facts_of(folder: Path) -> Facts:
    """Returns what there is to know; weights that cannot be read say nothing, for whoever loads them says it better."""
    counts = _parameters(folder)
    dtype = counts.most_common(1)[0][0] if counts else ""
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Facts(_architecture(folder), counts.total(), dtype, size)


def _architecture(folder: Path) -> str:
    kind = read_object(folder / "config.json").get("model_type")
    return kind if isinstance(kind, str) else ""


def _parameters(folder: Path) -> Counter[str]:
    """Returns parameters by dtype."""
    counts: Counter[str] = Counter()
    with suppress(OSError, SafetensorError):
        for tensor in stored(folder):
            counts[tensor.dtype] += tensor.numbers
    return counts
