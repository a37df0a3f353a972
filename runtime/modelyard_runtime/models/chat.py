"""A chat or completion model: templates and text around the engine."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
from modelyard.api.errors import InvalidRequest

from modelyard_runtime.engine.base import Engine, FinishReason, GenerationRequest, SamplingParams, TokenEvent
from modelyard_runtime.models.text import Detokeniser, StopStrings

Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class TextDelta:
    """Text that became certain, and the tokens since the last delta. ``completion_tokens`` counts all so far, the end of sequence too.

    ``finish_reason`` is set on the last delta. ``events`` carry log probabilities when they were asked for.
    """

    text: str
    events: tuple[TokenEvent, ...]
    completion_tokens: int
    finish_reason: FinishReason | None = None

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Ids of the tokens since the last delta."""
        return tuple(event.token_id for event in self.events if event.token_id is not None)


class ChatModel:
    """An engine with its tokenizer."""

    def __init__(self, engine: Engine, tokenizer: Any):
        self.engine = engine
        self._tokenizer = tokenizer

    @property
    def has_template(self) -> bool:
        """Whether the model has a chat template; without one it serves completions alone."""
        return bool(self._tokenizer.chat_template)

    async def encode_chat(self, messages: Sequence[Message]) -> list[int]:
        """Returns the tokens of a conversation and the cue for the answer. Raises InvalidRequest when the template refuses it."""
        return await asyncio.to_thread(self._encode_chat, messages)

    async def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Returns the tokens of plain text."""
        return await asyncio.to_thread(self._encode, text, add_special_tokens)

    def decode(self, tokens: Sequence[int]) -> str:
        """Returns the text of tokens, special ones left out."""
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    async def generate(
        self, request_id: str, prompt: list[int], sampling: SamplingParams, stop: Sequence[str] = ()
    ) -> AsyncGenerator[TextDelta, None]:
        """Generates text after a prompt. Close the generator to cancel (`contextlib.aclosing`).

        Raises RequestTooLarge before the first delta, and EngineFailed.
        """
        stream = self.engine.submit(GenerationRequest(request_id, prompt, sampling))
        text = _TextStream(self._tokenizer, stop)
        try:
            async for event in stream:
                delta = text.push(event)
                if delta is not None:
                    yield delta
                if text.ended:
                    return
        finally:
            await stream.aclose()

    def _encode_chat(self, messages: Sequence[Message]) -> list[int]:
        if not self.has_template:
            raise InvalidRequest("this model has no chat template: use /v1/completions", param="messages")
        try:
            ids = self._tokenizer.apply_chat_template(
                [dict(message) for message in messages], add_generation_prompt=True, tokenize=True, return_dict=False
            )
        except (jinja2.TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
            raise InvalidRequest(f"the model's chat template refuses these messages: {error}", param="messages") from error
        return list(ids)

    def _encode(self, text: str, add_special_tokens: bool) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=add_special_tokens, verbose=False)["input_ids"])


class _TextStream:
    """Tokens to deltas of one request."""

    def __init__(self, tokenizer: Any, stop: Sequence[str]):
        self.ended = False
        self._detokeniser = Detokeniser(tokenizer)
        self._stops = StopStrings(stop)
        self._pending: list[TokenEvent] = []
        self._count = 0

    def push(self, event: TokenEvent) -> TextDelta | None:
        """Returns the delta that a token completes, if any; always one for the last token."""
        self._count += event.token_id is not None
        self._pending.append(event)
        text, met = self._stops.push(self._text(event))
        reason = FinishReason.STOP if met else event.finish_reason
        if reason is not None and not met:
            text += self._stops.flush()
        if not text and reason is None:
            return None
        self.ended = reason is not None
        events, self._pending = tuple(self._pending), []
        return TextDelta(text, events, self._count, reason)

    def _text(self, event: TokenEvent) -> str:
        """An end-of-sequence token has no text; the last token also brings out what was incomplete."""
        if event.token_id is None or event.ends_text:
            return self._detokeniser.flush()
        text = self._detokeniser.push(event.token_id)
        return text if event.finish_reason is None else text + self._detokeniser.flush()
