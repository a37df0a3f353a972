"""From a request to the service that answers it, or to the reason why none does."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from fastapi import Request
from modelyard.api.errors import InvalidRequest, Unavailable
from modelyard.api.names import MODEL_HEADER

from modelyard_runtime.leases import leases
from modelyard_runtime.observation import observed
from modelyard_runtime.serving.families import Service
from modelyard_runtime.serving.model import ServedModel
from modelyard_runtime.serving.runtime import Runtime

if TYPE_CHECKING:
    from modelyard_runtime.serving.embeddings import EmbeddingService
    from modelyard_runtime.serving.generation import GenerationService
    from modelyard_runtime.serving.hearing import TranscriptionService
    from modelyard_runtime.serving.ranking import RankingService

#: The endpoint that each capability is best known by.
PATHS = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "vision": "/v1/chat/completions",
    "embeddings": "/v1/embeddings",
    "rerank": "/v1/rerank",
    "classify": "/v1/classify",
    "transcription": "/v1/audio/transcriptions",
}


def runtime_of(request: Request) -> Runtime:
    """Returns the process's runtime."""
    runtime: Runtime = request.app.state.runtime
    return runtime


async def generation(request: Request, model: str, capability: str) -> GenerationService:
    """Returns the generation service for a chat or completions request. Raises ModelNotFound, InvalidRequest or Unavailable."""
    return cast("GenerationService", await service(request, model, capability)).asked(capability)


async def embedding(request: Request, model: str) -> EmbeddingService:
    """Returns the embedding service. Raises ModelNotFound, InvalidRequest or Unavailable."""
    return cast("EmbeddingService", await service(request, model, "embeddings"))


async def reranking(request: Request, model: str) -> EmbeddingService | RankingService:
    """Returns the service that scores pairs of texts. Raises ModelNotFound, InvalidRequest or Unavailable."""
    return cast("EmbeddingService | RankingService", await service(request, model, "rerank"))


async def classification(request: Request, model: str) -> RankingService:
    """Returns the service that classifies texts. Raises ModelNotFound, InvalidRequest or Unavailable."""
    return cast("RankingService", await service(request, model, "classify"))


async def transcription(request: Request, model: str) -> TranscriptionService:
    """Returns the speech-to-text service. Raises ModelNotFound, InvalidRequest or Unavailable."""
    return cast("TranscriptionService", await service(request, model, "transcription"))


async def service(request: Request, model: str, capability: str | None) -> Service:
    """Returns the service of a model that has a capability, loading the model if need be; it stays until the answer has ended.

    Without a capability any model will do.

    Raises ModelNotFound, InvalidRequest or Unavailable.
    """
    runtime = runtime_of(request)
    # The gateway has resolved aliases and namespaces already, and says so in a header.
    served = runtime.registry.resolve(model, request.headers.get(MODEL_HEADER))
    observation = observed()
    observation.model, observation.capability = served.name, capability or ""
    _check_capability(served, capability)
    if not served.loaded and not runtime.up:
        raise _not_loaded(runtime, served)
    leases().enter_context(served.held())
    await runtime.registry.ready(served)
    _check_capability(served, capability)
    assert served.service is not None
    return _adapted(served.service, served, model, routed=MODEL_HEADER in request.headers)


def _adapted(service: Service, served: ServedModel, asked: str, *, routed: bool) -> Service:
    """Returns the service with the adapter in force that ``model:adapter`` names. Raises ModelNotFound where there is none.

    What the gateway has routed may be an alias that has a colon in it.
    """
    _, colon, adapter = asked.rpartition(":")
    if not colon or asked in served.spec.names:
        return service
    if adapter in served.adapters:
        return cast("Service", cast("GenerationService", service).adapted(adapter))
    if not routed:
        served.check_adapter(adapter)
    return service


def _check_capability(served: ServedModel, capability: str | None) -> None:
    """Raises InvalidRequest when a model lacks a capability, as far as its capabilities are known yet."""
    if capability is not None and served.capabilities and capability not in served.capabilities:
        paths = ", ".join(PATHS[name] for name in served.capabilities)
        raise InvalidRequest(
            f"The model '{served.name}' is not made for {capability}. It answers {paths}.", param="model", code="unsupported_capability"
        )


def _not_loaded(runtime: Runtime, served: ServedModel) -> Unavailable:
    if runtime.failure is not None:
        return Unavailable("This server failed and restarts. Send the request again.", code="engine_failed", retry_after=5)
    phase = served.lifecycle.state
    return Unavailable(f"The model is not loaded yet (phase: {phase}). Send the request again.", code="model_loading", retry_after=5)
