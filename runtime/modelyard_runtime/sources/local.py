"""Weights on this machine, in the image or on a mounted volume: a folder, or a GGUF file, which is converted once into the cache."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from modelyard_runtime.collecting import importing
from modelyard_runtime.errors import WeightsNotFound
from modelyard_runtime.progress import Phase, Report, Step
from modelyard_runtime.sources import store


def resolve(path: Path, cache: Path, stores: Sequence[Path], report: Report, marker: str) -> Path:
    """Returns a folder with ``marker``. Raises WeightsNotFound, and DownloadFailed on a cache that cannot be written."""
    try:
        found = _find(path, marker)
    except PermissionError as error:
        raise WeightsNotFound(
            f"{error.filename} may not be read by user {os.getuid()}", "make the weights readable for every user: chmod -R a+rX"
        ) from error
    except OSError as error:  # a name that is too long, a link that leads to itself, a volume that is gone
        raise WeightsNotFound(
            f"{str(path)[:200]} cannot be read: {error.strerror}", "check the path in --model (spec.model.source)"
        ) from error
    return found if found.is_dir() else _converted(found, cache, stores, report)


def _find(path: Path, marker: str) -> Path:
    """Returns a folder with ``marker``, or a GGUF file."""
    if path.is_file() and path.suffix == ".gguf":
        return path
    if not path.exists():
        raise WeightsNotFound(
            f"{path} does not exist",
            "check the path in --model (spec.model.source); in a pod it is one of the image or of a mounted volume",
        )
    if not path.is_dir():
        raise WeightsNotFound(
            f"{path} is neither a folder nor a .gguf file",
            "point --model (spec.model.source) at a folder with config.json, or at a .gguf file",
        )
    if (path / marker).is_file():
        return path
    files = sorted(path.glob("*.gguf"))
    if len(files) == 1:
        return files[0]
    remedy = "name the file" if files else f"point --model (spec.model.source) at the folder that holds {marker} and *.safetensors"
    raise WeightsNotFound(f"{path} holds no {marker} and {len(files)} .gguf files", remedy)


def _converted(file: Path, cache: Path, stores: Sequence[Path], report: Report) -> Path:
    facts = file.stat()
    key = hashlib.sha256(f"{file.resolve()}\n{facts.st_size}\n{facts.st_mtime_ns}".encode()).hexdigest()[:12]
    entry = f"converted/{file.stem}-{key}"
    found = store.find((*stores, cache), entry)
    return found or store.publish(cache, entry, lambda target: _convert(file, target, report))


def _convert(file: Path, target: Path, report: Report) -> None:
    with importing():
        from modelyard_runtime.models import gguf  # noqa: PLC0415 - imports PyTorch

    report(Step(Phase.CONVERT, 0.0))
    gguf.convert(file, target, lambda fraction: report(Step(Phase.CONVERT, fraction)))
