"""The process: its models, and how it stands as probes and `/progress` see it."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from modelyard_runtime.errors import Crashed, RuntimeFailed
from modelyard_runtime.metrics import Exposition
from modelyard_runtime.progress import Phase, Step
from modelyard_runtime.serving.lifecycle import snapshot
from modelyard_runtime.serving.model import ServedModel
from modelyard_runtime.serving.pulls import Pulls
from modelyard_runtime.serving.registry import Registry
from modelyard_runtime.serving.specs import specs_of
from modelyard_runtime.settings import ServeSettings
from modelyard_runtime.tracing import open_tracing

logger = logging.getLogger(__name__)


class Runtime:
    """Used from the event loop. A process for one model lives and dies with it; one for several goes on without those that fail."""

    def __init__(self, settings: ServeSettings):
        self.settings = settings
        self.exposition = Exposition(plain=settings.vllm_metric_names)
        self.tracing = open_tracing(settings)
        specs = specs_of(settings)
        self.registry = Registry(settings, specs, self.exposition, self._model_failed)
        self.pulls = Pulls(settings, self.registry)
        self.ended = asyncio.Event()
        self.failure: RuntimeFailed | None = None
        self.draining = False
        self.up = False
        self._alone = len(specs) == 1

    async def run(self) -> None:
        """Starts and then keeps house for as long as the process lives. What goes wrong in it is noted: nothing fails unseen."""
        try:
            await self._start()
            await self.registry.keep_house()
        except RuntimeFailed as failure:
            self.die(failure)
        except Exception as error:
            logger.exception("the process failed")
            self.die(Crashed(f"{type(error).__name__}: {error}"))

    async def _start(self) -> None:
        """Loads what is to be loaded at start, one after the other, and opens the doors; `failure` says why that cannot be."""
        await self.pulls.resume()
        preloaded = [model for model in self.registry.models if model.spec.preload]
        for model in preloaded:
            await asyncio.wait({self.registry.load(model)})
        failures = [model.lifecycle.failure for model in preloaded if model.lifecycle.failure is not None]
        if failures and len(failures) == len(preloaded):
            self.die(failures[0])
        self.up = self.failure is None

    @property
    def ready(self) -> bool:
        """Whether new requests are welcome: started, not draining, alive."""
        return self.up and not self.draining and self.failure is None

    @property
    def phase(self) -> Phase:
        """The phase that the process is in."""
        return self._step().phase

    def die(self, failure: RuntimeFailed) -> None:
        """Notes why the process must end; `server.run` waits for it."""
        self.failure = failure
        self.ended.set()

    def drain(self) -> None:
        """Shows the process as draining; requests are still served until `close`."""
        self.draining = True
        if not self.up:
            self.registry.close()

    def close(self) -> None:
        """Refuses new requests."""
        self.registry.close()

    def progress(self) -> dict[str, Any]:
        """Returns what ``/progress`` shows: of the process, and of each model."""
        models = self.registry.models
        seconds: dict[str, float] = {}
        for model in models:
            for phase, spent in model.lifecycle.seconds.items():
                seconds[phase] = round(seconds.get(phase, 0.0) + spent, 3)
        capabilities = tuple(dict.fromkeys(name for model in models for name in model.lifecycle.capabilities))
        return {
            **snapshot(self._step(), seconds, capabilities),
            "models": {model.name: _model_progress(model) for model in models},
        }

    def _step(self) -> Step:
        """Returns the process's own phase, or while it starts the step of the model that is being loaded, or could not be."""
        if self.draining:
            return Step(Phase.DRAINING)
        if self.up:
            return Step(Phase.READY)
        models = self.registry.models
        loading = [model for model in models if model.loading is not None] or [model for model in models if model.lifecycle.failure]
        return loading[0].lifecycle.step if loading else Step(Phase.RESOLVE)

    def _model_failed(self, model: ServedModel, failure: RuntimeFailed) -> None:
        if self._alone and model.spec.origin != "pull":
            self.die(failure)


def _model_progress(model: ServedModel) -> dict[str, Any]:
    life = model.lifecycle
    return {**snapshot(life.step, life.seconds, model.capabilities), "state": life.state, "warmup": life.warmup, "engine": model.engine}
