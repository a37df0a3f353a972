"""What a runtime says of itself: probes, the progress of its start, its counters."""

import json
from dataclasses import dataclass

import aiohttp

from modelyard.api.status import EngineStatus, engine_of
from modelyard.gateway.types import Endpoint

_TIMEOUT = aiohttp.ClientTimeout(total=2.0)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a start has come. ``fraction`` is a share of 1, None when unknown; ``seconds`` has the phases that have ended."""

    phase: str = "start"
    fraction: float | None = None
    bytes_done: int = 0
    bytes_total: int = 0
    seconds: tuple[tuple[str, float], ...] = ()
    capabilities: tuple[str, ...] = ()
    engine: EngineStatus | None = None


async def answers(session: aiohttp.ClientSession, endpoint: Endpoint, path: str, within: float) -> bool:
    """Returns whether an HTTP probe succeeds, ``within`` so many seconds."""
    url = f"http://{_bracketed(endpoint.host)}:{endpoint.port}{path}"
    try:
        async with session.get(url, timeout=aiohttp.ClientTimeout(total=within)) as response:
            return response.status < 400
    except (aiohttp.ClientError, TimeoutError, OSError):
        return False


async def progress(session: aiohttp.ClientSession, url: str) -> Progress | None:
    """Returns what ``/progress`` says, or None while nobody answers."""
    body = await _read(session, f"{url}/progress")
    try:
        told = json.loads(body)
        return Progress(
            phase=str(told["phase"]),
            fraction=told.get("fraction"),
            bytes_done=int(told.get("bytesDone") or 0),
            bytes_total=int(told.get("bytesTotal") or 0),
            seconds=tuple((str(name), float(value)) for name, value in told.get("seconds", {}).items()),
            capabilities=tuple(told.get("capabilities") or ()),
            engine=engine_of(told),
        )
    except (ValueError, KeyError, TypeError):
        return None


async def generated_tokens(session: aiohttp.ClientSession, url: str) -> float:
    """Returns how many tokens a process has generated since its start; 0.0 while nobody answers."""
    return total(await text(session, f"{url}/metrics"), "modelyard_generation_tokens_total")


async def text(session: aiohttp.ClientSession, url: str) -> str:
    """Returns a page, empty while nobody answers."""
    return (await _read(session, url)).decode("utf-8", "replace")


def total(metrics: str, name: str, label: str = "") -> float:
    """Returns the sum of a metric's samples in Prometheus' text format, of those whose labels contain ``label``."""
    samples = (line for line in metrics.splitlines() if line.startswith((f"{name}{{", f"{name} ")) and label in line)
    return sum(float(line.rpartition(" ")[2]) for line in samples)


async def _read(session: aiohttp.ClientSession, url: str) -> bytes:
    try:
        async with session.get(url, timeout=_TIMEOUT) as response:
            return await response.read()
    except (aiohttp.ClientError, TimeoutError, OSError):
        return b""


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
