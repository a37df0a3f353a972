"""A folder of weights in the Hugging Face layout: what must be in it, and what it means when it cannot be loaded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from modelyard_runtime.errors import OutOfMemory, UnsupportedModel, WeightsNotFound
from modelyard_runtime.hardware import is_out_of_memory

#: What the library raises when it cannot load a folder.
_CAUSES = (
    *(MemoryError, OSError, SafetensorError),
    *(ValueError, KeyError, RuntimeError, TypeError, AttributeError, ArithmeticError),
)


def check_folder(folder: Path) -> None:
    """Raises WeightsNotFound where there is no config, or nothing but weights that can run code."""
    if not (folder / "config.json").is_file():
        raise WeightsNotFound(f"{folder} has no config.json", "name a folder in the Hugging Face layout, or a .gguf file")
    if not any(folder.glob("*.safetensors")):
        raise WeightsNotFound(f"{folder} has no .safetensors file", "convert the weights to safetensors: other formats can run code")


@contextmanager
def named_causes(folder: Path, device: torch.device, kind: Any) -> Iterator[None]:
    """Says what it means when ``kind``, a class of the library's, cannot load a folder.

    Raises OutOfMemory, WeightsNotFound or UnsupportedModel.
    """
    try:
        yield
    except ImportError as error:
        raise UnsupportedModel(f"{folder.name} needs a package that is not installed: {error}", "install it beside the runtime") from error
    except _CAUSES as error:
        if is_out_of_memory(error):
            raise OutOfMemory(f"the weights of {folder.name} do not fit the memory of {device}") from error
        if isinstance(error, OSError | SafetensorError):
            raise WeightsNotFound(f"the files of {folder.name} cannot be read: {error}", again(folder)) from error
        raise UnsupportedModel(f"{folder.name} cannot be loaded by {kind.__name__}: {error}") from error


def check_complete(folder: Path, missing: Iterable[str]) -> None:
    """Raises WeightsNotFound: Transformers itself fills what is missing with random numbers, and only warns."""
    names = sorted(missing)
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise WeightsNotFound(f"{folder.name} lacks weights that its config.json asks for: {', '.join(names[:3])}{more}", again(folder))


def again(folder: Path) -> str:
    """Returns what to do about weights that are not whole."""
    return f"put whole weights into {folder}; where that is the model cache, delete the folder, and the next start fetches them again"
