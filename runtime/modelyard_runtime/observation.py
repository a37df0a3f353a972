"""What becomes known of a request while it is served, for its log line, its metrics and its span.

The outermost frame makes one and logs it; whoever learns something notes it. It is the same object in every task of the request.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass(slots=True)
class Observation:
    """``capability`` is what the model is asked for, ``first_token`` the seconds until the first token came, None before."""

    model: str = ""
    capability: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    first_token: float | None = None
    finish_reasons: set[str] = field(default_factory=set)


#: The observation of the request that the current task serves; one that nobody reads outside of requests.
current: ContextVar[Observation] = ContextVar("observation")


def observed() -> Observation:
    """Returns the observation of the current request."""
    return current.get(None) or Observation()
