"""What a request says about the prompt that goes before its texts, and about cutting them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["query", "document"]


@dataclass(frozen=True, slots=True)
class Prompting:
    """What is put before each text: a text of the client's own, a prompt of the model by name, or the model's for a kind of input.

    Nothing set: the model's default prompt, where it has one.
    """

    text: str | None = None
    name: str | None = None
    kind: Kind | None = None


NO_PROMPTING = Prompting()


@dataclass(frozen=True, slots=True)
class Truncation:
    """Texts are cut at ``side`` to ``limit`` tokens, None: to the model's own bound, instead of being refused."""

    limit: int | None = None
    side: Literal["left", "right"] = "right"
