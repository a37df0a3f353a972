"""What control groups leave to this process, of version 1 and of version 2: the limits of the container that it runs in.

Inside a container the mounted tree begins at its own group or above it, so that the group is looked for by the name that the kernel tells,
and else at the top. Every group above can bound it too: https://docs.kernel.org/admin-guide/cgroup-v2.html, .../cgroup-v1/memory.html.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_MOUNT = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


class Memory(NamedTuple):
    """Bytes: the least limit, and what can be taken until the first limit is reached; page cache that can be given up counts as free."""

    limit: int
    free: int


def memory(mount: Path = _MOUNT, own: Path = _OWN) -> Memory | None:
    """Returns the bounds of memory, None where there are none."""
    found = [bound for folder in _folders("memory", mount, own) if (bound := _memory(folder)) is not None]
    return Memory(min(bound.limit for bound in found), min(bound.free for bound in found)) if found else None


def cores(mount: Path = _MOUNT, own: Path = _OWN) -> float | None:
    """Returns how many cores' time may be used, None where it is not bounded."""
    found = [quota for folder in _folders("cpu", mount, own) if (quota := _quota(folder)) is not None]
    return min(found, default=None)


def _folders(controller: str, mount: Path, own: Path) -> Iterator[Path]:
    """Yields the group of this process and those above it: of the controller's own tree (version 1), and of the one tree (version 2)."""
    for line in _text(own).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = mount / controller if controllers else mount
        group = top / path.lstrip("/")
        yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(top) and folder.is_dir())


def _memory(folder: Path) -> Memory | None:
    new = (folder / "memory.max").exists()
    limit = _number(folder / ("memory.max" if new else "memory.limit_in_bytes"))
    used = _number(folder / ("memory.current" if new else "memory.usage_in_bytes"))
    if limit is None or used is None:
        return None
    fields = dict(line.split() for line in _text(folder / "memory.stat").splitlines() if line.count(" ") == 1)
    reclaimable = int(fields.get("inactive_file" if new else "total_inactive_file", 0))
    return Memory(limit, max(0, limit - used + reclaimable))


def _quota(folder: Path) -> float | None:
    old = " ".join(_text(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    quota, period, *_ = (_text(folder / "cpu.max") or old).split() or ("max", "")
    return int(quota) / int(period) if quota.isdigit() else None


def _number(file: Path) -> int | None:
    text = _text(file).strip()
    return int(text) if text.isdigit() else None


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
