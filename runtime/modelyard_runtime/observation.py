"""What becomes known of a request while it is served, for its log line, its metrics and its span.

The outermost frame makes one and hands it on at the end; whoever learns something notes it. It is the same object in every task of the
request.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Observation:
    """``capability`` is what the model is asked for, ``first_token`` the seconds until the first token came, None before."""

    request_id: str = ""
    model: str = ""
    capability: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    first_token: float | None = None
    finish_reasons: set[str] = field(default_factory=set)

    def fields(self) -> dict[str, Any]:
        """Returns what the log line of a request says besides how it was answered."""
        if not self.model:
            return {}
        line: dict[str, Any] = {"model": self.model, "capability": self.capability, "promptTokens": self.prompt_tokens}
        if self.first_token is not None:
            line |= {"completionTokens": self.completion_tokens, "firstTokenSeconds": round(self.first_token, 4)}
        return line


@dataclass(frozen=True, slots=True)
class Ended:
    """A request that has ended. ``scope`` is ASGI's, ``began`` nanoseconds since 1970; 499 is a client that left."""

    scope: MutableMapping[str, Any]
    status: int
    began: int
    seconds: float
    observation: Observation

    @property
    def route(self) -> str:
        """The path of the route that served it, with its parameters as names; empty where none did."""
        return str(getattr(self.scope.get("route"), "path", ""))

    def header(self, name: bytes) -> str:
        """Returns a header of the request, empty when there is none."""
        return next((value.decode("latin-1") for key, value in self.scope["headers"] if key == name), "")


#: The observation of the request that the current task serves.
current: ContextVar[Observation] = ContextVar("observation")


def observed() -> Observation:
    """Returns the observation of the current request; outside of requests one that nobody reads."""
    return current.get(None) or Observation()
