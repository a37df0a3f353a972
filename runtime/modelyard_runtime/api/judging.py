"""What the endpoints over texts share: how texts that are too long are cut, and the answer's head and usage."""

from __future__ import annotations

import time
import uuid
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from modelyard_runtime.api.fields import Body, Ignored, ModelName, invalid
from modelyard_runtime.serving.prompting import Truncation

#: Most inputs, pairs or documents of a request.
MAX_TEXTS = 2048
RequestText = Annotated[str, Field(min_length=1)]

_WORDS = {"NONE": None, "START": Truncation(side="left"), "END": Truncation()}


def _truncate(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    word = value.upper() if isinstance(value, str) else None
    if word not in _WORDS:
        raise invalid("expected true, false, 'NONE', 'START' or 'END'")
    return word


class TextsBody(Body):
    """Fields that every endpoint over texts has. Texts that are too long are refused, unless one of them says to cut them.

    ``truncate_prompt_tokens`` is vLLM's, -1 cutting to the model's own bound; ``truncate`` is that of Cohere (NONE, START, END, which
    name the side that is cut) and of text-embeddings-inference (true or false).
    """

    model: ModelName
    truncate_prompt_tokens: Annotated[int, Field(ge=-1, le=10_000_000)] | None = None
    truncation_side: Literal["left", "right"] | None = None
    truncate: Annotated[
        bool | str | None,
        BeforeValidator(_truncate),
        WithJsonSchema({"anyOf": [{"type": "boolean"}, {"enum": ["NONE", "START", "END"]}, {"type": "null"}]}),
    ] = None
    user: Ignored = None
    priority: Ignored = None

    @model_validator(mode="after")
    def _one_bound(self) -> Self:
        if self.truncate_prompt_tokens is not None and self.truncate is not None:
            raise invalid("alone, without truncate_prompt_tokens, is enough", "truncate")
        if self.truncate_prompt_tokens == 0:
            raise invalid("expected -1 or a number of tokens above 0", "truncate_prompt_tokens")
        return self

    @property
    def truncation(self) -> Truncation | None:
        """How texts that are too long are cut, None: not at all."""
        side = self.truncation_side or "right"
        if self.truncate_prompt_tokens is not None:
            return Truncation(None if self.truncate_prompt_tokens == -1 else self.truncate_prompt_tokens, side)
        if isinstance(self.truncate, str):
            return _WORDS[self.truncate]
        return Truncation(side=side) if self.truncate else None


class ScoringBody(TextsBody):
    """Fields of the endpoints that give scores. ``use_activation`` false asks for the model's own numbers instead of probabilities."""

    use_activation: bool | None = None

    @property
    def activated(self) -> bool:
        """Whether scores are made probabilities, where the model's are."""
        return self.use_activation is not False


def head(kind: str, model: str) -> dict[str, Any]:
    """Returns what answers begin with: an id of their own, the time and the model."""
    return {"id": f"{kind}-{uuid.uuid4().hex}", "object": "list", "created": int(time.time()), "model": model}


def usage(tokens: int, reported: bool) -> dict[str, Any]:
    """Returns the usage object; 0 where the server does not report usage, as clients want the fields to be there."""
    counted = tokens if reported else 0
    return {"prompt_tokens": counted, "total_tokens": counted, "completion_tokens": 0}
