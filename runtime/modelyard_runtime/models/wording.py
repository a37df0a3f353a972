"""Between tokens and text for what takes and gives text: prompts back to their text, and answers cut into tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from modelyard_runtime.models.tokenizing import around

_REPLACEMENT = "\ufffd"


class Wording:
    """A tokenizer that has a tokenizer.json form. Used from one thread."""

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self._before, self._after = around(tokenizer.backend_tokenizer)
        self._added = frozenset(tokenizer.added_tokens_decoder)

    def tokens(self, text: str) -> list[int]:
        """Returns the tokens of a text alone."""
        return list(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def text(self, tokens: Sequence[int]) -> str | None:
        """Returns a prompt's text, control tokens by their names, without the special tokens that the tokenizer puts around any text.

        None when whoever reads that text would see other control tokens than the prompt has (where a client spelled one, which was kept
        apart), or when the tokens are no text at all.
        """
        bare = self._bare(list(tokens))
        text = str(self._tokenizer.decode(bare, skip_special_tokens=False, clean_up_tokenization_spaces=False))
        again = self.tokens(text)
        same = again == bare or (_REPLACEMENT not in text and self._controls(again) == self._controls(bare))
        return text if same else None

    def pieces(self, text: str) -> list[tuple[int, str]]:
        """Returns a text's tokens with what each adds to it: together they are the text, whatever the tokenizer makes of it."""
        encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        pieces, at = [], 0
        for token, (_, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
            pieces.append((token, text[at:end]))
            at = max(at, end)
        if pieces:
            token, last = pieces[-1]
            pieces[-1] = (token, last + text[at:])
        return pieces

    def _bare(self, tokens: list[int]) -> list[int]:
        start, end = len(self._before), len(self._after)
        if tokens[:start] == self._before:
            tokens = tokens[start:]
        return tokens[:-end] if end and tokens[-end:] == self._after else tokens

    def _controls(self, tokens: Sequence[int]) -> list[int]:
        return [token for token in tokens if token in self._added]
