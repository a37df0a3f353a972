"""What the endpoints reach: the settings, how things stand, and the service once it is loaded."""

from __future__ import annotations

import asyncio
import time

from modelyard_runtime.errors import Crashed, RuntimeFailed
from modelyard_runtime.metrics import Exposition, Load, Metrics
from modelyard_runtime.serving.families import Context, Service
from modelyard_runtime.serving.lifecycle import Lifecycle
from modelyard_runtime.serving.loading import Loaded
from modelyard_runtime.settings import ServeSettings


class Runtime:
    """One process. Used from the event loop; only the lifecycle is written by the loader's thread too."""

    def __init__(self, settings: ServeSettings):
        self.settings = settings
        self.lifecycle = Lifecycle()
        self.exposition = Exposition()
        self.metrics = Metrics(self.exposition, settings.served_name, self._load)
        self.created = int(time.time())
        self.capabilities: tuple[str, ...] = ()
        self.service: Service | None = None
        self.ended = asyncio.Event()

    def serve(self, loaded: Loaded) -> Service:
        """Makes the service of a loaded model. Raises RuntimeFailed."""
        self.capabilities = loaded.capabilities
        context = Context(self.settings, self.metrics, loaded.capabilities, self.engine_died)
        self.service = loaded.module.serve(loaded.model, context)
        return self.service

    def die(self, failure: RuntimeFailed) -> None:
        """Notes why the process must end; `server.run` waits for it."""
        self.lifecycle.die(failure)
        self.ended.set()

    def engine_died(self, cause: Exception) -> None:
        """The engine cannot go on; liveness fails and the process ends, so that a fresh one takes over."""
        self.die(Crashed(str(cause)))

    def close(self) -> None:
        """Refuses new requests."""
        if self.service is not None:
            self.service.limiter.close()

    async def drained(self) -> None:
        """Returns when no request waits or works."""
        if self.service is not None:
            await self.service.limiter.drained()

    async def stop(self) -> None:
        """Ends the threads of the service."""
        if self.service is not None:
            await self.service.stop()

    def _load(self) -> Load:
        return Load() if self.service is None else self.service.load()
