"""A chat or completion model: text around the engine."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any

from modelyard_runtime.engine.base import Engine, FinishReason, GenerationRequest, TokenEvent
from modelyard_runtime.models.answer import Part
from modelyard_runtime.models.answer_reader import AnswerReader
from modelyard_runtime.models.reader import PromptReader
from modelyard_runtime.models.text import Detokeniser, StopStrings, TextDelta, TextToken
from modelyard_runtime.models.tokens import TokenBytes


class ChatModel:
    """An engine with its tokenizer. Close it at the end: its reader has ``readers`` threads and a process."""

    def __init__(self, engine: Engine, tokenizer: Any, readers: int = 2):
        self.engine = engine
        self.reader = PromptReader(tokenizer, readers)
        self.token_bytes = TokenBytes(tokenizer)
        self._tokenizer = tokenizer

    def decode(self, tokens: Sequence[int]) -> str:
        """Returns the text of tokens, special ones left out."""
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    async def generate(
        self,
        request: GenerationRequest,
        stop: Sequence[str] = (),
        visible: frozenset[int] = frozenset(),
        reader: AnswerReader | None = None,
    ) -> AsyncGenerator[TextDelta, None]:
        """Generates text after a prompt. Close the generator to cancel (`contextlib.aclosing`).

        ``stop`` strings end the text wherever they are in it. ``visible`` are special tokens whose names are part of the text, for the
        ``reader``, which takes it as it comes and says when it may end. Raises RequestTooLarge before the first delta, and EngineFailed.
        """
        stream = self.engine.submit(request)
        text = _TextStream(Detokeniser(self._tokenizer, visible), stop, reader)
        try:
            async for event in stream:
                delta = text.push(event)
                if delta is not None:
                    yield delta
                if text.ended:
                    return
        finally:
            await stream.aclose()

    def close(self) -> None:
        """Ends the reader's threads and process."""
        self.reader.close()


class _TextStream:
    """Tokens to deltas of one request."""

    def __init__(self, detokeniser: Detokeniser, stop: Sequence[str], reader: AnswerReader | None):
        self.ended = False
        self._reader = reader
        self._detokeniser = detokeniser
        self._stops = StopStrings(stop)
        self._events: list[TokenEvent] = []
        self._tokens: list[TextToken] = []
        self._count = 0
        self._said = 0
        self._given = 0

    def push(self, event: TokenEvent) -> TextDelta | None:
        """Returns the delta that a token completes, if any; always one for the last token."""
        self._count += event.token_id is not None
        self._events.append(event)
        text, met = self._stops.push(self._text(event))
        reason = FinishReason.STOP if met else event.finish_reason
        if reason is not None and not met:
            text += self._stops.flush()
        parts, reason = self._read(text, reason)
        if not text and reason is None:
            return None
        self.ended = reason is not None
        self._given += len(text)
        events, self._events = tuple(self._events), []
        return TextDelta(text, events, self._count, reason, self._begun(whole=self.ended and not met), parts)

    def _read(self, text: str, reason: FinishReason | None) -> tuple[tuple[Part, ...], FinishReason | None]:
        """Returns what text became, and why it ends, which may be that the reader has all of it."""
        if self._reader is None:
            return (), reason
        parts = self._reader.push(text) if text else []
        reason = FinishReason.STOP if self._reader.over else reason
        if reason is not None:
            parts += self._reader.finish()
        return tuple(parts), FinishReason.STOP if self._reader.stopped else reason

    def _text(self, event: TokenEvent) -> str:
        """An end-of-sequence token has no text; the last token also brings out what was incomplete."""
        if event.token_id is None or event.ends_text:
            text = self._detokeniser.flush()
        else:
            self._tokens.append(TextToken(self._said, event))
            text = self._detokeniser.push(event.token_id) if event.text is None else event.text
            text += "" if event.finish_reason is None else self._detokeniser.flush()
        self._said += len(text)
        return text

    def _begun(self, *, whole: bool) -> tuple[TextToken, ...]:
        """Takes out the tokens whose text has begun to go out; all of them where it went out ``whole``."""
        reader = self._reader
        given = self._given - (reader.withheld if reader is not None else 0)
        whole &= reader is None or not reader.stopped
        count = len(self._tokens) if whole else sum(token.offset < given for token in self._tokens)
        begun, self._tokens = tuple(self._tokens[:count]), self._tokens[count:]
        return begun
