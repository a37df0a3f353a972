"""The yard: all models of a project, their processes and the gateway, kept as the manifests say.

`run` is level-triggered as the operator is: whatever changes (a file, a process, the demand, the clock) leads to the same step,
which looks at everything and moves each model towards its plan.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from modelyard.api.inference_model import InferenceModel
from modelyard.api.names import authority
from modelyard.controller.models import Models
from modelyard.controller.types import BuildSettings, Demand, Event, Key
from modelyard.gateway.directory import Directory
from modelyard.gateway.server import Gateway, serve
from modelyard.gateway.settings import GatewaySettings
from modelyard.local import ports
from modelyard.local.errors import PortTaken
from modelyard.local.model import LocalModel, Seen
from modelyard.local.pod import Host

#: How often the demand is looked at, and how long nothing at all may lead to a step, in seconds.
_DEMAND_TICK, _LONGEST_PAUSE = 0.1, 1.0


@dataclass(frozen=True, slots=True)
class News:
    """Something to tell: an event of a model, as Kubernetes would have it."""

    key: Key
    event: Event


class Yard:
    """Runs models. ``on_step`` is called after each step with what is seen of all models and the news."""

    def __init__(self, gateway: Gateway, directory: Directory, host: Host, on_step: Callable[[Sequence[Seen], Sequence[News]], None]):
        self.gateway = gateway
        self._directory, self._host, self._on_step = directory, host, on_step
        self._settings = BuildSettings(gateway_url=f"{self._at(gateway.port)}/v1")
        self._models: dict[Key, LocalModel] = {}
        self._leaving: dict[Key, LocalModel] = {}
        self._names = Models()
        self._dirty = asyncio.Event()
        self._stepping: asyncio.Task[None] | None = None
        self._ended = False

    @property
    def url(self) -> str:
        """The OpenAI base URL."""
        return self._settings.gateway_url

    @property
    def private_url(self) -> str:
        """Where the gateway's own metrics are."""
        return self._at(self.gateway.private_port)

    def _at(self, port: int) -> str:
        return f"http://{authority(ports.reached(self.gateway.settings.host), port)}"

    def apply(self, models: Mapping[Key, InferenceModel]) -> None:
        """Makes these the models that run: adds, changes and removes."""
        for key, model in models.items():
            if key in self._models:
                self._models[key].change(model)
            else:
                self._models[key] = LocalModel(model, self._host, self._settings, self._dirty.set)
            self._names.put(self._models[key].manifest())
        for key in self._models.keys() - models.keys():
            self._remove(key)
        self._dirty.set()

    def manifests(self) -> list[dict[str, object]]:
        """Returns every model as a resource, with its status."""
        return [model.manifest() for model in self._models.values()]

    def start(self) -> None:
        """Begins to step."""
        self._stepping = asyncio.create_task(self._run(), name="yard")

    async def ended(self) -> None:
        """Returns, or raises, when stepping has ended: an error of ours, since nothing outside can cause it."""
        assert self._stepping is not None
        await asyncio.shield(self._stepping)

    async def _run(self) -> None:
        heard: Mapping[str, object] = {}
        loop = asyncio.get_running_loop()
        latest = 0.0
        while True:
            demand = self.gateway.demand()
            if self._dirty.is_set() or demand != heard or loop.time() >= latest:
                self._dirty.clear()
                heard, latest = demand, loop.time() + _LONGEST_PAUSE
                self._step()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_DEMAND_TICK):
                    await self._dirty.wait()

    async def drain(self) -> None:
        """Lets running requests end, then all processes. Requests that wait for a replica are refused: none will come."""
        await self._rest()
        for model in self._models.values():
            model.workload.stop(loading_only=True)
            if not model.workload.endpoints:
                blocked = "Modelyard is stopping. Start it again with `modelyard up`."
                self._directory.set_model(replace(model.record(), blocked=blocked))
        await self.gateway.drain()
        for model in self._everything():
            model.workload.stop()
        await self._end()

    async def kill(self) -> None:
        """Ends everything now; nothing when it has ended already."""
        if self._ended:
            return
        await self._rest()
        for model in self._everything():
            model.workload.kill()
        await self.gateway.close()
        await self._end()

    def _step(self) -> None:
        news: list[News] = []
        seen: list[Seen] = []
        demand = self.gateway.demand()
        for key, model in self._models.items():
            asked = demand.get(str(key))
            wanted = Demand(asked.in_flight, asked.queued, asked.oldest_queued_seconds) if asked else Demand()
            view, events = model.converge(wanted, self._names.conflict(key))
            self._directory.set_model(model.record())
            self._directory.set_endpoints(str(key), model.workload.endpoints)
            seen.append(view)
            news += [News(key, event) for event in events]
        self._leaving = {key: model for key, model in self._leaving.items() if not model.workload.bury()}
        self._on_step(seen, news)

    def _remove(self, key: Key) -> None:
        model = self._models.pop(key)
        self._names.remove(key)
        self._directory.remove_model(str(key))
        model.workload.stop()
        self._leaving[key] = model

    def _everything(self) -> list[LocalModel]:
        return [*self._models.values(), *self._leaving.values()]

    async def _rest(self) -> None:
        """Stops stepping: a pod that ends now is not to be replaced."""
        if self._stepping is not None:
            self._stepping.cancel()
            await asyncio.gather(self._stepping, return_exceptions=True)

    async def _end(self) -> None:
        for model in self._everything():
            await model.workload.gone()
        self._ended = True


@contextlib.asynccontextmanager
async def yard(
    host: Host, address: str, port: int | None, *, drain: timedelta, on_step: Callable[[Sequence[Seen], Sequence[News]], None]
) -> AsyncIterator[Yard]:
    """Starts a gateway on the wanted port, or on a free one, and yields a yard; raises PortTaken. It leaves no process behind."""
    directory = Directory()
    gateway = await _gateway(address, port, drain, directory)
    made = Yard(gateway, directory, host, on_step)
    made.start()
    try:
        yield made
    finally:
        await made.kill()


async def _gateway(address: str, port: int | None, drain: timedelta, directory: Directory) -> Gateway:
    settings = GatewaySettings(
        host=address,
        port=ports.for_gateway(address, port, GatewaySettings.model_fields["port"].default),
        private_port=0,
        access_log=False,
        settle_time=timedelta(0),
        drain_timeout=drain,
    )
    try:
        return await serve(settings, directory)
    except OSError as problem:
        number = problem.errno or 0  # asyncio's own text names the address again; of a name that does not resolve it is negative
        why = os.strerror(number) if number > 0 else problem.strerror
        raise PortTaken(f"the gateway cannot listen on {address}: {why}", "Choose another --host or --port") from None
