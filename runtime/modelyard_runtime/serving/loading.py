"""From settings to services: resolve the source, load the weights, make what serves them. Runs on a thread, and imports PyTorch there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from modelyard_runtime.errors import ArgumentsInvalid, Unauthorized, UnsupportedModel, WeightsNotFound
from modelyard_runtime.progress import Phase, Report, Step
from modelyard_runtime.settings import ServeSettings, StorageSettings
from modelyard_runtime.sources.resolve import resolve

if TYPE_CHECKING:
    from modelyard_runtime.models.chat import ChatModel
    from modelyard_runtime.models.embedding import EmbeddingModel

_GENERATIONS = frozenset({"chat", "completions"})


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


def detect(folder: Path) -> tuple[str, ...]:
    """Returns what a model can do, by its files. Raises UnsupportedModel."""
    config = json.loads((folder / "config.json").read_text())
    architectures = [str(name) for name in config.get("architectures") or []]
    if (folder / "modules.json").is_file():
        return ("embeddings",)
    if any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in architectures):
        return ("chat", "completions") if _has_template(folder) else ("completions",)
    if any(name.endswith(("Model", "ForMaskedLM")) for name in architectures):
        return ("embeddings",)
    named = ", ".join(architectures) or f"model_type {config.get('model_type', 'missing')}"
    raise UnsupportedModel(
        f"{named} is neither a decoder nor an encoder that this runtime knows",
        "name what it is for with --capability, or choose another model",
    )


def _has_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file() or (folder / "chat_template.json").is_file():
        return True
    path = folder / "tokenizer_config.json"
    return path.is_file() and bool(json.loads(path.read_text()).get("chat_template"))


def wanted(settings: ServeSettings, folder: Path) -> tuple[str, ...]:
    """Returns the capabilities to serve. Raises ArgumentsInvalid or UnsupportedModel."""
    if not settings.capability:
        return detect(folder)
    if _GENERATIONS & set(settings.capability) and "embeddings" in settings.capability:
        raise ArgumentsInvalid("--capability: one process serves chat and completions, or embeddings", "make two models of the same source")
    return settings.capability


@dataclass(frozen=True, slots=True)
class LoadedChat:
    """A decoder with its engine: ``sequences`` run at once, token ids are below ``vocabulary``."""

    model: ChatModel
    sequences: int
    vocabulary: int


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in memory: one of the two, and what it may be asked for."""

    capabilities: tuple[str, ...]
    chat: LoadedChat | None = None
    embedding: EmbeddingModel | None = None


def load(settings: ServeSettings, report: Report) -> Loaded:
    """Loads what the settings say. Blocks for as long as it takes. Raises RuntimeFailed, or Stopped out of ``report``."""
    folder = fetch(settings.model, settings, report)
    capabilities = wanted(settings, folder)
    report(Step(Phase.LOAD, 0.0))
    with _damage_told(folder):
        loaded = _load(settings, folder, capabilities, report)
    report(Step(Phase.LOAD, 1.0))
    return loaded


@contextmanager
def _damage_told(folder: Path) -> Iterator[None]:
    try:
        yield
    except SafetensorError as error:
        raise WeightsNotFound(f"the weights in {folder} are damaged: {error}", "fetch them again: remove the folder and restart") from error


def _load(settings: ServeSettings, folder: Path, capabilities: tuple[str, ...], report: Report) -> Loaded:
    if capabilities == ("embeddings",):
        return Loaded(capabilities, embedding=_load_embedding(settings, folder))
    return Loaded(capabilities, chat=_load_chat(settings, folder, report))


def _load_chat(settings: ServeSettings, folder: Path, report: Report) -> LoadedChat:
    from modelyard_runtime.engine.engine import TransformersEngine  # noqa: PLC0415 - imports PyTorch
    from modelyard_runtime.engine.settings import EngineSettings  # noqa: PLC0415
    from modelyard_runtime.models.chat import ChatModel  # noqa: PLC0415
    from modelyard_runtime.models.loading import load_causal_lm  # noqa: PLC0415

    loaded = load_causal_lm(
        folder, dtype=settings.dtype, device=settings.device, progress=lambda fraction: report(Step(Phase.LOAD, fraction))
    )
    bounds = EngineSettings(max_model_length=settings.max_model_length, max_concurrent_sequences=settings.max_concurrent_sequences)
    engine = TransformersEngine(loaded, bounds)
    return LoadedChat(ChatModel(engine, loaded.tokenizer), engine.capacity.sequences, loaded.vocabulary_size)


def _load_embedding(settings: ServeSettings, folder: Path) -> EmbeddingModel:
    from modelyard_runtime.models.embedding import EmbeddingModel  # noqa: PLC0415 - imports PyTorch
    from modelyard_runtime.models.loading import choose_device, choose_dtype  # noqa: PLC0415

    device = choose_device(settings.device)
    return EmbeddingModel(folder, dtype=choose_dtype(settings.dtype, device), device=device)
