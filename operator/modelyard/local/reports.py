"""What a runtime says of itself: probes, the progress of its start, its counters."""

import aiohttp

from modelyard.api.names import authority
from modelyard.api.progress import Progress
from modelyard.gateway.types import Endpoint

_TIMEOUT = aiohttp.ClientTimeout(total=2.0)


async def answers(session: aiohttp.ClientSession, endpoint: Endpoint, path: str, within: float) -> bool:
    """Returns whether an HTTP probe succeeds, ``within`` so many seconds."""
    url = f"http://{authority(*endpoint)}{path}"
    try:
        async with session.get(url, timeout=aiohttp.ClientTimeout(total=within)) as response:
            return response.status < 400
    except (aiohttp.ClientError, TimeoutError, OSError):
        return False


async def progress(session: aiohttp.ClientSession, url: str) -> Progress | None:
    """Returns what ``/progress`` says, or None while nobody answers."""
    try:
        return Progress.parse(await _read(session, f"{url}/progress"))
    except ValueError:
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
