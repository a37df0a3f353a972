"""A conversation as a chat template takes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import orjson


class Ending(Enum):
    """How a rendered conversation ends: with the cue for an answer, inside its last message, or after it."""

    CUE = "cue"
    CONTINUE = "continue"
    COMPLETE = "complete"


@dataclass(frozen=True, slots=True)
class Picture:
    """An image of a message, by URL; ``param`` names its place in the request."""

    url: str
    param: str


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """What a template renders. ``variables`` are what templates call by other names, such as ``enable_thinking``."""

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)
    ending: Ending = Ending.CUE

    @property
    def characters(self) -> int:
        """Characters of everything that clients wrote."""
        return len(orjson.dumps([self.messages, self.tools, dict(self.variables)]))
