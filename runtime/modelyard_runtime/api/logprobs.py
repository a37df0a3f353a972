"""Log probabilities in OpenAI's two shapes: the chat's entries, and the completions' parallel lists."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from modelyard_runtime.engine.base import TokenLogprob
from modelyard_runtime.models.text import TextToken
from modelyard_runtime.models.tokens import shown

#: Stands for what is less likely than numbers can say: JSON has no infinity. It is OpenAI's number.
_LEAST = -9999.0


class Spelling(Protocol):
    """What tokens are in bytes."""

    def of(self, token: int) -> bytes:
        """Returns a token's bytes."""
        ...


def chat_entries(tokens: Iterable[TextToken], spelling: Spelling) -> list[dict[str, Any]]:
    """Returns the entries of a chat choice's ``logprobs.content``."""
    return [
        _entry(spelling, token.event.token_id, token.event.logprob)
        | {"top_logprobs": [_entry(spelling, *best) for best in token.event.top_logprobs]}
        for token in tokens
    ]


def _entry(spelling: Spelling, token: int | None, logprob: float | None) -> dict[str, Any]:
    data = b"" if token is None else spelling.of(token)
    return {"token": shown(data), "logprob": _finite(logprob), "bytes": list(data)}


def _finite(logprob: float | None) -> float:
    return _LEAST if logprob is None else max(logprob, _LEAST)


@dataclass(slots=True)
class TokenLists:
    """A completion's ``logprobs``: parallel lists. Offsets are characters into the choice's text; a first token has no probability."""

    tokens: list[str] = field(default_factory=list)
    token_logprobs: list[float | None] = field(default_factory=list)
    top_logprobs: list[dict[str, float] | None] = field(default_factory=list)
    text_offset: list[int] = field(default_factory=list)

    def add(self, tokens: Iterable[TextToken], spelling: Spelling, start: int) -> None:
        """Adds tokens of an answer that begins ``start`` characters into the text."""
        for token in tokens:
            event = token.event
            assert event.token_id is not None
            self._add(_name(spelling, event.token_id), start + token.offset, event.logprob, event.top_logprobs, spelling)

    def add_prompt(self, tokens: Sequence[int], scored: Sequence[TokenLogprob], text: str, spelling: Spelling) -> None:
        """Adds a prompt's tokens; ``scored`` are all but the first."""
        offsets = text_offsets([spelling.of(token) for token in tokens], text)
        self.tokens.append(_name(spelling, tokens[0]))
        self.token_logprobs.append(None)
        self.top_logprobs.append(None)
        self.text_offset.append(offsets[0])
        for offset, entry in zip(offsets[1:], scored, strict=True):
            self._add(_name(spelling, entry.token_id), offset, entry.logprob, entry.top_logprobs, spelling)

    def to_dict(self) -> dict[str, Any]:
        """Returns OpenAI's object."""
        return asdict(self)

    def _add(self, name: str, offset: int, logprob: float | None, best: Iterable[tuple[int, float]], spelling: Spelling) -> None:
        self.tokens.append(name)
        self.token_logprobs.append(_finite(logprob))
        self.top_logprobs.append({_name(spelling, token): _finite(value) for token, value in best} | {name: _finite(logprob)})
        self.text_offset.append(offset)


def text_offsets(pieces: Sequence[bytes], text: str) -> list[int]:
    """Returns where each token begins in a text. Tokens that are not in it, as one that begins every prompt, take no room.

    Works on UTF-8 bytes, for tokens may be parts of characters; such a token begins where its character does.
    """
    data, position = text.encode(), 0
    starts = []
    for piece in pieces:
        starts.append(position)
        # A tokenizer may put a space before a text's first word.
        found = next((form for form in (piece, piece.removeprefix(b" ")) if data.startswith(form, position)), b"")
        position += len(found)
    return _characters(data, starts)


def _characters(data: bytes, positions: Sequence[int]) -> list[int]:
    """Returns, for rising byte positions, the characters that begin before each of them; one inside a character counts as its start."""
    counts, characters, done = [], 0, 0
    for position in positions:
        start = next((at for at in range(position, 0, -1) if at == len(data) or data[at] & 0xC0 != 0x80), 0)
        if start > done:
            characters += len(data[done:start].decode())
            done = start
        counts.append(characters)
    return counts


def _name(spelling: Spelling, token: int) -> str:
    """Returns a token as completions show it: parts of characters begin with ``bytes:``."""
    data = spelling.of(token)
    name = shown(data)
    return name if name.encode() == data else f"bytes:{name}"
