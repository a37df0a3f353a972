"""How many files and connections a server may have open."""

from __future__ import annotations

import contextlib

try:
    import resource
except ImportError:  # Windows has no such bound
    resource = None  # type: ignore[assignment]


def take_all() -> None:
    """Raises the soft bound, 1,024 by custom for the sake of `select`, to the hard one: each client takes a file."""
    if resource is not None:
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        with contextlib.suppress(ValueError, OSError):  # macOS says "unlimited" and does not mean it
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def most() -> int | None:
    """Returns how many files and connections this process may have open, None where that is not bounded."""
    if resource is None:
        return None
    bound, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if bound == resource.RLIM_INFINITY else bound
