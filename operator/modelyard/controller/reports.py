"""What runtimes report of themselves once they are ready: how long each phase of their start took, what they can do, and by what engine.

Asked once per ready pod, in the background. A runtime that does not answer has nothing to report; nobody waits for it.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable

import aiohttp

from modelyard.api.names import METRICS_PORT, authority
from modelyard.api.progress import Progress
from modelyard.controller.projections import PodRecord
from modelyard.controller.types import Key, PodPhase, RuntimeReport

log = logging.getLogger(__name__)

_TIMEOUT_SECONDS = 2.0
_AT_ONCE = 8
#: A pod's image may be anybody's, and what it says without end may not fill the operator's memory.
_MOST_BYTES = 1 << 18


class Reports:
    """The newest report of each model; ``on_report`` is called with its key when it arrives."""

    def __init__(self, on_report: Callable[[Key], None], port: int = METRICS_PORT):
        self._on_report, self._port = on_report, port
        self._reports: dict[Key, RuntimeReport] = {}
        self._asking: dict[Key, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._session: aiohttp.ClientSession | None = None

    def of(self, key: Key, pods: Iterable[PodRecord]) -> RuntimeReport | None:
        """Returns the report of the pod that became ready last; asks for it when it is not there yet."""
        ready = [pod for pod in pods if pod.view.phase is PodPhase.READY and pod.ip]
        known = self._reports.get(key)
        if not ready:
            return known
        newest = max(ready, key=lambda pod: (pod.view.ready_at or 0.0, pod.view.name))
        if (known is None or known.pod != newest.view.name) and key not in self._asking:
            self._asking[key] = asyncio.create_task(self._ask(key, newest), name=f"report of {key}")
        return known

    def forget(self, key: Key) -> None:
        """Drops a model's report."""
        self._reports.pop(key, None)
        if task := self._asking.pop(key, None):
            task.cancel()

    async def close(self) -> None:
        """Stops asking."""
        for key in tuple(self._asking):
            self.forget(key)
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _ask(self, key: Key, pod: PodRecord) -> None:
        async with self._slots:
            report = await self._fetch(pod)
        self._asking.pop(key, None)
        self._reports[key] = report
        self._on_report(key)

    async def _fetch(self, pod: PodRecord) -> RuntimeReport:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS))
        try:
            async with self._session.get(f"http://{authority(pod.ip, self._port)}/progress") as response:
                return RuntimeReport(pod.view.name, Progress.parse(await _bounded(response.content)))
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as problem:
            log.debug("pod %s does not report: %s", pod.view.name, problem or type(problem).__name__)
            return RuntimeReport(pod.view.name)


async def _bounded(content: aiohttp.StreamReader) -> bytes:
    body = b""
    while chunk := await content.read(_MOST_BYTES - len(body)):
        body += chunk
    return body
