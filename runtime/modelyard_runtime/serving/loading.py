"""From settings to a model in memory: resolve the source, see what it is, load it. Runs on a thread."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from modelyard_runtime.errors import Unauthorized, WeightsNotFound
from modelyard_runtime.progress import Phase, Report, Step
from modelyard_runtime.serving.detection import capabilities_of
from modelyard_runtime.serving.families import FamilyModule, family_of
from modelyard_runtime.settings import ServeSettings, StorageSettings
from modelyard_runtime.sources.resolve import resolve


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in memory: what its family's module made of it, and what it may be asked for."""

    capabilities: tuple[str, ...]
    module: FamilyModule
    model: Any


def token_of(settings: StorageSettings) -> str | None:
    """Reads the source's access token. Raises Unauthorized when the file is named and cannot be read."""
    if settings.token_file is None:
        return None
    try:
        return settings.token_file.read_text().strip() or None
    except OSError as error:
        raise Unauthorized(
            f"cannot read the token file {settings.token_file}: {error.strerror}", "check --token-file and the Secret that it comes from"
        ) from error


def fetch(source: str, settings: StorageSettings, report: Report) -> Path:
    """Returns the folder of a source. Raises what `resolve` raises."""
    return resolve(source, cache_dir=settings.cache_dir, model_dirs=settings.model_dir, token=token_of(settings), progress=report)


def load(settings: ServeSettings, report: Report) -> Loaded:
    """Loads what the settings say. Blocks for as long as it takes. Raises RuntimeFailed, or Stopped out of ``report``."""
    folder = fetch(settings.model, settings, report)
    capabilities = capabilities_of(folder, settings.capability)
    family = family_of(capabilities)
    assert family is not None
    report(Step(Phase.LOAD, 0.0))
    with _damage_told(folder):
        module = family.implementation()
        model = module.load(folder, settings, capabilities, report)
    report(Step(Phase.LOAD, 1.0))
    return Loaded(capabilities, module, model)


@contextmanager
def _damage_told(folder: Path) -> Iterator[None]:
    try:
        yield
    except SafetensorError as error:
        raise WeightsNotFound(f"the weights in {folder} are damaged: {error}", "fetch them again: remove the folder and restart") from error
