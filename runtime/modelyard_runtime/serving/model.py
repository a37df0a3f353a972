"""A model of this process: what it is, whether it is in memory, and who uses it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from modelyard.api.errors import ModelNotFound

from modelyard_runtime.errors import RuntimeFailed
from modelyard_runtime.loads import Load
from modelyard_runtime.metrics import Exposition, Metrics
from modelyard_runtime.progress import Phase
from modelyard_runtime.serving.facts import Facts
from modelyard_runtime.serving.families import Service
from modelyard_runtime.serving.lifecycle import Lifecycle
from modelyard_runtime.serving.specs import ModelSpec


class ServedModel:
    """Used from the event loop; only the lifecycle is written by the loader's thread too.

    ``facts`` are what its files said and ``memory`` the bytes measured when it was last loaded, ``last_used`` and ``retry_at`` monotonic
    seconds; ``keep_alive`` are the seconds without a request after which it is unloaded, None for ever.
    """

    def __init__(self, spec: ModelSpec, exposition: Exposition):
        self.spec = spec
        self.created = int(time.time())
        self.lifecycle = Lifecycle(Phase.UNLOADED)
        self.metrics = Metrics(exposition, spec.name, self._load)
        self.service: Service | None = None
        self.loading: asyncio.Task[None] | None = None
        self.facts = Facts()
        self.memory = 0
        self.retry_at = 0.0
        self.last_used = time.monotonic()
        self.users = 0
        self.idle = asyncio.Event()
        self.idle.set()
        idle = spec.settings.idle_unload
        self.keep_alive = idle.total_seconds() if idle else None

    @property
    def name(self) -> str:
        """The name that clients use."""
        return self.spec.name

    @property
    def loaded(self) -> bool:
        """Whether requests can be served."""
        return self.service is not None and self.lifecycle.ready

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What it may be asked for; before it has been loaded, what its settings say."""
        return self.lifecycle.capabilities or self.spec.settings.capability

    @property
    def adapters(self) -> tuple[str, ...]:
        """The adapters that requests may ask for as ``name:adapter``; before it has been loaded, those that its settings name."""
        if self.service is None:
            return tuple(given.partition("=")[0] for given in self.spec.settings.adapter)
        return tuple(getattr(self.service, "adapters", ()))

    def check_adapter(self, adapter: str) -> None:
        """Raises ModelNotFound, naming those that exist, where it has no such adapter."""
        adapters = self.adapters
        if adapter not in adapters:
            known = f"It has {', '.join(adapters)}." if adapters else "It has none."
            raise ModelNotFound(f"The model '{self.name}' has no adapter '{adapter[:64]}'. {known}", param="model")

    @property
    def evictable(self) -> bool:
        """Whether it may go now to make room for another."""
        return self.service is not None and self.loading is None and not self.users and not self.spec.pinned

    @contextmanager
    def held(self) -> Iterator[ServedModel]:
        """Keeps the model in memory, or the place in its queue, while a request uses it."""
        self.users += 1
        self.idle.clear()
        try:
            yield self
        finally:
            self.users -= 1
            self.last_used = time.monotonic()
            if not self.users:
                self.idle.set()

    def open(self, service: Service, memory: int) -> None:
        """It is loaded and warm."""
        self.service = service
        self.memory = max(memory, self.memory)  # memory that another model left is taken again unseen
        self.retry_at = 0.0
        self.last_used = time.monotonic()

    def fail(self, failure: RuntimeFailed, cooldown: float) -> None:
        """It could not be loaded, or died; it is not tried again for ``cooldown`` seconds."""
        self.lifecycle.die(failure)
        self.retry_at = time.monotonic() + cooldown

    def take(self) -> Service | None:
        """Returns the service for whoever ends it, and shows the model as unloaded."""
        service, self.service = self.service, None
        capabilities = self.capabilities
        self.lifecycle = Lifecycle(Phase.UNLOADED)
        self.lifecycle.capabilities = capabilities
        return service

    @property
    def engine(self) -> dict[str, Any] | None:
        """What computes it, None while it is not loaded."""
        return None if self.service is None else self.service.describe().get("engine")

    def describe(self) -> dict[str, Any]:
        """Returns what ``/v1/models`` shows."""
        more = {"capabilities": self.capabilities} if self.capabilities else {}
        if self.service is not None:
            more |= self.service.describe()
        more |= self.facts.shown()
        if self.spec.aliases:
            more |= {"aliases": self.spec.aliases}
        state = {"status": self.lifecycle.state, "warmup": self.lifecycle.warmup}
        return {"id": self.name, "object": "model", "created": self.created, "owned_by": "modelyard", **more, **state}

    def _load(self) -> Load:
        return Load() if self.service is None else self.service.load()
