"""Texts and pairs of texts as the token ids that an encoder reads: whole, or cut where the request asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tokenizers import Encoding, Tokenizer
from transformers import AutoTokenizer

from modelyard_runtime.errors import UnsupportedModel, WeightsNotFound

#: A text, or two of them that are judged together.
Text = str | tuple[str, str]
Side = Literal["left", "right"]


@dataclass(frozen=True, slots=True)
class Encoded:
    """A text in token ids. ``types`` tells the texts of a pair apart, for models that look at it; ``skip`` first tokens are not pooled."""

    ids: list[int]
    types: list[int] | None = None
    skip: int = 0

    def __len__(self) -> int:
        return len(self.ids)


class TextTokenizer:
    """A folder's tokenizer. Used from any thread, several at once: nothing of it changes after it was made."""

    def __init__(self, folder: Path, *, lower: bool = False):
        """Reads the tokenizer; ``lower`` makes texts lower case first. Raises WeightsNotFound or UnsupportedModel."""
        try:
            tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except (ValueError, KeyError, OSError, TypeError) as error:
            raise WeightsNotFound(
                f"the tokenizer of {folder.name} cannot be read: {error}", "put tokenizer.json beside config.json"
            ) from error
        self._backend = _backend(tokenizer, folder)
        self._lower = lower
        self._typed = "token_type_ids" in tokenizer.model_input_names
        self._specials = frozenset(tokenizer.all_special_ids)
        self._prefix, self._suffix = around(self._backend)
        self.pad: int = tokenizer.pad_token_id or 0
        self.limit: int = tokenizer.model_max_length

    def encode(self, texts: Sequence[Text]) -> list[Encoded]:
        """Returns the token ids of each text, special tokens included, never cut."""
        if not texts:
            return []
        if len(texts) == 1:
            return [self._encoded(self._backend.encode(*_pair(self._cased(texts[0]))))]
        return [self._encoded(one) for one in self._backend.encode_batch_fast([self._cased(text) for text in texts])]

    def plain(self, text: str, add_special_tokens: bool) -> list[int]:
        """Returns the token ids of a text, with special tokens or without."""
        return list(self._backend.encode(*_pair(self._cased(text)), add_special_tokens=add_special_tokens).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of token ids, special ones by their names."""
        return str(self._backend.decode(list(ids), skip_special_tokens=False))

    def spell(self, ids: Sequence[int]) -> list[str]:
        """Returns each token as the vocabulary spells it; those that the model has and the tokenizer lacks are empty."""
        return [self._backend.id_to_token(token) or "" for token in ids]

    def cut(self, text: Text, limit: int, side: Side = "right") -> Encoded:
        """Returns a text in at most ``limit`` tokens, cut at that side; of a pair the longer text gives way first, as in Transformers."""
        first, second = (
            self._backend.encode(part, add_special_tokens=False) if part is not None else None for part in _pair(self._cased(text))
        )
        assert first is not None
        room = max(limit - self._backend.num_special_tokens_to_add(second is not None), 0)
        mine, other = _shares(len(first), 0 if second is None else len(second), room)
        first.truncate(mine, direction=side)
        if second is not None:
            second.truncate(other, direction=side)
        return self._encoded(self._backend.post_process(first, second))

    def beginning(self, text: str, tokens: int) -> str:
        """Returns the part of a text that its first ``tokens`` stand for, special ones not counted."""
        cased = text.lower() if self._lower else text
        offsets = self._backend.encode(cased, add_special_tokens=False).offsets
        return text if len(offsets) <= tokens else cased[: offsets[tokens - 1][1]]

    def complete(self, ids: list[int]) -> Encoded:
        """Returns a client's token ids with the model's special tokens around them, unless they are there."""
        start, end = len(self._prefix), len(self._suffix)
        if ids[:start] == self._prefix and (not end or ids[-end:] == self._suffix):
            return Encoded(ids)
        return Encoded([*self._prefix, *ids, *self._suffix])

    def cut_ids(self, ids: list[int], limit: int, side: Side = "right") -> Encoded:
        """Returns a client's token ids with special tokens around them, in at most ``limit`` tokens."""
        whole = self.complete(ids)
        over = len(whole) - limit
        if over <= 0:
            return whole
        bare = whole.ids[len(self._prefix) : len(whole) - len(self._suffix)]
        return Encoded([*self._prefix, *(bare[over:] if side == "left" else bare[:-over]), *self._suffix])

    def specials(self, pair: bool = False) -> int:
        """Returns how many special tokens a text or a pair gets."""
        return self._backend.num_special_tokens_to_add(pair)

    def leading(self, prompt: str) -> int:
        """Returns how many tokens the prompt alone takes at a text's beginning, as sentence-transformers counts them."""
        (encoded,) = self.encode([prompt])
        return len(encoded) - (encoded.ids[-1] in self._specials)

    def _cased(self, text: Text) -> Text:
        if not self._lower:
            return text
        return text.lower() if isinstance(text, str) else (text[0].lower(), text[1].lower())

    def _encoded(self, encoding: Encoding) -> Encoded:
        types = encoding.type_ids if self._typed else None
        return Encoded(encoding.ids, types if types and any(types) else None)


def skipping(encoded: Encoded, skip: int) -> Encoded:
    """Returns a text whose first tokens are not pooled; one token at least always is."""
    return replace(encoded, skip=min(skip, len(encoded) - 1))


def _pair(text: Text) -> tuple[str, str | None]:
    return (text, None) if isinstance(text, str) else text


def _shares(first: int, second: int, room: int) -> tuple[int, int]:
    """Returns how many tokens each text of a pair keeps: the shorter all of its own, unless both are longer than half of the room."""
    if first + second <= room:
        return first, second
    shorter = min(first, second, room // 2)
    return (shorter, room - shorter) if first <= second else (room - shorter, shorter)


def _backend(tokenizer: Any, folder: Path) -> Tokenizer:
    """Returns the library's tokenizer, a copy of ours that neither cuts nor pads. Raises UnsupportedModel."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UnsupportedModel(f"the tokenizer of {folder.name} has no tokenizer.json form", "choose a model with a tokenizer.json")
    own = Tokenizer.from_str(backend.to_str())
    own.no_truncation()
    own.no_padding()
    sample = "a Word, and another"
    if own.encode(sample).ids != tokenizer(sample)["input_ids"]:
        raise UnsupportedModel(f"the tokenizer of {folder.name} does more than its tokenizer.json says", "choose another model")
    return own


def around(backend: Tokenizer) -> tuple[list[int], list[int]]:
    """Returns the special tokens that the tokenizer puts before and after a text."""
    bare = backend.encode("a", add_special_tokens=False).ids
    full = backend.encode("a").ids
    start = next(index for index in range(len(full)) if full[index : index + len(bare)] == bare)
    return full[:start], full[start + len(bare) :]
