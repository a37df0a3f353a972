"""Times as Kubernetes' objects have them: RFC 3339, in UTC, to the second."""

from datetime import UTC, datetime


def rfc3339(seconds: float) -> str:
    """Returns a time in seconds since the epoch as 2026-11-21T08:00:00Z."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds_of(timestamp: str | None) -> float | None:
    """Returns an RFC 3339 time in seconds since the epoch; None of none."""
    return datetime.fromisoformat(timestamp).timestamp() if timestamp else None
