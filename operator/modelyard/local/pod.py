"""One pod: what the kubelet does for it. Starts its process, probes it, restarts it with growing pauses, and ends it gently.

To the planner it shows itself as Kubernetes would, as a Pod's manifest, so that causes are found by the same code; `words` says
them without pods and nodes.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp

from modelyard.api.names import authority
from modelyard.api.progress import Progress
from modelyard.api.reasons import Termination
from modelyard.controller import causes
from modelyard.controller.types import Key, Manifest, PodView, RuntimeReport
from modelyard.gateway.types import Endpoint
from modelyard.local import container, ports, reports, words
from modelyard.local.container import Mounts, Place
from modelyard.local.devices import Devices
from modelyard.local.oom import OomWatch
from modelyard.local.probes import Probe
from modelyard.local.process import LogFile, Process

_FIRST_PAUSE, _LONGEST_PAUSE, _PAUSE_FORGOTTEN_AFTER = 1.0, 60.0, 600.0
#: How often a process that starts is asked how far it has come, and the longest time between looks at one that is ready.
_LOADING_TICK, _READY_TICK = 0.25, 1.0


@dataclass(frozen=True, slots=True)
class Host:
    """What the pods of one machine share."""

    session: aiohttp.ClientSession
    devices: Devices
    mounts: Mounts
    inherited: dict[str, str]
    cache_dir: Path
    logs: Path
    address: str = "127.0.0.1"


class Pod:
    """A pod. `start` places it, `stop` ends it; ``gone`` is set when nothing is left of it. ``on_change`` is called with each news."""

    def __init__(self, name: str, spec: Manifest, host: Host, *, owner: Key, revision: str, on_change: Callable[[], None]):
        self.name, self.revision, self.spec = name, revision, spec
        self.progress = Progress()
        self.endpoint: Endpoint | None = None
        self.metrics_url = ""
        self.stopping = False
        self.gone = asyncio.Event()
        self.created_at = time.time()
        self._host, self._owner, self._on_change = host, owner, on_change
        self._folder = host.logs / owner.namespace / owner.name
        self._termination_log = self._folder / f"{name}.termination"
        self._devices: tuple[str, ...] = ()
        self._obstacle = container.obstacle(name, spec, host.mounts)
        self._shortage: str | None = None
        self._placed_at: float | None = None
        self._ready_at: float | None = None
        self._restarts = 0
        self._last_end: dict[str, Any] | None = None
        self._process: Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()

    @property
    def ready(self) -> bool:
        """Whether requests may be sent to it."""
        return self._ready_at is not None and not self.stopping

    @property
    def pid(self) -> int | None:
        """The process that runs now."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Starts it if all it needs is there; to be called again when devices become free."""
        if self._task is not None or self.stopping or self._obstacle is not None:
            return
        wanted = container.devices_wanted(self.spec)
        self._shortage = self._host.devices.shortage(wanted)
        if self._shortage is None:
            self._devices = self._host.devices.take(wanted)
            self._placed_at = time.time()
            self._task = asyncio.create_task(self._live(), name=f"pod {self.name}")

    def stop(self) -> None:
        """Lets it finish its requests, within its grace period, and end."""
        self.stopping = True
        self._stop.set()
        if self._task is None:
            self.gone.set()
            self._on_change()

    def kill(self) -> None:
        """Ends it now."""
        self.stop()
        if self._process is not None:
            self._process.kill()

    def view(self) -> PodView:
        """Returns what the planner needs to know."""
        seen = causes.view(self.manifest())
        problem = None if self.stopping else self._obstacle or seen.problem
        return replace(seen, problem=problem and words.here(problem, self.name, self._owner.name))

    def report(self) -> RuntimeReport | None:
        """Returns what the runtime said of its start, once it is ready."""
        return RuntimeReport(self.name, self.progress) if self.ready else None

    def manifest(self) -> Manifest:
        """Returns the Pod as an API server would show it."""
        placed = self._condition("PodScheduled", self._placed_at)
        if self._shortage:
            placed |= {"reason": "Unschedulable", "message": self._shortage}
        state: Manifest = {"name": "runtime", "restartCount": self._restarts}
        if self._process is not None:
            state["state"] = {"running": {"startedAt": _rfc3339(self._process.started_at)}}
        if self._last_end is not None:
            state["lastState"] = {"terminated": self._last_end}
        metadata = {"name": self.name, "creationTimestamp": _rfc3339(self.created_at)}
        if self.stopping:
            metadata["deletionTimestamp"] = _rfc3339(time.time())
        conditions = [placed, self._condition("Ready", self._ready_at)]
        return {"metadata": metadata, "spec": self.spec, "status": {"conditions": conditions, "containerStatuses": [state]}}

    @staticmethod
    def _condition(name: str, since: float | None) -> Manifest:
        return {"type": name, "status": "True", "lastTransitionTime": _rfc3339(since)} if since else {"type": name, "status": "False"}

    async def _live(self) -> None:
        log = LogFile(self._folder / f"{self.name}.log")
        pause = _FIRST_PAUSE
        try:
            while not self.stopping:
                began = time.monotonic()
                await self._run(log)
                if time.monotonic() - began > _PAUSE_FORGOTTEN_AFTER:
                    pause = _FIRST_PAUSE
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._stop.wait()
                pause = min(pause * 2, _LONGEST_PAUSE)
                self._restarts += not self.stopping
        finally:
            log.close()
            self._host.devices.give_back(self._devices)
            self.gone.set()
            self._on_change()

    async def _run(self, log: LogFile) -> None:
        """Runs the container once, from its start to its end."""
        self.progress = Progress()
        self._termination_log.unlink(missing_ok=True)
        oom = OomWatch()
        place = self._place()
        try:
            self._process = await Process.start(
                container.command(self.spec, self._host.mounts),
                container.environment(self.spec, self._host.mounts, place, self._host.inherited),
                log,
            )
        except OSError as problem:
            self._last_end = {"exitCode": 128, "reason": "StartError", "message": f"cannot start: {problem.strerror}"}
            self._on_change()
            return
        self.metrics_url = f"http://{authority(place.host, place.metrics_port)}"
        self._on_change()
        code = await self._attend(self._process, Endpoint(place.host, place.port))
        self._ready_at = self.endpoint = self._process = None
        if code or not self.stopping:
            self._last_end = self._end(code, oom.struck(code), log)
        self._on_change()

    def _place(self) -> Place:
        port, metrics_port = ports.free(self._host.address, 2)
        return Place(self._host.address, port, metrics_port, self._host.cache_dir, self._termination_log, self._devices)

    def _end(self, code: int, oom: bool, log: LogFile) -> dict[str, Any]:
        message = self._termination_log.read_text() if self._termination_log.exists() else "\n".join(log.tail)
        own = Termination.parse(message)
        reason = "OOMKilled" if oom and own is None else "Error" if code else "Completed"
        return {"exitCode": code, "reason": reason, "message": message}

    async def _attend(self, process: Process, endpoint: Endpoint) -> int:
        """Probes a process until it ends, ends it when it is to stop or not alive, and returns its exit code."""
        ended = asyncio.create_task(process.wait())
        probing = asyncio.create_task(self._probe(endpoint))
        stop = asyncio.create_task(self._stop.wait())
        await asyncio.wait({ended, probing, stop}, return_when=asyncio.FIRST_COMPLETED)
        for task in (probing, stop):
            task.cancel()
        await asyncio.gather(probing, stop, return_exceptions=True)
        if not ended.done():
            process.terminate()
            await asyncio.wait({ended}, timeout=float(self.spec.get("terminationGracePeriodSeconds", 30)))
        if not ended.done():
            process.kill()
        return await ended

    async def _probe(self, endpoint: Endpoint) -> None:
        """Asks the probes in turn; returns when the process has to be restarted."""
        planned = container.container(self.spec)
        startup, alive, ready = (Probe(planned[f"{kind}Probe"]) for kind in ("startup", "liveness", "readiness"))
        loop = asyncio.get_running_loop()
        while not (startup.failed or alive.failed):
            if not ready.succeeded and await self._follow_progress():
                startup.hasten()
                ready.hasten()
            for probe in (alive, ready) if startup.succeeded else (startup,):
                if probe.due(loop.time()):
                    probe.note(loop.time(), await reports.answers(self._host.session, endpoint, probe.path, probe.timeout))
            if ready.succeeded and self.endpoint is None:  # what was read while it still started is not the whole of it
                await self._follow_progress()
            self._set_ready(endpoint if ready.succeeded else None)
            soonest = min(alive.wait(loop.time()), ready.wait(loop.time()))
            await asyncio.sleep(min(max(soonest, 0.05), _READY_TICK) if ready.succeeded else _LOADING_TICK)

    def _set_ready(self, endpoint: Endpoint | None) -> None:
        if endpoint != self.endpoint:
            self.endpoint = endpoint
            self._ready_at = time.time() if endpoint else None
            self._on_change()

    async def _follow_progress(self) -> bool:
        """Reads how far the start has come, and returns whether a phase has ended."""
        before = self.progress
        self.progress = await reports.progress(self._host.session, self.metrics_url) or before
        return self.progress.phase != before.phase


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()
