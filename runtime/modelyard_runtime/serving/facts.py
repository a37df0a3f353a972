"""What a model's files say of it, for those who list models. Reads heads of files only."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from modelyard_runtime.model_files import read_object

_LENGTH_BYTES = 8
#: A parameter takes a bit at least: a file that says that it holds more of them than that is not believed.
_PER_BYTE = 8
_MAX_HEAD = 100 << 20


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
    counts: Counter[str] = Counter()
    for path in folder.glob("*.safetensors"):
        counts.update(_parameters(path))
    dtype = counts.most_common(1)[0][0] if counts else ""
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Facts(_architecture(folder), counts.total(), dtype, size)


def _architecture(folder: Path) -> str:
    kind = read_object(folder / "config.json").get("model_type")
    return kind if isinstance(kind, str) else ""


def _parameters(path: Path) -> Counter[str]:
    """Returns parameters by dtype, from the head of a file: https://github.com/huggingface/safetensors#format."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            head = orjson.loads(file.read(length)) if length <= _MAX_HEAD else {}
        counts: Counter[str] = Counter()
        for name, tensor in head.items():
            if name != "__metadata__":
                counts[str(tensor["dtype"])] += math.prod(tensor["shape"])
        most = _PER_BYTE * path.stat().st_size
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Counter()
    return counts if all(0 <= count <= most for count in counts.values()) else Counter()
