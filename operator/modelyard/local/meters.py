"""Requests and tokens per second, for the live table: read from the same metrics that a cluster's Prometheus reads."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import aiohttp

from modelyard.controller.types import Key
from modelyard.local import reports
from modelyard.local.model import Seen

_INTERVAL = 1.0


@dataclass(frozen=True, slots=True)
class Rate:
    """``requests`` is a total since the start, ``tokens_per_second`` the generated tokens of the last interval."""

    requests: int = 0
    tokens_per_second: float = 0.0


class Meters:
    """Reads the metrics each second while `run` runs."""

    def __init__(self, session: aiohttp.ClientSession, private_url: str, seen: Callable[[], Sequence[Seen]]):
        self._session, self._private_url, self._seen = session, private_url, seen
        self._tokens: dict[str, float] = {}
        self._rates: dict[Key, Rate] = {}

    def rate(self, key: Key) -> Rate:
        """Returns a model's latest figures."""
        return self._rates.get(key, Rate())

    async def run(self) -> None:
        """Reads until cancelled."""
        before = time.monotonic()
        while True:
            await asyncio.sleep(_INTERVAL)
            now = time.monotonic()
            metrics = await reports.text(self._session, f"{self._private_url}/metrics")
            for one in self._seen():
                requests = int(reports.total(metrics, "modelyard_gateway_requests_total", f'model="{one.key}"'))
                self._rates[one.key] = Rate(requests, await self._generated(one) / (now - before))
            before = now

    async def _generated(self, one: Seen) -> float:
        """Returns the tokens that the model's processes have generated since the last look."""
        fresh = 0.0
        for pod, _ in one.pods:
            if pod.ready:
                total = await reports.generated_tokens(self._session, pod.metrics_url)
                fresh += max(0.0, total - self._tokens.get(pod.metrics_url, total))
                self._tokens[pod.metrics_url] = total
        return fresh
