"""The start of a process: load on a thread, warm up, open the doors."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from modelyard_runtime.errors import ArgumentsInvalid, Crashed, OutOfMemory, RuntimeFailed, UnsupportedModel, WarmupFailed
from modelyard_runtime.progress import Phase, Step, Stopped
from modelyard_runtime.serving.batching import Batcher
from modelyard_runtime.serving.limiter import Limiter
from modelyard_runtime.serving.loading import LoadedChat, load
from modelyard_runtime.serving.runtime import Runtime, Services
from modelyard_runtime.settings import ServeSettings

if TYPE_CHECKING:  # they import PyTorch, which the loader's thread does
    from modelyard_runtime.models.embedding import EmbeddingModel
    from modelyard_runtime.serving.embeddings import EmbeddingService
    from modelyard_runtime.serving.generation import GenerationService

logger = logging.getLogger(__name__)

_EMBEDDING_REQUESTS = 64
_THREAD = "loader"
T = TypeVar("T")


async def start(runtime: Runtime) -> None:
    """Makes the runtime ready, or notes why it cannot be."""
    try:
        loaded = await _on_thread(lambda: load(runtime.settings, runtime.lifecycle.report))
        runtime.lifecycle.report(Step(Phase.WARMUP))
        if loaded.chat is not None:
            services = Services(loaded.capabilities, generation=_generation(runtime, loaded.chat, "chat" in loaded.capabilities))
        elif loaded.embedding is not None:
            services = Services(loaded.capabilities, embeddings=_embeddings(runtime, loaded.embedding))
        runtime.services = services
        await _warm_up(services)
        runtime.lifecycle.capabilities = services.capabilities
        runtime.lifecycle.report(Step(Phase.READY))
        logger.info("ready", extra={"progress": runtime.lifecycle.snapshot()})
    except Stopped:
        return
    except RuntimeFailed as failure:
        runtime.die(failure)
    except MemoryError as error:
        runtime.die(OutOfMemory(f"the model does not fit the memory: {error}"))
    except Exception as error:
        logger.exception("the start failed")
        runtime.die(Crashed(f"the start failed: {type(error).__name__}: {error}"))


def start_goes_on() -> bool:
    """Whether the loader's thread still works, though nobody waits for it any more."""
    return any(thread.name == _THREAD for thread in threading.enumerate())


def _generation(runtime: Runtime, loaded: LoadedChat, chat: bool) -> GenerationService:
    from modelyard_runtime.serving.generation import Bounds, GenerationService  # noqa: PLC0415

    settings, model = runtime.settings, loaded.model
    if chat and not model.has_template:
        raise UnsupportedModel(
            "the model has no chat template", "serve it with --capability completions, or add chat_template.jinja to the weights"
        )
    model.engine.start()
    bounds = Bounds(model.engine.max_model_length, loaded.vocabulary, settings.max_prompt_tokens, settings.max_new_tokens)
    limiter = _limiter(settings, settings.max_concurrency or loaded.sequences)
    return GenerationService(model, limiter, bounds, runtime.metrics, runtime.engine_died)


def _embeddings(runtime: Runtime, model: EmbeddingModel) -> EmbeddingService:
    from modelyard_runtime.serving.embeddings import EmbeddingService  # noqa: PLC0415

    settings = runtime.settings
    if settings.max_model_length is not None and settings.max_model_length > model.max_length:
        raise ArgumentsInvalid(f"--max-model-length: this model takes {model.max_length} tokens at most, not {settings.max_model_length}")
    bounds = (model.max_length, settings.max_model_length, settings.max_prompt_tokens)
    return EmbeddingService(
        model,
        _limiter(settings, settings.max_concurrency or _EMBEDDING_REQUESTS),
        Batcher(model.embed, budget=settings.max_batch_tokens),
        max_length=min(bound for bound in bounds if bound is not None),
        metrics=runtime.metrics,
    )


def _limiter(settings: ServeSettings, concurrency: int) -> Limiter:
    return Limiter(concurrency=concurrency, max_queue=settings.max_queue, queue_timeout=settings.queue_timeout.total_seconds())


async def _warm_up(services: Services) -> None:
    try:
        for service in (services.generation, services.embeddings):
            if service is not None:
                await service.warm_up()
    except Exception as error:
        raise WarmupFailed(f"the first forward pass failed: {type(error).__name__}: {error}") from error


async def _on_thread(work: Callable[[], T]) -> T:
    """Runs ``work`` on a daemon thread, which a process that is told to end does not wait for."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()

    def tell(settle: Callable[[], None]) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(lambda: None if result.done() else settle())

    def run() -> None:
        try:
            value = work()
        except BaseException as error:  # noqa: BLE001 - handed over to the event loop
            failure = error
            tell(lambda: result.set_exception(failure))
        else:
            tell(lambda: result.set_result(value))

    threading.Thread(target=run, name=_THREAD, daemon=True).start()
    return await result
