"""Whether the kernel has killed a process for lack of memory: a container's OOMKilled, without a container."""

from pathlib import Path

_COUNTERS = Path("/proc/vmstat")
_KILLED = 128 + 9


class OomWatch:
    """Remembers the kernel's count of such kills from before a process starts. Without that count (not Linux) none is known of."""

    def __init__(self) -> None:
        self._before = _kills()

    def struck(self, exit_code: int) -> bool:
        """Returns whether a process that ended with this code was probably one of them."""
        return exit_code == _KILLED and _kills() > self._before


def _kills() -> int:
    if not _COUNTERS.exists():
        return 0
    return next((int(line.split()[1]) for line in _COUNTERS.read_text().splitlines() if line.startswith("oom_kill ")), 0)
