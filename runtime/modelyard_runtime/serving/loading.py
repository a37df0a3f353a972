"""From settings to a model in memory: resolve the source, see what it is, load it. Runs on a thread."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from modelyard_runtime.errors import ArgumentsInvalid, Unauthorized, UnsupportedModel, WeightsNotFound
from modelyard_runtime.model_files import check_files
from modelyard_runtime.models.growth import check_growth
from modelyard_runtime.panics import Panicked, caught
from modelyard_runtime.progress import Phase, Report, Step
from modelyard_runtime.serving.detection import capabilities_of, family_for
from modelyard_runtime.serving.facts import Facts, facts_of
from modelyard_runtime.serving.families import Family, FamilyModule
from modelyard_runtime.settings import GenerationSettings, ServeSettings, StorageSettings
from modelyard_runtime.sources import store
from modelyard_runtime.sources.resolve import resolve

logger = logging.getLogger(__name__)

#: What code raises that reads files of another shape than it expects. What a device raises is none of these.
_ODD = (AttributeError, TypeError, KeyError, IndexError, ValueError, RecursionError, ArithmeticError, AssertionError, Panicked)
_GENERATION = frozenset({"generation"})
_TEXTS = frozenset({"embeddings", "ranking"})
#: Settings that only some families act on, and those families.
_OF_FAMILIES = dict.fromkeys(GenerationSettings.model_fields, _GENERATION) | {
    "kv_cache_tokens": _GENERATION,
    "prefix_caching": _GENERATION,
    "speculative_tokens": _GENERATION,
    "max_batch_tokens": _TEXTS,
    "report_usage": _TEXTS,
    "embedding_cache_bytes": frozenset({"embeddings"}),
    "beam_size": frozenset({"transcription"}),
}
#: What manifests call them, where that is not `spec.generation`.
_FIELDS = {
    "adapter": "spec.engine.adapters",
    "quantization": "spec.engine.quantization",
    "kv_cache_tokens": "spec.engine.kvCacheTokens",
    "prefix_caching": "spec.engine.prefixCaching",
    "speculative_tokens": "spec.engine.speculativeTokens",
    "max_batch_tokens": "spec.engine.maxBatchTokens",
    "report_usage": "spec.engine.reportUsage",
    "embedding_cache_bytes": "spec.engine.embeddingCache",
    "beam_size": "spec.engine.beamSize",
}


@dataclass(frozen=True, slots=True)
class Found:
    """A model on this machine: its folder, what its files say, what it may be asked for, and its family with its imported module."""

    folder: Path
    facts: Facts
    capabilities: tuple[str, ...]
    family: Family
    module: FamilyModule


class _Damaged(Exception):
    """Weights that cannot be read."""


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
    """Returns the folder of a source, which ``marker`` is in. Raises what `resolve` and `check_files` raise."""
    folder = resolve(
        source, cache_dir=settings.cache_dir, model_dirs=settings.model_dir, token=token_of(settings), progress=report, marker=marker
    )
    check_files(folder)
    return folder


def find(settings: ServeSettings, report: Report) -> Found:
    """Fetches what the settings say and sees what it is. Blocks for as long as it takes. Raises RuntimeFailed, or Stopped."""
    folder = fetch(settings.source, settings, report)
    with _understood(folder):
        capabilities = capabilities_of(folder, settings.capability)
        family = family_for(folder, capabilities)
    report(Step(Phase.LOAD, 0.0))
    return Found(folder, facts_of(folder), capabilities, family, family.implementation(capabilities))


def check_options(found: Found, settings: ServeSettings, own: Collection[str]) -> None:
    """Raises ArgumentsInvalid where the model would ignore what only models of other families act on.

    Most of that is what was given for this model alone, in ``own``: what a server of several says is for those that it concerns.
    """
    given = [name for name, families in _OF_FAMILIES.items() if name in own and found.family.name not in families]
    if found.family.name != "generation":
        fewer_bits = "quantization" in own and settings.quantization not in {"none", "auto"}
        others = {"adapter": bool(settings.adapter), "quantization": fewer_bits}
        given += [name for name, is_given in others.items() if is_given]
    if given:
        flags = " and ".join(f"--{name.replace('_', '-')}" for name in given)
        fields = dict.fromkeys(_FIELDS.get(name, "spec.generation") for name in given)
        raise ArgumentsInvalid(
            f"{flags}: {settings.source} is a model for {found.family.name}, which takes none",
            f"leave it out ({', '.join(fields)}), or name it for one model in a catalogue",
        )


def load(found: Found, settings: ServeSettings, report: Report) -> Any:
    """Loads a model; weights of ours that are damaged are fetched again, once. Blocks. Raises RuntimeFailed, or Stopped."""
    try:
        return _load(found, settings, report)
    except _Damaged as error:
        if not store.forget(settings.cache_dir, found.folder):
            raise _damaged(found.folder, error) from error
        logger.warning("the weights were damaged and are fetched again", extra={"folder": str(found.folder), "cause": str(error)})
    again = find(settings, report)
    try:
        return _load(again, settings, report)
    except _Damaged as error:
        raise _damaged(again.folder, error) from error


def _load(found: Found, settings: ServeSettings, report: Report) -> Any:
    """Raises _Damaged for what is no safetensors file, whether the family says so itself or leaves it to the library's error."""
    try:
        with _understood(found.folder):
            check_growth(found.folder)
            model = found.module.load(found.folder, settings, found.capabilities, report)
    except (SafetensorError, WeightsNotFound) as error:
        damage = error if isinstance(error, SafetensorError) else error.__cause__
        if isinstance(damage, SafetensorError):
            raise _Damaged(str(damage)) from error
        raise
    report(Step(Phase.LOAD, 1.0))
    return model


@contextmanager
def _understood(folder: Path) -> Iterator[None]:
    """Raises UnsupportedModel where files are read that make no sense in a way that nobody foresaw: anybody may have written them."""
    try:
        with caught():
            yield
    except Exception as error:
        if not isinstance(error, _ODD) and type(error) is not Exception:  # which is all that the tokenizers library raises
            raise
        logger.warning("files that make no sense", extra={"folder": str(folder)}, exc_info=error)
        what = f"{type(error).__name__}: {error}"
        raise UnsupportedModel(f"the files of {folder.name} make no sense: {what}", "fetch or convert the model again") from error


def _damaged(folder: Path, error: _Damaged) -> WeightsNotFound:
    return WeightsNotFound(f"the weights in {folder} are damaged: {error}", "put whole ones there: copy or download them again")
