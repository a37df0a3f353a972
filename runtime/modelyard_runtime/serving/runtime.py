"""What the endpoints reach: the settings, how things stand, and the services once they are loaded."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelyard_runtime.errors import Crashed, RuntimeFailed
from modelyard_runtime.metrics import Load, Metrics
from modelyard_runtime.serving.lifecycle import Lifecycle
from modelyard_runtime.serving.limiter import Limiter
from modelyard_runtime.settings import ServeSettings

if TYPE_CHECKING:  # they import PyTorch, which is not needed to listen
    from modelyard_runtime.serving.embeddings import EmbeddingService
    from modelyard_runtime.serving.generation import GenerationService


@dataclass(frozen=True, slots=True)
class Services:
    """What a model can do. Generation serves chat (with a template) and completions."""

    capabilities: tuple[str, ...]
    generation: GenerationService | None = None
    embeddings: EmbeddingService | None = None

    @property
    def context(self) -> int:
        """Longest prompt plus answer, or longest text to embed, in tokens."""
        if self.generation is not None:
            return self.generation.bounds.context
        return self.embeddings.max_length if self.embeddings is not None else 0


class Runtime:
    """One process. Used from the event loop; only the lifecycle is written by the loader's thread too."""

    def __init__(self, settings: ServeSettings):
        self.settings = settings
        self.lifecycle = Lifecycle()
        self.metrics = Metrics(settings.served_name, self._load)
        self.created = int(time.time())
        self.services: Services | None = None
        self.ended = asyncio.Event()

    def die(self, failure: RuntimeFailed) -> None:
        """Notes why the process must end; `server.run` waits for it."""
        self.lifecycle.die(failure)
        self.ended.set()

    def engine_died(self, cause: Exception) -> None:
        """The engine cannot go on; liveness fails and the process ends, so that a fresh one takes over."""
        self.die(Crashed(str(cause)))

    def close(self) -> None:
        """Refuses new requests."""
        for limiter in self._limiters():
            limiter.close()

    async def drained(self) -> None:
        """Returns when no request waits or works."""
        for limiter in self._limiters():
            await limiter.drained()

    async def stop(self) -> None:
        """Ends the threads of the services."""
        if self.services and self.services.generation:
            await self.services.generation.model.engine.stop()
        if self.services and self.services.embeddings:
            await self.services.embeddings.batcher.stop()

    def _limiters(self) -> list[Limiter]:
        services = self.services
        return [] if services is None else [service.limiter for service in (services.generation, services.embeddings) if service]

    def _load(self) -> Load:
        limiters = self._limiters()
        waiting = sum(limiter.waiting for limiter in limiters)
        if self.services is None or self.services.generation is None:
            return Load(sum(limiter.working for limiter in limiters), waiting)
        stats = self.services.generation.model.engine.stats()
        return Load(stats.running, stats.waiting + waiting, stats.kv_cache_usage)
