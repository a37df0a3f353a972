"""Between text and token ids, for those who want to see or count tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from modelyard_runtime.models.reader import PromptReader
from modelyard_runtime.models.tokenizing import TextTokenizer
from modelyard_runtime.panics import reading
from modelyard_runtime.serving.bounds import Bounds
from modelyard_runtime.serving.limiter import Limiter
from modelyard_runtime.serving.workers import Workers


class Codec(Protocol):
    """A model's tokenizer as the endpoints use it. Every method raises InvalidRequest on what is too long, or no id of the model."""

    async def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Returns the ids of a text."""
        ...

    async def decode(self, tokens: Sequence[int]) -> str:
        """Returns the text of ids, special tokens by their names."""
        ...

    async def spell(self, tokens: Sequence[int]) -> list[str]:
        """Returns each id's token as the vocabulary spells it."""
        ...


class PromptCodec:
    """A decoder's, on the threads that read its prompts."""

    def __init__(self, reader: PromptReader, bounds: Bounds, reading: Limiter):
        self._reader = reader
        self._bounds = bounds
        self._reading = reading

    async def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Returns the ids of a text."""
        self._bounds.check_characters(len(text), "prompt")
        async with self._reading.slot():
            return await self._reader.text(text, add_special_tokens=add_special_tokens)

    async def decode(self, tokens: Sequence[int]) -> str:
        """Returns the text of ids."""
        self._bounds.check_tokens(tokens, "tokens", "Send ids of this model.")
        async with self._reading.slot():
            return await self._reader.decode(tokens)

    async def spell(self, tokens: Sequence[int]) -> list[str]:
        """Returns each id's token."""
        self._bounds.check_tokens(tokens, "tokens", "Send ids of this model.")
        async with self._reading.slot():
            return await self._reader.spell(tokens)


class TextCodec:
    """An encoder's, on the threads that read its texts."""

    def __init__(self, tokenizer: TextTokenizer, bounds: Bounds, workers: Workers):
        self._tokenizer = tokenizer
        self._bounds = bounds
        self._workers = workers

    async def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Returns the ids of a text."""
        self._bounds.check_characters(len(text), "prompt")

        def encode() -> list[int]:
            with reading("prompt"):
                return self._tokenizer.plain(text, add_special_tokens)

        return await self._workers.run(encode)

    async def decode(self, tokens: Sequence[int]) -> str:
        """Returns the text of ids."""
        self._bounds.check_tokens(tokens, "tokens", "Send ids of this model.")
        return await self._workers.run(lambda: self._tokenizer.decode(tokens))

    async def spell(self, tokens: Sequence[int]) -> list[str]:
        """Returns each id's token."""
        self._bounds.check_tokens(tokens, "tokens", "Send ids of this model.")
        return await self._workers.run(lambda: self._tokenizer.spell(tokens))
