"""Which engine runs a decoder: the batching one, else plain `generate`; what was tried before, and why it was not to be."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from modelyard_runtime.engine.engine import TransformersEngine
from modelyard_runtime.engine.fallback import GenerateEngine
from modelyard_runtime.engine.probe import adopt
from modelyard_runtime.engine.settings import EngineSettings, chunks
from modelyard_runtime.engine.storage import page_of
from modelyard_runtime.errors import ArgumentsInvalid, UnsupportedModel
from modelyard_runtime.models import quantising
from modelyard_runtime.models.fusing import fusable
from modelyard_runtime.models.kernels import computed
from modelyard_runtime.models.loading import LoadedModel, lay_out, read_causal_lm
from modelyard_runtime.models.placement import free_memory, is_spread, room
from modelyard_runtime.models.quantising import Quantization
from modelyard_runtime.progress import Phase, Report, Step
from modelyard_runtime.serving.memory import estimate, size_of
from modelyard_runtime.settings import ServeSettings

logger = logging.getLogger(__name__)

_REMEDY = "choose another model; docs/engine.md says which ones run, and what each engine needs"
_LONGEST_WHY = 400


@dataclass(frozen=True, slots=True)
class Tried:
    """An engine that does not run the model, and why."""

    name: str
    why: str


@dataclass(frozen=True, slots=True)
class Chosen:
    """A model in memory with the engine that runs it: ``batching`` or ``generate``; what its weights became at load."""

    model: LoadedModel
    engine: TransformersEngine | GenerateEngine
    name: str
    quantization: Quantization
    tried: tuple[Tried, ...] = ()

    def shown(self) -> dict[str, Any]:
        """Returns what the model's status says."""
        how = computed(self.model.model, self.model.dtype, self.model.device, self.quantization)
        return {"name": self.name, "tried": [asdict(one) for one in self.tried], **how}


def choose(folder: Path, settings: ServeSettings, capabilities: tuple[str, ...], report: Report) -> Chosen:
    """Loads a decoder with the first engine that runs it. Raises RuntimeFailed; UnsupportedModel says why none does.

    What is laid out for one engine serves no other. So a model that is not of the usual build is tried by the batching engine before that,
    and read again only if it is of the usual build and refused all the same.
    """
    quantization = _quantization(folder, settings)
    read = _reading(folder, settings, quantization, report)
    loaded = read()
    if settings.kv_cache == "slots" and is_spread(loaded.model):
        raise ArgumentsInvalid("--kv-cache=slots: slots are on one device, and this model is spread over several", "leave it out")
    bounds = engine_settings(settings, loaded.device.type)
    usual = fusable(loaded.model)
    try:
        return Chosen(loaded, _batching(loaded, quantization, bounds), "batching", quantization)
    except UnsupportedModel as refusal:
        first = _brief(refusal)
    try:
        _check_wishes(settings, capabilities)
        if usual:
            del loaded  # before its successor comes, for both may not fit
            loaded = read()
        lay_out(loaded, quantization, plain=True)
        engine = GenerateEngine(loaded, bounds)
    except UnsupportedModel as second:
        raise UnsupportedModel(f"no engine runs this model. batching: {first}; generate: {_brief(second)}", _REMEDY) from second
    logger.warning("this model runs by plain generate, one request at a time; batching: %s", first)
    return Chosen(loaded, engine, "generate", quantization, (Tried("batching", first),))


def _reading(folder: Path, settings: ServeSettings, quantization: Quantization, report: Report) -> Callable[[], LoadedModel]:
    """Returns what reads the weights, from the beginning each time."""
    return partial(
        read_causal_lm,
        folder,
        dtype=settings.dtype,
        device=settings.device,
        quantization=quantization,
        trusted=settings.trust_remote_code,
        rooms=_rooms(settings),
        progress=lambda fraction: report(Step(Phase.LOAD, fraction)),
    )


def _batching(loaded: LoadedModel, quantization: Quantization, bounds: EngineSettings) -> TransformersEngine:
    if not fusable(loaded.model):
        adopt(loaded, page_of(bounds, loaded.device))
    lay_out(loaded, quantization)
    return TransformersEngine(loaded, bounds)


def engine_settings(settings: ServeSettings, device: str) -> EngineSettings:
    """Returns the engine's part of the settings."""
    return EngineSettings(
        max_model_length=settings.max_model_length,
        max_concurrent_sequences=settings.max_concurrent_sequences,
        kv_cache_tokens=settings.kv_cache_tokens,
        prefix_caching=settings.prefix_caching,
        speculative_tokens=settings.speculative_tokens,
        step_timeout=settings.engine_step_timeout.total_seconds(),
        kv_cache=settings.kv_cache,
        cuda_graphs=settings.cuda_graphs,
        **chunks(device),
    )


def _quantization(folder: Path, settings: ServeSettings) -> Quantization:
    above = size_of(settings.quantize_above)
    return quantising.choose(settings.quantization, estimate(folder), above, stored=quantising.is_stored(folder))


def _rooms(settings: ServeSettings) -> dict[int, int]:
    """Returns what weights may take on each GPU, where a model may be spread over several: where none of them is named."""
    if settings.device_map == "none" or settings.device not in {"auto", "cuda"}:
        return {}
    return room(free_memory(), settings.device_memory)


def _brief(refusal: UnsupportedModel) -> str:
    """Returns why, in a line that a status can show: the library's own messages may be pages."""
    return refusal.message if len(refusal.message) <= _LONGEST_WHY else refusal.message[:_LONGEST_WHY] + "…"


def _check_wishes(settings: ServeSettings, capabilities: tuple[str, ...]) -> None:
    """Raises UnsupportedModel when the model is to do what only the batching engine does."""
    if "vision" in capabilities:
        raise UnsupportedModel("it reads text only; with --capability=chat it would be tried")
    if settings.adapter:
        raise UnsupportedModel("it has no adapters; without --adapter it would be tried")
