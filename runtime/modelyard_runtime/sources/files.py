"""Which files of a repository or a folder make a model: nothing that runs code when it is read, and no second copy of the weights."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatch

#: Weights in CTranslate2's own format; no pickle, whatever the ending says, and never read as one.
_CONVERTED = "model.bin"
WANTED = ("*.safetensors", _CONVERTED, "*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken")
UNWANTED = ("original/*", "consolidated*.safetensors", "onnx/*", "openvino/*", "runs/*")


def wanted(names: Iterable[str]) -> list[str]:
    """Returns the files to fetch, of those that there are."""
    return [name for name in names if _matches(name, WANTED) and not _matches(name, UNWANTED)]


def have_weights(names: Iterable[str]) -> bool:
    """Whether there are weights among the files."""
    return any(name.endswith(".safetensors") or name == _CONVERTED for name in names)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)
