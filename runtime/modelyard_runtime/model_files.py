"""The files of a model's folder, which anybody may have written."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from modelyard_runtime.errors import UnsupportedModel, WeightsNotFound

_REMEDY = "fetch or convert the model again"
#: What is read whole into memory; the largest tokenizers have some 40 MB.
_MOST_BYTES = 256 << 20
_READ_WHOLE = (".json", ".jinja", ".model", ".tiktoken", "vocab.txt", "merges.txt")
_WORDS = {dict: "an object", list: "an array"}
T = TypeVar("T", dict, list)  # type: ignore[type-arg]


def check_files(folder: Path) -> None:
    """Looks for files that nothing should begin to read: devices and pipes, which have no end, and those that are vast.

    Raises UnsupportedModel, and WeightsNotFound where the folder cannot be looked at.
    """
    try:
        for path in sorted(folder.iterdir()):
            if path.exists() and not path.is_dir() and not path.is_file():
                raise UnsupportedModel(f"{_shown(path)} is no regular file", _REMEDY)
            if path.is_file():
                _check_size(path)
    except OSError as error:
        raise WeightsNotFound(f"{folder.name} cannot be read: {error.strerror}", "let the server's user read it") from error


def _check_size(path: Path) -> None:
    size = path.stat().st_size
    if size > _MOST_BYTES and path.name.endswith(_READ_WHOLE):
        raise UnsupportedModel(f"{_shown(path)} has {size} bytes, and {_MOST_BYTES} are the limit", "take it out of the folder")


def read_json(path: Path, kind: type[T]) -> T | None:
    """Returns the object or array in a file, None where there is no such file.

    Raises UnsupportedModel on anything else, and WeightsNotFound where the file cannot be read.
    """
    if not path.is_file():
        return None
    try:
        _check_size(path)
        value = json.loads(path.read_text())
    except OSError as error:
        raise WeightsNotFound(f"{_shown(path)} cannot be read: {error.strerror}", "let the server's user read it") from error
    except (ValueError, RecursionError) as error:
        raise UnsupportedModel(f"{_shown(path)} is no JSON: {error}", _REMEDY) from error
    if not isinstance(value, kind):
        raise UnsupportedModel(f"{_shown(path)} is not {_WORDS[kind]}", _REMEDY)
    return value


def read_object(path: Path) -> dict[str, Any]:
    """Returns the object in a file, an empty one where there is no such file. Raises as `read_json` does."""
    return read_json(path, dict) or {}


def inside(folder: Path, name: str) -> Path:
    """Returns the path of a file or folder that another file of the same folder names. Raises UnsupportedModel where it leads out."""
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts:
        raise UnsupportedModel(f"{folder.name} names {name!r}, which is outside of its folder", _REMEDY)
    return folder / name


def _shown(path: Path) -> str:
    return f"{path.name} of {path.parent.name}"
