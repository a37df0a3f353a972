"""From settings to a model in memory: resolve the source, see what it is, load it. Runs on a thread."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from modelyard_runtime.errors import ArgumentsInvalid, Unauthorized, WeightsNotFound
from modelyard_runtime.progress import Phase, Report, Step
from modelyard_runtime.serving.detection import capabilities_of, family_for
from modelyard_runtime.serving.facts import Facts, facts_of
from modelyard_runtime.serving.families import Family, FamilyModule
from modelyard_runtime.settings import ServeSettings, StorageSettings
from modelyard_runtime.sources import store
from modelyard_runtime.sources.resolve import resolve

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Found:
    """A model on this machine: its folder, what its files say, what it may be asked for, and its family's module, which is imported."""

    folder: Path
    facts: Facts
    capabilities: tuple[str, ...]
    module: FamilyModule


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


def fetch(source: str, settings: StorageSettings, report: Report, marker: str = "config.json") -> Path:
    """Returns the folder of a source, which ``marker`` is in. Raises what `resolve` raises."""
    return resolve(
        source, cache_dir=settings.cache_dir, model_dirs=settings.model_dir, token=token_of(settings), progress=report, marker=marker
    )


def find(settings: ServeSettings, report: Report) -> Found:
    """Fetches what the settings say and sees what it is. Blocks for as long as it takes. Raises RuntimeFailed, or Stopped."""
    folder = fetch(settings.source, settings, report)
    capabilities = capabilities_of(folder, settings.capability)
    family = family_for(folder, capabilities)
    _check_options(settings, family)
    report(Step(Phase.LOAD, 0.0))
    return Found(folder, facts_of(folder), capabilities, family.implementation())


def _check_options(settings: ServeSettings, family: Family) -> None:
    """Raises ArgumentsInvalid where the model would ignore what only models that generate text act on."""
    given = {"adapter": bool(settings.adapter), "quantization": settings.quantization != "none"}
    ignored = [f"--{name}" for name, is_given in given.items() if is_given and family.name != "generation"]
    if ignored:
        raise ArgumentsInvalid(
            f"{' and '.join(ignored)}: {settings.source} is a model for {family.name}, which takes none",
            "leave it out (spec.engine.adapters, spec.engine.quantization), or name it for one model in a catalogue",
        )


def load(found: Found, settings: ServeSettings, report: Report) -> Any:
    """Loads a model; weights of ours that are damaged are fetched again, once. Blocks. Raises RuntimeFailed, or Stopped."""
    try:
        return _load(found, settings, report)
    except SafetensorError as error:
        if not store.forget(settings.cache_dir, found.folder):
            raise _damaged(found.folder, error) from error
        logger.warning("the weights were damaged and are fetched again", extra={"folder": str(found.folder), "cause": str(error)})
    again = find(settings, report)
    try:
        return _load(again, settings, report)
    except SafetensorError as error:
        raise _damaged(again.folder, error) from error


def _load(found: Found, settings: ServeSettings, report: Report) -> Any:
    model = found.module.load(found.folder, settings, found.capabilities, report)
    report(Step(Phase.LOAD, 1.0))
    return model


def _damaged(folder: Path, error: SafetensorError) -> WeightsNotFound:
    return WeightsNotFound(f"the weights in {folder} are damaged: {error}", "put whole ones there: copy or download them again")
