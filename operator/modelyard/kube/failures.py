"""How calls to the API server fail.

ApiFailure          it answered with an error: status, reason and message as in its Status object
└── Unreachable     no answer: refused, broken off or too slow (status 0)
"""

from collections.abc import Mapping
from typing import Any

import orjson


class ApiFailure(Exception):
    """The API server refused a request. ``retry_after`` is in seconds, where it asked for patience."""

    def __init__(self, status: int, reason: str, message: str, *, retry_after: float | None = None):
        super().__init__(f"{reason} ({status}): {message}" if status else message)
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after

    @property
    def not_found(self) -> bool:
        """Whether the object does not exist."""
        return self.status == 404

    @property
    def conflict(self) -> bool:
        """Whether somebody else changed or created the object first."""
        return self.status == 409

    @property
    def gone(self) -> bool:
        """Whether the resource version or the list's continuation is too old: list again."""
        return self.status == 410

    @property
    def invalid(self) -> bool:
        """Whether the object itself was refused, so that trying again does not help."""
        return self.status in (400, 422)


class Unreachable(ApiFailure):
    """No answer came from the API server."""

    def __init__(self, server: str, problem: BaseException):
        cause = str(problem) or type(problem).__name__
        super().__init__(0, "Unreachable", f"no answer from the API server at {server}: {cause}")


def failure_of(status: int, headers: Mapping[str, str], content: bytes) -> ApiFailure:
    """Reads the Status object of an error answer, or what else is there (a proxy's HTML, say)."""
    try:
        raw: Any = orjson.loads(content)
    except orjson.JSONDecodeError:
        raw = None
    told = raw if isinstance(raw, dict) else {"message": content[:200].decode(errors="replace").strip()}
    return ApiFailure(
        status,
        told.get("reason") or f"HTTP{status}",
        told.get("message") or "no message",
        retry_after=_seconds(headers.get("retry-after")),
    )


def _seconds(text: str | None) -> float | None:
    try:
        return None if text is None else max(0.0, float(text))
    except ValueError:  # an HTTP date, which the API server never sends
        return 1.0
