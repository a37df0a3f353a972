"""From what a request holds to token ids within the model's bounds."""

from __future__ import annotations

from collections.abc import Sequence

from modelyard.api.errors import InvalidRequest

from modelyard_runtime.models.tokenizing import Encoded, Text, TextTokenizer
from modelyard_runtime.panics import reading
from modelyard_runtime.serving.limiter import CHARACTERS_PER_TOKEN
from modelyard_runtime.serving.prompting import Truncation
from modelyard_runtime.serving.workers import Workers

# Below this many characters texts are tokenised on the event loop: it takes less than a thread's round trip.
_SHORT = 4096


class Reader:
    """Reads texts, pairs and token ids, on threads of ``workers`` where they are long. Used from one event loop."""

    def __init__(self, tokenizer: TextTokenizer, workers: Workers, *, vocabulary: int, max_length: int):
        self._tokenizer = tokenizer
        self._workers = workers
        self._vocabulary = vocabulary
        self.max_length = max_length

    async def read(self, inputs: Sequence[Text | list[int]], *, param: str, truncation: Truncation | None = None) -> list[Encoded]:
        """Returns each input in token ids. Raises InvalidRequest, naming ``param``, on those that are too long or no ids of the model."""
        limit = self._limit(truncation)
        texts = [self._bounded(index, text, param, truncation) for index, text in enumerate(inputs) if not isinstance(text, list)]
        encoded = iter(await self._encode(texts, limit, truncation, param))
        read = [
            self._ids(index, one, param, truncation, limit) if isinstance(one, list) else next(encoded) for index, one in enumerate(inputs)
        ]
        for index, text in enumerate(read):
            if len(text) > limit:
                raise self._too_long(index, str(len(text)), param)
        return read

    async def beginnings(self, texts: Sequence[str], tokens: int, *, param: str) -> list[str]:
        """Returns the first ``tokens`` of each text. Raises InvalidRequest, naming ``param``, when the tokenizer gives up on one."""

        def cut() -> list[str]:
            with reading(param):
                return [self._tokenizer.beginning(text[: tokens * CHARACTERS_PER_TOKEN], tokens) for text in texts]

        return await self._workers.run(cut)

    def _limit(self, truncation: Truncation | None) -> int:
        if truncation is None or truncation.limit is None:
            return self.max_length
        least = self._tokenizer.specials(pair=True) + 2
        if not least <= truncation.limit <= self.max_length:
            raise InvalidRequest(
                f"This model's inputs are cut to {least} … {self.max_length} tokens, got {truncation.limit}. -1 cuts to its maximum.",
                param="truncate_prompt_tokens",
                code="invalid_value",
            )
        return truncation.limit

    def _bounded(self, index: int, text: Text, param: str, truncation: Truncation | None) -> Text:
        """Returns a text that can be tokenised in time: that takes a second for each MB, so what cannot fit goes by its characters."""
        bound = self.max_length * CHARACTERS_PER_TOKEN
        characters = len(text) if isinstance(text, str) else len(text[0]) + len(text[1])
        if characters <= bound:
            return text
        if truncation is None:
            raise self._too_long(index, f"{characters} characters", param)
        part = slice(-bound, None) if truncation.side == "left" else slice(bound)
        return text[part] if isinstance(text, str) else (text[0][part], text[1][part])

    async def _encode(self, texts: list[Text], limit: int, truncation: Truncation | None, param: str) -> list[Encoded]:
        size = sum(len(text) if isinstance(text, str) else len(text[0]) + len(text[1]) for text in texts)

        def encode() -> list[Encoded]:
            with reading(param):
                encoded = self._tokenizer.encode(texts)
                if truncation is None:
                    return encoded
                return [
                    one if len(one) <= limit else self._tokenizer.cut(text, limit, truncation.side)
                    for text, one in zip(texts, encoded, strict=True)
                ]

        return encode() if size < _SHORT else await self._workers.run(encode)

    def _ids(self, index: int, ids: list[int], param: str, truncation: Truncation | None, limit: int) -> Encoded:
        if max(ids) >= self._vocabulary:
            raise InvalidRequest(
                f"Token ids of this model are below {self._vocabulary}, and input {index} has {max(ids)}. Send text.",
                param=param,
                code="invalid_value",
            )
        return self._tokenizer.complete(ids) if truncation is None else self._tokenizer.cut_ids(ids, limit, truncation.side)

    def _too_long(self, index: int, size: str, param: str) -> InvalidRequest:
        what = "the query with document" if param == "documents" else "pair" if param == "text_2" else "input"
        return InvalidRequest(
            f"This model's maximum input length is {self.max_length} tokens, and {what} {index} has {size}. "
            "Shorten it, or let it be cut by truncate_prompt_tokens: -1.",
            param=param,
            code="context_length_exceeded",
        )
