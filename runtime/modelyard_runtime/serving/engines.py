"""Which engine runs a model that generates; what was tried before it, and why it was not to be.

The batching one is first, then plain `generate`, and where code that comes with the weights may run, the pipeline class that it brings.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from modelyard_runtime.engine.engine import TransformersEngine
from modelyard_runtime.engine.fallback import GenerateEngine
from modelyard_runtime.engine.pipeline import PipelineEngine
from modelyard_runtime.engine.probe import adopt
from modelyard_runtime.engine.settings import EngineSettings, chunks
from modelyard_runtime.engine.storage import page_of
from modelyard_runtime.errors import ArgumentsInvalid, RuntimeFailed, UnsupportedModel, WeightsNotFound
from modelyard_runtime.model_files import read_object
from modelyard_runtime.models import quantising
from modelyard_runtime.models.declared import Declared, declared
from modelyard_runtime.models.fusing import fusable
from modelyard_runtime.models.kernels import computed
from modelyard_runtime.models.loading import TRUST_REMEDY, LoadedModel, lay_out, read_causal_lm
from modelyard_runtime.models.pipelines import make_pipeline, model_class
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
    """A model in memory with the engine that runs it: ``batching``, ``generate`` or ``pipeline``; what its weights became at load.

    ``takes`` are the settings that a pipeline honours, by the library's names; None of an engine that honours all.
    """

    model: LoadedModel
    engine: TransformersEngine | GenerateEngine | PipelineEngine
    name: str
    quantization: Quantization
    tried: tuple[Tried, ...] = ()
    takes: frozenset[str] | None = None

    def shown(self) -> dict[str, Any]:
        """Returns what the model's status says."""
        how = computed(self.model.model, self.model.dtype, self.model.device, self.quantization)
        more = {} if self.takes is None else {"takes": sorted(self.takes)}
        return {"name": self.name, "tried": [asdict(one) for one in self.tried], **more, **how}


def choose(folder: Path, settings: ServeSettings, capabilities: tuple[str, ...], report: Report) -> Chosen:
    """Loads a model with the first engine that runs it. Raises RuntimeFailed; UnsupportedModel says why none does."""
    order = _Order(folder, settings, capabilities, report, _quantization(folder, settings))
    own = declared(read_object(folder / "config.json"))
    try:
        outcome = _by_tokens(order)
    except (UnsupportedModel, WeightsNotFound) as refusal:
        # No class for decoders reads it, or not whole; the class that a pipeline names may.
        if own is None or (isinstance(refusal, WeightsNotFound) and not settings.trust_remote_code):
            raise
        outcome = (Tried("batching", _brief(refusal)), Tried("generate", "it loads models by the same class"))
    if isinstance(outcome, Chosen):
        return outcome
    if own is None:
        raise UnsupportedModel(f"no engine runs this model. {_chain(*outcome)}", _REMEDY)
    return _by_pipeline(order, own, outcome)


@dataclass(frozen=True, slots=True)
class _Order:
    """What is to be loaded, for what, and how."""

    folder: Path
    settings: ServeSettings
    capabilities: tuple[str, ...]
    report: Report
    quantization: Quantization

    def read(self, kind: Any = None) -> LoadedModel:
        """Reads the weights, from the beginning each time, by a class of the library's; only decoders are spread over several GPUs."""
        return read_causal_lm(
            self.folder,
            dtype=self.settings.dtype,
            device=self.settings.device,
            quantization=self.quantization,
            trusted=self.settings.trust_remote_code,
            rooms=_rooms(self.settings) if kind is None else {},
            kind=kind,
            progress=lambda fraction: self.report(Step(Phase.LOAD, fraction)),
        )

    def check(self) -> None:
        """Raises UnsupportedModel when the model is to do what only the batching engine does."""
        if "vision" in self.capabilities:
            raise UnsupportedModel("it reads text only; with --capability=chat it would be tried")
        if self.settings.adapter:
            raise UnsupportedModel("it has no adapters; without --adapter it would be tried")


def _by_tokens(order: _Order) -> Chosen | tuple[Tried, ...]:
    """Returns the model with an engine that chooses tokens, else why there is none. Raises RuntimeFailed when it cannot be read.

    What is laid out for one engine serves no other. So a model that is not of the usual build is tried by the batching engine before that,
    and read again only if it is of the usual build and refused all the same.
    """
    loaded = order.read()
    if order.settings.kv_cache == "slots" and is_spread(loaded.model):
        raise ArgumentsInvalid("--kv-cache=slots: slots are on one device, and this model is spread over several", "leave it out")
    bounds = engine_settings(order.settings, loaded.device.type)
    usual = fusable(loaded.model)
    try:
        return Chosen(loaded, _batching(loaded, order.quantization, bounds), "batching", order.quantization)
    except UnsupportedModel as refusal:
        first = Tried("batching", _brief(refusal))
    try:
        order.check()
        if usual:
            del loaded  # before its successor comes, for both may not fit
            loaded = order.read()
        lay_out(loaded, order.quantization, plain=True)
        engine = GenerateEngine(loaded, bounds)
    except UnsupportedModel as second:
        return first, Tried("generate", _brief(second))
    logger.warning("this model runs by plain generate, one request at a time; batching: %s", first.why)
    return Chosen(loaded, engine, "generate", order.quantization, (first,))


def _by_pipeline(order: _Order, own: Declared, tried: tuple[Tried, ...]) -> Chosen:
    """Returns the model with the pipeline that comes with it. Raises RuntimeFailed; UnsupportedModel has the whole chain."""
    settings, remedy = order.settings, _REMEDY
    try:
        if not settings.trust_remote_code:
            remedy = TRUST_REMEDY
            raise UnsupportedModel(f"config.json names {own.impl} for {own.task}: code that comes with the weights, which may not run")
        order.check()
        loaded = order.read(model_class(own))
        lay_out(loaded, order.quantization, plain=True)
        pipeline = make_pipeline(order.folder, own, loaded)
        _check_defaults(settings, pipeline.takes)
    except UnsupportedModel as third:
        raise UnsupportedModel(f"no engine runs this model. {_chain(*tried, Tried('pipeline', _brief(third)))}", remedy) from third
    logger.warning("this model runs by its own pipeline %s, one request at a time; %s", own.impl, _chain(*tried))
    engine = PipelineEngine(loaded, pipeline, engine_settings(settings, loaded.device.type))
    return Chosen(loaded, engine, "pipeline", order.quantization, tried, pipeline.takes)


def _chain(*tried: Tried) -> str:
    return "; ".join(f"{one.name}: {one.why}" for one in tried)


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


def _brief(refusal: RuntimeFailed) -> str:
    """Returns why, in a line that a status can show: the library's own messages may be pages."""
    return refusal.message if len(refusal.message) <= _LONGEST_WHY else refusal.message[:_LONGEST_WHY] + "…"


def _check_defaults(settings: ServeSettings, takes: frozenset[str]) -> None:
    """Raises UnsupportedModel when requests are to get what the pipeline does not take."""
    for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty"):
        if getattr(settings, name) is not None and name not in takes:
            raise UnsupportedModel(f"it takes no {name}; without --{name.replace('_', '-')} it would be served")
