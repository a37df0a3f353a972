"""The models of a process: found by name, loaded when they are asked for, unloaded when others need their memory.

One load goes on at a time, so that what it takes can be measured; downloads go on beside it. Requests for a model that is being loaded
wait for that one load. A model in use is never unloaded.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence

from modelyard.api.errors import ModelNotFound, Unavailable

from modelyard_runtime.errors import Crashed, OutOfMemory, RuntimeFailed
from modelyard_runtime.metrics import Exposition
from modelyard_runtime.serving import memory
from modelyard_runtime.serving.limiter import closing
from modelyard_runtime.serving.model import ServedModel
from modelyard_runtime.serving.specs import ModelSpec
from modelyard_runtime.serving.start import load_into
from modelyard_runtime.setting_types import shown
from modelyard_runtime.settings import ServeSettings

logger = logging.getLogger(__name__)

_SHOWN_NAMES = 20
_HOUSE_SECONDS = 1.0
_BUSY_SECONDS = 1.0
_REMEDY = "raise --memory-budget (a share of the memory there is), unpin models, or serve fewer"


class ModelsBusy(OutOfMemory):
    """There is no room while other models are in use; a moment later there may be."""


class Registry:
    """Used from one event loop. ``on_failure`` is told when a model cannot be loaded, or died."""

    def __init__(
        self,
        settings: ServeSettings,
        specs: Iterable[ModelSpec],
        exposition: Exposition,
        on_failure: Callable[[ServedModel, RuntimeFailed], None],
    ):
        self._settings = settings
        self._exposition = exposition
        self._on_failure = on_failure
        self._by_name: dict[str, ServedModel] = {}
        self._turn = asyncio.Lock()
        self._closed = False
        for spec in specs:
            self.add(spec)

    @property
    def models(self) -> list[ServedModel]:
        """All models, in the order in which they were named."""
        return list(dict.fromkeys(self._by_name.values()))

    @property
    def used(self) -> int:
        """Bytes that the loaded models take, as measured."""
        return sum(model.memory for model in self.models if model.service is not None)

    @property
    def budget(self) -> int:
        """Bytes that all models may take."""
        return memory.size_of(self._settings.memory_budget)

    def add(self, spec: ModelSpec) -> ServedModel:
        """Adds a model that may be asked for from now on. Raises ValueError when one of its names is taken."""
        for name in spec.names:
            if name in self._by_name:
                raise ValueError(f"the name {name!r} is taken")
        model = ServedModel(spec, self._exposition)
        self._by_name |= dict.fromkeys(spec.names, model)
        return model

    def remove(self, model: ServedModel) -> None:
        """Takes out a model that nobody uses; it may not be asked for any more. Raises ModelNotFound where that has been done."""
        if self.find(model.name) is not model:
            raise ModelNotFound(_unknown(model.name, self.models), param="model")
        for name in model.spec.names:
            self._by_name.pop(name, None)
        self._exposition.forget(model.name)

    def find(self, *names: str | None) -> ServedModel | None:
        """Returns the model of the first name that there is, or None."""
        return next((self._by_name[name] for name in names if name is not None and name in self._by_name), None)

    def named(self, name: str) -> ServedModel:
        """Returns the model of a name. Raises ModelNotFound, naming those that exist."""
        found = self.find(name)
        if found is None:
            raise ModelNotFound(_unknown(name, self.models), param="model")
        return found

    def resolve(self, *names: str | None) -> ServedModel:
        """Returns the model of the first name that there is, or whose adapter a name has behind a colon. Raises ModelNotFound."""
        given = [name for name in names if name is not None]
        found = self.find(*given)
        if found is not None:
            return found
        for base, _, adapter in (name.rpartition(":") for name in given):
            if base in self._by_name:
                self._by_name[base].check_adapter(adapter)
                return self._by_name[base]
        return self.named(given[0])

    async def ready(self, model: ServedModel) -> None:
        """Returns when a model is loaded, after loading it if need be; the caller holds it.

        Raises Unavailable when that takes longer than a request may wait, when it failed, or failed a moment ago, or at the server's end.
        """
        if model.loaded:
            return
        if self._closed:
            raise closing()
        if model.loading is None:
            _check_cooldown(model)
        wait = model.spec.settings.queue_timeout.total_seconds()
        await asyncio.wait({self.load(model)}, timeout=wait)
        if model.loaded:
            return
        if self._closed:
            raise closing()
        _check_cooldown(model)
        raise Unavailable(
            f"The model '{model.name}' is not loaded yet (phase: {model.lifecycle.state}). Send the request again.",
            code="model_loading",
            retry_after=5,
        )

    def load(self, model: ServedModel) -> asyncio.Task[None]:
        """Returns the task that loads a model, begun now unless one goes on already. It never raises; the model says how it ended."""
        if model.loading is None:
            model.loading = asyncio.create_task(self._load(model))
        return model.loading

    async def unload(self, model: ServedModel, why: str) -> None:
        """Ends a model's service and gives its memory back; nobody may use it. A load that goes on is stopped first."""
        if model.loading is not None:
            model.lifecycle.stop()
            await asyncio.wait({model.loading})
        service = model.take()
        if service is None:
            return
        logger.info("unloaded", extra={"model": model.name, "why": why, "memory": model.memory})
        await service.stop()
        del service
        await asyncio.to_thread(memory.give_back)

    def died(self, model: ServedModel, cause: Exception) -> None:
        """A model's engine cannot go on: it is loaded anew at the next request after the cool-down, where the process does not end."""
        failure = Crashed(str(cause))
        model.fail(failure, self._settings.failure_cooldown.total_seconds())
        self._on_failure(model, failure)

    def close(self) -> None:
        """Refuses new requests and stops loads."""
        self._closed = True
        for model in self.models:
            model.lifecycle.stop()
            if model.service is not None:
                model.service.limiter.close()

    async def drained(self) -> None:
        """Returns when no request waits or works."""
        for model in self.models:
            await model.idle.wait()
            if model.service is not None:
                await model.service.limiter.drained()

    async def stop(self) -> None:
        """Ends all services and loads."""
        for model in self.models:
            model.lifecycle.stop()
            if model.loading is not None:
                model.loading.cancel()
            if model.service is not None:
                await model.service.stop()

    async def keep_house(self) -> None:
        """Unloads, for ever, what nobody has asked for longer than it is kept, what died, and what is over the budget."""
        while True:
            await asyncio.sleep(min([_HOUSE_SECONDS, *(model.keep_alive or _HOUSE_SECONDS for model in self.models)]))
            now = time.monotonic()
            for model in self.models:
                if model.evictable and model.keep_alive is not None and now - model.last_used >= model.keep_alive:
                    await self.unload(model, f"idle for {model.keep_alive:g} s")
                elif model.lifecycle.failure and model.service is not None and not model.users:
                    await _end(model)
            await self._trim()

    async def _load(self, model: ServedModel) -> None:
        try:
            await _end(model)
            await load_into(model, self._turn, self._make_room, lambda cause: self.died(model, cause))
            await self._trim(keep=model)
        except RuntimeFailed as failure:
            logger.warning("the load failed", extra={"model": model.name, "reason": failure.reason, "cause": failure.message})
            cooldown = self._settings.failure_cooldown.total_seconds()
            model.fail(failure, min(cooldown, _BUSY_SECONDS) if isinstance(failure, ModelsBusy) else cooldown)
            self._on_failure(model, failure)
        finally:
            model.loading = None

    async def _make_room(self, model: ServedModel, needed: int) -> None:
        """Unloads what was used longest ago until ``needed`` bytes more fit; waits for models in use as long as a request may wait.

        Raises OutOfMemory when they cannot be had.
        """
        try:
            async with asyncio.timeout(model.spec.settings.queue_timeout.total_seconds()):
                while self.used + needed > self.budget:
                    if not await self._unload_oldest(model):
                        await self._one_idle(model, needed)
        except TimeoutError:
            raise ModelsBusy(f"{model.name} needs {shown(needed)}, and the models in use leave less", _REMEDY) from None

    async def _trim(self, keep: ServedModel | None = None) -> None:
        """Unloads what was used longest ago while more is held than may be, as far as nobody uses it."""
        while self.used > self.budget and len([model for model in self.models if model.service is not None]) > 1:
            if not await self._unload_oldest(keep):
                break

    async def _unload_oldest(self, keep: ServedModel | None) -> bool:
        """Unloads the model that was used longest ago; returns False when all are in use or pinned."""
        free = [model for model in self.models if model is not keep and model.evictable]
        if free:
            await self.unload(min(free, key=lambda model: model.last_used), f"room for {keep.name}" if keep else "over the memory budget")
        return bool(free)

    async def _one_idle(self, model: ServedModel, needed: int) -> None:
        """Waits until one of the models in use is no longer. Raises OutOfMemory when none is that could make room."""
        others = [other for other in self.models if other is not model and other.service is not None and not other.spec.pinned]
        busy = [other for other in others if other.users]
        if not busy:
            raise OutOfMemory(f"{model.name} needs {shown(needed)} at least, and models may take {shown(self.budget)}", _REMEDY)
        waiting = [asyncio.create_task(other.idle.wait()) for other in busy]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()


async def _end(model: ServedModel) -> None:
    """Ends the service of a model that died; why it did stays."""
    service, model.service = model.service, None
    if service is not None:
        await service.stop()


def _check_cooldown(model: ServedModel) -> None:
    left = model.retry_at - time.monotonic()
    failure = model.lifecycle.failure
    if failure is not None and left > 0:
        raise Unavailable(
            f"The model '{model.name}' cannot be loaded ({failure.reason}); the server's log and its /admin/models say why. "
            f"It is tried again in {math.ceil(left)} s.",
            code="model_failed",
            retry_after=math.ceil(left),
        )


def _unknown(asked: str, models: Sequence[ServedModel]) -> str:
    """Returns the message for a model that is not here."""
    names = ", ".join(f"'{model.name}'" for model in models[:_SHOWN_NAMES])
    more = f" and {len(models) - _SHOWN_NAMES} more" if len(models) > _SHOWN_NAMES else ""
    return f"The model '{asked[:200]}' does not exist here. This server has {names}{more}."
